"""Recorded arrivals: Mooncake's JSON lines, CSV as Azure and BurstGPT publish it. Errors name file
and line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pytest_gpubench.load.datasets import Note, json_lines, left_out_note, unusable
from pytest_gpubench.model.frozen import is_number, is_whole
from pytest_gpubench.model.workload import BLOCK_TOKENS

_TIME = ("timestamp", "arrived_at", "arrival_time", "time")
_INPUT = (
    "input_length",
    "input_tokens",
    "prompt_tokens",
    "contexttokens",
    "request tokens",
    "num_prefill_tokens",
)
_OUTPUT = (
    "output_length",
    "output_tokens",
    "completion_tokens",
    "generatedtokens",
    "response tokens",
    "num_decode_tokens",
)
"""Names of columns, in lower case: Mooncake's, Azure's (``ContextTokens``), BurstGPT's (``Request
tokens``), Vidur's."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request: when, how long, and which parts of its prompt it shares with others."""

    seconds: float
    """After the first row."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Ids of the prompt's blocks, from its start; equal ids are equal text."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Rows in the order of their times, and what is to be told about how they were read."""

    rows: tuple[TraceRow, ...]
    notes: tuple[Note, ...] = ()
    block_tokens: int = BLOCK_TOKENS


def parse_trace(text: str, name: str) -> Trace:
    """A trace: JSON lines as Mooncake's, or CSV with a header.

    ``{"timestamp": MILLISECONDS, "input_length": N, "output_length": N, "hash_ids": [ids of
    blocks]}``. Timestamps are dates, seconds in CSV and where they have fractions, else
    milliseconds. Requests without an answer (0 tokens) are left out.

    Raises:
        BenchmarkError: for a line that is none, or an empty trace.
    """
    is_json = text.lstrip()[:1] in ("{", "[", "")
    entries = json_lines(text, name) if is_json else _csv_lines(text, name)
    rows: list[tuple[TraceRow, bool]] = []
    empty: list[str] = []
    for line, entry in entries:
        row, is_date = _row(line, {key.strip().lower(): part for key, part in entry.items()}, name)
        if not row.output_tokens:
            empty.append(f"line {line}: no output tokens")
        else:
            rows.append((row, is_date))
    if not rows:
        raise unusable(f"{name} has no request in it")
    dates = all(is_date for _, is_date in rows)
    fractions = any(not row.seconds.is_integer() for row, _ in rows)
    notes: list[Note] = list(left_out_note(name, empty))
    scale = 1.0
    if not dates and (fractions or not is_json):
        notes.append(
            ("trace-in-seconds", f"{name}: the timestamps are read as seconds, not milliseconds")
        )
    elif not dates:
        scale = 1e-3
    size = _block_tokens([row for row, _ in rows])
    if not size:
        raise unusable(f"{name} has requests of more `hash_ids` than input tokens")
    if size != BLOCK_TOKENS:
        notes.append(("trace-blocks", f"{name}: `hash_ids` are read as blocks of {size} tokens"))
    first = min(row.seconds for row, _ in rows)
    found = (replace(row, seconds=(row.seconds - first) * scale) for row, _ in rows)
    return Trace(tuple(sorted(found, key=lambda row: row.seconds)), tuple(notes), size)


def _block_tokens(rows: Sequence[TraceRow]) -> int:
    """Tokens of a block: the largest power of two, up to Mooncake's, with which no request has more
    blocks than fit into it; 0 if there is none."""
    size = BLOCK_TOKENS
    while size and any(len(row.blocks) > -(-row.input_tokens // size) for row in rows):
        size //= 2
    return size


def _csv_lines(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(text.split("\n"), strict=True)
    try:
        for entry in reader:
            yield reader.line_num, {key: part for key, part in entry.items() if key is not None}
    except csv.Error as error:
        raise unusable(f"{name}:{reader.line_num}: no CSV: {error}") from error


def _row(line: int, entry: Mapping[str, Any], name: str) -> tuple[TraceRow, bool]:
    stamp = _moment(_first(entry, _TIME))
    sizes = [_count(_first(entry, names)) for names in (_INPUT, _OUTPUT)]
    ids = entry.get("hash_ids") or []
    good_ids = isinstance(ids, list) and all(isinstance(part, int) for part in ids)
    if stamp is None or sizes[0] is None or sizes[1] is None or not sizes[0] or not good_ids:
        raise unusable(
            f"{name}:{line}: needs `timestamp`, `input_length` and `output_length` (or the columns "
            "of Azure's or BurstGPT's CSV); `hash_ids` is a list"
        )
    seconds, is_date = stamp
    return TraceRow(seconds, sizes[0], sizes[1], tuple(ids)), is_date


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _moment(value: Any) -> tuple[float, bool] | None:
    """The number of a time, and whether it is a date (then seconds)."""
    if isinstance(value, str):
        try:
            return (float(value), False) if math.isfinite(float(value)) else None
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), True
    if not is_number(value) or not math.isfinite(value):
        return None
    return float(value), False


def _count(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 19:
        return int(value)
    return value if is_whole(value) and value >= 0 else None
