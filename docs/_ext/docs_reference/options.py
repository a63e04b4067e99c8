"""The options and ini values that the plugin declares, as pytest hears them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from docs_reference.markdown import code, prose, table
from pytest_gpubench import plugin

_HEAD = """# Options of pytest

Made from the plugin's declarations; `pytest --help` shows them under "gpubench". A standing setting also has a name for the
`[pytest]` section (or `[tool.pytest.ini_options]`); the option wins. Files and folders of an option are relative to where
pytest was called, those of the ini file to the root folder.
"""


@dataclass(slots=True)
class Declared:
    """One option or ini value."""

    name: str
    help: str
    value: str = ""


@dataclass(slots=True)
class Declarations:
    """Stands in for pytest's parser, and keeps what is declared."""

    options: list[Declared] = field(default_factory=list)
    inis: list[Declared] = field(default_factory=list)

    def getgroup(self, _name: str, _description: str = "", **_more: Any) -> Declarations:
        return self

    def addoption(self, *names: str, **declared: Any) -> None:
        value = (
            ""
            if declared.get("action") in ("store_true", "store_false", "store_const")
            else str(declared.get("metavar") or "")
        )
        if declared.get("choices"):
            value = ", ".join(str(choice) for choice in declared["choices"])
        self.options.append(Declared(names[0], str(declared.get("help") or ""), value))

    def addini(self, name: str, help: str, type: str | None = None, **_more: Any) -> None:
        self.inis.append(Declared(name, help, type or "string"))


def declared() -> Declarations:
    """What the plugin declares."""
    kept = Declarations()
    plugin.pytest_addoption(cast("pytest.Parser", kept))
    return kept


def options_page() -> str:
    """The page."""
    kept = declared()
    inis = {ini.name: ini for ini in kept.inis}
    rows = []
    for option in kept.options:
        twin = inis.pop(option.name.removeprefix("--").replace("-", "_"), None)
        rows.append(
            (
                code(option.name),
                code(option.value),
                prose(option.help),
                code(twin.name) if twin else "",
            )
        )
    lines = [_HEAD, table(("option", "value", "meaning", "ini"), rows)]
    if inis:
        lines.append("\n## Only in the ini file\n")
        lines.append(
            table(
                ("name", "type", "meaning"),
                [(code(ini.name), ini.value, prose(ini.help)) for ini in inis.values()],
            )
        )
    return "\n".join(lines) + "\n"
