"""Command lines of others, read back."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from pytest_gpubench.dialects.command_reading import (
    comparable,
    differences,
    meaning,
    read_options,
    settings_of,
    started,
)
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

VLLM, SGLANG = dialect_of("vllm"), dialect_of("sglang")


@pytest.mark.parametrize(
    ("line", "engine", "before", "first"),
    [
        ("vllm serve m --x", "vllm", (), "m"),
        ("/opt/bin/vllm serve m", "vllm", (), "m"),
        ("A=1 python3 -u -m vllm.entrypoints.openai.api_server --x", "vllm", ("A=1",), "--x"),
        ("python -m vllm.entrypoints.cli.main serve m", "vllm", (), "m"),
        (
            "numactl -N 0 python3.12 -m sglang.launch_server --x",
            "sglang",
            ("numactl", "-N", "0"),
            "--x",
        ),
        ("sglang serve --x", "sglang", (), "--x"),
    ],
)
def test_the_start_of_an_engine(
    line: str, engine: str, before: tuple[str, ...], first: str
) -> None:
    start = started(shlex.split(line))
    assert start is not None
    assert (start.dialect.name, start.before, start.options[0]) == (engine, before, first)


@pytest.mark.parametrize("line", ["", "ls", "vllm bench serve", "echo -m sglang.launch_server"])
def test_no_start_of_an_engine(line: str) -> None:
    assert started(line.split()) is None


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("-tp 8 -ep", {"tensor-parallel-size": 8, "enable-expert-parallel": True}),
        ("--tensor_parallel_size=8", {"tensor-parallel-size": 8}),
        ("--tensor-par 8", {"tensor-parallel-size": 8}),
        ("--no-enable-prefix-caching", {"enable-prefix-caching": False}),
        ("--a_b -1 --c 0.90 --d x y", {"a-b": -1, "c": 0.9, "d": ("x", "y")}),
        ("--a 1 --a 2", {"a": 2}),
        ("-O3 -cc.mode=3", {"-O3": True, "compilation-config": {"mode": 3}}),
        ('--a \'{"b": {"c": null}}\'', {"a": {"b": {"c": None}}}),
        ("--a_b.c_d.e True --a-b.f x", {"a-b": {"c_d": {"e": True}, "f": "x"}}),
        ("--a.b 1 --a.b.c 2", {"a": {"b": {"c": 2}}}),
        ("--x= --y ''", {"x": "", "y": ""}),
    ],
)
def test_options_have_the_values_that_the_parser_gives_them(
    line: str, settings: dict[str, Any]
) -> None:
    assert settings_of(read_options(shlex.split(line), VLLM.flags)[1]) == settings


def test_a_word_behind_a_flag_of_one_value_belongs_to_none() -> None:
    assert read_options(["--port", "1", "m"], VLLM.flags)[0] == ("m",)


def test_sglangs_names_of_one_flag() -> None:
    for line in ("--tp 2", "--tp-size=2", "--tensor-parallel-size 2"):
        assert comparable(SGLANG, line.split()) == {"tp-size": 2}


def test_what_every_launch_has_anew_is_not_compared() -> None:
    line = "m --host h --port 1 --served-model-name x --api-key k -dp 1 -tp 1 -pp 2 --a"
    assert comparable(VLLM, line.split()) == {"model": "m", "pipeline-parallel-size": 2, "a": True}
    assert comparable(SGLANG, ["--model", "m", "--enable-metrics"]) == {"model": "m"}


def test_differences_are_named_down_to_the_key() -> None:
    ours = {"a": {"b": 1, "c": 2}, "d": True, "e": (1, 2), "f": 8}
    theirs = {"a": {"b": 1, "c": 3}, "d": 1, "e": [1, 2], "g": "x", "f": 8.0}
    found = list(differences(ours, theirs))
    assert found == [("a.c", 2, 3), ("d", True, 1), ("g", None, "x")]


def test_words_are_read_as_what_they_say() -> None:
    words = ["1", "-1.5", "01", "1e3", "true", "False", "x", "[1]", "{", "9" * 20]
    assert [meaning(word) for word in words] == [
        *(1, -1.5, "01", 1000.0, True, False, "x", [1], "{", "9" * 20),
    ]


TOPOLOGIES = [Topology(), Topology(8), Topology(8, ep=8), Topology(4, pp=2), Topology(8, dcp=2)]
DRAFTS = [
    Speculative("eagle3", 3, "org/draft", revision="abc", attention_backend="FLASH_ATTN"),
    Speculative("eagle3", 3, "org/draft", options=FrozenMap({"topk": 4, "draft_tokens": 9})),
    Speculative("mtp", 1),
    Speculative("ngram", 5),
]


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("dialect", [VLLM, SGLANG], ids=["vllm", "sglang"])
def test_a_draft_is_read_back_as_it_was_written(dialect: Any, draft: Speculative) -> None:
    if dialect.draft_error(draft):
        return
    spec = ServerSpec(dialect.name, "m", "h100", Topology(8), FrozenMap(), speculative=draft)
    words = tuple(dialect.words(spec, ("x",), "n"))[1:]
    keys = dialect.draft_keys(settings_of(read_options(words, dialect.flags)[1]))
    written = draft.config() | dict(draft.options)
    assert keys == {name.replace("_", "-"): value for name, value in written.items()}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--speculative-config x", "is no JSON object"),
        ("--speculative-num-steps 3", "speculative-algorithm is None"),
        (
            "--speculative-algorithm EAGLE3 --speculative-draft-model-path m",
            "num-steps is not given",
        ),
    ],
)
def test_a_draft_that_cannot_be_read(line: str, says: str) -> None:
    dialect = VLLM if "config" in line else SGLANG
    settings = settings_of(read_options(line.split(), dialect.flags)[1])
    with pytest.raises(ValueError, match=says):
        dialect.draft_keys(settings)
