"""Files as they were at a git revision."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from pytest_gpubench.model.failures import GpubenchError

_TIME_LIMIT_S = 60


def files_at(paths: Sequence[Path], revision: str, folder: Path) -> tuple[Path, ...]:
    """Write the files as of a revision into ``folder``; those that did not exist then are left out.

    Args:
        paths: files, each inside a git working tree.
        revision: anything that git resolves to a commit.
        folder: existing, empty.

    Returns:
        The files written, in the order of ``paths``.

    Raises:
        GpubenchError: if there is no git, no repository around a file, or no such revision.
    """
    written = []
    for index, path in enumerate(paths):
        place = path.absolute().parent
        if not place.is_dir():
            raise GpubenchError(f"{path} does not exist; give the path of a recipe file")
        commit = _git(
            place, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
        )
        if commit is None:
            if _git(place, "rev-parse", "--git-dir") is None:
                raise GpubenchError(
                    f"{path} is in no git repository, so there is no revision {revision} of it"
                )
            raise GpubenchError(
                f"{revision} is no revision of the repository of {path}; in a shallow "
                "clone fetch it first"
            )
        name = f"./{path.name}"
        if not (_git(place, "ls-tree", "--name-only", commit.strip(), "--", name) or "").strip():
            continue
        text = _git(place, "show", f"{commit.strip()}:{name}")
        if text is None:
            raise GpubenchError(
                f"git cannot show {path.name} at {revision}; try: git show {revision}:{name}"
            )
        target = folder / str(index) / path.name
        target.parent.mkdir()
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return tuple(written)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpubenchError(
            f"git did not run: {error}; a revision needs the git command"
        ) from error
    return done.stdout if done.returncode == 0 else None
