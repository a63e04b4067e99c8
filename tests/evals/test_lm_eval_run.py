"""The process that asks: what it sends, what it writes down, and that the stand-in for lm-eval has
the real one's form where that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_gpubench.demo.models import write_task
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.evals.evaluating import run_lm_eval
from pytest_gpubench.evals.lm_eval_run import ANSWERS, JUDGED, PLAN, EvalPlan
from pytest_gpubench.model.failures import BenchmarkError, Failure

FAKE = str(Path(__file__).parents[1] / "fake_lm_eval")


@dataclass
class Answering:
    """A server that writes down what it was asked, and refuses the third question."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    seen = Answering()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.bodies.append(body)
            seen.keys.add(self.headers["authorization"])
            refused = "What is 2 + 14?" in str(body["messages"][-1])
            message = {"role": "assistant", "content": "It is 8."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
            answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
            data = json.dumps(answer | {"choices": [choice], "usage": usage}).encode()
            self.send_response(400 if refused else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield seen
        server.shutdown()


def ask(answering: Answering, folder: Path, task: str = "sums", **more: Any) -> list[Any]:
    plan = EvalPlan(
        base_url=answering.url,
        model="served",
        task=task,
        folder=str(folder),
        limit=5,
        concurrency=2,
        max_tokens=7,
        chat_template_kwargs={"enable_thinking": False},
        **more,
    )
    log = LogSink(folder / "log", dialect_of("vllm").log, ["key-of-the-server"])
    cwd = Path(task).parent if task.endswith(".yaml") else None
    run_lm_eval(plan, log, api_key="key-of-the-server", cwd=cwd)
    return [json.loads(line) for line in (folder / JUDGED).read_text().splitlines()]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", FAKE, prepend=os.pathsep)


def test_what_is_asked_and_written_down(answering: Answering, fake: None, tmp_path: Path) -> None:
    head, *samples = ask(answering, tmp_path, shots=1)
    assert head["scores"]["exact_match,first-sentence"] == 0.2
    assert len(samples) == 10
    assert answering.keys == {"Bearer key-of-the-server"}
    for body in answering.bodies:
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("served", 0, 7)
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
        assert body["stop"] == ["\n"]
        assert "stream" not in body
    lines = [json.loads(line) for line in (tmp_path / ANSWERS).read_text().splitlines()]
    assert {line["question"] for line in lines} == {sample["question"] for sample in samples}
    (refused,) = (line for line in lines if line["error"])
    assert refused["error"].startswith("HTTP 400")
    assert refused["text"] == ""
    assert [line["output_tokens"] for line in lines if not line["error"]] == [4] * 4
    everything = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "key-of-the-server" not in everything


def test_a_server_that_is_not_well_ends_it(
    answering: Answering, fake: None, tmp_path: Path
) -> None:
    gone = Failure("engine-died", "engine", "The engine died.")
    plan = EvalPlan(answering.url, "served", "sums", str(tmp_path))
    log = LogSink(tmp_path / "log", dialect_of("vllm").log, [])
    with pytest.raises(BenchmarkError, match=r"The engine died\."):
        run_lm_eval(plan, log, api_key="", check=lambda _answers: gone)
    with pytest.raises(BenchmarkError, match="was not answered within 0 s"):
        run_lm_eval(plan, log, api_key="", limit=0)


ASKING = """
import sys
from pathlib import Path
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.evals.evaluating import run_lm_eval
from pytest_gpubench.evals.lm_eval_run import EvalPlan

folder = Path(sys.argv[1])
log = LogSink(folder / "log", dialect_of("vllm").log, [])
run_lm_eval(EvalPlan("http://127.0.0.1:9/v1", "m", "sleep", str(folder)), log, api_key="")
"""


def test_nothing_outlives_a_run_that_is_killed(fake: None, tmp_path: Path) -> None:
    def asking() -> list[psutil.Process]:
        found = psutil.process_iter(["cmdline"])
        return [one for one in found if str(tmp_path / PLAN) in (one.info["cmdline"] or ())]

    def until(wanted: bool) -> None:
        limit = time.monotonic() + 60
        while bool(asking()) != wanted:
            assert time.monotonic() < limit
            time.sleep(0.1)

    with subprocess.Popen([sys.executable, "-c", ASKING, str(tmp_path)]) as run:
        until(True)
        run.kill()
    until(False)


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed here")
def test_the_real_one_has_the_form_of_the_fake(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
    task = write_task(tmp_path / "task")
    real_head, *real = ask(answering, tmp_path / "real", str(task), shots=0)
    monkeypatch.setenv("PYTHONPATH", FAKE, prepend=os.pathsep)
    fake_head, *fake = ask(answering, tmp_path / "fake", shots=0)
    assert real_head.keys() == fake_head.keys()
    assert real[0].keys() == fake[0].keys()
    assert len(real) == 5
    assert [type(value) for value in real[0].values()] == [
        type(value) for value in fake[0].values()
    ]
