from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.vllm.log import LogReader, parse_line
from tests.engines.conftest import facts_of_lines

DATA = Path(__file__).parent / "data"


def facts_of(name: str) -> EngineFacts:
    return facts_of_lines((DATA / name).read_text(errors="replace").splitlines())


def test_a_line_is_taken_apart() -> None:
    line = parse_line(
        "(Worker_TP0_EP0 pid=5813) ERROR 11-22 08:45:03 [multiproc_executor.py:901]     indented\n"
    )
    assert (line.process, line.pid, line.level, line.time, line.text) == (
        "Worker_TP0_EP0",
        5813,
        "ERROR",
        "11-22 08:45:03",
        "    indented",
    )
    assert parse_line("INFO:     Started server process [546]").level == ""
    assert (
        parse_line("\x1b[36m(EngineCore pid=1)\x1b[0;0m INFO 01-02 03:04:05 [a.py:1] x").text == "x"
    )
    assert parse_line(
        "(EngineCore pid=1) INFO 01-02 03:04:05 [a.py:1] No available shared memory "
        "broadcast block found"
    ).heartbeat


@given(st.text())
def test_no_line_breaks_the_reader(raw: str) -> None:
    reader = LogReader()
    reader.feed(raw)
    reader.feed(f"(EngineCore pid=1) INFO 13-40 99:99:99 [x.py:1] KV cache size: 1 tokens {raw}")
    assert reader.facts().kv_cache_tokens == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "tiny-eagle3-ready.log",
            {
                "version": "0.26.0",
                "device": "cuda",
                "architectures": ("LlamaForCausalLM", "LlamaForCausalLMEagle3"),
                "attention_backend": "FLASH_ATTN",
                "draft_attention_backend": "FLASH_ATTN",
                "draft_attention_backend_inferred": True,
                "speculative_method": "eagle3",
                "num_speculative_tokens": 3,
                "kv_cache_tokens": 2_724_224,
                "kv_cache_memory_gib": 23.38,
                "weights_gib": 0.02,
                "capture_gib": 0.14,
                "capture_sizes": (1, 2, 4, 8, 16),
                "compile_cache": "cold",
                "expert_parallel": False,
                "enable_prefix_caching": False,
                "max_model_len": 2304,
            },
        ),
        (
            "m3mini-ready.log",
            {
                "speculative_method": "",
                "draft_attention_backend": None,
                "attention_backend": "FLASH_ATTN",
                "compile_cache": None,
                "quantization": None,
                "kv_cache_tokens": 1_885_696,
            },
        ),
        (
            "m3mini-eagle3-flash-attn-ready.log",
            {
                "draft_attention_backend": "FLASH_ATTN",
                "draft_attention_backend_inferred": False,
                "tensor_parallel_size": 1,
                "api_servers": 1,
            },
        ),
        (
            "m3mini-mxfp8-eagle3-flash-attn-ready.log",
            {"quantization": "mxfp8", "dtype": "bfloat16", "draft_model": "/models/m3d"},
        ),
        (
            "m3mini-eagle3-flashinfer-died.log",
            {
                "attention_backend": "FLASH_ATTN",
                "draft_attention_backend": "FLASHINFER",
                "kv_cache_tokens": None,
            },
        ),
        (
            "m3mini-mxfp8-eagle3-dep2-h200-ready.log",
            {
                "tensor_parallel_size": 1,
                "data_parallel_size": 2,
                "expert_parallel": True,
                "kv_cache_tokens_per_rank": (3_450_368, 3_450_368),
                "api_servers": 2,
                "draft_attention_backend": "FLASH_ATTN",
            },
        ),
        (
            "m3mini-mxfp8-eagle3-h200-vllm-0.32-ready.log",
            {
                "version": "0.32.0",
                "quantization": "mxfp8",
                "attention_backend": "FLASH_ATTN",
                "draft_attention_backend": "FLASH_ATTN",
                "kv_cache_tokens": 4_233_856,
                "kv_cache_memory_gib": 67.63,
            },
        ),
        (
            "m3mini-mxfp8-tep4-h200-died-vision-heads.log",
            {"tensor_parallel_size": 4, "expert_parallel": True, "attention_backend": None},
        ),
        (
            "m3mini-mxfp8-tp2-h200-died-illegal-memory.log",
            {"tensor_parallel_size": 2, "expert_parallel": False, "weights_gib": 0.1},
        ),
    ],
)
def test_facts_of_real_logs(name: str, expected: dict[str, object]) -> None:
    facts = dataclasses.asdict(facts_of(name))
    assert {key: facts[key] for key in expected} == expected


def test_kernels_of_minimax_m3() -> None:
    newer = facts_of("m3mini-mxfp8-eagle3-h200-vllm-0.32-ready.log").other_backends
    assert dict(newer) == {
        "linear": "HummingMxfp8LinearKernel",
        "sparse_attention": "Triton",
        "moe": "HUMMING",
    }
    assert dict(facts_of("m3mini-mxfp8-eagle3-flash-attn-ready.log").other_backends) == {
        "linear": "MarlinMxfp8LinearKernel",
        "sparse_attention": "Triton",
        "moe": "MARLIN",
    }


def test_phases_come_from_the_log_s_own_words() -> None:
    phases = facts_of("tiny-eagle3-ready.log").phases
    assert dict(phases) == {
        "config": 28.0,
        "weights": 2.734595,
        "compile": 24.66,
        "kv_cache": pytest.approx(5.34),
        "graph_capture": 1.0,
        "engine_init": 50.68,
    }


def test_on_the_cpu_the_compile_time_is_that_of_the_warm_up() -> None:
    facts = facts_of("tiny-eagle3-cpu-compiled-ready.log")
    assert facts.compile_cache == "cold"
    assert dict(facts.phases) == {
        "config": 14.0,
        "weights": pytest.approx(0.03),
        "compile": 46.0,
        "kv_cache": 1.0,
        "engine_init": 48.07,
    }


def test_the_one_line_form_of_newer_engines() -> None:
    text = (
        "CPU KV cache size: 116,480 tokens, Maximum concurrency for 2,048 tokens per "
        "request: 56.88x"
    )
    line = f"(EngineCore pid=9) INFO 11-22 09:00:00 [x.py:1] {text}"
    assert facts_of_lines([line]).kv_cache_tokens == 116_480


def test_the_least_of_all_ranks_counts() -> None:
    text = "INFO 11-22 09:00:00 [x.py:1] GPU KV cache size: {} tokens"
    lines = [
        f"(Worker_TP{rank} pid={rank}) {text.format(size)}"
        for rank, size in enumerate(("2,000", "1,000", "3,000"))
    ]
    facts = facts_of_lines(lines)
    assert facts.kv_cache_tokens == 1000
    assert facts.kv_cache_tokens_per_rank == (2000, 1000, 3000)


def test_a_warm_compile_cache() -> None:
    line = (
        "(EngineCore pid=9) INFO 11-22 09:00:00 [decorators.py:320] Directly load AOT "
        "compilation from path /x"
    )
    assert facts_of_lines([line]).compile_cache == "warm"


def test_two_backends_without_a_word_about_the_draft_stay_unknown() -> None:
    start = next(
        line
        for line in (DATA / "tiny-eagle3-ready.log").read_text().splitlines()
        if "Initializing a V1" in line
    )
    auto = (
        "(EngineCore pid=2341) INFO 11-22 08:07:39 [cuda.py:482] Using {} attention "
        "backend out of potential backends: []."
    )
    facts = facts_of_lines([start, auto.format("FLASH_ATTN"), auto.format("TRITON_ATTN")])
    assert (facts.attention_backend, facts.draft_attention_backend) == ("FLASH_ATTN", None)
