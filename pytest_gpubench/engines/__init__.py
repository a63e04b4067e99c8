"""Engines: a server spec becomes a command line, a process tree, a ready server with facts, and
leaves nothing behind.

- `argv`: spec to command line (pure). `interpreter`: which engine stands behind a command.
- `lifecycle`: `start_engine`, `attach`. `engine`: the running `Engine`.
- `process`, `guard`, `log_sink`: its process tree and output.
- `log_lines`, `log_facts`, `engine_facts`: what the engine says.
- `diagnosis`, `causes`: why it failed. `expectations`: whether it is what was asked for.
- `http_probe`, `metrics_page`: its HTTP, and whether it is idle or hangs.
"""
