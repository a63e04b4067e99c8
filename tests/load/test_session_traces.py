"""Traces of sessions: what is read, and the sentence for everything that is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.session_traces import (
    Session,
    SessionTrace,
    depth_first,
    parse_sessions,
)
from pytest_gpubench.model.failures import BenchmarkError


def read(*entries: Any, block_tokens: int = 512) -> SessionTrace:
    text = "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    return parse_sessions(text, "t.jsonl", block_tokens)


def turn(session: str = "a", **more: Any) -> dict[str, Any]:
    return {"session_id": session, "input_length": 100, "output_length": 5, **more}


def whole(session: str, *turns: Any) -> dict[str, Any]:
    return {"session_id": session, "turns": list(turns)}


SAY: dict[str, Any] = {"text": "word", "output_length": 3}


def test_lines_of_one_session_are_its_turns_in_their_order() -> None:
    trace = read(
        turn("a", input_length=600, hash_ids=[1, 2], delay=0),
        turn("b"),
        turn("a", input_length=1100, hash_ids=[1, 2, 3], delay=1500, timestamp=7),
    )
    assert list(trace.sessions) == ["a", "b"]
    first, second = trace.sessions["a"].turns
    assert (first.input_tokens, first.output_tokens, first.blocks) == (600, 5, (1, 2))
    assert (second.pause, second.blocks, second.line) == (1.5, (1, 2, 3), 3)
    assert [code for code, _ in trace.notes] == ["timestamps-not-used"]


def test_lines_of_mooncake_are_sessions_of_one_turn() -> None:
    trace = read(*({"timestamp": 0, "input_length": 10, "output_length": 1, "hash_ids": [0]},) * 2)
    assert [len(session.turns) for session in trace.roots] == [1, 1]
    assert {code for code, _ in trace.notes} == {"timestamps-not-used", "sessions-of-one-turn"}


def test_a_conversation_of_aiperf_has_its_system_message_before_its_first_turn() -> None:
    trace = read(
        whole("s", {"role": "system", "text": "Be brief."}, SAY, {"text": "more", "delay": 20})
    )
    first, second = trace.sessions["s"].turns
    assert first.messages == (("system", "Be brief."), ("user", "word"))
    assert second.messages == (("user", "more"),)
    assert second.output_tokens is None
    assert not second.whole


def test_messages_of_a_line_are_all_that_is_sent_those_of_a_turn_are_added() -> None:
    messages = [{"role": "user", "content": "one"}]
    line = read({"session_id": "a", "messages": messages, "output_length": 2})
    assert line.sessions["a"].turns[0].whole
    added = read(whole("a", {"messages": messages, "max_tokens": 2}))
    assert not added.sessions["a"].turns[0].whole
    assert added.sessions["a"].turns[0].output_tokens == 2


def test_a_sub_session_is_joined_by_the_next_turn_unless_it_says_otherwise() -> None:
    def child(spawns: Any, turns: int = 3) -> Session:
        asked = [{**SAY, "spawns": spawns}, *[SAY] * (turns - 1)]
        return read(whole("p", *asked), whole("c", SAY)).sessions["c"]

    assert (child(["c"]).spawned_by, child(["c"]).joined_by) == (0, 1)
    assert child([{"children": ["c"], "join_at": 2}]).joined_by == 2
    assert child([{"children": ["c"], "join": False}]).joined_by is None
    assert child(["c"], turns=1).joined_by is None  # nothing comes after it
    assert child(["c"]).parent == "p"
    assert not child(["c"]).inherits


def test_a_fork_goes_on_from_its_parents_messages() -> None:
    ending = read(whole("p", SAY, {**SAY, "forks": ["c"]}), whole("c", SAY)).sessions["c"]
    assert (ending.inherits, ending.spawned_by, ending.joined_by) == (True, 1, None)
    background = {"child": "c", "background": True}
    going_on = read(whole("p", {**SAY, "forks": [background]}, SAY), whole("c", SAY))
    assert going_on.sessions["c"].inherits


def test_sub_sessions_come_behind_the_turn_that_spawns_them() -> None:
    trace = read(
        whole("p", {**SAY, "spawns": ["c", "d"]}, SAY),
        whole("d", SAY),
        whole("c", {**SAY, "spawns": ["e"]}, SAY),
        whole("e", SAY),
    )
    assert [session.name for session in trace.roots] == ["p"]
    order = [(it.name, number) for it, number in depth_first(trace.spawned, trace.roots[0])]
    assert set(order[1:5]) == {("c", 0), ("c", 1), ("d", 0), ("e", 0)}
    assert order.index(("c", 0)) < order.index(("e", 0)) < order.index(("c", 1))
    assert order[-1] == ("p", 1)


REFUSED = {
    "3": (("{", "[1]"), "t.jsonl:1: not JSON"),
    "no turn": ((turn(), {"session_id": "a"}), "t.jsonl:2: a turn needs one of `input_length`"),
    "two kinds": ((turn(text="x"),), "and has `input_length` and `text`"),
    "unknown key": ((turn(payload={}),), "t.jsonl:1: a turn has `payload`, which cannot be"),
    "unknown key of a turn": ((whole("a", {**SAY, "images": []}),), "turn 0 has `images`"),
    "session id": ((turn(session_id=7),), "`session_id` must be a text of 1 to 200"),
    "negative delay": ((turn(delay=-3),), "t.jsonl:1: `delay` is -3 ms"),
    "endless delay": ((turn(delay=1e12),), "more than a day"),
    "delay of many digits": ((turn(delay=10**400),), "t.jsonl:1: `delay` must be a number of"),
    "delay of text": ((turn(delay="2"),), "`delay` must be a number of milliseconds"),
    "no length": ((turn(input_length=0),), "`input_length` must be a number of tokens"),
    "length of text": ((turn(output_length="5"),), "`output_length` must be a number of tokens"),
    "two lengths": ((turn(max_tokens=6),), "`output_length` and `max_tokens` disagree"),
    "blocks": ((turn(hash_ids=3),), "`hash_ids` must be a list"),
    "block ids": ((turn(hash_ids=["x"]),), "`hash_ids` must be a list of numbers"),
    "too many blocks": ((turn(hash_ids=[1, 2]),), "2 `hash_ids` are more than the 1 blocks of 512"),
    "blocks of text": ((whole("a", {**SAY, "hash_ids": [1]}),), "`hash_ids` belong to"),
    "empty text": ((whole("a", {"text": " "}),), "the text of a turn must be"),
    "assistant's turn": ((whole("a", {**SAY, "role": "assistant"}),), "a turn is a user's"),
    "a tool's message": (
        (whole("a", {"messages": [{"role": "tool", "content": "x"}]}),),
        "a message has `role`",
    ),
    "a role of many": (
        (whole("a", {"messages": [{"role": ["user"], "content": "x"}]}),),
        "a message has `role`",
    ),
    "system message with more": (
        (whole("p", {"role": "system", "text": "x", "spawns": ["c"]}, SAY), turn("c")),
        "t.jsonl:1: a system message has `spawns`, which cannot be replayed",
    ),
    "system message before lengths": (
        (whole("p", {"role": "system", "text": "x"}, {"input_length": 9, "output_length": 2}),),
        "t.jsonl:1: a system message goes before turns by text, not by length",
    ),
    "another's name": (
        (turn("line 2"), {"input_length": 100, "output_length": 5}),
        "t.jsonl:2: has no session_id, and a session is named 'line 2'",
    ),
    "half a character in a name": ((turn("\ud800"),), "t.jsonl:1: holds half of a surrogate pair"),
    "half a character in a text": (
        (whole("a", {**SAY, "text": "x\udfff"}),),
        "t.jsonl:1: holds half of a surrogate pair",
    ),
    "answered message": (
        (whole("a", {"messages": [{"role": "assistant", "content": "x"}]}),),
        "the last of `messages` must be a user's",
    ),
    "system alone": ((whole("a", {"role": "system", "text": "x"}),), "nothing that is asked"),
    "no turns": ((whole("a"),), "`turns` must be a list of at least one turn"),
    "twice": ((whole("a", SAY), whole("a", SAY)), "t.jsonl:2: the session 'a' stands in line 1"),
    "whole and then a turn": ((whole("a", SAY), turn("a")), "stands in line 1 whole"),
    "unknown child": ((turn(spawns=["z"]),), "t.jsonl:1: the session 'z' is spawned, and no line"),
    "two parents": (
        (turn("a", spawns=["c"]), turn("b", spawns=["c"]), turn("c")),
        "t.jsonl:2: the session 'c' is spawned in line 1 already",
    ),
    "itself": ((turn("a", spawns=["a"]),), "sessions in a circle never begin: 'a' is spawned by"),
    "circle": (
        (turn("a", spawns=["b"]), turn("b", spawns=["c"]), turn("c", spawns=["a"]), turn("d")),
        "in a circle never begin: 'a' is spawned by 'c', that by 'b', that by 'a'",
    ),
    "join before": (
        (whole("p", SAY, {**SAY, "spawns": [{"children": ["c"], "join_at": 1}]}), turn("c")),
        "`join_at` is the number of a later turn than 1",
    ),
    "join beyond": (
        (whole("p", {**SAY, "spawns": [{"children": ["c"], "join_at": 9}]}), turn("c")),
        "`join_at` 9 is no turn of 'p', which has 1",
    ),
    "join and not": (
        (turn(spawns=[{"children": ["c"], "join_at": 1, "join": False}]), turn("c")),
        "contradict each other",
    ),
    "odd spawn": ((turn(spawns=[7]),), "an entry of `spawns` is the id of a session"),
    "odd fork": ((turn(forks=[{"sid": "c"}]),), "an entry of `forks` is the id of a session"),
    "fork goes on": (
        (whole("p", {**SAY, "forks": ["c"]}, SAY), whole("c", SAY)),
        "the fork to 'c' ends its session, which has 2 turns",
    ),
    "fork of lengths": ((turn("p", forks=["c"]), turn("c")), "one of the two is given by length"),
    "mixed": ((turn("a"), {"session_id": "a", "text": "x"}), "turns by length and by text"),
    "nothing": (("",), "t.jsonl has no session in it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused_with_its_line(name: str) -> None:
    entries, words = REFUSED[name]
    with pytest.raises(BenchmarkError) as raised:
        read(*entries)
    assert words in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("session_id", "turns", "input_length", "text", "messages", "hash_ids"),
                    *("delay", "spawns", "forks", "children", "join_at", "role", "content"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
def test_whatever_a_file_holds_it_is_read_or_refused_in_a_sentence(entries: list[Any]) -> None:
    with suppress(BenchmarkError):
        assert read(*map(json.dumps, entries)).roots
