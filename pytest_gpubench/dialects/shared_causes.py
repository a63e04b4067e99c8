"""The causes that every engine shares: on the GPU, of the machine, its files and its network."""

from __future__ import annotations

from pytest_gpubench.dialects.engine_log import (
    GPU_MEMORY_FOREIGN,
    OUT_OF_MEMORY,
    WRONG_ARGUMENT,
    Cause,
    cause,
)

SHARED_CAUSES: tuple[Cause, ...] = (
    cause("illegal-memory-access", "engine", r"illegal memory access|cudaErrorIllegalAddress",
        "A GPU kernel of the engine read or wrote outside its memory.",
        "Run once with env CUDA_LAUNCH_BLOCKING=1 to find the kernel; try another "
        "attention, MoE or all-reduce backend."),
    cause("device-assert", "engine",
        r"device-side assert triggered|misaligned address|CUDA error: unspecified launch failure",
        "A GPU kernel of the engine failed an assertion.",
        "Run once with env CUDA_LAUNCH_BLOCKING=1 to find the kernel, then report it to "
        "the engine's makers."),
    cause("gpu-memory-fault", "engine", r"Memory access fault by GPU",
        "A GPU kernel of the engine read or wrote outside its memory (Memory access fault).",
        "Try another attention or MoE backend; run once with env AMD_SERIALIZE_KERNEL=3 to find "
        "the kernel."),
    cause("no-kernel-image", "engine",
        r"no kernel image is available|PTX was compiled with an unsupported toolchain"
        r"|device kernel image is invalid|invalid device function|hipErrorNoBinaryForGpu"
        r"|No supported CUDA architectures found"
        r"|ptxas fatal\s*: Value 'sm_\w+' is not defined"
        r"|requires GPUs with sm\d+|rocBLAS error: Cannot read \S*TensileLibrary",
        "The engine was not built for this GPU or driver.",
        "Use a build of the engine for this GPU's compute capability, or a newer driver."),
    cause("fp8-not-on-this-gpu", "recipe", r"type fp8e4nv not supported in this architecture",
        "This GPU cannot compute with the FP8 type of these weights.",
        "Use weights of another format on this GPU, or one of compute capability 8.9 or newer."),
    cause("format-not-on-this-gpu", "recipe",
        r"quantization method \S+ is not supported for the current GPU",
        "This GPU cannot compute with the quantization of these weights.",
        "Use weights of another format on this GPU, or a GPU of the capability that the message "
        "names."),
    cause("kernel-resources", "engine",
        r"OutOfResources: out of resource|too many resources requested for launch",
        "A kernel needs more shared memory or registers than this GPU has.",
        "Try another attention or MoE backend, or an engine with kernels tuned for this GPU."),
    cause("flashinfer-workspace", "recipe",
        r"Buffer overflow when allocating memory for \w+ .*workspace buffer",
        "FlashInfer's workspace is too small for a batch.",
        "Lower the batch sizes, or give the engine's variable for that workspace more bytes."),
    GPU_MEMORY_FOREIGN,
    cause("out-of-memory", "recipe", OUT_OF_MEMORY,
        "The GPU ran out of memory.",
        "Use more GPUs, or lower the share of memory that the engine takes and its batch sizes."),
    cause("out-of-memory-host", "infrastructure",
        r"DefaultCPUAllocator: (?:can't|not enough)|\bMemoryError$|_ArrayMemoryError|Errno "
        r"12\]|[Cc]annot allocate memory|std::bad_alloc",
        "The host ran out of memory.",
        "Free memory on the host or raise the job's memory limit; on the CPU lower what the "
        "engine reserves for its KV cache."),
    cause("process-limit", "infrastructure",
        r"can't start new thread|Errno 11\].*temporarily unavailable|pthread_create failed"
        r"|what\(\):\s+Resource temporarily unavailable",
        "The engine may not start as many processes and threads as it needs.",
        "Raise the limit of processes (`ulimit -u`, pids of the container)."),
    cause("too-few-gpus", "infrastructure",
        r"is larger than the number of available GPUs|[Ww]orld size .* (?:exceeds|is greater "
        r"than) .*GPU"
        r"|invalid device ordinal|has no GPU available|number of required GPUs exceeds"
        r"|Cannot provide a placement group|local rank \d+ is out of bounds",
        "The server needs more GPUs than it was given.",
        "Use a node with enough free GPUs; look at CUDA_VISIBLE_DEVICES."),
    cause("quantization-groups", "recipe", r"not aligned with the quantized weight shape"
        r"|not divisible by (?:weight quantization block|min_thread|group_size)",
        "The groups of the quantized weights cannot be divided by the parallel size.",
        "Use a smaller TP (or EP), or weights with smaller groups."),
    cause("parallel-size", "recipe",
        r"(?:^|Error: |error, )\d+ is not divisible by \d|is greater than the number of experts"
        r"|(?s:(?:[Pp]arallel|\b\w*[tdpec]+p_(?:world_)?size\b|\bworld_size\b|\bTP\b).{0,120}"
        r"divisible by|divisible by.{0,120}(?:parallel|\b\w*[tdpec]+p_(?:world_)?size\b|\bTP\b))",
        "A size of the model cannot be divided by the parallel size.",
        "Choose a TP (or DP) size that divides heads, experts and widths of the model, "
        "vision tower and draft included."),
    cause("gated-repo", "recipe", r"GatedRepoError|Access to model .* is restricted|gated repo",
        "The model's repository is gated.",
        "Accept its licence on the hub with the account of your token, then run `gpubench fetch`."),
    cause("repository-not-found", "recipe",
        r"RepositoryNotFoundError|RevisionNotFoundError|EntryNotFoundError: 404"
        r"|HFValidationError: Repo id",
        "The model's repository or revision does not exist on the hub, or is private.",
        "Correct the model's name or revision in the recipe; for a private one set HF_TOKEN."),
    cause("hub-token", "recipe",
        r"Invalid user ?name or password|Invalid credentials in Authorization"
        r"|[Tt]oken .{0,80} is expired",
        "The hub does not accept the token that it was given.",
        "Give HF_TOKEN (or the login of `hf auth`) a token that is valid."),
    cause("hub-rate-limit", "infrastructure", r"429 Client Error|Too Many Requests for url",
        "The hub refuses more requests from here (rate limit).",
        "Run `gpubench fetch` beforehand, with HF_TOKEN; servers start offline then."),
    cause("hub-unavailable", "infrastructure", r"50[0-4] Server Error|Gateway Time-?out",
        "The hub, or a proxy before it, is not well.",
        "Run again later, or `gpubench fetch` beforehand."),
    cause("cache-locks", "infrastructure",
        r"PermissionError.*\.lock|does not appear to support flock|Errno 37\]",
        "The cache's lock files cannot be used: they are another user's (permission denied), or "
        "the file system has no locks.",
        "Give the user write permission below the cache's .locks, or keep the cache on a local "
        "disk (--gpubench-cache-dir)."),
    cause("permission-denied", "infrastructure",
        r"PermissionError: \[Errno 13\] Permission denied: ['\"]",
        "The engine may not use a file or folder.",
        "Give its user the right to the path that the message names, or set HOME and the caches to "
        "a folder of its own."),
    cause("corrupt-snapshot", "infrastructure",
        r"SafetensorError|HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer|Error "
        r"while deserializing header"
        r"|(?:Unterminated string|Expecting [^\n:]*|Extra data)(?: starting at)?: line \d+ column",
        "A weight file, or a description beside it, is damaged or incomplete.",
        "Delete the snapshot from the hub cache and run `gpubench fetch` again."),
    cause("tokenizer-missing", "recipe",
        r"(?:Can't load|Unable to load|Failed to load|Couldn't instantiate).{0,40}tokenizer"
        r"|No tokenizer file found",
        "The model has no tokenizer that the engine can load.",
        "Name one with `tokenizer:` under `serve`, or complete the model's folder."),
    cause("trust-remote-code", "recipe", r"contains custom code which must be executed",
        "The model brings code of its own, which the engine may not run.",
        "Set `trust-remote-code: true` under `serve` if you trust the model's repository."),
    cause("chat-template-missing", "recipe",
        r"supplied chat template (?!is not supported)|chat template is no longer allowed"
        r"|ChatTemplateResolutionError|not a built-in template name or a valid chat template",
        "The chat template cannot be found.",
        "Give `chat-template` under `serve` the path of a template that exists."),
    cause("chat-template-unusable", "recipe",
        r"TemplateSyntaxError|chat template (?:parsing error|is not supported)"
        r"|[Uu]nable to generate parser for this template",
        "The engine cannot read the chat template.",
        "Give the server another template under `serve`."),
    cause("missing-snapshot", "infrastructure",
        r"LocalEntryNotFoundError|IncompleteSnapshotError|OfflineModeIsEnabled|outgoing traffic "
        r"has been disabled"
        r"|Cannot find .* in the (?:disk )?cache"
        r"|Invalid repository ID or local directory"
        r"|Can't load the configuration of|does not appear to have a file named"
        r"|not a local folder and is not a valid model identifier|couldn't connect to .* to "
        r"load|Cannot find any model weights",
        "The model is not, or not completely, on this machine.",
        "Run `gpubench fetch` where there is a network, or correct the model's name, "
        "path or revision."),
    cause("port-in-use", "infrastructure",
        r"[Aa]ddress already in use|Errno 98\]|Port is already in use",
        "The port that was free a moment ago was taken by another process.",
        "Run again; a server that stays on a fixed port has to be stopped first.",
        retried=True),
    cause("nccl-error", "infrastructure",
        r"NCCL error|nccl\w*Error|DistBackendError|NCCL WARN|ProcessGroupNCCL.*(?:timeout|Timeout)"
        r"|Duplicate GPU detected|NCCL communicator was aborted",
        "The GPUs could not talk to each other (NCCL).",
        "Run once with env NCCL_DEBUG=INFO; look at NVLink, shared memory (/dev/shm) "
        "and network interfaces of the node."),
    cause("gpu-not-visible", "infrastructure",
        r"No (?:CUDA|HIP) GPUs are available|hipErrorNoDevice",
        "No GPU is visible to the engine.",
        "Look at nvidia-smi in the same container, its GPU runtime, and CUDA_VISIBLE_DEVICES."),
    cause("driver-error", "infrastructure",
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old"
        r"|unsupported display driver|no CUDA-capable device|CUDA driver initialization "
        r"failed"
        r"|system not yet initialized|NVMLError|Found no NVIDIA driver"
        r"|Failed to infer device type|uncorrectable (?:ECC|NVLink)|devices?\(s\) is/are busy or "
        r"unavailable"
        r"|forward compatibility was attempted|GPU is lost|CUDA unknown error"
        r"|Unexpected error from (?:cuda|hip)GetDeviceCount",
        "The GPU driver is missing, too old or broken.",
        "Look at nvidia-smi and the kernel log of the node; take the node out of "
        "service until it is repaired."),
    cause("jit-failure", "engine",
        r"[Nn]inja build failed|ninja: build stopped|(?:Could not find|not find) nvcc"
        r"|nvcc fatal|nvcc not found|CalledProcessError.*(?:ninja|nvcc|gcc|g\+\+|/cc\b)"
        r"|Python\.h: No such file|InvalidCxxCompiler"
        r"|No such file or directory: '(?:\S*/)?(?:nvcc|ninja|g\+\+|gcc)'|CppCompileError|Failed "
        r"to find C compiler|CUDA_HOME environment variable is not set"
        r"|CUDA version \(\S+\) mismatches|\[aiter\] build .* failed",
        "A kernel could not be compiled on this machine.",
        "Install the compiler that the message names (nvcc, ninja, gcc; with gcc also "
        "python3-dev), or an engine with its kernels built in."),
    cause("transformers-version", "engine",
        r"AttributeError: (?!'NoneType').*has no attribute|ImportError: cannot import name",
        "The engine and its transformers library do not fit together.",
        "Install the version of transformers that this engine asks for.",
        frames=r"(?<!/models)/transformers/"),
    cause("transformers-version", "engine",
        r"cannot import name .* from 'transformers|has no attribute all_special_tokens_extended"
        r"|Tokenizer class \w+ does not exist or is not currently imported",
        "The engine and its transformers library do not fit together.",
        "Install the version of transformers that this engine asks for."),
    cause("missing-library", "engine",
        r"ModuleNotFoundError|ImportError|cannot open shared object file|undefined symbol"
        r"|Exception: [\w.-]+ is not installed|_OpNamespace' '\w+' object has no attribute"
        r"|operator \S+ does not exist|numpy\.dtype size changed|version \(\S+\) does not match",
        "The engine's installation lacks a library.",
        "Repair the engine's environment: install what the message names, in the "
        "version that this engine needs."),
    cause("shared-memory-full", "infrastructure",
        r"No space left on device: '/(?:psm_|torch_|sem\.|nccl|dev/shm)|/dev/shm.*No space left"
        r"|</torch_\w+>: No space left|Bus error",
        "The shared memory (/dev/shm) is too small.",
        "Give the container more (docker's --shm-size, or --ipc=host)."),
    cause("disk-quota", "infrastructure",
        r"Disk quota exceeded|Errno 122\]|Read-only file system|Errno 30\]",
        "The engine may not write: the quota of the disk is used up, or it is read-only.",
        "Free space, or choose another cache with --gpubench-cache-dir."),
    cause("disk-full", "infrastructure", r"No space left on device|Errno 28\]",
        "The disk is full.",
        "Free space on the disk (caches, logs), then run again."),
    cause("stale-file-handle", "infrastructure", r"Stale file handle|Errno 116\]",
        "A network file system took a file away while it was read.",
        "Run again; keep the model cache on a local disk if it happens often."),
    cause("too-many-files", "infrastructure", r"Too many open files|Errno 24\]",
        "The engine may not open as many files as it needs.",
        "Raise the limit (ulimit -n 65536)."),
    cause("peer-died", "engine",
        r"gloo[\s\S]*(?:Connection (?:reset|closed) by peer|Connection closed|Broken pipe)"
        r"|TCPStore.*(?:Connection reset|Broken pipe)|recvValue failed|failed to recv, got 0 bytes"
        r"|ActorDiedError|RayActorError",
        "A process of the engine lost another one, which died first.",
        "Look in the log of the other ranks for what ended the first of them."),
    cause("rendezvous-timeout", "infrastructure",
        r"DistStoreError|store based barrier|Timed out waiting \d+ms for (?:send|recv)"
        r"|Timed out initializing process group|client socket has timed out"
        r"|connectFullMesh failed|Did not receive response from front-end process",
        "The processes of the engine did not find one another in time.",
        "Look in the log whether one of them died first; else at the network that NCCL and gloo "
        "take (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME, a firewall on the node)."),
    cause("worker-hangs", "engine", r"RPC call to \w+ timed out",
        "A worker of the engine hangs: it did not answer its engine core in time.",
        "Look in the log for the rank that is silent; try another all-reduce or attention "
        "backend."),
    cause("unknown-parser", "recipe",
        r"invalid (?:tool call|reasoning) parser|[Pp]arser '[^']*' not found"
        r"|Unsupported tool_call_parser",
        "The engine does not know the parser that the recipe names.",
        "Take the parser out of the recipe, or one that the engine knows."),
    cause("draft-weights", "recipe",
        r"^KeyError: |There is no module or parameter named|Attempted to load weight",
        "The draft's weights are not those that the engine knows for it.",
        "Use the draft that was made for this model, and an engine that supports it.",
        frames=r"models/\w*(?:eagle|medusa|mtp|draft)[\s\S]*load_weights"),
    cause("network", "infrastructure",
        r"Max retries exceeded|ConnectionError\b|ConnectTimeout|ReadTimeout|Temporary failure in "
        r"name resolution|\bConnectError\b|CERTIFICATE_VERIFY_FAILED|CAS service error"
        r"|Connection broken|Connection reset by peer",
        "The engine lost a network connection.",
        "Run again; fetch models beforehand with `gpubench fetch`."),
    WRONG_ARGUMENT,
    cause("invalid-configuration", "recipe",
        r"validation errors? for \w*(?:Config|Args)\b|User-specified (?:max_model_len|context_len)"
        r"|Quantization method specified in the model config",
        "The engine rejects a value of its configuration.",
        "Correct the value that the message names in the recipe."),
)  # fmt: skip
