"""The table of where the wall time went: it adds up, and old records have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.report.html import render
from pytest_gpubench.report.markdown import markdown
from pytest_gpubench.report.read_results import load_results
from pytest_gpubench.report.results import Loaded, Spent
from pytest_gpubench.report.wall_time import wall_lines, wall_time
from tests.report.result_files import case_record, init_record, write

HUNDRED = Spent(100.0)
SERVER = {"lease": 2.0, "fetch": 1.0, "start": 30.0, "stop": 1.0}
CASE = {"idle": 0.5, "prompts": 1.0, "warmup": 4.0, "measured": 20.0, "results": 0.5}


def results(tmp_path: Path, *, spent: Spent | None = HUNDRED, reused: str = "") -> Loaded:
    run = tmp_path / "20261128T120000Z-ab12"
    phases = {"weights": 10.0, "ready": 29.0}
    write(run, init_record() | {"phases": phases, "times": SERVER})
    for conc in (1, 2):
        extra: dict[str, Any] = {"times": CASE, "reused_from": reused}
        write(run, case_record(conc=conc) | extra)
    if spent is not None:
        told = {
            "seconds": spent.seconds,
            "processes": spent.processes,
            "collecting": spent.collecting,
        }
        end = {"kind": "run", "exit": 0, "spent": told}
        (run / "run.json").write_text(json.dumps(end))
    return load_results([tmp_path])


@pytest.mark.parametrize("spent", [Spent(100.0), Spent(60.0, 2), Spent(90.0, 1, 3.0)])
def test_the_parts_add_up_to_the_run(tmp_path: Path, spent: Spent) -> None:
    found = wall_time(results(tmp_path, spent=spent))
    assert found is not None
    assert found.sum == pytest.approx(spent.seconds * spent.processes)
    assert found.whole == pytest.approx(found.sum)
    told = {part.name: part.seconds for part in found.parts}
    assert told["measured"] == 40.0
    assert told["starts of servers"] == 30.0
    (start,) = [part for part in found.parts if part.below]
    assert (start.seconds, start.words) == (29.0, "weights 10 s, other 19 s")


def test_a_run_that_does_not_say_how_long_it_took_is_its_parts(tmp_path: Path) -> None:
    found = wall_time(results(tmp_path, spent=None))
    assert found is not None
    assert found.whole is None
    assert found.sum == pytest.approx(34.0 + 2 * 26.0)


def test_what_another_run_measured_took_no_time_of_this_one(tmp_path: Path) -> None:
    found = wall_time(results(tmp_path, reused="20261127T120000Z-ab12"))
    assert found is not None
    assert "measured" not in {part.name for part in found.parts}


def test_old_records_have_no_table(tmp_path: Path) -> None:
    run = tmp_path / "20261128T120000Z-ab12"
    write(run, init_record())
    write(run, case_record())
    loaded = load_results([tmp_path])
    assert not loaded.left_out
    assert wall_time(loaded) is None
    assert wall_lines(loaded) == []
    assert "Where the time went" not in markdown(loaded) + render(loaded)


def test_it_is_in_terminal_page_and_comment(tmp_path: Path) -> None:
    loaded = results(tmp_path)
    lines = wall_lines(loaded)
    assert [
        line.split() for line in lines if line.strip().startswith(("measured", "together"))
    ] == [
        ["measured", "40.0", "s", "40.0%"],
        ["together", "100.0", "s", "100.0%"],
    ]
    assert "| measured | 40 s | 40.0% |" in markdown(loaded)
    assert "Where the time went" in render(loaded)


def test_times_that_are_none_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "20261128T120000Z-ab12"
    write(run, init_record() | {"times": {"start": "long", "stop": -5.0, "lease": True}})
    write(run, case_record() | {"times": None})
    loaded = load_results([tmp_path])
    assert not loaded.left_out
    found = wall_time(loaded)
    assert found is not None
    assert found.sum == 0.0
