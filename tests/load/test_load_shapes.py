"""Arrivals, hand-over, stops, turns and workers, as the loopback server sees them."""

from __future__ import annotations

import json
import resource
import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.load.client_calibration import loopback_process
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.http_server import Request
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Fault, Schedule
from pytest_gpubench.load.protocol import LoadPlan, LoadResult, RequestRecord
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.workload import Workload
from tests.busy import host_is_busy
from tests.load.pool import POOL

pytestmark = pytest.mark.slow

FAST = Schedule(ttft=0.03, token_time=0.002)
WORKLOAD = Workload(isl=48, osl=8, conc=4, num_prompts=12, num_warmups=4)


def run(server: LoopbackServer, **chosen: Any) -> LoadResult:
    result = run_load(LoadPlan(server.url, "loopback", replace(WORKLOAD, **chosen)), pool=POOL)
    assert result.failed == ()
    return result


def measured(result: LoadResult) -> list[RequestRecord]:
    return list(result.of_phase("measured"))


def dues(records: list[RequestRecord]) -> list[float]:
    first = min(record.due_ns for record in records)
    return [(record.due_ns - first) / 1e9 for record in records]


def test_open_loop_sends_by_the_schedule_whatever_the_server_does() -> None:
    with LoopbackServer(
        Schedule(ttft=0.3, token_time=0.002)
    ).in_thread() as server:  # far slower than the arrivals
        result = run(
            server, arrival="constant", request_rate=50.0, conc=1, num_prompts=20, num_warmups=0
        )
    records = measured(result)
    assert dues(records) == pytest.approx([index / 50 for index in range(20)])
    lags = [(record.send_ns or 0) - record.due_ns for record in records]
    assert all(lag >= 0 for lag in lags)
    assert statistics.median(lags) < 20e6
    # nobody waited for an answer
    assert all((record.send_ns or 0) < (records[0].first_token_ns or 0) for record in records[:10])


def test_queueing_is_not_hidden_from_the_ttft() -> None:
    def slow_at_first(request: Request) -> Any:
        seen.append(request)
        server.schedule = Schedule(0.2, 0.001) if len(seen) < 3 else FAST
        return original(request)

    seen: list[Request] = []
    with LoopbackServer(FAST).in_thread() as server:
        original = server.routes["POST", "/v1/chat/completions"]
        server.routes["POST", "/v1/chat/completions"] = slow_at_first
        result = run(server, arrival="poisson", request_rate=40.0, num_warmups=0)
    for record in measured(result):
        assert record.send_ns is not None
        assert record.due_ns <= record.send_ns < (record.first_token_ns or 0)
    assert len({round(due, 4) for due in dues(measured(result))}) == 12


def test_open_loop_warmup_is_part_of_one_schedule_where_it_is_not_drained() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        result = run(server, arrival="constant", request_rate=50.0, handover="continue")
    both = [*result.of_phase("warmup"), *result.of_phase("measured")]
    assert [record.phase for record in both] == ["warmup"] * 4 + ["measured"] * 12
    assert dues(both) == pytest.approx([index / 50 for index in range(16)])


def test_rate_ramps_up() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        result = run(
            server, arrival="constant", request_rate=50.0, ramp=0.4, num_prompts=20, num_warmups=0
        )
    gaps = [later - earlier for earlier, later in pairwise(dues(measured(result)))]
    assert gaps[0] > 2 * gaps[-1]
    assert gaps[-1] == pytest.approx(0.02)


def test_slots_are_handed_over_without_draining() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        result = run(server, handover="continue", osl=20, range_ratio=0.5)
    first_measured = min(record.due_ns for record in measured(result))
    warmup_ends = [record.end_ns or 0 for record in result.of_phase("warmup")]
    assert first_measured == min(warmup_ends)
    assert first_measured < max(warmup_ends)


def test_concurrency_ramps_up() -> None:
    with LoopbackServer(Schedule(0.3, 0.002)).in_thread() as server:
        result = run(server, ramp=0.2, num_warmups=0)
    began = dues(measured(result))[:4]
    assert began == sorted(began)
    assert all(due >= slot * 0.05 - 0.002 for slot, due in enumerate(began)), (
        "a slot may be late, never early"
    )


@pytest.mark.parametrize(
    "chosen", [{}, {"handover": "continue"}, {"arrival": "constant", "request_rate": 50.0}]
)
def test_duration_ends_the_sending(chosen: dict[str, Any]) -> None:
    with LoopbackServer(FAST).in_thread() as server:
        result = run(server, duration=0.4, num_prompts=400, **chosen)
    records = measured(result)
    assert result.client.stopped_by == "duration"
    assert result.client.planned == 400
    assert 4 <= len(records) < 200
    assert max(dues(records)) <= 0.4
    if chosen.get("arrival"):  # a closed loop on a slow machine may not come round in that time
        assert max(dues(records)) > 0.2
    assert [record.index for record in records] == list(range(len(records)))


def test_narrow_interval_ends_the_sending() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        result = run(server, interval=0.5, range_ratio=1.0, num_prompts=400)
    assert result.client.stopped_by == "interval"
    assert 40 <= len(measured(result)) < 400


def test_turns_follow_each_other_in_one_slot() -> None:
    bodies: dict[str, Any] = {}

    def spy(request: Request) -> Any:
        bodies[request.headers["x-request-id"]] = request.json()
        return original(request)

    with LoopbackServer(FAST).in_thread() as server:
        original = server.routes["POST", "/v1/chat/completions"]
        server.routes["POST", "/v1/chat/completions"] = spy
        result = run(server, turns=3, num_prompts=9, num_warmups=0, conc=2, think_time=0.05)
    records = measured(result)
    assert [record.turn for record in records] == [0, 1, 2] * 3
    for before, after in pairwise(records):
        if after.turn:
            assert after.due_ns - (before.end_ns or 0) >= 49e6
            assert after.prompt_tokens == after.asked_isl > before.asked_isl
    roles = [message["role"] for message in bodies[records[2].request_id]["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


def test_failed_turn_does_not_end_its_conversation() -> None:
    with LoopbackServer(
        FAST, faults=lambda index: Fault("status", 429) if index == 1 else None
    ).in_thread() as server:
        plan = LoadPlan(
            server.url, "loopback", replace(WORKLOAD, turns=3, conc=1, num_prompts=6, num_warmups=0)
        )
        result = run_load(plan, pool=POOL)
    assert [record.ok for record in result.records] == [True, False, True, True, True, True]


def test_trace_is_replayed(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 100 * row, "input_length": 40 + row, "output_length": 3 + row}
        for row in range(6)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    with LoopbackServer(FAST).in_thread() as server:
        result = run(
            server,
            dataset="trace",
            arrival="trace",
            dataset_file=str(file),
            time_scale=0.5,
            num_prompts=100,
        )
    records = measured(result)
    assert result.client.planned == 6
    assert dues(records) == pytest.approx([0.05 * row for row in range(6)])
    assert [record.completion_tokens for record in records] == [3, 4, 5, 6, 7, 8]
    assert [record.prompt_tokens for record in records] == pytest.approx(
        [40 + row for row in range(6)], abs=1
    )


@pytest.mark.parametrize(
    "chosen", [{}, {"handover": "continue"}, {"arrival": "poisson", "request_rate": 60.0}]
)
def test_several_workers_make_one_run(chosen: dict[str, Any]) -> None:
    with LoopbackServer(FAST).in_thread() as server:
        alone = run(server, **chosen)
        texts = {served.request_id: served.prompt_tokens for served in server.truth}
        server.truth.clear()
        shared = run(server, workers=3, **chosen)
    assert shared.client.workers == 3
    assert {served.request_id: served.prompt_tokens for served in server.truth} == texts
    assert [(record.phase, record.index, record.asked_osl) for record in shared.records] == [
        (record.phase, record.index, record.asked_osl) for record in alone.records
    ]
    if not chosen:  # one common start
        firsts = sorted(record.due_ns for record in measured(shared))[:4]
        assert firsts[-1] - firsts[0] < 50e6 or host_is_busy()


def test_failed_warmup_of_one_worker_stops_all() -> None:
    with LoopbackServer(
        FAST, faults=lambda index: Fault("status", 503) if index == 0 else None
    ).in_thread() as server:
        result = run_load(LoadPlan(server.url, "loopback", replace(WORKLOAD, workers=2)), pool=POOL)
    assert [record.phase for record in result.records if not record.ok] == ["warmup"]
    assert measured(result) == []


def test_metrics_pages_are_sampled_meanwhile() -> None:
    with LoopbackServer(Schedule(0.05, 0.01)).in_thread() as server:

        def page() -> str:
            return server.counters.metrics_text("m", speculative=False)

        plan = LoadPlan(server.url, "loopback", replace(WORKLOAD, osl=30))
        result = run_load(plan, fetch_metrics=page, metrics_interval=0.05, pool=POOL)
    assert len(result.pages) > 5
    assert all(
        "vllm:num_requests_running" in text and "request_success" not in text
        for _, text in result.pages
    )
    running = [
        float(line.split()[-1])
        for _, text in result.pages
        for line in text.splitlines()
        if "_running" in line
    ]
    assert max(running) == 4


def test_engines_own_view_is_in_the_records() -> None:
    schedule = Schedule(0.05, 0.01, 3, num_speculative_tokens=3)
    with LoopbackServer(schedule, per_request_metrics=True).in_thread() as server:
        result = run(server, osl=16, range_ratio=1.0)
    for record in result.records:
        assert record.engine is not None
        assert record.engine.queue == 0.0
        assert record.engine.ttft == pytest.approx(0.05, abs=0.03)
        assert record.engine.generation == pytest.approx(0.15, abs=0.05)
        assert (
            record.engine.drafts,
            record.engine.draft_tokens,
            record.engine.accepted_tokens,
        ) == (5, 15, 10)
    assert server.counters.accepted_tokens == sum(
        record.engine.accepted_tokens or 0 for record in result.records if record.engine
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arrival": "poisson"}, "needs request-rate"),
        ({"request_rate": 3.0}, "no meaning with arrival closed"),
        ({"dataset": "jsonl"}, "needs dataset-file"),
        ({"dataset": "trace", "dataset_file": "x"}, "belong together"),
        ({"workers": 5}, "workers"),
        ({"duration": 0.0}, "duration"),
        ({"interval": 1.0}, "interval"),
        ({"slo": FrozenMap({"tttf": 1})}, "not tttf"),
        (
            {"api": "completions", "chat_template": "none", "turns": 2},
            "several turns need `api: chat`",
        ),
        ({"burstiness": 0.0}, "burstiness"),
    ],
)
def test_impossible_shapes_are_recipe_errors(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BenchmarkError, match=words) as found:
        run_load(LoadPlan("http://127.0.0.1:1", "m", replace(WORKLOAD, **change)))
    assert found.value.failure.failure_class == "recipe"


@pytest.mark.parametrize(
    ("chosen", "requests"),
    [
        ({"isl": 32, "osl": 4, "conc": 1000, "num_prompts": 1000}, 1000),
        ({"isl": 100_000, "osl": 4, "conc": 2, "num_prompts": 2}, 2),
    ],
)
def test_a_thousand_streams_and_a_long_prompt_fit_into_a_gigabyte(
    chosen: dict[str, Any], requests: int
) -> None:
    with loopback_process("--ttft", "0.3") as url:
        result = run_load(
            LoadPlan(url, "loopback", replace(WORKLOAD, num_warmups=0, range_ratio=1.0, **chosen))
        )
    assert result.failed == ()
    assert len(result.records) == requests
    assert all(
        abs((record.prompt_tokens or 0) - record.asked_isl) <= 1 for record in result.records
    )
    assert (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1 << 20
    )  # in KiB; the largest child so far


def test_inferencex_profile_sends_token_ids_and_warms_up_with_prompt_0() -> None:
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> Any:
        bodies.append(request.json())
        return original(request)

    with LoopbackServer(FAST).in_thread() as server:
        original = server.routes["POST", "/v1/completions"]
        server.routes["POST", "/v1/completions"] = note
        result = run(
            server,
            profile="inferencex",
            api="completions",
            chat_template="none",
            conc=2,
            num_prompts=6,
        )
    prompts = [body["prompt"] for body in bodies]
    assert all(isinstance(token, int) for prompt in prompts for token in prompt)
    warmups, rest = prompts[:4], prompts[4:]
    assert all(prompt == warmups[0] for prompt in warmups)
    assert len({tuple(prompt) for prompt in rest}) == 6
    assert warmups[0] in rest
    assert [record.prompt_tokens for record in result.records] == [
        record.asked_isl for record in result.records
    ]
    assert len({record.asked_osl for record in result.of_phase("warmup")}) == 1


@pytest.mark.parametrize("template", ["server", "none"])
def test_completions_get_the_template_beforehand(template: str) -> None:
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> Any:
        bodies.append(request.json())
        return original(request)

    with LoopbackServer(FAST).in_thread() as server:
        original = server.routes["POST", "/v1/completions"]
        server.routes["POST", "/v1/completions"] = note
        result = run(
            server, api="completions", chat_template=template, num_prompts=4, num_warmups=0
        )
    as_ids = [isinstance(body["prompt"], list) for body in bodies]
    assert all(as_ids) if template == "server" else not any(as_ids)
    assert all(
        abs((record.prompt_tokens or 0) - record.asked_isl) <= 1 for record in result.records
    )
    if template == "server":  # the toy template's own tokens are part of what is sent
        assert [body["prompt"][:2] for body in bodies] == [[0, 0]] * 4
