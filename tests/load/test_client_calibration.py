"""Calibrations: which one speaks for a run, where they are kept, and the command that makes
them."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_gpubench import cli, commands
from pytest_gpubench.load import client_calibration
from pytest_gpubench.load.client_calibration import file_of, store, stored
from pytest_gpubench.load.client_error import Calibration, best_of, table_of
from pytest_gpubench.model.failures import GpubenchError


def made(
    conc: int, rate: float, *, good: bool = True, workers: int = 1, software: str = ""
) -> Calibration:
    return Calibration(
        conc, rate, rate, 3 * conc, 0.05, 0.001 if good else 0.02, 0.002, 0.01, 0.00001, 0.2, 1e-5, 0.001,
        workers=workers, host=client_calibration.host_name(), software=software or client_calibration.software_name(),
    )  # fmt: skip


SMALL, LARGE, BAD = made(4, 400.0), made(64, 6400.0), made(256, 25600.0, good=False)


@pytest.mark.parametrize(
    ("known", "in_flight", "rate", "speaks"),
    [
        ((), 1, 1.0, None),
        ((SMALL, LARGE), 4, 400.0, SMALL),
        ((LARGE, SMALL), 4, 440.0, SMALL),
        ((SMALL, LARGE), 4, 441.0, LARGE),
        ((SMALL, LARGE), 5, 10.0, LARGE),
        ((SMALL, LARGE), 70, 10.0, LARGE),
        ((SMALL, LARGE), 71, 10.0, LARGE),
        ((SMALL, BAD), 100, 10.0, BAD),
        ((BAD, LARGE), 10, 10.0, LARGE),
    ],
)
def test_which_calibration_speaks_for_a_run(
    known: tuple[Calibration, ...], in_flight: int, rate: float, speaks: Calibration | None
) -> None:
    assert best_of(known, in_flight, rate) == speaks


def test_margin_is_ten_percent() -> None:
    assert LARGE.covers(70, 7040.0)
    assert not LARGE.covers(71, 7040.0)
    assert not LARGE.covers(70, 7041.0)


def test_kept_per_host_and_replaced_per_point(tmp_path: Path) -> None:
    assert stored(tmp_path) == ()
    path = store(tmp_path, (SMALL, LARGE))
    assert path == file_of(tmp_path)
    assert platform.node() in path.name
    newer = replace(LARGE, ttft_error_mean=0.003)
    store(tmp_path, (newer, made(64, 6400.0, workers=2), made(8, 800.0, software="python 2.7")))
    assert set(stored(tmp_path, 1)) == {SMALL, newer}
    assert [one.workers for one in stored(tmp_path, 2)] == [2]
    assert list(path.parent.iterdir()) == [path]
    assert json.loads(path.read_text())["schema"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged; delete it, then run gpubench calibrate"),
        ("[]", "is damaged"),
        ('{"schema": 1, "calibrations": [{}]}', "is damaged"),
        ('{"schema": 1, "calibrations": 3}', "is damaged"),
        ('{"schema": 9, "calibrations": []}', "has version 9, this release knows 1; delete it"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8"),
    ],
)
def test_damaged_file_is_a_sentence_and_stays(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir()
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(data)
    for use in (lambda: stored(tmp_path), lambda: store(tmp_path, (SMALL,))):
        with pytest.raises(GpubenchError, match=words):
            use()
    assert path.read_bytes() == data


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda it: st.lists(it) | st.dictionaries(st.text(), it),
    )
)
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
def test_any_json_is_refused_with_a_sentence_or_read(tmp_path: Path, value: object) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"schema": 1, "calibrations": value}))
    said = ""
    try:
        found = stored(tmp_path)
    except GpubenchError as error:
        found, said = (), str(error)
    assert str(path) in said if said else isinstance(found, tuple)


def test_unwritable_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "calibration").write_text("a file")
    with pytest.raises(GpubenchError, match="cannot be"):
        store(tmp_path, (SMALL,))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--conc", "0"], "--conc 0: must be from 1 to 20,000 streams"),
        (["--conc", "99999"], "--conc 99999: must be from 1"),
        (["--rate", "5"], "--rate is the rate of all streams together and needs --conc"),
        (["--conc", "4", "-k", "tiny"], "give one of them"),
        (["--conc", "4", "--rate", "5", "--stream-rate", "5"], "give one of them"),
        (["--conc", "4", "--rate", "nan"], "--rate nan: must be from 0.01"),
        (["--conc", "4", "--seconds", "0"], "--seconds 0: must be from 0.5 to 600"),
        (["--conc", "4", "--workers", "5"], "5 workers cannot share a concurrency of 4"),
        (["--conc", "4", "--workers", "0"], "--workers 0: must be from 1"),
        (["--conc", "20000", "--stream-rate", "1000000"], "is above 10,000,000"),
    ],
)
def test_wrong_command_is_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.main(["calibrate", *arguments]) == commands.EXIT_USAGE
    said = capsys.readouterr().err
    assert said.startswith("gpubench: ")
    assert words in said


def test_command_measures_prints_and_stores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, float, float, int]] = []

    def measure(conc: int, rate: float, *, seconds: float, workers: int) -> Calibration:
        asked.append((conc, rate, seconds, workers))
        return made(conc, rate, good=conc < 100)

    monkeypatch.setattr(client_calibration, "calibrate", measure)
    command = [
        "calibrate",
        "--results",
        str(tmp_path),
        "--conc",
        "4",
        "--conc",
        "64",
        "--seconds",
        "1",
    ]
    assert cli.main(command) == 0
    assert asked == [(64, 6400.0, 1.0, 1), (4, 400.0, 1.0, 1)]
    said = capsys.readouterr().out
    assert table_of(stored(tmp_path)) in said
    assert str(file_of(tmp_path)) in said
    assert {one.conc for one in stored(tmp_path)} == {4, 64}
    assert cli.main(["calibrate", "--results", str(tmp_path), "--conc", "200"]) == 1
    assert "not usable: its mean TTFT is 20.0 ms above" in capsys.readouterr().out
    assert stored(tmp_path)[-1].problem


def test_selection_is_that_of_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, float]] = []

    def measure(conc: int, rate: float, **_: object) -> Calibration:
        asked.append((conc, rate))
        return made(conc, rate)

    monkeypatch.setattr(client_calibration, "calibrate", measure)
    monkeypatch.chdir(tmp_path)
    recipes = str(Path(__file__).parents[2] / "recipes.yaml")
    chosen = ["-k", "tiny and cpu and not mtp", "--stream-rate", "50"]
    assert cli.main(["calibrate", recipes, *chosen]) == 0
    assert asked == [(8, 400.0), (4, 200.0), (1, 50.0)]
    assert cli.main(["calibrate", recipes, "-k", "nosuchmodel"]) == 5  # nothing is selected
    assert capfd.readouterr().err
