"""The second engine of an A/B run: what the option says, and what it makes of a server."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.engines.against import Against, differences, parse_against
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

DRAFT = Speculative("eagle3", 3, "some/draft")
SPEC = ServerSpec(
    "vllm",
    "some/model",
    "h100",
    Topology(tp=2),
    FrozenMap({"block-size": 128, "enable-prefix-caching": False, "dtype": "bfloat16"}),
    speculative=DRAFT,
    env=FrozenMap({"A": "1"}),
)
PYTHON = "/opt/next/bin/python -m vllm.entrypoints.openai.api_server"


def _which(word: str) -> str | None:
    return word if word in ("/opt/next/bin/python", "vllm", "./serve.sh") else None


def _parsed(text: str) -> Against:
    return parse_against(text, _which)


def test_flags_are_laid_over_those_of_the_recipe() -> None:
    second = _parsed(
        "--block-size 256 --async-scheduling --no-enforce-eager --gpu_memory_utilization=0.8"
    ).applied(SPEC)
    assert second.serve == FrozenMap(
        {
            **SPEC.serve,
            "block-size": 256,
            "async-scheduling": True,
            "enforce-eager": False,
            "gpu-memory-utilization": 0.8,
        }
    )
    argv = VLLM.render(second, ["vllm", "serve"], served_name="x").argv
    assert argv[argv.index("--block-size") + 1] == "256"
    assert {"--async-scheduling", "--no-enforce-eager", "--no-enable-prefix-caching"} <= set(argv)
    assert (second.model, second.topology, second.speculative) == (
        SPEC.model,
        SPEC.topology,
        SPEC.speculative,
    )


def test_lists_maps_and_words_are_values() -> None:
    found = _parsed(
        """--sizes 1 2 4 --hf-overrides '{"a": {"b": -1}}' --dtype float16 --seed -1"""
    ).serve
    assert found == FrozenMap(
        {"sizes": (1, 2, 4), "hf-overrides": {"a": {"b": -1}}, "dtype": "float16", "seed": -1}
    )


def test_a_command_an_environment_and_flags_go_together() -> None:
    found = _parsed(f"VLLM_X=1 A= {PYTHON} --block-size 64")
    assert found.command == tuple(PYTHON.split())
    assert found.env == FrozenMap({"VLLM_X": "1", "A": ""})
    second = found.applied(SPEC)
    assert second.command == found.command
    assert second.env == FrozenMap({"A": "", "VLLM_X": "1"})
    assert differences(SPEC, second, ("vllm", "serve")) == (
        f"command {PYTHON} instead of vllm serve",
        "--block-size 64 instead of 128",
        "A  instead of 1",
        "VLLM_X 1 instead of not given",
    )


def test_the_recipes_own_command_is_replaced() -> None:
    from dataclasses import replace

    second = _parsed("./serve.sh").applied(replace(SPEC, command=("vllm", "serve")))
    assert second.command == ("./serve.sh",)


def test_the_draft_can_be_taken_away_or_replaced() -> None:
    without = _parsed("--no-speculative-config").applied(SPEC)
    assert without.speculative is None
    assert len(differences(SPEC, without)) == 1
    other = _parsed(
        """--speculative-config '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}'"""
    )
    assert other.applied(SPEC).speculative == Speculative(
        "ngram", 5, options=FrozenMap({"prompt_lookup_max": 4})
    )


def test_two_recipes_may_differ_in_everything_but_the_work() -> None:
    second = ServerSpec(
        "vllm",
        "some/other",
        "h100",
        Topology(tp=2),
        FrozenMap({"block-size": 128, "enable-prefix-caching": False}),
        revision="v2",
        speculative=DRAFT,
        extra_args=("--new", "1"),
        image="vllm:v2",
    )
    assert differences(SPEC, second) == (
        "model some/other instead of some/model",
        "revision v2 instead of none",
        "image vllm:v2 instead of none",
        "--dtype not given instead of bfloat16",
        "extra-args --new 1 instead of none",
        "A not given instead of 1",
    )


def test_the_same_engine_differs_in_nothing() -> None:
    assert differences(SPEC, _parsed("--block-size 128").applied(SPEC)) == ()
    assert differences(SPEC, _parsed("vllm serve").applied(SPEC), ("vllm", "serve")) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; give another engine's command"),
        ("'", "check its quotes"),
        (
            "vllm/vllm-openai:v0.25.0",
            "looks like an image. No container is started, the run must be in it already",
        ),
        ("vllm/vllm-openai", "looks like an image"),
        ("nvcr.io/nvidia/vllm@sha256:00ff", "looks like an image"),
        ("0.25.1", "names a version"),
        ("vllm==0.25.1", "names a version"),
        ("nowhere serve", "no executable on PATH"),
        ("/opt/missing/bin/python -m vllm", "no executable on PATH and no path of one"),
        ("/opt/next/bin/python", "names an interpreter and no program: add the engine's module"),
        ("-O3", "long form"),
        ("-- --block-size 1", "long form"),
        ("--block-size 256 --block_size 128", "--block-size twice"),
        ("--block-size 256 --no-block-size", "--block-size twice"),
        ("--no-x 1", "takes none"),
        ("--hf-overrides '{a}'", "not valid JSON"),
        ("--tensor-parallel-size 4", "the row of the search space"),
        ("--port 80", "the plugin chooses it"),
        ("--gpu-memory-utilization 7", "--gpu-memory-utilization"),
        ("""--hf-overrides '{"a": NaN}'""", "not valid JSON"),
        ("--speculative-config eagle3", "no JSON map"),
        ("""--speculative-config '{"method": "ngram"}'""", "num_speculative_tokens"),
        ("HF_TOKEN=hf_x", "sets HF_TOKEN, which"),
        ("A=1 A=2", "sets A twice"),
    ],
)
def test_anything_else_is_a_sentence(text: str, words: str) -> None:
    with pytest.raises(GpubenchError) as error:
        _parsed(text)
    assert words in str(error.value)
    assert "--gpubench-against" in str(error.value)


@given(st.text(alphabet="-=ab1. '\"{}/:@_", max_size=40))
def test_any_text_is_understood_or_refused_in_a_sentence(text: str) -> None:
    with contextlib.suppress(GpubenchError):
        second = parse_against(text, lambda word: word if word.startswith("a") else None).applied(
            SPEC
        )
        assert all(differences(SPEC, second, ("vllm",)))
