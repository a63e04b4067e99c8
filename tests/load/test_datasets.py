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
    comparable,
    dataset_problem,
    parse_jsonl,
    parse_sharegpt,
    read_text,
    sentences,
)
from pytest_gpubench.load.prompts import Message, Prompt
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.traces import TraceRow, parse_trace
from pytest_gpubench.model.failures import BenchmarkError, Failure
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
    assert found.found == (
        Conversation((("user", "one two"), ("assistant", "three four five")), "entry 1"),
        Conversation(
            (("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "bye now")),
            "entry 3",
        ),
    )
    assert found.left_out == ()


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


def lines_of(*entries: dict[str, Any]) -> str:
    return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)


def test_recorded_requests_are_sent_whole(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    file.write_text(lines_of({"messages": chat, "max_tokens": 12}))
    (prompt,) = make(dataset="jsonl", dataset_file=str(file), num_prompts=1, num_warmups=0)[1]
    assert (prompt.text, prompt.osl) == ("four", 12)
    assert prompt.history == (
        ("system", "be brief"),
        ("user", "one"),
        ("user", "two"),
        ("assistant", "three"),
    )


@pytest.mark.parametrize("key", ["max_tokens", "output_len", "max_completion_tokens"])
def test_the_length_of_an_answer_has_many_names(key: str) -> None:
    (found,) = parse_jsonl(lines_of({"prompt": "x", key: 3}), "d.jsonl").found
    assert found.output_tokens == 3
    with pytest.raises(BenchmarkError, match=r"d.jsonl:1: .* disagree"):
        parse_jsonl(lines_of({"prompt": "x", key: 3, "output_tokens": 4}), "d.jsonl")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": "a"}, {"role": "tool", "content": "42"}], "role 'tool'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "must be text"),
        ([{"role": "user", "content": None}], "must be text"),
        ([{"role": "system", "content": "alone"}], "begin with a user"),
    ],
)
def test_what_cannot_be_sent_again_is_named(messages: list[Any], words: str) -> None:
    with pytest.raises(BenchmarkError, match=f"d.jsonl:1: .*{words}"):
        parse_jsonl(lines_of({"messages": messages}), "d.jsonl")


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("\ufeff" + lines_of({"prompt": "a\u2028b"}, {"prompt": "c\u0085d"}) + "\r\n")
    found = parse_jsonl(read_text(file), "x.jsonl").found
    assert [one.messages[0][1] for one in found] == ["a\u2028b", "c\u0085d"]


@pytest.mark.parametrize("value", [None, 5, ["a"], {"a": 1}, True])
def test_values_that_are_no_text_are_left_out_and_counted(value: Any, tmp_path: Path) -> None:
    odd = [{"conversations": [{"from": "human", "value": value}]}]
    found = parse_sharegpt(json.dumps([*odd, *SHAREGPT]), "x.json")
    assert found.left_out == ("entry 1: the value of its message 1 is no text",)
    with pytest.raises(BenchmarkError, match="left out: entry 1"):
        parse_sharegpt(json.dumps(odd), "x.json")


CHINESE = "潮水沿着长长的海岸慢慢上涨。渔夫们在天亮以前就把网拖上了岸。"
JAPANESE = "潮が長い海岸に沿ってゆっくり満ちる。漁師は夜明け前に網を引いた。"
THAI = "น้ำขึ้นช้าๆตามชายฝั่งยาว ชาวประมงลากอวนขึ้นฝั่งก่อนรุ่งสาง " * 200


@pytest.mark.parametrize(("text", "number"), [(CHINESE, 2), (JAPANESE, 2), (THAI, 2)])
def test_text_of_any_script_has_sentences(text: str, number: int, tmp_path: Path) -> None:
    assert len(sentences(text)) == number
    file = tmp_path / "text.txt"
    file.write_text(text * 20)
    _, measured = make(dataset="text", dataset_file=str(file))
    assert all(abs(tokens(prompt) - prompt.isl) <= 1 for prompt in measured)
    assert all(text[:3] in prompt.text for prompt in measured)


def test_what_a_template_refuses_is_left_out(tmp_path: Path) -> None:
    async def strict(text: str, history: tuple[Message, ...] = ()) -> int:
        if not text or any(role == "system" for role, _ in history):
            raise BenchmarkError(Failure("prompt-refused", "recipe", "no system role here"))
        return await count(text, history)

    file = tmp_path / "sharegpt.json"
    plain = {"conversations": [{"from": "human", "value": "w"}, {"from": "gpt", "value": "a b"}]}
    system = {"conversations": [{"from": "system", "value": "s"}, *plain["conversations"]]}
    file.write_text(json.dumps([system, *[plain] * 10]))
    chosen = replace(WORKLOAD, dataset="sharegpt", dataset_file=str(file))
    composer = Composer(LoadPlan("http://x", "m", chosen), strict)
    _, measured = asyncio.run(composer.compose(lambda done, total: None))
    assert [prompt.osl for prompt in measured] == [2] * 8
    told = [words for _, words in composer.notes]
    assert told == [] or told == [f"{file}: 1 left out: entry 1: no system role here"]
    file.write_text(json.dumps([system]))
    composer = Composer(LoadPlan("http://x", "m", chosen), strict)
    with pytest.raises(BenchmarkError, match="left out: entry 1: no system role here"):
        asyncio.run(composer.compose(lambda done, total: None))


def test_blocks_of_a_trace_are_as_large_as_its_prompts_say() -> None:
    """Mooncake's have 512 tokens, those of Qwen-Bailian 16."""
    row = '{{"timestamp": 1.5, "input_length": {}, "output_length": 3, "hash_ids": {}}}\n'
    fine = row.format(521, list(range(33))) + row.format(48, list(range(3)))
    found = parse_trace(fine, "t")
    assert found.block_tokens == 16
    assert ("trace-blocks", "t: `hash_ids` are read as blocks of 16 tokens") in found.notes
    assert parse_trace(row.format(600, [1]) + row.format(513, [1, 2]), "t").block_tokens == 512
    with pytest.raises(BenchmarkError, match="more `hash_ids` than input tokens"):
        parse_trace(row.format(3, [1, 2, 3, 4]), "t")


def test_prompts_share_blocks_of_that_size(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    row = '{{"timestamp": 1.5, "input_length": 64, "output_length": 3, "hash_ids": {}}}\n'
    file.write_text(row.format([1, 2, 3, 4]) + row.format([1, 2, 5, 6]))
    _, measured = make(dataset="trace", arrival="trace", dataset_file=str(file), num_prompts=2)
    one, other = (prompt.text.split() for prompt in measured)
    assert one[:32] == other[:32]
    assert one[32:48] != other[32:48]


def test_half_of_a_surrogate_pair_is_no_text() -> None:
    talks = [
        {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "b"}]}
        for text in ("\ud83d", "a")
    ]
    found = parse_sharegpt(json.dumps(talks), "x")
    assert found.left_out == ("entry 1: the value of its message 1 is no text",)


MOONCAKE = """{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 48]}"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,Conversation log"""
SECONDS = """{"timestamp": 0.0, "input_length": 40, "output_length": 6}
{"timestamp": 0.2, "input_length": 40, "output_length": 6}"""


@pytest.mark.parametrize(
    ("text", "second", "codes"),
    [
        (MOONCAKE, TraceRow(3.053, 6472, 26, (46, 48)), []),
        (AZURE, TraceRow(4.314579, 396, 109), []),
        (BURSTGPT, TraceRow(113.0, 417, 276), ["entries-left-out", "trace-in-seconds"]),
        (SECONDS, TraceRow(0.2, 40, 6), ["trace-in-seconds"]),
    ],
    ids=["mooncake", "azure", "burstgpt", "seconds"],
)
def test_traces_as_they_are_published(text: str, second: TraceRow, codes: list[str]) -> None:
    found = parse_trace(text, "t")
    assert [code for code, _ in found.notes] == codes
    row = found.rows[1]
    assert row.seconds == pytest.approx(second.seconds, abs=1e-6)
    assert replace(row, seconds=0.0) == replace(second, seconds=0.0)
