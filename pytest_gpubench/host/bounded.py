"""Files that come from anywhere, read within bounds: regular files, lines of a length, so many bytes in all."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path


class TooLongError(Exception):
    """A bound was passed; the text is a clause that says which."""


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to be read, if it is a regular one: a pipe would wait for a writer that never comes.

    Raises:
        OSError: if it cannot be opened, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is no regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def bounded_lines(file: io.BufferedIOBase, longest: int, most: int) -> Iterator[bytes]:
    """The lines of a file (a gzip file unpacked), never more than so many bytes of it in memory.

    Args:
        longest: bytes of one line.
        most: bytes of all.

    Raises:
        TooLongError: if a line or the whole is longer.
    """
    number = total = 0
    while line := file.readline(longest + 1):
        number, total = number + 1, total + len(line)
        if len(line) > longest:
            raise TooLongError(f"line {number} is too long: more than {longest // 2**20} MiB")
        if total > most:
            raise TooLongError(f"it is too large: more than {most // 2**20:,} MiB")
        yield line
