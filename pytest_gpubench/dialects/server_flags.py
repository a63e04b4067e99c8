"""What a recipe may not set of a server, because it follows from the recipe's own fields or from
the launch: known in every spelling that the engine's parser takes.

One table per engine, used where a file is read (with file and line) and where a command line is
rendered. The parser is argparse's: ``--flag=value``, any prefix of a flag, underscores for dashes,
``--flag.key`` for a key of a JSON value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pytest_gpubench.model.secrets import secret_inside

SECRET = "a command line can be read by every user of the host and is kept in records"
TCP = "the plugin talks plain HTTP to 127.0.0.1"
ROW = "the parallelism comes from the row of the search space; write `{}` there"
KEY = "the plugin makes one per server"
NAME = "the plugin sets it to prove the server's identity"
PLACE = "the plugin chooses it"
HTTP = "the plugin asks the server over HTTP"
ONE_HOST = "a server is one host's: leave it out"
FILE = "write the file's flags under `serve`: what they are belongs in the record"
MODEL = "write it as the recipe's `model`"
REVISION = "write it as the recipe's `revision`"
DRAFT = "write `speculative` instead"
GPU_VARIABLES = dict.fromkeys(
    ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "the plugin leases the GPUs",
)
METRICS = "the plugin sets it: token totals are checked against the engine's"

LAUNCH = (KEY, NAME, PLACE, METRICS)
"""Reasons of flags that every launch gets anew: a command line loses nothing of its server with
them."""

MAX_TOKENS = 10_000_000
MAX_CONCURRENCY = 1_000_000

Range: TypeAlias = tuple[Literal["integer", "number"], float, float]
"""Kind, least and most of a flag's value."""

_SECRET_FLAG = re.compile(r"(^|-)(api-?key|token|passw(or)?d|passphrase|secret|credentials?)$")
_NUMBER = re.compile(r"-\.?\d")
_EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class FlagRules:
    """What one engine's flags and variables mean to a recipe."""

    ours: Mapping[str, str]
    """Flag, without dashes, to the reason why it is not a recipe's to set, with what to write
    instead: two sources for one value could contradict each other, or would show a secret."""
    length: str
    """The flag for the longest sequence; a recipe that leaves it out gets input, output and a
    margin."""
    length_of: str = ""
    """The flag for the number of sequences that share that length; empty: it is of one sequence."""
    slots: int = 1
    """Its default."""
    short: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Flags of `ours` with one dash."""
    synonyms: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Other names that the engine's parser has for a flag, to the one that is printed here, all
    without dashes."""
    env: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Variables that are not a recipe's to set, likewise."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """Flags whose values are checked when a file is read."""
    capacities: tuple[str, ...] = ()
    """Flags of which a shared server gets the maximum; any other difference splits the group."""
    offloading: tuple[str, ...] = ()
    """Flags by which KV blocks go to the host's memory."""
    negation: str = "no-"
    """What turns a switch off, before its name; empty: switches are left out instead."""
    instead: Mapping[str, tuple[str, str]] = field(default_factory=lambda: {})
    """Short options that people write without their dash, to the flag that they mean: alone, and
    before a dot."""

    def our_flag(self, name: str) -> tuple[str, str] | None:
        """The flag that a name without dashes means, and why it is not a recipe's to set; None for
        any other."""
        head = re.split(r"[.+]", name, maxsplit=1)[0].replace("_", "-")
        for plain in (head, head.removeprefix("no-")):
            if plain in self.ours:
                return plain, self.ours[plain]
            # One letter begins many flags of an engine, and its parser refuses that by itself.
            if len(plain) > 1 and (ours := [flag for flag in self.ours if flag.startswith(plain)]):
                return ours[0], f"the engine reads it as --{ours[0]}: {self.ours[ours[0]]}"
        return (head, SECRET) if _SECRET_FLAG.search(head) else None

    def our_word(self, word: str) -> tuple[str, str] | None:
        """As `our_flag` for a word of a command line; None also for a word that is no flag."""
        head = word.split("=", 1)[0]
        if head.startswith("--"):
            return self.our_flag(head[2:]) if len(head) > 2 else None
        if not head.startswith("-") or len(head) < 2 or _NUMBER.match(head):
            return None
        start = head.split(".", 1)[0]
        ours = [flag for short, flag in self.short.items() if short.startswith(start)]
        return (ours[0], self.ours[ours[0]]) if ours else None

    def words_error(self, words: Sequence[str], *, short: bool = True) -> str | None:
        """What is wrong with words that go onto a command line as they are, None if nothing.

        Args:
            short: whether flags with one dash are the engine's (before the engine's name they are
                an interpreter's).
        """
        for word in words:
            if (short or word.startswith("--")) and (ours := self.our_word(word)):
                return f"holds {word.split('=', 1)[0]}, which is not a recipe's to set: {ours[1]}"
            if wrong := secret_error(word):
                return wrong
            if "\0" in word:
                return "holds a NUL character, which no command line can hold; remove it"
        return None

    def said_twice(self, flags: Collection[str], words: Sequence[str]) -> str | None:
        """What is wrong with words that go onto a command line behind flags, since they hold one of
        these again; None if nothing. The engine would take the last, in silence."""
        known = {self._name(flag): flag for flag in flags}
        for word in words:
            head = word.split("=", 1)[0]
            if head.startswith("--") and (flag := known.get(self._name(head[2:]))):
                return (
                    f"holds {head}, and `serve` sets {flag}: say it once, under `serve` "
                    "(null there leaves a flag out)"
                )
        return None

    def _name(self, flag: str) -> str:
        plain = flag.replace("_", "-").removeprefix(self.negation or "\0")
        return self.synonyms.get(plain, plain)


def for_reasons(flags: Mapping[str, str]) -> dict[str, str]:
    """`FlagRules.ours` from the flags of each reason, with spaces between."""
    return {flag: reason for reason, names in flags.items() for flag in names.split()}


def secret_error(text: str) -> str | None:
    """What is wrong with a text that goes onto a command line and names a secret, None if it names
    none."""
    if name := secret_inside(text):
        return f"holds a value of {name}: {SECRET}; set it in the recipe's `env` as {{from: NAME}}"
    return None


def follows_from_row(reason: str) -> bool:
    """Whether a flag of `FlagRules.ours` is the row's, by its reason."""
    before, _, after = ROW.partition("{}")
    return reason.startswith(before) and reason.endswith(after)


def joined(rules: Iterable[FlagRules]) -> FlagRules:
    """The rules for words whose engine is not known yet: refused is what any engine refuses."""
    every = list(rules)

    def merged(part: str) -> dict[str, str]:
        return {name: why for one in every for name, why in getattr(one, part).items()}

    return FlagRules(
        ours=merged("ours"),
        length=every[0].length,
        short=merged("short"),
        env=merged("env"),
        ranges={name: limits for one in every for name, limits in one.ranges.items()},
    )
