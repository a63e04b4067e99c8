"""Engines: a server spec becomes a command line, a process tree, a ready server with facts, and leaves nothing behind.

- `argv`: spec to command line (pure). `interpreter`: which engine stands behind a command.
- `lifecycle`: `start_engine`, `attach`. `engine`: the running `Engine`.
- `process`, `guard`, `logsink`: its process tree and output.
- `logs`, `lines`, `facts`: what the engine says.
- `classify`, `causes`: why it failed. `expectations`: whether it is what was asked for.
- `probe`, `scrape`: its HTTP.
"""
