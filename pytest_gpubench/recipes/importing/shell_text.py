"""The server command in a piece of shell, read and never run: environment, continued lines, quotes
and comments are the words' own; whatever only a shell can do is named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pytest_gpubench.dialects.command_reading import Started, started
from pytest_gpubench.dialects.registry import every_dialect
from pytest_gpubench.dialects.server_flags import LAUNCH
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.secrets import without_shapes
from pytest_gpubench.recipes.importing.foreign_server import ForeignServer

LONGEST = 1_000_000
"""Characters of a text that is read."""
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::-(.*))?\})", re.DOTALL)
_DESCRIPTOR = re.compile(r"(?<=\s)\d+\Z")
_OPERATORS = "();<>|&"
_ENDS = frozenset(";&()")
"""Operators of these characters (and ``||``) end a command; others lead its output elsewhere."""
_SILENT = ("exec", "env")
"""Before a command: they change nothing of it."""
_SHELL = "$`() "
_PRIVATE = range(0xE000, 0xF8FF)
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class _Marks:
    """Characters that occur nowhere in a text and stand for what a shell would act on."""

    letters: str
    """For `_SHELL`."""
    operators: str
    """For `_OPERATORS` that no quotation holds."""

    @classmethod
    def for_text(cls, text: str) -> _Marks:
        free = (chr(code) for code in _PRIVATE if chr(code) not in text)
        return cls("".join(islice(free, len(_SHELL))), "".join(islice(free, len(_OPERATORS))))

    @property
    def dollar(self) -> str:
        return self.letters[0]

    def hides(self, word: str) -> bool:
        """Whether a shell would act on a word."""
        return any(letter in word for letter in self.letters)

    def of(self, text: str) -> str:
        """A text of the shell's as one word: operators and quotes in it are blanks."""
        blank = self.letters[-1]
        table = dict(zip(_SHELL, self.letters, strict=True))
        return "".join(
            table.get(one, one if one.isalnum() or one in "_-./:=%,{}+" else blank) for one in text
        )

    def operator(self, one: str) -> str:
        """The mark of an operator; any other character stays."""
        place = _OPERATORS.find(one)
        return one if place < 0 else self.operators[place]

    def plain(self, text: str) -> str:
        """A text without marks."""
        table = dict(zip(self.letters + self.operators, _SHELL + _OPERATORS, strict=True))
        return "".join(table.get(one, one) for one in text)

    def shown(self, words: Sequence[str]) -> str:
        """Words as they were written, by their beginning and without secrets."""
        text = self.plain(" ".join(words))
        text = " ".join(without_shapes(text).split())
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def server_in_words(words: Sequence[str]) -> ForeignServer:
    """The server of words that a shell has read already: ``VAR=value`` before the command.

    Raises:
        GpubenchError: if they start no engine that is known.
    """
    return _server(list(words), _Marks.for_text("".join(words)))


def server_in_text(text: str) -> ForeignServer:
    """The one server command in a piece of shell.

    Raises:
        GpubenchError: if it is no shell, holds no such command, or several.
    """
    if len(text) > LONGEST:
        raise GpubenchError(f"the text has more than {LONGEST:,} characters; give the command only")
    marks = _Marks.for_text(text)
    try:
        commands = list(_commands(_marked(text, marks), marks))
    except ValueError as error:
        raise GpubenchError(
            f"the text is no command line: {str(error).lower()}; close the quotation"
        ) from None
    places = [place for place, words in enumerate(commands) if started(words)]
    if not places:
        raise GpubenchError(_no_server())
    if len(places) > 1:
        raise GpubenchError(
            f"the text starts {len(places)} servers; give one of the commands at a time"
        )
    exported: list[str] = []
    lost: list[str] = []
    for place, words in enumerate(commands):
        if place == places[0]:
            continue
        assigns = words[0] == "export" and all(map(_ASSIGNMENT.fullmatch, words[1:]))
        if assigns and place < places[0]:
            exported += words[1:]
        else:
            lost.append(f"{marks.shown(words)}: a command of the shell")
    server = _server([*exported, *commands[places[0]]], marks)
    return ForeignServer(server.dialect, server.options, server.env, (*server.lost, *lost))


def _no_server() -> str:
    starts = [" ".join(start) for dialect in every_dialect() for start in dialect.starts]
    known = [f"`python {start}`" if start[0] == "-" else f"`{start}`" for start in starts]
    return f"no server command is known in it: {', '.join(known[:-1])} or {known[-1]} is wanted"


def _marked(text: str, marks: _Marks) -> str:
    """The text without comments, continuations and numbers of descriptors, ends of lines as ``;``,
    and what a shell would put in for ``$`` and backticks marked."""
    made: list[str] = []
    quote = ""
    index = 0
    while index < len(text):
        one, following = text[index], text[index + 1 : index + 2]
        if one == "\\" and quote != "'":
            if text.startswith("\\\r\n", index):
                index += 3
            else:
                made.append("" if following == "\n" else one + following)
                index += 2
            continue
        if not quote and one == "#" and _at_start(made, marks):
            index = (text.find("\n", index) + len(text) + 1) % (len(text) + 1)
            continue
        if quote != "'" and one in "$`":
            end = _substitution(text, index)
            made.append(marks.of(text[index:end]))
            index = end
            continue
        if quote:
            quote = "" if one == quote else quote
        elif one in "'\"":
            quote = one
        else:
            if one in "<>":
                made = [_DESCRIPTOR.sub("", "".join(made))]
            one = marks.operator(";" if one == "\n" else one)
        made.append(one)
        index += 1
    return "".join(made)


def _at_start(made: list[str], marks: _Marks) -> bool:
    """Whether a word begins here."""
    before = made[-1][-1:] if made else ""
    return not before or before.isspace() or before in marks.operators


def _substitution(text: str, start: int) -> int:
    """Where what begins with a dollar or a backtick ends."""
    opening = text[start + 1 : start + 2]
    if text[start] == "`":
        return (text.find("`", start + 1) + 1) or len(text)
    closing = {"(": ")", "{": "}"}.get(opening)
    if closing is None:
        name = re.compile(r"\w*").match(text, start + 1)
        return name.end() if name and name.end() > start + 1 else start + 1
    depth = 0
    for index in range(start + 1, len(text)):
        depth += (text[index] == opening) - (text[index] == closing)
        if depth == 0:
            return index + 1
    return len(text)


def _commands(text: str, marks: _Marks) -> Iterator[list[str]]:
    """The commands of a marked text as their words; what follows a pipe or a redirection is one of
    its own, with the operator first.

    Raises:
        ValueError: if a quotation is not closed.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=marks.operators)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    elsewhere = False
    for word in lexer:
        operator = marks.plain(word) if word and not set(word) - set(marks.operators) else ""
        if not operator or (elsewhere and not _ends(operator)):
            words.append(word)
            continue
        if words:
            yield words
        elsewhere = not _ends(operator)
        words = [word] if elsewhere else []
    if words:
        yield words


def _ends(operator: str) -> bool:
    return set(operator) <= _ENDS or operator == "||"


def _server(words: list[str], marks: _Marks) -> ForeignServer:
    start = started(words)
    if start is None:
        raise GpubenchError(_no_server())
    env: dict[str, Any] = {}
    lost: list[str] = []
    prefix: list[str] = []
    for word in start.before:
        found = _ASSIGNMENT.fullmatch(word)
        if found and not prefix:
            value = _value(found[2], marks)
            env[found[1]] = value
            if value is None:
                del env[found[1]]
                lost.append(f"env {marks.shown([word])}: only a shell knows the value")
        elif word not in _SILENT:
            prefix.append(word)
    if prefix:
        lost.append(
            f"{marks.shown(prefix)}: stands before the engine; a recipe's `command` may hold it"
        )
    options, unknown = _options(start, marks)
    return ForeignServer(start.dialect, tuple(options), env, (*lost, *unknown))


def _options(start: Started, marks: _Marks) -> tuple[list[str], list[str]]:
    """The words that are what they are, and a sentence for each that only a shell knows."""
    words, rules = start.options, start.dialect.flags
    options: list[str] = []
    lost: list[str] = []
    index = 0
    while index < len(words):
        end = index + 1
        if words[index].startswith("-"):
            while end < len(words) and not words[end].startswith("-"):
                end += 1
        taken, index = list(words[index:end]), end
        if not any(map(marks.hides, taken)):
            options += taken
        elif taken[0].startswith("-"):
            ours = rules.our_word(taken[0])
            if ours is None or ours[1] not in LAUNCH:
                lost.append(f"{marks.shown(taken)}: only a shell knows the value")
        else:
            raise GpubenchError(
                f"the word {marks.shown(taken)} (the model?) is one that only a shell knows: write "
                "what it means"
            )
    return options, lost


def _value(text: str, marks: _Marks) -> Any:
    """The value of a variable: text, or what it reads from the host; None where only a shell
    knows."""
    if not marks.hides(text):
        return text
    found = _VARIABLE.fullmatch(text[1:]) if text[0] == marks.dollar else None
    if found is None or marks.hides(text[1:]):
        return None
    name, default = found[1] or found[2], found[3]
    return {"from": name} if default is None else {"from": name, "default": default}
