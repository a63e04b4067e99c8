"""The metric table."""

from __future__ import annotations

from docs_reference.markdown import code, prose, table
from pytest_gpubench.model.metrics import METRICS

_HEAD = """# Metrics

Made from the table that measurements, gates and reports share. [Measuring](../measuring.md) says how they come about.
"""


def metrics_page() -> str:
    """The page."""
    words = {"higher": "higher", "lower": "lower", "neutral": "neither"}
    rows = [
        (code(metric.name), metric.unit, words[metric.direction], prose(metric.definition))
        for metric in METRICS.values()
    ]
    return _HEAD + "\n" + table(("name", "unit", "better", "definition"), rows) + "\n"
