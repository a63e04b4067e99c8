"""The whole load generator against the loopback server: its own send times are the truth."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest

from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.http_server import Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Fault, Schedule, Served
from pytest_gpubench.load.protocol import LoadPlan, LoadResult, Progress, RequestRecord
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.workload import Workload
from tests.busy import host_is_busy

FAST = Schedule(ttft=0.03, token_time=0.005)
WORKLOAD = Workload(isl=48, osl=16, conc=4, num_prompts=12, num_warmups=4)
DEAD = Failure("engine-died", "engine", "the engine is dead")


def plan(server: LoopbackServer, workload: Workload = WORKLOAD, **extra: Any) -> LoadPlan:
    return replace(LoadPlan(server.url, "loopback", workload), **extra)


def measured(result: LoadResult) -> list[RequestRecord]:
    return list(result.of_phase("measured"))


def truth_of(server: LoopbackServer) -> dict[str, Served]:
    return {served.request_id: served for served in server.truth}


@contextmanager
def server_process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    argv = [sys.executable, "-m", "pytest_gpubench.load.loopback", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_records_tell_the_servers_truth() -> None:
    stages: list[Progress] = []
    with LoopbackServer(FAST, api_key="secret").in_thread() as server:
        result = run_load(plan(server), api_key="secret", on_progress=stages.append)
    assert result.failed == ()
    assert [record.phase for record in result.records] == ["warmup"] * 4 + ["measured"] * 12
    assert [record.index for record in measured(result)] == list(range(12))
    truth = truth_of(server)
    for record in result.records:
        served = truth[record.request_id]
        assert record.completion_tokens == record.asked_osl == served.asked_tokens
        assert record.prompt_tokens == served.prompt_tokens
        assert abs(served.prompt_tokens - record.asked_isl) <= 1
        assert list(record.chunk_tokens) == served.chunk_totals
        assert record.finish_reason == "length"
        # one clock for both processes: nothing is received before it was sent, nor sent before it
        # was due
        assert record.send_ns is not None
        assert record.due_ns <= record.send_ns < served.arrival_ns
        assert all(
            sent < received for sent, received in zip(served.chunk_ns, record.chunk_ns, strict=True)
        )
    assert (
        sum(record.completion_tokens or 0 for record in result.records)
        == server.counters.generation_tokens
    )
    assert len({served.prompt_tokens for served in server.truth}) > 1
    assert {progress.stage for progress in stages} == {"prompts", "warmup", "measured"}
    assert stages[-1] == Progress("measured", 12, 12)
    assert result.client.window_seconds > 0
    assert result.client.started_unix == pytest.approx(time.time(), abs=60)


def test_times_are_near_the_truth() -> None:
    """On a host that is busy with other work they are not: then nothing can be said."""
    for _ in range(5):
        ttft, tpot = _errors_against_the_truth()
        if ttft < 0.03 and abs(tpot) < 0.002:
            return
    assert host_is_busy(), (ttft, tpot)


def _errors_against_the_truth() -> tuple[float, float]:
    """Medians of the errors of TTFT and TPOT in seconds."""
    with LoopbackServer(FAST).in_thread() as server:
        result = run_load(plan(server))
    truth = truth_of(server)
    ttft_errors, tpot_errors = [], []
    for record in measured(result):
        served = truth[record.request_id]
        assert record.first_token_ns is not None
        assert record.last_token_ns is not None
        ttft_errors.append((record.first_token_ns - record.due_ns) / 1e9 - served.ttft)
        tpot = (
            (record.last_token_ns - record.first_token_ns)
            / 1e9
            / ((record.completion_tokens or 0) - 1)
        )
        tpot_errors.append(tpot - served.tpot)
    assert min(ttft_errors) > 0, "nothing is seen before it was sent"
    return statistics.median(ttft_errors), statistics.median(tpot_errors)


def test_loop_is_closed_at_the_concurrency() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        result = run_load(plan(server))
    edges = [(record.send_ns or 0, 1) for record in measured(result)] + [
        (record.end_ns or 0, -1) for record in measured(result)
    ]
    in_flight, peak = 0, 0
    for _, step in sorted(edges):
        in_flight += step
        peak = max(peak, in_flight)
    assert peak == WORKLOAD.conc
    # each request after the first wave is due when one before it ended
    ends = {record.end_ns for record in measured(result)}
    assert all(record.due_ns in ends for record in measured(result)[WORKLOAD.conc :])
    warmup_end = max(record.end_ns or 0 for record in result.of_phase("warmup"))
    assert all(record.due_ns > warmup_end for record in measured(result))


def test_three_tokens_per_chunk() -> None:
    with LoopbackServer(Schedule(0.02, 0.01, 3)).in_thread() as server:
        result = run_load(plan(server, replace(WORKLOAD, osl=16, range_ratio=1.0, num_prompts=4)))
    for record in measured(result):
        assert record.chunk_tokens == (1, 4, 7, 10, 13, 16)
        assert record.first_token_ns is not None
        assert record.last_token_ns is not None
    tpots = [
        ((record.last_token_ns or 0) - (record.first_token_ns or 0)) / 15e9
        for record in measured(result)
    ]
    assert statistics.median(tpots) == pytest.approx(0.01, rel=0.2)


def test_completions_api_and_template_arguments() -> None:
    bodies: list[dict[str, object]] = []

    def spy(request: Request) -> Any:
        bodies.append(request.json())
        return original(request)

    with LoopbackServer(FAST).in_thread() as server:
        for path in ("/v1/completions", "/v1/chat/completions"):
            original = server.routes["POST", path]
            server.routes["POST", path] = spy
            api = "completions" if path == "/v1/completions" else "chat"
            template = FrozenMap({"thinking": False}) if api == "chat" else FrozenMap()
            chosen: dict[str, Any] = {
                "api": api,
                "chat_template": "server" if api == "chat" else "none",
            }
            workload = replace(
                WORKLOAD, **chosen, num_prompts=1, num_warmups=0, conc=1, temperature=0.5
            )
            result = run_load(plan(server, replace(workload, chat_template_kwargs=template)))
            assert result.failed == ()
    completion, chat = bodies
    assert completion["max_tokens"] == chat["max_completion_tokens"]
    assert chat["chat_template_kwargs"] == {"thinking": False}
    for body in bodies:
        assert body["ignore_eos"] is True
        assert body["temperature"] == 0.5
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


FAULTS = {
    4: (Fault("status", status=429), "HTTP status 429: "),
    6: (Fault("status", status=503), "HTTP status 503: "),
    7: (Fault("malformed"), "malformed chunk after 1 good ones: "),
    8: (Fault("disconnect"), "the connection was closed in the middle of the answer"),
    9: (
        Fault("disconnect", after_chunks=0),
        "the connection was closed in the middle of the answer",
    ),
    11: (Fault("stall", after_chunks=3), "stalled: no data for 6 s"),
    12: (
        Fault("error-event"),
        "the server reported an error in the stream: EngineCore encountered an issue.",
    ),
}


def test_every_fault_is_one_failed_record_and_the_rest_survives() -> None:
    with LoopbackServer(
        FAST, faults=lambda index: FAULTS[index][0] if index in FAULTS else None
    ).in_thread() as server:
        result = run_load(plan(server, replace(WORKLOAD, num_prompts=20), read_timeout=6))
    assert len(result.failed) == len(FAULTS)
    expected = sorted(reason for _, reason in FAULTS.values())
    errors = sorted(record.error for record in result.failed)
    assert all(error.startswith(reason) for error, reason in zip(errors, expected, strict=True)), (
        errors
    )
    good = [record for record in measured(result) if record.ok]
    assert len(good) == 20 - len(FAULTS)
    assert all(record.completion_tokens == record.asked_osl for record in good)


def test_half_closed_connection_is_one_failed_record() -> None:
    seen: list[Request] = []

    def half_close_one(request: Request) -> Any:
        seen.append(request)
        if len(seen) != 5:
            return original(request)
        request.connection.begin_stream()
        request.connection.half_close()
        return None

    with LoopbackServer(FAST).in_thread() as server:
        original = server.routes["POST", "/v1/chat/completions"]
        server.routes["POST", "/v1/chat/completions"] = half_close_one
        result = run_load(plan(server))
    assert [record.error for record in result.failed] == [
        "the connection was closed in the middle of the answer"
    ]
    assert len(result.records) == 16


def test_server_that_closes_after_every_answer_is_no_failure() -> None:
    chunk = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'

    def closing(request: Request) -> Response:
        return Response(
            chunk + b"data: [DONE]\n\n",
            content_type="text/event-stream",
            headers={"connection": "close"},
        )

    with LoopbackServer(FAST).in_thread() as server:
        server.routes["POST", "/v1/chat/completions"] = closing
        result = run_load(plan(server, replace(WORKLOAD, num_warmups=0)))
    assert result.failed == ()
    assert len(result.records) == 12


def test_failed_warmup_stops_the_run() -> None:
    with LoopbackServer(FAST, api_key="right").in_thread() as server:
        result = run_load(plan(server), api_key="wrong")
    assert len(result.records) == 4
    assert all(record.error.startswith("HTTP status 401") for record in result.records)


def test_key_is_neither_in_argv_nor_in_the_records() -> None:
    argvs: list[Sequence[str]] = []

    def look(progress: Progress) -> None:
        argvs.extend(argv for _, argv in _workers())

    with LoopbackServer(FAST, api_key="very-secret").in_thread() as server:
        result = run_load(plan(server), api_key="very-secret", on_progress=look)
    assert argvs
    assert not any("very-secret" in word for argv in argvs for word in argv)
    assert "very-secret" not in repr(result)
    assert "very-secret" not in repr([record.to_json() for record in result.records])


def test_server_death_ends_the_run_with_the_servers_failure() -> None:
    done = 0
    with server_process("--ttft", "0.05", "--token-time", "0.05") as (process, url):

        def kill_in_mid_run(progress: Progress) -> None:
            nonlocal done
            if progress.stage == "measured":
                done = progress.done
            if done:
                process.kill()

        workload = replace(WORKLOAD, num_prompts=400, num_warmups=0)
        with pytest.raises(BenchmarkError) as found:
            run_load(
                LoadPlan(url, "loopback", workload),
                on_progress=kill_in_mid_run,
                check_server=lambda: DEAD if process.poll() is not None else None,
            )
    assert found.value.failure is DEAD
    assert 0 < done < 400, "it went on without the server"
    assert not _workers()


def test_death_that_is_noticed_late_is_still_the_servers_failure() -> None:
    with LoopbackServer(FAST, faults=lambda index: Fault("error-event")).in_thread() as server:
        asked: list[float] = []

        def late() -> Failure | None:
            asked.append(time.monotonic())
            return DEAD if asked[-1] - asked[0] > 3 else None

        with pytest.raises(BenchmarkError) as found:
            run_load(
                plan(server, replace(WORKLOAD, num_prompts=2, num_warmups=0)),
                check_server=late,
                grace=30,
            )
    assert found.value.failure is DEAD


def test_nobody_there_is_one_sentence() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        url = server.url
    with pytest.raises(BenchmarkError, match=f"{url}/tokenize did not answer") as found:
        run_load(LoadPlan(url, "loopback", WORKLOAD))
    assert found.value.failure.failure_class == "client"


def test_server_without_tokenize_is_one_sentence() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        del server.routes["POST", "/tokenize"]
        with pytest.raises(BenchmarkError, match="/tokenize answered 404"):
            run_load(plan(server))


def test_deadline_kills_the_worker() -> None:
    with (
        LoopbackServer(Schedule(ttft=30)).in_thread() as server,
        pytest.raises(BenchmarkError, match="not finished after 2 s"),
    ):
        run_load(plan(server, deadline=2))
    assert not _workers()


def test_worker_crash_is_a_client_failure() -> None:
    def murder(progress: Progress) -> None:
        for worker, _ in _workers():
            worker.kill()

    with (
        LoopbackServer(Schedule(ttft=30)).in_thread() as server,
        pytest.raises(BenchmarkError) as found,
    ):
        run_load(plan(server), on_progress=murder)
    failure = found.value.failure
    assert (failure.cause, failure.failure_class) == ("load-worker-died", "client")
    assert "killed by signal 9" in failure.summary


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "sharegpt"}, "client.dataset: dataset sharegpt needs dataset-file"),
        ({"conc": 0}, "at least 1"),
        ({"chat_template": "none"}, "client.chat-template: the chat API always applies"),
        (
            {"dataset": "text", "dataset_file": "/no/such/file"},
            "/no/such/file cannot be read: No such file",
        ),
    ],
)
def test_plan_that_cannot_be_run_is_refused(change: dict[str, Any], words: str) -> None:
    workload = replace(WORKLOAD, **change)
    with pytest.raises(BenchmarkError, match=words) as found:
        run_load(LoadPlan("http://127.0.0.1:1", "m", workload))
    assert found.value.failure.failure_class == "recipe"


PARENT = """
    import sys
    from pytest_gpubench.model.workload import Workload
    from pytest_gpubench.load.protocol import LoadPlan
    from pytest_gpubench.load.load_run import run_load

    def show(progress):
        if progress.stage == "measured":
            print("measuring", flush=True)

    workload = Workload(isl=48, osl=16, conc=4, num_prompts=400, num_warmups=0)
    run_load(LoadPlan(sys.argv[1], "loopback", workload), on_progress=show)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_worker_never_outlives_its_parent(number: signal.Signals) -> None:
    with server_process("--token-time", "0.1") as (_, url):
        argv = [sys.executable, "-c", textwrap.dedent(PARENT), url]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as parent:
            assert parent.stdout is not None
            assert parent.stderr is not None
            assert parent.stdout.readline() == "measuring\n"
            workers = psutil.Process(parent.pid).children(recursive=True)
            assert len(workers) == 1
            parent.send_signal(number)
            _, alive = psutil.wait_procs(workers, timeout=120)
            assert not alive
            assert parent.wait(120) != 0
            if number == signal.SIGINT:
                assert "KeyboardInterrupt" in parent.stderr.read()


def _workers() -> list[tuple[psutil.Process, list[str]]]:
    """Running workers of this process with their command lines."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # gone, or a zombie
            argv = child.cmdline()
            if "pytest_gpubench.load.worker" in argv:
                found.append((child, argv))
    return found
