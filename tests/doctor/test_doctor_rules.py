"""Every rule: a server that it must see, and a healthy one on which all keep silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pytest_gpubench.doctor.context import Node
from pytest_gpubench.doctor.findings import Finding
from pytest_gpubench.doctor.rules import RULES, examine
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import HARDWARE, Hardware
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology
from tests.doctor.doctor_support import TINY_DRAFT, TINY_LLAMA, case, config, eagle3, server

GQA: dict[str, Any] = {
    **TINY_LLAMA,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 16384,
}
MHA_DRAFT: dict[str, Any] = {**TINY_DRAFT, "head_dim": 64, "max_position_embeddings": 16384}
MOE: dict[str, Any] = {
    **GQA,
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
MXFP8: dict[str, Any] = {"quant_method": "mxfp8", "weight_block_size": [1, 32]}
M3 = config("m3mini")
M3_TEXT = M3["text_config"]


@dataclass(frozen=True)
class Ill:
    """A rule's id, a server that it must see, and part of vLLM's sentence."""

    rule: str
    spec: ServerSpec
    says: str = ""
    target: Mapping[str, Any] | None = field(default_factory=lambda: GQA)
    draft: Mapping[str, Any] | None = None
    cases: tuple[Case, ...] = ()
    node: Node | None = None
    hardware: Hardware | None = None
    chat_template: bool | None = True
    severity: str = "error"
    facts: FrozenMap = field(default_factory=FrozenMap)


def m3(**text: Any) -> dict[str, Any]:
    return {**M3, "text_config": {**M3_TEXT, **text}}


def sparse(**entries: Any) -> dict[str, Any]:
    return m3(sparse_attention_config={**M3_TEXT["sparse_attention_config"], **entries})


ILL = [
    Ill(
        "unknown-attention-backend",
        server(attention_backend="FLASHY"),
        "Unknown attention backend: 'FLASHY'",
    ),
    Ill(
        "unknown-attention-backend",
        server(draft=eagle3(backend="FLASH_ATTENTION")),
        "'FLASH_ATTENTION'",
        draft=MHA_DRAFT,
    ),
    Ill(
        "unknown-flag-value",
        server(moe_backend="turbo"),
        "argument --moe-backend: invalid choice: 'turbo'",
    ),
    Ill(
        "unknown-flag-value",
        server(kv_cache_dtype="fp7"),
        "argument --kv-cache-dtype: invalid choice: 'fp7'",
    ),
    Ill("unknown-quantization", server(quantization="fp3"), "Unknown quantization method: fp3."),
    Ill(
        "unknown-quantization",
        server(),
        "Unknown quantization method: fp3.",
        target={**GQA, "quantization_config": {"quant_method": "fp3"}},
        severity="warning",
    ),
    Ill(
        "flag-given-twice",
        server(
            attention_config={"backend": "FLASH_ATTN"},
            extra_args=("--attention-config.indexer_kv_dtype", "fp8"),
        ),
        severity="warning",
    ),
    Ill(
        "exclusive-flags",
        server(attention_backend="FLASH_ATTN", attention_config={"backend": "FLASH_ATTN"}),
        "attention_backend and attention_config.backend are mutually exclusive",
    ),
    Ill(
        "heads-by-tp",
        server(tp=3),
        "Total number of attention heads (8) must be divisible by tensor parallel size (3).",
    ),
    Ill(
        "latent-attention",
        server(attention_backend="FLASHMLA", block_size=64),
        "Reason: ['non-MLA not supported']",
    ),
    Ill(
        "latent-attention",
        server(block_size=128, draft=eagle3(backend="FLASH_ATTN")),
        "Selected backend FLASH_ATTN is not valid",
        draft={**MHA_DRAFT, "kv_lora_rank": 512, "qk_rope_head_dim": 64},
    ),
    Ill(
        "quantization-groups",
        server(tp=4, dtype="float16"),
        "The input size is not aligned with the quantized weight shape.",
        target={
            **GQA,
            "intermediate_size": 29568,
            "quantization_config": {"quant_method": "awq", "group_size": 128},
        },
    ),
    Ill(
        "quantization-groups",
        server(tp=4),
        "Weight input_size_per_partition = 192 is not divisible by",
        target={
            **GQA,
            "intermediate_size": 768,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        },
    ),
    Ill(
        "quantization-groups",
        server(tp=8),
        "The output_size of gate's and up's weight = 192 is not divisible by",
        target={
            **MOE,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "moe_intermediate_size": 1536,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        },
        node=Node(engine="0.26.0"),
    ),
    Ill(
        "state-blocks",
        server(max_num_seqs=None, max_num_batched_tokens=None),
        "max_num_seqs (1024) exceeds available Mamba cache blocks",
        target={**GQA, "layer_types": ["linear_attention", "full_attention"]},
        severity="warning",
    ),
    Ill("kv-heads-by-tp", server(tp=4), "AssertionError", target={**GQA, "num_key_value_heads": 6}),
    Ill(
        "vision-heads-by-tp",
        server(tp=4),
        "6 is not divisible by 4",
        target={**GQA, "model_type": "minimax_m3_vl", "vision_config": {"num_attention_heads": 6}},
    ),
    Ill(
        "experts-below-tp",
        server(tp=8),
        "Tensor parallel size 8 is greater than",
        target={**MOE, "num_local_experts": 4},
    ),
    Ill(
        "intermediate-by-tp",
        server(tp=4),
        "510 is not divisible by 4",
        target={**GQA, "intermediate_size": 510},
    ),
    Ill(
        "ep-without-experts",
        server(tp=4, ep=True),
        "Number of experts in the model must be greater than 0",
    ),
    Ill(
        "ep-above-experts",
        server(tp=8, dp_attn=True),
        target={**MOE, "num_local_experts": 4},
        severity="warning",
    ),
    Ill(
        "gpus-above-node",
        server(tp=8, pp=2),
        "World size (16) is larger than the number of available GPUs (8)",
    ),
    Ill("gpus-above-node", server(tp=2), "available GPUs (1)", node=Node(gpus=1)),
    Ill("stages-above-layers", server(pp=8), target={**GQA, "num_hidden_layers": 4}),
    Ill(
        "eplb-needs-ep",
        server(tp=2, enable_eplb=True),
        "enable_expert_parallel must be True",
        target=MOE,
    ),
    Ill(
        "eplb-needs-ep",
        server(hardware="cpu", enable_eplb=True),
        "only supported on CUDA",
        target=MOE,
    ),
    Ill(
        "eplb-needs-ep",
        server(enable_eplb=True, enable_expert_parallel=True),
        "EPLB requires tensor",
        target=MOE,
    ),
    Ill(
        "eplb-even-split",
        server(tp=4, ep=True, enable_eplb=True, eplb_config={"num_redundant_experts": 1}),
        "Got 9 experts and 4 EP ranks",
        target=MOE,
    ),
    Ill(
        "redundant-without-eplb",
        server(tp=4, ep=True, eplb_config={"num_redundant_experts": 4}),
        "num_redundant_experts is set to 4 but EPLB is not enabled",
        target=MOE,
    ),
    Ill("dcp-splits-tp", server(tp=4, dcp=3), "tp_size=4 must be divisible by dcp_size=3."),
    Ill("dcp-splits-tp", server(tp=4, pcp=2, dcp=4), "valid DCP sizes are [1, 2, 8]"),
    Ill(
        "dcp-needs-spare-heads",
        server(tp=2, dcp=2),
        "(2) to be greater than the model's total number of KV heads (2)",
    ),
    Ill("dcp-needs-spare-heads", server(tp=8, dcp=8), "exceeds the maximum supported value (4)"),
    Ill(
        "dcp-needs-spare-heads",
        server(tp=8, dcp=4),
        "query heads per KV head (6) must be divisible",
        target={**GQA, "num_attention_heads": 12, "num_key_value_heads": 2},
    ),
    Ill(
        "common-block-size",
        server(block_size=128, draft=eagle3(backend="FLASHINFER")),
        "No common block size for 128 (MINIMAX_M3_SPARSE: [128]; FLASH_ATTN: "
        "[MultipleOf(16)]; FLASHINFER: [16, 32, 64]).",
        target=M3,
        draft=config("m3mini-eagle3"),
    ),
    Ill(
        "common-block-size",
        server(block_size=64),
        "No common block size for 64 (MINIMAX_M3_SPARSE: [128]",
        target=M3,
    ),
    Ill(
        "common-block-size",
        server(attention_backend="FLASHINFER"),
        "No common block size for 128",
        target=M3,
    ),
    Ill("common-block-size", server(hardware="cpu", block_size=48), "CPU_ATTN: [MultipleOf(32)]"),
    Ill(
        "common-block-size",
        server(
            block_size=128,
            draft=eagle3(backend="FLASHINFER"),
            env={"VLLM_KV_CACHE_LAYOUT": "packed"},
        ),
        target=M3,
        draft=config("m3mini-eagle3"),
        severity="warning",
    ),
    Ill(
        "mha-draft-page-size",
        server(hardware="b200", block_size=128, draft=eagle3(backend=None)),
        "Unexpected FlashInfer page size 128 without trtllm-gen GQA",
        target=M3,
        draft=config("m3mini-eagle3"),
    ),
    Ill(
        "mha-draft-page-size",
        server(hardware="b300", block_size=128, draft=eagle3(backend="FLASHINFER")),
        "Unexpected FlashInfer page size 128",
        draft=MHA_DRAFT,
    ),
    Ill(
        "head-size",
        server(attention_backend="FLASHINFER"),
        "head_size not supported",
        target={**GQA, "head_dim": 32},
    ),
    Ill(
        "head-size",
        server(hardware="cpu"),
        "head_size not supported",
        target={**GQA, "head_dim": 72},
    ),
    Ill(
        "backend-of-other-platform",
        server(hardware="mi300x", attention_backend="FLASHINFER"),
        "AttentionBackendEnum.FLASHINFER",
    ),
    Ill(
        "backend-of-other-platform",
        server(attention_backend="ROCM_ATTN"),
        "AttentionBackendEnum.ROCM_ATTN",
    ),
    Ill(
        "backend-of-other-platform",
        server(hardware="cpu", draft=eagle3()),
        "Cannot use AttentionBackendEnum.FLASH_ATTN backend on CPU.",
        draft=MHA_DRAFT,
        severity="note",
    ),
    Ill(
        "nvfp4-cache-needs-blackwell",
        server(kv_cache_dtype="nvfp4"),
        "only with the SM100 MSA backend",
        target=M3,
    ),
    Ill(
        "fp8-cache-of-flash-attention",
        server(attention_backend="FLASH_ATTN", kv_cache_dtype="fp8_e5m2"),
        "FlashAttention does not support fp8_e5m2 kv-cache on this device.",
    ),
    Ill("minimax-m3-on-cpu", server(hardware="cpu"), target=M3),
    Ill("minimax-m3-text-config", server(), "model type `minimax_m3_text`", target=M3_TEXT),
    Ill("minimax-m3-shape", server(), "AssertionError", target=m3(head_dim=64)),
    Ill(
        "minimax-m3-shape",
        server(),
        "total_num_index_heads == total_num_kv_heads",
        target=sparse(sparse_num_index_heads=2),
    ),
    Ill(
        "quantization-capability",
        server(),
        "Minimum capability: 80. Current capability: 75.",
        target={**GQA, "quantization_config": MXFP8},
        hardware=Hardware("t4", "cuda", 15.0, 1, 75),
    ),
    Ill(
        "quantization-dtype",
        server(dtype="float16"),
        "torch.float16 is not supported for quantization method mxfp8.",
        target={**GQA, "quantization_config": MXFP8},
    ),
    Ill(
        "quantization-contradiction",
        server(quantization="awq"),
        "model config (fp8) does not match",
        target={**GQA, "quantization_config": {"quant_method": "fp8"}},
    ),
    Ill(
        "mxfp8-blocks",
        server(tp=4),
        "intermediate_size_per_partition divisible by 32, got 24.",
        target={**MOE, "moe_intermediate_size": 96, "quantization_config": MXFP8},
    ),
    Ill(
        "mxfp8-blocks",
        server(),
        "hidden_size divisible by 32, got 250.",
        target={**MOE, "hidden_size": 250, "quantization_config": MXFP8},
    ),
    Ill(
        "marlin-hidden-size",
        server(moe_backend="marlin"),
        "No supported MXFP8 expert class",
        target={**MOE, "hidden_size": 320, "quantization_config": MXFP8},
    ),
    Ill(
        "marlin-hidden-size",
        server(),
        "No MXFP8 MoE backends available.",
        target={**MOE, "hidden_size": 320, "quantization_config": MXFP8},
        severity="warning",
    ),
    Ill(
        "dummy-mxfp8",
        server(load_format="dummy"),
        target={**MOE, "quantization_config": MXFP8},
        severity="note",
    ),
    Ill(
        "cache-above-memory",
        server(kv_cache_memory_bytes=200 << 30),
        "CUDA out of memory",
        target=GQA,
    ),
    Ill(
        "all-reduce-multicast",
        server(tp=2),
        "illegal memory access",
        target=M3,
        node=Node(multicast=False),
        severity="warning",
    ),
    Ill(
        "all-reduce-compiles",
        server(tp=2, env={"VLLM_FLASHINFER_ALLREDUCE_BACKEND": "trtllm"}),
        target=M3,
        node=Node(multicast=False),
        severity="note",
    ),
    Ill(
        "minimax-m3-top-k-layout",
        server(),
        "illegal memory access",
        target=M3,
        node=Node(engine="0.26.0+cu130"),
    ),
    Ill("draft-tokens", server(draft=eagle3(0)), "Input should be greater than 0", draft=MHA_DRAFT),
    Ill(
        "draft-tokens",
        server(draft=eagle3(3)),
        "must be divisible by n_predict=2",
        draft={**MHA_DRAFT, "n_predict": 2},
    ),
    Ill(
        "draft-tensor-parallel",
        server(draft=eagle3(tensor_parallel_size=1)),
        "not a valid argument",
        draft=MHA_DRAFT,
    ),
    Ill(
        "draft-tensor-parallel",
        server(tp=4, draft=eagle3(draft_tensor_parallel_size=2)),
        "speculative_draft_tensor_parallel_size=2 cannot be other value",
        draft=MHA_DRAFT,
    ),
    Ill(
        "draft-heads-by-tp",
        server(tp=4, draft=eagle3()),
        "Total number of attention heads (2) must be divisible by tensor parallel size (4).",
        draft={**MHA_DRAFT, "num_attention_heads": 2, "num_key_value_heads": 2},
    ),
    Ill(
        "draft-hidden-size",
        server(draft=eagle3()),
        "shape mismatch",
        draft={**MHA_DRAFT, "target_hidden_size": 512},
    ),
    Ill(
        "draft-hidden-size",
        server(draft=eagle3(), load_format="dummy"),
        draft={**MHA_DRAFT, "target_hidden_size": 512},
        severity="warning",
    ),
    Ill(
        "draft-vocabulary",
        server(draft=Speculative("draft_model", 3, "org/draft")),
        "Target model vocab_size=2048. Draft model vocab_size=1024.",
        draft={**GQA, "vocab_size": 1024},
    ),
    Ill(
        "draft-aux-layers",
        server(draft=eagle3()),
        draft={**MHA_DRAFT, "eagle_aux_hidden_state_layer_ids": [2, 30, 57]},
    ),
    Ill(
        "draft-aux-layers",
        server(draft=eagle3()),
        draft={**MHA_DRAFT, "eagle_aux_hidden_state_layer_ids": [2, 2, 3]},
    ),
    Ill(
        "draft-context",
        server(draft=eagle3()),
        draft={**MHA_DRAFT, "max_position_embeddings": 512},
        severity="warning",
    ),
    Ill(
        "synthetic-acceptance",
        server(draft=eagle3(rejection_sample_method="synthetic", synthetic_acceptance_length=9.0)),
        "synthetic_acceptance_length must be in [1, 4], got 9.0.",
        draft=MHA_DRAFT,
    ),
    Ill(
        "synthetic-acceptance",
        server(draft=eagle3(rejection_sample_method="synthetic")),
        "exactly one of",
        draft=MHA_DRAFT,
    ),
    Ill(
        "synthetic-acceptance",
        server(draft=eagle3(synthetic_acceptance_length=2.0)),
        "only valid with",
        draft=MHA_DRAFT,
    ),
    Ill(
        "synthetic-acceptance",
        server(
            hardware="cpu",
            draft=eagle3(rejection_sample_method="synthetic", synthetic_acceptance_length=2.0),
        ),
        "not supported with CPU sampling",
        draft=MHA_DRAFT,
    ),
    Ill(
        "draft-metrics-without-draft",
        server(per_request_spec_decode_metrics="summary"),
        "requires speculative decoding",
    ),
    Ill(
        "sampling-with-draft",
        server(draft=eagle3(), override_generation_config={"min_p": 0.1}),
        "not yet supported with speculative decoding",
        draft=MHA_DRAFT,
        cases=(case(),),
    ),
    Ill(
        "context-of-model",
        server(max_model_len=32768),
        "User-specified max_model_len (32768) is greater than the derived "
        "max_model_len (max_position_embeddings=16384",
    ),
    Ill(
        "context-of-model",
        server(max_model_len=32768, env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": 1}),
        severity="warning",
    ),
    Ill(
        "context-of-requests",
        server(),
        "maximum context length is 2304",
        cases=(case(), case(isl=2048)),
    ),
    Ill(
        "batch-below-sequences",
        server(max_num_seqs=128, max_num_batched_tokens=64),
        "max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128).",
    ),
    Ill(
        "batch-below-context",
        server(enable_chunked_prefill=False, max_num_batched_tokens=2048),
        "max_num_batched_tokens (2048) is smaller than max_model_len (2304).",
    ),
    Ill(
        "batch-below-decode",
        server(max_num_seqs=64, max_num_batched_tokens=128, draft=eagle3()),
        draft=MHA_DRAFT,
        cases=(case(64),),
        severity="warning",
    ),
    Ill(
        "concurrency-above-sequences",
        server(max_num_seqs=8),
        cases=(case(4), case(16)),
        severity="warning",
    ),
    Ill(
        "capture-below-batch",
        server(max_cudagraph_capture_size=64, draft=eagle3()),
        draft=MHA_DRAFT,
        cases=(case(16), case(17)),
        severity="warning",
    ),
    Ill("capture-below-batch", server(max_num_seqs=1024), cases=(case(513),), severity="note"),
    Ill(
        "capture-contradiction",
        server(max_cudagraph_capture_size=64, cudagraph_capture_sizes=[1, 8, 32]),
        "customized max_cudagraph_capture_size(=64) should be consistent with the max "
        "value of cudagraph_capture_sizes(=32)",
    ),
    Ill(
        "capture-truncated",
        server(max_cudagraph_capture_size=100),
        "Truncating max_cudagraph_capture_size to 96",
        severity="note",
    ),
    Ill("utilization-range", server(gpu_memory_utilization=1.5), "less than or equal to 1"),
    Ill(
        "free-memory",
        server(),
        "Free memory on device cuda:0 (10.00/79.60 GiB)",
        node=Node(free_vram_gib=10.0),
    ),
    Ill(
        "weights-above-memory",
        server(model="MiniMaxAI/MiniMax-M3-MXFP8", tp=4),
        "out of memory",
        target=None,
    ),
    Ill(
        "weights-above-memory",
        server(model="MiniMaxAI/MiniMax-M3-MXFP8", tp=8, gpu_memory_utilization=0.6),
        "No available memory",
        target=None,
    ),
    Ill(
        "cache-below-one-request",
        server(model="MiniMaxAI/MiniMax-M3-MXFP8", tp=8, max_model_len=1048576),
        "To serve at least one request with the model's max seq len (1048576)",
        target=None,
    ),
    Ill(
        "thin-memory",
        server(model="MiniMaxAI/MiniMax-M3-MXFP8", tp=8, gpu_memory_utilization=0.7),
        "No available memory",
        target=None,
        severity="warning",
    ),
    Ill(
        "cache-below-concurrency",
        server(model="MiniMaxAI/MiniMax-M3-MXFP8", tp=8, max_model_len=9472, max_num_seqs=256),
        target=None,
        cases=(case(256, isl=8192),),
        severity="warning",
    ),
    Ill(
        "cpu-memory",
        server(hardware="cpu", env={"VLLM_CPU_KVCACHE_SPACE": 40}),
        node=Node(memory_gib=16.0),
    ),
    Ill("cpu-cache-not-set", server(hardware="cpu"), severity="warning"),
    Ill(
        "chat-template",
        server(),
        "default chat template is no longer allowed",
        cases=(case(),),
        chat_template=False,
    ),
    Ill("removed-flag", server(swap_space=4), "--swap-space", severity="warning"),
    Ill(
        "removed-flag",
        server(disable_log_requests=True),
        "--disable-log-requests",
        node=Node(engine="0.32.0"),
    ),
    Ill(
        "removed-variable",
        replace(server(), env=FrozenMap({"VLLM_ATTENTION_BACKEND": "FLASHINFER"})),
        "VLLM_ATTENTION_BACKEND",
        severity="warning",
    ),
    Ill(
        "removed-variable",
        server(env={"VLLM_NVFP4_GEMM_BACKEND": "marlin"}),
        node=Node(engine="0.24.0"),
        severity="warning",
    ),
    Ill(
        "removed-flag", server(calculate_kv_scales=True), "--calculate", node=Node(engine="0.28.1")
    ),
    Ill(
        "unknown-flag",
        server(max_modle_len=4096),
        "unrecognized arguments: --max-modle-len",
        node=Node(engine="0.26.0"),
    ),
    Ill("unknown-flag", server(enforce_eagre=False), "--no-enforce-eagre", severity="warning"),
    Ill(
        "unknown-variable",
        server(env={"VLLM_ATTENTION_BACKENDS": "FLASHINFER"}),
        "Unknown vLLM environment variable detected",
        node=Node(engine="0.26.0"),
        severity="warning",
    ),
    Ill(
        "unknown-variable",
        server(env={"VLLM_USE_TURBO": 1}, fail_on_environ_validation=True),
        node=Node(engine="0.26.0"),
    ),
    Ill("prefix-caching", server(enable_prefix_caching=True), severity="note"),
    Ill(
        "facts-contradict",
        server(),
        facts=FrozenMap({"config": {"num_attention_heads": 7}}),
        severity="warning",
    ),
    Ill("unknown-model", server(), target=None, severity="note"),
    Ill("unknown-model", server(draft=eagle3()), severity="note"),
]


def examined(ill: Ill) -> tuple[Finding, ...]:
    return examine(
        ill.spec,
        ill.cases,
        hardware=ill.hardware or HARDWARE[ill.spec.hardware],
        target=ill.target,
        draft=ill.draft,
        node=ill.node,
        chat_template=ill.chat_template,
        facts=ill.facts,
    )


@pytest.mark.parametrize("ill", ILL, ids=lambda ill: ill.rule)
def test_a_rule_sees_its_illness(ill: Ill) -> None:
    found = [finding for finding in examined(ill) if finding.rule == ill.rule]
    assert len(found) == 1, examined(ill)
    assert found[0].severity == ill.severity
    assert ill.says in found[0].engine_says
    assert found[0].remedy
    assert "{" not in found[0].message + found[0].engine_says


def test_every_rule_has_an_ill_server() -> None:
    ids = [rule.id for rule in RULES]
    assert {ill.rule for ill in ILL} == set(ids)
    assert len(ids) == len(set(ids))


HEALTHY = [
    Ill("dense", server(tp=2, block_size=128, draft=eagle3()), draft=MHA_DRAFT, cases=(case(16),)),
    Ill(
        "cpu",
        server(hardware="cpu", block_size=32, env={"VLLM_CPU_KVCACHE_SPACE": 1}),
        cases=(case(),),
        node=Node(memory_gib=16.0),
    ),
    Ill("experts", server(tp=4, ep=True), target=MOE),
    Ill(
        "sparse",
        server(block_size=128, draft=eagle3()),
        target=M3,
        draft=config("m3mini-eagle3"),
        cases=(case(4),),
    ),
    Ill("sparse, block size left open", server(tp=4), target=M3),
    Ill("sparse, two blocks in one", server(block_size=256), target=M3),
    Ill(
        "blackwell, pinned",
        server(hardware="b200", block_size=128, draft=eagle3()),
        target=M3,
        draft=config("m3mini-eagle3"),
    ),
    Ill(
        "blackwell, grouped draft",
        server(hardware="b200", block_size=128, draft=eagle3(backend=None)),
        target=M3,
        draft={**config("m3mini-eagle3"), "num_key_value_heads": 2},
    ),
    Ill(
        "hopper, left open",
        server(block_size=128, draft=eagle3(backend=None)),
        target=M3,
        draft=config("m3mini-eagle3"),
    ),
    Ill(
        "triton",
        server(block_size=128, draft=eagle3(backend="TRITON_ATTN")),
        target=M3,
        draft=config("m3mini-eagle3"),
    ),
    Ill("small pages", server(block_size=64, draft=eagle3(backend="FLASHINFER")), draft=MHA_DRAFT),
    Ill(
        "amd", server(hardware="mi300x", block_size=128, attention_backend="TRITON_ATTN"), target=M3
    ),
]


@pytest.mark.parametrize("healthy", HEALTHY, ids=lambda healthy: healthy.rule)
def test_healthy_servers_have_no_findings(healthy: Ill) -> None:
    assert examined(healthy) == ()


def test_batch_rules_hold_per_data_parallel_rank() -> None:
    topology = Topology(tp=8, ep=8, dp_attn=True)
    cases = (case(512, topology=topology), case(513, topology=topology))
    spec = server(
        tp=8, dp_attn=True, max_num_seqs=64, max_cudagraph_capture_size=256, draft=eagle3()
    )
    found = examine(spec, cases, hardware=HARDWARE["h200"], target=MOE, draft=MHA_DRAFT)
    by_rule = {finding.rule: finding for finding in found}
    # 513 requests are 65 on one of 8 ranks: one more than max-num-seqs, and 260 tokens, four more
    # than are captured
    assert by_rule["concurrency-above-sequences"].cases == (cases[1].id,)
    assert by_rule["capture-below-batch"].cases == (cases[1].id,)


@pytest.mark.parametrize(("left_out", "ill"), [([], True), (["share_expert"], False)])
def test_an_expert_that_is_left_unquantized_has_no_groups(left_out: list[str], ill: bool) -> None:
    target = {
        **MOE,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "moe_intermediate_size": 1280,
        "n_shared_experts": 1,
        "quantization_config": {
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": left_out,
        },
    }
    spec = server(tp=8, ep=True)
    found = examine(spec, hardware=HARDWARE[spec.hardware], target=target)
    assert ("quantization-groups" in {one.rule for one in found}) is ill


def test_another_engine_is_examined_by_what_holds_for_every_engine() -> None:
    spec = ServerSpec("sglang", "org/model", "h100", Topology(tp=3), server().serve)
    found = examine(spec, hardware=HARDWARE["h100"], target=GQA)
    assert {finding.rule for finding in found} == {"heads-by-tp", "kv-heads-by-tp"}
    assert all(finding.engine_says == "" for finding in found)


def test_a_prefix_cache_is_no_news_where_sessions_grow() -> None:
    load = replace(case(4), workload=replace(case(4).workload, dataset="agentic"))
    for cases, rules in (((load,), set()), ((load, case(4)), {"prefix-caching"})):
        found = examine(
            server(enable_prefix_caching=True), cases, hardware=HARDWARE["h100"], target=GQA
        )
        assert {finding.rule for finding in found} == rules


def test_flags_are_read_wherever_they_stand() -> None:
    whole = server(
        max_num_seqs=None, extra_args=("--max-num-seqs=128", "--max-num-batched-tokens", "64")
    )
    assert "batch-below-sequences" in {
        finding.rule for finding in examine(whole, hardware=HARDWARE["h100"], target=GQA)
    }
    compiled = server(compilation_config={"max_cudagraph_capture_size": 4})
    found = examine(compiled, (case(8),), hardware=HARDWARE["h100"], target=GQA)
    assert [finding.rule for finding in found] == ["capture-below-batch"]


def test_overrides_of_the_config_count() -> None:
    spec = server(tp=4, hf_overrides={"num_attention_heads": 6})
    assert "heads-by-tp" in {
        finding.rule for finding in examine(spec, hardware=HARDWARE["h100"], target=GQA)
    }
    inner = server(block_size=128, hf_overrides={"text_config": {"num_attention_heads": 6}}, tp=4)
    assert "heads-by-tp" in {
        finding.rule for finding in examine(inner, hardware=HARDWARE["h100"], target=M3)
    }


@pytest.mark.parametrize(
    "odd",
    [
        {"vision_config": {"num_attention_heads": 25}},  # InternVL's tower is padded
        {"moe_num_experts": [64, 64]},
        {"hybrid_override_pattern": "M*-E"},
        {"expert_dtype": "fp4"},
    ],
)
def test_what_the_doctor_does_not_understand_stops_nothing(odd: dict[str, Any]) -> None:
    spec = server(tp=4, enable_expert_parallel=True) if "moe_num_experts" in odd else server(tp=4)
    found = examine(spec, hardware=HARDWARE["h100"], target={**GQA, **odd})
    assert [finding.rule for finding in found if finding.severity == "error"] == []


def test_the_weight_files_count_more_than_any_estimate() -> None:
    large = {**GQA, "num_hidden_layers": 4000, "hidden_size": 8192, "intermediate_size": 28672}
    foretold = examine(server(tp=4), hardware=HARDWARE["h100"], target=large)
    assert "weights-above-memory" in {finding.rule for finding in foretold}
    for weights, stopped in ((int(250e9), False), (int(400e9), True)):
        found = examine(server(tp=4), hardware=HARDWARE["h100"], target=large, weights=weights)
        assert ("weights-above-memory" in {one.rule for one in found}) is stopped
    latent = {**GQA, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    found = examine(server(tp=4), hardware=HARDWARE["h100"], target=latent, weights=int(400e9))
    assert "weights-above-memory" in {one.rule for one in found}
    quantized = server(tp=4, quantization="fp8")
    found = examine(quantized, hardware=HARDWARE["h100"], target=large, weights=int(400e9))
    assert "weights-above-memory" not in {one.rule for one in found}
    halved = {**GQA, "dtype": "float32"}
    found = examine(server(tp=4), hardware=HARDWARE["h100"], target=halved, weights=int(400e9))
    assert "weights-above-memory" not in {one.rule for one in found}


MHA_HEAD, GQA_HEAD = "Inferact/MiniMax-M3-EAGLE3", "Inferact/MiniMax-M3-EAGLE3-GQA"


@pytest.mark.parametrize(
    ("hardware", "model", "head", "backend", "serve"),
    [
        (
            "b200",
            "MiniMaxAI/MiniMax-M3-MXFP8",
            GQA_HEAD,
            "FLASH_ATTN",
            {"kv_cache_dtype": "fp8", "attention_backend": "FLASHINFER"},
        ),
        (
            "b300",
            "MiniMaxAI/MiniMax-M3-MXFP8",
            None,
            None,
            {"kv_cache_dtype": "fp8", "attention_backend": "FLASHINFER"},
        ),
        (
            "b200",
            "nvidia/MiniMax-M3-NVFP4",
            MHA_HEAD,
            "FLASH_ATTN",
            {"max_cudagraph_capture_size": 2048},
        ),
        (
            "b300",
            "nvidia/MiniMax-M3-NVFP4",
            None,
            None,
            {"kv_cache_dtype": "fp8", "gpu_memory_utilization": 0.95},
        ),
        (
            "mi300x",
            "MiniMaxAI/MiniMax-M3-MXFP8",
            MHA_HEAD,
            None,
            {"kv_cache_dtype": "fp8", "attention_backend": "TRITON_ATTN"},
        ),
        (
            "mi325x",
            "MiniMaxAI/MiniMax-M3-MXFP8",
            MHA_HEAD,
            None,
            {"attention_backend": "TRITON_ATTN"},
        ),
        (
            "mi355x",
            "MiniMaxAI/MiniMax-M3-MXFP8",
            MHA_HEAD,
            "TRITON_ATTN",
            {"attention_backend": "TRITON_ATTN", "moe_backend": "aiter"},
        ),
        (
            "mi355x",
            "amd/MiniMax-M3-MXFP4",
            MHA_HEAD,
            None,
            {"attention_backend": "TRITON_ATTN", "moe_backend": "aiter"},
        ),
    ],
)
@pytest.mark.parametrize(
    "row", [{"tp": 4}, {"tp": 8}, {"tp": 8, "ep": True}, {"tp": 8, "dp_attn": True}], ids=str
)
def test_published_configurations_have_no_errors(
    hardware: str,
    model: str,
    head: str | None,
    backend: str | None,
    serve: dict[str, Any],
    row: dict[str, Any],
) -> None:
    draft = None if head is None else Speculative("eagle3", 3, head, attention_backend=backend)
    spec = server(
        hardware=hardware,
        model=model,
        draft=draft,
        block_size=128,
        max_num_seqs=None,
        language_model_only=True,
        **serve,
        **row,
    )
    found = examine(spec, (case(128),), hardware=HARDWARE[hardware])
    assert [one for one in found if one.severity == "error" or one.rule == "unknown-model"] == []


def test_an_unpinned_mha_draft_dies_on_blackwell_only() -> None:
    def errors(hardware: str, head: str) -> list[str]:
        spec = server(
            hardware=hardware,
            tp=8,
            model="MiniMaxAI/MiniMax-M3-MXFP8",
            block_size=128,
            draft=Speculative("eagle3", 3, head),
        )
        return [
            one.rule
            for one in examine(spec, hardware=HARDWARE[hardware])
            if one.severity == "error"
        ]

    assert errors("b200", MHA_HEAD) == errors("b300", MHA_HEAD) == ["mha-draft-page-size"]
    assert errors("h100", MHA_HEAD) == errors("h200", MHA_HEAD) == errors("b200", GQA_HEAD) == []


def about_names(spec: ServerSpec, engine: str | None, **facts: Any) -> list[str]:
    found = examine(spec, hardware=HARDWARE["h100"], target=GQA, node=Node(engine=engine, **facts))
    rules = ("removed-", "unknown-flag", "unknown-variable", "unknown-attention")
    return [str(one) for one in found if one.rule.startswith(rules)]


def test_the_version_at_hand_decides_about_a_name() -> None:
    late = server(sleep_mode_backend="x")  # 0.33 brought it
    assert about_names(late, "0.33.0") == about_names(late, None) == []
    assert about_names(late, "0.32.0") == [
        "error: unknown-flag: vLLM 0.32 has no --sleep-mode-backend. Leave it out, or take vLLM "
        "0.33 or newer."
    ]
    early = server(max_num_partial_prefills=2)  # 0.27 took it away
    assert about_names(early, "0.26.0") == []
    assert about_names(early, "0.27.1")[0].startswith(
        "error: removed-flag: --max-num-partial-prefills is not there any more in vLLM 0.27; the "
        "last that has it is 0.26."
    )
    assert about_names(early, None)[0].startswith("warning: removed-flag")
    back = server(disable_log_requests=True)  # gone before 0.20, 0.33 has it again
    assert about_names(back, "0.33.0") == []
    assert about_names(back, None)[0].startswith(
        "warning: removed-flag: Of vLLM 0.20 to 0.33 only 0.33 has --disable-log-requests."
    )


@pytest.mark.parametrize("engine", ["0.99.0", "0.11.0", "0.27.0rc1.dev3+g1234567"])
def test_of_a_version_that_was_never_asked_nothing_is_certain(engine: str) -> None:
    found = about_names(server(enforce_eagre=True, attention_backend="FLASH_ATN"), engine)
    assert len(found) == 2
    assert all(one.startswith("warning: ") for one in found)
    assert f"Whether {engine} has is not known here: `gpubench vocabulary` asks it." in found[1]


@pytest.mark.parametrize(
    "spec",
    [
        server(max_num_batched=4096),  # argparse takes any beginning
        server(enable_prefix_caching=False),
        server(extra_args=("--compilation-config.pass_config.fuse_allreduce_rms=false",)),
        server(extra_args=("--cudagraph-capture-sizes", "1", "2")),
        server(env={"VLLM_LOGGING_LEVEL": "INFO", "MY_OWN": 1, "VLLM_GONE": None}),
        server(moe_backend="flashinfer-trtllm"),  # its parser takes dashes
        server(attention_backend="CUSTOM"),
    ],
)
@pytest.mark.parametrize("engine", [None, "0.26.0", "0.32.0", "0.33.0"])
def test_what_the_parser_takes_is_not_ill(spec: ServerSpec, engine: str | None) -> None:
    assert about_names(spec, engine) == []


def test_what_another_program_reads_first_is_not_certain() -> None:
    spec = server(my_launchers_flag=1)
    assert about_names(spec, "0.26.0")[0].startswith("error: ")
    [found] = about_names(spec, "0.26.0", wrapped=True)
    assert found.startswith("warning: ")
    assert "gpubench vocabulary" not in found


@pytest.mark.parametrize(("engine", "warned"), [("0.26.0", True), (None, True), ("0.32.0", False)])
def test_marlin_is_not_asked_where_humming_stands_first(engine: str | None, warned: bool) -> None:
    target = {**MOE, "hidden_size": 320, "quantization_config": MXFP8}
    found = examine(server(), hardware=HARDWARE["h100"], target=target, node=Node(engine=engine))
    assert ("marlin-hidden-size" in [one.rule for one in found]) is warned
