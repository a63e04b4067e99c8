"""A stub of the vLLM server: its command line, its processes, its log lines, its HTTP, and faults
on demand.

    python stub_engine.py serve MODEL --port 8000 --served-model-name NAME ...
    python stub_engine.py --model MODEL --port 8000 ...

Like the real one it is three processes (API server, engine core, worker), asks for the key in
VLLM_API_KEY, and binds its port before it loads. Environment: GPUBENCH_STUB_FAULT (one of FAULTS,
some with ``:NUMBER``), GPUBENCH_STUB_DEVICE (cpu or cuda), GPUBENCH_STUB_LOAD (seconds),
GPUBENCH_STUB_UNTIL (a file: loads until it is there), GPUBENCH_STUB_TTFT and
GPUBENCH_STUB_TOKEN_TIME (seconds), GPUBENCH_STUB_TOKENS_PER_DRAFT (with a draft: tokens of each
chunk).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pytest_gpubench.load.loopback.http_server import Request, Response
    from pytest_gpubench.load.loopback.server import LoopbackServer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
BARE = (sys.executable, "-I", "-S", __file__)
"""Starts the core and the worker, which need the standard library alone: what the server imports
takes longer than an interpreter."""
FAULTS = {
    "exit-at-import": "a library is missing: traceback, exit code 1",
    "exit-after-load": "the engine core fails after the load: traceback, exit code 1",
    "exit-quietly": "exit code 0 during the load, without a word",
    "hang-at-load": "no output and no CPU time after the load began",
    "heartbeat-at-load": "hangs, and says every 100 ms that it waits",
    "busy-at-load": "computes for ever, without output",
    "compile-at-load": "a compiler of CUDA kernels (a process with its name) computes for ever",
    "health-drip": "the answer of /health does not end",
    "models-404": "the server has no /v1/models",
    "models-number": "the list of models is a number",
    "metrics-drip": "the answer of /metrics does not end",
    "other-engine": "/v1/models says that it is SGLang",
    "unknown-variable": "says that it does not know the variable VLLM_NO_SUCH_SETTING",
    "finish-other": "every answer ends with the reason halted",
    "counter-vanishes": "the count of preemptions leaves /metrics with the first completion",
    "health-500": "the server answers, and is never healthy",
    "foreign-name": "serves another model name, as somebody else's server would",
    "hang-after-health": "ready, and silent from the first completion on",
    "worker-killed": "the worker is killed during the load (as the out-of-memory killer does)",
    "worker-killed-serving": "the worker is killed at the first completion",
    "core-killed-serving": "the engine core is killed at the first completion",
    "die-after": "exit code 0 after N completions",
    "exit-leaving-core": "the API server is killed during the load; core and worker live on",
    "killed-serving": "the API server is killed at the first completion; core and worker live on",
    "ignore-sigterm": "all processes ignore SIGTERM",
    "escape": "the worker leaves the session and process group and ignores SIGTERM",
    "log-flood": "N MiB of log before it is ready",
    "no-newline": "N MiB without a line end before it is ready",
    "wrong-argument": "argparse refuses a flag, exit code 2",
    "out-of-memory": "a worker runs out of GPU memory while it loads weights, exit code 1",
    "kv-cache": "the KV cache does not fit, exit code 1",
    "illegal-memory": "a worker reports an illegal memory access; no process exits",
    "port-in-use-once": (
        "the first start finds the port taken (a file named by GPUBENCH_STUB_ONCE says "
        "whether it was)"
    ),
    "tell-key": "prints its API key into the log",
    "compile-refusing": "as compile-serving, and refuses the last of them with status 503",
    "compile-serving": "says of each of the first N completions that it compiled a kernel for it",
    "stderr-binary": "prints bytes that are not UTF-8",
    "hostile-error": "answers completions with status 500 and what terminals and CIs obey",
    "usage-lie": "counts, in usage and /metrics, three times the tokens of the text that it streams",
    "no-recount": "its /tokenize knows no plain text, only messages",
}
FAULT, _, _NUMBER = os.environ.get("GPUBENCH_STUB_FAULT", "").partition(":")
NUMBER = int(_NUMBER or 0)
ANSWERS, _, _EVERY = os.environ.get("GPUBENCH_STUB_ANSWERS", "").partition(":")
EVERY = int(_EVERY or 1)
"""What becomes of every N-th sum that it is asked for (right otherwise): wrong, refused, cut,
empty; draft-wrong: wrong, where it has a draft; late-death: the engine dies. A question may say it
itself, as in "What is 3 + 21? cut-20"."""
SUM = re.compile(rb'What is (\d+) \+ (\d+)\?(?: ([a-z]+)-(\d+))?(\\nAnswer:)?"}\s*]')
DEVICE = os.environ.get("GPUBENCH_STUB_DEVICE", "cpu")
VERSION = "0.0.0+stub"


def say(process: str, text: str, level: str = "INFO", source: str = "stub.py:1") -> None:
    """One log line, as vLLM prints it."""
    print(
        f"({process} pid={os.getpid()}) {level} {time.strftime('%m-%d %H:%M:%S')} "
        f"[{source}] {text}",
        flush=True,
    )


def say_traceback(process: str, mark: str, error: str, frame: str = "load_model") -> None:
    """A traceback under an ERROR mark, as vLLM prints it."""
    for line in [
        mark,
        "Traceback (most recent call last):",
        f'  File "stub.py", line 1, in {frame}',
        "    raise",
        *error.split("\n"),
    ]:
        say(process, line, "ERROR")


def arguments() -> argparse.Namespace:
    """The flags that the stub reflects; all others are accepted, unless they say that they are
    none."""
    words = sys.argv[2:] if sys.argv[1:2] == ["serve"] else sys.argv[1:]
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--served-model-name", nargs="+")
    for name, default in (
        ("port", 8000),
        ("max-model-len", 2304),
        ("block-size", 128),
        ("max-cudagraph-capture-size", 16),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("tensor", "data", "pipeline", "decode-context", "prefill-context"):
        parser.add_argument(f"--{name}-parallel-size", type=int, default=1)
    parser.add_argument("--enable-expert-parallel", action="store_true")
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument(
        "--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True
    )
    parser.add_argument("--speculative-config", type=json.loads)
    parser.add_argument("--role", default="api")
    options, rest = parser.parse_known_args(words)
    options.model = options.model or options.model_tag
    wrong = [word for word in rest if word.startswith("--no-such")] or (
        ["--wrong"] if FAULT == "wrong-argument" else []
    )
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    return options


def config_line(options: argparse.Namespace) -> str:
    """vLLM's line about its configuration, from the arguments."""
    draft = options.speculative_config
    model = repr(draft.get("model")) if draft else ""
    tokens = draft["num_speculative_tokens"] if draft else 0
    speculative = (
        f"SpeculativeConfig(method={draft['method']!r}, model={model}, num_spec_tokens={tokens})"
        if draft
        else "None"
    )
    return (
        f"Initializing a V1 LLM engine (v{VERSION}) with config: model={options.model!r}, "
        f"speculative_config={speculative}, "
        f"tokenizer={options.model!r}, revision=None, dtype=torch.bfloat16, "
        f"max_seq_len={options.max_model_len}, "
        f"tensor_parallel_size={options.tensor_parallel_size}, "
        f"pipeline_parallel_size={options.pipeline_parallel_size}, "
        f"data_parallel_size={options.data_parallel_size}, "
        f"decode_context_parallel_size={options.decode_context_parallel_size}, "
        f"quantization=None, enforce_eager={options.enforce_eager}, kv_cache_dtype=auto, "
        f"device_config={DEVICE}, "
        f"served_model_name={options.served_model_name[0]}, "
        f"enable_prefix_caching={options.enable_prefix_caching}, "
        f"compilation_config={{'cudagraph_capture_sizes': [1, 2, 4], "
        f"'max_cudagraph_capture_size': {options.max_cudagraph_capture_size}}}"
    )


def sleep_forever() -> NoReturn:
    """Live on without CPU time."""
    while True:
        time.sleep(3600)


def ignore_sigterm() -> None:
    """For the faults that do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def run_worker() -> None:
    """The worker: lives until it is killed."""
    if FAULT == "escape":
        os.setsid()
        ignore_sigterm()
    if FAULT == "ignore-sigterm":
        ignore_sigterm()
    print("up", flush=True)
    sleep_forever()


def run_core(options: argparse.Namespace) -> None:
    """The engine core: starts the worker, "loads", says that it is ready by touching a file, then
    watches the worker."""
    if FAULT == "ignore-sigterm":
        ignore_sigterm()
    say("EngineCore", config_line(options))
    worker = subprocess.Popen(
        [*BARE, "--role", "worker"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    if FAULT != "ignore-sigterm":

        def leave(*_: object) -> None:
            worker.terminate()
            os._exit(0)

        signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, lambda *_: worker.kill())
    if DEVICE == "cuda":
        say(
            "EngineCore",
            "Using FLASH_ATTN attention backend out of potential backends: "
            "['FLASH_ATTN', 'FLASHINFER'].",
        )
        if options.speculative_config:
            say("EngineCore", "Loading drafter model...")
            backend = options.speculative_config.get("attention_backend", "FLASH_ATTN")
            say("EngineCore", f"Using AttentionBackendEnum.{backend} backend.")
    fault_while_loading(worker)
    time.sleep(float(os.environ.get("GPUBENCH_STUB_LOAD", "0.05")))
    while (
        "GPUBENCH_STUB_UNTIL" in os.environ and not Path(os.environ["GPUBENCH_STUB_UNTIL"]).exists()
    ):
        time.sleep(0.05)
    say("EngineCore", "Model loading took 0.01 GiB memory and 0.050000 seconds")
    longest = f"{options.max_model_len:,}"
    say(
        "EngineCore",
        f"{DEVICE.upper()} KV cache size: 116,480 tokens, Maximum concurrency for "
        f"{longest} tokens per request: 9.00x",
    )
    if FAULT == "exit-after-load":
        say_traceback(
            "EngineCore",
            "EngineCore failed to start.",
            "ValueError: No common block size for 128. ",
            "initialize_kv_cache",
        )
        worker.kill()
        os._exit(1)
    say("EngineCore", "init engine (profile, create kv cache, warmup model) took 0.10 s")
    Path(options.role.partition(":")[2]).touch()
    code = worker.wait()
    say(
        "EngineCore",
        f"Worker proc VllmWorker-0 died unexpectedly (exit code: {code}), shutting down executor.",
        "ERROR",
    )
    say_traceback(
        "EngineCore",
        "EngineCore encountered a fatal error.",
        "RuntimeError: cancelled",
        "run_busy_loop",
    )
    os._exit(1)


def fault_while_loading(worker: subprocess.Popen[bytes]) -> None:
    """The faults of the core and its worker before the engine is ready."""
    if FAULT == "hang-at-load":
        sleep_forever()
    while FAULT == "heartbeat-at-load":
        say("EngineCore", "No available shared memory broadcast block found in 60 seconds.")
        time.sleep(0.1)
    if FAULT == "busy-at-load":
        from tests.busy import compute_on

        compute_on()
    if FAULT == "compile-at-load":
        compiler = Path(tempfile.mkdtemp(), "cicc")
        compiler.symlink_to(sys.executable)
        here = Path(__file__).parent
        words = f"import sys; sys.path.insert(0, {str(here)!r}); import busy; busy.compute_on()"
        subprocess.run([compiler, "-S", "-c", words], check=True)
    if FAULT == "worker-killed":
        worker.kill()
        code = worker.wait()
        say(
            "EngineCore",
            f"Worker proc VllmWorker-0 died unexpectedly (exit code: {code}), shutting "
            "down executor.",
            "ERROR",
        )
        say_traceback(
            "EngineCore",
            "EngineCore failed to start.",
            "RuntimeError: Worker failed during the load",
            "collective_rpc",
        )
        os._exit(1)
    if FAULT == "out-of-memory":
        say_traceback(
            "Worker_TP0",
            "WorkerProc failed to start.",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        )
        worker.kill()
        os._exit(1)
    if FAULT == "kv-cache":
        error = (
            "ValueError: No available memory for the cache blocks. Try increasing "
            "`gpu_memory_utilization`."
        )
        say_traceback("EngineCore", "EngineCore failed to start.", error, "get_kv_cache_configs")
        worker.kill()
        os._exit(1)
    if FAULT == "illegal-memory":
        error = (
            "torch.AcceleratorError: CUDA error: an illegal memory access was "
            "encountered\nSearch for `cudaErrorIllegalAddress'"
        )
        say_traceback("Worker_TP0", "WorkerProc hit an exception.", error, "profile_run")
        sleep_forever()


def flood() -> None:
    """Much output, with and without line ends."""
    if FAULT == "log-flood":
        block = b"".join(b"noise %07d %s\n" % (number, b"x" * 100) for number in range(8192))
        for _ in range(NUMBER):
            sys.stdout.buffer.write(block[: 2**20])
    if FAULT == "no-newline":
        for _ in range(NUMBER):
            sys.stdout.buffer.write(b"y" * 2**20)
        sys.stdout.buffer.write(os.environ["VLLM_API_KEY"].encode() * 3 + b"\n")
    sys.stdout.buffer.flush()


class ApiServer:
    """The API server: binds first, starts the core, serves when it is up."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.core: subprocess.Popen[bytes] | None = None
        self.leaving = False
        self.completions = 0

    def run(self) -> None:
        options = self.options
        options.served_model_name = options.served_model_name or [options.model]
        say(
            "APIServer",
            f"non-default args: {{'model': {options.model!r}, 'enable_expert_parallel': "
            f"{options.enable_expert_parallel}}}",
        )
        say("APIServer", "Resolved architecture: StubForCausalLM")
        if FAULT == "tell-key":
            say("APIServer", f"my key is {os.environ.get('VLLM_API_KEY')}")
        if FAULT == "stderr-binary":
            os.write(2, b"\xff\xfe\x00 not text \xc3\x28\n")
        self.take_port()
        flood()
        ready = Path(tempfile.gettempdir()) / f"gpubench-stub-{os.getpid()}.ready"
        role = ["--role", f"core:{ready}"]
        self.core = subprocess.Popen([*BARE, *sys.argv[1:], *role], stdin=subprocess.DEVNULL)
        if FAULT == "exit-leaving-core":
            time.sleep(0.4)
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "exit-quietly":
            self.core.kill()  # before it has a worker, whose broken pipe would be a word
            os._exit(0)
        if FAULT != "ignore-sigterm":
            signal.signal(signal.SIGTERM, lambda *_: self.leave(0))
        # while the core loads
        from pytest_gpubench.load.loopback.server import serve_forever

        while not ready.exists():
            if self.core.poll() is not None:
                print(f"(APIServer pid={os.getpid()}) Traceback (most recent call last):")
                print(
                    f'(APIServer pid={os.getpid()})   File "utils.py", line 1, in '
                    "wait_for_engine_startup"
                )
                text = (
                    "RuntimeError: Engine core initialization failed. See root cause "
                    "above. Failed core proc(s): {}"
                )
                print(f"(APIServer pid={os.getpid()}) {text}", flush=True)
                sys.exit(1)
            time.sleep(0.01)
        ready.unlink()
        threading.Thread(target=self.watch_core, daemon=True).start()
        server = self.server()
        say("APIServer", "Starting vLLM server on URL")
        serve_forever(server, on_ready=self.on_ready)
        self.leave(0)

    def on_ready(self, _server: LoopbackServer) -> None:
        if FAULT == "ignore-sigterm":
            ignore_sigterm()

    def take_port(self) -> None:
        """The real server binds before it loads; the socket is given up again when the loopback
        server takes over."""
        once = os.environ.get("GPUBENCH_STUB_ONCE")
        taken = FAULT == "port-in-use-once" and once is not None and not Path(once).exists()
        if taken and once is not None:
            Path(once).touch()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if taken:
                    raise OSError(98, "Address already in use")
                listener.bind((self.options.host, self.options.port))
            except OSError as error:
                print(f"(APIServer pid={os.getpid()}) Traceback (most recent call last):")
                print(
                    f'(APIServer pid={os.getpid()})   File "launcher.py", line 1, in '
                    "create_server_socket"
                )
                print(
                    f"(APIServer pid={os.getpid()}) OSError: [Errno {error.errno}] "
                    f"{error.strerror}",
                    flush=True,
                )
                sys.exit(1)

    def server(self) -> LoopbackServer:
        from pytest_gpubench.load.loopback.http_server import Response
        from pytest_gpubench.load.loopback.server import LoopbackServer
        from pytest_gpubench.load.loopback.stream import Fault, Schedule

        options = self.options
        draft = options.speculative_config
        schedule = Schedule(
            float(os.environ.get("GPUBENCH_STUB_TTFT", "0.02")),
            float(os.environ.get("GPUBENCH_STUB_TOKEN_TIME", "0.002")),
            tokens_per_chunk=int(os.environ.get("GPUBENCH_STUB_TOKENS_PER_DRAFT", "1"))
            if draft
            else 1,
            num_speculative_tokens=draft["num_speculative_tokens"] if draft else 0,
        )
        if FAULT == "unknown-variable":
            say(
                "APIServer",
                "Unknown vLLM environment variable detected: VLLM_NO_SUCH_SETTING",
                "WARNING",
                "envs.py:1",
            )
        name = "somebody-else" if FAULT == "foreign-name" else options.served_model_name[0]
        server = LoopbackServer(
            schedule,
            model=name,
            host=options.host,
            port=options.port,
            api_key=os.environ.get("VLLM_API_KEY"),
            max_model_len=options.max_model_len,
            prefix_caching=options.enable_prefix_caching,
            cache_block=options.block_size or 16,
        )
        server.healthy = FAULT != "health-500"
        if FAULT == "usage-lie":
            server.faults = lambda _index: Fault("letters")
        if FAULT == "no-recount":
            tokenize = server.routes["POST", "/tokenize"]
            server.routes["POST", "/tokenize"] = lambda request: (
                tokenize(request) if b'"messages"' in request.body else Response(b"{}", 404)
            )
        server.routes["GET", "/version"] = lambda _request: Response.of_json({"version": VERSION})
        metrics, complete = (
            server.routes["GET", "/metrics"],
            server.routes["POST", "/v1/chat/completions"],
        )

        models = server.routes["GET", "/v1/models"]

        def with_odd_models(request: Request) -> Response:
            page = models(request)
            assert isinstance(page, Response)
            return Response(page.body.replace(b'"owned_by":"vllm"', b'"owned_by":"sglang"'))

        def drip(request: Request) -> None:
            def more() -> None:
                while request.connection.open:
                    request.connection.send_raw(b"#")
                    time.sleep(0.2)

            request.connection.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            threading.Thread(target=more, daemon=True).start()

        if FAULT in ("health-drip", "metrics-drip"):
            server.routes["GET", f"/{FAULT.partition('-')[0]}"] = drip
        if FAULT == "models-404":
            del server.routes["GET", "/v1/models"]
        if FAULT == "models-number":
            server.routes["GET", "/v1/models"] = lambda _request: Response.of_json({"data": 7})
        if FAULT == "other-engine":
            server.routes["GET", "/v1/models"] = with_odd_models

        def with_cache_config(request: Request) -> Response:
            page = metrics(request)
            assert isinstance(page, Response)
            labels = f'block_size="{options.block_size}",enable_prefix_caching="{options.enable_prefix_caching}",engine="0"'
            head = (
                "# HELP vllm:cache_config_info x\n# TYPE vllm:cache_config_info gauge\n"
                f"vllm:cache_config_info{{{labels}}} 1.0\n"
            )
            body = head.encode() + page.body
            if FAULT == "counter-vanishes" and self.completions:
                body = b"\n".join(
                    line for line in body.split(b"\n") if b"vllm:num_preemptions_total" not in line
                )
            return Response(body, content_type=page.content_type)

        def sum_of(request: Request) -> Response | None:
            asked = SUM.search(request.body)
            if asked is None:
                return None
            one, two = int(asked[1]), int(asked[2])
            kind, every = (asked[3].decode(), int(asked[4])) if asked[3] else (ANSWERS, EVERY)
            text, finish = f"It is {one + two}.", "stop"
            if asked[5]:  # as GSM8K asks
                text += f"\n#### {one + two}"
            if one % every == 0:
                if kind == "refused":
                    return Response(b'{"error":{"message":"the context is full"}}', 400)
                if kind == "late-death":
                    os.kill(os.getpid(), signal.SIGKILL)
                if kind == "wrong" or (kind == "draft-wrong" and options.speculative_config):
                    text = "It is -1."
                if kind == "cut":
                    text, finish = "Let me think, " * 4, "length"
                if kind == "empty":
                    text = ""
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
            return Response.of_json(
                {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
                | {"choices": [choice], "usage": usage}
            )

        def with_fault(request: Request) -> Response | None:
            if (evaluated := sum_of(request)) is not None:
                return evaluated
            self.completions += 1
            if FAULT == "hostile-error":
                return Response(
                    b"\n::error title=x::y ##[group]z\x1b]0;TITLE\x07\xc2\x9b2J", 500, "text/plain"
                )
            if FAULT == "hang-after-health":
                time.sleep(3600)
            if FAULT == "die-after" and self.completions > NUMBER:
                self.leave(0)
            if FAULT == "killed-serving":
                os.kill(os.getpid(), signal.SIGKILL)
            if FAULT == "core-killed-serving" and self.core is not None:
                self.core.kill()
            if FAULT == "worker-killed-serving" and self.core is not None:
                self.core.send_signal(signal.SIGUSR1)
            if FAULT in ("compile-serving", "compile-refusing") and self.completions <= NUMBER:
                words = (
                    "Triton kernel JIT compilation during inference: fused_moe_kernel. "
                    "This causes a latency spike"
                )
                say("EngineCore", words, "WARNING", "jit_monitor.py:135")
                if FAULT == "compile-refusing" and self.completions == NUMBER:
                    return Response(b"{}", 503)
            if FAULT == "finish-other":
                send_raw = request.connection.send_raw
                request.connection.send_raw = lambda data: send_raw(  # type: ignore[method-assign]
                    data.replace(b'"finish_reason":"length"', b'"finish_reason":"halted"')
                )
            answer = complete(request)
            assert answer is None or isinstance(answer, Response)
            return answer

        if FAULT != "metrics-drip":
            server.routes["GET", "/metrics"] = with_cache_config
        server.routes["POST", "/v1/chat/completions"] = with_fault
        server.routes["POST", "/v1/completions"] = with_fault
        return server

    def watch_core(self) -> None:
        """An engine without a core ends, with exit code 0, as vLLM does."""
        assert self.core is not None
        self.core.wait()
        if not self.leaving:
            say(
                "APIServer",
                "Engine core proc EngineCore died unexpectedly, shutting down client.",
                "ERROR",
            )
            os._exit(0)

    def leave(self, code: int) -> NoReturn:
        self.leaving = True
        say("APIServer", "[shutdown] API server: shutdown triggered")
        say("APIServer", "AsyncLLM output_handler failed.", "ERROR")
        if self.core is not None:
            self.core.terminate()
            self.core.wait()
        os._exit(code)


def main() -> None:
    """Run the role that the arguments name."""
    if FAULT and FAULT not in FAULTS:
        sys.exit(f"unknown fault {FAULT!r}")
    if FAULT == "exit-at-import" and "--role" not in sys.argv:
        importlib.import_module("no_such_library")
    options = arguments()
    if options.role == "worker":
        run_worker()
    elif options.role.startswith("core:"):
        options.served_model_name = options.served_model_name or [options.model]
        run_core(options)
    else:
        ApiServer(options).run()


if __name__ == "__main__":
    main()
