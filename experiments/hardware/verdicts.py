"""Verdicts on launches without a change and with planted losses, on one GPU: how long they take and
whether they are right.

    python experiments/hardware/verdicts.py OUT RECIPES RECIPE CACHE [--servers 5] [--launches 2]

Servers start side by side and are measured one at a time, with the product's own functions: warm-up
of a launch, rounds as its gate plans them, verdicts. Every pair of neighbours (with fewer than
seven servers every launch) is a run without a change, the other launches its baseline. Then the
steps of some engines at a time are made longer by a plugin of theirs, which was there before
(`../gate/slower_steps.py`), and they are judged against all launches without, launch by launch.
Results are written after every measurement; `--rounds` judges those of an earlier run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet import Job, Outcome, fleet, gpus_now, measure, say, warm

sys.path.insert(0, str(Path(__file__).parents[1] / "gate"))
from slower_steps import write_plugin

from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.gate import effort
from pytest_gpubench.gate.baselines import MIN_LAUNCHES, Baseline, append
from pytest_gpubench.gate.decide import judge
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan, evidence_of
from pytest_gpubench.gate.policy import MetricPolicy, policies
from pytest_gpubench.gate.recording import entries_of
from pytest_gpubench.measure.measurement import Measurement, combined
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.recipes.loading import load_recipes

KEY = FrozenMap({"experiment": "verdicts"})
LOSSES = (0.10, 0.075, 0.05)
"""Shares by which steps are longer."""
UNCHANGED = LaunchPlan(1, 1)
"""Of a run without a change: what is left of the launches must be a baseline."""


@dataclass
class Launch:
    """One server of a fleet."""

    name: str
    engine: Engine
    spec: Any
    start_s: float


def launch_of(outcome: Outcome, share: float = 0.0) -> Launch:
    """A server that started, with steps that are longer by this share from now on."""
    assert outcome.engine is not None
    slower = Path(outcome.job.env["SLOWER_STEPS"])
    slower.write_text(str(share))
    return Launch(outcome.job.name, outcome.engine, outcome.job.spec, outcome.seconds)


class Run:
    """The whole of it."""

    def __init__(
        self, out: Path, cases: Sequence[Case], spec: Any, plan: LaunchPlan, limit_s: float
    ) -> None:
        self.out = out
        self.cases = cases
        self.spec = spec
        self.plan = plan
        """Launches of a run with a loss."""
        self.until = time.monotonic() + limit_s
        self.log: list[dict[str, Any]] = []
        self.cost: dict[tuple[str, str, str], float] = {}
        """Seconds of a start and of the rounds of a case, by what was done, case, launch."""

    def policies(self, case: Case) -> tuple[MetricPolicy, ...]:
        """What is gated: throughput, TPOT, TTFT, as by default."""
        found = policies(case.gates, case.workload, self.spec.speculative)
        return tuple(one for one in found if one.metric != "ttft_p99")

    def warm(self, launch: Launch) -> None:
        """As the plugin warms a launch up."""
        folder = self.out / "warm" / launch.name
        said = warm(launch.engine, launch.spec, self.cases, gpus_now()[:1], folder)
        say(f"{launch.name} is warm: {said}")

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
        self.cost[what, case.id, launch.name] = launch.start_s + spent
        say(
            f"{launch.name} {what} {case.label}: {len(rounds)} rounds in {spent:.0f} s, "
            f"{whole.metrics.get('output_tput', 0):,.0f} tok/s, "
            f"TPOT {whole.metrics.get('tpot_p50', 0) * 1e3:.2f} ms, "
            f"TTFT {whole.metrics.get('ttft_p50', 0) * 1e3:.1f} ms {whole.invalid}"
        )
        return evidence_of(launch.name, whole)

    def unchanged(
        self, ready: Sequence[Outcome], allowed: Rounds
    ) -> dict[str, list[LaunchEvidence]]:
        """Every server as it is, with rounds as a recorded launch has them."""
        found: dict[str, list[LaunchEvidence]] = {case.id: [] for case in self.cases}
        for outcome in ready:
            launch = launch_of(outcome)
            self.warm(launch)
            for case in self.cases:
                plan = effort.RoundPlan(allowed, self.policies(case), 1, recording=True)
                evidence = self.measured(launch, case, plan, "same")
                if evidence is not None:
                    found[case.id].append(evidence)
        return found

    def loss(
        self,
        share: float,
        outcomes: Sequence[Outcome],
        same: dict[str, list[LaunchEvidence]],
        allowed: Rounds,
    ) -> None:
        """Servers with longer steps, judged against the others without."""
        found: dict[str, list[LaunchEvidence]] = {case.id: [] for case in self.cases}
        for outcome in outcomes:
            launch = launch_of(outcome, share)
            for case in self.cases:
                plan = planned(self.policies(case), same[case.id], self.plan, allowed)
                evidence = self.measured(launch, case, plan, f"loss {share:g}")
                if evidence is not None:
                    found[case.id].append(evidence)
            launch_of(outcome)
        for case in self.cases:
            if found[case.id]:
                self.verdict(f"loss {share:g}", case, same[case.id], found[case.id], self.plan)

    def judge_unchanged(self, case: Case, launches: Sequence[LaunchEvidence]) -> None:
        """Runs without a change."""
        runs: list[list[LaunchEvidence]] = [[launch] for launch in launches]
        if len(launches) >= MIN_LAUNCHES + 2:
            following = [*launches[1:], *launches[:1]]
            runs = [list(pair) for pair in zip(launches, following, strict=True)]
        for launched in runs:
            others = [one for one in launches if one not in launched]
            self.verdict("same", case, others, launched, UNCHANGED)

    def judge_again(self, path: Path) -> None:
        """What an earlier run measured."""
        rows = json.loads(path.read_text("utf-8"))
        shutil.copy(path, self.out / "rounds.json")
        for case in self.cases:
            measured: dict[str, dict[str, list[dict[str, Any]]]] = {}
            for row in (row for row in rows if row["case"] == case.id):
                launch = measured.setdefault(row["what"], {}).setdefault(row["launch"], [])
                launch.append(row["metrics"])
                spent = row["start_s"] + row["seconds"]
                self.cost[row["what"], case.id, row["launch"]] = spent
            found = {
                what: [again(name, rounds, case) for name, rounds in launches.items()]
                for what, launches in measured.items()
            }
            self.judge_unchanged(case, found["same"])
            for what, launches in found.items():
                if what.startswith("loss"):
                    self.verdict(what, case, found["same"], launches, self.plan)

    def verdict(
        self,
        what: str,
        case: Case,
        before: Sequence[LaunchEvidence],
        launches: Sequence[LaunchEvidence],
        plan: LaunchPlan,
    ) -> None:
        """A run launch by launch, as the plugin judges it; a line each."""
        if not before:
            return
        entries = entries_of(
            "before",
            [(one, f"2026-11-2{index % 7 + 1}T00:00:00+00:00") for index, one in enumerate(before)],
            FrozenMap(),
        )
        baseline = append(Baseline(case.id), KEY, entries)
        for used in range(1, len(launches) + 1):
            verdict = judge(self.policies(case), launches[:used], baseline, KEY, plan)
            if not verdict.wants_launch:
                break
        row = {
            "what": what,
            "case": case.id,
            "launches": [one.label for one in launches[:used]],
            "status": verdict.status.value,
            "seconds": round(
                sum(self.cost[what, case.id, one.label] for one in launches[:used]), 1
            ),
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


def again(name: str, rounds: Sequence[dict[str, float]], case: Case) -> LaunchEvidence:
    """What an earlier run measured on a launch."""
    shared = set(rounds[0]).intersection(*rounds)
    means = {
        metric: statistics.geometric_mean([one[metric] for one in rounds])
        for metric in sorted(shared)
        if all(one[metric] > 0 for one in rounds)
    }
    several = tuple(rounds) if len(rounds) > 1 else ()
    return LaunchEvidence(name, means, case.workload.num_prompts * len(rounds), rounds=several)


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
    parser.add_argument("--launches", type=int, default=2, help="of a run with a loss, at most")
    parser.add_argument("--seconds", type=float, default=640.0)
    parser.add_argument("--most", type=int, default=4, help="rounds on a launch")
    parser.add_argument("--rounds", type=Path, metavar="ROUNDS.json")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    book = load_recipes([options.recipes])
    loads = [case for case in book.cases if case.evaluation is None]
    cases = [case for case in loads if case.recipe == options.recipe]
    spec = book.server(cases[0].server)
    plan = LaunchPlan(1, options.launches - 1)
    run = Run(options.out, cases, spec, plan, options.seconds)
    if options.rounds is not None:
        run.judge_again(options.rounds)
        return
    allowed = Rounds(1, options.most)
    gpus = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    gpus = {} if spec.hardware == "cpu" else gpus
    write_plugin(options.out / "plugin")
    path = [str(options.out / "plugin"), *filter(None, [os.environ.get("PYTHONPATH")])]
    plugin = {"PYTHONPATH": os.pathsep.join(path)}
    jobs = [
        Job(name, spec, {**gpus, **plugin, "SLOWER_STEPS": str(options.out / f"{name}.share")})
        for name in (f"server-{number}" for number in range(1, options.servers + 1))
    ]
    with fleet(jobs, options.out / "logs", options.cache) as crowd:
        outcomes = [future.result() for future in crowd.values()]
        ready = [outcome for outcome in outcomes if outcome.engine is not None]
        same = run.unchanged(ready, allowed)
        for case in cases:
            run.judge_unchanged(case, same[case.id])
        for number, share in enumerate(LOSSES):
            first = number * options.launches
            chosen = [ready[(first + one) % len(ready)] for one in range(options.launches)]
            run.loss(share, chosen, same, allowed)
    (options.out / "done").touch()


def planned(
    rules: Sequence[MetricPolicy],
    before: Sequence[LaunchEvidence],
    launches: LaunchPlan,
    allowed: Rounds,
) -> effort.RoundPlan:
    """Rounds of a run that is compared with these launches."""
    dated = [(one, "2026-11-01T00:00:00+00:00") for one in before]
    baseline = append(Baseline("x"), KEY, entries_of("before", dated, FrozenMap()))
    known = effort.known_of(rules, baseline, KEY)
    rounds, _ = effort.rounds_for(known, launches.total, allowed.most)
    return effort.RoundPlan(allowed, tuple(rules), rounds if known else 1, recording=False)


if __name__ == "__main__":
    main()
