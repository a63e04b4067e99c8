"""Deaths of every engine in its own words: issues and the messages of the engines' sources say them.
A cause may be unknown; a wrong one sends people the wrong way."""

from __future__ import annotations

import pytest

from pytest_gpubench.dialects.engine_log import EngineLog
from pytest_gpubench.dialects.llamacpp.log import LOG as LLAMACPP
from pytest_gpubench.dialects.sglang.log import LOG as SGLANG
from pytest_gpubench.dialects.vllm.log import LOG as VLLM
from pytest_gpubench.engines.diagnosis import Ending, classify
from pytest_gpubench.model.failures import Failure

DIED = Ending("exited", 1)
ABORTED = Ending("exited", -6)


def _vllm(says: str, place: str = "/x/vllm/v1/worker/gpu_worker.py", code: str = "go()") -> Failure:
    stamp = "(EngineCore pid=68) ERROR 11-22 08:15:24 [core.py:708]"
    body = [
        "EngineCore failed to start.",
        "Traceback (most recent call last):",
        '  File "/x/vllm/v1/engine/core.py", line 699, in run_engine_core',
        "    engine_core = EngineCoreProc(*args, tp_size=tp_size)",
        f'  File "{place}", line 9, in run',
        f"    {code}",
        *says.splitlines(),
    ]
    lines = "\n".join(body).splitlines()
    return classify([f"{stamp} {line}" for line in lines], DIED, VLLM)


def _sglang(says: str, place: str = "/x/sglang/srt/layers/moe.py", code: str = "go()") -> Failure:
    return classify(
        [
            "[2026-05-09 10:00:00 TP0] Init torch distributed begin.",
            "[2026-05-09 10:00:01 TP0] Scheduler hit an exception: Traceback (most recent call "
            "last):",
            '  File "/x/sglang/srt/managers/scheduler.py", line 2719, in run_scheduler_process',
            "    scheduler = Scheduler(tp_size=tp_size)",
            f'  File "{place}", line 9, in run',
            f"    {code}",
            *says.splitlines(),
            "",
            "[2026-05-09 10:00:02] Received sigquit from a child process.",
        ],
        DIED,
        SGLANG,
    )


OF_VLLM = [
    # the whole GPU is full, whoever says it
    (
        "out-of-memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ),
    (
        "out-of-memory",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:77, unhandled "
        "cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
        "Cuda failure 2 'out of memory'",
    ),
    ("out-of-memory", "RuntimeError: Triton Error [CUDA]: out of memory"),
    (
        "flashinfer-workspace",
        "RuntimeError: Buffer overflow when allocating memory for batch_prefill_tmp_v with size 1 "
        "and alignment 16, but only 0 bytes available. Increase the workspace buffer size.",
    ),
    ("nccl-error", "RuntimeError: NCCL communicator was aborted on rank 1."),
    # the driver, the GPUs, the machine
    (
        "driver-error",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda "
        "functions? Error 304: OS call failed or operation not supported on this OS",
    ),
    (
        "driver-error",
        "RuntimeError: Unexpected error from hipGetDeviceCount(). Did you run some cuda "
        "functions? Error 101: hipErrorInvalidDevice",
    ),
    (
        "driver-error",
        "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
    ),
    (
        "shared-memory-full",
        "RuntimeError: unable to write to file </torch_123_456>: No space left on device (28)",
    ),
    (
        "too-few-gpus",
        "ValueError: Current node has no GPU available. current_node_resource={'CPU': 4.0}.",
    ),
    (
        "too-few-gpus",
        "ValueError: The number of required GPUs exceeds the total number of available GPUs in "
        "the placement group.",
    ),
    (
        "too-few-gpus",
        "RuntimeError: Cannot provide a placement group of "
        "'placement_group_specs=[{'GPU': 1.0}]' within 1800 seconds.",
    ),
    ("too-few-gpus", "AssertionError: DP adjusted local rank 4 is out of bounds for 4 devices."),
    ("nccl-error", "RuntimeError: Duplicate GPU detected : rank 1 and rank 0 both on device 1b000"),
    # processes that lost one another
    (
        "rendezvous-timeout",
        "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while "
        "trying to connect to (10.0.0.1, 29500).",
    ),
    (
        "rendezvous-timeout",
        "RuntimeError: Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:144] no error",
    ),
    (
        "rendezvous-timeout",
        "RuntimeError: Did not receive response from front-end process within 5 minutes",
    ),
    ("peer-died", "torch.distributed.DistNetworkError: failed to recv, got 0 bytes"),
    # what has to be built or installed
    ("jit-failure", "OSError: CUDA_HOME environment variable is not set. Please set it"),
    (
        "jit-failure",
        "RuntimeError: [aiter] build [module_rmsnorm] under /home/ci/.aiter failed !!!!!!",
    ),
    ("missing-library", "Exception: flashinfer_python is not installed. Please install it"),
    (
        "transformers-version",
        "ImportError: cannot import name 'AutoModelForVision2Seq' from 'transformers' (/x.py)",
    ),
    (
        "transformers-version",
        "AttributeError: Qwen2Tokenizer has no attribute all_special_tokens_extended.",
    ),
    (
        "transformers-version",
        "ValueError: Tokenizer class TokenizersBackend does not exist or is not currently imported",
    ),
    # the hub and the model's files
    ("gated-repo", "OSError: You are trying to access a gated repo.\nMake sure to have access"),
    (
        "gated-repo",
        "huggingface_hub.errors.HfHubHTTPError: 403 Forbidden: Please enable access to public "
        "gated repositories in your fine-grained token settings",
    ),
    (
        "repository-not-found",
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
        "'namespace/repo_name': '/models/qwen/x'.",
    ),
    (
        "network",
        "httpx.ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "self-signed certificate in certificate chain",
    ),
    (
        "network",
        "RuntimeError: Data processing error: CAS service error : ReqwestMiddleware Error: "
        "Request failed after 5 retries",
    ),
    ("network", "urllib3.exceptions.ProtocolError: ('Connection broken: IncompleteRead(1)', 1)"),
    ("disk-full", "RuntimeError: Data processing error: IO Error: No space left on device (28)"),
    ("tokenizer-missing", "FileNotFoundError: No tokenizer file found in directory: /models/x"),
    ("unsupported-architecture", "ValueError: FooForCausalLM has no vLLM implementation and the"),
    (
        "missing-library",
        "RuntimeError: flashinfer-cubin version (0.5.2) does not match flashinfer version (0.5.3).",
    ),
    ("missing-library", "RuntimeError: operator torchvision::nms does not exist"),
    ("missing-library", "AttributeError: '_OpNamespace' '_C' object has no attribute 'rms_norm'"),
    (
        "missing-library",
        "ValueError: numpy.dtype size changed, may indicate binary incompatibility",
    ),
    (
        "jit-failure",
        "RuntimeError: The detected CUDA version (11.8) mismatches the version that was used to "
        "compile PyTorch (12.1).",
    ),
    ("fork-after-cuda", "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use"),
    ("ready-timeout", "TimeoutError: Timed out waiting for engine core processes to start."),
    (  # vllm#12498, vllm#36802
        "kernel-resources",
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 66560, "
        "Hardware limit: 65536. Reducing block sizes or `num_stages` may help.",
    ),
    (
        "format-not-on-this-gpu",
        "ValueError: The quantization method modelopt_fp4 is not supported for the current GPU. "
        "Minimum capability: 100. Current capability: 90.",
    ),
    ("backend-not-valid", "NotImplementedError: No NvFp4 MoE backend supports the deployment"),
    ("permission-denied", "PermissionError: [Errno 13] Permission denied: '/home/ci/.cache/a'"),
    ("unknown", "PermissionError: [Errno 13] Permission denied"),
    (
        "hub-token",
        "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url: https://x\n"
        "Invalid username or password.",
    ),
    (
        "repository-not-found",
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1)\n"
        "Repository Not Found for url: https://x. Invalid username or password.",
    ),
    # seen with vLLM 0.32 on the CPU: a weight file that is cut off in its header, a wrong parser
    (
        "corrupt-snapshot",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "  Value error, Unterminated string starting at: line 1 column 984 (char 983) [type=x]",
    ),
    ("corrupt-snapshot", "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    (
        "unknown-parser",
        "KeyError: 'invalid tool call parser: nosuch (chose from { apertus,hermes })'",
    ),
    ("unknown-parser", "KeyError: \"Reasoning parser 'glm46' not found. Available parsers: x\""),
    # what the recipe asks for
    (
        "trust-remote-code",
        "ValueError: The repository x/y contains custom code which must be executed to correctly "
        "load the model.",
    ),
    (
        "invalid-configuration",
        "ValueError: User-specified max_model_len (131072) is greater than the derived "
        "max_model_len (max_position_embeddings=32768)",
    ),
    (
        "quantization-groups",
        "ValueError: Weight input_size_per_partition = 10944 is not divisible by min_thread_k = "
        "128. Consider reducing tensor_parallel_size",
    ),
    (
        "quantization-groups",
        "ValueError: The output_size of gate's and up's weight = 192 is not divisible by weight "
        "quantization block_n = 128.",
    ),
    (
        "parallel-size",
        "ValueError: Total number of attention heads (40) must be divisible by tensor parallel "
        "size (16).",
    ),
    ("parallel-size", "AssertionError: 151936 is not divisible by 7"),
    ("parallel-size", "AssertionError: num_kv_heads=5 must be divisible by tp_size=2."),
    # a reason among many is not the cause
    (
        "backend-not-valid",
        "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig("
        "head_size=576, dtype=torch.bfloat16, kv_cache_dtype=fp8). Reasons: {FLASH_ATTN: "
        "[kv_cache_dtype not supported, block_size not supported]}.",
    ),
    # divisible, and no matter of a parallel size
    ("unknown", "AssertionError: head_size 80 must be divisible by 16"),
    ("unknown", "AssertionError: H must be divisible by 8"),
    ("unknown", "ValueError: embed_dim must be divisible by num_heads (got 7, 3)."),
    ("unknown", "ValueError: page_size_bytes 1024 must be divisible by 768"),
    ("unknown", "ValueError: KV cache region for x has size 7, which is not divisible by its 3"),
    # a dtype, and not that of the model
    (
        "unknown",
        "ValueError: Unsupported quant_dtype mxfp8. MXFP8 is not supported for MoE experts.",
    ),
    ("unknown", "ValueError: indexer_kv_dtype=fp8 is not supported by the sparse indexer"),
    # memory, and not the host's
    ("unknown", "MemoryError: Not enough space in the data buffer, try calling free_buf()"),
    ("out-of-memory-host", "MemoryError"),
    # the block of something else
    ("unknown", "AssertionError: KV cache inner dims (block_size, head_size) must be contiguous"),
]


@pytest.mark.parametrize(("cause", "says"), OF_VLLM)
def test_a_death_of_vllm(cause: str, says: str) -> None:
    assert _vllm(says).cause == cause


def test_transformers_is_the_library_and_not_a_folder_of_that_name() -> None:
    says = "AttributeError: 'Qwen3Config' object has no attribute 'rope_scaling'"
    theirs = "/x/site-packages/transformers/configuration_utils.py"
    ours = "/x/site-packages/vllm/model_executor/models/transformers/base.py"
    assert _vllm(says, theirs).cause == "transformers-version"
    assert _vllm(says, ours).cause == "unknown"
    assert (
        _vllm("AttributeError: 'NoneType' object has no attribute 'x'", theirs).cause == "unknown"
    )


def test_weights_of_another_draft() -> None:
    """Seen with vLLM 0.32 on the CPU: a Llama given as the EAGLE3 draft of another."""
    says = "ValueError: There is no module or parameter named 'model' in LlamaModel."
    draft, model = "/x/vllm/model_executor/models/llama_eagle3.py", "/x/vllm/models/llama.py"
    frame = 'go()\n  File "/x/vllm/model_executor/models/utils.py", line 9, in load_weights'
    assert _vllm(says, draft, frame).cause == "draft-weights"
    assert _vllm(says, model, frame).cause == "unknown"


def test_deep_gemm_is_known_by_its_frame() -> None:
    says = "RuntimeError: DeepGEMM backend is not available or outdated. Please install or update"
    assert _vllm(says, "/x/vllm/utils/deep_gemm.py").cause == "deep-gemm"


OF_SGLANG = [
    ("kv-cache-too-small", "RuntimeError: Not enough memory. Please try to increase --mem-fraction-"
     "static. Current value: mem_fraction_static=0.7"),
    ("kv-cache-too-small", "ValueError: Loaded weights leave no GPU memory for the KV cache under "
     "--mem-fraction-static=0.5. Raise --mem-fraction-static above 0.731"),
    ("kv-cache-too-small", "RuntimeError: Not enough GPU memory for hybrid (mamba/linear-attention)"
     " state cache. Computed max_mamba_cache_size=0"),
    ("kv-cache-too-small", "RuntimeError: Hybrid (mamba/linear-attention) state cache is too small "
     "to serve any requests. max_mamba_cache_size=3"),
    ("gpu-memory-taken", "RuntimeError: The memory capacity is unbalanced. Some GPUs may be "
     "occupied by other processes. min_per_gpu_memory=16.28, local_gpu_memory=46.81"),
    ("unsupported-architecture", "ValueError: Qwen3OmniMoeForConditionalGeneration has no SGlang "
     "implementation and the Transformers implementation is not compatible with SGLang."),
    ("chat-template-missing", "RuntimeError: Chat template foo is not a built-in template name or "
     "a valid chat template file path."),
    ("unknown", "AssertionError: src and dst must have same trailing shape"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "says"), OF_SGLANG)
def test_a_death_of_sglang(cause: str, says: str) -> None:
    assert _sglang(says, "/x/sglang/srt/layers/dp_attention.py").cause == cause


def test_a_bare_assertion_is_judged_by_its_own_line() -> None:
    place = "/x/sglang/srt/models/llama.py"
    assert _sglang("AssertionError", place, "assert hidden % page_size == 0").cause == "unknown"
    assert _sglang("AssertionError", place, "assert x is not None").cause == "unknown"
    divided = "assert self.total_num_heads % tp_size == 0\n           ^^^^^^^^^^^^^^^^^^"
    assert _sglang("AssertionError", place, divided).cause == "parallel-size"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (
            "/x/sglang/srt/server_args.py",
            "ValueError: speculative_eagle_topk > 1 with page_size > 1 is unstable",
        ),
        (
            "/x/sglang/srt/arg_groups/validation_hook.py",
            "AssertionError: chunked_prefill_size must be divisible by page_size",
        ),
        ("/x/sglang/srt/server_args.py", "AssertionError: Please set dp-size > 1."),
    ],
)
def test_what_the_arguments_check_complains_of_is_the_recipe(place: str, says: str) -> None:
    body = ["Traceback (most recent call last):", f'  File "{place}", line 9, in check']
    lines = [*body, "    raise error", *says.splitlines()]
    failure = classify(lines, DIED, SGLANG)
    assert (failure.cause, failure.failure_class) == ("invalid-configuration", "recipe")
    deeper = [
        *lines[:-1],
        '  File "/x/torch/cuda.py", line 3, in lazy',
        "    go()",
        "ValueError: y",
    ]
    assert classify(deeper, DIED, SGLANG).cause == "unknown"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("/x/vllm/config/model.py", "ValueError: Quantization method specified in the model config "
         "(fp8) does not match the quantization method specified in the `quantization` argument"),
        ("/x/vllm/engine/arg_utils.py", "ValueError: Unsupported combination of flags"),
        ("/x/vllm/config/speculative.py", "NotImplementedError: Speculative decoding with draft "
         "model is not supported yet."),
    ],
)  # fmt: skip
def test_what_vllm_says_of_its_configuration_is_the_recipe(place: str, says: str) -> None:
    failure = _vllm(says, place)
    assert (failure.cause, failure.failure_class) == ("invalid-configuration", "recipe")


# Lines without a traceback: (engine, ending, cause, what stands in the log).
WITHOUT_TRACEBACK = [
    (SGLANG, DIED, "port-in-use",
     "[2026-05-09 10:00:00] ERROR:    [Errno 98] error while attempting to bind on address "
     "('0.0.0.0', 30000): address already in use"),
    (VLLM, DIED, "port-in-use",
     "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address "
     "already in use"),
    (SGLANG, DIED, "killed",
     "[2026-05-09 10:00:00] Rank 0 scheduler is dead. Please check if there are relevant logs.\n"
     "[2026-05-09 10:00:00] Exit code: -9\nTraceback (most recent call last):\n"
     '  File "/x/engine.py", line 1, in launch\n    data = reader.recv()\nEOFError'),
    (VLLM, ABORTED, "no-kernel-image",
     "rocBLAS error: Cannot read /opt/rocm/lib/rocblas/library/TensileLibrary.dat: Illegal seek for"
     " GPU arch : gfx1103"),
    (VLLM, DIED, "process-limit",
     "OpenBLAS blas_thread_init: pthread_create failed for thread 63 of 64: Resource temporarily "
     "unavailable"),
    (VLLM, ABORTED, "process-limit",
     "terminate called after throwing an instance of 'std::system_error'\n"
     "  what():  Resource temporarily unavailable"),
    (VLLM, ABORTED, "out-of-memory-host",
     "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"),
    (SGLANG, Ending("exited", -3), "worker-hangs",
     "[2026-05-09 10:00:00 TP0] Scheduler watchdog timeout (self.watchdog_timeout=300, "
     "self.soft=False)"),
    (LLAMACPP, Ending("exited", 127), "missing-library",
     "/app/llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared "
     "object file: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("log", "ending", "cause", "says"), WITHOUT_TRACEBACK)
def test_a_death_without_a_traceback(log: EngineLog, ending: Ending, cause: str, says: str) -> None:
    assert classify(says.splitlines(), ending, log).cause == cause


_STOPS = "common_init_from_params: failed to load model '/m.gguf'"
OF_LLAMACPP = [
    ("out-of-memory-weights",
     "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 3257.82 MiB on device 0: cudaMalloc "
     "failed: out of memory\nllama_model_load: error loading model: unable to allocate CUDA0 buffer"
     "\nllama_model_load_from_file_impl: failed to load model\n" + _STOPS),
    ("out-of-memory-host",
     "ggml_aligned_malloc: insufficient memory (attempted to allocate 46080.00 MB)\n"
     "llama_model_load: error loading model: unable to allocate CPU buffer\n" + _STOPS),
    ("kv-cache-too-small",
     "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 16384.00 MiB on device 0: cudaMalloc "
     "failed: out of memory\nllama_init_from_model: failed to initialize the context: failed to "
     "allocate buffer for kv cache"),
    ("kv-cache-too-small",
     "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 4429185024\n"
     "graph_reserve: failed to allocate compute buffers\nllama_init_from_model: failed to "
     "initialize the context: failed to allocate compute pp buffers"),
    ("out-of-memory",
     "CUDA error: out of memory\n  current device: 0, in function alloc at ggml-cuda.cu:528"),
    ("out-of-memory-weights",
     "ggml_vulkan: Device memory allocation of size 1073741824 failed.\nllama_model_load: error "
     "loading model: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n" + _STOPS),
    ("unsupported-architecture",
     "llama_model_load: error loading model: error loading model architecture: unknown model "
     "architecture: 'qwen3next'\n" + _STOPS),
    ("unsupported-architecture",
     "llama_model_load: error loading model: error loading model vocabulary: unknown pre-tokenizer "
     "type: 'deepseek-r1-qwen'\n" + _STOPS),
    ("unsupported-architecture",
     "llama_model_load: error loading model: done_getting_tensors: wrong number of tensors; "
     "expected 292, got 291\n" + _STOPS),
    ("unsupported-architecture",
     "llama_model_load: error loading model: missing tensor 'blk.0.attn_q_norm.weight'\n" + _STOPS),
    ("corrupt-snapshot",
     "gguf_init_from_file_impl: invalid magic characters: '<!DO', expected 'GGUF'\n" + _STOPS),
    ("corrupt-snapshot",
     "llama_model_load: error loading model: tensor 'blk.2.ffn_down.weight' data is not within the "
     "file bounds, model is corrupted or incomplete\n" + _STOPS),
    ("missing-snapshot",
     "gguf_init_from_file: failed to open GGUF file '/m.gguf' (No such file or directory)\n"
     + _STOPS),
    ("wrong-argument", "error: invalid argument: --foo"),
    ("wrong-argument", 'error while handling argument "--ctx-size": stoi\n\nusage:\n--ctx-size N'),
    ("invalid-configuration",
     "llama_init_from_model: failed to initialize the context: quantized V cache was requested, but"
     " this requires Flash Attention\ncommon_init_: failed to create context with model 'm.gguf'"),
    ("chat-template-unusable",
     "srv          init: chat template parsing error: Unknown statement 'generation'"),
    ("chat-template-unusable", "error: the supplied chat template is not supported: x.jinja"),
    ("draft-weights",
     "common_speculative_are_compatible: draft model vocab type must match target model to use "
     "speculation but vocab_type_dft = 1 while vocab_type_tgt = 2"),
    ("driver-error",
     "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA "
     "runtime version\n" + _STOPS),
    ("engine-died", "/x/fattn.cu:123: GGML_ASSERT(mask->ne[1] >= 1) failed"),
    ("engine-died",  # the warning is no cause
     "warning: failed to mlock 827228160-byte buffer: Cannot allocate memory\n"
     "/x/ggml.c:1: GGML_ASSERT(false) failed"),
    ("engine-died",  # what it does while it fits the model into memory is none, either
     "common_fit_params: failed to fit params to free device memory: was unable to fit model into "
     "system memory by reducing context, abort\n/x/ggml.c:1: GGML_ASSERT(false) failed"),
    ("engine-died", "common_init_: failed to create context with model 'm.gguf'"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "says"), OF_LLAMACPP)
def test_a_death_of_llamacpp(cause: str, says: str) -> None:
    """Its prefixes may be switched off, and older ones have none."""
    lines = says.splitlines()
    assert classify(lines, ABORTED, LLAMACPP).cause == cause
    prefixed = [line if "GGML_ASSERT" in line else f"0.01.000.000 E {line}" for line in lines]
    if not says.startswith(("warning:", "common_fit")):
        assert classify(prefixed, ABORTED, LLAMACPP).cause == cause


@pytest.mark.parametrize(
    "prefix",
    [
        "(EngineCore_DP0 pid=68) (RayWorkerWrapper pid=512, ip=192.168.1.2) ",
        "(EngineCore_DP0 pid=68) [36m(RayWorkerWrapper pid=512, ip=192.168.1.2)[0m ",
        "[36m(RayWorkerWrapper pid=512)[0m ",
        "(EngineCore_DP0 pid=68) [rank0]: ",
        "[rank0]: ",
        "ERROR 02-07 11:28:26 engine.py:389] ",
        "(Worker_PP0_TP1 pid=7) ERROR 11-22 08:00:00 [x.py:1] ",
    ],
)
def test_a_traceback_is_found_behind_every_prefix(prefix: str) -> None:
    body = [
        "Traceback (most recent call last):",
        '  File "/x/y.py", line 3, in run',
        "    call()",
        "",
        "RuntimeError: No CUDA GPUs are available",
    ]
    assert classify([f"{prefix}{line}" for line in body], DIED, VLLM).cause == "gpu-not-visible"


@pytest.mark.parametrize(
    "who", ["DetokenizerManager", "TokenizerManager", "DataParallelController", "Scheduler"]
)
def test_every_part_of_sglang_says_what_it_died_of(who: str) -> None:
    lines = [
        f"[2026-05-09 10:00:01 TP0] {who} hit an exception: Traceback (most recent call last):",
        '  File "/x/y.py", line 3, in run',
        "    call()",
        "RuntimeError: No CUDA GPUs are available",
        "",
        "[2026-05-09 10:00:02] Received sigquit from a child process.",
    ]
    assert classify(lines, DIED, SGLANG).cause == "gpu-not-visible"


def test_a_traceback_that_begins_behind_words_is_read() -> None:
    """vLLM 0.8 says who hit an exception in the traceback's first line."""
    stamp = "ERROR 04-17 08:12:47 [core.py:387]"
    body = [
        "EngineCore hit an exception: Traceback (most recent call last):",
        '  File "/x/y.py", line 3, in run',
        "    call()",
        "RuntimeError: No CUDA GPUs are available",
    ]
    assert classify([f"{stamp} {line}" for line in body], DIED, VLLM).cause == "gpu-not-visible"


@pytest.mark.parametrize(
    "prefix",
    ["[2026-05-09 10:00:01 DP0 ATTN_CP1 MOE_DP0 TP0 EP0]", "[2026-05-09 10:00:01.123 PP0 TP1]"],
)
def test_every_rank_of_sglang_is_understood(prefix: str) -> None:
    lines = [
        f"{prefix} Scheduler hit an exception: Traceback (most recent call last):",
        '  File "/x/y.py", line 3, in run',
        "    call()",
        "RuntimeError: No CUDA GPUs are available",
    ]
    assert classify(lines, DIED, SGLANG).cause == "gpu-not-visible"


def test_a_traceback_of_the_web_server_is_read() -> None:
    lines = [
        "INFO:     Waiting for application startup.",
        "ERROR:    Traceback (most recent call last):",
        '  File "/x/starlette/routing.py", line 692, in lifespan',
        "    async with self.lifespan_context(app) as maybe_state:",
        "OSError: [Errno 28] No space left on device",
        "",
        "ERROR:    Application startup failed. Exiting.",
    ]
    assert classify(lines, Ending("exited", 3), SGLANG).cause == "disk-full"


def test_an_exception_that_wraps_another_is_read_to_its_end() -> None:
    failure = _sglang(
        "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\n"
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable."
    )
    assert failure.cause == "jit-failure"
    assert len(failure.evidence) == 2


def test_a_refusal_is_judged_by_what_came_of_it() -> None:
    """An answer of 401 is gated, private or not there; the hub's library says which."""
    first = "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://x"
    body = [
        *_TRACEBACK,
        first,
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        *_TRACEBACK,
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1)",
    ]
    assert classify(body, DIED, VLLM).cause == "gated-repo"


_TRACEBACK = ["Traceback (most recent call last):", '  File "/x/y.py", line 3, in z', "    go()"]


def test_what_ray_brings_from_another_process_is_read() -> None:
    """vllm#15687 and others: the worker's own frames and words follow Ray's."""
    says = [
        "ray.exceptions.RayTaskError(OutOfMemoryError): ray::RayWorkerWrapper.execute_method() "
        "(pid=512, ip=192.168.1.2, actor_id=1)",
        '  File "/x/vllm/worker/worker.py", line 9, in load_model',
        "    self.model_runner.load_model()",
        *["    ^^^^^^^^^^"] * 6,
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    ]
    failure = _vllm("\n".join(says))
    assert failure.cause == "out-of-memory-weights"
    assert failure.evidence[0].startswith("torch.OutOfMemoryError")
    died = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."
    assert _vllm(died).cause == "peer-died"
