"""Causes on the GPU and in the model: the first part of the catalogue of known causes.

Patterns are matched against the root cause only (an exception's last lines, an argument parser's
complaint, a loader's cry), never against the whole log: ordinary lines mention memory, ports and
backends all the time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_gpubench.model.failures import FailureClass

_OOM = r"OutOfMemoryError|CUDA out of memory|HIP out of memory|CUDA error: out of memory"


@dataclass(frozen=True, slots=True)
class Cause:
    """One known cause; ``frames`` must occur in the traceback, and ``log`` in a line before it,
    where they are given. ``retried``: a start that ends so is made once more."""

    name: str
    failure_class: FailureClass
    pattern: re.Pattern[str]
    summary: str
    remedy: str
    frames: re.Pattern[str] | None = None
    log: re.Pattern[str] | None = None
    retried: bool = False


def cause(
    name: str,
    failure_class: FailureClass,
    pattern: str,
    summary: str,
    remedy: str,
    frames: str | None = None,
    log: str | None = None,
    *,
    retried: bool = False,
) -> Cause:
    def compiled(text: str | None) -> re.Pattern[str] | None:
        return re.compile(text) if text else None

    return Cause(
        name,
        failure_class,
        re.compile(pattern),
        summary,
        remedy,
        compiled(frames),
        compiled(log),
        retried,
    )


GPU_CAUSES: tuple[Cause, ...] = (
    cause(
        "minimax-m3-top-k-layout",
        "engine",
        r"illegal memory access|cudaErrorIllegalAddress",
        "MiniMax-M3's Triton sparse attention reads its top-k buffer in the wrong "
        "layout in this vLLM (its issue 48603).",
        "Use a vLLM with its pull request 49149 (0.32 has it); whatever the older one "
        "measured before it died does not count.",
        frames=r"minimax_m3/common/(indexer|sparse_attention)\.py",
        log=r"LLM engine \(v0\.2[56]\.",
    ),
    cause(
        "all-reduce-multicast",
        "engine",
        r"illegal memory access|cudaErrorIllegalAddress"
        r"|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)",
        "FlashInfer's fused all-reduce (mnnvl) wrote through NVLink multicast, which "
        "this host most likely does not offer.",
        "Set env VLLM_FLASHINFER_ALLREDUCE_BACKEND: trtllm (or, not for MiniMax-M3, "
        "compilation-config.pass_config.fuse_allreduce_rms: false), or use a vLLM that looks "
        "for multicast first (0.32 does).",
        log=r"FlashInfer Allreduce norm fusion workspace with backend=mnnvl",
    ),
    cause(
        "illegal-memory-access",
        "engine",
        r"illegal memory access|cudaErrorIllegalAddress",
        "A GPU kernel of the engine read or wrote outside its memory.",
        "Run once with env CUDA_LAUNCH_BLOCKING=1 to find the kernel; try another "
        "attention, MoE or all-reduce backend.",
    ),
    cause(
        "device-assert",
        "engine",
        r"device-side assert triggered|misaligned address|CUDA error: unspecified launch failure",
        "A GPU kernel of the engine failed an assertion.",
        "Run once with env CUDA_LAUNCH_BLOCKING=1 to find the kernel, then report it to vLLM.",
    ),
    cause(
        "gpu-memory-fault",
        "engine",
        r"Memory access fault by GPU",
        "A GPU kernel of the engine read or wrote outside its memory (Memory access fault).",
        "Try another attention or MoE backend; run once with env AMD_SERIALIZE_KERNEL=3 to find "
        "the kernel.",
    ),
    cause(
        "deep-gemm",
        "engine",
        r"Unknown SF transformation|deep_?gemm.*[Aa]ssertion|Assertion error",
        "DeepGEMM's kernels do not fit this GPU or these weights.",
        "Set env VLLM_USE_DEEP_GEMM: 0, or use the DeepGEMM that this engine was tested with.",
        frames=r"deep_?gemm",
    ),
    cause(
        "no-kernel-image",
        "engine",
        r"no kernel image is available|PTX was compiled with an unsupported toolchain"
        r"|device kernel image is invalid|invalid device function|hipErrorNoBinaryForGpu"
        r"|No supported CUDA architectures found"
        r"|ptxas fatal\s*: Value 'sm_\w+' is not defined",
        "The engine was not built for this GPU or driver.",
        "Use a vLLM build for this GPU's compute capability, or a newer driver.",
    ),
    cause(
        "fp8-not-on-this-gpu",
        "recipe",
        r"type fp8e4nv not supported in this architecture",
        "This GPU cannot compute with the FP8 type of these weights.",
        "Use weights of another format on this GPU, or one of compute capability 8.9 or newer.",
    ),
    cause(
        "kv-cache-too-small",
        "recipe",
        r"No available memory for the cache blocks|larger than the available KV cache"
        r"|max seq len .* is larger than the maximum number of tokens",
        "The KV cache does not fit beside the weights.",
        "Raise gpu-memory-utilization (on the CPU: VLLM_CPU_KVCACHE_SPACE), lower "
        "max-model-len, or use more GPUs.",
    ),
    cause(
        "gpu-shared",
        "infrastructure",
        r"Error in memory profiling",
        "Another process took or freed memory of the GPU while the engine measured how much it "
        "needs.",
        "See that nothing else runs on the GPU (nvidia-smi), then run again.",
    ),
    cause(
        "gpu-memory-foreign",
        "infrastructure",
        rf"(?:{_OOM})[\s\S]*Process \d+ has (?:[2-9]|\d{{2,}})(?:\.\d+)? GiB memory"
        r" in use[\s\S]*this process has",
        "The GPU ran out of memory beside another process that has much of it.",
        "Find the process that the message names (nvidia-smi), end it or wait for it.",
    ),
    cause(
        "gpu-memory-taken",
        "infrastructure",
        r"Free memory on device .* is less than desired|Free memory on device .* on "
        r"startup is less",
        "Part of the GPU's memory is taken, so the engine cannot have the share that it was given.",
        "Find the other process (nvidia-smi), end it or wait; or lower gpu-memory-utilization.",
    ),
    cause(
        "out-of-memory-capture",
        "recipe",
        _OOM,
        "The GPU ran out of memory while CUDA graphs were captured.",
        "Lower max-cudagraph-capture-size or gpu-memory-utilization.",
        r"capture_model|capture_graph|capture_cudagraph|_capture_|cudagraph_memory|CUDAGraph",
    ),
    cause(
        "out-of-memory-kv-cache",
        "recipe",
        _OOM,
        "The GPU ran out of memory while the KV cache was allocated.",
        "Lower kv-cache-memory-bytes or gpu-memory-utilization, or find who took the "
        "memory meanwhile.",
        r"initialize_kv_cache|allocate_kv_cache|init_kv_cache",
    ),
    cause(
        "out-of-memory-activation",
        "recipe",
        _OOM,
        "The GPU ran out of memory in a forward pass.",
        "Lower max-num-batched-tokens or max-num-seqs, or use more GPUs.",
        r"profile_run|_dummy_run|execute_model|determine_available_memory|warm_?up",
    ),
    cause(
        "out-of-memory-weights",
        "recipe",
        _OOM,
        "The GPU ran out of memory while the weights were loaded.",
        "Use more GPUs (a larger TP or EP), a smaller precision, or free the GPU.",
        r"load_model|load_weights|create_weights|initialize_model|process_weights",
    ),
    cause(
        "out-of-memory",
        "recipe",
        _OOM,
        "The GPU ran out of memory.",
        "Use more GPUs, or lower gpu-memory-utilization and batch sizes.",
    ),
    cause(
        "out-of-memory-host",
        "infrastructure",
        r"DefaultCPUAllocator: (?:can't|not enough)|\bMemoryError\b|Errno "
        r"12\]|[Cc]annot allocate memory",
        "The host ran out of memory.",
        "Free memory on the host or raise the job's memory limit; on the CPU engine "
        "lower VLLM_CPU_KVCACHE_SPACE.",
    ),
    cause(
        "process-limit",
        "infrastructure",
        r"can't start new thread|Errno 11\].*temporarily unavailable",
        "The engine may not start as many processes and threads as it needs.",
        "Raise the limit of processes (`ulimit -u`, pids of the container).",
    ),
    cause(
        "speculative-tokens",
        "recipe",
        r"num_speculative_tokens.{0,80}divisible|n_predict.{0,80}divisible|divisible by n_predict",
        "The draft cannot propose this number of speculative tokens.",
        "Set num-speculative-tokens to a multiple of what the draft predicts at a time.",
    ),
    cause(
        "block-size",
        "recipe",
        r"[Bb]lock.size \d+ must be divisible|block_size.{0,40}(?:must be|not supported)",
        "The attention backend does not take this block size.",
        "Change block-size to one that the message allows, or remove it.",
    ),
    cause(
        "mamba-blocks",
        "recipe",
        r"exceeds available Mamba cache blocks",
        "There are fewer Mamba cache blocks than sequences that may run.",
        "Lower max-num-seqs to what the message allows, or raise gpu-memory-utilization.",
    ),
    cause(
        "variable-gone",
        "recipe",
        r"envs\.VLLM_USE_V1",
        "The environment sets VLLM_USE_V1, which this engine does not have any more.",
        "Remove VLLM_USE_V1 from the recipe's env and from the job's environment.",
    ),
    cause(
        "no-pipeline",
        "recipe",
        r"Pipeline parallelism is not supported",
        "The model cannot be split into pipeline stages.",
        "Use pp 1, and TP or DP instead.",
    ),
    cause(
        "dtype-unsupported",
        "recipe",
        r"[Bb]float16 is only supported on GPUs|dtype.{0,60}not supported",
        "This GPU or quantization does not take the dtype of the model.",
        "Set `dtype: half` under `serve`, or use a newer GPU.",
    ),
    cause(
        "no-common-block-size",
        "recipe",
        r"No common block size for",
        "The attention backends of target and draft have no KV block size in common.",
        "Set the draft's attention-backend (FLASH_ATTN serves block size 128), or "
        "change block-size.",
    ),
    cause(
        "page-size",
        "recipe",
        r"Unexpected FlashInfer page size",
        "FlashInfer cannot serve the draft with this block size.",
        "Set the draft's attention-backend to FLASH_ATTN.",
    ),
    cause(
        "backend-not-valid",
        "recipe",
        r"[Ss]elected backend .* is not valid|Unknown attention backend|No valid attention "
        r"backend found"
        r"|No \w+ MoE backends? available",
        "A backend that the recipe asks for cannot serve this model on this GPU.",
        "Remove the backend from the recipe or choose one that the engine's message allows.",
    ),
    cause(
        "unsupported-architecture",
        "recipe",
        r"[Mm]odel architectures? .* (?:are not supported|failed to be inspected|is not supported)"
        r"|does not recognize this architecture",
        "This engine does not know the model's architecture.",
        "Use an engine version that supports the model (`requires` in the recipe); the "
        "log may name a missing library.",
    ),
)
