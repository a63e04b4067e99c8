"""Launches and rounds: what a run within a time can tell, in worlds whose launches and rounds
spread by given amounts, beside today's one round per launch, a threshold on one number, and
inference-doctor.

    python experiments/gate/two_levels.py [--trials N] [--inference-doctor PYTHON]
        [--write experiments/gate/README.md]

Every run is given the same seconds: a start of 100 s, and rounds. The baseline has 8 launches,
recorded with as many rounds as ``gpubench`` takes for one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rules
from numpy.typing import NDArray
from scipy.stats import norm
from worlds import BASELINE_LAUNCHES

from pytest_gpubench.gate import effort, statistics
from pytest_gpubench.gate.evidence import LaunchPlan
from pytest_gpubench.gate.policy import MetricPolicy
from pytest_gpubench.gate.statistics import Array, Rounds

SEED = 20261128
BEGIN, END = "<!-- two levels: begin -->", "<!-- two levels: end -->"
START_S = 100.0
MINUTES = 10
MOST_ROUNDS = 16
BEST = "best possible"
LAUNCHES = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class World:
    """One metric: standard deviations on the log scale."""

    name: str
    metric: str
    launch: float
    round: float
    round_s: float
    """Seconds of a round."""
    tolerance: float = 0.05


WORLDS = (
    World("8B on an H100, c=16, throughput", "output_tput_per_gpu", 0.001, 0.006, 9),
    World("8B on an H100, c=16, TPOT", "tpot_p50", 0.001, 0.009, 9),
    World("8B on an H100, c=16, TTFT", "ttft_p50", 0.001, 0.11, 9, 0.15),
    World("8B on an H100, c=64, throughput", "output_tput_per_gpu", 0.001, 0.048, 22),
    World("8B on an H100, c=64, TPOT", "tpot_p50", 0.001, 0.06, 22),
    World(
        "8B on an H200, short rounds, c=16, throughput", "output_tput_per_gpu", 0.0286, 0.0422, 5
    ),
    World("8B on an H200, short rounds, c=16, TPOT", "tpot_p50", 0.001, 0.0402, 5),
    World(
        "8B on an H200, short rounds, c=64, throughput", "output_tput_per_gpu", 0.0076, 0.0208, 8
    ),
    World("8B on an H200, short rounds, c=64, TPOT", "tpot_p50", 0.001, 0.0509, 8),
    World("tiny pair on an H100, throughput", "output_tput_per_gpu", 0.0596, 0.0689, 4),
    World("tiny pair on an H100, TPOT", "tpot_p50", 0.0561, 0.0862, 4),
    World("launches 1%, rounds 1%", "output_tput_per_gpu", 0.01, 0.01, 20),
    World("launches 1%, rounds 3%", "output_tput_per_gpu", 0.01, 0.03, 20),
    World("launches 3%, rounds 3%", "output_tput_per_gpu", 0.03, 0.03, 20),
    World("launches 10%, rounds 10%", "output_tput_per_gpu", 0.10, 0.10, 20),
)


def draw(
    world: World, trials: int, launches: int, rounds: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Launch means of so many rounds, and the variance of rounds that each launch shows (0 for one
    round)."""
    means = world.launch * rng.standard_normal((trials, launches))
    each = means[..., None] + world.round * rng.standard_normal((trials, launches, rounds))
    shown = each.var(axis=-1, ddof=1) if rounds > 1 else np.zeros_like(means)
    return each.mean(axis=-1), shown


def rounds_of_a_baseline(world: World, limit: float, rng: np.random.Generator) -> int:
    """As a launch that is recorded takes them; the median of many."""
    counts = []
    for _ in range(200):
        values = list(world.round * rng.standard_normal(3))
        while len(values) < MOST_ROUNDS and not effort.narrow([values], [limit]):
            values.append(world.round * rng.standard_normal())
        counts.append(len(values))
    return int(np.median(counts))


def gate_rates(
    world: World, worsening: float, trials: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Shares of FAIL and PASS, and the mean minutes, of runs that are planned within MINUTES."""
    limit = MetricPolicy(world.metric, world.tolerance).log_limit(1.0)
    before = rounds_of_a_baseline(world, limit, rng)
    baseline, shown = draw(world, trials, BASELINE_LAUNCHES, before, rng)
    within = shown.mean(axis=-1)
    df = float(BASELINE_LAUNCHES * (before - 1))
    options = [
        (launches, rounds)
        for launches in LAUNCHES
        for rounds in range(1, MOST_ROUNDS + 1)
        if launches * (START_S + rounds * world.round_s) <= MINUTES * 60
    ]
    told = [
        statistics.foreseen(
            baseline, launches, rounds=Rounds(within, df, 1 / before, 1 / rounds)
        ).detectable(limit, effort.GOAL_POWER)
        for launches, rounds in options
    ]
    chosen = _chosen(options, np.stack(told, axis=-1) / limit, world.round_s)
    verdicts = np.zeros(trials, dtype=np.int8)
    spent = np.zeros(trials)
    loss = MetricPolicy(world.metric, worsening).log_limit(1.0) if worsening else 0.0
    for index, (_, rounds) in enumerate(options):
        these = np.flatnonzero(chosen == index)
        if not these.size:
            continue
        # Planned for so many, and up to as many in reserve as the time has room for.
        most = max(n for n, m in options if m == rounds)
        plan = LaunchPlan(1, most - 1)
        now, seen = draw(world, these.size, most, rounds, rng)
        now = now + loss
        verdict = np.zeros(these.size, dtype=np.int8)
        used = np.full(these.size, most)
        for launches in range(1, most + 1):
            own = seen[:, :launches].mean(axis=-1)
            own_df = launches * (rounds - 1)
            pooled = (within[these] * df + own * own_df) / (df + own_df)
            estimate = statistics.against_baseline(
                baseline[these],
                now[:, :launches],
                rounds=Rounds(pooled, df + own_df, 1 / before, 1 / rounds),
            )
            open_ = verdict == 0
            verdict[open_ & statistics.inside(estimate, limit, plan.pass_looks(launches))] = -1
            if launches >= plan.first_fail:
                verdict[open_ & statistics.worse(estimate, limit, plan.looks)] = 1
            used[open_ & (verdict != 0)] = launches
        verdicts[these] = verdict
        spent[these] = used * (START_S + rounds * world.round_s)
    return float((verdicts == 1).mean()), float((verdicts == -1).mean()), float(spent.mean() / 60)


def _chosen(options: list[tuple[int, int]], missed: Array, round_s: float) -> NDArray[np.intp]:
    """By trial the option that ``effort.cheapest`` takes: of each number of launches the fewest
    rounds that meet the goal or come near to the best; of those the cheapest that meets it, or the
    one that misses it least."""
    kept = np.zeros_like(missed, dtype=bool)
    for launches in LAUNCHES:
        columns = np.array([at for at, (n, _) in enumerate(options) if n == launches])
        if not columns.size:
            continue
        those = missed[:, columns]
        enough = those <= np.where(
            (those <= effort.GOAL).any(axis=-1, keepdims=True),
            effort.GOAL,
            effort.NEAR * those[:, -1:],
        )
        kept[np.arange(len(missed)), columns[enough.argmax(axis=-1)]] = True
    seconds = np.array([n * (START_S + m * round_s) for n, m in options])
    meets = kept & (missed <= effort.GOAL)
    cheapest = np.where(meets, seconds, np.inf).argmin(axis=-1)
    least = np.where(kept, missed, np.inf).argmin(axis=-1)
    return np.asarray(np.where(meets.any(axis=-1), cheapest, least))


def today_rates(
    world: World, worsening: float, trials: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """One round per launch on both sides, up to as many launches as fit."""
    limit = MetricPolicy(world.metric, world.tolerance).log_limit(1.0)
    loss = MetricPolicy(world.metric, worsening).log_limit(1.0) if worsening else 0.0
    most = int(MINUTES * 60 // (START_S + world.round_s))
    plan = LaunchPlan(1, most - 1)
    baseline, _ = draw(world, trials, BASELINE_LAUNCHES, 1, rng)
    now, _ = draw(world, trials, most, 1, rng)
    now = now + loss
    verdict, used = np.zeros(trials, dtype=np.int8), np.full(trials, most)
    for launches in range(1, most + 1):
        estimate = statistics.against_baseline(baseline, now[:, :launches])
        open_ = verdict == 0
        verdict[open_ & statistics.inside(estimate, limit, plan.pass_looks(launches))] = -1
        if launches >= plan.first_fail:
            verdict[open_ & statistics.worse(estimate, limit, plan.looks)] = 1
        used[open_ & (verdict != 0)] = launches
    spent = used * (START_S + world.round_s)
    return float((verdict == 1).mean()), float((verdict == -1).mean()), float(spent.mean() / 60)


def best_rates(world: World, worsening: float) -> tuple[float, float, float]:
    """What no rule can exceed: FAIL and PASS of one that knows both spreads and the old level, has
    no session to allow for and takes one launch for enough, at the same error (one in forty at the
    tolerance); minutes."""
    limit = MetricPolicy(world.metric, world.tolerance).log_limit(1.0)
    loss = MetricPolicy(world.metric, worsening).log_limit(1.0) if worsening else 0.0
    plans = [
        (launches, int((MINUTES * 60 / launches - START_S) // world.round_s))
        for launches in LAUNCHES
    ]
    error = min(
        math.sqrt((world.launch**2 + world.round**2 / each) / launches) for launches, each in plans
    )
    sure = norm.ppf(0.5 + statistics.CONFIDENCE / 2)
    far = (loss - limit) / error
    return float(norm.cdf(far - sure)), float(norm.cdf(-far - sure)), float(MINUTES)


def rule_rates(
    world: World, worsening: float, trials: int, rng: np.random.Generator, rule: rules.Rule
) -> tuple[float, float]:
    """Shares of FAIL and PASS of a rule on as many rounds of one launch as the time has room for,
    against as many of one launch of the baseline."""
    loss = MetricPolicy(world.metric, worsening).log_limit(1.0) if worsening else 0.0
    rounds = int((MINUTES * 60 - START_S) // world.round_s)
    sides = []
    for count in (BASELINE_LAUNCHES, 1):
        launches = world.launch * rng.standard_normal((trials, count, 1))
        sides.append(launches + world.round * rng.standard_normal((trials, count, rounds)))
    found = rule(sides[0], sides[1] + loss, world.tolerance)
    return float((found == 1).mean()), float((found == -1).mean())


def lines(trials: int, slow: int, python: Path | None) -> Iterator[str]:
    """The table."""
    columns: dict[str, tuple[rules.Rule, int]] = {
        f"one number, {share}": (rule, trials)
        for share, rule in (("5%", rules.one_shot), ("10%", rules.one_shot_10))
    }
    if python is not None:
        columns["inference-doctor"] = (rules.inference_doctor(python, repeats=True), slow)
    yield (
        "| world | rule | A/A FAIL | A/A PASS | FAIL at 1.5 tolerances | FAIL at 2 | PASS at 2 "
        "| minutes, A/A and at 2 |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for index, world in enumerate(WORLDS):
        for name, rates in (("gpubench", gate_rates), ("one round per launch", today_rates)):
            rng = np.random.default_rng([SEED, index, len(name)])
            same, half, twice = (
                rates(world, factor * world.tolerance, trials, rng) for factor in (0, 1.5, 2)
            )
            cells = [same[0], same[1], half[0], twice[0], twice[1]]
            yield (
                f"| {world.name} | {name} | {' | '.join(map(_rate, cells))} | "
                f"{same[2]:.1f}, {twice[2]:.1f} |"
            )
        best = [best_rates(world, factor * world.tolerance) for factor in (0, 1.5, 2)]
        cells = [best[0][0], best[0][1], best[1][0], best[2][0], best[2][1]]
        yield f"| | {BEST} | {' | '.join(map(_rate, cells))} | {MINUTES}, {MINUTES} |"
        for name, (rule, count) in columns.items():
            rng = np.random.default_rng([SEED, index, len(name), 7])
            one, mid, two = (
                rule_rates(world, factor * world.tolerance, count, rng, rule)
                for factor in (0, 1.5, 2)
            )
            cells = [one[0], one[1], mid[0], two[0], two[1]]
            yield f"| | {name} | {' | '.join(map(_rate, cells))} | {MINUTES}, {MINUTES} |"


def _rate(share: float) -> str:
    if share < 5e-6 or share == 1:
        return "100%" if share == 1 else "0"
    digits = 3 if share < 0.001 else 2 if share < 0.01 or share > 0.99 else 1
    return f"{share * 100:.{digits}f}%"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--slow-trials", type=int, default=2_000)
    parser.add_argument("--inference-doctor", type=Path)
    parser.add_argument("--write", type=Path, help="Markdown file with the two marks")
    options = parser.parse_args()
    if options.write is not None:
        text = "\n".join(lines(options.trials, options.slow_trials, options.inference_doctor))
        page = options.write.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        options.write.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")
        return
    for line in lines(options.trials, options.slow_trials, options.inference_doctor):
        print(line, flush=True)


if __name__ == "__main__":
    main()
