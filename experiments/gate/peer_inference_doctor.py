"""Runs where inference-doctor is installed: reads comparisons from stdin, prints its decisions (1
FAIL, -1 PASS, 0 other)."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """One decision per pair of lists, by inference-doctor's own function and defaults, but for the
    threshold."""
    from inference_doctor.quality import QualityThresholds, decide_regression  # type: ignore[import-not-found,unused-ignore]

    question = json.load(sys.stdin)
    thresholds = QualityThresholds(regression_percent=question["percent"])
    codes = {"FAIL": 1, "PASS": -1}
    decisions = (
        decide_regression(before, now, lower_is_better=True, thresholds=thresholds)
        for before, now in zip(question["baseline"], question["now"], strict=True)
    )
    print(json.dumps([codes.get(decision.status, 0) for decision in decisions]))


if __name__ == "__main__":
    main()
