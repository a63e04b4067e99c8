"""Calibration of the gate, beside other rules, as the tables of experiments/gate/README.md.

    python experiments/gate/simulate.py --inference-doctor VENV/bin/python --write
    experiments/gate/README.md

The environment needs pytest-gpubench; inference-doctor is installed into one of its own (without
it, its columns are left out).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rules
from worlds import MEASURED, SCENARIOS, Rates, Scenario, draw, gate_rates, gate_verdicts, pair_rates

from pytest_gpubench.gate import statistics
from pytest_gpubench.gate.evidence import LaunchPlan
from pytest_gpubench.gate.policy import DEFAULTS

SEED = 20261122
TOLERANCE = 0.05
BEGIN, END = "<!-- calibration: begin -->", "<!-- calibration: end -->"
_SHIFTS = (0.0, 0.05, 0.10)
_ESCALATING = LaunchPlan(1, 2)


def gate_table(trials: int) -> Iterator[str]:
    """The gate in every scenario, escalating; in the first one also with fixed numbers of
    launches."""
    yield (
        "| world | launches | A/A FAIL | A/A PASS | FAIL at 5% | PASS at 5% | FAIL at 10% "
        "| PASS at 10% | used (A/A, at 10%) |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    rows = [(scenario, _ESCALATING) for scenario in SCENARIOS]
    rows[1:1] = [(SCENARIOS[0], LaunchPlan(1)), (SCENARIOS[0], LaunchPlan(3))]
    for scenario, plan in rows:
        rng = np.random.default_rng([SEED, 1, SCENARIOS.index(scenario), plan.certain])
        same, at, twice = (gate_rates(scenario, shift, trials, rng, plan=plan) for shift in _SHIFTS)
        label = f"{plan.certain} to {plan.total}" if plan.reserve else str(plan.certain)
        cells = [same.fail, same.passed, at.fail, at.passed, twice.fail, twice.passed]
        used = f"{same.launches:.2f}, {twice.launches:.2f}"
        yield (
            f"| {scenario.name} | {label} | {' | '.join(_rate(cell) for cell in cells)} | {used} |"
        )


def measured_table(trials: int) -> Iterator[str]:
    """The default gates in the worlds that were measured on a GPU: what a run's launches can tell,
    and what more of them could."""
    yield (
        "| metric | tolerance | spread of launches, of repeats | launches | A/A FAIL | A/A "
        "PASS | FAIL at twice | PASS at twice |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for index, (metric, scenario) in enumerate(MEASURED):
        tolerance = next(policy.tolerance for policy in DEFAULTS if policy.metric == metric)
        assert tolerance is not None  # every default has one
        for plan in (_ESCALATING, LaunchPlan(8), LaunchPlan(20)):
            rng = np.random.default_rng([SEED, 6, index, plan.certain])
            shifts = (0.0, 2 * tolerance)
            same, twice = (
                gate_rates(scenario, shift, trials, rng, tolerance=tolerance, plan=plan)
                for shift in shifts
            )
            label = f"{plan.certain} to {plan.total}" if plan.reserve else str(plan.certain)
            spreads = f"{scenario.spread:.1%}, {scenario.repeat:.1%}"
            cells = " | ".join(
                _rate(cell) for cell in (same.fail, same.passed, twice.fail, twice.passed)
            )
            yield f"| `{metric}` | {tolerance:.0%} | {spreads} | {label} | {cells} |"


def session_line(sessions: int, gates: int = 40) -> str:
    """Share of A/A sessions of 40 independent gates in which any fails."""
    rng = np.random.default_rng([SEED, 2])
    baseline, now = draw(SCENARIOS[0], 0.0, sessions * gates, rng)
    verdicts, _ = gate_verdicts(baseline[..., 0], now[..., 0], TOLERANCE, _ESCALATING)
    failed = int((verdicts.reshape(sessions, gates) == 1).any(axis=1).sum())
    return (
        f"Of {sessions:,} simulated A/A sessions of {gates} gates each (1% spread), "
        f"{failed} had a FAIL."
    )


def peer_tables(trials: int, slow_trials: int, python: Path | None) -> Iterator[str]:
    """FAIL without a change, FAIL at twice the tolerance and PASS there: a table each, worlds by
    rules."""
    columns: list[tuple[str, rules.Rule, int]] = [
        (
            "gpubench",
            lambda old, new, share: gate_verdicts(old[..., 0], new[..., 0], share, _ESCALATING)[0],
            trials,
        ),
        ("launch interval", rules.launch_interval, trials),
        ("one number, 10%", rules.one_shot_10, trials),
        ("one number, 5%", rules.one_shot, trials),
        ("pytest-benchmark mean:5%", rules.pytest_benchmark_mean, trials),
        ("same, fed tok/s", rules.pytest_benchmark_throughput, trials),
        ("Welch p < 0.05", rules.welch_on_repeats, trials),
    ]
    if python is not None:
        columns.append(
            (
                "inference-doctor, 8 v 3 launches",
                rules.inference_doctor(python, repeats=False),
                slow_trials,
            )
        )
        columns.append(
            (
                "inference-doctor, 5 v 5 repeats",
                rules.inference_doctor(python, repeats=True),
                slow_trials,
            )
        )
    cells = {
        (scenario.name, name): _peer_cell(index, scenario, rule, count)
        for index, scenario in enumerate(SCENARIOS)
        for name, rule, count in columns
    }
    for kind, title in enumerate(
        ("FAIL without a change (false alarm)", "FAIL at 10% (found)", "PASS at 10% (missed)")
    ):
        yield from (
            "",
            f"**{title}**",
            "",
            f"| world | {' | '.join(name for name, _, _ in columns)} |",
            f"|---|{'---|' * len(columns)}",
        )
        for scenario in SCENARIOS:
            yield (
                f"| {scenario.name} | "
                f"{' | '.join(cells[scenario.name, name][kind] for name, _, _ in columns)} |"
            )


def _peer_cell(
    index: int, scenario: Scenario, rule: rules.Rule, trials: int
) -> tuple[str, str, str]:
    rng = np.random.default_rng([SEED, 3, index])
    same, twice = (
        rule(*draw(scenario, shift, trials, rng, repeats=5), TOLERANCE) for shift in (0.0, 0.10)
    )
    shares = (float((same == 1).mean()), float((twice == 1).mean()), float((twice == -1).mean()))
    return _rate(shares[0]), _rate(shares[1]), _rate(shares[2])


def pair_table(trials: int) -> Iterator[str]:
    """A planted 3% slowdown at a tolerance of 1.5%: ABBA against the baseline gate, at the same
    number of launches in the run."""
    yield (
        "| launches | ABBA: A/A FAIL | A/A PASS | FAIL at 3% | baseline: A/A FAIL | A/A "
        "PASS | FAIL at 3% | INCONCLUSIVE at 3% |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    scenario = Scenario("ABBA", spread=0.005, repeat=0.003, day=0.01, days=4)
    for pairs in (2, 4, 6, 8):
        rng = np.random.default_rng([SEED, 4, pairs])
        ours = [
            pair_rates(scenario, shift, trials, rng, tolerance=0.015, pairs=pairs, drift=0.0005)
            for shift in (0.0, 0.03)
        ]
        plan = LaunchPlan(2 * pairs)
        theirs: list[Rates] = [
            gate_rates(scenario, shift, trials, rng, tolerance=0.015, plan=plan)
            for shift in (0.0, 0.03)
        ]
        cells = [
            ours[0].fail,
            ours[0].passed,
            ours[1].fail,
            theirs[0].fail,
            theirs[0].passed,
            theirs[1].fail,
            theirs[1].inconclusive,
        ]
        yield f"| {2 * pairs} | {' | '.join(_rate(cell) for cell in cells)} |"


def recorded_table(series: int) -> Iterator[str]:
    """A baseline of 8 that takes up one launch per run, for 60 runs without a change, by three
    rules for what is taken up."""
    yield (
        "| world | recorded | A/A FAIL, 2 launches | A/A PASS, 1 launch | spread that the "
        "baseline shows | its level |"
    )
    yield "|---|---|---|---|---|---|"
    limit = float(np.log1p(TOLERANCE))
    for scenario in (SCENARIOS[0], SCENARIOS[-1]):
        for name in ("PASS only", "change inside the tolerance", "all but FAIL"):
            rng = np.random.default_rng([SEED, 5])
            window, _ = (array[..., 0] for array in draw(scenario, 0.0, series, rng))
            fails, passes = [], []
            for _ in range(60):
                _, now = (array[..., 0] for array in draw(scenario, 0.0, series, rng, launches=2))
                one, two = (
                    statistics.against_baseline(window, now[:, :1]),
                    statistics.against_baseline(window, now),
                )
                passed, failed = statistics.inside(one, limit), statistics.worse(two, limit)
                fails.append(failed.mean())
                passes.append(passed.mean())
                kept = {"PASS only": passed, "all but FAIL": ~failed}.get(name, one.change < limit)
                window = np.where(
                    kept[:, None], np.concatenate([window[:, 1:], now[:, :1]], axis=1), window
                )
            spread = np.sqrt(statistics.pulled_summary(window).variance.mean())
            cells = [_rate(float(np.mean(rates[20:]))) for rates in (fails, passes)]
            level = np.expm1(window.mean())
            yield (
                f"| {scenario.name} | {name} | {' | '.join(cells)} | {spread * 100:.2f}% | "
                f"{level * 100:+.2f}% |"
            )


def _rate(share: float) -> str:
    if share in (0, 1):
        return "0" if share == 0 else "100%"
    if share < 0.00001 or share > 0.9999:
        return "<0.001%" if share < 0.5 else ">99.99%"
    digits = 3 if share < 0.001 else 2 if share < 0.01 or share > 0.99 else 1
    return f"{share * 100:.{digits}f}%"


def main() -> int:
    """Print the tables, or write them between the marks of a Markdown file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=400_000)
    parser.add_argument(
        "--slow-trials",
        type=int,
        default=4_000,
        help="per cell of inference-doctor, which is not vectorised",
    )
    parser.add_argument(
        "--inference-doctor", type=Path, help="Python interpreter that has inference-doctor"
    )
    parser.add_argument("--write", type=Path, help="Markdown file with the two marks")
    options = parser.parse_args()
    began = time.monotonic()
    lines = [
        f"Seed {SEED}; {options.trials:,} runs per number of the gate.",
        "",
        *gate_table(options.trials),
        "",
        session_line(options.trials // 40),
        "",
        "The default gates in a world as measured: ten launches of the tiny pair on an "
        "H100, 384 requests (2.9 s) per measurement,",
        "8 launches in the baseline (`experiments/hardware`):",
        "",
        *measured_table(options.trials // 4),
        "",
        f"Side by side, tolerance 5%; {options.trials // 10:,} runs per number, "
        f"{options.slow_trials:,} of inference-doctor:",
        *peer_tables(options.trials // 10, options.slow_trials, options.inference_doctor),
        "",
        "Tolerance 1.5%, 3% planted; launch spread 0.5%, repeat spread 0.3%, day "
        "effect 1%, baseline of 8 launches on 4 days:",
        "",
        *pair_table(options.trials // 4),
        "",
        "What a baseline takes up: 60 runs without a change, the last 40 counted:",
        "",
        *recorded_table(options.trials // 20),
    ]
    text = "\n".join(lines)
    if options.write is None:
        print(text)
    else:
        page = options.write.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        options.write.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
