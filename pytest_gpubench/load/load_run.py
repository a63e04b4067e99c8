"""Run a load plan in worker processes, from the measuring side's parent: watch them, watch the
server, end them. And what a launch is sent before anything on it counts.

``/metrics`` is looked at here meanwhile, so that the measuring loop never waits for it.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.load.datasets import dataset_problem
from pytest_gpubench.load.protocol import LoadPlan, LoadResult, Progress, RequestRecord
from pytest_gpubench.load.session_prompts import read_sessions
from pytest_gpubench.load.workers import Worker, WorkerPool, merge, release, total_progress
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import SESSIONS, Workload, contradictions

_POLL = 0.1
GRACE_S = 6.0
"""Seconds in which a death is noticed after requests have failed."""
_LOST_SERVER = frozenset({"no-connection", "tokenize-failed"})
_MAX_PAGE = 2**20
"""Characters of a page that are kept: a server of 64 engines has some 40,000."""


def run_load(
    plan: LoadPlan,
    *,
    api_key: str = "",
    on_progress: Callable[[Progress], None] | None = None,
    check_server: Callable[[], Failure | None] | None = None,
    fetch_metrics: Callable[[], str] | None = None,
    metrics_interval: float = 1.0,
    grace: float = GRACE_S,
    pool: WorkerPool | None = None,
) -> LoadResult:
    """Drive the server as planned and return every request's record. A failed request never raises,
    it is recorded with a reason.

    Args:
        plan: what to do.
        api_key: sent as bearer token; it reaches the workers through a pipe only.
        on_progress: called in this thread, a few times per second at most.
        check_server: called every 0.1 s; a failure means that the server is dead and ends the run
        at once.
        fetch_metrics: returns the text of ``/metrics``; called every ``metrics_interval`` seconds
            in a thread of this process while requests are sent.
        grace: seconds that ``check_server`` gets to notice a death after requests have failed as
            they do on a dead server (an API server may outlive its engine by some seconds).
        pool: whose workers do it; without one they are started for this run, and end with it.

    Raises:
        BenchmarkError: the plan cannot be run, the server died (with ``check_server``'s failure),
            the deadline passed, prompts could not be made, or a worker itself died.
        KeyboardInterrupt: as it came, after the workers that were at work have been killed.
    """
    _check(plan)
    watched = dialect_of(plan.framework).counters.watched
    sampler = MetricsSampler(fetch_metrics or str, metrics_interval, watched)
    with (
        tempfile.TemporaryDirectory(prefix="gpubench-load-") as folder,
        contextlib.ExitStack() as at_end,
    ):
        if pool is None:
            pool = WorkerPool()
            at_end.callback(pool.close)
        try:
            with pool.team(plan, api_key, Path(folder)) as workers:
                failure = _supervise(
                    workers, plan, check_server or (lambda: None), on_progress, sampler
                )
        finally:
            pages = sampler.stop()
        failure = failure or _listen(workers, on_progress, sampler)
        failure = failure or next(filter(None, (worker.crash() for worker in workers)), None)
        if failure is None:
            facts, records = merge([worker.read() for worker in workers])
            server_lost = any(map(_as_on_dead_server, records))
        else:
            server_lost = failure.cause in _LOST_SERVER
    if check_server is not None and server_lost:
        ask_again(check_server, grace)
    if failure is not None:
        raise BenchmarkError(failure)
    return LoadResult(plan, facts, records, pages)


def check_workload(workload: Workload) -> Failure | None:
    """Why this workload cannot be run at all, before any server is asked: it contradicts itself, or
    its file cannot be read. A trace of sessions is read whole: a start may take long."""
    faults = contradictions(workload)
    if faults:
        summary = "; ".join(f"client.{key}: {words}" for key, words in faults)
        return Failure(
            "workload-unsupported", "recipe", summary, remedy="Correct the recipe's client section."
        )
    problem = dataset_problem(workload)
    if problem is None and workload.dataset == SESSIONS:
        try:
            read_sessions(workload)
        except BenchmarkError as error:
            return error.failure
    return problem


def _check(plan: LoadPlan) -> None:
    failure = check_workload(plan.workload)
    if not plan.base_url.startswith(("http://", "https://")):
        summary = f"the base URL {plan.base_url!r} is neither http nor https"
        failure = Failure("workload-unsupported", "recipe", summary)
    if failure is not None:
        raise BenchmarkError(failure)


def _supervise(
    workers: list[Worker],
    plan: LoadPlan,
    check_server: Callable[[], Failure | None],
    on_progress: Callable[[Progress], None] | None,
    sampler: MetricsSampler,
) -> Failure | None:
    """Wait for the workers' end; the first failure that is seen ends the wait early."""
    limit = math.inf if plan.deadline is None else time.monotonic() + plan.deadline
    while True:
        ended = all(worker.ended for worker in workers)
        failure = check_server() or _listen(workers, on_progress, sampler)
        failure = failure or next(filter(None, (worker.crash() for worker in workers)), None)
        failure = failure or next(filter(None, [worker.stopped() for worker in workers]), None)
        if failure is not None or ended:
            return failure
        if time.monotonic() > limit:
            summary = f"the load run was not finished after {plan.deadline:g} s"
            remedy = "See whether the server is far slower than planned."
            return Failure("load-deadline", "client", summary, remedy=remedy)
        release(workers)
        until = time.monotonic() + _POLL
        for worker in workers:  # asleep until it has something to say that ends the run
            worker.over.wait(max(0.0, until - time.monotonic()))


def _listen(
    workers: list[Worker], on_progress: Callable[[Progress], None] | None, sampler: MetricsSampler
) -> Failure | None:
    for worker in workers:
        failure, news = worker.handle()
        if failure is not None:
            return failure
        for progress in news:
            if progress.stage != "prompts":
                sampler.start()
            if on_progress is not None:
                on_progress(progress if len(workers) == 1 else total_progress(workers, progress))
    return None


def _as_on_dead_server(record: RequestRecord) -> bool:
    broken = record.status is None or record.status >= 500
    return not record.ok and (
        broken
        or record.error.startswith(("the connection was closed", "the server reported an error"))
    )


def ask_again(
    check_server: Callable[[], Failure | None],
    grace: float = GRACE_S,
    well: Callable[[], bool] = lambda: False,
) -> None:
    """Give a server whose requests failed as on a dead one some seconds to be seen dead.

    Args:
        check_server: what is wrong with it.
        grace: the seconds.
        well: whether it is proven to live, so that there is nothing to wait for.

    Raises:
        BenchmarkError: with ``check_server``'s failure.
    """
    limit = time.monotonic() + grace
    while True:
        failure = check_server()
        if failure is not None:
            raise BenchmarkError(failure)
        if time.monotonic() > limit:
            return
        if well():
            limit = -math.inf  # one more look, for it may have died of that very token
            continue
        time.sleep(_POLL)


class MetricsSampler:
    """Fetches the page every ``interval`` seconds from ``start`` to ``stop``; a page that cannot be
    had is left out. Kept are the lines that are ``watched``; the rest, some 100 kB, is dropped at
    once."""

    def __init__(self, fetch: Callable[[], str], interval: float, watched: tuple[str, ...]) -> None:
        self._fetch = fetch
        self._interval = interval
        self._watched = watched
        self._pages: list[tuple[int, str]] = []
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-sampler", daemon=True)
        self._started = False

    def start(self) -> None:
        """Begin; later calls do nothing."""
        if not self._started:
            self._started = True
            self._thread.start()

    def stop(self) -> tuple[tuple[int, str], ...]:
        """End, and return the pages with the times (``monotonic_ns``) at which they were asked
        for."""
        self._leave.set()
        if self._started:
            self._thread.join(timeout=10)
        return tuple(self._pages)

    def _run(self) -> None:
        while not self._leave.is_set():
            asked_ns = time.monotonic_ns()
            try:
                page = self._fetch()
            except Exception:  # noqa: BLE001  # a busy or dying server: whoever watches the server says so
                page = ""
            kept = "\n".join(line for line in page.splitlines() if line.startswith(self._watched))
            if kept and len(kept) <= _MAX_PAGE:
                self._pages.append((asked_ns, kept + "\n"))
            self._leave.wait(max(0.0, self._interval - (time.monotonic_ns() - asked_ns) / 1e9))


_WAVE_OSL = 12
"""Enough for some steps of a draft and its target, few enough to cost a second."""
_WAVE_ISL = 512
"""Of a workload whose lengths are those of a trace."""
_BUSY = 16
"""Requests in flight for each rank: cases warm up at their own concurrency, too."""
_KIND = (
    *("profile", "api", "chat_template", "chat_template_kwargs"),
    *("ignore_eos", "temperature", "range_ratio", "seed"),
)
"""Fields of a workload that say what its requests are like, whatever their number and schedule."""


def waves_of(workloads: Iterable[Workload], ranks: int) -> tuple[Workload, ...]:
    """Loads that warm a launch up, one after another: every data-parallel rank, at every length
    that its cases will use. For each length two: few requests, so that every rank decodes one
    alone, and many.

    A balancer sends a request to the rank that has the fewest: as many at once as there are ranks
    reach all of them, where requests one by one reach the same.

    Args:
        workloads: of the cases that will be measured on it.
        ranks: data-parallel ranks.
    """
    longest: dict[int, Workload] = {}
    for one in workloads:
        known = longest.get(one.isl)
        if known is None or one.conc > known.conc:
            longest[one.isl] = one
    return tuple(
        _wave(workload, conc, times)
        for _, workload in sorted(longest.items())
        for conc, times in ((ranks, 2), (max(ranks, min(workload.conc, _BUSY * ranks)), 1))
    )


def _wave(workload: Workload, conc: int, times: int) -> Workload:
    """The same kind of request, briefly, in a closed loop; a file's texts are replaced by words."""
    return Workload(
        isl=workload.isl or _WAVE_ISL,
        osl=min(workload.osl or _WAVE_OSL, _WAVE_OSL),
        conc=conc,
        num_prompts=conc * times,
        num_warmups=0,
        **{name: getattr(workload, name) for name in _KIND},
    )
