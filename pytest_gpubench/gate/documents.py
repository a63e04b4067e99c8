"""Verdicts as records keep them, read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_gpubench.model.verdicts import Change, MetricVerdict, Status, Verdict


def verdict_of(plain: Mapping[str, Any]) -> Verdict:
    """The verdict of a record, from its plain JSON data."""
    metrics = tuple(_metric(one) for one in plain["metrics"])
    return Verdict(**{**plain, "status": Status(plain["status"]), "metrics": metrics, "notes": tuple(plain["notes"])})


def _metric(plain: Mapping[str, Any]) -> MetricVerdict:
    change = plain["change"]
    return MetricVerdict(**{**plain, "status": Status(plain["status"]), "change": change and Change(**change)})
