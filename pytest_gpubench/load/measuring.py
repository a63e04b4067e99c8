"""What the measuring process does: prompts, requests, the loop with its probe, and only then the
records."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import platform
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.load.composer import Composer
from pytest_gpubench.load.driver import Driver, Job, StopRule, due_offsets, ramped
from pytest_gpubench.load.openai_wire import WireRequest, build_requests
from pytest_gpubench.load.parser import answer_of, record_of
from pytest_gpubench.load.prefix_sharing import shared_tokens
from pytest_gpubench.load.prompts import Vocabularies
from pytest_gpubench.load.protocol import ClientFacts, LoadPlan, Phase, Progress, RequestRecord
from pytest_gpubench.load.response_buffer import ResponseBuffer
from pytest_gpubench.load.timing import LagProbe, foremost
from pytest_gpubench.load.tokenization import (
    LONGEST_TEXT,
    SAMPLE,
    TokenCounter,
    recount,
    sample,
    with_token_ids,
)
from pytest_gpubench.load.transport import Exchange, have_descriptors
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import Workload

Barrier = Callable[[Literal["warmup", "measured", "recount"]], Awaitable[int]]
"""Waits until every worker is as far; the common start as ``monotonic_ns``, 0: now, below 0: not at
all, another has failed."""


_ANSWER_BYTES, _TOKEN_BYTES = 2**20, 8 * 2**10
"""Of an answer, whatever it is, and for each token that it may have: a chunk with its usage has
some 400."""


@dataclass(slots=True)
class Measuring:
    """One process's part of a load plan."""

    plan: LoadPlan
    api_key: str
    report: Callable[[Progress], None]
    barrier: Barrier
    buffer: ResponseBuffer = field(default_factory=ResponseBuffer)
    alive: Callable[[], None] = lambda: None
    """Called between the stages that report progress, often: a sign of life."""
    vocabularies: Vocabularies = field(default_factory=Vocabularies)
    _requests: Sequence[WireRequest] = ()
    _exchanges: Sequence[Exchange] = ()
    _recounted: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By the number of the exchange: tokens of its text, and those that came without text."""

    async def work(self) -> ClientFacts:
        """Do the whole run; the records are then to be had from ``records``.

        Raises:
            BenchmarkError: if prompts cannot be made or the server takes no connection; failed
                requests are in the records.
        """
        plan, workload = self.plan, self.plan.workload
        counter = TokenCounter(plan, self.api_key)
        try:
            composer = Composer(plan, counter, self.vocabularies)
            prompts = await composer.compose(
                lambda done, total: self.report(Progress("prompts", done, total))
            )
            if workload.sends_token_ids:
                prompts = (
                    await with_token_ids(prompts[0], counter),
                    await with_token_ids(prompts[1], counter),
                )
        finally:
            counter.close()
        warmups, measured = [
            await build_requests(plan, self.api_key, phase, on_built=self.alive)
            for phase in prompts
        ]
        prompts = ([], [])  # their texts may be many gigabytes
        share = len(range(plan.share, workload.conc, workload.workers))
        driver = Driver(
            plan.root,
            share,
            plan.connect_timeout,
            plan.read_timeout,
            dialect_of(plan.framework).keeps_connections,
            on_end=self.buffer.add,
        )
        rule = _stop_rule(workload, share, [*warmups, *measured])
        gc.collect()
        gc.disable()  # a collection in the window would stamp its own pause onto tokens
        probe = LagProbe()
        have_descriptors(share)
        try:
            await driver.open()
            with foremost(plan.priority) as priority:
                probe.start()
                clock = time.time_ns() - time.monotonic_ns()
                if workload.handover == "continue" and warmups:
                    self._requests = [*warmups, *measured]
                    await self._run(driver, "measured", self._requests, workload.ramp, rule)
                else:
                    await self._drained(driver, warmups, measured, rule)
                clock = time.time_ns() - time.monotonic_ns() - clock
        except OSError as error:
            summary = (
                f"the server at {plan.root} takes no connection: {error or type(error).__name__}"
            )
            raise BenchmarkError(Failure("no-connection", "client", summary)) from error
        finally:
            probe.stop()
            gc.enable()
            driver.close()
        facts = replace(self._facts(probe, clock, len(measured), rule), priority=priority)
        return replace(facts, recount=await self._recount(), notes=composer.notes)

    def records(self) -> Iterator[RequestRecord]:
        """The record of every request that was begun, in order; parsed one by one, for memory's
        sake."""
        shared = shared_tokens(
            (exchange, self._requests[exchange.number].prompt) for exchange in self._exchanges
        )
        for exchange in self._exchanges:
            request = self._requests[exchange.number]
            self.alive()
            record = record_of(request, self._whole(exchange))
            if exchange.number in shared:
                kept, most = shared[exchange.number]
                record = replace(record, kept_tokens=kept, shared_tokens=most)
            if exchange.number in self._recounted and record.ok:
                tokens, silent = self._recounted[exchange.number]
                record = replace(record, text_tokens=tokens, silent_tokens=silent)
            yield record

    def _is_good(self, exchange: Exchange) -> bool:
        """Whether the measurement may follow this request of the warm-up. Quick for an answer that
        ends as usual: what else is wrong with it is found when it is parsed, after the
        measurement."""
        whole = self._whole(exchange)
        tail = b"".join(read for _, read in whole.reads[-3:])
        quick = not exchange.error and b"[DONE]" in tail
        return quick or record_of(self._requests[exchange.number], whole).ok

    def _whole(self, exchange: Exchange) -> Exchange:
        return replace(exchange, reads=self.buffer.reads_of(exchange))

    async def _recount(self) -> str:
        """Tokenize a sample of the answers again, once no worker measures any more; why not, or
        nothing."""
        if await self.barrier("recount") < 0:
            return "a part of the load had failed"
        plan = self.plan
        exchanges = {one.number: one for one in self._measured() if not one.error}
        seed = f"{plan.salt}/{plan.launch}/{plan.share}/recount"
        chosen = sample(list(exchanges), -(-SAMPLE // plan.workload.workers), seed)
        read = {number: answer_of(self._whole(exchanges[number])) for number in chosen}
        answers = {
            number: answer
            for number, answer in read.items()
            if answer and len(answer.text) <= LONGEST_TEXT
        }
        if chosen and not answers:
            return "no sampled answer could be read again"
        counts, why_not = await recount(plan, self.api_key, answers)
        self._recounted = {number: (it, answers[number].silent) for number, it in counts.items()}
        return why_not

    def _measured(self) -> list[Exchange]:
        requests = self._requests
        return [one for one in self._exchanges if requests[one.number].prompt.phase == "measured"]

    async def _drained(
        self,
        driver: Driver,
        warmups: Sequence[WireRequest],
        measured: Sequence[WireRequest],
        rule: StopRule,
    ) -> None:
        workload = self.plan.workload
        self._requests = warmups
        await self._run(driver, "warmup", warmups, workload.ramp, None)
        if not all(map(self._is_good, self._exchanges)):
            return
        begun = self._exchanges
        rule.output_tokens = tuple(request.prompt.osl for request in measured)
        await self._run(driver, "measured", measured, 0.0 if warmups else workload.ramp, rule)
        for exchange in self._exchanges:
            exchange.number += len(warmups)
        self._requests = [*warmups, *measured]
        self._exchanges = [*begun, *self._exchanges]

    async def _run(
        self,
        driver: Driver,
        stage: Phase,
        requests: Sequence[WireRequest],
        ramp: float,
        rule: StopRule | None,
    ) -> None:
        start_ns = await self.barrier(stage)
        if start_ns < 0:
            self._exchanges = []
            return
        self.report(Progress(stage, 0, len(requests)))
        driver.on_progress = lambda done, total: self.report(Progress(stage, done, total))
        jobs = _jobs(self.plan, requests, ramp)
        self._exchanges = await driver.run(jobs, start_ns=start_ns, ramp=ramp, stop=rule)
        self.report(Progress(stage, len(requests), len(requests)))

    def _facts(self, probe: LagProbe, clock_ns: int, planned: int, rule: StopRule) -> ClientFacts:
        facts = ClientFacts(
            importlib.metadata.version("openai"),
            platform.python_version(),
            _loop_name(),
            planned=planned,
        )
        measured = self._measured()
        if not measured:
            return facts
        start = min(exchange.due_ns for exchange in measured)
        end = max(exchange.end_ns or 0 for exchange in measured)
        lag = probe.summary(start, end)
        return replace(
            facts,
            cpu_seconds=lag.cpu,
            window_seconds=(end - start) / 1e9,
            started_unix=time.time() - (time.monotonic_ns() - start) / 1e9,
            lag_mean=lag.mean,
            lag_p99=lag.p99,
            lag_max=lag.worst,
            lag_samples=lag.samples,
            clock_drift=clock_ns / 1e9,
            stopped_by=rule.reason,
            workers=self.plan.workload.workers,
        )


def _jobs(plan: LoadPlan, requests: Sequence[WireRequest], ramp: float) -> list[Job]:
    """The requests with their due times; this worker's part of the schedule where there are
    several."""
    workload = plan.workload
    prompts = [request.prompt for request in requests]
    dues: list[float | None] = [None] * len(prompts)
    if workload.arrival == "trace":
        dues = [prompt.due for prompt in prompts]
    elif workload.open_loop and prompts:
        warmups = sum(prompt.phase == "warmup" for prompt in prompts)
        before = 0
        if 0 < warmups < len(prompts):  # one schedule for both phases
            before = -(-workload.num_warmups // workload.turns)
        heads = [
            before * (prompt.phase == "measured") + prompt.index // workload.turns
            for prompt in prompts
        ]
        offsets = due_offsets(workload, prompts[-1].phase, max(heads) + 1)
        dues = [ramped(offsets[head], ramp) for head in heads]
    return [
        _job(workload, number, request, due)
        for number, (request, due) in enumerate(zip(requests, dues, strict=True))
    ]


def _job(workload: Workload, number: int, request: WireRequest, due: float | None) -> Job:
    prompt, place = request.prompt, request.prompt.place
    after: tuple[int, ...] = (number - 1,) if prompt.turn else ()
    pause = workload.think_time
    if place is not None:
        after, pause = place.after, place.pause * workload.time_scale
        if workload.idle_cap is not None:
            pause = min(pause, workload.idle_cap)
    return Job(
        request.wire,
        None if due is None else int(due * 1e9),
        after=after,
        pause_ns=int(pause * 1e9) if after else 0,
        needs_answer=place is not None,
        measured=prompt.phase == "measured",
        most_bytes=_ANSWER_BYTES + _TOKEN_BYTES * prompt.osl,
    )


def _stop_rule(workload: Workload, share: int, requests: Sequence[WireRequest]) -> StopRule:
    osls = tuple(request.prompt.osl for request in requests)
    return StopRule(
        workload.duration, workload.interval, workload.interval_metric, max(1, share), osls
    )


def _loop_name() -> str:
    module = type(asyncio.get_running_loop()).__module__.split(".")[0]
    return f"uvloop {importlib.metadata.version('uvloop')}" if module == "uvloop" else module
