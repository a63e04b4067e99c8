"""An engine's ``/metrics`` page as frozen values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pytest_gpubench.dialects.counters import Counters

_VALUE = re.compile(
    r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?|Inf)|NaN", re.ASCII
)
_NAMED = re.compile(
    r"[a-zA-Z_:][a-zA-Z0-9_:]*"
    r"(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\r\v\f]|\\.)*\",?)*\})?",
    re.ASCII,
)
"""A line as engines write it, without its value."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the page."""

    name: str
    labels: tuple[tuple[str, str], ...]
    """Sorted by name."""
    value: float
    cumulative: bool
    """Of a counter, histogram or summary: only its differences mean something."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """The page at one moment, or the difference of two."""

    samples: tuple[Sample, ...]

    def total(self, name: str) -> float | None:
        """The sum over all label sets (engines of a data-parallel server, say); None: the page has
        no such metric.

        Args:
            name: of a metric, or of those with one label: ``NAME{label="value"}``.
        """
        metric, brace, chosen = name.partition("{")
        label, _, value = chosen.rstrip("}").partition("=")
        wanted = (label, value.strip('"'))
        values = [
            sample.value
            for sample in self.samples
            if sample.name == metric and (not brace or wanted in sample.labels)
        ]
        return sum(values) if values else None

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The sums per value of a label, in the page's order; empty: no such metric, or it lacks
        the label."""
        sums: dict[str, float] = {}
        for sample in self.samples:
            value = dict(sample.labels).get(label)
            if sample.name == name and value is not None:
                sums[value] = sums.get(value, 0.0) + sample.value
        return sums

    def since(self, before: Scrape) -> Scrape:
        """What was counted between ``before`` and this scrape; gauges are left out, new label sets
        count from 0.

        Raises:
            ValueError: if a counter went backwards: the server was restarted in between.
        """
        old = {(sample.name, sample.labels): sample.value for sample in before.samples}
        changes = []
        for sample in self.samples:
            if not sample.cumulative:
                continue
            change = sample.value - old.get((sample.name, sample.labels), 0.0)
            if change < 0:
                raise ValueError(
                    f"{sample.name} went backwards by {-change:g}: the server was "
                    "restarted between the two scrapes"
                )
            changes.append(Sample(sample.name, sample.labels, change, True))
        return Scrape(tuple(changes))

    def vanished(self, before: Scrape, counters: Counters) -> tuple[str, ...]:
        """Names of what ``before`` counted and this page does not show any more; counters never
        leave a page by themselves."""
        now = {(sample.name, sample.labels) for sample in self.samples}
        return tuple(
            dict.fromkeys(
                sample.name
                for sample in before.samples
                if counts_work(sample, counters) and (sample.name, sample.labels) not in now
            )
        )

    def nonsense(self, counters: Counters) -> str:
        """The first of the engine's counts on the page that is none: not finite, or negative; empty
        where all are."""
        gauges = (counters.running, counters.waiting)
        for sample in self.samples:
            counted = counts_work(sample, counters) or sample.name in gauges
            if counted and not (
                math.isfinite(sample.value) and (sample.value >= 0 or sample.name.endswith("_sum"))
            ):
                return f"{sample.name} is {sample.value:g}"
        return ""


def parse_metrics(text: str) -> Scrape:
    """Read a page in the Prometheus text format.

    Only the values change from one page of an engine to the next: what the lines are is kept of the
    last pages, which is most of the work.

    Raises:
        ValueError: if it is not in that format.
    """
    lines, values = [], []
    for line in text.split("\n"):
        head, blank, value = line.rpartition(" ")
        if not line or line[0] == "#":
            lines.append(line)
        elif _VALUE.fullmatch(value) and _NAMED.fullmatch(head):
            lines.append(f"{head}{blank}0")
            values.append(float(value))
        else:  # a time after the value, an odd number: as the library reads it
            return _parsed(text)
    layout = _layout("\n".join(lines))
    if len(layout) != len(values):
        return _parsed(text)
    return Scrape(
        tuple(
            Sample(known.name, known.labels, value, known.cumulative)
            for known, value in zip(layout, values, strict=True)
        )
    )


@lru_cache(maxsize=2)
def _layout(page: str) -> tuple[Sample, ...]:
    """The lines of a page whose values are all 0."""
    return _parsed(page).samples


def _parsed(text: str) -> Scrape:
    samples = []
    for family in _families(text):
        cumulative = family.type in ("counter", "histogram", "summary")
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            counts = cumulative and not sample.name.endswith("_created")
            samples.append(Sample(sample.name, labels, float(sample.value), counts))
    return Scrape(tuple(samples))


def _families(text: str) -> Iterator[Metric]:
    try:
        yield from text_string_to_metric_families(text)
    except (LookupError, TypeError, AttributeError) as error:
        # the parser's own stumbling over other text
        raise ValueError(f"{type(error).__name__}: {error}") from error


def counts_work(sample: Sample, counters: Counters) -> bool:
    """Whether a line of the page counts what the engine does."""
    return sample.cumulative and sample.name.startswith(counters.prefix)
