"""Engines that misbehave, neighbours and lost terminals, through the plugin: one named failure with
a record each."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from pytest_gpubench.load.loopback.http_server import Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer
from tests.plugin.conftest import Project
from tests.plugin.test_failures import _await, _gone, _ours
from tests.plugin.test_xdist import FAKE_GPUS, TWO_ON_GPUS
from tests.raw_server import always, answer, raw_server

pytestmark = pytest.mark.slow

ONE = ("benchmarks", "-k", "tiny and cpu and not mtp and c1")
NEIGHBOUR = """
import dataclasses, os
from pytest_gpubench.host.gpus.inventory import GpuProcess
leased, other = GpuProcess(os.getpid(), 60 * GIB), GpuProcess(os.getpid(), GIB // 4)
"""
OCCUPIED = NEIGHBOUR + (
    "GPUS = tuple(dataclasses.replace(gpu, memory_used=60 * GIB, processes=(leased,)) "
    "for gpu in GPUS)\n"
)
NEARLY_FREE = NEIGHBOUR + (
    "GPUS = tuple(dataclasses.replace(gpu, memory_used=GIB // 2, processes=()) for gpu in GPUS)\n"
)


@pytest.mark.parametrize(
    ("fault", "cause", "failure_class", "words"),
    [
        ("models-404", "wrong-answer", "engine", "*/v1/models gave HTTP status 404*"),
        ("models-number", "wrong-answer", "engine", "*says 7 for `data`*"),
        ("health-drip", "timeout", "engine", "*/health gave no whole answer within*"),
        ("metrics-drip", "no-metrics", "engine", "*/metrics gave no whole answer within*"),
        (
            "other-engine",
            "not-as-asked",
            "recipe",
            "*engine: the recipe asks for vllm, the engine runs with sglang.*",
        ),
    ],
)
def test_an_odd_engine_fails_its_start_by_name(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    cause: str,
    failure_class: str,
    words: str,
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", fault)
    result = project.run(*ONE, "--gpubench-start-timeout=10")
    assert result.ret == 1
    result.stdout.fnmatch_lines([words])
    result.stdout.no_fnmatch_line("*Traceback*")
    (record,) = project.inits()
    assert (record["failure"]["cause"], record["failure"]["failure_class"]) == (
        cause,
        failure_class,
    )
    assert _gone(project)


def test_a_variable_of_the_recipe_that_the_engine_does_not_know_fails(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "unknown-variable")
    assert project.run(*ONE).ret == 0, "a variable of the host is only noted"
    text = (project.pytester.path / "recipes.yaml").read_text()
    project.recipes(
        text.replace("runner: cpu", "runner: cpu\n    env: {VLLM_NO_SUCH_SETTING: 1}", 1)
    )
    result = project.run(*ONE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*VLLM_NO_SUCH_SETTING: the recipe sets it, the engine does not know it.*"]
    )


def test_an_answer_that_ends_otherwise_fails_the_case(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "finish-other")
    result = project.run(*ONE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the answer ended with finish reason 'halted'*"])
    assert [record["failure"]["failure_class"] for record in project.cases()] == ["engine"]


def test_a_counter_that_vanishes_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "counter-vanishes")
    result = project.run(*ONE)
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*/metrics lost vllm:num_preemptions_total during the run*"])
    (record,) = project.cases()
    assert "counters-vanished" in [flag["code"] for flag in record["measurement"]["flags"]]


def test_gpus_in_use_are_waited_for_and_are_no_fault_of_the_recipe(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run on the host: whoever holds the memory is named, after the wait for leases."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    project.recipes(TWO_ON_GPUS)
    project.pytester.makeconftest(FAKE_GPUS.replace("for module in", f"{OCCUPIED}for module in"))
    result = project.run("benchmarks", "-k", "one and h100", "--gpubench-start-timeout=2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*host-busy, infrastructure*"])
    (record,) = project.inits()
    assert record["failure"]["failure_class"] == "infrastructure"
    assert "pid " in str(record["failure"])
    assert not list(project.pytester.path.rglob("launch-1.log")), "a server was started"


def test_memory_that_is_missing_on_leased_gpus_is_infrastructure(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("GPUBENCH_STUB_DEVICE", "cuda")
    project.recipes(
        TWO_ON_GPUS.replace("block-size: 128", "block-size: 128, gpu-memory-utilization: 0.999")
    )
    project.pytester.makeconftest(FAKE_GPUS.replace("for module in", f"{NEARLY_FREE}for module in"))
    result = project.run("benchmarks", "-k", "one and h100")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*gpu-memory-in-use, infrastructure*",
            "*GPU 0: 0.5 GiB in use by processes that the driver*",
        ]
    )
    ignored = project.run(
        "benchmarks", "-k", "one and h100", "--gpubench-ignore-findings=free-memory"
    )
    assert ignored.ret == 0, ignored.stdout.str()
    assert not list((project.pytester.path / "leases").glob("*.lease"))


@pytest.mark.parametrize("moment", ["start", "measurement"])
def test_a_hangup_ends_the_run_as_ctrl_c_does(
    project: Project, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "60" if moment == "start" else "0.1")
    monkeypatch.setenv("GPUBENCH_STUB_TOKEN_TIME", "5")
    temporary = project.pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    run = subprocess.Popen(
        project.command(*ONE), cwd=project.pytester.path, stdout=subprocess.PIPE, text=True
    )
    try:
        _await(lambda: bool(_ours(project)))
        if moment == "measurement":
            _await(lambda: bool(list(temporary.glob("gpubench-load-*"))))
        run.send_signal(signal.SIGHUP)
        output, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 2, output
    assert _gone(project)
    records = project.inits() if moment == "start" else project.cases()
    assert [record["failure"]["cause"] for record in records] == ["interrupted"]
    assert not list(temporary.glob("gpubench-load-*"))
    assert not list((project.pytester.path / "leases").glob("*.lease"))


def test_a_hangup_that_is_ignored_stays_ignored(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under nohup."""
    command = project.command(*ONE)

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = subprocess.Popen(
        command, cwd=project.pytester.path, stdout=subprocess.PIPE, text=True, preexec_fn=ignore
    )
    try:
        _await(lambda: bool(_ours(project)))
        run.send_signal(signal.SIGHUP)
        output, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 0, output


def test_a_terminal_that_is_gone_is_no_reason_to_leave_anything(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_TOKEN_TIME", "5")
    temporary = project.pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    terminal, inside = os.openpty()
    run = subprocess.Popen(
        project.command(*ONE),
        cwd=project.pytester.path,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    try:
        _await(lambda: bool(list(temporary.glob("gpubench-load-*"))))
        os.close(terminal)
        time.sleep(0.5)
        run.send_signal(signal.SIGHUP)
        assert run.wait(60) == 2
    finally:
        run.kill()
    assert _gone(project)
    assert [record["failure"]["cause"] for record in project.cases()] == ["interrupted"]


def test_names_that_are_no_utf8_are_written_down(project: Project) -> None:
    environment = {**os.environb, b"LD_LIBRARY_PATH": b"/opt/caf\xe9"}
    done = subprocess.run(
        project.command(*ONE),
        cwd=project.pytester.path,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "/opt/caf\\xe9" in [record["env"]["LD_LIBRARY_PATH"] for record in project.cases()]


def test_a_redirect_gets_no_key(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-front")
    heads: list[bytes] = []
    with raw_server(lambda connected, head: heads.append(head)) as other:
        redirect = always(answer(b"", "302 Found", f"Location: {other}/v1"))
        with raw_server(redirect) as url:
            result = project.run(*ONE, f"--gpubench-base-url={url}")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*a redirect to {other}/v1, which is not followed*"])
    assert heads == []


def test_users_clients_follow_no_redirect(project: Project) -> None:
    (project.pytester.path / "benchmarks" / "test_serving.py").write_text(
        """
import asyncio, http.server, threading
import openai, pytest

class Front(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        keys.append(self.path)
        self.send_response(307)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

keys = []

def test_redirect(client, async_client):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{front.server_port}/v1"
        with pytest.raises(openai.APIStatusError):
            client.with_options(base_url=url).models.list()

        async def ask():
            async with async_client.with_options(base_url=url) as there:
                with pytest.raises(openai.APIStatusError):
                    await there.models.list()

        asyncio.run(ask())
        front.shutdown()
    assert keys == ["/v1/models", "/v1/models"]
"""
    )
    result = project.run(*ONE[:1], "-k", "tiny and cpu and not mtp")
    assert result.ret == 0, result.stdout.str()


def test_the_async_client_is_closed_in_the_loop_that_used_it(project: Project) -> None:
    project.pytester.makepyfile(
        test_own="""
import asyncio, threading
import pytest

@pytest.fixture(params=["own", "thread", "unused", "closed"])
def run(request):
    loop = asyncio.new_event_loop()
    if request.param == "thread":
        threading.Thread(target=loop.run_forever, daemon=True).start()
        run = lambda it: asyncio.run_coroutine_threadsafe(it, loop).result(30)
    else:
        run = lambda it: loop.run_until_complete(it)
    run.kind, run.clients = request.param, []
    yield run
    for client in run.clients:
        assert client.is_closed() is (run.kind in ("own", "thread"))
    if loop.is_running():
        loop.call_soon_threadsafe(loop.stop)
    elif not loop.is_closed():
        loop.close()

def test_ask(run, async_client):
    async def ask():
        assert [one.id async for one in async_client.models.list()]
    if run.kind == "closed":
        asyncio.run(ask())
    elif run.kind != "unused":
        run.clients.append(async_client)
        run(ask())
"""
    )
    result = project.run(
        *ONE[:1], "-k", "tiny and cpu and not mtp", "-W", "ignore::ResourceWarning"
    )
    assert result.ret == 0, result.stdout.str()


def test_one_of_several_models_is_named_by_an_option(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk")

    def listed(_request: Request) -> Response:
        return Response.of_json(
            {
                "data": [
                    {"id": name, "owned_by": "vllm", "max_model_len": 256} for name in ("a", "b")
                ]
            }
        )

    with LoopbackServer(model="b", routes={("GET", "/v1/models"): listed}).in_thread() as server:
        several = project.run(*ONE, f"--gpubench-base-url={server.url}")
        named = project.run(*ONE, f"--gpubench-base-url={server.url}", "--gpubench-model=b")
    assert several.ret == 1
    several.stdout.fnmatch_lines(["*serves several models: a, b.*", "*--gpubench-model NAME*"])
    assert named.ret == 0, named.stdout.str()
    assert {record["served_name"] for record in project.cases()} == {"b"}


def test_a_model_without_an_address_is_exit_4(project: Project) -> None:
    result = project.inside(*ONE, "--gpubench-model=b")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--gpubench-base-url*"])
