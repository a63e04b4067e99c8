"""Configs and flags of any kind, findings for people, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.doctor.configs import ModelConfigs, known_config, read_model_configs
from pytest_gpubench.doctor.context import memory_of
from pytest_gpubench.doctor.findings import (
    Finding,
    findings_for,
    format_findings,
    prognosis,
    unknown_rules,
    without,
)
from pytest_gpubench.doctor.rules import RULES, examine
from pytest_gpubench.doctor.server_settings import settings_of
from pytest_gpubench.doctor.shape import shape_of
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.policies import SHARING_POLICIES
from pytest_gpubench.model.specs import ServerSpec, Topology
from pytest_gpubench.recipes.loading import load_recipes
from tests.doctor.doctor_support import TINY_LLAMA, case, config, eagle3, server

ROOT = Path(__file__).parents[2]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in _keys(inner)}
    return set()


CONFIG_KEYS = sorted(
    _keys(config("m3mini-mxfp8"))
    | _keys(config("m3mini-eagle3"))
    | {"rope_scaling", "layer_types", "kv_lora_rank"}
)
CONFIGS = st.dictionaries(st.sampled_from(CONFIG_KEYS), VALUES, max_size=20)


def test_the_shape_of_minimax_m3() -> None:
    shape = shape_of(config("m3mini-mxfp8"))
    assert (
        shape.layers,
        shape.moe_layers,
        shape.experts,
        shape.heads,
        shape.kv_heads,
        shape.vision_heads,
    ) == (6, 3, 16, 16, 4, 8)
    assert (
        shape.quantization,
        shape.shared_intermediate,
        shape.dense_intermediate,
        shape.max_length,
    ) == (
        "mxfp8",
        512,
        2048,
        16384,
    )
    assert shape.sparse is not None
    assert (shape.sparse.block_size, shape.sparse.layers) == (128, 3)


def test_defaults_of_minimax_m3_are_filled_in() -> None:
    shape = shape_of(
        {"model_type": "minimax_m3_vl", "text_config": {"model_type": "minimax_m3_text"}}
    )
    assert (
        shape.hidden,
        shape.heads,
        shape.kv_heads,
        shape.experts,
        shape.moe_layers,
        shape.max_length,
    ) == (
        6144,
        64,
        4,
        128,
        57,
        524288,
    )


def test_what_a_config_does_not_give_is_unknown_and_no_rule_speaks_of_it() -> None:
    bare = shape_of({"model_type": "llama"})
    assert (
        bare.hidden,
        bare.heads,
        bare.head_dim,
        bare.max_length,
        bare.dense_layers,
        bare.attention,
    ) == (None,) * 6
    text = {
        "sparse_attention_config": {"use_sparse_attention": True, "sparse_attention_freq": [0, 1]}
    }
    sparse = {"model_type": "minimax_m3_vl", "text_config": text}
    found = examine(server(), (case(4),), hardware=HARDWARE["h100"], target=sparse)
    assert {finding.rule for finding in found} & {"minimax-m3-shape", "common-block-size"} == set()
    experts = {**TINY_LLAMA, "num_experts": 8, "intermediate_size": None}
    assert memory_of(server(), hardware=HARDWARE["h100"], target=experts) is None


@pytest.mark.parametrize(
    ("entries", "length"),
    [
        ({}, 4096),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4}}, 16384),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, 4096),
        ({"model_max_length": 2048}, 2048),
    ],
)
def test_the_longest_context(entries: dict[str, object], length: int) -> None:
    assert shape_of({**TINY_LLAMA, **entries}).max_length == length


@pytest.mark.parametrize(
    ("entries", "layers"),
    [
        ({"moe_layer_freq": [0, 1, 1, 1, 1, 1, 1, 1]}, 7),
        ({"first_k_dense_replace": 3}, 5),
        ({"decoder_sparse_step": 2}, 4),
        ({}, 8),
    ],
)
def test_layers_with_experts(entries: dict[str, object], layers: int) -> None:
    assert shape_of({**TINY_LLAMA, "num_experts": 4, **entries}).moe_layers == layers


@settings(max_examples=200)
@given(
    target=CONFIGS,
    text=CONFIGS,
    draft=CONFIGS,
    hardware=st.sampled_from(["cpu", "h100", "b200", "mi300x"]),
    tp=st.integers(1, 8),
)
def test_no_config_makes_the_doctor_raise(
    target: dict[str, Any], text: dict[str, Any], draft: dict[str, Any], hardware: str, tp: int
) -> None:
    spec = server(hardware=hardware, tp=tp, draft=eagle3(), block_size=128)
    for found in (target, {**target, "text_config": text}, {**text, "model_type": "minimax_m3_vl"}):
        assert isinstance(
            format_findings(
                examine(spec, (case(4),), hardware=HARDWARE[hardware], target=found, draft=draft)
            ),
            str,
        )


FLAG_NAMES = (
    "max-model-len",
    "max-num-seqs",
    "max-num-batched-tokens",
    "block-size",
    "max-cudagraph-capture-size",
    "cudagraph-capture-sizes",
    "compilation-config",
    "attention-config",
    "attention-config.backend",
    "attention-backend",
    "kv-cache-dtype",
    "quantization",
    "dtype",
    "load-format",
    "gpu-memory-utilization",
    "enable-eplb",
    "eplb-config",
    "hf-overrides",
    "cpu-offload-gb",
    "kv-cache-memory-bytes",
    "override-generation-config",
    "no-enable-chunked-prefill",
)


@settings(max_examples=200)
@given(
    flags=st.dictionaries(st.sampled_from(FLAG_NAMES), VALUES, max_size=8),
    words=st.lists(st.text(max_size=12), max_size=4),
)
def test_no_flag_makes_the_doctor_raise(flags: dict[str, Any], words: list[str]) -> None:
    spec = ServerSpec(
        "vllm",
        "org/model",
        "h100",
        Topology(tp=2),
        FrozenMap(flags),
        extra_args=("--max-num-seqs", *words),
    )
    assert isinstance(
        format_findings(
            examine(spec, (case(4),), hardware=HARDWARE["h100"], target=config("m3mini"))
        ),
        str,
    )


def test_defaults_follow_the_device_memory() -> None:
    for hardware, expected in (
        ("h100", (8192, 1024)),
        ("h200", (8192, 1024)),
        ("b200", (16384, 1024)),
        ("cpu", (2048, 128)),
    ):
        found = settings_of(
            server(hardware=hardware, max_num_seqs=None, max_num_batched_tokens=None),
            HARDWARE[hardware],
        )
        assert (found.max_num_batched_tokens, found.max_num_seqs) == expected


def test_lengths_with_units() -> None:
    assert settings_of(server(max_model_len="32k"), HARDWARE["h100"]).max_model_len == 32000
    assert settings_of(server(max_model_len="32K"), HARDWARE["h100"]).max_model_len == 32768
    assert settings_of(server(max_model_len=-1), HARDWARE["h100"]).max_model_len is None


def test_host_variables_count_by_their_default() -> None:
    env = {
        "VLLM_CPU_KVCACHE_SPACE": {"from": "SPACE", "default": "2"},
        "OTHER": {"from": "OTHER"},
        "UNSET": None,
    }
    assert settings_of(server(env=env), HARDWARE["cpu"]).environment == {
        "VLLM_CPU_KVCACHE_SPACE": "2"
    }


def finding(
    rule: str, severity: Any, cases: tuple[str, ...] = (), *, outcome_unknown: bool = False
) -> Finding:
    return Finding(
        rule,
        severity,
        f"{rule} is wrong.",
        "vLLM dies.",
        "Mend it.",
        "read in source",
        cases,
        outcome_unknown,
    )


def test_findings_are_shown_worst_first_with_sentence_remedy_and_evidence() -> None:
    shown = format_findings(
        [finding("b", "note", ("one",)), finding("a", "error")], title="server-tp8"
    )
    assert shown.splitlines() == [
        "server-tp8",
        "  ERROR a: a is wrong.",
        "      the engine would say: vLLM dies.",
        "      Mend it. (read in source)",
        "  NOTE b: b is wrong.",
        "      the engine would say: vLLM dies.",
        "      Mend it. (read in source)",
        "      cases: one",
    ]
    assert format_findings([]) == "  nothing found"
    assert "e and 2 more" not in format_findings([finding("b", "note", tuple("abcdef"))])
    assert "a, b, c, d and 2 more" in format_findings([finding("b", "note", tuple("abcdef"))])


def test_findings_of_one_case() -> None:
    whole, part = finding("a", "error"), finding("b", "error", ("one",))
    assert findings_for([whole, part], "one") == (whole, part)
    assert findings_for([whole, part], "two") == (whole,)


def test_silenced_rules() -> None:
    found = (finding("heads-by-tp", "error"), finding("b", "note"))
    assert without(found, ["heads-by-tp"]) == found[1:]
    ids = [rule.id for rule in RULES]
    assert unknown_rules(ids, ids) == ()
    (near, far) = unknown_rules(["head-by-tp", "xyz"], ids)
    assert "did you mean 'heads-by-tp'?" in near
    assert "gpubench doctor --rules" in far


def test_the_prognosis() -> None:
    assert prognosis([]) == "starts"
    assert prognosis([finding("a", "error", ("one",)), finding("b", "warning")]) == "starts"
    assert prognosis([finding("a", "warning", outcome_unknown=True)]) == "unknown"
    assert prognosis([finding("a", "error"), finding("b", "note", outcome_unknown=True)]) == "dies"


def test_a_folder_is_read(tmp_path: Path) -> None:
    target, draft = tmp_path / "target", tmp_path / "draft"
    target.mkdir()
    draft.mkdir()
    assert read_model_configs(target, draft) == ModelConfigs()
    (target / "config.json").write_text(json.dumps(TINY_LLAMA), encoding="utf-8")
    (target / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert read_model_configs(target) == ModelConfigs(TINY_LLAMA, None, False)
    (target / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert read_model_configs(target).chat_template is True
    assert read_model_configs(None) == ModelConfigs()
    beside = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (target / "hf_quant_config.json").write_text(json.dumps(beside))
    described = read_model_configs(target).target
    assert described is not None
    assert described["quantization_config"]["kv_cache_quant_algo"] == "FP8"


def test_a_template_inside_the_tokenizers_config(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": "{{ messages }}"}', encoding="utf-8"
    )
    assert read_model_configs(tmp_path).chat_template is True


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"{", "is not JSON"), (b"[]", "holds no JSON object"), (b"\xff\xfe", "is not JSON")],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(GpubenchError, match=sentence) as caught:
        read_model_configs(tmp_path)
    assert "\n" not in str(caught.value)


def test_known_repositories() -> None:
    known = known_config("MiniMaxAI/MiniMax-M3-MXFP8")
    assert known is not None
    assert shape_of(known).max_length == 1048576
    assert known_config("org/model") is None


def test_the_shipped_recipes_have_no_errors() -> None:
    for policy in SHARING_POLICIES:
        book = load_recipes([ROOT / "recipes.yaml"], policy=policy)
        assert book.problems == ()
        assert book.servers
        cases: dict[str, list[Case]] = {}
        for each in book.cases:
            cases.setdefault(each.server, []).append(each)
        servers: set[str] = set()
        refused: set[str] = set()
        for key, spec in book.servers:
            found = examine(spec, cases[key], hardware=HARDWARE[spec.hardware])
            errors = {one.rule for one in found if one.severity == "error"}
            if errors == {"unknown-flag-value"}:  # of nightly images; no release knows it
                assert {case.workload.shape for case in cases[key]} == {"agentic"}, key
            elif errors:
                assert errors == {"batch-below-context"}, key
                servers.add(key)
                refused |= {case.recipe for case in cases[key]}
        # where a step cannot hold a context: those cases are plan-only
        assert all(not case.runnable for case in book.cases if case.server in servers)
        assert refused == {"minimaxm3-fp4-b200-vllm", "minimaxm3-fp4-b300-vllm"}
