"""Rules about names: backends, methods and types that vLLM does not know, and flags that contradict
each other.

The tables are vLLM 0.32's: newer names must be added here, or `--gpubench-ignore-findings` silences
the rule.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from packaging.version import Version

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


_CHECKED = Version("0.32")
"""The vLLM whose parser and variables were asked for what follows."""
REMOVED_FLAGS: dict[str, str] = {
    "disable-log-requests": "leave it out: requests are not logged",
    "swap-space": "leave it out: nothing is swapped",
    "num-scheduler-steps": "leave it out: scheduling is asynchronous",
    "use-v2-block-manager": "leave it out",
    "multi-step-stream-outputs": "leave it out",
    "num-lookahead-slots": "leave it out",
    "preemption-mode": "leave it out",
    "scheduler-delay-factor": "leave it out",
    "disable-async-output-proc": "leave it out",
    "disable-frontend-multiprocessing": "leave it out",
    "enable-prompt-adapter": "leave it out",
    "worker-use-ray": "write distributed-executor-backend: ray",
    "guided-decoding-backend": "write structured-outputs-config: {backend: ...}",
    "enable-reasoning": "write reasoning-parser alone",
    "max-seq-len-to-capture": "write max-cudagraph-capture-size, in tokens of a batch",
    "cuda-graph-sizes": "write cudagraph-capture-sizes",
    "full-cuda-graph": "write compilation-config: {cudagraph_mode: FULL}",
    "speculative-model": "write the recipe's `speculative` section",
    "num-speculative-tokens": "write the recipe's `speculative` section",
    "ngram-prompt-lookup-max": "write the recipe's `speculative` section",
    "speculative-draft-tensor-parallel-size": "write the recipe's `speculative` section",
    "spec-decoding-acceptance-method": "write the recipe's `speculative` section",
    "rope-scaling": "write hf-overrides: {rope_parameters: ...}",
    "rope-theta": "write hf-overrides: {rope_parameters: ...}",
    "device": "leave it out: the platform is found",
    "task": "write runner and convert",
}
REMOVED_VARIABLES: dict[str, str] = {
    "VLLM_ATTENTION_BACKEND": "write attention-backend under serve",
    "VLLM_USE_V1": "leave it out: there is no other engine",
    "VLLM_FLASH_ATTN_VERSION": "write attention-config: {flash_attn_version: ...}",
    "VLLM_USE_TRITON_FLASH_ATTN": "leave it out",
    "VLLM_USE_TRTLLM_ATTENTION": "write attention-config: {use_trtllm_attention: ...}",
    "VLLM_USE_FLASHINFER_MOE_FP8": "write moe-backend under serve",
    "VLLM_V1_USE_PREFILL_DECODE_ATTENTION": "leave it out",
    "VLLM_TORCH_PROFILER_DIR": "write profiler-config",
    "VLLM_CUTLASS_MLA_FORCE": "write attention-backend under serve",
    "VLLM_ALL2ALL_BACKEND": "write all2all-backend under serve",
}


def removed_flag(context: ServerContext) -> Iterator[Symptom]:
    for name in context.settings.flags:
        if name in REMOVED_FLAGS:
            yield _removed(context, f"--{name}", REMOVED_FLAGS[name], {"flag": name})


def removed_variable(context: ServerContext) -> Iterator[Symptom]:
    for name in context.settings.environment:
        if name in REMOVED_VARIABLES:
            yield _removed(context, name, REMOVED_VARIABLES[name], {"name": name})


def _removed(context: ServerContext, name: str, instead: str, says: dict[str, object]) -> Symptom:
    """An error for an engine that is known not to have it, else a warning: older ones do."""
    gone = context.engine is not None and context.engine >= _CHECKED
    return Symptom(
        f"{name} is not there any more in vLLM {_CHECKED}.",
        f"{instead[0].upper()}{instead[1:]}.",
        says,
        severity="error" if gone else "warning",
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
    Rule(
        "removed-flag",
        "flags that vLLM still has",
        "warning",
        "seen on the CPU engine",
        "error: unrecognized arguments: --{flag}",
        removed_flag,
    ),
    Rule(
        "removed-variable",
        "environment variables that vLLM still reads",
        "warning",
        "seen on the CPU engine",
        "Unknown vLLM environment variable detected: {name}",
        removed_variable,
    ),
)
