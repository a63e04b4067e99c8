"""Files as they were at a git revision, the state of a working tree, and the git command."""

from __future__ import annotations

import posixpath
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.recipes.including import included_by

_TIME_LIMIT_S = 60


def files_at(paths: Sequence[Path], revision: str, folder: Path) -> tuple[Path, ...]:
    """Write the recipe files as of a revision, with what they included then, into ``folder``; those
    that did not exist then are left out.

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
        within = folder / str(index)
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
        prefix = (_git(place, "rev-parse", "--show-prefix") or "").strip()
        target = _write(place, commit.strip(), f"{prefix}{path.name}", within)
        if target is None:
            continue
        written.append(target)
        _write_included(place, commit.strip(), target, within)
    return tuple(written)


def _write(place: Path, commit: str, name: str, within: Path) -> Path | None:
    """One file of a commit below a folder, by its path in the repository; None where the commit has
    none.

    Raises:
        GpubenchError: if git lists it and cannot show it.
    """
    listed = _git(place, "ls-tree", "--full-tree", "--name-only", commit, "--", name) or ""
    if not listed.strip():
        return None
    text = _git(place, "show", f"{commit}:{name}")
    if text is None:
        raise GpubenchError(
            f"git cannot show {name} at {commit[:12]}; try: git show {commit[:12]}:{name}"
        )
    target = within / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


def _write_included(place: Path, commit: str, first: Path, within: Path) -> None:
    """What a file included, and what that included, at the same places beside it; what lies outside
    the repository is left out."""
    open_files = [first]
    while open_files:
        file = open_files.pop()
        for name in included_by(file):
            inside = posixpath.normpath((file.parent / name).relative_to(within).as_posix())
            if inside.startswith(("../", "/")) or (within / inside).exists():
                continue
            found = _write(place, commit, inside, within)
            if found is not None:
                open_files.append(found)


def git_state(folder: Path, apart: Path | None = None) -> dict[str, str | bool] | None:
    """Commit of the working tree and whether it has uncommitted changes; None outside git or
    without the git command.

    Changes below ``apart`` do not count: baselines that a run before this one wrote.
    """
    without: list[str] = []
    if apart is not None and apart.is_relative_to(folder):
        without = [":/", f":(exclude){apart.relative_to(folder)}"]
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        if commit is None:
            return None
        status = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *without)
    except GpubenchError:
        return None
    return {"commit": commit.strip(), "dirty": status != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    done = run_git(folder, *arguments)
    return done.stdout if done.returncode == 0 else None


def run_git(
    folder: Path, *arguments: str, limit_s: float = _TIME_LIMIT_S
) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, whatever it answers.

    Raises:
        GpubenchError: if there is no git, or it takes longer than the limit.
    """
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpubenchError(
            f"git did not run: {error}; a revision needs the git command"
        ) from error
