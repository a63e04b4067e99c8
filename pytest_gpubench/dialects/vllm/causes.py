"""Causes in vLLM's own words: on the GPU, in the model, in its configuration."""

from __future__ import annotations

from pytest_gpubench.dialects.engine_log import (
    GPU_MEMORY_FOREIGN,
    OUT_OF_MEMORY,
    Cause,
    cause,
    refused_by,
)
from pytest_gpubench.dialects.shared_causes import SHARED_CAUSES

CAUSES: tuple[Cause, ...] = (
    cause("minimax-m3-top-k-layout", "engine", r"illegal memory access|cudaErrorIllegalAddress",
        "MiniMax-M3's Triton sparse attention reads its top-k buffer in the wrong "
        "layout in this vLLM (its issue 48603).",
        "Use a vLLM with its pull request 49149 (0.32 has it); whatever the older one "
        "measured before it died does not count.",
        frames=r"minimax_m3/common/(indexer|sparse_attention)\.py",
        log=r"LLM engine \(v0\.2[56]\."),
    cause("all-reduce-multicast", "engine", r"illegal memory access|cudaErrorIllegalAddress"
        r"|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)",
        "FlashInfer's fused all-reduce (mnnvl) wrote through NVLink multicast, which "
        "this host most likely does not offer.",
        "Set env VLLM_FLASHINFER_ALLREDUCE_BACKEND: trtllm (or, not for MiniMax-M3, "
        "compilation-config.pass_config.fuse_allreduce_rms: false), or use a vLLM that looks "
        "for multicast first (0.32 does).",
        log=r"FlashInfer Allreduce norm fusion workspace with backend=mnnvl"),
    cause("deep-gemm", "engine",
        r"Unknown SF transformation|deep_?gemm.*[Aa]ssertion|Assertion error"
        r"|DeepGEMM backend is not available",
        "DeepGEMM's kernels do not fit this GPU or these weights.",
        "Set env VLLM_USE_DEEP_GEMM: 0, or use the DeepGEMM that this engine was tested with.",
        frames=r"deep_?gemm"),
    cause("synthetic-acceptance-unsupported", "recipe",
        r"Synthetic acceptance not supported with CPU sampling",
        "vLLM makes no acceptance up on the CPU: it dies of the first draft.",
        "Use rejection-sample-method: synthetic on GPUs alone, real drafts on the CPU."),
    cause("ready-timeout", "engine", r"Timed out waiting for engine core processes to start",
        "vLLM's own limit for the start has passed.",
        "Set env VLLM_ENGINE_READY_TIMEOUT_S to more seconds if the weights load slowly."),
    cause("fork-after-cuda", "engine", r"Cannot re-initialize CUDA in forked subprocess",
        "A worker was forked after CUDA had been used.",
        "Set env VLLM_WORKER_MULTIPROC_METHOD: spawn."),
    cause("kv-cache-too-small", "recipe",
        r"No available memory for the cache blocks|larger than the available KV cache"
        r"|max seq len .* is larger than the maximum number of tokens",
        "The KV cache does not fit beside the weights.",
        "Raise gpu-memory-utilization (on the CPU: VLLM_CPU_KVCACHE_SPACE), lower "
        "max-model-len, or use more GPUs."),
    cause("gpu-shared", "infrastructure", r"Error in memory profiling",
        "Another process took or freed memory of the GPU while the engine measured how much it "
        "needs.",
        "See that nothing else runs on the GPU (nvidia-smi), then run again."),
    GPU_MEMORY_FOREIGN,
    cause("gpu-memory-taken", "infrastructure",
        r"Free memory on device .* is less than desired|Free memory on device .* on "
        r"startup is less",
        "Part of the GPU's memory is taken, so the engine cannot have the share that it was given.",
        "Find the other process (nvidia-smi), end it or wait; or lower gpu-memory-utilization."),
    cause("out-of-memory-capture", "recipe", OUT_OF_MEMORY,
        "The GPU ran out of memory while CUDA graphs were captured.",
        "Lower max-cudagraph-capture-size or gpu-memory-utilization.",
        r"capture_model|capture_graph|capture_cudagraph|_capture_|cudagraph_memory|CUDAGraph"),
    cause("out-of-memory-kv-cache", "recipe", OUT_OF_MEMORY,
        "The GPU ran out of memory while the KV cache was allocated.",
        "Lower kv-cache-memory-bytes or gpu-memory-utilization, or find who took the "
        "memory meanwhile.",
        r"initialize_kv_cache|allocate_kv_cache|init_kv_cache"),
    cause("out-of-memory-activation", "recipe", OUT_OF_MEMORY,
        "The GPU ran out of memory in a forward pass.",
        "Lower max-num-batched-tokens or max-num-seqs, or use more GPUs.",
        r"profile_run|_dummy_run|execute_model|determine_available_memory|warm_?up"),
    cause("out-of-memory-weights", "recipe", OUT_OF_MEMORY,
        "The GPU ran out of memory while the weights were loaded.",
        "Use more GPUs (a larger TP or EP), a smaller precision, or free the GPU.",
        r"load_model|load_weights|create_weights|initialize_model|process_weights"),
    cause("speculative-tokens", "recipe",
        r"num_speculative_tokens.{0,80}divisible|n_predict.{0,80}divisible|divisible by n_predict",
        "The draft cannot propose this number of speculative tokens.",
        "Set num-speculative-tokens to a multiple of what the draft predicts at a time."),
    cause("backend-not-valid", "recipe",
        r"[Ss]elected backend .* is not valid|Unknown attention backend|No valid attention "
        r"backend found"
        r"|No \w+ MoE backends? (?:available|supports)",
        "A backend that the recipe asks for cannot serve this model on this GPU.",
        "Remove the backend from the recipe or choose one that the engine's message allows."),
    cause("block-size", "recipe", r"[Bb]lock.size \d+ must be divisible"
        r"|\bblock_size\b[^,]{0,40}(?:must be (?:a |divisible)|not supported)",
        "The attention backend does not take this block size.",
        "Change block-size to one that the message allows, or remove it."),
    cause("mamba-blocks", "recipe", r"exceeds available Mamba cache blocks",
        "There are fewer Mamba cache blocks than sequences that may run.",
        "Lower max-num-seqs to what the message allows, or raise gpu-memory-utilization."),
    cause("variable-gone", "recipe", r"envs\.VLLM_USE_V1",
        "The environment sets VLLM_USE_V1, which this engine does not have any more.",
        "Remove VLLM_USE_V1 from the recipe's env and from the job's environment."),
    cause("no-pipeline", "recipe", r"Pipeline parallelism is not supported",
        "The model cannot be split into pipeline stages.",
        "Use pp 1, and TP or DP instead."),
    cause("dtype-unsupported", "recipe",
        r"[Bb]float16 is only supported on GPUs|\bdtype\b.{0,60}not supported"
        r"|torch\.\w+ is not supported for quantization",
        "This GPU or quantization does not take the dtype of the model.",
        "Set `dtype: half` under `serve`, or use a newer GPU."),
    cause("no-common-block-size", "recipe", r"No common block size for",
        "The attention backends of target and draft have no KV block size in common.",
        "Set the draft's attention-backend (FLASH_ATTN serves block size 128), or "
        "change block-size."),
    cause("page-size", "recipe", r"Unexpected FlashInfer page size",
        "FlashInfer cannot serve the draft with this block size.",
        "Set the draft's attention-backend to FLASH_ATTN."),
    cause("unsupported-architecture", "recipe",
        r"[Mm]odel architectures? .* (?:are not supported|failed to be inspected|is not supported)"
        r"|does not recognize this architecture|has no vLLM implementation",
        "This engine does not know the model's architecture.",
        "Use an engine version that supports the model (`requires` in the recipe); the "
        "log may name a missing library."),
    *SHARED_CAUSES,
    refused_by(r"/vllm/(?:config/\w+|engine/arg_utils)\.py"),
)  # fmt: skip
