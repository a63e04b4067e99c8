"""Verdicts on launches without a change and with planted losses, on one GPU: how long they take and
whether they are right.

    python experiments/hardware/verdicts.py OUT RECIPES RECIPE CACHE [--servers 5] [--seconds 700]

Two fleets of servers start one after another, the servers of each side by side, and are measured
one at a time, with the product's own functions: warm-up of a launch, rounds as its gate plans them,
verdicts. The first fleet is the baseline, each launch of the second a run without a change (and the
other way round). Then the steps of the second fleet's engines are made longer by a plugin of
theirs, which was there before (`../gate/slower_steps.py`). Results are written after every
measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet import Job, Outcome, fleet, measure, say

sys.path.insert(0, str(Path(__file__).parents[1] / "gate"))
from slower_steps import write_plugin

from pytest_gpubench.dialects.vllm.flags import COUNTERS
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.gate import effort
from pytest_gpubench.gate.baselines import Baseline, append
from pytest_gpubench.gate.decide import judge
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan, evidence_of
from pytest_gpubench.gate.policy import MetricPolicy, policies
from pytest_gpubench.gate.recording import entries_of
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.warmup_waves import waves_of
from pytest_gpubench.measure.combined_rounds import combined
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.recipes import load_recipes

KEY = FrozenMap({"experiment": "verdicts"})
LOSSES = ((0.10, 2), (0.075, 2), (0.05, 1))
"""Share by which steps are longer, and on how many launches."""
PLAN = LaunchPlan(1, 1)


@dataclass
class Launch:
    """One server of a fleet."""

    name: str
    engine: Engine
    spec: Any
    start_s: float
    rounds: dict[str, list[Measurement]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """That were measured, by case."""


def launch_of(outcome: Outcome, share: float = 0.0) -> Launch:
    """A server that started, with steps that are longer by this share from now on."""
    assert outcome.engine is not None
    slower = Path(outcome.job.env["SLOWER_STEPS"])
    slower.write_text(str(share))
    return Launch(outcome.job.name, outcome.engine, outcome.job.spec, outcome.seconds)


class Run:
    """The whole of it."""

    def __init__(self, out: Path, cases: Sequence[Case], spec: Any, limit_s: float) -> None:
        self.out = out
        self.cases = cases
        self.spec = spec
        self.until = time.monotonic() + limit_s
        self.log: list[dict[str, Any]] = []

    def policies(self, case: Case) -> tuple[MetricPolicy, ...]:
        """What is gated: throughput, TPOT, TTFT, as by default."""
        found = policies(case.gates, case.workload, self.spec.speculative)
        return tuple(one for one in found if one.metric != "ttft_p99")

    def warm(self, launch: Launch) -> None:
        """As the plugin warms a launch up."""
        for number, wave in enumerate(waves_of([case.workload for case in self.cases], 1)):
            run_load(
                LoadPlan(
                    launch.engine.url,
                    launch.engine.served_name,
                    wave,
                    launch=f"{launch.name}-w{number}",
                ),
                api_key=launch.engine.api_key,
            )
            wait_idle(launch.engine.scrape, COUNTERS, 60.0)

    def measured(
        self, launch: Launch, case: Case, plan: effort.RoundPlan, what: str
    ) -> LaunchEvidence | None:
        """Rounds of a case as planned; None where the time is over."""
        rounds: list[Measurement] = []
        began = time.monotonic()
        while not rounds or plan.wants_another(rounds):
            if time.monotonic() > self.until:
                return None
            label = f"{launch.name}-{what}-{len(rounds)}"
            one, _ = measure(launch.engine, case, launch.spec, label=label)
            rounds.append(one)
            self.log.append(
                {
                    "launch": launch.name,
                    "start_s": launch.start_s,
                    "case": case.id,
                    "what": what,
                    "round": len(rounds),
                    "seconds": round(time.monotonic() - began, 2),
                    "metrics": dict(one.metrics),
                    "problems": list(one.problems),
                    "invalid": list(one.invalid),
                    "flags": [flag.code for flag in one.flags],
                }
            )
            (self.out / "rounds.json").write_text(json.dumps(self.log))
        whole = combined(rounds)
        spent = time.monotonic() - began
        launch.seconds[f"{case.id} {what}"] = spent
        say(
            f"{launch.name} {what} {case.label}: {len(rounds)} rounds in {spent:.0f} s, "
            f"{whole.metrics.get('output_tput', 0):,.0f} tok/s, "
            f"TPOT {whole.metrics.get('tpot_p50', 0) * 1e3:.2f} ms, "
            f"TTFT {whole.metrics.get('ttft_p50', 0) * 1e3:.1f} ms {whole.invalid}"
        )
        return evidence_of(launch.name, whole)

    def verdicts(
        self,
        what: str,
        case: Case,
        before: Sequence[LaunchEvidence],
        runs: Sequence[Sequence[LaunchEvidence]],
        seconds: dict[str, float],
    ) -> None:
        """Each run launch by launch, as the plugin judges it; a line each."""
        entries = entries_of(
            "before",
            [(one, f"2026-11-2{index % 7 + 1}T00:00:00+00:00") for index, one in enumerate(before)],
            FrozenMap(),
        )
        baseline = append(Baseline(case.id), KEY, entries)
        for launches in runs:
            for used in range(1, len(launches) + 1):
                verdict = judge(self.policies(case), launches[:used], baseline, KEY, PLAN)
                if not verdict.wants_launch:
                    break
            row = {
                "what": what,
                "case": case.id,
                "launches": [one.label for one in launches[:used]],
                "status": verdict.status.value,
                "seconds": round(sum(seconds[one.label] for one in launches[:used]), 1),
                "metrics": {
                    one.metric: {
                        "status": one.status.value,
                        "code": one.code,
                        "change": one.change and one.change.estimate,
                        "low": one.change and one.change.low,
                        "high": one.change and one.change.high,
                        "spread": one.change and one.change.spread,
                        "detectable": one.change and one.change.detectable,
                    }
                    for one in verdict.metrics
                },
            }
            print(json.dumps(row), flush=True)
            with (self.out / "verdicts.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=700.0)
    parser.add_argument("--most", type=int, default=4, help="rounds on a launch")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    book = load_recipes([options.recipes])
    loads = [case for case in book.cases if case.evaluation is None]
    cases = [case for case in loads if case.recipe == options.recipe]
    spec = book.server(cases[0].server)
    run = Run(options.out, cases, spec, options.seconds)
    allowed = Rounds(1, options.most)
    gpus = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    gpus = {} if spec.hardware == "cpu" else gpus
    write_plugin(options.out / "plugin")
    path = [str(options.out / "plugin"), *filter(None, [os.environ.get("PYTHONPATH")])]
    plugin = {"PYTHONPATH": os.pathsep.join(path)}
    sides: list[dict[str, list[LaunchEvidence]]] = []
    cost: dict[str, dict[str, float]] = {case.id: {} for case in cases}
    for side in ("before", "now"):
        jobs = [
            Job(name, spec, {**gpus, **plugin, "SLOWER_STEPS": str(options.out / f"{name}.share")})
            for name in (f"{side}-{number}" for number in range(1, options.servers + 1))
        ]
        found: dict[str, list[LaunchEvidence]] = {case.id: [] for case in cases}
        with fleet(jobs, options.out / "logs", options.cache) as crowd:
            ready = [future.result() for future in crowd.values()]
            for outcome in ready:
                if outcome.engine is None or time.monotonic() > run.until:
                    continue
                launch = launch_of(outcome)
                run.warm(launch)
                for case in cases:
                    rules = run.policies(case)
                    if side == "before":
                        plan = effort.RoundPlan(allowed, rules, 1, recording=True)
                    else:
                        plan = planned(rules, sides[0][case.id], allowed)
                    evidence = run.measured(launch, case, plan, "same")
                    if evidence is not None:
                        found[case.id].append(evidence)
                        spent = launch.seconds[f"{case.id} same"]
                        cost[case.id][evidence.label] = launch.start_s + spent
            sides.append(found)
            if side == "now":
                for case in cases:
                    pairs = [list(pair) for pair in rolled(found[case.id])]
                    run.verdicts("same", case, sides[0][case.id], pairs, cost[case.id])
                    back = [list(pair) for pair in rolled(sides[0][case.id])]
                    run.verdicts("same, the other way", case, found[case.id], back, cost[case.id])
                losses(run, ready, sides[0], allowed)
    (options.out / "done").touch()


def planned(
    rules: Sequence[MetricPolicy], before: Sequence[LaunchEvidence], allowed: Rounds
) -> effort.RoundPlan:
    """Rounds of a run that is compared with these launches."""
    dated = [(one, "2026-11-01T00:00:00+00:00") for one in before]
    baseline = append(Baseline("x"), KEY, entries_of("before", dated, FrozenMap()))
    known = effort.known_of(rules, baseline, KEY)
    rounds, _ = effort.rounds_for(known, PLAN.total, allowed.most)
    return effort.RoundPlan(allowed, tuple(rules), rounds if known else 1, recording=False)


def rolled(launches: Sequence[LaunchEvidence]) -> Iterator[tuple[LaunchEvidence, LaunchEvidence]]:
    """Runs of up to two launches, each launch the first of one."""
    return zip(launches, [*launches[1:], *launches[:1]], strict=True)


def losses(
    run: Run,
    ready: Sequence[Outcome],
    before: dict[str, list[LaunchEvidence]],
    allowed: Rounds,
) -> None:
    """The planted losses; then the first case once more as it was measured before slots were handed
    over."""
    usable = [one for one in ready if one.engine is not None]
    for number, (share, launches) in enumerate(LOSSES):
        two = [usable[(2 * number + offset) % len(usable)] for offset in range(launches)]
        cost: dict[str, dict[str, float]] = {case.id: {} for case in run.cases}
        found: dict[str, list[LaunchEvidence]] = {case.id: [] for case in run.cases}
        for outcome in two:
            launch = launch_of(outcome, share)
            for case in run.cases:
                plan = planned(run.policies(case), before[case.id], allowed)
                evidence = run.measured(launch, case, plan, f"loss {share:g}")
                if evidence is not None:
                    found[case.id].append(evidence)
                    spent = launch.seconds[f"{case.id} loss {share:g}"]
                    cost[case.id][evidence.label] = launch.start_s + spent
        for case in run.cases:
            if found[case.id]:
                name = f"steps {share:.1%} longer"
                run.verdicts(name, case, before[case.id], [found[case.id]], cost[case.id])
    launch = launch_of(usable[0])
    for case in run.cases:
        drained = replace(case, workload=replace(case.workload, handover="drain"))
        plan = effort.RoundPlan(Rounds(3, 3), (), 1, recording=False)
        run.measured(launch, drained, plan, "drained")


if __name__ == "__main__":
    main()
