from __future__ import annotations

import json
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.engines.engine import Engine, check_engine
from pytest_gpubench.engines.lifecycle import EngineSettings, attach, start_engine
from pytest_gpubench.load.loopback.http_server import Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec
from tests.raw_server import always, answer, raw_server

from .conftest import Settings

pytestmark = pytest.mark.slow


@contextmanager
def running(spec: ServerSpec, settings: EngineSettings) -> Iterator[Engine]:
    engine = start_engine(spec, settings)
    try:
        yield engine
    finally:
        engine.stop()


def failure_of(spec: ServerSpec, settings: EngineSettings) -> Failure:
    with pytest.raises(BenchmarkError) as caught:
        start_engine(spec, settings)
    return caught.value.failure


def complete(engine: Engine, timeout: float = 120.0) -> int:
    """Send one chat completion; the HTTP status, 0 if there was none."""
    body = {
        "model": engine.served_name,
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 4,
    }
    request = urllib.request.Request(
        f"{engine.base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {engine.api_key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return int(answer.status)
    except OSError:
        return 0


def until_dead(engine: Engine, seconds: float = 120.0) -> Failure:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        failure = engine.alive()
        if failure is not None:
            return failure
        time.sleep(0.05)
    pytest.fail("the engine's death was not noticed")


def test_a_server_starts_proves_itself_and_leaves_nothing(
    spec: ServerSpec, settings: Settings
) -> None:
    with running(spec, settings()) as engine:
        assert engine.alive() is None
        assert engine.served_name.startswith("stub-")
        assert len(engine.served_name) == len("stub-") + 6
        assert check_engine(spec, engine.facts, served_name=engine.served_name).deviations == ()
        assert complete(engine) == 200
        assert "vllm:generation_tokens_total" in engine.scrape()
        assert {"process_start", "imports", "weights", "engine_init", "ready"} <= set(engine.phases)
        assert engine.facts.block_size == 128
        assert engine.pid is not None
        assert psutil.Process(engine.pid).cmdline() == list(engine.argv)
        tree = [process.pid for process in engine.process.tree()] if engine.process else []
        assert len(tree) == 3
    assert not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in tree
    )
    report = engine.stop()
    assert report is not None
    assert (report.returncode, report.forced, report.killed, report.remaining) == (0, False, (), ())
    stopped = engine.alive()
    assert stopped is not None
    assert stopped.cause == "engine-stopped"


def test_every_launch_has_its_own_name_key_and_port(
    spec: ServerSpec, settings: Settings, tmp_path: Path
) -> None:
    with (
        running(spec, settings()) as one,
        running(spec, settings(log_path=tmp_path / "two.log")) as two,
    ):
        assert (
            len({one.served_name, two.served_name})
            == len({one.api_key, two.api_key})
            == len({one.url, two.url})
            == 2
        )


def test_the_key_is_in_no_argv_log_record_or_repr(
    spec: ServerSpec, settings: Settings, tmp_path: Path
) -> None:
    with running(spec, settings("tell-key")) as engine:
        key = engine.api_key
        assert key not in repr(engine)
        assert key not in str(engine.argv)
        assert engine.env["VLLM_API_KEY"] == "<removed>"
        assert key not in str(engine.env)
    log = (tmp_path / "server.log").read_text()
    assert "my key is <removed>" in log
    assert key not in log


def test_the_host_s_tokens_stay_with_the_host(spec: ServerSpec, settings: Settings) -> None:
    host = {
        "PATH": os.environ["PATH"],
        "HF_TOKEN": "hf_" + "a" * 30,
        "OPENAI_API_KEY": "sk-mine",
        "PYTEST_CURRENT_TEST": "x",
        "OPENBLAS_L2_SIZE": "1",
    }
    quiet = ServerSpec(
        spec.framework,
        spec.model,
        spec.hardware,
        spec.topology,
        spec.serve,
        env=FrozenMap({"OPENBLAS_L2_SIZE": None}),
    )
    with running(quiet, settings(host_env=host, start_timeout=60.0)) as engine:
        assert engine.pid is not None
        environment = psutil.Process(engine.pid).environ()
        assert not {"HF_TOKEN", "OPENAI_API_KEY", "PYTEST_CURRENT_TEST", "OPENBLAS_L2_SIZE"} & set(
            environment
        )
        assert environment["VLLM_API_KEY"] == engine.api_key
        assert environment["VLLM_ENGINE_READY_TIMEOUT_S"] == "120"


@pytest.mark.parametrize(
    ("fault", "cause", "evidence"),
    [
        (
            "exit-at-import",
            "missing-library",
            "ModuleNotFoundError: No module named 'no_such_library'",
        ),
        ("exit-after-load", "no-common-block-size", "ValueError: No common block size for 128."),
        ("exit-quietly", "engine-died", ""),
        ("worker-killed", "killed", "Worker proc VllmWorker-0 died unexpectedly"),
        ("exit-leaving-core", "killed", ""),
        ("wrong-argument", "wrong-argument", "vllm serve: error: unrecognized arguments: --wrong"),
        ("out-of-memory", "out-of-memory-weights", "torch.OutOfMemoryError: CUDA out of memory."),
        ("kv-cache", "kv-cache-too-small", "ValueError: No available memory for the cache blocks."),
        (
            "illegal-memory",
            "illegal-memory-access",
            "torch.AcceleratorError: CUDA error: an illegal memory access",
        ),
        ("foreign-name", "foreign-server", ""),
        ("models-404", "wrong-answer", ""),
        ("models-number", "wrong-answer", ""),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    spec: ServerSpec, settings: Settings, fault: str, cause: str, evidence: str
) -> None:
    failure = failure_of(spec, settings(fault))
    assert failure.cause == cause
    assert any(line.startswith(evidence) for line in failure.evidence) or not evidence
    assert "Whole log: " in failure.remedy


@pytest.mark.parametrize(
    ("fault", "limits", "cause"),
    [
        ("hang-at-load", {"stall_timeout": 2.0}, "stalled"),
        ("heartbeat-at-load", {"stall_timeout": 2.0}, "stalled"),
        ("busy-at-load", {"stall_timeout": 6.0, "start_timeout": 10.0}, "timeout"),
    ],
)
def test_a_start_that_never_ends_is_ended(
    spec: ServerSpec, settings: Settings, fault: str, limits: dict[str, float], cause: str
) -> None:
    assert failure_of(spec, settings(fault, **limits)).cause == cause


def test_starts_that_never_end_are_ended(
    spec: ServerSpec, settings: Settings, tmp_path: Path
) -> None:
    """Side by side: all that they do is wait."""
    causes = {
        "compile-at-load": "kernels-compiling",
        "health-500": "never-healthy",
        "health-drip": "timeout",
        "metrics-drip": "no-metrics",
    }

    def ended(fault: str) -> str:
        log = tmp_path / f"{fault}.log"
        stall = {"stall_timeout": 12.0} if fault == "compile-at-load" else {}
        return failure_of(spec, settings(fault, log_path=log, start_timeout=20.0, **stall)).cause

    with ThreadPoolExecutor(len(causes)) as pool:
        assert dict(zip(causes, pool.map(ended, causes), strict=True)) == causes


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("die-after:0", "engine-died"),
        ("core-killed-serving", "engine-died"),
        ("worker-killed-serving", "killed"),
        ("killed-serving", "killed"),
    ],
)
def test_death_while_serving_is_a_failure_whatever_the_exit_code(
    spec: ServerSpec, settings: Settings, fault: str, cause: str
) -> None:
    with running(spec, settings(fault)) as engine:
        complete(engine)
        failure = until_dead(engine)
        assert failure.cause == cause
        assert "serving" in failure.summary


def test_a_server_that_hangs_can_be_stopped(spec: ServerSpec, settings: Settings) -> None:
    with running(spec, settings("hang-after-health")) as engine:
        assert complete(engine, timeout=0.5) == 0
        assert engine.alive() is None
        assert engine.process is not None
        assert engine.process.stop(grace=0.3).forced


def test_processes_that_ignore_sigterm_are_killed(spec: ServerSpec, settings: Settings) -> None:
    with running(spec, settings("ignore-sigterm")) as engine:
        assert engine.process is not None
        report = engine.process.stop(grace=0.5)
    assert report.forced
    assert len(report.killed) == 3
    assert report.remaining == ()
    assert report.returncode == -9


def test_a_process_that_left_session_and_group_is_found_and_killed(
    spec: ServerSpec, settings: Settings
) -> None:
    with running(spec, settings("escape")) as engine:
        report = engine.stop()
    assert report is not None
    assert len(report.killed) == 1
    assert report.remaining == ()


def test_a_port_taken_between_choice_and_bind_is_tried_again(
    spec: ServerSpec, settings: Settings, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    with running(
        spec, settings("port-in-use-once", env={"GPUBENCH_STUB_ONCE": str(once)})
    ) as engine:
        assert once.exists()
        assert engine.alive() is None
    assert "Address already in use" in (tmp_path / "server.log").read_text()


def test_an_occupied_fixed_port_is_named(spec: ServerSpec, settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        failure = failure_of(spec, settings(port=other.getsockname()[1]))
    assert (failure.cause, failure.failure_class) == ("port-in-use", "infrastructure")
    assert failure.evidence == ("OSError: [Errno 98] Address already in use",)


def test_a_foreign_server_on_the_port_never_passes_for_ours(
    spec: ServerSpec, settings: Settings
) -> None:
    with LoopbackServer(model="theirs").in_thread() as other:
        assert failure_of(spec, settings(port=other.port)).cause in (
            "port-in-use",
            "foreign-server",
        )


def test_a_command_that_is_not_there(spec: ServerSpec, settings: Settings) -> None:
    failure = failure_of(spec, settings(command=("no-such-vllm", "serve")))
    assert failure.cause == "command-not-found"
    assert "'no-such-vllm' cannot be started: No such file or directory" in failure.summary


def test_a_flood_of_output_does_no_harm(spec: ServerSpec, settings: Settings) -> None:
    before = psutil.Process().memory_info().rss
    with running(spec, settings("log-flood:32")) as engine:
        assert engine.facts.kv_cache_tokens == 116_480
    with running(spec, settings("no-newline:16")) as engine:
        assert engine.facts.kv_cache_tokens == 116_480
        key = engine.api_key
    assert psutil.Process().memory_info().rss - before < 28 * 2**20  # lines kept whole took 47 MiB
    assert engine.log_path is not None
    assert key.encode() not in engine.log_path.read_bytes()


def test_output_that_is_no_text_does_no_harm(spec: ServerSpec, settings: Settings) -> None:
    with running(spec, settings("stderr-binary")) as engine:
        assert engine.alive() is None


def test_a_log_on_a_full_disk_does_not_stop_the_server(
    spec: ServerSpec, settings: Settings
) -> None:
    with running(spec, settings(log_path=Path("/dev/full"))) as engine:
        assert engine.facts.kv_cache_tokens == 116_480
        assert engine.process is not None
        assert engine.process.log.write_error is not None
    failure = failure_of(spec, settings("kv-cache", log_path=Path("/dev/full")))
    assert failure.cause == "kv-cache-too-small"
    assert "The log could not be written" in failure.remedy


def test_attach_starts_and_stops_nothing(spec: ServerSpec, settings: Settings) -> None:
    with running(spec, settings()) as ours:
        theirs = attach(ours.base_url, VLLM, api_key=ours.api_key)
        assert theirs.served_name == ours.served_name
        assert theirs.attached
        assert theirs.alive() is None
        assert theirs.facts.version == "0.0.0+stub"
        assert theirs.facts.max_model_len == 2304
        assert theirs.stop() is None
        assert ours.alive() is None
        with pytest.raises(BenchmarkError, match="refuses the API key"):
            attach(ours.url, VLLM, api_key="wrong")
        with pytest.raises(BenchmarkError, match=r"serves stub-\w+, not other"):
            attach(ours.url, VLLM, api_key=ours.api_key, model="other")
        again = attach(ours.url, VLLM, api_key=ours.api_key)
    gone = again.alive()
    assert gone is not None
    assert gone.cause == "engine-not-healthy"


def attached(models: object, *, model: str | None = None, **routes: object) -> Engine:
    def listed(_request: Request) -> Response:
        return Response.of_json(models)

    with LoopbackServer(routes={("GET", "/v1/models"): listed, **routes}).in_thread() as server:  # type: ignore[dict-item]
        return attach(server.url, VLLM, api_key="key", model=model)


def test_of_several_models_one_must_be_named() -> None:
    several = {"data": [{"id": f"m{number}", "owned_by": "vllm"} for number in range(12)]}
    with pytest.raises(BenchmarkError) as found:
        attached(several)
    assert "serves several models: m0, m1, " in found.value.failure.summary
    assert found.value.failure.summary.endswith("m9 and 2 more.")
    assert "--gpubench-model" in found.value.failure.remedy
    assert attached(several, model="m11").served_name == "m11"
    with pytest.raises(BenchmarkError, match="m9 and 2 more, not other"):
        attached(several, model="other")


def test_an_adapter_is_no_model_of_its_own() -> None:
    with_adapters = {
        "data": [
            {"id": "sql", "parent": "base"},
            {"id": "base", "parent": None},
            {"id": "chat", "parent": "base"},
        ]
    }
    assert attached(with_adapters).served_name == "base"
    assert attached(with_adapters, model="sql").served_name == "sql"


def test_attach_tells_what_the_server_says_it_is() -> None:
    engine = attached(
        {"data": [{"id": "m", "owned_by": "sglang", "root": "org/tiny", "max_model_len": 10**400}]}
    )
    assert (engine.facts.owned_by, engine.facts.served_root, engine.facts.max_model_len) == (
        "sglang",
        "org/tiny",
        None,
    )


def test_attach_follows_no_redirect() -> None:
    redirect = always(answer(b"", "302 Found", "Location: http://elsewhere/health"))
    words = "a redirect to http://elsewhere/health, which is not followed"
    with raw_server(redirect) as url, pytest.raises(BenchmarkError, match=words) as found:
        attach(url, VLLM, api_key="key")
    assert (found.value.failure.cause, found.value.failure.failure_class) == (
        "redirected",
        "client",
    )


def test_a_model_list_of_a_stranger_is_a_sentence() -> None:
    strange: tuple[object, ...] = ({"data": 5}, {}, [], {"data": [{}]})
    for models in strange:
        with pytest.raises(BenchmarkError, match="gave no list of models"):
            attached(models)


def test_our_own_server_is_blamed_for_its_answers(spec: ServerSpec, settings: Settings) -> None:
    failure = failure_of(spec, settings("models-404"))
    assert failure.failure_class == "engine"
    assert "/v1/models gave HTTP status 404" in failure.summary


def test_a_variable_that_the_engine_does_not_know_is_a_fact(
    spec: ServerSpec, settings: Settings
) -> None:
    with running(spec, settings("unknown-variable")) as engine:
        assert engine.facts.unknown_variables == ("VLLM_NO_SUCH_SETTING",)


def test_ctrl_c_at_every_moment_of_a_start_leaves_the_log_thread_in_peace(
    spec: ServerSpec, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes before the thread runs, and right after: it once met a stream that was
    closed under its feet."""
    stumbled: list[object] = []
    monkeypatch.setattr(threading, "excepthook", stumbled.append)
    real = threading.Thread.start

    def before(thread: threading.Thread) -> None:
        if thread.name.startswith("gpubench-log"):
            raise KeyboardInterrupt
        real(thread)

    def after(thread: threading.Thread) -> None:
        real(thread)
        if thread.name.startswith("gpubench-log"):
            raise KeyboardInterrupt

    for start in (before, after):
        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            start_engine(spec, settings())
        monkeypatch.undo()
        monkeypatch.setattr(threading, "excepthook", stumbled.append)
    assert stumbled == []
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("gpubench-log")
    ]


def test_attach_to_nothing_is_one_sentence() -> None:
    with pytest.raises(BenchmarkError, match="/health gave no answer"):
        attach("http://127.0.0.1:9", VLLM, timeout=1.0)
    with pytest.raises(GpubenchError, match="is not an address"):
        attach("localhost:8000", VLLM)


def test_proxies_of_the_environment_are_not_used(
    spec: ServerSpec, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with running(spec, settings()) as engine:
        assert engine.alive() is None


def test_a_lease_lives_exactly_as_long_as_the_tree(spec: ServerSpec, settings: Settings) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with running(spec, settings(inherit_fds=(writing,))):
        os.close(writing)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_start_and_stop_leave_no_descriptor_thread_or_child(
    spec: ServerSpec, settings: Settings
) -> None:
    me = psutil.Process()

    def held() -> tuple[int, int, int]:
        return me.num_fds(), me.num_threads(), len(me.children(recursive=True))

    with running(spec, settings()):
        pass
    before = held()
    for _ in range(5):
        with running(spec, settings()):
            pass
    # A thread that has been told to end needs the processor once more; what an earlier test left
    # may end meanwhile, too.
    until = time.monotonic() + 20
    while (after := held()) and time.monotonic() < until:
        if all(now <= then for now, then in zip(after, before, strict=True)):
            break
        time.sleep(0.05)
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
