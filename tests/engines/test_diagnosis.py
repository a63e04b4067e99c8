from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects.vllm.log import LOG
from pytest_gpubench.engines.diagnosis import Ending, classify, fatal_line

DATA = Path(__file__).parent / "data"
DIED = Ending("exited", 1)


def lines_of(name: str) -> list[str]:
    return (DATA / name).read_text(errors="replace").splitlines()


def failed(
    error: str,
    *,
    frame: str = "run",
    process: str = "EngineCore pid=7",
    mark: str = "EngineCore failed to start.",
) -> list[str]:
    body = [
        mark,
        "Traceback (most recent call last):",
        f'  File "/x/y.py", line 3, in {frame}',
        "    call()",
        *error.split("\n"),
    ]
    return [f"({process}) ERROR 11-22 08:00:00 [core.py:1] {line}" for line in body] + _PARENT


_PARENT = [
    "(APIServer pid=1) Traceback (most recent call last):",
    '(APIServer pid=1)   File "/x/utils.py", line 1, in wait_for_engine_startup',
    "(APIServer pid=1)     raise RuntimeError(",
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause "
    "above. Failed core proc(s): {}",
]


@pytest.mark.parametrize(
    ("name", "cause", "failure_class", "evidence"),
    [
        (
            "m3mini-eagle3-flashinfer-died.log",
            "no-common-block-size",
            "recipe",
            "ValueError: No common block size for 128.",
        ),
        (
            "m3mini-mxfp8-tep4-h200-died-vision-heads.log",
            "parallel-size",
            "recipe",
            "AssertionError: 2 is not divisible by 4",
        ),
        (
            "m3mini-mxfp8-tp2-h200-died-illegal-memory.log",
            "all-reduce-multicast",
            "engine",
            "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        ),
        (
            "m3mini-tp2-h100-died-multicast.log",
            "all-reduce-multicast",
            "engine",
            "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(",
        ),
        (
            "m3mini-eagle3-h100-died-top-k-layout.log",
            "minimax-m3-top-k-layout",
            "engine",
            "RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered",
        ),
        (
            "tiny-cpu-died-wrong-flag.log",
            "wrong-argument",
            "recipe",
            "api_server.py: error: unrecognized arguments: --no-such-flag",
        ),
        (
            "tiny-cpu-died-no-snapshot.log",
            "missing-snapshot",
            "infrastructure",
            "huggingface_hub.errors.LocalEntryNotFoundError: ",
        ),
        (
            "tiny-cpu-died-max-model-len.log",
            "invalid-configuration",
            "recipe",
            "pydantic_core._pydantic_core.ValidationError: 1 ",
        ),
        (
            "tiny-cpu-died-chat-template.log",
            "chat-template-missing",
            "recipe",
            "vllm.exceptions.VLLMValidationError: The supplied ",
        ),
        (
            "tiny-cpu-died-kv-cache.log",
            "kv-cache-too-small",
            "recipe",
            "ValueError: No available memory for the cache blocks.",
        ),
        (
            "tiny-cpu-died-worker-killed.log",
            "engine-died",
            "engine",
            "Worker proc VllmWorker-0 died unexpectedly",
        ),
    ],
)
def test_the_root_cause_of_real_logs(
    name: str, cause: str, failure_class: str, evidence: str
) -> None:
    failure = classify(lines_of(name), DIED, LOG)
    assert (failure.cause, failure.failure_class) == (cause, failure_class)
    assert failure.evidence[0].startswith(evidence)


@pytest.mark.parametrize("name", [path.name for path in sorted(DATA.glob("*-ready.log"))])
def test_no_line_of_a_good_run_is_fatal(name: str) -> None:
    assert [line for line in lines_of(name) if fatal_line(LOG.parse(line), LOG)] == []


def test_the_first_fatal_line_of_the_engine_that_lived_on() -> None:
    lines = lines_of("m3mini-mxfp8-tp2-h200-died-illegal-memory.log")
    first = next(number for number, line in enumerate(lines, 1) if fatal_line(LOG.parse(line), LOG))
    assert first == 79
    assert "WorkerProc hit an exception" in lines[78]


KNOWN = [
    (
        "kv-cache-too-small",
        "ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization`",
        "run",
    ),
    (
        "kv-cache-too-small",
        "ValueError: To serve at least one request with the model's max seq len (9), (2.0 GiB KV "
        "cache is needed, "
        "which is larger than the available KV cache memory (1.0 GiB).",
        "run",
    ),
    (
        "gpu-memory-taken",
        "ValueError: Free memory on device cuda:0 (10.0/79.2 GiB) on startup is less "
        "than desired GPU memory utilization (0.9).",
        "run",
    ),
    (
        "out-of-memory-weights",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "load_model",
    ),
    (
        "out-of-memory-capture",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "capture_model",
    ),
    (
        "out-of-memory-activation",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "profile_run",
    ),
    (
        "out-of-memory-kv-cache",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 200.00 GiB.",
        "initialize_kv_cache",
    ),
    (
        "out-of-memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "elsewhere",
    ),
    (
        "illegal-memory-access",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        "run",
    ),
    (
        "backend-not-valid",
        "ValueError: Unknown attention backend: 'FLASH_ATTENTION_9'. Valid options are: FLASH_ATTN",
        "run",
    ),
    (
        "out-of-memory-host",
        "RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
        "run",
    ),
    (
        "parallel-size",
        "ValueError: Tensor parallel size 2 is greater than the number of experts 1.",
        "run",
    ),
    (
        "page-size",
        "AssertionError: Unexpected FlashInfer page size 128 without trtllm-gen GQA",
        "run",
    ),
    (
        "backend-not-valid",
        "ValueError: Selected backend AttentionBackendEnum.X is not valid for this "
        "configuration. Reason: []",
        "run",
    ),
    (
        "unsupported-architecture",
        "ValueError: Model architectures ['X'] are not supported for now. Supported: []",
        "run",
    ),
    (
        "missing-snapshot",
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate "
        "cached snapshot folder",
        "run",
    ),
    ("gated-repo", "huggingface_hub.errors.GatedRepoError: 403 Client Error.", "run"),
    ("port-in-use", "OSError: [Errno 98] Address already in use", "run"),
    (
        "nccl-error",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356, "
        "unhandled cuda error",
        "run",
    ),
    (
        "driver-error",
        "RuntimeError: Failed to infer device type, please set the environment variable",
        "run",
    ),
    ("jit-failure", "RuntimeError: Ninja build failed. Ninja output:", "run"),
    (
        "jit-failure",
        "RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist",
        "run",
    ),
    (
        "tokenizer-missing",
        "OSError: Can't load tokenizer for '/models/x'. If you were trying to load it from",
        "run",
    ),
    (
        "chat-template-missing",
        "FileNotFoundError: the supplied chat template path doesn't exist",
        "run",
    ),
    (
        "corrupt-snapshot",
        "safetensors_rust.SafetensorError: Error while deserializing header: "
        "InvalidHeaderDeserialization",
        "run",
    ),
    ("stale-file-handle", "OSError: [Errno 116] Stale file handle", "run"),
    ("disk-full", "OSError: [Errno 28] No space left on device", "run"),
    ("missing-library", "ModuleNotFoundError: No module named 'torchvision'", "run"),
    (
        "network",
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='x', port=443): "
        "Max retries exceeded",
        "run",
    ),
]


MEANT = [
    # (cause, class, the exception, the frame): what the line means, not a word that others share
    ("gpu-not-visible", "infrastructure", "RuntimeError: No CUDA GPUs are available", "run"),
    ("gpu-not-visible", "infrastructure", "RuntimeError: No HIP GPUs are available", "run"),
    (
        "synthetic-acceptance-unsupported",
        "recipe",
        "AssertionError: Synthetic acceptance not supported with CPU sampling",
        "_rejection_greedy_sample_kernel_impl",
    ),
    (
        "driver-error",
        "infrastructure",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system has "
        "unsupported display driver / cuda driver combination",
        "run",
    ),
    (
        "driver-error",
        "infrastructure",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).",
        "run",
    ),
    (
        "hub-rate-limit",
        "infrastructure",
        "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: x",
        "run",
    ),
    (
        "hub-unavailable",
        "infrastructure",
        "huggingface_hub.errors.HfHubHTTPError: 502 Server Error: Bad Gateway for url: x",
        "run",
    ),
    (
        "repository-not-found",
        "recipe",
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: 1)",
        "run",
    ),
    (
        "repository-not-found",
        "recipe",
        "huggingface_hub.errors.RevisionNotFoundError: 404 Client Error.",
        "run",
    ),
    (
        "cache-locks",
        "infrastructure",
        "PermissionError: [Errno 13] Permission denied: '/cache/.locks/models--m/a.lock'",
        "run",
    ),
    (
        "cache-locks",
        "infrastructure",
        "NotImplementedError: FileSystem does not appear to support flock; use SoftFileLock",
        "run",
    ),
    ("disk-quota", "infrastructure", "OSError: [Errno 122] Disk quota exceeded: '/x'", "run"),
    ("disk-quota", "infrastructure", "OSError: [Errno 30] Read-only file system: '/x'", "run"),
    ("disk-full", "infrastructure", "OSError: [Errno 28] No space left on device: '/x'", "run"),
    (
        "shared-memory-full",
        "infrastructure",
        "OSError: [Errno 28] No space left on device: '/psm_3f0a1b2c'",
        "run",
    ),
    ("process-limit", "infrastructure", "RuntimeError: can't start new thread", "run"),
    (
        "gpu-shared",
        "infrastructure",
        "AssertionError: Error in memory profiling. Initial free memory 82.94 GiB, current free "
        "memory 90.17 GiB.",
        "run",
    ),
    (
        "gpu-memory-foreign",
        "infrastructure",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB. Process 3456 has "
        "60.10 GiB memory in use. Including non-PyTorch memory, this process has 18.50 GiB",
        "load_model",
    ),
    (
        "out-of-memory-weights",
        "recipe",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB. Process 12 has "
        "0.52 GiB memory in use. Including non-PyTorch memory, this process has 78.50 GiB",
        "load_model",
    ),
    (
        "speculative-tokens",
        "recipe",
        "ValueError: num_speculative_tokens:3 must be divisible by n_predict=2",
        "run",
    ),
    (
        "block-size",
        "recipe",
        "ValueError: Block size 24 must be divisible by 16 for FlashAttention",
        "run",
    ),
    (
        "parallel-size",
        "recipe",
        "AssertionError: 32 is not divisible by 6",
        "run",
    ),
    (
        "quantization-groups",
        "recipe",
        "ValueError: The input size is not aligned with the quantized weight shape.",
        "run",
    ),
    (
        "mamba-blocks",
        "recipe",
        "ValueError: max_num_seqs (1024) exceeds available Mamba cache blocks (856).",
        "run",
    ),
    (
        "variable-gone",
        "recipe",
        "ValueError: Using V1 AsyncLLMEngine, but envs.VLLM_USE_V1=False.",
        "run",
    ),
    (
        "no-pipeline",
        "recipe",
        "NotImplementedError: Pipeline parallelism is not supported for this model.",
        "run",
    ),
    (
        "dtype-unsupported",
        "recipe",
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.",
        "run",
    ),
    ("no-kernel-image", "engine", "CUDA error: device kernel image is invalid", "run"),
    (
        "no-kernel-image",
        "engine",
        "torch.AcceleratorError: HIP error: invalid device function",
        "x",
    ),
    (
        "no-kernel-image",
        "engine",
        "RuntimeError: No supported CUDA architectures found for major versions [10, 11, 12].",
        "run",
    ),
    (
        "jit-failure",
        "engine",
        "InductorError: CalledProcessError: Command '['/usr/bin/gcc', '/tmp/x/main.c']' returned 1",
        "run",
    ),
    (
        "peer-died",
        "engine",
        "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:598] Read error "
        "[127.0.0.1]:38431: Connection reset by peer",
        "run",
    ),
    ("network", "infrastructure", "ConnectionResetError: Connection reset by peer", "run"),
    ("worker-hangs", "engine", "TimeoutError: RPC call to execute_model timed out.", "run"),
]


@pytest.mark.parametrize(("cause", "failure_class", "error", "frame"), MEANT)
def test_a_cause_is_what_the_line_means(
    cause: str, failure_class: str, error: str, frame: str
) -> None:
    failure = classify(failed(error, frame=frame), DIED, LOG)
    assert (failure.cause, failure.failure_class) == (cause, failure_class)


def test_prefixes_and_bare_colours_are_taken_off() -> None:
    lines = failed("RuntimeError: No CUDA GPUs are available")
    twice = [f"(APIServer pid=1) {line}" for line in lines]
    bare = [line.replace("(EngineCore", "[1;36m(EngineCore").replace(") ", ")[0;0m ", 1)
            for line in lines]  # fmt: skip
    assert bare != lines
    for changed in (twice, bare):
        assert classify(changed, DIED, LOG).cause == "gpu-not-visible"


def test_an_exception_without_words_shows_where_it_was_raised() -> None:
    lines = [
        "(EngineCore pid=1) ERROR 11-22 08:15:24 [core.py:1] Traceback (most recent call last):",
        '(EngineCore pid=1) ERROR 11-22 08:15:24 [core.py:1]   File "x/llama_eagle3.py", line 9, '
        "in forward",
        "(EngineCore pid=1) ERROR 11-22 08:15:24 [core.py:1]     assert a == b",
        "(EngineCore pid=1) ERROR 11-22 08:15:24 [core.py:1] AssertionError",
    ]
    failure = classify(lines, DIED, LOG)
    assert failure.cause == "unknown"
    assert failure.evidence == (
        'File "x/llama_eagle3.py", line 9, in forward',
        "assert a == b",
        "AssertionError",
    )


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("Memory access fault by GPU node-3 on address 0x77d445e00000.", "gpu-memory-fault"),
        ("Bus error (core dumped)", "shared-memory-full"),
    ],
)
def test_what_a_dying_process_cries_comes_before_what_others_notice(line: str, cause: str) -> None:
    lines = [
        line,
        "(EngineCore pid=68) ERROR 10-06 18:54:30 [multiproc_executor.py:316] Worker proc "
        "VllmWorker-3 died unexpectedly (exit code: -6), shutting down executor.",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed.",
    ]
    assert classify(lines, DIED, LOG).cause == cause


@pytest.mark.parametrize(("cause", "error", "frame"), KNOWN)
def test_known_causes(cause: str, error: str, frame: str) -> None:
    failure = classify(failed(error, frame=frame), DIED, LOG)
    assert failure.cause == cause, f"{failure.cause} matches, too, and stands above it in CAUSES"
    assert failure.evidence[0].startswith(error[:60])
    assert failure.remedy


def test_a_pydantic_complaint_shows_its_sentence() -> None:
    lines = [
        "(APIServer pid=1) Traceback (most recent call last):",
        '(APIServer pid=1)   File "x.py", line 1, in create_model_config',
        "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation "
        "error for ModelConfig",
        "(APIServer pid=1)   Value error, User-specified max_model_len (9) is greater "
        "than the derived max_model_len [type]",
        "(APIServer pid=1)     For further information visit URL",
    ]
    failure = classify(lines, DIED, LOG)
    assert failure.cause == "invalid-configuration"
    assert "greater than the derived" in failure.evidence[1]


def test_argparse_has_no_traceback() -> None:
    lines = [
        "usage: vllm serve [model_tag] [options]",
        "vllm serve: error: unrecognized arguments: --blok-size 128",
    ]
    failure = classify(lines, Ending("exited", 2), LOG)
    assert (failure.cause, failure.failure_class) == ("wrong-argument", "recipe")
    assert failure.evidence == ("vllm serve: error: unrecognized arguments: --blok-size 128",)


def test_an_unknown_cause_shows_the_first_traceback_and_not_the_end_of_the_file() -> None:
    failure = classify(failed("KeyError: 'layers.0.qkv'", frame="load_weights"), DIED, LOG)
    assert (failure.cause, failure.failure_class) == ("unknown", "unknown")
    assert failure.evidence == ("KeyError: 'layers.0.qkv'",)


def test_a_dead_cublas_after_the_fused_all_reduce_is_its_doing() -> None:
    """Seen with vLLM 0.26 on two H100s and on two H200s: a Llama, TP2, no NVLink multicast."""
    workspace = (
        "(Worker_TP0 pid=7) INFO 11-28 13:30:56 [flashinfer_all_reduce.py:170] Initialized "
        "FlashInfer Allreduce norm fusion workspace with backend=mnnvl"
    )
    died = failed(
        "RuntimeError: CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling "
        "`cublasCreate(handle)`",
        frame="forward",
    )
    failure = classify([workspace, *died], DIED, LOG)
    assert (failure.cause, failure.failure_class) == ("all-reduce-multicast", "engine")
    assert "fuse_allreduce_rms: false" in failure.remedy
    assert classify(died, DIED, LOG).cause == "unknown"


def test_the_first_of_a_chain_is_the_root_unless_only_a_later_one_is_known() -> None:
    tail = [
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
    ]
    later = [*tail, '  File "x.py", line 1, in y', "ValueError: No common block size for 64. "]
    stamp = "(EngineCore pid=7) ERROR 11-22 08:00:00 [core.py:1] "
    unknown_first = failed("KeyError: 'x'")[:-4] + [stamp + line for line in later]
    assert classify(unknown_first, DIED, LOG).cause == "no-common-block-size"
    known_first = failed("OSError: [Errno 116] Stale file handle")[:-4] + [
        stamp + line for line in later
    ]
    assert classify(known_first, DIED, LOG).cause == "stale-file-handle"


def test_what_other_ranks_say_later_is_no_cause() -> None:
    first = failed("KeyError: 'x'", process="Worker_TP1 pid=8", mark="WorkerProc failed to start.")
    other = failed(
        "torch.distributed.DistBackendError: NCCL error in: x",
        process="Worker_TP0 pid=7",
        mark="WorkerProc failed to start.",
    )
    assert classify(first + other, DIED, LOG).cause == "unknown"


def test_interleaved_processes_are_told_apart() -> None:
    one = failed("ValueError: No common block size for 64. ", process="Worker_TP0 pid=7")[:5]
    two = failed("KeyError: 'x'", process="Worker_TP1 pid=8")[:5]
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    assert classify(mixed, DIED, LOG).cause == "no-common-block-size"


def test_a_handled_traceback_in_a_warning_is_no_cause() -> None:
    body = [
        "could not connect",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in y',
        "OSError: [Errno 98] Address already in use",
    ]
    warned = [f"(EngineCore pid=7) WARNING 11-22 08:00:00 [x.py:1] {line}" for line in body]
    assert classify(warned + failed("KeyError: 'x'"), DIED, LOG).cause == "unknown"


def test_a_killed_worker_is_named_before_the_tracebacks_that_follow() -> None:
    died = (
        "(EngineCore pid=7) ERROR 11-22 08:00:00 [x.py:1] Worker proc VllmWorker-0 died "
        "unexpectedly (exit code: -9)."
    )
    failure = classify(
        [died, *failed("RuntimeError: cancelled", mark="EngineCore encountered a fatal error.")],
        Ending("exited", 0, serving=True),
        LOG,
    )
    assert (failure.cause, failure.failure_class) == ("killed", "infrastructure")
    assert "VllmWorker-0" in failure.evidence[0]


def test_an_exit_without_a_word() -> None:
    failure = classify(
        ["INFO:     Started server process [1]"], Ending("exited", 0, serving=True), LOG
    )
    assert failure.cause == "engine-died"
    assert "exit code 0" in failure.summary
    assert classify([], Ending("exited", -9), LOG).cause == "killed"
    assert "SIGSEGV" in classify([], Ending("exited", -11), LOG).summary


@pytest.mark.parametrize(
    ("ending", "cause"),
    [
        (Ending("timeout", seconds=3600), "timeout"),
        (Ending("stalled", seconds=600), "stalled"),
        (Ending("timeout", seconds=300, compilers=("cicc", "nvcc")), "kernels-compiling"),
        (Ending("stalled", seconds=300, compilers=("cicc",)), "stalled"),
        (Ending("timeout", seconds=60, answering=True), "never-healthy"),
        (Ending("foreign-server"), "foreign-server"),
    ],
)
def test_endings_that_the_supervisor_saw(ending: Ending, cause: str) -> None:
    assert (
        classify(["(EngineCore pid=1) INFO 11-22 08:00:00 [x.py:1] Loading"], ending, LOG).cause
        == cause
    )


@given(
    st.lists(st.text(max_size=80), max_size=20),
    st.sampled_from(["exited", "fatal-line", "timeout", "stalled"]),
    st.integers(-70, 255),
)
def test_any_text_is_classified(lines: list[str], reason: str, code: int) -> None:
    failure = classify(["Traceback (most recent call last):", *lines], Ending(reason, code), LOG)  # type: ignore[arg-type]
    assert failure.cause
    assert "\n" not in failure.summary
