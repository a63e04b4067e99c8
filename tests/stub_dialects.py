"""Stubs of SGLang's and llama.cpp's servers: their command lines, log lines, pages and deaths over
the loopback server, which speaks vLLM's.

    python stub_dialects.py sglang --model-path M --port 8000 --served-model-name NAME ...
    python stub_dialects.py llamacpp --model FILE --port 8000 --alias NAME ...

Environment: GPUBENCH_STUB_FAULT (one of FAULTS).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pytest_gpubench.load.loopback.http_server import Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer, serve_forever
from pytest_gpubench.load.loopback.stream import Schedule

FAULTS = {
    "exception-at-load": "the engine says what it dies of, and ends with exit code 1",
    "quiet-at-load": "exit code 1 without a word",
    "hang-at-load": "no output and no CPU time after the load began",
    "exception-serving": "dies of an exception at the first completion; processes live on for long",
    "worker-killed-serving": "its worker is killed at the first completion",
    "killed-serving": "the first process is killed at the first completion; its worker lives on",
    "ignore-sigterm": "all processes ignore SIGTERM",
    "tell-key": "prints its API key into the log",
}
FAULT = os.environ.get("GPUBENCH_STUB_FAULT", "")
_EXCEPTION = [
    "Traceback (most recent call last):",
    '  File "sglang/srt/managers/scheduler.py", line 1, in run_batch',
    "    raise",
    "RuntimeError: CUDA error: an illegal memory access was encountered",
    "",
]


class Stub:
    """What both have in common."""

    counters: ClassVar[dict[str, str]]
    """Names on the page of the loopback server to those of the engine."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.options = self.arguments(words)
        self.worker: subprocess.Popen[bytes] | None = None
        self.served = 0

    def arguments(self, words: list[str]) -> argparse.Namespace:
        raise NotImplementedError

    def say(self, text: str, level: str = "INFO") -> None:
        raise NotImplementedError

    def die_aloud(self) -> None:
        raise NotImplementedError

    def key(self) -> str:
        raise NotImplementedError

    def adapt(self, server: LoopbackServer) -> None:
        raise NotImplementedError

    @property
    def name(self) -> str:
        raise NotImplementedError

    def run(self) -> None:
        if FAULT == "tell-key":
            self.say(f"my key is {self.key()}")
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", self.options.port))
            except OSError:
                self.port_taken()
                sys.exit(1)
        if FAULT == "quiet-at-load":
            sys.exit(1)
        if FAULT == "exception-at-load":
            self.die_aloud()
            sys.exit(1)
        while FAULT == "hang-at-load":
            time.sleep(3600)
        self.worker = subprocess.Popen(
            [sys.executable, "-c", f"import signal, time\n{_IGNORE}time.sleep(3600)"],
            stdin=subprocess.DEVNULL,
        )
        threading.Thread(target=self.watch, daemon=True).start()
        if FAULT != "ignore-sigterm":
            signal.signal(signal.SIGTERM, lambda *_: self.leave())
        schedule = Schedule(0.02, 0.002)
        server = LoopbackServer(
            schedule,
            model=self.name,
            port=self.options.port,
            api_key=self.key(),
            max_model_len=2304,
        )
        self.translate(server)
        self.adapt(server)
        self.loaded()
        serve_forever(server, on_ready=lambda _server: self.ready())
        self.leave()

    def port_taken(self) -> None:
        raise NotImplementedError

    def loaded(self) -> None:
        """Say what was loaded."""

    def ready(self) -> None:
        if FAULT == "ignore-sigterm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def watch(self) -> None:
        assert self.worker is not None
        code = self.worker.wait()
        self.worker_lost(code)

    def worker_lost(self, code: int) -> None:
        """How the engine takes the death of its worker."""
        os._exit(1)

    def leave(self) -> None:
        if self.worker is not None:
            self.worker.kill()
        os._exit(0)

    def translate(self, server: LoopbackServer) -> None:
        """The engine's own names on ``/metrics`` and in ``/v1/models``; faults at completions."""
        metrics, models = server.routes["GET", "/metrics"], server.routes["GET", "/v1/models"]
        complete = server.routes["POST", "/v1/chat/completions"]
        pattern = re.compile(r"vllm:\w+")

        def page(request: Request) -> Response:
            answer = metrics(request)
            assert isinstance(answer, Response)
            lines = []
            for line in answer.body.decode().splitlines():
                found = pattern.search(line)
                known = found and self.counters.get(found[0])
                if known:
                    lines.append(pattern.sub(known, line))
            body = "\n".join([*lines, *self.more_metrics(answer.body.decode()), ""]).encode()
            return Response(body, content_type=answer.content_type)

        def listed(request: Request) -> Response:
            answer = models(request)
            assert isinstance(answer, Response)
            owner = f'"owned_by":"{self.words[0]}"'.encode()
            return Response(answer.body.replace(b'"owned_by":"vllm"', owner))

        def completed(request: Request) -> Response | None:
            self.served += 1
            if FAULT == "exception-serving" and self.served == 1:
                self.die_aloud()
                time.sleep(3600)
            if FAULT == "worker-killed-serving" and self.worker is not None:
                self.worker.kill()
            if FAULT == "killed-serving":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = complete(request)
            assert answer is None or isinstance(answer, Response)
            return answer

        server.routes["GET", "/metrics"] = page
        server.routes["GET", "/v1/models"] = listed
        server.routes["POST", "/v1/chat/completions"] = completed

    def more_metrics(self, page: str) -> list[str]:
        return []


_IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if FAULT == "ignore-sigterm" else ""


class Sglang(Stub):
    """SGLang 0.5.17, as its logs and pages in ``tests/engines/data`` are."""

    counters: ClassVar[dict[str, str]] = {
        "vllm:num_requests_running": "sglang:num_running_reqs",
        "vllm:num_requests_waiting": "sglang:num_queue_reqs",
        "vllm:prompt_tokens_total": "sglang:prompt_tokens_total",
        "vllm:generation_tokens_total": "sglang:generation_tokens_total",
        "vllm:request_success_total": "sglang:num_requests_total",
    }

    def arguments(self, words: list[str]) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog="launch_server.py")
        for name in ("--model-path", "--served-model-name", "--host", "--config"):
            parser.add_argument(name)
        for name, default in (
            ("tp-size", 1),
            ("dp-size", 1),
            ("pp-size", 1),
            ("ep-size", 1),
            ("port", 30000),
            ("context-length", 4096),
        ):
            parser.add_argument(f"--{name}", type=int, default=default)
        for name in ("enable-metrics", "enable-dp-attention", "disable-radix-cache"):
            parser.add_argument(f"--{name}", action="store_true")
        parser.add_argument("--speculative-algorithm")
        parser.add_argument("--speculative-num-steps", type=int)
        parser.add_argument("--speculative-eagle-topk", type=int)
        parser.add_argument("--speculative-num-draft-tokens", type=int)
        parser.add_argument("--attention-backend", default="fa3")
        return parser.parse_args(words[1:])

    @property
    def name(self) -> str:
        return str(self.options.served_model_name)

    def key(self) -> str:
        text = Path(self.options.config).read_text(encoding="utf-8") if self.options.config else ""
        return text.partition("api-key: ")[2].strip()

    def say(self, text: str, level: str = "INFO") -> None:
        print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}", flush=True)

    def die_aloud(self) -> None:
        self.say("Scheduler hit an exception: " + "\n".join(_EXCEPTION))
        self.say("SIGQUIT received. signum=None, frame=None. It usually means one child failed.")

    def port_taken(self) -> None:
        print('Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    bind')
        print("OSError: [Errno 98] Address already in use", flush=True)

    def loaded(self) -> None:
        self.say(f"server_args=ServerArgs(model_path={self.options.model_path!r})")
        self.say(
            "Load weight end. elapsed=0.09 s, type=StubForCausalLM, avail mem=78.47 GB, "
            "mem usage=0.01 GB."
        )
        self.say("KV Cache is allocated. dtype: torch.bfloat16, #tokens: 12302956, K size: 1 GB")

    def ready(self) -> None:
        self.say("The server is fired up and ready to roll!")
        super().ready()

    def worker_lost(self, code: int) -> None:
        words = f"Subprocess scheduler_0 (pid={self.worker and self.worker.pid}) crashed with exit"
        self.say(f"{words} code {code}. Triggering SIGQUIT for cleanup...")
        time.sleep(65)
        os._exit(131)

    def adapt(self, server: LoopbackServer) -> None:
        names = vars(self.options)
        info: dict[str, Any] = {name: value for name, value in names.items() if name != "config"}
        info |= {
            "version": "0.5.17",
            "device": "cuda",
            "api_key": self.key(),
            "page_size": 1,
            "max_total_num_tokens": 12302956,
            "internal_states": [{"memory_usage": {"weight": 0.01, "kvcache": 23.4, "graph": 0.2}}],
        }
        server.routes["GET", "/server_info"] = lambda _request: Response.of_json(info)

    def more_metrics(self, page: str) -> list[str]:
        made = re.search(r"vllm:generation_tokens_total\{[^}]*\} ([\d.]+)", page)
        count = made[1] if made else "0"
        return [
            "# TYPE sglang:realtime_tokens_total counter",
            f'sglang:realtime_tokens_total{{mode="decode"}} {count}',
            'sglang:realtime_tokens_total{mode="prefill_compute"} 7',
        ]


_TEMPLATE = "<|chat|>"


class Llamacpp(Stub):
    """llama.cpp's server."""

    counters: ClassVar[dict[str, str]] = {
        "vllm:num_requests_running": "llamacpp:requests_processing",
        "vllm:num_requests_waiting": "llamacpp:requests_deferred",
        "vllm:prompt_tokens_total": "llamacpp:prompt_tokens_total",
        "vllm:generation_tokens_total": "llamacpp:tokens_predicted_total",
    }

    def arguments(self, words: list[str]) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
        for name in ("--model", "--alias", "--host", "--spec-type"):
            parser.add_argument(name)
        for name, default in (
            ("port", 8080),
            ("ctx-size", 4096),
            ("parallel", 4),
            ("threads", 2),
            ("spec-ngram-simple-size-m", 4),
        ):
            parser.add_argument(f"--{name}", type=int, default=default)
        parser.add_argument("--metrics", action="store_true")
        parser.add_argument("--no-cache-prompt", action="store_true")
        return parser.parse_args(words[1:])

    @property
    def name(self) -> str:
        return str(self.options.alias)

    def key(self) -> str:
        return os.environ.get("LLAMA_API_KEY", "")

    def say(self, text: str, level: str = "INFO") -> None:
        print(f"0.00.000.660 {level[0]} srv  {text}", flush=True)

    def die_aloud(self) -> None:
        print(
            "ggml.c:1: GGML_ASSERT(x) failed\nCUDA error: an illegal memory access was encountered"
        )
        sys.stdout.flush()

    def port_taken(self) -> None:
        words = f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {self.options.port}"
        self.say(f"        start: {words}", "ERROR")

    def loaded(self) -> None:
        each = self.options.ctx_size // self.options.parallel
        self.say(
            f"  load_model: initializing, n_slots = {self.options.parallel}, n_ctx_slot = {each}, "
            "kv_unified = 'false'"
        )

    def adapt(self, server: LoopbackServer) -> None:
        options = self.options
        each = options.ctx_size // options.parallel
        props = {
            "total_slots": options.parallel,
            "default_generation_settings": {"n_ctx": each},
            "build_info": "b7000-abcdef",
        }
        slots = [
            {"id": number, "n_ctx": each, "speculative": options.spec_type is not None}
            for number in range(options.parallel)
        ]
        server.routes["GET", "/props"] = lambda _request: Response.of_json(props)
        server.routes["GET", "/slots"] = lambda _request: Response.of_json(slots)
        tokenize = server.routes["POST", "/tokenize"]

        def templated(request: Request) -> Response:
            text = json.loads(request.body)["messages"][-1]["content"]
            return Response.of_json({"prompt": f"{_TEMPLATE}{text}"})

        def tokens(request: Request) -> Response:
            asked = json.loads(request.body)
            text = asked["content"]
            kind = "messages" if text.startswith(_TEMPLATE) else "prompt"
            text = text.removeprefix(_TEMPLATE)
            value = [{"role": "user", "content": text}] if kind == "messages" else text
            plain = replace(request, body=json.dumps({kind: value}).encode())
            answer = tokenize(plain)
            assert isinstance(answer, Response)
            count = json.loads(answer.body)["count"]
            return Response.of_json({"tokens": list(range(count))})

        server.routes["POST", "/apply-template"] = templated
        server.routes["POST", "/tokenize"] = tokens


def main() -> None:
    """Run the server that the first word names."""
    if FAULT and FAULT not in FAULTS:
        sys.exit(f"unknown fault {FAULT!r}")
    words = sys.argv[1:]
    {"sglang": Sglang, "llamacpp": Llamacpp}[words[0]](words).run()


if __name__ == "__main__":
    main()
