"""Recipe files from disk, with the files that they include."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_gpubench.model.cases import SourcePosition
from pytest_gpubench.recipes.problems import ProblemLog, join_path
from pytest_gpubench.recipes.yaml_tree import MAX_BYTES, Node, read_tree

MAX_FILES = 500
MAX_DEPTH = 40
_KEY = "include"


def read_files(paths: Sequence[Path], log: ProblemLog) -> list[Node]:
    """The top-level maps of files, each before those that it includes, and each file once.

    Args:
        log: receives every problem: a file that cannot be read, a circle of includes.
    """
    reading = _Reading(log)
    for path in paths:
        reading.add(path, SourcePosition(str(path), 1, 1), "", path.name)
    return reading.roots


def included_by(path: Path) -> list[str]:
    """The files that a file includes, as written; none where it cannot be read."""
    try:
        root = read_tree(str(path), _content(path), ProblemLog())
    except (OSError, ValueError):
        return []
    names = [node.value for node in _includes(root) if isinstance(node.value, str)]
    return [name for name in names if not Path(name).is_absolute() and "\0" not in name]


def _includes(root: Node | None) -> list[Node]:
    node = root.get(_KEY) if root else None
    if node is None:
        return []
    return node.items if isinstance(node.value, list) else [node]


def _content(path: Path) -> bytes:
    # What is no file would wait for a writer that never comes, or never end.
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is a pipe or a device, and a recipe file is read more than once")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


class _Reading:
    def __init__(self, log: ProblemLog) -> None:
        self._log = log
        self._known: set[Path] = set()
        self._stack: list[tuple[Path, str]] = []
        self.roots: list[Node] = []

    def add(self, path: Path, at: SourcePosition, key: str, name: str) -> None:
        """Read a file and what it includes, unless it has been read.

        Args:
            at, key: where it is asked for: the file itself, or an entry of `include`.
            name: as it is written there.
        """
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            self._cannot_read(name, at, key, str(error))
            return
        above = [place for place, _ in self._stack]
        if real in above:
            circle = [written for _, written in self._stack[above.index(real) :]]
            words = f"includes itself: {' -> '.join([*circle, name])}"
            self._log.add(at, key, f"{words}; remove one of these links")
            return
        if real in self._known:
            return
        if len(self._known) >= MAX_FILES:
            self._log.add(at, key, f"more than {MAX_FILES} recipe files; join some of them")
            return
        if len(self._stack) >= MAX_DEPTH:
            self._log.add(at, key, f"more than {MAX_DEPTH} files inside each other; join some")
            return
        self._known.add(real)
        self._log.reads(str(path))
        root = self._read(path, at, key, name)
        if root is None:
            return
        self.roots.append(root)
        self._stack.append((real, name))
        for written, place, where in self._names(root):
            self.add(path.parent / written, place, where, written)
        self._stack.pop()

    def _names(self, root: Node) -> Iterator[tuple[str, SourcePosition, str]]:
        for index, node in enumerate(_includes(root)):
            where = join_path(_KEY, index)
            if not isinstance(node.value, str) or not node.value.strip() or "\0" in node.value:
                self._log.add(node.at, where, "must be the path of a recipe file")
            elif Path(node.value).is_absolute():
                words = "must be a path from this file's own folder, so that both can be moved"
                self._log.add(node.at, where, words)
            else:
                yield node.value, node.at, where

    def _cannot_read(self, name: str, at: SourcePosition, key: str, reason: str) -> None:
        what = name if key else "the file"
        self._log.add(at, key, f"cannot read {what}: {reason.lower()}; check the path")

    def _read(self, path: Path, at: SourcePosition, key: str, name: str) -> Node | None:
        try:
            data = _content(path)
        except (OSError, ValueError) as error:
            self._cannot_read(name, at, key, getattr(error, "strerror", None) or str(error))
            return None
        start = SourcePosition(str(path), 1, 1)
        before = len(self._log)
        root = read_tree(str(path), data, self._log)
        if root is None or root.value is None:
            if len(self._log) == before:
                self._log.add(
                    start, "", "the file is empty; a recipe file maps recipe names to recipes"
                )
            return None
        if not isinstance(root.value, dict):
            self._log.add(root.at, "", "a recipe file is a map from recipe names to recipes")
            return None
        return root
