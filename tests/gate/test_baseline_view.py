"""What the command line shows of a baseline and takes from records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.gate.histories import history_lines, show_lines
from pytest_gpubench.gate.recording import accepted_entries
from pytest_gpubench.measure.measurement import Flag, Measurement, Totals
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap

KEY = FrozenMap({"device": "H100"})


def baseline(count: int) -> Baseline:
    entries = [
        LaunchEntry(
            f"run{i}",
            "launch-1",
            f"2026-01-{i + 1:02}T00:00:00Z",
            "",
            FrozenMap({"tpot_p50": 0.05 + i / 10_000}),
            64,
            FrozenMap({"engine": "0.24.0"}),
            FrozenMap({"tpot_p50": "accepted: new kernel"} if i == 2 else {}),
        )
        for i in range(count)
    ]
    return append(Baseline("s:w"), KEY, entries)


def test_show_names_level_spread_and_what_can_be_found() -> None:
    text = "\n".join(show_lines(baseline(10)))
    assert "s:w: 10 launches" in text
    assert "tpot_p50: 50.55 ms over 8 launches on 8 days, spread" in text
    assert "1 launch finds" in text
    assert "a spread takes 5" in "\n".join(show_lines(baseline(2)))


def test_history_is_a_line_per_launch() -> None:
    lines = list(history_lines(baseline(4), "tpot_p50"))
    assert len(lines) == 4
    assert lines[0].startswith("2026-01-01T00:00  50.00 ms  +0.0%  engine 0.24.0  run0/launch-1")
    assert lines[2].endswith("anchor: accepted: new kernel")
    with pytest.raises(GpubenchError, match="has no metric ttft_p50; it has tpot_p50"):
        list(history_lines(baseline(4), "ttft_p50"))


def record(index: int, **more: Any) -> dict[str, Any]:
    totals = Totals(64, 0, 1, 1, 1, 1)
    measurement = Measurement(
        {"tpot_p50": 0.06, "ttft_p99": 1.0},
        totals,
        flags=(Flag("few-requests", "few", ("ttft_p99",)),),
    )
    plain = {
        "case": "s:w",
        "launch": {"index": index, "arm": ""},
        "finished": f"2026-02-01T00:0{index}:00+00:00",
        "measurement": measurement.to_json(),
        "failure": None,
        "verdict": {
            "metrics": [
                {"metric": "tpot_p50", "code": "regressed"},
                {"metric": "ttft_p50", "code": "held"},
            ]
        },
        "gate": {"key": {"device": "H100"}, "axis": {"engine": "0.25.0"}},
    }
    loaded: dict[str, Any] = json.loads(json.dumps(plain | more))
    return loaded


def test_accepting_a_run_makes_it_the_anchor_of_what_failed() -> None:
    case, key, entries = accepted_entries("run9", [record(1), record(2)], note="new kernel")
    assert (case, key) == ("s:w", KEY)
    assert [entry.launch for entry in entries] == ["launch-1", "launch-2"]
    assert dict(entries[0].metrics) == {"tpot_p50": 0.06}
    assert dict(entries[0].anchors) == {"tpot_p50": "accepted: new kernel"}
    history = append(baseline(8), key, entries).history(KEY, "tpot_p50")
    assert history.window == (0.06, 0.06)
    assert history.enough


def test_a_launch_that_its_gate_found_invalid_is_left_out() -> None:
    gate = {"key": dict(KEY), "axis": {}, "invalid": ["the engine says 40% of the prompts cached"]}
    _, _, entries = accepted_entries("run9", [record(1, gate=gate), record(2)])
    assert [entry.launch for entry in entries] == ["launch-2"]


def test_the_start_of_a_server_can_be_accepted() -> None:
    start = record(1, case=None, server="s", measurement=None, phases={"ready": 41.5})
    case, key, entries = accepted_entries("run9", [start])
    assert (case, key) == ("s:init", KEY)
    assert dict(entries[0].metrics) == {"engine_init": 41.5}


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "has no record"),
        ([record(1, failure={"summary": "the engine died"})], "the engine died"),
        ([record(1, gate=None)], "not of one case with one key"),
        ([record(1), record(2, case="other:w")], "not of one case with one key"),
    ],
)
def test_what_cannot_be_accepted(records: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(GpubenchError, match=words):
        accepted_entries("run9", records)
