"""The metric table."""

from __future__ import annotations

from docs_reference.markdown import code, prose, table
from pytest_gpubench.gate.policy import DEFAULTS
from pytest_gpubench.model.metrics import METRICS

_HEAD = """# Metrics

Made from the table that measurements, gates and reports share. [Measuring](../measuring.md) says how they come about.
A gate that names no tolerance lets a metric worsen by the share below, and by the amount beside it; it is gated from so many requests.
"""
_COLUMNS = ("name", "unit", "better", "definition", "may worsen by", "gated from")


def metrics_page() -> str:
    """The page."""
    usual = {one.metric: one.tolerance for one in DEFAULTS}
    words = {"higher": "higher", "lower": "lower", "neutral": "neither"}
    rows = [
        (
            code(metric.name),
            metric.unit,
            words[metric.direction],
            prose(metric.definition),
            f"{usual.get(metric.name, metric.tolerance):.0%}"
            + (f", {metric.guard:g} {metric.unit}" if metric.guard else ""),
            f"{metric.gated_from:,}",
        )
        for metric in METRICS.values()
    ]
    return _HEAD + "\n" + table(_COLUMNS, rows) + "\n"
