"""The engine's gauges over the run, from the pages that were sampled meanwhile. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_gpubench.engines.metrics_page import RUNNING, WAITING, parse_metrics


@dataclass(frozen=True, slots=True)
class Point:
    """One look at the engine; None: the page lacked it."""

    seconds: float
    """After the first measured request was due; below 0 in the warm-up."""
    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    """Share of the KV cache in use, 0 to 1, the mean over the engines of a data-parallel server."""
    preemptions: float | None = None
    """Since the engine's start."""
    generated_tokens: float | None = None
    """Since the engine's start."""


def series_of(pages: Iterable[tuple[int, str]], start_ns: int) -> tuple[Point, ...]:
    """The points of sampled pages; a page that cannot be read is left out."""
    points = []
    for stamp_ns, text in pages:
        try:
            scrape = parse_metrics(text)
        except ValueError:
            continue
        usage = list(scrape.by_label("vllm:kv_cache_usage_perc", "engine").values())
        points.append(
            Point(
                round((stamp_ns - start_ns) / 1e9, 3),
                _known(scrape.total(RUNNING)),
                _known(scrape.total(WAITING)),
                _known(sum(usage) / len(usage) if usage else scrape.total("vllm:kv_cache_usage_perc")),
                _known(scrape.total("vllm:num_preemptions_total")),
                _known(scrape.total("vllm:generation_tokens_total")),
            )
        )
    return tuple(points)


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
