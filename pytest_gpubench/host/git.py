"""The git command: files as they were at a revision, the state of a working tree, revisions and
temporary checkouts of them. The user's own working tree is never touched."""

from __future__ import annotations

import contextlib
import posixpath
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_gpubench.host.own_processes import handled
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import printable
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


_CHECKOUT_LIMIT_S = 1800
_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A hook of the repository is meant for its own working tree, not for a checkout to measure.
_NO_HOOKS = ("-c", "core.hooksPath=/dev/null")
SHOWN = 12
"""Hex digits of a commit where a person reads it."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit."""

    hash: str
    subject: str
    """First line of its message, fit to be printed."""


@dataclass(frozen=True, slots=True)
class Line:
    """The commits between two revisions."""

    good: Commit
    commits: tuple[Commit, ...]
    """Oldest first, first parents only; the last one is the bad end."""
    forked: bool = False
    """Whether the good end is no ancestor of the bad one: the first commit is then the one at which
    they parted."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A working tree of git, and the folder in it where the user is."""

    root: Path
    prefix: str
    """Path of that folder below the root, empty at the root."""

    @classmethod
    def around(cls, folder: Path) -> Repository:
        """The repository of a folder.

        Raises:
            GpubenchError: if there is none, or no git.
        """
        root = run_git(folder, "rev-parse", "--show-toplevel")
        prefix = run_git(folder, "rev-parse", "--show-prefix")
        if root.returncode or prefix.returncode or not root.stdout.strip():
            raise GpubenchError(
                f"{folder} is in no git working tree; go to the repository with the recipes"
            )
        return cls(Path(root.stdout.rstrip("\n")), prefix.stdout.rstrip("\n"))

    def is_dirty(self) -> bool:
        """Whether tracked files differ from what is committed."""
        return bool(run_git(self.root, "status", "--porcelain", "--untracked-files=no").stdout)

    def commit(self, revision: str) -> Commit:
        """The commit that a revision names.

        Raises:
            GpubenchError: if it names none.
        """
        asked = ("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        found = run_git(self.root, "rev-parse", *asked) if "\0" not in revision else None
        if found is None or found.returncode:
            raise GpubenchError(
                f"{revision!r} is no revision of {self.root}; give a commit, a tag or a branch (in "
                "a shallow clone fetch it first)"
            )
        return Commit(found.stdout.strip(), self._subject(found.stdout.strip()))

    def line(self, good: str, bad: str, paths: Sequence[str] = ()) -> Line:
        """The commits from after ``good`` up to ``bad``.

        Args:
            paths: only commits that touch one of these, relative to the user's folder, and the bad
                end.

        Raises:
            GpubenchError: if a revision is none, or nothing lies between them.
        """
        first, last = self.commit(good), self.commit(bad)
        base = run_git(self.root, "merge-base", first.hash, last.hash)
        if base.returncode:
            raise GpubenchError(
                f"{good} and {bad} have no commit in common, so nothing lies between them"
            )
        parted = base.stdout.split()[0]
        words = ["rev-list", "--first-parent", "--reverse", f"{parted}..{last.hash}"]
        places = [str(Path(self.prefix) / path) for path in paths]
        listed = run_git(self.root, "--literal-pathspecs", *words, "--", *places)
        if listed.returncode:
            raise GpubenchError(f"git cannot list the commits: {_reason(listed.stderr)}")
        hashes = [one for one in listed.stdout.split() if one != last.hash]
        forked = parted != first.hash
        hashes = [*([parted] if forked and parted != last.hash else []), *hashes, last.hash]
        if first.hash == last.hash or parted == last.hash:
            raise GpubenchError(
                f"no commit lies after {good} on the way to {bad}; give the older, good revision "
                "first"
            )
        return Line(first, tuple(Commit(one, self._subject(one)) for one in hashes), forked)

    def _subject(self, commit: str) -> str:
        shown = run_git(self.root, "log", "-1", "--format=%s", commit)
        return printable(" ".join(shown.stdout.split()))


class Checkouts:
    """Temporary checkouts of a repository; all of them are gone when the block ends."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self._repository = repository
        self._folder = folder
        self._made: list[Path] = []

    def make(self, commit: str) -> Path:
        """Check a commit out; the user's folder in it.

        Raises:
            GpubenchError: if git cannot, or the commit has no such folder.
        """
        path = self._folder / f"checkout-{len(self._made) + 1}"
        self._made.append(path)
        words = (*_NO_HOOKS, "worktree", "add", "--detach", "--force", str(path), commit)
        done = run_git(self._repository.root, *words, limit_s=_CHECKOUT_LIMIT_S)
        if done.returncode:
            raise GpubenchError(
                f"git cannot check {commit[:SHOWN]} out into {path}: {_reason(done.stderr)}"
            )
        inside = path / self._repository.prefix
        if not inside.is_dir():
            raise GpubenchError(
                f"{commit[:SHOWN]} has no folder {self._repository.prefix}; start where the good "
                "revision has the recipes"
            )
        return inside

    def remove(self, inside: Path) -> None:
        """Remove the checkout that a folder is in."""
        for path in self._made:
            if inside.is_relative_to(path):
                self._drop(path)

    def close(self) -> None:
        """Remove what is left."""
        for path in self._made:
            self._drop(path)

    def _drop(self, path: Path) -> None:
        if not path.exists():
            return
        with contextlib.suppress(GpubenchError):
            run_git(self._repository.root, "worktree", "remove", "--force", "--force", str(path))
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(GpubenchError):
            run_git(self._repository.root, "worktree", "prune")


@contextlib.contextmanager
def checkouts(repository: Repository) -> Iterator[Checkouts]:
    """Checkouts in a temporary folder of their own."""
    with tempfile.TemporaryDirectory(prefix="gpubench-bisect-") as name:
        made = Checkouts(repository, Path(name).resolve())
        try:
            yield made
        finally:
            # A second signal does not leave half of it behind; what is started ignores them, too.
            with handled(dict.fromkeys(_INTERRUPTING, signal.SIG_IGN)):
                made.close()


def _reason(text: str) -> str:
    lines = [line for line in printable(text).splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"
