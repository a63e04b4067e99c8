"""The estimator against what vLLM logged, against the published size of the real model, and against
arithmetic."""

from __future__ import annotations

import pytest

from pytest_gpubench.doctor.context import Node, memory_of
from pytest_gpubench.doctor.memory_estimate import MemoryEstimate
from pytest_gpubench.doctor.rules import examine
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.specs import ServerSpec, Speculative
from tests.doctor.doctor_support import TINY_DRAFT, TINY_LLAMA, config, eagle3, served, server

GIB = 1024**3
M3 = "MiniMaxAI/MiniMax-M3-MXFP8"


def estimate(name: str) -> MemoryEstimate:
    seen = served(name)
    found = memory_of(
        seen.spec, hardware=seen.hardware, target=seen.target, draft=seen.draft, node=seen.node
    )
    assert found is not None
    return found


def of(spec: ServerSpec, **facts: object) -> MemoryEstimate:
    found = memory_of(spec, hardware=HARDWARE[spec.hardware], **facts)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(
    "name",
    [
        "m3mini-ready",
        "m3mini-eagle3-flash-attn-ready",
        "m3mini-eagle3-flashinfer-died",
        "m3mini-mxfp8-eagle3-flash-attn-ready",
        "m3mini-mxfp8-eagle3-dep2-h200-ready",
        "m3mini-mxfp8-tp2-h200-died-illegal-memory",
    ],
)
def test_loaded_weights_agree_with_the_log(name: str) -> None:
    logged = served(name).number(r"Model loading took ([0-9.]+) GiB")
    assert logged is not None
    # the log has two decimals; rope tables, workspaces and the allocator's rounding (some 10 MiB)
    # are not counted
    assert estimate(name).loaded_gib == pytest.approx(logged, abs=0.012)


@pytest.mark.parametrize(
    "name",
    [
        "m3mini-ready",
        "m3mini-eagle3-flash-attn-ready",
        "m3mini-mxfp8-eagle3-flash-attn-ready",
        "m3mini-mxfp8-eagle3-dep2-h200-ready",
    ],
)
def test_tokens_in_the_logged_memory_agree_with_the_log(name: str) -> None:
    seen = served(name)
    available, tokens = (
        seen.number(r"Available KV cache memory: ([0-9.]+)"),
        seen.number(r"KV cache size: ([0-9,]+)"),
    )
    concurrency = seen.number(r"tokens per request: ([0-9.]+)x")
    assert available is not None
    assert tokens is not None
    assert concurrency is not None
    assert estimate(name).tokens_in(available) == pytest.approx(tokens, rel=0.004)
    assert tokens / 2304 == pytest.approx(concurrency, rel=1e-3)


@pytest.mark.parametrize("name", ["m3mini-ready", "m3mini-mxfp8-eagle3-dep2-h200-ready"])
def test_the_whole_estimate_of_a_server_alone_on_its_gpu(name: str) -> None:
    tokens = served(name).number(r"KV cache size: ([0-9,]+)")
    assert tokens is not None
    errors = estimate(name).errors(kv_tokens=int(tokens))
    assert abs(errors["kv_tokens"]) < 0.02


def test_errors_are_relative_and_only_of_what_was_measured() -> None:
    memory = estimate("m3mini-ready")
    assert memory.errors(available_kv_gib=memory.kv_gib / 2) == {
        "available_kv_gib": pytest.approx(1.0)
    }
    assert memory.errors() == {}


def test_the_real_model_has_its_published_size() -> None:
    memory = of(server(model=M3, hardware="h100"))
    assert memory.loaded_gib * GIB / 1e9 == pytest.approx(444, rel=0.01)
    assert of(
        server(model="MiniMaxAI/MiniMax-M3", hardware="h100")
    ).loaded_gib * GIB / 1e9 == pytest.approx(854, rel=0.01)


def test_tensor_parallelism_cuts_and_data_parallelism_copies_the_attention() -> None:
    whole = of(server(model=M3, hardware="h200"))
    cut = of(server(model=M3, hardware="h200", tp=8))
    spread = of(server(model=M3, hardware="h200", tp=8, ep=True))
    copied = of(server(model=M3, hardware="h200", tp=8, dp_attn=True))
    assert cut.weights_gib == pytest.approx(whole.weights_gib / 8, rel=0.01)
    assert spread.weights_gib == pytest.approx(cut.weights_gib)
    # attention, shared experts, dense layers and embeddings are whole on each rank: 13.3 of 413
    # billion weights more than an eighth
    assert copied.weights_gib - cut.weights_gib == pytest.approx(12.8, abs=0.2)
    # 4 KV heads over 8 ranks: one on each, and 4 on each where the attention is copied; the index
    # cache is copied anyway
    index = 57 * 128 * 2
    assert cut.kv_bytes_per_token == 60 * 2 * 1 * 128 * 2 + index
    assert copied.kv_bytes_per_token == 60 * 2 * 4 * 128 * 2 + index


def test_the_draft_counts() -> None:
    mha = Speculative("eagle3", 3, "Inferact/MiniMax-M3-EAGLE3", attention_backend="FLASH_ATTN")
    gqa = Speculative("eagle3", 3, "Inferact/MiniMax-M3-EAGLE3-GQA", attention_backend="FLASH_ATTN")
    without, with_mha, with_gqa = (
        of(server(model=M3, hardware="h200", tp=4, draft=draft)) for draft in (None, mha, gqa)
    )
    assert with_mha.kv_bytes_per_token - without.kv_bytes_per_token == 8192
    assert with_gqa.kv_bytes_per_token - without.kv_bytes_per_token == 512
    assert with_mha.draft_gib > with_gqa.draft_gib > 0


def test_kv_cache_types() -> None:
    plain, narrow = of(server(model=M3, tp=8)), of(server(model=M3, tp=8, kv_cache_dtype="fp8"))
    narrow_index = of(
        server(model=M3, tp=8, kv_cache_dtype="fp8", attention_config={"indexer_kv_dtype": "fp8"})
    )
    assert plain.kv_bytes_per_token - narrow.kv_bytes_per_token == 60 * 2 * 128
    assert narrow.kv_bytes_per_token - narrow_index.kv_bytes_per_token == 57 * 128


QWEN3_NEXT = {  # as published: no `layer_types`
    "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48,
    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 151936,
    "intermediate_size": 5120, "moe_intermediate_size": 512, "num_experts": 512,
    "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10,
    "max_position_embeddings": 262144, "torch_dtype": "bfloat16", "full_attention_interval": 4,
    "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
}  # fmt: skip


def test_layers_that_keep_a_state_keep_no_tokens() -> None:
    memory = of(server(tp=4), target=QWEN3_NEXT)
    assert memory.kv_bytes_per_token == 12 * 2 * 1 * 256 * 2
    assert not memory.exact_kv


@pytest.mark.parametrize(
    "keys",
    [
        {"attn_layer_period": 8, "attn_layer_offset": 4},  # Jamba
        {"mamba_d_ssm": 4096, "mamba_n_heads": 32},  # Falcon-H1
        {"attn_layer_indices": [9, 18, 27]},  # Bamba
        {"block_configs": [{"attention": {"n_heads_in_group": 8}}]},  # Nemotron of NAS
        {"num_key_value_heads_per_layer": [4, 1]},  # DeciLM
    ],
)
def test_layers_that_are_not_told_apart_are_not_estimated(keys: dict[str, object]) -> None:
    target = {**TINY_LLAMA, "num_key_value_heads": None, **keys}
    assert memory_of(server(), hardware=HARDWARE["h100"], target=target) is None


def test_heads_that_share_one_key() -> None:
    target = {**TINY_LLAMA, "num_key_value_heads": None}
    own, shared = of(server(), target=target), of(server(), target={**target, "multi_query": True})
    assert own.kv_bytes_per_token == target["num_attention_heads"] * shared.kv_bytes_per_token


@pytest.mark.parametrize(
    ("told", "width"),
    [
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False}}, 1),
        ({"kv_cache_quant_algo": "FP8"}, 1),
        ({"kv_cache_quant_algo": "NVFP4"}, 0.5625),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "int"}}, 2),
        ({"kv_cache_scheme": None, "kv_cache_quant_algo": None}, 2),
    ],
)
def test_a_cache_that_the_checkpoint_asks_for(told: dict[str, object], width: float) -> None:
    """vLLM takes it for `kv-cache-dtype: auto`."""
    quant = {"quant_method": "modelopt", "quant_algo": "FP8", **told}
    target = {**TINY_LLAMA, "torch_dtype": "bfloat16", "quantization_config": quant}
    plain = of(server(kv_cache_dtype="bfloat16"), target=target)
    assert of(server(), target=target).kv_bytes_per_token == plain.kv_bytes_per_token * width / 2


def test_a_cpu_servers_cache_is_what_its_environment_says() -> None:
    spec = server(hardware="cpu", env={"VLLM_CPU_KVCACHE_SPACE": 1}, block_size=128, draft=eagle3())
    memory = of(spec, target=TINY_LLAMA, draft=TINY_DRAFT)
    # a CPU engine logged "CPU KV cache size: 116,480 tokens" for such a pair (9 layers of 8 heads
    # of 32) with 1 GiB
    assert memory.kv_tokens == 116_480
    assert memory.concurrency(2304) == pytest.approx(116_480 / 2304)


def test_flags_that_fix_the_memory() -> None:
    assert of(server(model=M3, tp=8, kv_cache_memory_bytes=2 * GIB)).kv_gib == 2
    plain, offloaded = of(server(model=M3, tp=8)), of(server(model=M3, tp=8, cpu_offload_gb=10))
    assert plain.weights_gib - offloaded.weights_gib == pytest.approx(10)
    assert of(server(model=M3, tp=8), node=Node(vram_gib=100.0)).total_gib == 100


@pytest.mark.parametrize(
    "change",
    [
        {"quantization_config": {"quant_method": "something-new"}},
        {"dtype": "complex64"},
        {"hidden_size": None},
        {"kv_lora_rank": 512},
    ],
)
def test_what_is_not_known_is_not_estimated(change: dict[str, object]) -> None:
    assert memory_of(server(), hardware=HARDWARE["h100"], target={**TINY_LLAMA, **change}) is None


def test_a_window_makes_the_estimate_a_lower_bound() -> None:
    windowed = {
        **TINY_LLAMA,
        "layer_types": ["sliding_attention", "full_attention"] * 4,
        "max_position_embeddings": 10**9,
    }
    memory = of(server(), target=windowed)
    assert not memory.exact_kv
    rules = {
        finding.rule
        for finding in examine(
            server(max_model_len=10**9), hardware=HARDWARE["h100"], target=windowed
        )
    }
    assert "cache-below-one-request" not in rules


def test_config_of_the_quantized_model_is_smaller() -> None:
    spec = server(hardware="h100")
    assert (
        of(spec, target=config("m3mini-mxfp8")).weights_gib
        < 0.6 * of(spec, target=config("m3mini")).weights_gib
    )
