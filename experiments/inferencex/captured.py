"""What the scripts of InferenceX start, as ``capture.py`` has seen it, in few bytes.

``python captured.py CAPTURED.json.gz... > vllm.json.gz`` packs captures: points that start the same
share one launch, and of the environment only what the script has set is kept. A folder that weights
were downloaded into is written as their repository.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_NOT_THE_ENGINES = {
    *("MODEL_PATH", "MAX_MODEL_LEN", "EVAL_MAX_MODEL_LEN", "HF_HUB_OFFLINE"),
    *("EVAL_FRAMEWORK", "GPU_COUNT", "WEKA_LOADER_OVERRIDE"),
}
"""Variables of the scripts themselves, and what our own launcher decides."""
_CLIENTS = "AIPERF_"
"""Begins the variables of the client."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of their search space: what identifies it, and what is started for it."""

    key: str
    place: tuple[Any, ...]
    """isl, osl, tp, pp, ep, dp-attn, concurrency, whether with a draft; of an agentic point, whose
    isl and osl are 0, also where it offloads to."""
    image: str
    argv: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, Any]
    """Files that the script writes and that the command line names, parsed."""


def read(name: str) -> Iterator[Point]:
    """All points of a file: `vllm`, `sglang`, `vllm-agentic`."""
    data = json.loads(gzip.decompress((HERE / f"{name}.json.gz").read_bytes()))
    for key, rows in data["points"].items():
        for *place, launch in rows:
            it = data["launches"][launch]
            argv = tuple(it["argv"])
            yield Point(key, tuple(place), it["image"], argv, it["env"], it.get("files", {}))


def pack(cases: list[dict[str, Any]]) -> bytes:
    """Captured cases as the file that `read` takes."""
    launches: dict[str, int] = {}
    points: dict[str, list[list[Any]]] = {}
    for case in cases:
        it = case["config"]
        env = {
            name: value
            for name, value in case["env"].items()
            if name not in _NOT_THE_ENGINES and not name.startswith(_CLIENTS)
        }
        argv = [_with_repositories(word, case.get("steps", [])) for word in case["argv"]]
        launch = {"image": it["image"], "argv": argv, "env": env}
        if case.get("files"):
            launch["files"] = case["files"]
        number = launches.setdefault(json.dumps(launch, sort_keys=True), len(launches))
        lengths = [it.get("isl", 0), it.get("osl", 0)]
        place = [*lengths, *(it[name] for name in ("tp", "pp", "ep", "dp-attn", "conc"))]
        place.append(it["spec-decoding"] != "none")
        if "kv-offloading" in it:
            place.append(it["kv-offloading"])
        points.setdefault(case["key"], []).append([*place, number])
    source = "SemiAnalysisAI/InferenceX at 843c6254f"
    data = {"source": source, "launches": [json.loads(text) for text in launches], "points": points}
    text = json.dumps(data, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def _with_repositories(word: str, steps: list[list[str]]) -> str:
    for step in steps:
        if step[:2] == ["hf", "download"] and "--local-dir" in step:
            word = word.replace(step[step.index("--local-dir") + 1], step[2])
    return word


if __name__ == "__main__":
    found = [json.loads(gzip.decompress(Path(name).read_bytes())) for name in sys.argv[1:]]
    sys.stdout.buffer.write(pack([case for data in found for case in data["cases"]]))
