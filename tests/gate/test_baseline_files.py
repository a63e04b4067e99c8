"""Baseline files: round trip, damage, concurrent updates."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_gpubench.gate import baseline_files
from pytest_gpubench.gate.baseline_files import (
    baseline_path,
    baseline_text,
    read_baseline,
    update_baseline,
)
from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap

CASE = "tiny-bf16-cpu-vllm-tp1:128x32-c8"
KEY = FrozenMap(
    {"device": "AMD EPYC", "gpus": 1, "shared_host": False, "workload.range_ratio": 0.8}
)


def entry(run: str, value: float = 94.25, day: int = 1) -> LaunchEntry:
    return LaunchEntry(
        run,
        "launch-1",
        f"2026-11-{day:02}T10:00:00+00:00",
        "",
        FrozenMap({"output_tput": value, "ttft_p50": 0.1 + 0.2}),
        32,
        FrozenMap({"engine": "0.32.0", "host": "vm"}),
        FrozenMap({"output_tput": "accepted: because"}),
    )


def stored(path: Path, count: int = 3) -> Baseline:
    entries = [entry(f"run{index}", 90 + index, index + 1) for index in range(count)]
    return update_baseline(path, CASE, lambda baseline: append(baseline, KEY, entries))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = baseline_path(tmp_path, "cpu", CASE)
    assert path == tmp_path / "cpu" / "tiny-bf16-cpu-vllm-tp1" / "128x32-c8.json"
    assert read_baseline(path, CASE) is None
    written = stored(path)
    assert read_baseline(path, CASE) == written
    assert path.read_text() == baseline_text(written)
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_one_line_per_launch_for_git(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    stored(path, 3)
    before = path.read_text().splitlines()
    update_baseline(path, CASE, lambda baseline: append(baseline, KEY, [entry("run9", day=20)]))
    after = path.read_text().splitlines()
    assert len(after) == len(before) + 1
    assert len(set(after) - set(before)) == 2  # the new line, and the comma after the last one


def test_an_update_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    stored(path)
    stamp = path.stat().st_mtime_ns
    stored(path)
    assert path.stat().st_mtime_ns == stamp


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        plain = json.loads(text)
        change(plain)
        return json.dumps(plain)

    return edited


def _launch(plain: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = plain["launches"][0]
    return found


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "truncated": (lambda text: text[: len(text) // 2], "truncated or corrupt"),
    "empty": (lambda _: "", "truncated or corrupt"),
    "merge conflict": (lambda text: "<<<<<<< HEAD\n" + text, "truncated or corrupt"),
    "another kind of file": (lambda _: "[1, 2]", "is damaged at the top level"),
    "deep": (lambda _: "[" * 100_000, "is not JSON that this program writes"),
    "not a number": (
        lambda text: text.replace("91.0", "NaN").replace('"output_tput": 91', '"output_tput": NaN'),
        "is damaged at",
    ),
    "future": (_edit(lambda plain: plain.update(schema=3)), "written by a newer pytest-gpubench"),
    "old": (_edit(lambda plain: plain.update(schema=0)), "unknown schema 0"),
    "schema as text": (_edit(lambda plain: plain.update(schema="1")), "is damaged at schema"),
    "unknown key": (_edit(lambda plain: plain.update(note="hello")), "is damaged at note"),
    "other case": (_edit(lambda plain: plain.update(case="other:w")), "is of the case other:w"),
    "number edited": (
        _edit(lambda plain: _launch(plain)["metrics"].update(output_tput=50.0)),
        "was changed by hand: launch-1 of run run0",
    ),
    "date edited": (
        _edit(lambda plain: _launch(plain).update(date="2025-01-01T00:00:00Z")),
        "was changed by hand",
    ),
    "key edited": (
        _edit(lambda plain: next(iter(plain["keys"].values())).update(device="H100")),
        "was changed by hand: the key",
    ),
    "key lost": (_edit(lambda plain: plain["keys"].clear()), "lacks the key"),
    "twice": (
        _edit(lambda plain: plain["launches"].append(_launch(plain))),
        "holds launch-1 of run run0 twice",
    ),
    "binary": (lambda _: "\udcff", "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_sentence_and_stays_as_it_is(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "b.json"
    stored(path)
    change, words = DAMAGES[damage]
    path.write_bytes(change(path.read_text()).encode("utf-8", "surrogateescape"))
    before = path.read_bytes()
    attempts: list[Callable[[], object]] = [
        lambda: read_baseline(path, CASE),
        lambda: stored(path, 9),
    ]
    for attempt in attempts:
        with pytest.raises(GpubenchError, match=re.escape(words)) as caught:
            attempt()
        text = str(caught.value)
        assert str(path) in text
        assert "\n" not in text
        assert "git checkout" in text or "upgrade" in text
    assert path.read_bytes() == before


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_no_damage_ends_in_anything_but_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "fuzzed.json"
    path.unlink(missing_ok=True)
    whole = stored(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    with contextlib.suppress(GpubenchError):
        assert read_baseline(path, CASE) == whole  # white space, or the same byte again


def test_a_merge_by_hand_that_keeps_both_sides_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    both = append(stored(path), KEY, [entry("ours", day=20), entry("theirs", day=21)])
    lines = baseline_text(both).splitlines()
    launches = [index for index, line in enumerate(lines) if '"theirs"' in line or '"ours"' in line]
    lines[launches[0]], lines[launches[1]] = (
        lines[launches[1]] + ",",
        lines[launches[0]].rstrip(","),
    )
    path.write_text("\n".join(lines))
    found = read_baseline(path, CASE)
    assert found is not None
    assert {one.run for one in found.launches} == {"run0", "run1", "run2", "ours", "theirs"}


def _append_many(path: str, arm: str, count: int) -> None:
    for index in range(count):
        new = [entry(f"{arm}{index}")]
        update_baseline(Path(path), CASE, lambda baseline, new=new: append(baseline, KEY, new))  # type: ignore[misc]


def test_two_runs_that_update_at_once_both_stay(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "b.json"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(str(path), arm, 20)) for arm in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    found = read_baseline(path, CASE)
    assert found is not None
    assert {one.run for one in found.launches} == {
        f"{arm}{index}" for arm in "ab" for index in range(20)
    }


def test_a_lock_that_is_never_released_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_files, "_LOCK_TIMEOUT_S", 0.05)
    path = tmp_path / "b.json"
    with baseline_files._locked(path), pytest.raises(GpubenchError, match="another process held"):
        stored(path)
    assert not path.exists()


def test_a_link_to_nothing_is_no_case_without_a_baseline(tmp_path: Path) -> None:
    """A level that is lost must not end as UNGATED."""
    path = tmp_path / "b.json"
    path.symlink_to(tmp_path / "gone.json")
    with pytest.raises(GpubenchError, match=r"is a link to .*gone.json, which is not there; rest"):
        read_baseline(path, CASE)


@pytest.mark.parametrize("where", ["gpubench-{}", "gpubench-{}/baselines"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("open", "can be written by other users (mode 0777)"),
        ("file", "cannot be taken"),
        ("link", "is not a folder of this user"),
    ],
)
def test_a_lock_folder_that_cannot_be_trusted_or_made_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, kind: str, words: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    folder = tmp_path / "tmp" / where.format(os.getuid())
    folder.parent.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    if kind == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.write_text("")
    with pytest.raises(GpubenchError, match=re.escape(words)) as caught:
        stored(tmp_path / "b.json")
    assert "was not updated" in str(caught.value)
    assert "TMPDIR" in str(caught.value)
    assert not (tmp_path / "b.json").exists()


def test_a_disk_that_refuses_is_a_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(GpubenchError, match=r"cannot be read|could not be written"):
        stored(blocked / "b.json")


def test_a_failed_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.json"
    stored(path)
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(GpubenchError, match="No space left"):
        update_baseline(path, CASE, lambda baseline: append(baseline, KEY, [entry("run9")]))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
