"""Folders that only this user may write, in places where everybody can: what lies there is believed."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path

GROUP_AND_OTHERS = stat.S_IWGRP | stat.S_IWOTH
OTHERS = stat.S_IWOTH


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder and what is missing above it; ``mode`` holds for all of them, whatever the umask would allow.

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
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return f"{path} is not a folder of this user (uid {os.getuid()})"
    if found.st_uid != os.getuid():
        return f"{path} is not a folder of this user (uid {os.getuid()}): it belongs to {_user(found.st_uid)}"
    if found.st_mode & forbidden:
        return (
            f"{path} can be written by other users (mode {stat.S_IMODE(found.st_mode):04o}): see what lies in it, then "
            f"chmod go-w {path}"
        )
    return ""


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
