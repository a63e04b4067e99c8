"""Engines as dialects: what vLLM, SGLang, llama.cpp and others must say of themselves.

`dialect` is the protocol, `registry` finds an engine by its word in ``framework:``. Each engine has
a folder of its own, whose parts have the same names; no other room knows an engine's words, but the
exports that carry its name. What is shared by their parts: `command_line`, `server_flags`,
`engine_facts`, `engine_log`, `shared_causes`, `counters`, `metrics_page`.
"""
