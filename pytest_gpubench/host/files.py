"""The one way in which files are written: whole or not at all, through links, into devices and pipes.

A reader never sees half a file: what is written stands beside it under another name until it is complete. What is no regular file
is never replaced: a link stays and its target is written, a device or a pipe gets the bytes. Nothing is writable by others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pytest_gpubench.model.failures import GpubenchError

READER_TIMEOUT_S = 20.0
"""How long a named pipe may be without a reader."""
_OTHERS = stat.S_IWOTH
_DESCRIPTORS = ("/dev/", "/proc/")
"""Below these a name is a door to something that is open already: ``/dev/stdout``, ``/dev/fd/63``."""


def output_error(path: Path) -> str | None:
    """Why a file cannot be written there, as the end of a sentence; None if nothing speaks against it yet."""
    if "\0" in str(path):
        return f"{str(path)!r} cannot be written: a path holds no NUL"
    try:
        if path.is_dir():
            return f"{path} is a folder; give the path of a file"
        if not path.parent.is_dir():
            parent = path.parent
            what = "is not a folder" if parent.exists() else "does not exist"
            return f"{path} cannot be written: the folder {parent} {what}"
    except OSError as error:
        return f"{path} cannot be written: {_reason(error)}"
    return None


def write_text(path: Path, text: str, *, what: str = "the file", remedy: str = "choose another place") -> None:
    """Write a text as UTF-8; characters that UTF-8 cannot hold (bytes of odd file names) become ``\\udcXX``.

    Args:
        what: begins the sentence of an error.
        remedy: ends it.

    Raises:
        GpubenchError: if the path is a folder, or the disk refuses it, with path and reason.
    """
    with writing(path, what=what, remedy=remedy) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def writing(path: Path, *, what: str = "the file", remedy: str = "choose another place") -> Iterator[BinaryIO]:
    """A binary file that is at ``path`` when the block has ended well; missing folders are made.

    Raises:
        GpubenchError: as `write_text`.
    """
    if "\0" in str(path):
        raise GpubenchError(f"{what} {str(path)!r} could not be written: a path holds no NUL; {remedy}")
    try:
        if path.is_dir():
            words = "it is a folder; give the path of a file"
            raise GpubenchError(f"{what} {path} could not be written: {words}")
        with _through(path) if _is_door(path) else _replacing(Path(os.path.realpath(path))) as file:
            yield file
    except OSError as error:
        raise GpubenchError(f"{what} {path} could not be written: {_reason(error)}; {remedy}") from error


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
    """Let nothing that this process or its children create be writable by others; a mask of 0 counts as the usual 022."""
    before = os.umask(0o022)
    os.umask(before | _OTHERS if before else 0o022)
    try:
        yield
    finally:
        os.umask(before)


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
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode) & ~_OTHERS)
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
