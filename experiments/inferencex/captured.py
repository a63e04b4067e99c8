"""What the scripts of InferenceX start, as ``capture.py`` has seen it, in few bytes.

``python captured.py CAPTURED.json.gz... > vllm.json.gz`` packs captures: points that start the same
share one launch, and of the environment only what the script has set is kept.
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
_NOT_THE_ENGINES = {"MODEL_PATH", "MAX_MODEL_LEN", "EVAL_MAX_MODEL_LEN", "HF_HUB_OFFLINE"}
"""Variables of the scripts themselves, and what our own launcher decides."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of their search space: what identifies it, and what is started for it."""

    key: str
    place: tuple[int, int, int, int, int, bool, int, bool]
    """isl, osl, tp, pp, ep, dp-attn, concurrency, whether with a draft."""
    image: str
    argv: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, Any]
    """Files that the script writes and that the command line names, parsed."""


def read(engine: str) -> Iterator[Point]:
    """All points of an engine."""
    data = json.loads(gzip.decompress((HERE / f"{engine}.json.gz").read_bytes()))
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
        env = {k: v for k, v in case["env"].items() if k not in _NOT_THE_ENGINES}
        launch = {"image": it["image"], "argv": case["argv"], "env": env}
        if case.get("files"):
            launch["files"] = case["files"]
        number = launches.setdefault(json.dumps(launch, sort_keys=True), len(launches))
        place = [it[name] for name in ("isl", "osl", "tp", "pp", "ep", "dp-attn", "conc")]
        drafted = it["spec-decoding"] != "none"
        points.setdefault(case["key"], []).append([*place, drafted, number])
    source = "SemiAnalysisAI/InferenceX at 843c6254f"
    data = {"source": source, "launches": [json.loads(text) for text in launches], "points": points}
    text = json.dumps(data, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


if __name__ == "__main__":
    found = [json.loads(gzip.decompress(Path(name).read_bytes())) for name in sys.argv[1:]]
    sys.stdout.buffer.write(pack([case for data in found for case in data["cases"]]))
