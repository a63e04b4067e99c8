"""The commands of `gpubench`, from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

from docs_reference.markdown import code, prose, sentence, table
from pytest_gpubench.cli import _parser

_HEAD = """# Commands

Made from the parser of `gpubench`; `gpubench COMMAND --help` says the same. Exit codes are under
[Verdicts and exit codes](outcomes.md).
"""


@dataclass(slots=True)
class Command:
    """One command, or one command below a command."""

    name: str
    help: str
    usage: str
    arguments: list[tuple[str, str]] = field(default_factory=list)
    """How it is written, and what it means."""


def commands() -> list[Command]:
    """All commands, in the order of the parser."""
    return list(_commands(_parser()))


def _commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, below in action.choices.items():
            if name not in helps:
                continue  # for the product's own use, and not shown by --help either
            nested = list(_commands(below))
            if not nested:
                usage = " ".join(below.format_usage().removeprefix("usage: ").split())
                yield Command(below.prog, helps[name], usage, list(_arguments(below)))
            yield from nested


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = (
            action.metavar
            if isinstance(action.metavar, str)
            else action.dest.upper()
            if action.option_strings
            else action.dest
        )
        if action.choices is not None:
            value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
        takes = value if action.nargs != 0 else ""
        written = ", ".join(f"{name} {takes}".strip() for name in action.option_strings) or value
        yield written, str(action.help or "")


def commands_page() -> str:
    """The page."""
    lines = [_HEAD]
    for command in commands():
        lines.append(f"## {command.name}\n")
        lines.append(f"{sentence(prose(command.help))}\n")
        lines.append(f"```text\n{command.usage}\n```\n")
        if command.arguments:
            rows = [(code(written), prose(meaning)) for written, meaning in command.arguments]
            lines.append(table(("argument", "meaning"), rows) + "\n")
    return "\n".join(lines)
