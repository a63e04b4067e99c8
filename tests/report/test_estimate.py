"""The estimate: from evidence, or unknown."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_gpubench.report.plan import Wanted, estimate


def _write(results: Path, run: str, server: str, label: str, content: object) -> None:
    path = results / run / server / label / "launch-1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _case(seconds: int) -> dict[str, str]:
    return {
        "started": "2026-01-01T00:00:00+00:00",
        "finished": f"2026-01-01T00:{seconds // 60:02d}:{seconds % 60:02d}+00:00",
    }


def test_starts_and_cases_add_up_and_the_newest_record_counts(tmp_path: Path) -> None:
    _write(tmp_path, "20260101", "srv", "c1", _case(500))
    _write(tmp_path, "20260102", "srv", "c1", _case(60))
    _write(tmp_path, "20260102", "srv", "c8", _case(120))
    _write(tmp_path, "20260102", "srv", "init", {"phases": {"ready": 100.0}})
    found = estimate([Wanted("srv", ("c1", "c8")), Wanted("srv", ("c1", "c8"))], tmp_path)
    assert found.seconds == 2 * (100 + 60 + 120)
    assert str(found) == "about 9 min 0 s, from earlier results"


def test_an_unknown_case_takes_what_its_neighbours_take(tmp_path: Path) -> None:
    _write(tmp_path, "r", "srv", "c1", _case(60))
    _write(tmp_path, "r", "srv", "init", {"phases": {"ready": 10.0}})
    found = estimate([Wanted("srv", ("c1", "c8"))], tmp_path)
    assert (found.seconds, found.known, found.total) == (130, 1, 2)
    assert "earlier results of 1 of 2 cases" in str(found)


def test_too_little_is_unknown(tmp_path: Path) -> None:
    _write(tmp_path, "r", "srv", "c1", _case(60))
    _write(tmp_path, "r", "srv", "init", {"phases": {"ready": 10.0}})
    assert estimate([Wanted("srv", ("c1", "c2", "c3"))], tmp_path).seconds is None
    assert (
        estimate(
            [Wanted("srv", ("c1",)), Wanted("b", ("c1",)), Wanted("c", ("c1",))], tmp_path
        ).seconds
        is None
    )
    assert str(estimate([Wanted("srv", ("c1",))], tmp_path / "nowhere")).startswith("unknown")


def test_files_that_make_no_sense_are_no_evidence(tmp_path: Path) -> None:
    for label, content in (
        ("c1", []),
        ("c2", {"started": 5, "finished": None}),
        ("c3", _case(60) | {"failure": {"cause": "x"}}),
    ):
        _write(tmp_path, "r", "srv", label, content)
        assert estimate([Wanted("srv", (label,))], tmp_path).seconds is None
    _write(tmp_path, "r", "srv", "c4", {})
    (tmp_path / "r" / "srv" / "c4" / "launch-1.json").write_text("[" * 100_000)
    assert estimate([Wanted("srv", ("c4",))], tmp_path).seconds is None
