"""Drawn sessions: the same by the same seed, readable, within their bounds, near their source."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_gpubench.cli import main
from pytest_gpubench.load.session_maker import (
    PROFILES,
    Lognormal,
    Quantiles,
    Wanted,
    make_sessions,
)
from pytest_gpubench.load.session_traces import SessionTrace, parse_sessions

SMALL = Wanted(8, PROFILES["coding"], scale=0.01, block_tokens=16)


def read(wanted: Wanted) -> SessionTrace:
    text = "\n".join(map(json.dumps, make_sessions(wanted)))
    return parse_sessions(text, "made", wanted.block_tokens)


def test_a_seed_makes_the_same_sessions() -> None:
    assert list(make_sessions(SMALL)) == list(make_sessions(SMALL))
    assert list(make_sessions(SMALL)) != list(make_sessions(replace(SMALL, seed=1)))


def test_sessions_grow_by_blocks_and_begin_with_the_systems() -> None:
    trace = read(replace(SMALL, turns=5))
    system = set(range(320 // 16))
    own: set[int] = set()
    for session in trace.roots:
        assert len(session.turns) == 5
        for before, after in pairwise(session.turns):
            whole = before.input_tokens // 16
            assert after.blocks[:whole] == before.blocks[:whole]
            assert after.input_tokens > before.input_tokens + (before.output_tokens or 0)
        blocks = {block for turn in session.turns for block in turn.blocks}
        assert system <= blocks
        assert not own & (blocks - system)
        own |= blocks - system


@given(
    seed=st.integers(0, 1000),
    profile=st.sampled_from(sorted(PROFILES)),
    scale=st.floats(0.001, 0.1),
    block=st.integers(1, 600),
    sub_sessions=st.floats(0, 1),
    turns=st.none() | st.integers(1, 6),
)
@example(seed=1, profile="chat", scale=0.0625, block=1, sub_sessions=1.0, turns=2)
def test_whatever_is_drawn_can_be_read_and_keeps_its_bounds(
    seed: int, profile: str, scale: float, block: int, sub_sessions: float, turns: int | None
) -> None:
    wanted = Wanted(
        2, PROFILES[profile], seed, block, scale, 4000, turns=turns or 6, sub_sessions=sub_sessions
    )
    try:
        trace = read(wanted)
    except ValueError:
        assert profile == "chat"  # the trace's longest prompts are twenty times its median
        return
    assert len(trace.roots) == 2
    for session in trace.sessions.values():
        assert len(session.turns) <= wanted.turns  # type: ignore[operator]
        for turn in session.turns:
            assert turn.input_tokens + (turn.output_tokens or 0) <= 4000
            assert len(turn.blocks) == -(-turn.input_tokens // block)


def test_a_distribution_has_what_it_is_named_by() -> None:
    rng = random.Random(1)
    drawn = [Lognormal(3500, 1800)(rng) for _ in range(20000)]
    assert statistics.median(drawn) == pytest.approx(1800, rel=0.05)
    assert statistics.fmean(drawn) == pytest.approx(3500, rel=0.05)
    even = [Quantiles((0, 10, 100))(rng) for _ in range(20000)]
    assert statistics.median(even) == pytest.approx(10, rel=0.1)
    assert max(even) <= 100
    assert all(math.isfinite(value) for value in even)


def command(*words: Any) -> int:
    return main(["trace", *map(str, words)])


def test_a_trace_is_made_and_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sessions.jsonl"
    small = ("--scale", 0.01, "--block-tokens", 16, "--turns", 4, "--sessions", 8)
    assert command("make", file, *small, "--sub-sessions", 0.3) == 0
    assert command("show", file, "--block-tokens", 16) == 0
    out = capsys.readouterr().out
    assert "sessions: 8, sub-sessions: " in out
    assert "at most 4 a session" in out
    assert "shared with an earlier turn of the file: " in out
    text = tmp_path / "text.jsonl"
    text.write_text('{"text_input": "x", "timestamp": 3}\n')
    assert command("show", text) == 0
    shown = capsys.readouterr()
    assert "tokens" not in shown.out
    assert "timestamps are not replayed" in shown.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("make", "t", "--sessions", 0), "--sessions 0 is not between 1 and 100000"),
        (("make", "t", "--scale", "nan"), "--scale nan is not between"),
        (("make", "t", "--pauses", -1), "--pauses -1 is not between 0 and 1000"),
        (("make", "t", "--most-tokens", 40), "first turns do not fit in 40 tokens"),
        (("make", "."), "it is a folder"),
        (("show", "none.jsonl"), "none.jsonl cannot be read"),
    ],
)
def test_wrong_wishes_are_a_sentence(
    words: tuple[Any, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 4
    assert sentence in capsys.readouterr().err
