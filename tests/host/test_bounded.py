from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import pytest

from pytest_gpubench.host.files import TooLongError, bounded_lines, open_regular


def test_lines_within_bounds_are_all_there() -> None:
    assert list(bounded_lines(io.BytesIO(b"one\ntwo\n\nlast"), 4, 100)) == [
        b"one\n",
        b"two\n",
        b"\n",
        b"last",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"ok\n" + b"x" * 2**20, "line 2 is too long"), (b"ok\n" * 100, "it is too large")],
)
def test_what_is_longer_is_named(data: bytes, words: str) -> None:
    with pytest.raises(TooLongError, match=words):
        list(bounded_lines(io.BytesIO(data), 2**10, 200))


def test_a_packed_line_is_never_unpacked_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(64):
            file.write(b"\0" * 2**20)
    with open_regular(path) as packed, gzip.open(packed) as lines, pytest.raises(TooLongError):
        list(bounded_lines(lines, 2**20, 2**40))


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "nowhere"):
        with pytest.raises(OSError, match=r"regular file|directory|No such"):
            open_regular(path)
