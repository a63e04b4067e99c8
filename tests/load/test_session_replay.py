"""Traces of sessions replayed: lengths, what is shared, pauses, sub-sessions, what ends early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.load.composer import Composer
from pytest_gpubench.load.load_run import check_workload, run_load
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Fault, Schedule
from pytest_gpubench.load.prefix_sharing import PrefixTree
from pytest_gpubench.load.prompts import Message, Prompt
from pytest_gpubench.load.protocol import LoadPlan, LoadResult, RequestRecord
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.workload import Workload
from tests.load.pool import POOL

BLOCK = 32
WORKLOAD = Workload(
    isl=64, osl=4, conc=2, num_prompts=1, num_warmups=2, dataset="sessions", handover="drain",
    block_tokens=BLOCK,
)  # fmt: skip
FAST = Schedule(ttft=0.01, token_time=0.001)


async def count(text: str, history: tuple[Message, ...] = ()) -> int:
    return 4 + sum(2 + len(content.split()) for _, content in history) + len(text.split())


def growing(name: str, turns: int, *, first: int = 0, **more: Any) -> list[dict[str, Any]]:
    """A session whose prompts begin with block 0, which all have, and grow by a block each."""
    return [
        {
            "session_id": name,
            "input_length": BLOCK * (number + 2) + 16,  # the template has room beside the blocks
            "output_length": 3,
            "hash_ids": [0, *range(first, first + number + 1)],
            **more,
        }
        for number in range(turns)
    ]


def trace(folder: Path, entries: Iterable[dict[str, Any]]) -> str:
    file = folder / "sessions.jsonl"
    file.write_text("\n".join(map(json.dumps, entries)))
    return str(file)


def compose(
    file: str, *, context: int | None = None, **chosen: Any
) -> tuple[list[Prompt], list[Prompt], dict[str, str]]:
    workload = replace(WORKLOAD, dataset_file=file, **chosen)
    composer = Composer(LoadPlan("http://x", "m", workload, context=context), count)
    warmups, measured = asyncio.run(composer.compose(lambda done, total: None))
    return warmups, measured, dict(composer.notes)


def two_sessions(folder: Path) -> str:
    return trace(folder, [*growing("a", 3, first=10), *growing("b", 3, first=20)])


def test_prompts_by_length_are_as_long_as_the_trace_says_and_share_what_it_says(
    tmp_path: Path,
) -> None:
    warmups, measured, notes = compose(two_sessions(tmp_path))
    assert notes == {}
    assert [prompt.isl for prompt in measured] == [80, 112, 144] * 2
    assert all(asyncio.run(count(prompt.text)) == prompt.isl for prompt in measured)
    words = [prompt.text.split() for prompt in measured]
    shared = 2 * BLOCK  # block 0 and the first of its own
    assert words[0][:shared] == words[1][:shared] == words[2][:shared]
    assert words[0][:BLOCK] == words[3][:BLOCK]
    assert words[0][BLOCK:shared] != words[3][BLOCK:shared]
    assert words[1][shared] != words[2][-1]
    assert [prompt.isl for prompt in warmups] == [80, 80]
    assert not {prompt.text.split()[0] for prompt in warmups} & {words[0][0]}
    again = compose(two_sessions(tmp_path))[1]
    assert [prompt.text for prompt in again] == [prompt.text for prompt in measured]


def test_messages_carry_drawn_answers_and_a_fork_goes_on_from_them(tmp_path: Path) -> None:
    asked = {"text": "one two", "output_length": 5, "forks": ["c"]}
    entries: list[dict[str, Any]] = [
        {"session_id": "p", "turns": [{"role": "system", "text": "be brief"}, asked]},
        {"session_id": "c", "turns": [{"text": "three"}]},
        {"session_id": "d", "turns": [{"text": "other"}]},
    ]
    _, measured, _ = compose(trace(tmp_path, entries))
    parent, child, other = measured
    assert parent.history == (("system", "be brief"),)
    assert [role for role, _ in child.history] == ["system", "user", "assistant"]
    assert len(child.history[-1][1].split()) == 5
    assert child.text == "three"
    assert child.osl == WORKLOAD.osl
    assert all(asyncio.run(count(it.text, it.history)) == it.isl for it in (parent, child, other))
    assert child.place is not None
    assert parent.place is not None
    assert child.place.prefix[: len(parent.place.prefix)] == parent.place.prefix
    assert child.place.root == "p"


def test_a_turn_that_is_too_long_ends_its_session_and_is_named(tmp_path: Path) -> None:
    long = growing("long", 40, first=100)
    long[29]["spawns"] = ["late"]
    long[5]["spawns"] = ["early"]
    entries = [*long, *growing("short", 2, first=7), *growing("late", 1), *growing("early", 1)]
    context = 31 * BLOCK + 16 + 3  # what turn 29 has room for, and not turn 30
    _, measured, notes = compose(trace(tmp_path, entries), context=context)
    turns = [prompt.turn for prompt in measured if prompt.place and prompt.place.session == "long"]
    assert turns == list(range(30))
    assert {prompt.place.turns for prompt in measured if prompt.place} == {30, 2, 1}
    assert (
        "1 session is too long for the model: 'long' ends before turn 30 of 40 (line 31): its "
        "prompt of 1,040 tokens and answer of 3 are more than the 1,011 that the model takes"
        in notes["sessions-cut"]
    )
    shorter = compose(trace(tmp_path, entries), context=context - 1)[1]
    assert not [it for it in shorter if it.place and it.place.session == "late"]
    with pytest.raises(BenchmarkError, match="has no turn that the model has room for"):
        compose(trace(tmp_path, entries), context=20)


def test_an_answers_length_must_be_told_where_the_row_has_none(tmp_path: Path) -> None:
    file = trace(tmp_path, [{"session_id": "a", "text_input": "one"}] * 2)
    with pytest.raises(BenchmarkError, match=r"sessions.jsonl:1: needs `output_length`"):
        compose(file, isl=0, osl=0, conc=1)
    assert len(compose(file, conc=1)[1]) == 2


def test_fewer_sessions_than_are_to_live_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="has 2 sessions; the run needs 3, 3 of them at a"):
        compose(two_sessions(tmp_path), conc=3)
    with pytest.raises(BenchmarkError, match="the run needs 4, 2 of them"):
        compose(two_sessions(tmp_path), sessions=4)
    assert len(compose(two_sessions(tmp_path), sessions=1, conc=1)[1]) == 3


def test_a_part_that_is_shorter_is_the_beginning_of_a_longer_one() -> None:
    tree = PrefixTree()
    tree.add([("a", 16), ("b", 16), ("c", 10)])
    assert tree.longest([("a", 16), ("b", 16), ("c", 16), ("d", 16)]) == 42
    assert tree.longest([("a", 16), ("b", 7)]) == 23
    assert tree.longest([("x", 16), ("b", 16)]) == 0
    tree.add([("a", 16), ("b", 16), ("c", 16)])
    assert tree.longest([("a", 16), ("b", 16), ("c", 16), ("d", 16)]) == 48


def run(
    server: LoopbackServer, file: str, *, context: int | None = None, **chosen: Any
) -> LoadResult:
    workload = replace(WORKLOAD, dataset_file=file, **chosen)
    return run_load(LoadPlan(server.url, "loopback", workload, context=context), pool=POOL)


def by_session(result: LoadResult) -> dict[str, list[RequestRecord]]:
    found: dict[str, list[RequestRecord]] = {}
    for record in result.of_phase("measured"):
        found.setdefault(record.session, []).append(record)
    return found


def test_hits_are_what_the_trace_promises(tmp_path: Path) -> None:
    entries = [
        line
        for number in range(8)
        for line in growing(f"s{number}", 4, first=100 * (number + 1), delay=5)
    ]
    with LoopbackServer(FAST, prefix_caching=True, cache_block=16).in_thread() as server:
        result = run(server, trace(tmp_path, entries))
        page = parse_metrics(server.counters.metrics_text("m", speculative=False))
    assert result.failed == ()
    records = list(result.records)
    assert len(records) == 2 + 8 * 4
    assert all(record.prompt_tokens == record.asked_isl for record in records)
    hits = page.total("vllm:prefix_cache_hits_total")
    assert hits is not None
    assert all(record.shared_tokens is not None for record in records)
    most = sum((record.shared_tokens or 0) // 16 * 16 for record in records)
    kept = sum((record.kept_tokens or 0) // 16 * 16 for record in records)
    assert 0 < kept <= hits + 16 * len(records)
    assert hits <= most + 16 * len(records)
    for turns in by_session(result).values():
        assert [record.kept_tokens for record in turns][1:] == [2 * BLOCK, 3 * BLOCK, 4 * BLOCK]
        assert [record.turn for record in turns] == [0, 1, 2, 3]
        for before, after in pairwise(turns):
            assert (before.end_ns or 0) < after.due_ns
            assert after.due_ns - (before.end_ns or 0) <= 6_000_000


def test_live_sessions_are_as_many_as_the_concurrency(tmp_path: Path) -> None:
    entries = [line for number in range(5) for line in growing(f"s{number}", 2, delay=10)]
    with LoopbackServer(FAST).in_thread() as server:
        result = run(server, trace(tmp_path, entries), num_warmups=0)
    spans = [
        (min(record.due_ns for record in turns), max(record.end_ns or 0 for record in turns))
        for turns in by_session(result).values()
    ]
    assert len(spans) == 5
    for start, _ in spans:
        assert sum(begin <= start < end for begin, end in spans) <= 2


def test_pauses_are_scaled_and_capped(tmp_path: Path) -> None:
    entries = [*growing("a", 2, delay=60_000), *growing("b", 2, delay=40)]
    with LoopbackServer(FAST).in_thread() as server:
        result = run(server, trace(tmp_path, entries), time_scale=0.5, idle_cap=0.1)
    pauses = {
        name: (turns[1].due_ns - (turns[0].end_ns or 0)) / 1e6
        for name, turns in by_session(result).items()
    }
    assert pauses["a"] == pytest.approx(100, abs=2)
    assert pauses["b"] == pytest.approx(20, abs=2)


def test_a_turn_waits_for_the_sub_session_that_it_joins(tmp_path: Path) -> None:
    first, second = growing("p", 2, first=1)
    entries = [
        {**first, "spawns": ["c", {"children": ["d"], "join": False}]},
        second,
        *growing("c", 2, first=30),
        *growing("d", 3, first=40, delay=50),
        *growing("q", 1, first=50),
    ]
    with LoopbackServer(FAST).in_thread() as server:
        result = run(server, trace(tmp_path, entries), conc=1)
    sessions = by_session(result)
    parent, child, other = sessions["p"], sessions["c"], sessions["d"]
    assert {record.root for record in (*parent, *child, *other)} == {"p"}
    assert child[0].due_ns == parent[0].end_ns
    assert parent[1].due_ns >= (child[1].end_ns or 0)
    assert parent[1].due_ns < (other[1].end_ns or 0)
    # the session is over with its last sub-session, and only then makes room
    assert sessions["q"][0].due_ns >= (other[2].end_ns or 0)


def test_a_failed_turn_ends_its_session_alone(tmp_path: Path) -> None:
    def fault(index: int) -> Fault | None:
        return Fault("status", status=500) if index == 1 else None

    entries = [*growing("a", 4, first=1, delay=30), *growing("b", 2, first=60, delay=200)]
    with LoopbackServer(FAST, faults=fault).in_thread() as server:
        result = run(server, trace(tmp_path, entries), conc=1, num_warmups=0)
    sessions = by_session(result)
    assert [record.ok for record in sessions["a"]] == [True, False]
    assert [record.ok for record in sessions["b"]] == [True, True]
    assert sessions["a"][0].session_turns == 4


def test_a_prompt_of_the_trace_that_the_model_has_no_room_for_is_never_sent(
    tmp_path: Path,
) -> None:
    with LoopbackServer(FAST, max_model_len=130).in_thread() as server:
        result = run(server, two_sessions(tmp_path), context=130)
    assert result.failed == ()
    assert result.client.planned == 4
    assert [code for code, _ in result.client.notes] == ["sessions-cut"]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"arrival": "poisson", "request_rate": 1.0}, "client.arrival: with dataset sessions it"),
        ({"handover": "continue"}, "client.handover: with dataset sessions it is drain"),
        ({"turns": 2}, "client.turns: with dataset sessions it is 1"),
        ({"workers": 2}, "client.workers: with dataset sessions it is 1"),
        ({"think_time": 1.0}, "client.think-time: with dataset sessions it is 0"),
        ({"api": "completions"}, "client.api: sessions are conversations"),
        ({"idle_cap": 0.0}, "client.idle-cap: idle-cap must be above 0"),
        ({"block_tokens": 0}, "client.block-tokens: block-tokens must be at least 1"),
        ({"sessions": -1}, "client.sessions-per-conc: sessions-per-conc must be at least 0"),
        ({"dataset": "random", "dataset_file": ""}, "client.block-tokens: is for traces of"),
    ],
)
def test_what_has_no_meaning_with_sessions_is_refused(
    chosen: dict[str, Any], words: str, tmp_path: Path
) -> None:
    file = two_sessions(tmp_path)
    failure = check_workload(replace(WORKLOAD, **{"dataset_file": file, **chosen}))
    assert failure is not None
    assert words in failure.summary


def test_a_trace_is_read_before_a_server_is_started(tmp_path: Path) -> None:
    file = trace(tmp_path, [*growing("a", 2), {"session_id": "a", "delay": -1, "text": "x"}])
    failure = check_workload(replace(WORKLOAD, dataset_file=file))
    assert failure is not None
    assert "sessions.jsonl:3: `delay` is -1 ms" in failure.summary
    few = check_workload(replace(WORKLOAD, dataset_file=two_sessions(tmp_path), conc=3))
    assert few is not None
    assert few.cause == "dataset-too-small"
    assert check_workload(replace(WORKLOAD, dataset_file=two_sessions(tmp_path))) is None
