"""Files and folders: written whole or not at all, read within bounds, and folders that only this
user may write.

There is one way in which files are written, through links, into devices and pipes. A reader never
sees half a file: what is written stands beside it under another name until it is complete. What is
no regular file is never replaced: a link stays and its target is written, a device or a pipe gets
the bytes. Nothing is writable by others.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pwd
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pytest_gpubench.model.failures import GpubenchError

READER_TIMEOUT_S = 20.0
"""How long a named pipe may be without a reader."""
GROUP_AND_OTHERS = stat.S_IWGRP | stat.S_IWOTH
OTHERS = stat.S_IWOTH
_DESCRIPTORS = ("/dev/", "/proc/")
"""Below these a name is a door to something that is open already: ``/dev/stdout``,
``/dev/fd/63``."""


def write_text(
    path: Path, text: str, *, what: str = "the file", remedy: str = "choose another place"
) -> None:
    """Write a text as UTF-8; characters that UTF-8 cannot hold (bytes of odd file names) become
    ``\\udcXX``.

    Args:
        what: begins the sentence of an error.
        remedy: ends it.

    Raises:
        GpubenchError: if the path is a folder, or the disk refuses it, with path and reason.
    """
    with writing(path, what=what, remedy=remedy) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def writing(
    path: Path, *, what: str = "the file", remedy: str = "choose another place"
) -> Iterator[BinaryIO]:
    """A binary file that is at ``path`` when the block has ended well; missing folders are made.

    Raises:
        GpubenchError: as `write_text`.
    """
    if "\0" in str(path):
        raise GpubenchError(
            f"{what} {str(path)!r} could not be written: a path holds no NUL; {remedy}"
        )
    try:
        if path.is_dir():
            words = "it is a folder; give the path of a file"
            raise GpubenchError(f"{what} {path} could not be written: {words}")
        with _through(path) if _is_door(path) else _replacing(Path(os.path.realpath(path))) as file:
            yield file
    except OSError as error:
        raise GpubenchError(
            f"{what} {path} could not be written: {_reason(error)}; {remedy}"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, none of them writable by others.

    Raises:
        OSError: if the disk refuses it.
    """
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o775, exist_ok=True)


@contextlib.contextmanager
def careful_umask() -> Iterator[None]:
    """Let nothing that this process or its children create be writable by others; a mask of 0
    counts as the usual 022."""
    before = os.umask(0o022)
    os.umask(before | OTHERS if before else 0o022)
    try:
        yield
    finally:
        os.umask(before)


def make_private_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder for this user alone, and what is missing above it; ``mode`` holds for all of
    them, whatever the umask allows.

    Raises:
        OSError: if the disk refuses it.
    """
    missing = [part for part in (path, *path.parents) if not os.path.lexists(part)]
    for part in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was first
            part.mkdir(mode=mode)


def not_private(path: Path, forbidden: int = GROUP_AND_OTHERS) -> str:
    """Why a folder cannot be trusted, as a clause; empty: it can.

    Args:
        forbidden: permission bits that it must not have.

    Raises:
        OSError: if it cannot be looked at.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} is not a folder of this user (uid {os.getuid()})"
    if status.st_uid != os.getuid():
        return (
            f"{path} is not a folder of this user (uid {os.getuid()}): it belongs to "
            f"{_user(status.st_uid)}"
        )
    if status.st_mode & forbidden:
        return (
            f"{path} can be written by other users (mode {stat.S_IMODE(status.st_mode):04o}): see "
            f"what lies in it, then chmod go-w {path}"
        )
    return ""


class TooLongError(Exception):
    """A bound was passed; the text is a clause that says which."""


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to be read, if it is a regular one: a pipe would wait for a writer that never
    comes.

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


def unread_because(error: OSError | UnicodeDecodeError) -> str | None:
    """Why a text could not be read, as a clause."""
    return error.strerror if isinstance(error, OSError) else "it is not UTF-8"


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


def expanded(path: str | Path) -> Path:
    """The path with ``~`` replaced; taken as it is written where no home folder is known, as a
    shell does."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _is_door(path: Path) -> bool:
    """Whether bytes go through the path to something else than a file that could be replaced."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
    return not regular or os.path.abspath(path).startswith(_DESCRIPTORS)  # noqa: PTH100 - resolve() would follow the link


@contextlib.contextmanager
def _through(path: Path) -> Iterator[BinaryIO]:
    with os.fdopen(_open_door(path), "wb") as file:
        yield file


def _open_door(path: Path) -> int:
    # Appended, never cut off: /dev/stdout may be a file that holds other words already.
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC
    deadline = time.monotonic() + READER_TIMEOUT_S
    while True:
        try:
            descriptor = os.open(path, flags | os.O_NONBLOCK)
        except OSError as error:
            # A pipe without a reader: to wait in open() would be for ever.
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file beside the target, which it replaces at the end."""
    make_folder(target.parent)
    temporary = target.with_name(f".gpubench-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o664)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode) & ~OTHERS)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _reason(error: OSError) -> str:
    if error.errno == errno.ENXIO:
        return f"nobody has read from the pipe within {READER_TIMEOUT_S:.0f} s"
    return error.strerror or str(error)


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
