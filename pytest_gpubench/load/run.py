"""Run a load plan in worker processes, from the measuring side's parent: watch them, watch the server, end them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pytest_gpubench.domain.failures import BenchmarkError, Failure
from pytest_gpubench.domain.workload import Workload
from pytest_gpubench.load.crew import Worker, merge, open_gates, start_crew, total_progress
from pytest_gpubench.load.plan import LoadPlan, LoadResult, Progress, RequestRecord
from pytest_gpubench.load.sampler import Sampler

_POLL = 0.1
_LOST_SERVER = frozenset({"no-connection", "tokenize-failed"})
_DATASETS = ("random", "text", "sharegpt", "jsonl", "trace")


def run_load(
    plan: LoadPlan,
    *,
    api_key: str = "",
    on_progress: Callable[[Progress], None] | None = None,
    check_server: Callable[[], Failure | None] | None = None,
    fetch_metrics: Callable[[], str] | None = None,
    metrics_interval: float = 1.0,
    grace: float = 6.0,
) -> LoadResult:
    """Drive the server as planned and return every request's record. A failed request never raises, it is recorded with a reason.

    Args:
        plan: what to do.
        api_key: sent as bearer token; it reaches the workers through their environment only.
        on_progress: called in this thread, a few times per second at most.
        check_server: called every 0.1 s; a failure means that the server is dead and ends the run at once.
        fetch_metrics: returns the text of ``/metrics``; called every ``metrics_interval`` seconds in a thread of this process
            while requests are sent.
        grace: seconds that ``check_server`` gets to notice a death after requests have failed as they do on a dead server (vLLM's
            API server outlives its engine by up to 5 s).

    Raises:
        BenchmarkError: the plan cannot be run, the server died (with ``check_server``'s failure), the deadline passed, prompts
            could not be made, or a worker itself died.
        KeyboardInterrupt: as it came, after the workers have been killed.
    """
    _check(plan)
    sampler = Sampler(fetch_metrics or str, metrics_interval)
    with tempfile.TemporaryDirectory(prefix="gpubench-load-") as folder:
        crew: list[Worker] = []
        try:
            crew += start_crew(plan, api_key, Path(folder))
            failure = _supervise(crew, plan, check_server or (lambda: None), on_progress, sampler)
        finally:
            for worker in crew:
                worker.kill()
            pages = sampler.stop()
        failure = failure or _listen(crew, on_progress, sampler)
        failure = failure or next(filter(None, (worker.crash() for worker in crew)), None)
        if failure is None:
            facts, records = merge([worker.read() for worker in crew])
    if check_server is not None and (failure.cause in _LOST_SERVER if failure else any(map(_as_on_dead_server, records))):
        _ask_again(check_server, grace)
    if failure is not None:
        raise BenchmarkError(failure)
    return LoadResult(plan, facts, records, pages)


def _check(plan: LoadPlan) -> None:
    problem = _wrong_lengths(plan.workload) or _wrong_combination(plan.workload)
    if not plan.base_url.startswith(("http://", "https://")):
        problem = f"the base URL {plan.base_url!r} is neither http nor https"
    if problem:
        raise BenchmarkError(Failure("workload-unsupported", "recipe", problem, remedy="Correct the recipe's client section."))


def _wrong_lengths(workload: Workload) -> str:
    if workload.conc < 1 or workload.num_prompts < 1:
        return f"concurrency and number of prompts must be at least 1, not {workload.conc} and {workload.num_prompts}"
    if workload.turns < 1 or workload.prefix_groups < 1 or not 1 <= workload.workers <= workload.conc:
        return "turns, prefix-groups and workers must be at least 1, and workers at most the concurrency"
    if workload.duration is not None and workload.duration <= 0:
        return f"duration must be above 0 s, not {workload.duration:g}"
    if workload.interval is not None and not 0 < workload.interval < 1:
        return f"interval is a part of the metric's value, above 0 and below 1, not {workload.interval:g}"
    if workload.burstiness <= 0 or workload.time_scale <= 0 or min(workload.ramp, workload.think_time, workload.prefix_tokens) < 0:
        return "burstiness and time-scale must be above 0; ramp, think-time and prefix-tokens at least 0"
    return ""


def _wrong_combination(workload: Workload) -> str:
    rated = workload.arrival in ("constant", "poisson", "gamma")
    if workload.dataset not in _DATASETS:
        return f"the dataset {workload.dataset!r} is not known; known: {', '.join(_DATASETS)}"
    if workload.dataset in ("sharegpt", "jsonl", "trace") and not workload.dataset_file:
        return f"the dataset {workload.dataset!r} needs dataset-file"
    if (workload.dataset == "trace") != (workload.arrival == "trace"):
        return "arrival trace and dataset trace belong together: a trace says when its requests are due"
    if workload.dataset == "trace" and (workload.handover != "drain" or workload.turns > 1):
        return "a trace is replayed request by request after a drained warm-up: no turns, handover drain"
    if workload.api == "chat" and workload.chat_template != "server":
        return f"api chat means chat-template server, not {workload.chat_template!r}"
    if workload.api == "completions" and workload.turns > 1:
        return "several turns need api chat"
    if rated and workload.request_rate <= 0:
        return f"arrival {workload.arrival} needs request-rate, requests per second above 0"
    if not rated and workload.request_rate:
        return f"request-rate has no meaning with arrival {workload.arrival}; use constant, poisson or gamma"
    if workload.slo and (set(workload.slo) - {"ttft", "tpot", "e2e"}):
        return f"slo knows ttft, tpot and e2e, not {', '.join(sorted(set(workload.slo) - {'ttft', 'tpot', 'e2e'}))}"
    return ""


def _supervise(
    crew: list[Worker],
    plan: LoadPlan,
    check_server: Callable[[], Failure | None],
    on_progress: Callable[[Progress], None] | None,
    sampler: Sampler,
) -> Failure | None:
    """Wait for the workers' end; the first failure that is seen ends the wait early."""
    limit = time.monotonic() + plan.deadline if plan.deadline is not None else None
    while True:
        ended = all(worker.ended for worker in crew)
        failure = check_server() or _listen(crew, on_progress, sampler)
        failure = failure or next((worker.crash() for worker in crew if worker.ended and worker.process.returncode), None)
        if failure is not None or ended:
            return failure
        if limit is not None and time.monotonic() > limit:
            summary = f"the load run was not finished after {plan.deadline:g} s"
            return Failure("load-deadline", "client", summary, remedy="See whether the server is far slower than planned.")
        open_gates(crew)
        _pause(crew)


def _pause(crew: list[Worker]) -> None:
    limit = time.monotonic() + _POLL
    while time.monotonic() < limit and not all(worker.ended for worker in crew):
        time.sleep(_POLL / 10)


def _listen(crew: list[Worker], on_progress: Callable[[Progress], None] | None, sampler: Sampler) -> Failure | None:
    for worker in crew:
        failure, news = worker.handle()
        if failure is not None:
            return failure
        for progress in news:
            if progress.stage != "prompts":
                sampler.start()
            if on_progress is not None:
                on_progress(progress if len(crew) == 1 else total_progress(crew, progress))
    return None


def _as_on_dead_server(record: RequestRecord) -> bool:
    broken = record.status is None or record.status >= 500
    return not record.ok and (broken or record.error.startswith(("the connection was closed", "the server reported an error")))


def _ask_again(check_server: Callable[[], Failure | None], grace: float) -> None:
    limit = time.monotonic() + grace
    while True:
        failure = check_server()
        if failure is not None:
            raise BenchmarkError(failure)
        if time.monotonic() > limit:
            return
        time.sleep(_POLL)
