"""Problems found in recipe files: collected, placed and sorted, never raised."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pytest_gpubench.model.cases import Problem, RecipeBook, SourcePosition, Unsupported
from pytest_gpubench.model.printing import counted, for_terminal


class ProblemLog:
    """All problems of all files, each once; the order is that of the files."""

    def __init__(self, files: Iterable[str] = ()) -> None:
        self._order = {file: index for index, file in enumerate(files)}
        self._problems: dict[tuple[SourcePosition, str], Problem] = {}

    def add(self, at: SourcePosition, path: str, message: str) -> None:
        """Record a problem; a second one with the same place and words is dropped (a parent's fault
        shows up in every child)."""
        self._problems.setdefault((at, message), Problem(at, path, message))

    def reads(self, file: str) -> None:
        """Note a file: its problems come after those of the files before it."""
        self._order.setdefault(file, len(self._order))

    def place(self, item: Problem | Unsupported) -> tuple[int, int, int]:
        """Where something stands, in the order of the files."""
        position = item.position
        return self._order.get(position.file, -1), position.line, position.column

    def __len__(self) -> int:
        return len(self._problems)

    def sorted(self) -> tuple[Problem, ...]:
        """The problems by file, line and column."""
        return tuple(sorted(self._problems.values(), key=lambda p: (*self.place(p), p.path)))


def problem_text(book: RecipeBook) -> str:
    """All problems of a book, a line each, below the files that they are in."""
    files = list(dict.fromkeys([*book.files, *(it.position.file for it in book.problems)]))
    head = f"{counted(len(book.problems), 'problem')} in {', '.join(files)}:"
    return for_terminal("\n".join([head, *(f"  {problem}" for problem in book.problems)]))


class PointError(Exception):
    """A value of one point of the search space is wrong."""

    def __init__(self, at: SourcePosition, path: str, message: str) -> None:
        super().__init__(message)
        self.problem = at, path, message


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'block-size'?`` where a known word is close, else nothing."""
    options = list(known)
    lowered = {option.lower().replace("_", "-"): option for option in options}
    close = difflib.get_close_matches(word.lower().replace("_", "-"), lowered, n=1, cutoff=0.6)
    return f"; did you mean '{lowered[close[0]]}'?" if close else ""


def one_of(words: Iterable[str]) -> str:
    """``'a', 'b' or 'c'``."""
    quoted = [f"'{word}'" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def shown(value: object) -> str:
    """A value as an error message shows it: short, one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def join_path(*parts: str | int) -> str:
    """A key path: ``recipe.scenarios.fixed-seq-len[0].isl``."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part:
            path += f".{part}" if path else part
    return path
