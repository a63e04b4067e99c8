"""The catalogue of known causes: what an engine's root-cause text looks like, who must act, and
what to do.

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


def _cause(
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


CAUSES: tuple[Cause, ...] = (
    _cause(
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
    _cause(
        "all-reduce-multicast",
        "engine",
        r"illegal memory access|cudaErrorIllegalAddress|CUBLAS_STATUS_EXECUTION_FAILED",
        "FlashInfer's fused all-reduce (mnnvl) wrote through NVLink multicast, which "
        "this host most likely does not offer.",
        "Set env VLLM_FLASHINFER_ALLREDUCE_BACKEND: trtllm, or use a vLLM that looks "
        "for multicast first (0.32 does).",
        log=r"FlashInfer Allreduce norm fusion workspace with backend=mnnvl",
    ),
    _cause(
        "illegal-memory-access",
        "engine",
        r"illegal memory access|cudaErrorIllegalAddress",
        "A GPU kernel of the engine read or wrote outside its memory.",
        "Run once with env CUDA_LAUNCH_BLOCKING=1 to find the kernel; try another "
        "attention, MoE or all-reduce backend.",
    ),
    _cause(
        "device-assert",
        "engine",
        r"device-side assert triggered|misaligned address|CUDA error: unspecified launch failure",
        "A GPU kernel of the engine failed an assertion.",
        "Run once with env CUDA_LAUNCH_BLOCKING=1 to find the kernel, then report it to vLLM.",
    ),
    _cause(
        "gpu-memory-fault",
        "engine",
        r"Memory access fault by GPU",
        "A GPU kernel of the engine read or wrote outside its memory (Memory access fault).",
        "Try another attention or MoE backend; run once with env AMD_SERIALIZE_KERNEL=3 to find "
        "the kernel.",
    ),
    _cause(
        "deep-gemm",
        "engine",
        r"Unknown SF transformation|deep_?gemm.*[Aa]ssertion|Assertion error",
        "DeepGEMM's kernels do not fit this GPU or these weights.",
        "Set env VLLM_USE_DEEP_GEMM: 0, or use the DeepGEMM that this engine was tested with.",
        frames=r"deep_?gemm",
    ),
    _cause(
        "no-kernel-image",
        "engine",
        r"no kernel image is available|PTX was compiled with an unsupported toolchain"
        r"|device kernel image is invalid|invalid device function|hipErrorNoBinaryForGpu"
        r"|No supported CUDA architectures found",
        "The engine was not built for this GPU or driver.",
        "Use a vLLM build for this GPU's compute capability, or a newer driver.",
    ),
    _cause(
        "kv-cache-too-small",
        "recipe",
        r"No available memory for the cache blocks|larger than the available KV cache"
        r"|max seq len .* is larger than the maximum number of tokens",
        "The KV cache does not fit beside the weights.",
        "Raise gpu-memory-utilization (on the CPU: VLLM_CPU_KVCACHE_SPACE), lower "
        "max-model-len, or use more GPUs.",
    ),
    _cause(
        "gpu-shared",
        "infrastructure",
        r"Error in memory profiling",
        "Another process took or freed memory of the GPU while the engine measured how much it "
        "needs.",
        "See that nothing else runs on the GPU (nvidia-smi), then run again.",
    ),
    _cause(
        "gpu-memory-foreign",
        "infrastructure",
        rf"(?:{_OOM})[\s\S]*Process \d+ has (?:[2-9]|\d{{2,}})(?:\.\d+)? GiB memory"
        r" in use[\s\S]*this process has",
        "The GPU ran out of memory beside another process that has much of it.",
        "Find the process that the message names (nvidia-smi), end it or wait for it.",
    ),
    _cause(
        "gpu-memory-taken",
        "infrastructure",
        r"Free memory on device .* is less than desired|Free memory on device .* on "
        r"startup is less",
        "Part of the GPU's memory is taken, so the engine cannot have the share that it was given.",
        "Find the other process (nvidia-smi), end it or wait; or lower gpu-memory-utilization.",
    ),
    _cause(
        "out-of-memory-capture",
        "recipe",
        _OOM,
        "The GPU ran out of memory while CUDA graphs were captured.",
        "Lower max-cudagraph-capture-size or gpu-memory-utilization.",
        r"capture_model|capture_graph|capture_cudagraph|_capture_|cudagraph_memory|CUDAGraph",
    ),
    _cause(
        "out-of-memory-kv-cache",
        "recipe",
        _OOM,
        "The GPU ran out of memory while the KV cache was allocated.",
        "Lower kv-cache-memory-bytes or gpu-memory-utilization, or find who took the "
        "memory meanwhile.",
        r"initialize_kv_cache|allocate_kv_cache|init_kv_cache",
    ),
    _cause(
        "out-of-memory-activation",
        "recipe",
        _OOM,
        "The GPU ran out of memory in a forward pass.",
        "Lower max-num-batched-tokens or max-num-seqs, or use more GPUs.",
        r"profile_run|_dummy_run|execute_model|determine_available_memory|warm_?up",
    ),
    _cause(
        "out-of-memory-weights",
        "recipe",
        _OOM,
        "The GPU ran out of memory while the weights were loaded.",
        "Use more GPUs (a larger TP or EP), a smaller precision, or free the GPU.",
        r"load_model|load_weights|create_weights|initialize_model|process_weights",
    ),
    _cause(
        "out-of-memory",
        "recipe",
        _OOM,
        "The GPU ran out of memory.",
        "Use more GPUs, or lower gpu-memory-utilization and batch sizes.",
    ),
    _cause(
        "out-of-memory-host",
        "infrastructure",
        r"DefaultCPUAllocator: (?:can't|not enough)|\bMemoryError\b|Errno "
        r"12\]|[Cc]annot allocate memory",
        "The host ran out of memory.",
        "Free memory on the host or raise the job's memory limit; on the CPU engine "
        "lower VLLM_CPU_KVCACHE_SPACE.",
    ),
    _cause(
        "process-limit",
        "infrastructure",
        r"can't start new thread|Errno 11\].*temporarily unavailable",
        "The engine may not start as many processes and threads as it needs.",
        "Raise the limit of processes (`ulimit -u`, pids of the container).",
    ),
    _cause(
        "speculative-tokens",
        "recipe",
        r"num_speculative_tokens.{0,80}divisible|n_predict.{0,80}divisible|divisible by n_predict",
        "The draft cannot propose this number of speculative tokens.",
        "Set num-speculative-tokens to a multiple of what the draft predicts at a time.",
    ),
    _cause(
        "block-size",
        "recipe",
        r"[Bb]lock.size \d+ must be divisible|block_size.{0,40}(?:must be|not supported)",
        "The attention backend does not take this block size.",
        "Change block-size to one that the message allows, or remove it.",
    ),
    _cause(
        "mamba-blocks",
        "recipe",
        r"exceeds available Mamba cache blocks",
        "There are fewer Mamba cache blocks than sequences that may run.",
        "Lower max-num-seqs to what the message allows, or raise gpu-memory-utilization.",
    ),
    _cause(
        "variable-gone",
        "recipe",
        r"envs\.VLLM_USE_V1",
        "The environment sets VLLM_USE_V1, which this engine does not have any more.",
        "Remove VLLM_USE_V1 from the recipe's env and from the job's environment.",
    ),
    _cause(
        "no-pipeline",
        "recipe",
        r"Pipeline parallelism is not supported",
        "The model cannot be split into pipeline stages.",
        "Use pp 1, and TP or DP instead.",
    ),
    _cause(
        "dtype-unsupported",
        "recipe",
        r"[Bb]float16 is only supported on GPUs|dtype.{0,60}not supported",
        "This GPU or quantization does not take the dtype of the model.",
        "Set `dtype: half` under `serve`, or use a newer GPU.",
    ),
    _cause(
        "no-common-block-size",
        "recipe",
        r"No common block size for",
        "The attention backends of target and draft have no KV block size in common.",
        "Set the draft's attention-backend (FLASH_ATTN serves block size 128), or "
        "change block-size.",
    ),
    _cause(
        "page-size",
        "recipe",
        r"Unexpected FlashInfer page size",
        "FlashInfer cannot serve the draft with this block size.",
        "Set the draft's attention-backend to FLASH_ATTN.",
    ),
    _cause(
        "backend-not-valid",
        "recipe",
        r"[Ss]elected backend .* is not valid|Unknown attention backend|No valid attention "
        r"backend found"
        r"|No \w+ MoE backends? available",
        "A backend that the recipe asks for cannot serve this model on this GPU.",
        "Remove the backend from the recipe or choose one that the engine's message allows.",
    ),
    _cause(
        "unsupported-architecture",
        "recipe",
        r"[Mm]odel architectures? .* (?:are not supported|failed to be inspected|is not supported)"
        r"|does not recognize this architecture",
        "This engine does not know the model's architecture.",
        "Use an engine version that supports the model (`requires` in the recipe); the "
        "log may name a missing library.",
    ),
    _cause(
        "too-few-gpus",
        "infrastructure",
        r"is larger than the number of available GPUs|[Ww]orld size .* (?:exceeds|is greater "
        r"than) .*GPU"
        r"|invalid device ordinal",
        "The server needs more GPUs than it was given.",
        "Use a node with enough free GPUs; look at CUDA_VISIBLE_DEVICES.",
    ),
    _cause(
        "quantization-groups",
        "recipe",
        r"not aligned with the quantized weight shape",
        "The groups of the quantized weights cannot be divided by the parallel size.",
        "Use a smaller TP (or EP), or weights with smaller groups.",
    ),
    _cause(
        "parallel-size",
        "recipe",
        r"is not divisible by|must be divisible by|not evenly divisible|is greater than "
        r"the number of experts",
        "A size of the model cannot be divided by the parallel size.",
        "Choose a TP (or DP) size that divides heads, experts and widths of the model, "
        "vision tower and draft included.",
    ),
    _cause(
        "gated-repo",
        "recipe",
        r"GatedRepoError|Access to model .* is restricted|Cannot access gated repo",
        "The model's repository is gated.",
        "Accept its licence on the hub with the account of your token, then run `gpubench fetch`.",
    ),
    _cause(
        "repository-not-found",
        "recipe",
        r"RepositoryNotFoundError|RevisionNotFoundError|EntryNotFoundError: 404",
        "The model's repository or revision does not exist on the hub, or is private.",
        "Correct the model's name or revision in the recipe; for a private one set HF_TOKEN.",
    ),
    _cause(
        "hub-rate-limit",
        "infrastructure",
        r"429 Client Error|Too Many Requests for url",
        "The hub refuses more requests from here (rate limit).",
        "Run `gpubench fetch` beforehand, with HF_TOKEN; servers start offline then.",
    ),
    _cause(
        "hub-unavailable",
        "infrastructure",
        r"50[0-4] Server Error|Gateway Time-?out",
        "The hub, or a proxy before it, is not well.",
        "Run again later, or `gpubench fetch` beforehand.",
    ),
    _cause(
        "cache-locks",
        "infrastructure",
        r"PermissionError.*\.lock|does not appear to support flock|Errno 37\]",
        "The cache's lock files cannot be used: they are another user's (permission denied), or "
        "the file system has no locks.",
        "Give the user write permission below the cache's .locks, or keep the cache on a local "
        "disk (--gpubench-cache-dir).",
    ),
    _cause(
        "corrupt-snapshot",
        "infrastructure",
        r"SafetensorError|HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer|Error "
        r"while deserializing header",
        "A weight file is damaged or incomplete.",
        "Delete the snapshot from the hub cache and run `gpubench fetch` again.",
    ),
    _cause(
        "tokenizer-missing",
        "recipe",
        r"(?:Can't load|Unable to load|Failed to load|Couldn't instantiate).{0,40}tokenizer",
        "The model has no tokenizer that the engine can load.",
        "Name one with `tokenizer:` under `serve`, or complete the model's folder.",
    ),
    _cause(
        "chat-template-missing",
        "recipe",
        r"supplied chat template|chat template is no longer allowed|ChatTemplateResolutionError",
        "The chat template cannot be found.",
        "Give `chat-template` under `serve` the path of a template that exists.",
    ),
    _cause(
        "missing-snapshot",
        "infrastructure",
        r"LocalEntryNotFoundError|IncompleteSnapshotError|OfflineModeIsEnabled|outgoing traffic "
        r"has been disabled"
        r"|Cannot find .* in the (?:disk )?cache"
        r"|Invalid repository ID or local directory"
        r"|Can't load the configuration of|does not appear to have a file named"
        r"|not a local folder and is not a valid model identifier|couldn't connect to .* to "
        r"load|Cannot find any model weights",
        "The model is not, or not completely, on this machine.",
        "Run `gpubench fetch` where there is a network, or correct the model's name, "
        "path or revision.",
    ),
    _cause(
        "port-in-use",
        "infrastructure",
        r"[Aa]ddress already in use|Errno 98\]",
        "The port that was free a moment ago was taken by another process.",
        "Run again; a server that stays on a fixed port has to be stopped first.",
        retried=True,
    ),
    _cause(
        "nccl-error",
        "infrastructure",
        r"NCCL error|nccl\w*Error|DistBackendError|NCCL WARN|ProcessGroupNCCL.*(?:timeout|Timeout)",
        "The GPUs could not talk to each other (NCCL).",
        "Run once with env NCCL_DEBUG=INFO; look at NVLink, shared memory (/dev/shm) "
        "and network interfaces of the node.",
    ),
    _cause(
        "gpu-not-visible",
        "infrastructure",
        r"No (?:CUDA|HIP) GPUs are available|hipErrorNoDevice",
        "No GPU is visible to the engine.",
        "Look at nvidia-smi in the same container, its GPU runtime, and CUDA_VISIBLE_DEVICES.",
    ),
    _cause(
        "driver-error",
        "infrastructure",
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old"
        r"|unsupported display driver|no CUDA-capable device|CUDA driver initialization "
        r"failed"
        r"|system not yet initialized|NVMLError|Found no NVIDIA driver"
        r"|Failed to infer device type|uncorrectable (?:ECC|NVLink)|devices?\(s\) is/are busy or "
        r"unavailable"
        r"|forward compatibility was attempted|GPU is lost",
        "The GPU driver is missing, too old or broken.",
        "Look at nvidia-smi and the kernel log of the node; take the node out of "
        "service until it is repaired.",
    ),
    _cause(
        "jit-failure",
        "engine",
        r"[Nn]inja build failed|ninja: build stopped|(?:Could not find|not find) nvcc"
        r"|nvcc fatal|nvcc not found|CalledProcessError.*(?:ninja|nvcc|gcc|g\+\+|/cc\b)"
        r"|Python\.h: No such file|InvalidCxxCompiler"
        r"|No such file or directory: '(?:\S*/)?(?:nvcc|ninja|g\+\+|gcc)'|CppCompileError|Failed "
        r"to find C compiler",
        "A kernel could not be compiled on this machine.",
        "Install the compiler that the message names (nvcc, ninja, gcc; with gcc also "
        "python3-dev), or an engine with its kernels built in.",
    ),
    _cause(
        "transformers-version",
        "engine",
        r"AttributeError: .*has no attribute|ImportError: cannot import name",
        "The engine and its transformers library do not fit together.",
        "Install the version of transformers that this engine asks for.",
        frames=r"/transformers/",
    ),
    _cause(
        "missing-library",
        "engine",
        r"ModuleNotFoundError|ImportError|cannot open shared object file|undefined symbol",
        "The engine's installation lacks a library.",
        "Repair the engine's environment: install what the message names, in the "
        "version that this engine needs.",
    ),
    _cause(
        "shared-memory-full",
        "infrastructure",
        r"No space left on device: '/(?:psm_|torch_|sem\.|nccl|dev/shm)|/dev/shm.*No space left"
        r"|Bus error",
        "The shared memory (/dev/shm) is too small.",
        "Give the container more (docker's --shm-size, or --ipc=host).",
    ),
    _cause(
        "disk-quota",
        "infrastructure",
        r"Disk quota exceeded|Errno 122\]|Read-only file system|Errno 30\]",
        "The engine may not write: the quota of the disk is used up, or it is read-only.",
        "Free space, or choose another cache with --gpubench-cache-dir.",
    ),
    _cause(
        "disk-full",
        "infrastructure",
        r"No space left on device|Errno 28\]",
        "The disk is full.",
        "Free space on the disk (caches, logs), then run again.",
    ),
    _cause(
        "stale-file-handle",
        "infrastructure",
        r"Stale file handle|Errno 116\]",
        "A network file system took a file away while it was read.",
        "Run again; keep the model cache on a local disk if it happens often.",
    ),
    _cause(
        "too-many-files",
        "infrastructure",
        r"Too many open files|Errno 24\]",
        "The engine may not open as many files as it needs.",
        "Raise the limit (ulimit -n 65536).",
    ),
    _cause(
        "peer-died",
        "engine",
        r"gloo[\s\S]*(?:Connection (?:reset|closed) by peer|Connection closed|Broken pipe)"
        r"|TCPStore.*(?:Connection reset|Broken pipe)|recvValue failed",
        "A process of the engine lost another one, which died first.",
        "Look in the log of the other ranks for what ended the first of them.",
    ),
    _cause(
        "worker-hangs",
        "engine",
        r"RPC call to \w+ timed out",
        "A worker of the engine hangs: it did not answer its engine core in time.",
        "Look in the log for the rank that is silent; try another all-reduce or attention backend.",
    ),
    _cause(
        "draft-weights",
        "recipe",
        r"^KeyError: ",
        "The draft's weights are not those that the engine knows for it.",
        "Use the draft that was made for this model, and an engine that supports it.",
        frames=r"models/\w*(?:eagle|medusa|mtp|draft)[\s\S]*load_weights",
    ),
    _cause(
        "network",
        "infrastructure",
        r"Max retries exceeded|ConnectionError\b|ConnectTimeout|ReadTimeout|Temporary failure in "
        r"name resolution"
        r"|Connection reset by peer",
        "The engine lost a network connection.",
        "Run again; fetch models beforehand with `gpubench fetch`.",
    ),
    _cause(
        "wrong-argument",
        "recipe",
        r"error: (?:unrecognized arguments|argument |the following arguments are "
        r"required|ambiguous option)",
        "The engine does not accept an argument of the recipe.",
        "Correct the flag under `serve` (or in extra-args), or require an engine that knows it.",
    ),
    _cause(
        "invalid-configuration",
        "recipe",
        r"validation errors? for \w*(?:Config|Args)\b",
        "The engine rejects a value of its configuration.",
        "Correct the value that the message names in the recipe.",
    ),
)

RETRIED = frozenset({"foreign-server", *(cause.name for cause in CAUSES if cause.retried)})
"""A port that somebody else took, or whose server answers: another port may be free."""
