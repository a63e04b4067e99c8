"""Guards ``-k``: pytest matches substrings, so ``b200`` also means gb200 and ``c1`` also c16.

The expression is walked with pytest's own grammar, twice per case: tags by equality, as a person
means them, and by substring, as pytest reads them. Where the two select different cases the run
must stop and ask for ``-m``, which is exact. For a selection that names what does not exist there
is a hint: the field, its type, the nearest name.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.printing import counted
from pytest_gpubench.recipes.problems import did_you_mean

MAX_DEPTH = 60
MAX_FREE_WORDS = 8
_TOKEN = re.compile(r"\s*(?:(?P<paren>[()])|(?P<word>(?::?\w|:|\+|-|\.|\[|\]|\\|/)+))")

Tree: TypeAlias = "str | tuple[str, tuple[Tree, ...]]"
"""A word, or ("and" | "or" | "not", operands)."""


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """A ``-k`` expression selects other cases than its words say."""

    expression: str
    extra: tuple[Case, ...]
    """Cases that pytest would select though their tags do not match."""
    missing: tuple[Case, ...]
    """Cases that pytest would leave out though their tags match (a substring under ``not``)."""
    words: tuple[str, ...]
    """The words of the expression that are parts of other tags."""
    suggestion: str
    """Command-line arguments that select exactly what the words say; empty if that takes a
    person."""

    def __str__(self) -> str:
        parts = [f"-k {self.expression!r} matches parts of tags ({', '.join(self.words)})"]
        if self.extra:
            parts.append(f"it would also select {_listing(self.extra)}")
        if self.missing:
            parts.append(f"it would leave out {_listing(self.missing)}")
        remedy = f"write {self.suggestion}" if self.suggestion else "select by exact tags with -m"
        return "; ".join(parts) + f"; {remedy}"


def _listing(cases: Sequence[Case]) -> str:
    names = ", ".join(case.id for case in cases[:3])
    more = ", ..." if len(cases) > 3 else ""
    return f"{counted(len(cases), 'case')} ({names}{more})"


class _InvalidError(Exception):
    """Not an expression: pytest says so itself."""


def find_ambiguity(expression: str, cases: Sequence[Case]) -> Ambiguity | None:
    """Compare what a ``-k`` expression says with what pytest would select.

    Words that are tags of some case are compared. Other words that stand in a case's id (the name
    of a server) mean that, for both. What is left may match function, file or folder names and is
    taken as true and as false. An expression that pytest itself refuses gives None.
    """
    try:
        tree = _parsed(expression)
    except _InvalidError:
        return None
    words = list(dict.fromkeys(_words(tree)))
    tags = {tag for case in cases for tag in case.tags}
    known = [word for word in words if word.lower() in tags]
    if not known:
        return None
    texts = {case.id: _text_of(case) for case in cases}
    others = [word for word in words if word not in known]
    named = [word for word in others if any(word.lower() in text for text in texts.values())]
    worlds = _worlds([word for word in others if word not in named])
    verdicts: dict[tuple[tuple[bool, ...], tuple[bool, ...]], tuple[bool, bool]] = {}
    extra: list[Case] = []
    missing: list[Case] = []
    for case in cases:
        own, text = set(case.tags), texts[case.id]
        loose = tuple(word.lower() in text for word in (*known, *named))
        exact = tuple(word.lower() in own for word in known) + loose[len(known) :]
        if exact == loose:
            continue
        if (exact, loose) not in verdicts:
            verdicts[exact, loose] = _differs(tree, (*known, *named), exact, loose, worlds)
        more, less = verdicts[exact, loose]
        if more:
            extra.append(case)
        if less:
            missing.append(case)
    if not extra and not missing:
        return None
    parts = tuple(
        word
        for word in known
        if any(
            word.lower() in texts[case.id] and word.lower() not in case.tags
            for case in (*extra, *missing)
        )
    )
    return Ambiguity(expression, tuple(extra), tuple(missing), parts, _suggest(tree, tags))


def _text_of(case: Case) -> str:
    """What pytest looks for words in: ids, and marks, of which an evaluation has more than its id
    says."""
    return " ".join((case.id.lower(), *case.tags))


def _worlds(free: Sequence[str]) -> list[dict[str, bool]]:
    """Every way in which the free words may be true or false; with very many of them, all true and
    all false."""
    values: Iterator[tuple[bool, ...]]
    if len(free) <= MAX_FREE_WORDS:
        values = itertools.product((True, False), repeat=len(free))
    else:
        values = iter([(True,) * len(free), (False,) * len(free)])
    return [dict(zip(free, chosen, strict=True)) for chosen in values]


def _differs(
    tree: Tree,
    known: Sequence[str],
    exact: Sequence[bool],
    loose: Sequence[bool],
    worlds: Sequence[Mapping[str, bool]],
) -> tuple[bool, bool]:
    """Whether pytest would select, or leave out, against the words in any world."""
    more = less = False
    for world in worlds:
        said = _evaluate(tree, {**world, **dict(zip(known, exact, strict=True))})
        done = _evaluate(tree, {**world, **dict(zip(known, loose, strict=True))})
        more, less = more or (done and not said), less or (said and not done)
    return more, less


def _evaluate(tree: Tree, values: Mapping[str, bool]) -> bool:
    if isinstance(tree, str):
        return values[tree]
    kind, operands = tree
    if kind == "not":
        return not _evaluate(operands[0], values)
    verdicts = (_evaluate(operand, values) for operand in operands)
    return all(verdicts) if kind == "and" else any(verdicts)


def _words(tree: Tree) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    else:
        for operand in tree[1]:
            yield from _words(operand)


def _suggest(tree: Tree, tags: set[str]) -> str:
    """``-m`` for the conjuncts whose words are all tags, ``-k`` for those without one; mixed
    conjuncts take a person."""
    conjuncts: tuple[Tree, ...] = (tree,)
    if not isinstance(tree, str) and tree[0] == "and":
        conjuncts = tree[1]
    exact: list[Tree] = []
    loose: list[Tree] = []
    for conjunct in conjuncts:
        are_tags = {word.lower() in tags for word in _words(conjunct)}
        if len(are_tags) > 1:
            return ""
        (exact if are_tags == {True} else loose).append(conjunct)
    parts = [f'-m "{_text(exact, str.lower)}"'] if exact else []
    parts += [f'-k "{_text(loose, str)}"'] if loose else []
    return " ".join(parts)


def _text(conjuncts: Sequence[Tree], spell: Callable[[str], str]) -> str:
    def write(tree: Tree, inner: bool) -> str:
        if isinstance(tree, str):
            return spell(tree)
        kind, operands = tree
        if kind == "not":
            return f"not {write(operands[0], True)}"
        words = f" {kind} ".join(write(operand, True) for operand in operands)
        return f"({words})" if inner else words

    return write(conjuncts[0] if len(conjuncts) == 1 else ("and", tuple(conjuncts)), False)


def _parsed(text: str) -> Tree:
    """The expression: pytest's grammar is Python's, but for the words and what may be done to
    them."""
    words: list[str] = []

    def plain(match: re.Match[str]) -> str:
        token = match["paren"] or match["word"]
        if match["word"] and token not in ("and", "or", "not"):
            words.append(token)
            token = f"w{len(words) - 1}"
        return f" {token} "

    if _TOKEN.sub("", text).strip():
        raise _InvalidError
    try:
        return _tree(ast.parse(_TOKEN.sub(plain, text).strip(), mode="eval").body, words)
    except (SyntaxError, MemoryError, RecursionError):
        raise _InvalidError from None


def _tree(node: ast.expr, words: Sequence[str], depth: int = 0) -> Tree:
    if depth <= MAX_DEPTH:
        match node:
            case ast.Name():
                return words[int(node.id[1:])]
            case ast.UnaryOp(op=ast.Not()):
                return ("not", (_tree(node.operand, words, depth + 1),))
            case ast.BoolOp():
                kind = "and" if isinstance(node.op, ast.And) else "or"
                return (kind, tuple(_tree(value, words, depth + 1) for value in node.values))
    raise _InvalidError


MARK = "gpubench"
_CALL = re.compile(rf"(?<![\w.:-]){MARK}\(([^()]*)\)")
_ARGUMENT = re.compile(r"(\w+)\s*=\s*('[^']*'|\"[^\"]*\"|[^,\s]+)")
_WORD = re.compile(r"[\w.:+-]+")
_KINDS: dict[type, str] = {
    str: "text in quotes",
    int: "a number without quotes",
    bool: "True or False",
}
_MOST_SHOWN = 12


def field_errors(expression: str, fields: Mapping[str, type]) -> list[str]:
    """What of ``gpubench(field=value)`` in a ``-m`` expression can match no case at all, a sentence
    each.

    Args:
        fields: name to type of the mark's fields.
    """
    wrong = []
    for name, text, value in _arguments(expression):
        kind = fields.get(name)
        if kind is None:
            near = did_you_mean(name, fields)
            wrong.append(f"{MARK}() has no field '{name}'{near} (fields: {', '.join(fields)})")
        elif type(value) is not kind:
            words = f"the field '{name}' is {_KINDS[kind]}, not {text}"
            other = _as_kind(value, kind)
            wrong.append(words + (f"; write {name}={other!r}" if other is not None else ""))
    return wrong


def nearest(
    expression: str, tags: Collection[str], values: Mapping[str, Collection[Any]]
) -> list[str]:
    """For an expression of ``-k`` or ``-m`` that selects nothing: each word and value that no case
    has, with the nearest one.

    Args:
        tags: words of the cases.
        values: by field of the mark, the values that cases have.
    """
    hints = []
    for name, text, value in _arguments(expression):
        known = values.get(name, ())
        if known and value not in known:
            near = did_you_mean(str(value), map(str, known)) if isinstance(value, str) else ""
            hints.append(f"no case has {name}={text}{near or f' (there is {_listed(known)})'}")
    for word in dict.fromkeys(_WORD.findall(_CALL.sub(" ", expression))):
        if word in ("and", "or", "not") or any(word.lower() in tag for tag in tags):
            continue
        near = did_you_mean(word, tags)
        if near:
            hints.append(f"no case has the word '{word}'{near}")
    return hints


def _arguments(expression: str) -> Iterator[tuple[str, str, object]]:
    for inside in _CALL.findall(expression):
        for name, text in _ARGUMENT.findall(inside):
            try:
                yield name, text, ast.literal_eval(text)
            except (ValueError, SyntaxError):
                continue  # pytest says so itself


def _as_kind(value: object, kind: type) -> object:
    """The value in the type that the field has, None where there is none."""
    if kind is str and not isinstance(value, bool | None):
        return str(value)
    if kind is int and isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        return int(value)
    if kind is bool and str(value).lower() in ("true", "1", "false", "0"):
        return str(value).lower() in ("true", "1")
    return None


def _listed(known: Collection[Any]) -> str:
    words = [
        repr(value) for value in sorted(known, key=lambda value: (isinstance(value, str), value))
    ]
    return ", ".join(words[:_MOST_SHOWN]) + (", ..." if len(words) > _MOST_SHOWN else "")
