"""``--gpubench-budget``: what a run is given of its time, told before anything starts, and the
clock that keeps it."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from pytest_gpubench.gate import effort
from pytest_gpubench.gate.baselines import MIN_LAUNCHES, Baseline
from pytest_gpubench.gate.effort import Compared, Cost, Effort, Known
from pytest_gpubench.gate.policy import MetricPolicy, narrowed, policies
from pytest_gpubench.gate.statistics import POWER
from pytest_gpubench.gate.wording import count, size
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.model.specs import Launch, init_subject
from pytest_gpubench.model.workload import SESSIONS, Workload
from pytest_gpubench.report.numbers import seconds
from pytest_gpubench.report.records import MEASUREMENT_VERSION
from pytest_gpubench.runs.baselining import Baselines

LAUNCHES = "1..4"
"""Of a run with a budget, where ``--gpubench-launches`` does not say."""
_UNITS = {"": 60.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_BETWEEN_ROUNDS_S = 2.0
"""Waits for an idle engine, prompts, records."""


def parse_budget(text: str) -> float:
    """Seconds of ``15m``, ``900s``, ``1.5h``; a bare number is minutes.

    Raises:
        ValueError: for anything else, as a sentence.
    """
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,3})?)\s*([smh]?)\s*", text, re.ASCII)
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise ValueError(f"'{text}' is no time; write 15m, 900s or 1.5h")
    return value


class Budget:
    """A run's time, and what its servers are given of it. Every worker of xdist plans the same."""

    def __init__(self, total_s: float) -> None:
        self.total_s = total_s
        self._began = time.monotonic()
        self._efforts: dict[str, Effort] = {}
        self.lines: tuple[str, ...] = ()
        """What the run will be able to tell, a line per server."""

    def plan(
        self,
        book: RecipeBook,
        cases: Iterable[Case],
        launches: Iterable[Launch],
        baselines: Baselines,
        allowed: Rounds | None,
        gate_only: Collection[str] = (),
    ) -> None:
        """Share the time out among the servers of the selected cases.

        Args:
            launches: that were planned at most.
            allowed: rounds of every case; None: what its recipe says.
            gate_only: metrics that are judged; empty: all that are gated.

        Raises:
            GpubenchError: if a baseline file cannot be used.
        """
        chosen: dict[str, list[Case]] = {}
        for case in cases:
            if case.evaluation is None and case.runnable:
                chosen.setdefault(case.server, []).append(case)
        found = {
            server: _compared(book, server, its, baselines, allowed, gate_only)
            for server, its in chosen.items()
        }
        compared = {server: one for server, one in found.items() if one is not None}
        planned = [one for one in launches if one.server in compared]
        certain = max((one.index for one in planned if not one.reserve), default=1)
        numbers = sorted({one.index for one in planned if one.index >= certain}) or [1]
        self._efforts = effort.within(compared, numbers, self.total_s)
        known = {name for one in compared.values() for name in one.cases}
        unknown = Counter(
            (_unplanned(book, case, baselines.of(case.id), gate_only), server)
            for server, its in chosen.items()
            for case in its
            if case.id not in known
        )
        self.lines = tuple(self._told(compared, unknown))

    def rounds(self, case: Case) -> int | None:
        """Rounds of a case on each launch; None where nothing was planned for it."""
        given = self._efforts.get(case.server)
        return None if given is None else given.rounds.get(case.id)

    def refusal(self, launch: Launch) -> str:
        """Why a launch in reserve is not started, empty if it may be."""
        given = self._efforts.get(launch.server)
        if given is None or not launch.reserve:
            return ""
        if launch.index > given.launches:
            return f"the budget has room for {count(given.launches, 'launch')} of this server"
        spent = time.monotonic() - self._began
        if spent + given.seconds / given.launches > self.total_s:
            return f"{seconds(spent)} of the budget of {seconds(self.total_s)} are spent"
        return ""

    def _told(
        self, compared: dict[str, Compared], unknown: Mapping[tuple[str, str], int]
    ) -> Iterator[str]:
        needed = math.fsum(one.seconds for one in self._efforts.values())
        if compared:
            yield f"budget {seconds(self.total_s)}: {seconds(needed)} are planned"
        if needed > self.total_s:
            yield "that is the least that this selection takes; select less, or give it more time"
        for server, given in self._efforts.items():
            told = {
                (case, metric): share
                for case, known in compared[server].cases.items()
                for metric, share in effort.found_by(
                    known, given.launches, given.rounds[case], POWER
                ).items()
            }
            words = f"{server}: {count(given.launches, 'launch')}, {_range(given.rounds.values())}"
            if told:
                case, metric = max(told, key=lambda one: told[one])
                words += (
                    f" on each; found in {POWER:.0%} of runs: {size(min(told.values()))} to "
                    f"{size(told[case, metric])} worse, least well {metric} of "
                    f"{case.partition(':')[2]}"
                )
            yield words
        for reason in dict.fromkeys(reason for reason, _ in unknown):
            left = [
                f"{count(cases, 'case')} of {server}"
                for (why, server), cases in unknown.items()
                if why == reason
            ]
            yield f"{reason}, so what these take is not in it: {', '.join(left)}"


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return count(found[0], "round") if len(found) == 1 else f"{found[0]} to {found[-1]} rounds"


def _compared(
    book: RecipeBook,
    server: str,
    cases: Sequence[Case],
    baselines: Baselines,
    allowed: Rounds | None,
    gate_only: Collection[str],
) -> Compared | None:
    """What the baselines know of a server; None where none of its cases has one."""
    known: dict[str, tuple[Known, ...]] = {}
    rounds: dict[str, float] = {}
    for case in cases:
        baseline = baselines.of(case.id)
        key = _newest_key(baseline)
        if baseline is None or key is None:
            continue
        metrics = effort.known_of(_gated(book, case, gate_only), baseline, key)
        if metrics:
            known[case.id] = metrics
            lasted = _middle(baseline, key, "duration") or 0.0
            rounds[case.id] = lasted * (1 + warmup_share(case.workload)) + _BETWEEN_ROUNDS_S
    if not known:
        return None
    start = baselines.of(init_subject(server))
    key = _newest_key(start)
    start_s = _middle(start, key, "engine_init") if start and key else None
    each = {case.id: allowed or case.rounds for case in cases if case.id in known}
    return Compared(known, Cost(start_s or 0.0, rounds), each)


def _gated(book: RecipeBook, case: Case, gate_only: Collection[str]) -> tuple[MetricPolicy, ...]:
    """The metrics of a case that are compared with its baseline."""
    spec = book.server(case.server)
    found = policies(case.gates, case.workload, spec.speculative, spec.model)
    return tuple(
        one for one in narrowed(found, gate_only) if one.tolerance is not None and not one.refused
    )


def _unplanned(
    book: RecipeBook, case: Case, baseline: Baseline | None, gate_only: Collection[str]
) -> str:
    """Why nothing is known of what a case takes, in words."""
    if baseline is None or not baseline.launches:
        return "no baseline to plan by"
    key = _newest_key(baseline)
    if key is None:
        return "no baseline to plan by but one that was measured in another way"
    gated = [one.metric for one in _gated(book, case, gate_only)]
    if not gated:
        return "no gate that compares with a baseline"
    have = max(len(baseline.history(key, metric).window) for metric in gated)
    if not have:
        return f"a baseline that says nothing of {', '.join(gated)}"
    return (
        f"a baseline of {count(have, 'launch')}, where a plan takes {MIN_LAUNCHES} "
        f"(record {MIN_LAUNCHES - have} more)"
    )


def warmup_share(workload: Workload) -> float:
    """What the warm-up of a round takes beside the measurement: as much a request. A replay has
    requests of its own, whose number is not known here, and warms up with a few first turns."""
    if workload.traced or workload.dataset == SESSIONS:
        return 0.0
    return workload.num_warmups / workload.num_prompts


def _newest_key(baseline: Baseline | None) -> FrozenMap | None:
    """The key of the newest launch: this run's own is not known before it has started. None where
    it was measured in another way, which is known."""
    if baseline is None or not baseline.launches:
        return None
    newest = max(baseline.launches, key=lambda entry: (entry.date, entry.id))
    key = baseline.keys[newest.key]
    if not isinstance(key, FrozenMap) or key.get("measurement_version") != MEASUREMENT_VERSION:
        return None
    return key


def _middle(baseline: Baseline, key: FrozenMap, metric: str) -> float | None:
    window = baseline.history(key, metric).window
    return statistics.median(window) if window else None
