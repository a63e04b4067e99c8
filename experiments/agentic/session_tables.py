"""What the run of test_sessions.py found, as the tables of README.md: `session_tables.py RESULTS AIPERF`."""

from __future__ import annotations

import gzip
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MS = 1e6


def main(results: Path, aiperf: Path) -> None:
    for path in sorted(results.glob("*/*/*/launch-1.json")):
        record = json.loads(path.read_text())
        if record.get("kind") != "case" or not record["measurement"]:
            continue
        requests = measured(path.with_name("launch-1.requests.jsonl.gz"))
        print(f"\n{record['server']}: {record['verdict']['status']}, {record['failure']}")
        print("\n".join(promise(record["measurement"]["prefix_cache"], requests)))
        print("\n".join(by_turn(record["measurement"]["turns"])))
        theirs = aiperf / record["server"]
        if theirs.is_dir():
            print("\n".join(side_by_side(theirs)))


def measured(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        records = [json.loads(line) for line in file]
    return [record for record in records if record["phase"] == "measured"]


def promise(cache: dict[str, int], requests: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Hits of all, and of each turn, where the engine tells."""
    yield (
        f"hits {cache['hits']:,} of {cache['prompt_tokens']:,} prompt tokens; promised "
        f"{cache['promised']:,}, at most {cache['most']:,}; {cache['block']} tokens a block"
    )
    if not cache["hits"]:
        return
    off = []
    for request in requests:
        found, block = request["cached_tokens"] or 0, cache["block"]
        least = request["kept_tokens"] // block * block
        most = min(request["shared_tokens"], request["prompt_tokens"] - 1) // block * block
        off.append(max(0, least - found, found - most) / block)
    yield f"turns more than one block outside of what the trace allows: {sum(n > 1 for n in off)}"
    yield f"turns outside at all: {sum(n > 0 for n in off)} of {len(off)}"


def by_turn(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| turn | prompt tokens | kept | cached | TTFT p50 ms | TPOT p50 ms |"
    for row in rows:
        yield (
            f"| {row['begin']:.0f} | {row['prompt_tokens']:.0f} | {row['kept_tokens']:.0f} | "
            f"{row['cached_tokens']:.0f} | {row['ttft'] * 1e3:.1f} | {row['tpot'] * 1e3:.2f} |"
        )


def side_by_side(folder: Path) -> Iterator[str]:
    both = json.loads((folder / "both.json").read_text())
    engine = (both["ours"], both["aiperf"])
    requests = both["requests"]
    lines = (folder / "profile_export.jsonl").read_text().splitlines()
    theirs = [json.loads(line)["metrics"] for line in lines]
    yield "| | ours | AIPerf |"
    yield f"| requests | {len(requests)} | {len(theirs)} |"
    for words, name in (
        ("prompt tokens, by the engine", "prompt_tokens_total"),
        ("output tokens, by the engine", "generation_tokens_total"),
        ("prefix hits, by the engine", "prefix_cache_hits_total"),
    ):
        yield f"| {words} | {engine[0][name]:,.0f} | {engine[1][name]:,.0f} |"
    for words, mine, name, clock in (
        ("TTFT", ttft, "time_to_first_token", "time_to_first_token_seconds"),
        ("TPOT", tpot, "inter_token_latency", "request_time_per_output_token_seconds"),
        ("E2E", e2e, "request_latency", "e2e_request_latency_seconds"),
    ):
        ours = [value for value in map(mine, requests) if value is not None]
        others = [float(one[name]["value"]) for one in theirs if name in one]
        yield f"| {words} p50, ms | {middle(ours)} | {middle(others)} |"
        yield f"| {words} mean, ms | {statistics.fmean(ours):.2f} | {statistics.fmean(others):.2f} |"
        clocks = [one[f"{clock}_sum"] / one[f"{clock}_count"] * 1e3 for one in engine]
        yield f"| {words} mean by the engine's clock, ms | {clocks[0]:.2f} | {clocks[1]:.2f} |"
    gaps = [one["inter_chunk_latency"]["value"] for one in theirs if "inter_chunk_latency" in one]
    at_once = [one for one in gaps if one and not any(one)]
    ours_at_once = [
        one for one in requests if len(set(one["chunk_ns"])) == 1 < len(one["chunk_ns"])
    ]
    yield f"| answers whose chunks came all at once | {len(ours_at_once)} | {len(at_once)} |"
    connecting = [one["http_req_connecting"]["value"] for one in theirs]
    yield f"| connecting, mean ms | 0 (kept open) | {statistics.fmean(connecting):.2f} |"


def ttft(record: dict[str, Any]) -> float:
    """Milliseconds, from sending: what AIPerf counts from."""
    return float(record["first_token_ns"] - record["send_ns"]) / MS


def tpot(record: dict[str, Any]) -> float | None:
    tokens = record["completion_tokens"]
    if tokens < 2:
        return None
    stream = float(record["last_token_ns"] - record["first_token_ns"])
    return stream / MS / float(tokens - 1)


def e2e(record: dict[str, Any]) -> float:
    return float(record["last_token_ns"] - record["send_ns"]) / MS


def middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
