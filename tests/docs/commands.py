"""Commands in Markdown: found in code blocks, with what a comment above the block says about them.

    <!-- docs: exit 1; expect: limit-broken -->

    ```console
    $ pytest benchmarks -k tiny
    ```

A block with ``$ `` lines, or an indented or fenced block whose lines begin with a known program,
holds commands. What the comment may say, separated by semicolons:

- ``exit 0 or 10``: the exit codes that are right (0 where nothing is said);
- ``expect: TEXT``: the output holds TEXT;
- ``only parsed: REASON``: the command is not run, because it needs REASON; its words are checked as
  far as that goes;
- ``first: COMMAND``: run this beforehand, out of the reader's sight;
- ``file NAME`` and ``append NAME``: the block is no command, it becomes a file or the end of one;
- ``empty folder``, anywhere on a page: the page begins without recipes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = (
    "pytest",
    "gpubench",
    "tox",
    "pip",
    "python",
    "git",
    "srun",
    "sbatch",
    "squeue",
    "scancel",
    "vllm",
    "docker",
    "podman",
)
_COMMENT = re.compile(r"<!-- docs: (.*?) -->", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(slots=True)
class Block:
    """One code block with what stands above it."""

    page: str
    line: int
    """Of its first line of text, from 1."""
    info: str
    """What stands behind the fence; empty for indented blocks."""
    lines: list[str]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """Its commands, continued lines joined, prompts taken off."""
        prompted = any(line.startswith("$ ") for line in self.lines)
        if not prompted and self.info not in ("", "console", "bash", "sh", "shell"):
            return []
        joined = re.sub(r"\\\n\s*", "", "\n".join(self.lines)).split("\n")
        if prompted:
            return [line[2:] for line in joined if line.startswith("$ ")]
        return [line for line in joined if is_command(line)]


def is_command(line: str) -> bool:
    """Whether a line begins with a program that we know, assignments aside."""
    words = [word for word in line.split() if not _ASSIGNMENT.match(word)]
    return line[:1].strip() != "" and bool(words) and words[0] in PROGRAMS


def split(command: str) -> tuple[dict[str, str], list[str]]:
    """Assignments in front and the words of a command, a comment behind it left out.

    Raises:
        ValueError: for quotes that do not close.
    """
    words = shlex.split(command, comments=True)
    env: dict[str, str] = {}
    while words and _ASSIGNMENT.match(words[0]):
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    return env, words


def read_blocks(page: str, text: str) -> list[Block]:
    """The code blocks of a page, in order."""
    return list(_blocks(page, text.split("\n")))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    notes: dict[str, str] = {}
    number, previous = 0, ""
    while number < len(lines):
        line = lines[number]
        fence = re.match(r"( *)(`{3,}|~{3,})\s*(\S*)", line)
        if fence:
            close = next(
                at
                for at in range(number + 1, len(lines) + 1)
                if at == len(lines) or lines[at].strip() == fence[2]
            )
            inner = [inside.removeprefix(fence[1]) for inside in lines[number + 1 : close]]
            yield Block(page, number + 2, fence[3], inner, notes)
            notes, number, previous = {}, close + 1, ""
        elif line.startswith("    ") and not previous.strip() and not _in_list(lines, number):
            close = number
            while close < len(lines) and (
                lines[close].startswith("    ") or not lines[close].strip()
            ):
                close += 1
            yield Block(page, number + 1, "", [inside[4:] for inside in lines[number:close]], notes)
            notes, number, previous = {}, close, ""
        else:
            comment = _COMMENT.fullmatch(line.strip())
            if comment:
                notes = parse_notes(comment[1])
            elif line.strip():
                notes = {}
            previous, number = line, number + 1


def _in_list(lines: list[str], number: int) -> bool:
    """Whether an indented line belongs to an item of a list."""
    above = next(
        (line for line in reversed(lines[:number]) if line.strip() and not line.startswith("  ")),
        "",
    )
    return bool(re.match(r"([-*]|\d+\.) ", above))


def parse_notes(text: str) -> dict[str, str]:
    """What a comment says, by its first words.

    Raises:
        ValueError: for a word that means nothing.
    """
    notes: dict[str, str] = {}
    for part in text.split(";"):
        found = re.fullmatch(
            r"(exit|expect:|first:|only parsed:|file|append|empty folder)\s*(.*)",
            part.strip(),
            re.DOTALL,
        )
        if not found:
            raise ValueError(f"{part.strip()!r} says nothing that is known")
        notes[found[1].rstrip(":")] = " ".join(found[2].split())
    return notes


def is_empty_folder(text: str) -> bool:
    """Whether a page says that it begins without recipes."""
    return any("empty folder" in parse_notes(said) for said in _COMMENT.findall(text))


def pages(root: Path) -> dict[str, str]:
    """README and everything below docs/, by name."""
    found = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in found}
