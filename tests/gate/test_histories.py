"""Histories: launches run by run, where the level moved, and what changed there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.gate.histories import MetricHistory, change_lines, metric_histories
from pytest_gpubench.model.frozen import FrozenMap

CASE = "m-fp8-h100-vllm-tp8:1k1k-c64"
KEY = FrozenMap({"hardware": "h100", "device": "NVIDIA H100"})
STEP = 25


def recorded(
    runs: int = 40,
    size: float = 0.08,
    launches: int = 2,
    key: FrozenMap = KEY,
    before: Baseline | None = None,
    start: datetime = datetime(2026, 5, 1, tzinfo=UTC),
) -> Baseline:
    """A baseline whose engine becomes slower with run 25."""
    rng = np.random.default_rng(1)
    entries = []
    for run in range(runs):
        factor = 1 + size * (run >= STEP)
        hour = rng.normal(0, 0.005)
        for launch in range(launches):
            noise = factor * float(np.exp(hour + rng.normal(0, 0.01)))
            metrics = {"tpot_p50": 0.01 * noise, "output_tput_per_gpu": 1000 / noise}
            metrics |= {"acceptance_length": 2.5} if run > 3 else {}
            entries.append(
                LaunchEntry(
                    f"r{run:02}",
                    f"launch-{launch + 1}",
                    (start + timedelta(days=2 * run, hours=launch)).isoformat(),
                    "",
                    FrozenMap(metrics),
                    640,
                    FrozenMap(
                        {
                            "commit": f"c{run}",
                            "engine": "0.33.0" if run >= STEP else "0.32.0",
                            "host": "<b>node</b>",
                        }
                    ),
                    FrozenMap({"tpot_p50": "accepted: <i>new</i> scheduler"})
                    if run == STEP + 2 and launch == 0
                    else FrozenMap(),
                )
            )
    return append(before or Baseline(CASE), key, entries)


def one(baseline: Baseline, metric: str = "tpot_p50") -> MetricHistory:
    (found,) = metric_histories(baseline, [metric])
    return found


def test_the_launches_of_a_run_are_one_value() -> None:
    history = one(recorded(runs=3))
    assert [run.run for run in history.runs] == ["r00", "r01", "r02"]
    first = history.runs[0]
    assert len(first.values) == 2
    assert first.level == pytest.approx((first.values[0] * first.values[1]) ** 0.5)


def test_a_change_names_its_size_and_what_changed_there() -> None:
    history = one(recorded())
    (move,) = history.moves
    assert (move.index, move.runs_before, move.runs_after) == (STEP, STEP, 15)
    assert move.size == pytest.approx(0.08, abs=0.01)
    assert move.changed == ("engine: 0.32.0 before, 0.33.0 now", "commit: c24 before, c25 now")
    (line,) = change_lines(history)
    assert line.startswith(f"tpot_p50, key {history.key}: change point: +")
    assert "% (worse) from 2026-06-20T00:00, run r25: " in line
    assert " in 25 runs before, " in line
    assert line.endswith(
        "15 runs since; engine: 0.32.0 before, 0.33.0 now, commit: c24 before, c25 now"
    )
    assert "(worse)" in next(change_lines(one(recorded(), "output_tput_per_gpu")))
    assert "(better)" in next(change_lines(one(recorded(size=-0.08))))
    assert history.runs[STEP + 2].accepted == "accepted: <i>new</i> scheduler"


def test_no_change_and_too_few_runs_are_said() -> None:
    assert next(change_lines(one(recorded(size=0)))).endswith("no change point in 40 runs")
    assert next(change_lines(one(recorded(runs=5)))).endswith("5 runs; change points take 6")


def test_metrics_that_are_gated_are_looked_at_and_each_key_is_a_series() -> None:
    other = FrozenMap({"hardware": "h100", "device": "NVIDIA H100 NVL"})
    later = recorded(8, key=other, before=recorded(), start=datetime(2027, 1, 1, tzinfo=UTC))
    found = metric_histories(later)
    assert [(it.metric, it.device) for it in found] == [
        (metric, device)
        for device in ("NVIDIA H100", "NVIDIA H100 NVL")
        for metric in ("output_tput_per_gpu", "tpot_p50", "acceptance_length")
    ]
    assert [len(it.runs) for it in found] == [40, 40, 36, 8, 8, 4]


def test_an_axis_that_says_nothing_is_said() -> None:
    baseline = recorded()
    plain = [
        LaunchEntry(it.run, it.launch, it.date, "", it.metrics, it.requests)
        for it in baseline.launches
    ]
    history = one(append(Baseline(CASE), KEY, plain))
    assert next(change_lines(history)).endswith("; nothing that is recorded changed there")
