"""What multi-turn requests of Mooncake's trace are like: `mooncake_quantiles.py TRACE.jsonl`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLOCK = 512
LEAST = 2
"""Whole blocks that a request must begin with to go on from another: the first is most often a
system prompt."""


def main(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    before = predecessors(rows)
    later = [
        (row, rows[number]) for row, number in zip(rows, before, strict=True) if number is not None
    ]
    first = [row for row, number in zip(rows, before, strict=True) if number is None]
    print(f"{len(rows)} requests, {len(first)} first, {len(later)} go on")
    tell("first", [row["input_length"] for row in first])
    tell("new", [new_tokens(row, earlier) for row, earlier in later])
    tell("pause, s", [(row["timestamp"] - earlier["timestamp"]) / 1000 for row, earlier in later])
    tell("answer", [row["output_length"] for row in rows])


def predecessors(rows: Sequence[dict[str, Any]]) -> list[int | None]:
    """Of each request the earlier, shorter one with the most whole blocks that it begins with."""
    latest: dict[tuple[int, ...], int] = {}
    found: list[int | None] = []
    for number, row in enumerate(rows):
        ids = tuple(row["hash_ids"])
        candidates = (latest.get(ids[:size]) for size in range(len(ids), LEAST - 1, -1))
        found.append(
            next(
                (
                    one
                    for one in candidates
                    if one is not None and rows[one]["input_length"] < row["input_length"]
                ),
                None,
            )
        )
        whole = ids[:-1] if row["input_length"] % BLOCK else ids
        if len(whole) >= LEAST:
            latest[whole] = number
    return found


def new_tokens(row: dict[str, Any], earlier: dict[str, Any]) -> int:
    return int(row["input_length"] - earlier["input_length"] - earlier["output_length"])


def tell(name: str, values: Sequence[float]) -> None:
    steps = [round(value) for value in statistics.quantiles(values, n=20)]
    print(f"{name}: mean {statistics.fmean(values):.1f}, {min(values)} {steps} {max(values)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
