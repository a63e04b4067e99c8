"""What a recipe may know of the host: facts that a file declares, never a program that asks for
them, so that a plan is the same wherever it is made."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from pytest_gpubench.recipes.checking import CASE_NAMES
from pytest_gpubench.recipes.expressions import FUNCTIONS, Value
from pytest_gpubench.recipes.problems import ProblemLog, join_path, shown
from pytest_gpubench.recipes.yaml_tree import Node

KEY = "host"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def host_facts(roots: Iterable[Node], log: ProblemLog) -> dict[str, Value]:
    """The facts of all files by name.

    The first file that says one counts; a file comes before those that it includes, so that a
    recipe's own file holds the usual value and a site's file may say otherwise.
    """
    facts: dict[str, Value] = {}
    for root in roots:
        section = root.get(KEY)
        if section is not None and not isinstance(section.value, dict):
            log.add(section.at, KEY, "must be a map from names to numbers, true/false or text")
        for name, entry in root.entries_of(KEY).items():
            value = entry.node.value
            if wrong := _name_error(name):
                log.add(entry.key_at, join_path(KEY, name), wrong)
            elif isinstance(value, bool | int | float | str) and not entry.node.doubt:
                facts.setdefault(name, value)
            else:
                words = entry.node.doubt or "must be a number, true/false or text"
                log.add(entry.node.at, join_path(KEY, name), words)
    return facts


def _name_error(name: str) -> str | None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in FUNCTIONS:
        return f"{shown(name)} cannot be a name in expressions; write one such as mec_firmware"
    if name in CASE_NAMES or name in ("true", "false"):
        return f"'{name}' has a meaning in expressions already; choose another name"
    return None
