"""Several measurements of one case on one server, as one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pytest_gpubench.measure.measurement import Drafting, Flag, Measurement, Totals


def combined(rounds: Sequence[Measurement]) -> Measurement:
    """One measurement of all rounds.

    Metrics are geometric means, as the gate compares logarithms (arithmetic ones where a round has
    0); a metric that a round lacks is left out. Every problem, every reason not to count and every
    flag of a round is one of the whole. What describes a single run (series, GPUs, quantiles,
    validity) is that of the last round.

    Raises:
        ValueError: for no round.
    """
    if not rounds:
        raise ValueError("no round was measured")
    last = rounds[-1]
    if len(rounds) == 1:
        return last
    return replace(
        last,
        metrics=_means([one.metrics for one in rounds]),
        totals=_sum_of([one.totals for one in rounds]),
        problems=tuple(dict.fromkeys(words for one in rounds for words in one.problems)),
        invalid=tuple(dict.fromkeys(words for one in rounds for words in one.invalid)),
        flags=_flags(rounds),
        drafting=_drafting([one.drafting for one in rounds]),
        send_lag_max=max(one.send_lag_max for one in rounds),
        started_unix=rounds[0].started_unix,
        rounds=tuple(dict(one.metrics) for one in rounds),
    )


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = [name for name in metrics[0] if all(name in one for one in metrics)]
    return {name: _mean([one[name] for one in metrics]) for name in shared}


def _mean(values: Sequence[float]) -> float:
    if min(values) <= 0 or not all(map(math.isfinite, values)):
        return statistics.fmean(values)
    return statistics.geometric_mean(values)


def _sum_of(totals: Sequence[Totals]) -> Totals:
    sums: dict[str, Any] = {}
    for item in fields(Totals):
        values = [getattr(one, item.name) for one in totals]
        sums[item.name] = None if None in values else sum(values)
    return Totals(**sums)


def _flags(rounds: Sequence[Measurement]) -> tuple[Flag, ...]:
    """Each code once, with the words of the first round that has it and the metrics of all."""
    found: dict[str, Flag] = {}
    for flag in (flag for one in rounds for flag in one.flags):
        before = found.get(flag.code)
        if before is None:
            found[flag.code] = flag
            continue
        found[flag.code] = replace(
            before,
            metrics=tuple(dict.fromkeys((*before.metrics, *flag.metrics))),
            hidden=tuple(dict.fromkeys((*before.hidden, *flag.hidden))),
        )
    return tuple(found.values())


def _drafting(rounds: Sequence[Drafting | None]) -> Drafting | None:
    """Sums of the counters; the rates are those of the last round."""
    counted = [one for one in rounds if one is not None]
    if len(counted) < len(rounds):
        return None
    return replace(
        counted[-1],
        drafts=sum(one.drafts for one in counted),
        draft_tokens=sum(one.draft_tokens for one in counted),
        accepted_tokens=sum(one.accepted_tokens for one in counted),
    )
