"""llama.cpp's server by llama-server's arguments: a real one where xllamacpp is installed."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.demo.gguf_files import DRAFT_GGUF_NAME, GGUF_NAME
from pytest_gpubench.demo.models import write_trained_draft_gguf, write_trained_gguf
from pytest_gpubench.dialects.llamacpp import xllamacpp_server as module

FILE = Path(module.__file__)
KEY = "sk-of-this-test"
real = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason="xllamacpp is not installed: pip install xllamacpp",
)


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_trained_gguf(folder)
    return folder / GGUF_NAME


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """The module as a process of its own, by its path: nothing of the plugin is imported there."""

    def __init__(self, model: Path, log: Path, *arguments: str, port: int = 0) -> None:
        self.log, self.port = log, port or free_port()
        command = [sys.executable, "-I", str(FILE), "--model", str(model), "--port", str(self.port)]
        command += ["--alias", "tiny", "--threads", "1", "--no-warmup", "--metrics", *arguments]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, module.KEY_VARIABLE: KEY},
            )

    def ask(self, path: str, body: object = None, key: str = KEY) -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ready(self) -> Server:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.ask("/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def counters(self) -> dict[str, float]:
        lines = [line.split() for line in self.ask("/metrics")[1].splitlines()]
        return {line[0]: float(line[1]) for line in lines if line and line[0] != "#"}

    def end(self) -> str:
        self.process.wait(120)
        return self.log.read_text()


@pytest.fixture(name="server")
def _server(model: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(model, tmp_path / "log", "--ctx-size", "2048", "--parallel", "2")
    yield server.ready()
    server.process.kill()
    server.process.wait(120)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_an_unknown_argument_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: unrecognized arguments: --no-such" in refused(capsys, "--no-such")
    assert "unrecognized arguments: --ctx" in refused(capsys, "--ctx", "5"), "no abbreviations"
    assert "invalid int value: 'many'" in refused(capsys, "--ctx-size", "many")
    assert "eagle is none of none, draft-simple" in refused(capsys, "--spec-type", "eagle")


def test_a_key_on_the_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--api-key", "sk-secret"), ("--api-key=sk-secret",)):
        message = refused(capsys, *arguments)
        assert "put it into the environment variable LLAMA_API_KEY" in message
        assert "sk-secret" not in message


def test_without_the_package_the_interpreter_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert module.main(["--model", "x"]) == 1
    assert f"{sys.executable} -m pip install xllamacpp" in capsys.readouterr().err


@real
def test_it_serves_counts_and_ends_on_a_signal(server: Server) -> None:
    assert server.ask("/v1/models", key="wrong")[0] == 401
    listed = json.loads(server.ask("/v1/models")[1])["data"][0]
    assert (listed["id"], listed["owned_by"], listed["meta"]["n_ctx"]) == ("tiny", "llamacpp", 1024)
    body = {"temperature": 0, "ignore_eos": True, "max_tokens": 20}
    used = [
        json.loads(server.ask(f"/v1/{path}", {**body, **prompt})[1])["usage"]
        for path, prompt in (
            ("chat/completions", {"messages": [{"role": "user", "content": "Once upon a time"}]}),
            ("completions", {"prompt": [4, 300, 301, 302]}),
        )
    ]
    assert [(use["prompt_tokens"], use["completion_tokens"]) for use in used] == [(8, 20), (4, 20)]
    counters = server.counters()
    assert counters["llamacpp:tokens_predicted_total"] == 40
    assert counters["llamacpp:prompt_tokens_total"] == 12
    command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert KEY.encode() not in command
    server.process.send_signal(signal.SIGTERM)
    assert "ended by SIGTERM" in server.end()
    assert server.process.returncode == 0
    assert KEY not in server.log.read_text()


@real
def test_a_signal_ends_it_with_a_stream_under_way(server: Server) -> None:
    """llama.cpp's own end waits for the stream's next ping, 30 s."""
    body = {"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True}

    def stream() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.ask("/v1/completions", body)

    reader = threading.Thread(target=stream)
    reader.start()
    deadline = time.monotonic() + 60
    while server.counters()["llamacpp:requests_processing"] < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    server.end()
    assert server.process.returncode == 0
    assert time.monotonic() - begin < 25
    reader.join(60)


@real
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "failed to open GGUF file"),
        (b"hello" * 100, "invalid magic characters: 'hell', expected 'GGUF'"),
    ],
)
def test_a_model_that_is_none_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    server = Server(path, tmp_path / "log")
    log = server.end()
    assert server.process.returncode == 1
    assert words in log
    assert str(path) in log


@real
def test_a_port_that_is_taken_is_named(server: Server, model: Path, tmp_path: Path) -> None:
    second = Server(model, tmp_path / "second", port=server.port)
    log = second.end()
    assert second.process.returncode == 1
    assert f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {server.port}" in log


def _speculative(draft: Path) -> dict[str, tuple[str, ...]]:
    ngram = "--spec-type ngram-mod --spec-ngram-mod-n-match 4 --spec-ngram-mod-n-min 1"
    return {
        "ngram-mod": (*ngram.split(), "--spec-ngram-mod-n-max", "3"),
        "eagle3": ("--spec-type", "draft-eagle3", "--spec-draft-model", str(draft)),
    }


@real
@pytest.mark.parametrize("kind", ["ngram-mod", "eagle3"])
def test_speculation_writes_the_same_and_counts_the_same(
    model: Path, tmp_path: Path, kind: str
) -> None:
    write_trained_draft_gguf(tmp_path)
    arguments = _speculative(tmp_path / DRAFT_GGUF_NAME)[kind]
    body = {"prompt": "Once upon a time there was a girl", "max_tokens": 100, "ignore_eos": True}
    body["temperature"] = 0
    texts = []
    for extra in ((), arguments):
        server = Server(model, tmp_path / "log", "--parallel", "1", *extra).ready()
        try:
            for _ in range(3):
                status, answer = server.ask("/v1/completions", body)
                assert status == 200, answer
                texts.append(json.loads(answer)["choices"][0]["text"])
            counters = server.counters()
        finally:
            server.process.kill()
            server.process.wait(120)
    assert len(set(texts)) == 1
    assert counters["llamacpp:tokens_predicted_total"] == 300
    drafts = counters["llamacpp:spec_decode_num_drafts_total"]
    accepted = counters["llamacpp:spec_decode_num_accepted_tokens_total"]
    assert 0.5 * drafts < accepted <= counters["llamacpp:spec_decode_num_draft_tokens_total"]
    position = 'llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="{}"}}'
    assert accepted == sum(counters[position.format(number)] for number in range(3))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every parameter by its path."""
    found: dict[str, Any] = {}
    for name in (name for name in dir(value) if not name.startswith("_")):
        one = getattr(value, name)
        if type(one).__name__.startswith(("CommonParams", "CpuParams")):
            found.update(_flat(one, f"{prefix}{name}."))
        elif not callable(one):
            found[prefix + name] = one
    return found


PARSER = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
_SERVER_EXAMPLE = 12


def _as_llama_server(*arguments: str) -> Any:
    """What llama.cpp's own parser makes of arguments. The package has it in its library and not in
    its interface, and its parameters where a C++ object begins in a Python one: good enough for a
    test, which looks first."""
    package = importlib.import_module("xllamacpp")
    parse = getattr(ctypes.CDLL(package.xllamacpp.__file__), PARSER, None)
    params = package.CommonParams()
    params.n_predict, params.n_ctx, params.n_batch = -4711, 815, 1234
    begin = id(params) + object.__basicsize__
    if parse is None or list((ctypes.c_int32 * 3).from_address(begin)) != [-4711, 815, 1234]:
        pytest.skip("another xllamacpp than the one whose parser this test knows")
    params = package.CommonParams()
    argv = (ctypes.c_char_p * (len(arguments) + 2))(b"llama-server", *map(str.encode, arguments))
    parse.restype = ctypes.c_bool
    where = ctypes.c_void_p(id(params) + object.__basicsize__)
    assert parse(len(arguments) + 1, argv, where, _SERVER_EXAMPLE, None), arguments
    return params


def _some(parser: Any) -> Iterator[tuple[str, ...]]:
    """Every spelling of every argument, with a value that is not the default's."""
    texts = {
        "--spec-type": "ngram-simple,ngram-mod",
        "--alias": "one,two",
        "--host": "127.0.0.1,::1",
        "--tensor-split": "1,2",
        "--n-gpu-layers": "all",
        "--chat-template-file": str(FILE.with_name("__init__.py")),
    }
    skipped = {"--help", "--version", "--api-key", "--chat-template-file"}
    for action in parser._actions:
        names = set(action.option_strings)
        if names & skipped:
            continue
        text = next((texts[name] for name in names & texts.keys()), "7")
        for name in action.option_strings:
            if action.nargs == 0:
                yield (name,)
            elif action.choices:
                yield from ((name, word) for word in action.choices)
            else:
                yield (name, "0.25" if action.type is float else text)


@real
def test_every_argument_means_what_it_means_to_llama_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(module.KEY_VARIABLE, "sk-one,sk-two")
    package = importlib.import_module("xllamacpp")
    # filled in by llama-server's parser and not by an argument, or noted for what it does elsewhere
    aside = {"default_template_kwargs", "sampling.user_sampling_config", "speculative.types"}
    aside |= {"speculative.draft.mparams.hf_file", "sampling.grammar", "port"}
    parser = module._parser()
    wrong = {}
    for arguments in _some(parser):
        both = ["--model", "x", "--threads", "2", *arguments]
        ours = _flat(module._params(package, vars(parser.parse_args(both))))
        theirs = _flat(_as_llama_server(*both))
        differs = {k: (ours[k], theirs[k]) for k in ours.keys() - aside if ours[k] != theirs[k]}
        kinds = [
            [kind for kind in one["speculative.types"] if kind.value] for one in (ours, theirs)
        ]
        if differs or kinds[0] != kinds[1]:
            wrong[arguments] = (differs, kinds)
    assert wrong == {}
