"""Engines: a server spec becomes a process tree, a ready server with facts, and leaves nothing
behind. What engine it is, its dialect says.

- `interpreter`: which engine stands behind a command, and what it takes.
- `lifecycle`: `start_engine`, `attach`.
- `engine`: the running `Engine`, and whether it is what was asked for.
- `process`, `guard`, `log_sink`: its process tree and output.
- `diagnosis`: why it failed.
- `http_probe`, `idleness`: its HTTP, and whether it is idle or hangs.
- `against`: the second engine of a comparison.
"""
