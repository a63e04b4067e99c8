"""The rules that the gate is compared with. Each takes baseline and run, (trials, launches,
repeats) logarithms of a latency, and returns 1 FAIL, -1 PASS, 0 undecided per trial; the tolerance
is a share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pytest_benchmark.utils import parse_compare_fail
from scipy.special import stdtr, stdtrit

Array: TypeAlias = NDArray[np.float64]
Verdicts: TypeAlias = NDArray[np.int8]
Rule: TypeAlias = Callable[[Array, Array, float], Verdicts]


def one_shot_10(baseline: Array, now: Array, _tolerance: float) -> Verdicts:
    """One number against one number, 10% worse fails: what most CI jobs do."""
    return _binary(now[:, 0, 0] - baseline[:, -1, 0] > np.log(1.10))


def one_shot(baseline: Array, now: Array, tolerance: float) -> Verdicts:
    """The same at the gate's tolerance."""
    return _binary(now[:, 0, 0] - baseline[:, -1, 0] > np.log1p(tolerance))


def pytest_benchmark_mean(baseline: Array, now: Array, tolerance: float) -> Verdicts:
    """``--benchmark-compare-fail=mean:5%`` by its own code: the mean of the repeats against that of
    one saved run."""
    return _pytest_benchmark(np.exp(baseline[:, -1]), np.exp(now[:, 0]), tolerance)


def pytest_benchmark_throughput(baseline: Array, now: Array, tolerance: float) -> Verdicts:
    """The same for someone who feeds it tokens per second: more is taken for worse."""
    return _pytest_benchmark(np.exp(-baseline[:, -1]), np.exp(-now[:, 0]), tolerance)


def _pytest_benchmark(saved: Array, now: Array, tolerance: float) -> Verdicts:
    check: Any = parse_compare_fail(  # type: ignore[no-untyped-call]
        f"mean:{round(tolerance * 100)}%"
    )
    pairs = zip(now.mean(axis=1), saved.mean(axis=1), strict=True)
    return _binary(
        np.array([check.fails({"mean": new}, {"mean": old}) is not None for new, old in pairs])
    )


def welch_on_repeats(baseline: Array, now: Array, _tolerance: float) -> Verdicts:
    """Significantly slower (p < 0.05, two-sided) by Welch's test on the repeats of one launch per
    side."""
    old, new = baseline[:, -1], now[:, 0]
    terms = [side.var(axis=1, ddof=1) / side.shape[1] for side in (old, new)]
    total = terms[0] + terms[1]
    df = total**2 / sum(
        term**2 / (side.shape[1] - 1) for term, side in zip(terms, (old, new), strict=True)
    )
    score = (new.mean(axis=1) - old.mean(axis=1)) / np.sqrt(total)
    return _binary(stdtr(df, -score) < 0.025)


def launch_interval(baseline: Array, now: Array, tolerance: float) -> Verdicts:
    """The rule that ours began from: pooled t interval on 1 to 3 launches; nothing pulled in, no
    confirmation, no session term."""
    limit = np.log1p(tolerance)
    old = baseline[..., 0]
    verdicts = np.zeros(len(old), dtype=np.int8)
    mean = old.mean(axis=1)
    squares = ((old - mean[:, None]) ** 2).sum(axis=1)
    for launches in range(1, now.shape[1] + 1):
        new = now[:, :launches, 0]
        df = old.shape[1] - 1 + launches - 1
        variance = (squares + ((new - new.mean(axis=1)[:, None]) ** 2).sum(axis=1)) / df
        half = (
            stdtrit(df, 0.975)
            * np.maximum(np.sqrt(variance), 0.003)
            * np.sqrt(1 / old.shape[1] + 1 / launches)
        )
        change = new.mean(axis=1) - mean
        undecided = verdicts == 0
        verdicts[undecided & (change + half < limit)] = -1
        verdicts[undecided & (change - half > limit)] = 1
    return verdicts


def inference_doctor(python: Path, *, repeats: bool) -> Rule:
    """inference-doctor's decision by its own package, in the interpreter that has it: 8 v 3
    launches, or 5 v 5 repeats."""

    def rule(baseline: Array, now: Array, tolerance: float) -> Verdicts:
        old, new = (baseline[:, -1], now[:, 0]) if repeats else (baseline[..., 0], now[..., 0])
        question: dict[str, Any] = {
            "baseline": np.exp(old).tolist(),
            "now": np.exp(new).tolist(),
            "percent": tolerance * 100,
        }
        peer = Path(__file__).with_name("peer_inference_doctor.py")
        done = subprocess.run(
            [str(python), str(peer)],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            check=True,
        )
        return np.array(json.loads(done.stdout), dtype=np.int8)

    return rule


def _binary(fails: NDArray[np.bool_]) -> Verdicts:
    return np.where(fails, 1, -1).astype(np.int8)
