"""vLLM 0.25 and 0.26 read MiniMax-M3's top-k buffer in the wrong layout on every GPU but
Blackwell's (vLLM issue 48603).

A host that cannot have a newer vLLM measures the shrunken model with the buffer transposed where
the Triton kernels write and read it, which is what vLLM's pull request 49149 came to. The engine's
files are changed where they lie, once, and the results say so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_MARK = "  # gpubench: vLLM issue 48603"
_PLACES = {
    "common/indexer.py": (
        "        buf = self.topk_indices_buffer\n",
        "        buf = buf if buf is None else buf.transpose(0, 1)",
    ),
    "common/sparse_attention.py": (
        "        assert topk is not None\n",
        "        topk = topk.transpose(0, 1)",
    ),
}


def apply() -> list[str]:
    """Change the installed vLLM; the files changed, now or before.

    Raises:
        LookupError: if a place is not what vLLM 0.26.0 has there.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise LookupError("no vLLM beside this interpreter")
    folder = Path(spec.origin).parent / "models" / "minimax_m3"
    for name, (before, added) in _PLACES.items():
        text = (folder / name).read_text("utf-8")
        if _MARK in text:
            continue
        if text.count(before) != 1:
            raise LookupError(f"{folder / name} has not the line that 0.26.0 has: {before.strip()}")
        (folder / name).write_text(text.replace(before, f"{before}{added}{_MARK}\n"), "utf-8")
    return list(_PLACES)
