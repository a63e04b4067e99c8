"""The one writer: whole or not at all, through links, into devices and pipes."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from pytest_gpubench.host import files
from pytest_gpubench.host.files import careful_umask, make_folder, write_text, writing
from pytest_gpubench.model.failures import GpubenchError


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for target in (tmp_path / "real" / "there", tmp_path / "real" / "not-yet"):
        link = tmp_path / f"link-{target.name}"
        link.symlink_to(target)
        write_text(link, "x")
        assert link.is_symlink()
        assert target.read_text() == "x"
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_pipe_gets_the_bytes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(20)
    assert got == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_without_a_reader_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READER_TIMEOUT_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GpubenchError, match="nobody has read from the pipe"):
        write_text(tmp_path / "pipe", "x")


def test_devices_are_written_to() -> None:
    write_text(Path("/dev/null"), "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(GpubenchError, match="No space left"):
        write_text(Path("/dev/full"), "x")


def test_an_open_file_by_its_descriptor_is_appended_to(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        out.write("before ")
        out.flush()
        write_text(Path(f"/dev/fd/{out.fileno()}"), "after")
    assert (tmp_path / "out").read_text() == "before after"


@pytest.mark.parametrize("name", ["folder", "file/below", "a\0b"])
def test_what_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(GpubenchError, match="could not be written"):
        write_text(tmp_path / name, "x")


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    block = writing(path)
    block.__enter__().write(b"new")
    assert not block.__exit__(RuntimeError, RuntimeError("stop"), None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_modes(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.touch(0o600)
    before = os.umask(0)
    try:
        with careful_umask():
            assert os.umask(0o022) == 0o022
            write_text(tmp_path / "a" / "b" / "new", "x")
            write_text(private, "x")
            make_folder(tmp_path / "c" / "d")
        assert os.umask(0) == 0
        write_text(tmp_path / "e" / "f", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert not [path for path in tmp_path.rglob("*") if path.stat().st_mode & stat.S_IWOTH]


def test_characters_that_utf8_cannot_hold(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "caf\udce9")
    assert (tmp_path / "x").read_bytes() == rb"caf\udce9"
