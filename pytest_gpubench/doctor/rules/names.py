"""Rules about names: backends, methods and types that vLLM does not know, and flags that contradict
each other.

The tables are vLLM 0.32's: newer names must be added here, or `--gpubench-ignore-findings` silences
the rule.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pytest_gpubench.doctor.context import Rule, ServerContext, Symptom
from pytest_gpubench.model.printing import listed

ATTENTION_BACKENDS: tuple[str, ...] = (
    "FLASH_ATTN",
    "FLASH_ATTN_DIFFKV",
    "TRITON_ATTN",
    "TRITON_ATTN_DIFFKV",
    "TRITON_FLASH_ATTN",
    "ROCM_ATTN",
    "ROCM_SEGMENTED_ATTN",
    "ROCM_AITER_MLA",
    "ROCM_AITER_TRITON_MLA",
    "ROCM_AITER_FA",
    "ROCM_AITER_MLA_SPARSE",
    "XPU_MLA_SPARSE",
    "TORCH_SDPA",
    "FLASHINFER",
    "TRITON_FLASHINFER",
    "FLASHINFER_MLA",
    "TOKENSPEED_MLA",
    "FLASHINFER_MLA_SPARSE",
    "FLASHINFER_MLA_SPARSE_SM120",
    "FLASHINFER_MLA_SPARSE_SM90",
    "TRITON_MLA",
    "CUTLASS_MLA",
    "FLASHMLA",
    "FLASHMLA_SPARSE",
    "FLASHMLA_SPARSE_DSV4",
    "FLASHINFER_MLA_SPARSE_DSV4",
    "ROCM_FLASHMLA_SPARSE_DSV4",
    "FLASHMLA_SPARSE_DSV41",
    "FLASHINFER_MLA_SPARSE_DSV41",
    "FLASHMLA_MEGA_ATTN_DSV41",
    "B12X",
    "FLASH_ATTN_MLA",
    "FLASH_ATTN_MLA_SPARSE",
    "MINIMAX_M3_SPARSE",
    "CUTLASS_MSA",
    "TRITON_MSA",
    "NO_ATTENTION",
    "FLEX_ATTENTION",
    "HPC_ATTN",
    "ROCM_AITER_UNIFIED_ATTN",
    "CPU_ATTN",
    "CPU_MLA",
    "AMX_MLA",
    "TURBOQUANT",
    "ULTRAQUANT",
    "CUSTOM",
)
MOE_BACKENDS: tuple[str, ...] = (
    "auto",
    "triton",
    "batched_triton",
    "deep_gemm",
    "deep_gemm_mega_moe",
    "cutlass",
    "flashinfer_trtllm",
    "flashinfer_cutlass",
    "flashinfer_cutedsl",
    "flashinfer_moe_ep_cutedsl",
    "flashinfer_b12x",
    "b12x",
    "flashinfer_moe_ep_mega_deep_gemm",
    "marlin",
    "humming",
    "triton_unfused",
    "aiter",
    "aiter_mega_moe",
    "aiter_triton_mxfp4_bf16",
    "flydsl",
    "hpc",
    "emulation",
    "rdna3",
)
LINEAR_BACKENDS: tuple[str, ...] = (
    "auto",
    "cutlass",
    "flashinfer_cutlass",
    "flashinfer_cutedsl",
    "flashinfer_trtllm",
    "flashinfer_cudnn",
    "flashinfer_b12x",
    "b12x",
    "marlin",
    "humming",
    "triton",
    "deep_gemm",
    "torch",
    "aiter",
    "machete",
    "fbgemm",
    "conch",
    "exllama",
    "emulation",
    "xpu",
    "xpu_woq",
)
KV_CACHE_DTYPES: tuple[str, ...] = (
    "auto",
    "float16",
    "bfloat16",
    "fp8",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_inc",
    "fp8_ds_mla",
    "nvfp4_ds_mla",
    "turboquant_k8v4",
    "turboquant_4bit_nc",
    "turboquant_k3v4_nc",
    "turboquant_3bit_nc",
    "ultraquant_4bit",
    "int4_per_token_head",
    "int8_per_token_head",
    "fp8_per_token_head",
    "nvfp4",
    "nvfp4_4over6",
)
QUANTIZATIONS: tuple[str, ...] = (
    "awq",
    "auto_awq",
    "fp8",
    "fbgemm_fp8",
    "fp_quant",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mxfp8",
    "modelopt_mixed",
    "auto_gptq",
    "gptq",
    "gptq_marlin",
    "awq_marlin",
    "humming",
    "compressed-tensors",
    "experts_int8",
    "quark",
    "moe_wna16",
    "torchao",
    "inc",
    "mxfp4",
    "gpt_oss_mxfp4",
    "deepseek_v4_fp8",
    "online",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "nvfp4_per_token",
    "mxfp8",
)


def attention_backend(context: ServerContext) -> Iterator[Symptom]:
    draft = context.asked_draft_backend
    for place, name in (
        ("attention-backend", context.settings.attention_backend),
        ("speculative.attention-backend", draft),
    ):
        if name is not None and name not in ATTENTION_BACKENDS and name != "CUSTOM":
            yield Symptom(
                f"{place}: no attention backend {name!r}.",
                _hint(name, ATTENTION_BACKENDS),
                {"name": name},
            )


def flag_choice(context: ServerContext) -> Iterator[Symptom]:
    for flag, known in (
        ("moe-backend", MOE_BACKENDS),
        ("linear-backend", LINEAR_BACKENDS),
        ("kv-cache-dtype", KV_CACHE_DTYPES),
    ):
        name = context.settings.word(flag)
        if name is not None and name not in known:
            yield Symptom(
                f"{flag}: vLLM knows no {name!r}.", _hint(name, known), {"flag": flag, "name": name}
            )


def quantization_method(context: ServerContext) -> Iterator[Symptom]:
    asked = context.settings.quantization
    name = asked or context.checkpoint_quantization
    if name and name.lower() not in QUANTIZATIONS and name.lower() not in ("bitsandbytes", "gguf"):
        where = "--quantization" if asked else "the model's quantization_config"
        yield Symptom(
            f"{where}: vLLM knows no method {name!r}.",
            _hint(name, QUANTIZATIONS),
            {"name": name},
            severity=None
            if asked
            else "warning",  # vLLM knows more spellings of what checkpoints say than we do
        )


def doubled_flag(context: ServerContext) -> Iterator[Symptom]:
    for flag in context.settings.doubled:
        yield Symptom(
            f"--{flag} is given as one JSON value and again in dotted parts: vLLM takes "
            "the parts and drops the whole value.",
            f"Write one map under serve.{flag}.",
        )


def exclusive_flags(context: ServerContext) -> Iterator[Symptom]:
    settings = context.settings
    pairs = (
        ("attention-backend", "attention-config", "backend", "attention_backend"),
        (
            "max-cudagraph-capture-size",
            "compilation-config",
            "max_cudagraph_capture_size",
            "max_cudagraph_capture_size",
        ),
        (
            "cudagraph-capture-sizes",
            "compilation-config",
            "cudagraph_capture_sizes",
            "cudagraph_capture_sizes",
        ),
    )
    for flag, whole, key, name in pairs:
        if flag in settings.flags and settings.part(whole, key) is not None:
            yield Symptom(
                f"{flag} is set twice: as a flag and as {key} in {whole}.",
                f"Keep one of the two, best serve.{flag}.",
                {"name": name, "other": f"{whole.replace('-', '_')}.{key}"},
            )


def _hint(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known names: {listed(known, 8)}."


RULES: tuple[Rule, ...] = (
    Rule(
        "unknown-attention-backend",
        "attention backends that vLLM knows",
        "error",
        "seen on the CPU engine",
        "Unknown attention backend: '{name}'. Valid options are: FLASH_ATTN, ...",
        attention_backend,
    ),
    Rule(
        "unknown-flag-value",
        "MoE, linear and KV cache names that vLLM knows",
        "error",
        "seen on the CPU engine",
        "error: argument --{flag}: invalid choice: '{name}'",
        flag_choice,
    ),
    Rule(
        "unknown-quantization",
        "quantization methods that vLLM knows",
        "error",
        "seen on the CPU engine",
        "Unknown quantization method: {name}. Must be one of [...].",
        quantization_method,
    ),
    Rule(
        "flag-given-twice",
        "a JSON flag whole or in dotted parts, not both",
        "warning",
        "seen on the CPU engine",
        "",
        doubled_flag,
    ),
    Rule(
        "exclusive-flags",
        "one spelling of a setting",
        "error",
        "seen on the CPU engine",
        "{name} and {other} are mutually exclusive",
        exclusive_flags,
    ),
)
