"""The trained tiny Llama made heavy: its MLPs widened by zeros. It says the same words at the cost
of a larger model.

On a CPU the tiny pair spends its time outside the model, so that neither threads nor a draft would
matter.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pytest_gpubench.demo.models import TARGET_SHAPE, write_trained_target
from pytest_gpubench.demo.repository import publish_repository

REPOSITORY = "pytest-gpubench-gate/wide-llama"
INTERMEDIATE = 16_384


def publish(cache_dir: Path) -> str:
    """Write the model into a Hugging Face cache; returns its commit, the same on every machine."""
    return publish_repository(cache_dir, REPOSITORY, _write)


def _write(folder: Path) -> None:
    write_trained_target(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"intermediate_size": INTERMEDIATE}, indent=2) + "\n"
    )
    (folder / "model.safetensors").write_bytes(
        _widened((folder / "model.safetensors").read_bytes())
    )


def _widened(content: bytes) -> bytes:
    """A safetensors file with zeros added to every MLP: rows of gate and up, columns of down."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    more = INTERMEDIATE - TARGET_SHAPE.intermediate
    parts, offset = [], 0
    for name, entry in sorted(
        ((name, entry) for name, entry in header.items() if name != "__metadata__"), key=_begin
    ):
        begin, end = entry["data_offsets"]
        array = np.frombuffer(content, np.uint8, end - begin, 8 + size + begin).reshape(
            entry["shape"][0], -1
        )
        width = array.shape[1] // entry["shape"][-1]
        if ".mlp.down_proj." in name:
            array = np.pad(array, ((0, 0), (0, more * width)))
        elif ".mlp." in name:
            array = np.pad(array, ((0, more), (0, 0)))
        shape = [array.shape[0], *([array.shape[1] // width] if len(entry["shape"]) > 1 else [])]
        parts.append(array.tobytes())
        header[name] = {
            "dtype": entry["dtype"],
            "shape": shape,
            "data_offsets": [offset, offset + len(parts[-1])],
        }
        offset += len(parts[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def _begin(item: tuple[str, dict[str, list[int]]]) -> int:
    return item[1]["data_offsets"][0]
