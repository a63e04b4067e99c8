"""Recipes against the official ones that they follow, flag by flag: pure.

The parallelism is the row's and not compared; what a launch has anew, neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.dialects.command_line import json_text
from pytest_gpubench.dialects.command_reading import comparable, differences
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.dialects.server_flags import DRAFT, follows_from_row
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap, spelled, thaw
from pytest_gpubench.model.secrets import shown_value
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.recipes.importing.foreign_server import ForeignServer
from pytest_gpubench.recipes.importing.official_entries import Picks, choice_like, server_of
from pytest_gpubench.recipes.importing.official_nodes import Profile

_DRAFT = "speculative"


@dataclass(frozen=True, slots=True)
class Difference:
    """One flag, variable or key of the draft that is not as in the official recipe."""

    name: str
    """As the recipe would write it in `differs`."""
    ours: tuple[str, ...]
    """Values over the recipe's servers; ``none``: it is not set."""
    theirs: tuple[str, ...]
    why: str = ""
    """The recipe's reason; empty: it gives none."""
    servers: int = 1
    """How many of the recipe's servers differ."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One recipe."""

    recipe: str
    source: str
    meant: tuple[str, ...]
    """Variant, strategy and hardware that it was compared with, each once."""
    differences: tuple[Difference, ...]
    servers: int
    """How many were compared."""
    idle: tuple[str, ...]
    """Names that `differs` explains, and that are as in the official recipe."""

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        """What the recipe gives no reason for."""
        return tuple(one for one in self.differences if not one.why)


def compare(
    cases: Sequence[Case],
    servers: Mapping[str, ServerSpec],
    entry: Mapping[str, Any],
    profiles: Mapping[str, Profile],
) -> Comparison:
    """One recipe's servers against an official entry.

    Args:
        cases: of one recipe, all with the same source.
        servers: specs by key.

    Raises:
        GpubenchError: if the entry has nothing like one of them.
    """
    first = cases[0]
    found: dict[str, tuple[list[str], list[str]]] = {}
    meant: list[str] = []
    specs = [servers[key] for key in dict.fromkeys(case.server for case in cases)]
    for spec in specs:
        picks = _picks(first, spec)
        drafted = spec.speculative is not None
        try:
            choice = choice_like(entry, profiles, picks, spec.model, spec.topology, drafted=drafted)
        except GpubenchError as error:
            raise GpubenchError(f"{first.recipe}: {error}") from None
        meant.append(f"{choice.variant}, {choice.strategy} on {choice.profile.id}")
        for name, ours, theirs in unlike_official(spec, server_of(entry, choice)):
            values = found.setdefault(name, ([], []))
            values[0].append(_shown(name, ours))
            values[1].append(_shown(name, theirs))
    told = {name: str(why) for name, why in first.differs.items()}
    made = []
    for name, (ours, theirs) in sorted(found.items()):
        why = next((why for known, why in told.items() if _explains(known, name)), "")
        made.append(Difference(name, _each(ours), _each(theirs), why, len(ours)))
    idle = [name for name in told if not any(_explains(name, one.name) for one in made)]
    return Comparison(
        first.recipe, first.source, _each(meant), tuple(made), len(specs), tuple(idle)
    )


def unlike_official(spec: ServerSpec, server: ForeignServer) -> Iterator[tuple[str, Any, Any]]:
    """(name, ours, theirs) of flags, keys of the draft and variables; None: not set."""
    dialect = dialect_of(spec.framework)
    line = dialect.render(spec, ("",), served_name="", offline=False)
    reasons = dialect.flags.ours
    sides = []
    for words in (line.argv[1:], server.options):
        settings = comparable(dialect, words)
        sides.append({
            _DRAFT if reasons.get(name) == DRAFT else name: value
            for name, value in settings.items()
            if not follows_from_row(reasons.get(name, ""))
        })  # fmt: skip
    for name, left, right in differences(*sides):
        inner = name.startswith(f"{_DRAFT}.")
        yield name.replace("_", "-") if inner else name, left, right
    ours_env = line.printable_env()
    for name in dict.fromkeys([*server.env, *spec.env]):
        left, right = ours_env.get(name), server.env.get(name)
        if left != right:
            yield name, left, right


def _picks(case: Case, spec: ServerSpec) -> Picks:
    said: Mapping[str, Any] = case.official
    features = said.get("features") or ()
    return Picks(
        variant=str(said.get("variant") or ""),
        strategy=str(said.get("strategy") or ""),
        hardware=str(said.get("hardware") or spec.hardware),
        features=tuple(map(str, features)),
    )


def _explains(known: str, name: str) -> bool:
    return name == known or name.startswith(f"{known}.")


def _each(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, FrozenMap | tuple | dict | list):
        plain = thaw(value) if isinstance(value, FrozenMap | tuple) else value
        return shown_value(name, json_text(plain))
    return shown_value(name, spelled(value))


def lines_of(comparison: Comparison) -> Iterator[str]:
    """A comparison, as a person reads it."""
    yield f"{comparison.recipe}: {comparison.source} ({'; '.join(comparison.meant)})"
    for one in comparison.differences:
        mark = "explained" if one.why else "NOT EXPLAINED"
        ours, theirs = " | ".join(one.ours), " | ".join(one.theirs)
        some = f" ({one.servers} of {comparison.servers} servers)"
        where = some if one.servers < comparison.servers else ""
        yield f"  {mark}: {one.name}: ours {ours}, official {theirs}{where}"
        if one.why:
            yield f"    {one.why}"
    if not comparison.differences:
        yield "  no difference"


def idle_everywhere(comparisons: Iterable[Comparison]) -> list[str]:
    """Names that explain nothing in any recipe that has them: templates give reasons to many."""
    every = list(comparisons)
    idle = dict.fromkeys(name for one in every for name in one.idle)
    used = {
        name for one in every for difference in one.differences for name in idle
        if difference.why and _explains(name, difference.name)
    }  # fmt: skip
    return [name for name in idle if name not in used]
