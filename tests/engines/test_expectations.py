from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.engines.engine import EngineCheck, check_engine
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology
from tests.engines.conftest import facts_of_lines

DATA = Path(__file__).parent / "data"
DRAFT = Speculative("eagle3", 3, "/models/m3d", attention_backend="FLASH_ATTN")


def dep2() -> tuple[ServerSpec, EngineFacts]:
    lines = (DATA / "m3mini-mxfp8-eagle3-dep2-h200-ready.log").read_text().splitlines()
    facts = dataclasses.replace(facts_of_lines(lines), served_names=("m",), block_size=128)
    spec = ServerSpec(
        "vllm",
        "/models/m3q",
        "h200",
        Topology(tp=2, ep=2, dp_attn=True),
        FrozenMap({"block-size": 128, "max-model-len": 2304, "enable-prefix-caching": False}),
        speculative=DRAFT,
        requires=FrozenMap({"vllm": ">=0.24"}),
    )
    return spec, facts


def check(
    changes: Mapping[str, object] | None = None,
    facts_changes: Mapping[str, object] | None = None,
    name: str = "m",
) -> EngineCheck:
    spec, facts = dep2()
    spec = dataclasses.replace(spec, **(changes or {}))  # type: ignore[arg-type]
    facts = dataclasses.replace(facts, **(facts_changes or {}))  # type: ignore[arg-type]
    return check_engine(spec, facts, served_name=name)


def test_an_engine_that_runs_as_asked() -> None:
    result = check()
    assert result.ok
    assert result.unseen == ()
    assert {
        "served name",
        "data parallel size",
        "expert parallelism",
        "draft attention backend",
        "engine version",
    } <= set(result.checked)


@pytest.mark.parametrize(
    ("spec_changes", "facts_changes", "sentence"),
    [
        (
            {"topology": Topology(tp=4)},
            {},
            "tensor parallel size: the recipe asks for 4, the engine runs with 1.",
        ),
        (
            {"topology": Topology(tp=2)},
            {},
            "expert parallelism: the recipe asks for off, the engine runs with on.",
        ),
        (
            {},
            {"data_parallel_size": 1},
            "data parallel size: the recipe asks for 2, the engine runs with 1.",
        ),
        (
            {"topology": Topology(tp=2, pp=2, ep=2, dp_attn=True)},
            {},
            "pipeline parallel size: the recipe asks for 2",
        ),
        ({}, {"block_size": 16}, "block size: the recipe asks for 128, the engine runs with 16."),
        (
            {},
            {"enable_prefix_caching": True},
            "prefix caching: the recipe asks for off, the engine runs with on.",
        ),
        (
            {},
            {"max_model_len": 1024},
            "maximum model length: the recipe asks for 2304, the engine runs with 1024.",
        ),
        (
            {},
            {"num_speculative_tokens": 1},
            "speculative tokens: the recipe asks for 3, the engine runs with 1.",
        ),
        (
            {},
            {"speculative_method": ""},
            "speculative method: the recipe asks for eagle3, the engine runs with none.",
        ),
        (
            {"speculative": None},
            {},
            "speculative decoding: the recipe asks for none, the engine runs with eagle3.",
        ),
        (
            {},
            {"draft_attention_backend": "FLASHINFER"},
            "draft attention backend: the recipe asks for FLASH_ATTN",
        ),
        (
            {"requires": FrozenMap({"vllm": ">=0.30"})},
            {},
            "requires.vllm: the recipe needs >=0.30, the engine is 0.26.0.",
        ),
        (
            {"serve": FrozenMap({"api-server-count": 4})},
            {},
            "API servers: the recipe asks for 4, the engine runs with 2.",
        ),
        (
            {},
            {"served_names": ("other",)},
            "served name: the recipe asks for m, the engine runs with other.",
        ),
    ],
)
def test_each_deviation_is_one_sentence(
    spec_changes: dict[str, object], facts_changes: dict[str, object], sentence: str
) -> None:
    result = check(spec_changes, facts_changes)
    assert any(text.startswith(sentence) for text in result.deviations), result.deviations


def test_what_the_engine_does_not_say_is_listed_and_not_held_against_it() -> None:
    result = check({}, {"draft_attention_backend": None, "block_size": None})
    assert result.ok
    assert [text.split(":")[0] for text in result.unseen] == [
        "block size",
        "draft attention backend",
    ]


def test_attached_without_a_log_nothing_is_claimed() -> None:
    spec, _ = dep2()
    result = check_engine(
        spec,
        EngineFacts(version="0.26.0", served_names=("m",), max_model_len=2304),
        served_name="m",
    )
    assert result.ok
    assert set(result.checked) == {"served name", "maximum model length", "engine version"}
    assert {text.split(":")[0] for text in result.unseen} == {
        "tensor parallel size",
        "data parallel size",
        "pipeline parallel size",
        "expert parallelism",
        "block size",
        "prefix caching",
        "speculative method",
        "speculative tokens",
        "draft attention backend",
    }


def test_on_the_cpu_the_one_backend_there_is_satisfies_any_wish() -> None:
    cpu = {"device": "cpu", "attention_backend": "CPU_ATTN", "draft_attention_backend": "CPU_ATTN"}
    result = check(
        {"hardware": "cpu", "serve": FrozenMap({"attention-backend": "FLASH_ATTN"})}, cpu
    )
    assert result.ok
    assert "attention backend" in result.checked


def test_all_mtp_variants_have_one_name_in_the_engine() -> None:
    draft = Speculative("deepseek_mtp", 3)
    assert check({"speculative": draft}, {"speculative_method": "mtp"}).ok


def test_the_kernels_of_a_quantized_minimax_m3_on_hopper() -> None:
    result = check({"serve": FrozenMap({"max-cudagraph-capture-size": 64})})
    assert result.ok
    assert {"sparse attention", "MXFP8 experts", "MXFP8 matrices", "largest captured batch"} <= set(
        result.checked
    )


@pytest.mark.parametrize(
    ("serve", "facts_changes", "deviation"),
    [
        (
            {},
            {"other_backends": FrozenMap({"sparse_attention": "MSA"})},
            "sparse attention: model, GPU and recipe call for Triton",
        ),
        (
            {},
            {"other_backends": FrozenMap({"moe": "TRITON"})},
            "MXFP8 experts: model, GPU and recipe call for MARLIN",
        ),
        (
            {"max-cudagraph-capture-size": 1024},
            {},
            "largest captured batch: model, GPU and recipe call for 1024, the engine runs with 64",
        ),
        (
            {"max-cudagraph-capture-size": 16},
            {},
            "largest captured batch: model, GPU and recipe call for 16, the engine runs with 64",
        ),
    ],
)
def test_other_kernels_and_captures_are_deviations(
    serve: Mapping[str, object], facts_changes: Mapping[str, object], deviation: str
) -> None:
    result = check({"serve": FrozenMap(serve)}, facts_changes)
    assert any(found.startswith(deviation) for found in result.deviations), result.deviations


HUMMING = {"moe": "HUMMING", "linear": "HummingMxfp8LinearKernel", "sparse_attention": "Triton"}
MARLIN = {"moe": "MARLIN", "linear": "MarlinMxfp8LinearKernel", "sparse_attention": "Triton"}


@pytest.mark.parametrize(
    ("version", "backends"),
    [("0.31.0", MARLIN), ("0.32.0", HUMMING), ("0.33.0.dev7+g12", HUMMING), ("", HUMMING)],
)
def test_on_hopper_mxfp8_runs_as_its_version_chooses(
    version: str, backends: dict[str, str]
) -> None:
    """Since 0.32 Humming stands before Marlin there; seen on an H200."""
    any_version = {"requires": FrozenMap()}
    result = check(any_version, {"version": version, "other_backends": FrozenMap(backends)})
    assert result.ok, result.deviations
    slow = FrozenMap({**backends, "moe": "EMULATION", "linear": "EmulationMxfp8LinearKernel"})
    found = check(any_version, {"version": version, "other_backends": slow}).deviations
    assert len(found) == 2


def test_before_humming_stood_first_it_was_the_recipes_affair() -> None:
    result = check({}, {"version": "0.26.0", "other_backends": FrozenMap(HUMMING)})
    assert [found.partition(":")[0] for found in result.deviations] == [
        "MXFP8 experts",
        "MXFP8 matrices",
    ]


def test_a_backend_that_the_recipe_names_is_the_recipes_affair() -> None:
    result = check(
        {"serve": FrozenMap({"moe-backend": "humming", "linear-backend": "humming"})},
        {
            "other_backends": FrozenMap(
                {"moe": "HUMMING", "linear": "HummingKernel", "sparse_attention": "Triton"}
            )
        },
    )
    assert result.ok


def test_a_capture_limit_between_two_sizes_is_kept_as_the_engine_rounds_it() -> None:
    assert check({"serve": FrozenMap({"max-cudagraph-capture-size": 70})}).ok


@pytest.mark.parametrize(
    ("spec_changes", "facts_changes", "sentence"),
    [
        (
            {},
            {"owned_by": "sglang"},
            "engine: the recipe asks for vllm, the engine runs with sglang.",
        ),
        (
            {},
            {"owned_by": "llamacpp"},
            "engine: the recipe asks for vllm, the engine runs with llamacpp.",
        ),
        (
            {"model": "org/a"},
            {"served_root": "org/b"},
            "served model: the recipe asks for org/a, the engine runs with org/b.",
        ),
        (
            {"model": "org/a"},
            {"served_root": "/hub/models--org--b/snapshots/0123/"},
            "served model: the recipe asks for org/a, the engine runs with org/b.",
        ),
        (
            {"env": FrozenMap({"VLLM_NO_SUCH": "1"})},
            {"unknown_variables": ("VLLM_NO_SUCH",)},
            "environment variable VLLM_NO_SUCH: the recipe sets it, the engine does not know it.",
        ),
    ],
)
def test_what_the_engine_says_that_it_is(
    spec_changes: dict[str, object], facts_changes: dict[str, object], sentence: str
) -> None:
    assert sentence in check(spec_changes, facts_changes).deviations


@pytest.mark.parametrize(
    "facts_changes",
    [
        {"owned_by": "vllm"},
        {"owned_by": None},
        {"served_root": "/models/m3q"},
        {"served_root": "/some/where"},
        {"served_root": "org/other"},
    ],
)
def test_what_cannot_be_told_apart_is_not_held_against_it(facts_changes: dict[str, object]) -> None:
    """The recipe names a folder: a repository's name says nothing about it."""
    assert check({}, facts_changes).ok


def test_a_variable_of_the_host_is_only_noted() -> None:
    found = check(
        {"env": FrozenMap({"VLLM_KNOWN": "1"})}, {"unknown_variables": ("VLLM_OF_THE_HOST",)}
    )
    assert found.ok
    assert (
        "environment variables of this host that the engine does not know: VLLM_OF_THE_HOST."
        in found.unseen
    )


def test_an_unknown_variable_is_read_from_the_log() -> None:
    line = (
        "(APIServer pid=1) WARNING 11-28 03:00:00 [envs.py:1811] Unknown vLLM environment "
        "variable detected: VLLM_OLD"
    )
    assert facts_of_lines([line, line]).unknown_variables == ("VLLM_OLD",)
