"""What changed between two states of the recipes, case by case, as resolved: a template's change is
one of all who extend it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import canonical_json, thaw
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.printing import counted, listed
from pytest_gpubench.model.secrets import shown_value

Kind = Literal["new", "changed", "removed"]

_SHOWN = 4
"""Details of a change in a line; the rest is counted."""
_ABSENT = "not set"
_CASE_FIELDS = ("runner", "workload", "max_model_len", "runnable", "gates", "policy")


@dataclass(frozen=True, slots=True)
class Change:
    """One case that is not what it was."""

    case: str
    recipe: str
    kind: Kind
    details: tuple[str, ...] = ()
    """``serve.block-size: 128 -> 64``, sorted by name; empty for a case that is new or removed."""


def changes(before: RecipeBook, after: RecipeBook) -> tuple[Change, ...]:
    """Cases of ``after`` that are new or differ, in its order, then those of ``before`` that are
    gone.

    Cases are matched by id. What counts is everything that decides the server and the measurement,
    and the gates; names of files, places in them and links do not. Values of environment variables
    are compared and never shown.
    """
    old = {case.id: case for case in before.cases}
    changed: list[Change] = []
    for case in after.cases:
        if case.id not in old:
            changed.append(Change(case.id, case.recipe, "new"))
            continue
        details = tuple(_differences(_facts(before, old[case.id]), _facts(after, case)))
        if details:
            changed.append(Change(case.id, case.recipe, "changed", details))
    kept = {case.id for case in after.cases}
    return (
        *changed,
        *(Change(case.id, case.recipe, "removed") for case in before.cases if case.id not in kept),
    )


def groups_of(changed: Iterable[Change]) -> Iterator[tuple[str, Kind, tuple[str, ...], list[str]]]:
    """Changes that are the same for several cases of a recipe, together: recipe, kind, details,
    cases."""
    alike = grouped(changed, lambda change: (change.recipe, change.kind, change.details))
    for (recipe, kind, details), members in alike.items():
        yield recipe, kind, details, [change.case for change in members]


def lines(changed: Iterable[Change]) -> list[str]:
    """A line per group: which cases, and why."""
    text = []
    for recipe, kind, details, cases in groups_of(changed):
        line = f"{recipe}: {counted(len(cases), 'case')} {kind}"
        text.append(f"{line}: {listed(details, _SHOWN)}" if details else line)
    return text


def changelog(changed: Sequence[Change], revision: str) -> str:
    """Markdown: what is new, what changed and how, what is gone."""
    text = [f"## Recipes since {revision}", ""]
    for kind, title in (("new", "New"), ("changed", "Changed"), ("removed", "Removed")):
        groups = [group for group in groups_of(changed) if group[1] == kind]
        if not groups:
            continue
        text += [f"### {title}", ""]
        for recipe, _, details, cases in groups:
            points = listed([case.removeprefix(f"{recipe}-") for case in cases], _SHOWN)
            text.append(f"- `{recipe}` ({counted(len(cases), 'case')}: {points})")
            text += [f"    - {detail}" for detail in details]
        text.append("")
    if not changed:
        text.append("No case changed.")
    return "\n".join(text).rstrip()


def broken_before(problems: int) -> str:
    """The sentence for recipe files that were wrong at the earlier revision."""
    return (
        f"the recipes had {counted(problems, 'problem')} then; a recipe that could not be "
        "read counts as new"
    )


def _facts(book: RecipeBook, case: Case) -> dict[str, Any]:
    spec = book.server(case.server)
    facts: dict[str, Any] = {}
    for name in _CASE_FIELDS:
        _flatten(name.replace("_", "-"), getattr(case, name), facts)
    for item in dataclasses.fields(spec):
        _flatten(item.name.replace("_", "-"), getattr(spec, item.name), facts)
    return facts


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            _flatten(f"{name}.{item.name.replace('_', '-')}", getattr(value, item.name), into)
    elif isinstance(value, Mapping):
        for key in value:
            _flatten(f"{name}.{key}", value[key], into)
    else:
        into[name] = thaw(value)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = (_words(name, side) for side in (before, after))
        if old == new:
            continue
        old, new = shown_value(name, old), shown_value(name, new)
        # Equal now: they differ in what is not shown.
        hidden = name.startswith("env.") or old == new
        yield f"{name} changed" if hidden else f"{name}: {old} -> {new}"


def _words(name: str, side: Mapping[str, Any]) -> str:
    value = side.get(name)
    if value is None:
        return _ABSENT
    return value if isinstance(value, str) and value else canonical_json(value)
