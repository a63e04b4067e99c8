from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.composer import Composer
from pytest_gpubench.load.datasets import (
    CORPUS,
    Conversation,
    Turn,
    comparable,
    dataset_problem,
    parse_jsonl,
    parse_sharegpt,
    parse_trace,
    read_text,
    sentences,
)
from pytest_gpubench.load.prompts import Message, Prompt
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.workload import Workload

WORKLOAD = Workload(isl=64, osl=16, conc=2, num_prompts=8, num_warmups=2)


async def count(text: str, history: tuple[Message, ...] = ()) -> int:
    return 4 + sum(2 + len(content.split()) for _, content in history) + len(text.split())


def make(**chosen: Any) -> tuple[list[Prompt], list[Prompt]]:
    plan = LoadPlan("http://x", "m", replace(WORKLOAD, **chosen))
    return asyncio.run(Composer(plan, count).compose(lambda done, total: None))


def tokens(prompt: Prompt) -> int:
    return asyncio.run(count(prompt.text, prompt.history))


def test_corpus_is_there_and_is_text() -> None:
    lines = sentences(read_text(CORPUS))
    assert len(lines) > 60
    assert all(line[0].isupper() or line[0] in "\"'" for line in lines)


def test_text_prompts_have_their_length_and_start_differently() -> None:
    warmups, measured = make(dataset="text", isl=200, num_prompts=40)
    assert len(measured) == 40
    for prompt in [*warmups, *measured]:
        assert abs(tokens(prompt) - prompt.isl) <= 1
    assert len({" ".join(prompt.text.split()[:4]) for prompt in [*warmups, *measured]}) == 42
    lines = sentences(read_text(CORPUS))
    assert any(line in prompt.text for prompt in measured for line in lines)


def test_text_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("Only this one sentence is in it. And this one too.")
    _, measured = make(dataset="text", dataset_file=str(file))
    assert all("this one" in prompt.text for prompt in measured)
    file.write_text("no")
    with pytest.raises(BenchmarkError, match="has no sentence"):
        make(dataset="text", dataset_file=str(file))


def test_shared_prefixes_are_shared_by_their_group_only() -> None:
    _, measured = make(prefix_tokens=30, prefix_groups=2, range_ratio=1.0)
    starts = [tuple(prompt.text.split()[:30]) for prompt in measured]
    assert starts[0] == starts[2] == starts[4]
    assert starts[1] == starts[3] != starts[0]
    assert len({prompt.text for prompt in measured}) == 8
    assert len({prompt.text.split()[30] for prompt in measured}) > 1
    assert all(abs(tokens(prompt) - 64) <= 1 for prompt in measured)
    with pytest.raises(BenchmarkError, match="shared prefix 80"):
        make(prefix_tokens=80)


def test_turns_carry_what_was_said_before() -> None:
    _, measured = make(turns=3, num_prompts=7, num_warmups=0)
    assert [prompt.index for prompt in measured] == list(range(7))
    assert [prompt.turn for prompt in measured] == [0, 1, 2, 0, 1, 2, 0]
    first, second, third = measured[:3]
    assert first.history == ()
    assert [role for role, _ in third.history] == ["user", "assistant", "user", "assistant"]
    assert third.history[:2] == second.history
    assert second.history[0] == ("user", first.text)
    assert len(second.history[1][1].split()) == first.osl
    assert all(tokens(prompt) == prompt.isl for prompt in measured[1:3])


def test_shares_are_the_whole_and_do_not_overlap() -> None:
    whole = {prompt.index: prompt for prompt in make(turns=2, num_prompts=9, conc=4, workers=1)[1]}
    parts: dict[int, Prompt] = {}
    for share in range(3):
        plan = LoadPlan(
            "http://x",
            "m",
            replace(WORKLOAD, turns=2, num_prompts=9, conc=4, workers=3),
            share=share,
        )
        mine = asyncio.run(Composer(plan, count).compose(lambda done, total: None))[1]
        assert not parts.keys() & {prompt.index for prompt in mine}
        parts |= {prompt.index: prompt for prompt in mine}
    assert parts == whole


SHAREGPT = [
    {
        "id": "a",
        "conversations": [
            {"from": "human", "value": "one two"},
            {"from": "gpt", "value": "three four five"},
        ],
    },
    {"conversations": [{"from": "gpt", "value": "begins wrongly"}]},
    {
        "conversations": [
            {"from": "system", "value": "be brief"},
            {"from": "human", "value": "hello"},
            {"from": "gpt", "value": "hi"},
            {"from": "human", "value": "bye now"},
        ]
    },
]


def test_sharegpt() -> None:
    found = parse_sharegpt(json.dumps(SHAREGPT), "x.json")
    assert found == (
        Conversation((Turn("one two", "three four five"),)),
        Conversation((Turn("hello", "hi"), Turn("bye now")), "be brief"),
    )


def test_sharegpt_prompts_take_lengths_from_the_data(tmp_path: Path) -> None:
    file = tmp_path / "sharegpt.json"
    entries = [
        {
            "conversations": [
                {"from": "human", "value": "w " * size},
                {"from": "gpt", "value": "a " * 5},
            ]
        }
        for size in range(1, 30)
    ]
    file.write_text(json.dumps(entries))
    warmups, measured = make(dataset="sharegpt", dataset_file=str(file), isl=20)
    assert len({prompt.text for prompt in [*warmups, *measured]}) == 10
    assert all(tokens(prompt) == prompt.isl <= 20 for prompt in measured)
    assert all(prompt.osl == 5 for prompt in measured)
    with pytest.raises(
        BenchmarkError, match=r"has 16 conversations of 1 turns .* the run needs 32"
    ):
        make(dataset="sharegpt", dataset_file=str(file), isl=20, num_prompts=30)


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    lines = [
        {"prompt": "one two", "output_tokens": 7},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "three"}]},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    _, measured = make(dataset="jsonl", dataset_file=str(file), num_prompts=2, num_warmups=0)
    by_text = {prompt.text: prompt for prompt in measured}
    assert by_text["one two"].osl == 7
    assert by_text["three"].history == (("system", "s"),)
    assert by_text["three"].osl == 16


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "d.jsonl:2: not JSON"),
        ("[1]", "d.jsonl:2: not a JSON object"),
        ("{}", "d.jsonl:2: needs `prompt`, or `messages`"),
        (
            '{"messages": [{"role": "assistant", "content": "x"}]}',
            "d.jsonl:2: `messages` must be text and begin with a user's",
        ),
        ('{"messages": [{"role": "user", "content": [1]}]}', "d.jsonl:2: `messages` must be text"),
        ('{"prompt": "x", "output_tokens": 0}', "d.jsonl:2: `output_tokens` must be a number"),
    ],
)
def test_bad_lines_are_named(line: str, words: str) -> None:
    with pytest.raises(BenchmarkError, match=words.replace("[", r"\[")) as found:
        parse_jsonl('{"prompt": "x"}\n' + line, "d.jsonl")
    assert found.value.failure.failure_class == "recipe"


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[1]", '[{"conversations": [{"from": "human"}]}]', "[]"]
)
def test_bad_sharegpt_is_one_sentence(text: str) -> None:
    with pytest.raises(BenchmarkError, match=r"x\.json"):
        parse_sharegpt(text, "x.json")


TRACE = """
{"timestamp": 3000, "input_length": 20, "output_length": 3, "hash_ids": [1]}
{"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
{"timestamp": 2000, "input_length": 600, "output_length": 4, "hash_ids": [1, 3]}
"""


def test_trace_keeps_times_lengths_and_shared_blocks(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(TRACE)
    chosen: dict[str, Any] = {
        "dataset": "trace",
        "arrival": "trace",
        "dataset_file": str(file),
        "num_prompts": 10,
    }
    warmups, measured = make(**chosen, time_scale=0.5)
    assert [prompt.due for prompt in measured] == [0.0, 0.5, 1.0]
    assert [prompt.osl for prompt in measured] == [5, 4, 3]
    assert [tokens(prompt) for prompt in measured] == [600, 600, 20]
    first, second, third = (prompt.text.split() for prompt in measured)
    assert first[:512] == second[:512]
    assert first[512:] != second[512:]
    assert third == first[:16]
    assert len(warmups) == 2
    assert all(prompt.due is None for prompt in warmups)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        '{"timestamp": "now", "input_length": 1, "output_length": 1}',
        '{"timestamp": 1, "input_length": 0, "output_length": 1}',
    ],
)
def test_bad_traces_are_one_sentence(line: str) -> None:
    with pytest.raises(BenchmarkError, match=r"t\.jsonl"):
        parse_trace(line, "t.jsonl")


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="cannot be read: No such file"):
        make(dataset="jsonl", dataset_file=str(tmp_path / "none"))


@given(st.text())
def test_parsers_fail_in_one_way_only(text: str) -> None:
    for parse in (parse_jsonl, parse_sharegpt, parse_trace):
        with suppress(BenchmarkError):
            parse(text, "name")


def test_a_dataset_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_gpubench.load.datasets.MAX_BYTES", 1000)
    monkeypatch.setattr("pytest_gpubench.load.datasets.MAX_LINE", 100)
    path = tmp_path / "x.jsonl"
    path.write_text("x" * 1001)
    with pytest.raises(BenchmarkError, match="too large"):
        read_text(path)
    failure = dataset_problem(
        Workload(
            isl=8,
            osl=8,
            conc=1,
            num_prompts=1,
            num_warmups=0,
            dataset="jsonl",
            dataset_file=str(path),
        )
    )
    assert failure is not None
    assert "too large" in failure.summary
    with pytest.raises(BenchmarkError, match="x:2: the line is too long: 101 characters"):
        parse_jsonl('{"prompt": "a"}\n' + "y" * 101, "x")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"prompt": ' * 100_000, '{"prompt": ' + "9" * 5000]
)
def test_no_nesting_or_number_of_a_dataset_is_too_strange(text: str) -> None:
    for parse in (parse_jsonl, parse_sharegpt, parse_trace):
        with pytest.raises(BenchmarkError):
            parse(text, "x")


def test_a_dataset_that_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        workload = Workload(
            isl=8,
            osl=8,
            conc=1,
            num_prompts=1,
            num_warmups=0,
            dataset="jsonl",
            dataset_file=str(path),
        )
        assert dataset_problem(workload) is not None
        assert comparable(workload)["dataset_file"] == "unreadable"
        with pytest.raises(BenchmarkError, match="cannot be read"):
            read_text(path)
