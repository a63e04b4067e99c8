"""``gpubench report``."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from tests.report.synthetic import write_results


def test_it_writes_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "a", 3)
    write_results(tmp_path / "b", 3, run="20260902T120000Z-0002")
    words = [
        "-o",
        f"{tmp_path}/r.html",
        "--csv",
        f"{tmp_path}/r.csv",
        "--markdown",
        "-",
        "--against-run",
        f"{tmp_path}/b",
    ]
    words += ["--agg", f"{tmp_path}/agg", "--vllm-json", f"{tmp_path}/vllm"]
    assert main(["report", str(tmp_path / "a"), *words]) == 0
    out, err = capsys.readouterr()
    assert "Against the other run" in (tmp_path / "r.html").read_text()
    assert (tmp_path / "r.csv").read_text().count("\n") == 4
    assert "### Serving benchmarks" in out
    assert "wrote 0 files in" in out
    assert "not exported: " in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["RESULTS"], "say what to make of them"),
        (["RESULTS", "--csv", "x.csv", "--against-run", "RESULTS"], "give -o FILE.html too"),
        (["RESULTS/nowhere", "-o", "x.html"], "does not exist"),
        (["EMPTY", "-o", "x.html"], "no result records in"),
        (["RESULTS", "-o", "RESULTS"], "could not be written"),
    ],
)
def test_a_user_error_is_a_sentence_and_exit_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    write_results(tmp_path / "results", 1)
    (tmp_path / "empty").mkdir()
    words = [
        word.replace("RESULTS", str(tmp_path / "results")).replace("EMPTY", str(tmp_path / "empty"))
        for word in words
    ]
    assert main(["report", *words]) == 4
    assert sentence in capsys.readouterr().err
