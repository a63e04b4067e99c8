"""The two engines of an A/B run: which server a launch starts, and what the doctor says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.against import Against, differences
from pytest_gpubench.engines.interpreter import EngineDistribution, probe_command
from pytest_gpubench.gate.baseline_key import NO_COUNTERPART, Counterparts, counterparts
from pytest_gpubench.host.gpus.inventory import Inventory
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.failures import Failure, GpubenchError
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.recipes.problems import problem_text
from pytest_gpubench.runs.doctoring import Doctor
from pytest_gpubench.runs.settings import Settings

SECOND = "b"


class Arms:
    """Servers by launch. Without ``--gpubench-against`` there is one engine, that of the
    recipes."""

    def __init__(
        self, settings: Settings, book: RecipeBook, inventory: Callable[[], Inventory]
    ) -> None:
        self._settings = settings
        self._words: dict[str, str] = {}
        self._recipes = book
        self._books = {"": _with(settings.first_engine, book)}
        self._there: Counterparts | None = None
        if settings.against is not None and settings.against.recipes:
            self._there = _counterparts(settings, book)
            servers = tuple((key, self._there.servers.get(key, spec)) for key, spec in book.servers)
            self._books[SECOND] = replace(book, servers=servers)
        elif settings.against is not None:
            self._books[SECOND] = _with(settings.against, book)
        self._doctors = {
            arm: Doctor(settings, arms_book, inventory) for arm, arms_book in self._books.items()
        }

    def spec(self, launch: Launch) -> ServerSpec:
        """The server that a launch starts."""
        return self._books[self._arm(launch)].server(launch.server)

    def never_runs(self, launch: Launch) -> str:
        """Why no case of a launch's server is run, empty where some are."""
        return self._books[""].never_runs(launch.server)

    def no_counterpart(self, server: str, case: Case | None = None) -> Failure | None:
        """Why a server, or a case of it, has no counterpart in the second engine's recipes; None
        where it has one."""
        if self._there is None:
            return None
        if case is None:
            reason = self._there.never(server, self._books[""].cases_of(server))
        else:
            reason = self._there.unlike.get(case.id, "")
        if not reason:
            return None
        option = self._settings.against
        where = option.text if option else ""
        return Failure(
            NO_COUNTERPART,
            "recipe",
            f"{case.id if case else server} cannot be compared with {where}: {reason}",
            remedy="Compare states of the recipes in which the case asks for the same work.",
        )

    def folder(self, launch: Launch) -> Path | None:
        """Where the engine of a launch is started; None: where pytest was."""
        option = self._settings.against
        return option.checkout if option and launch.arm == SECOND else None

    def doctor(self, launch: Launch) -> Doctor:
        """Findings for the servers of a launch's engine."""
        return self._doctors[self._arm(launch)]

    def hardware(self, spec: ServerSpec) -> Hardware:
        """What a server is meant for."""
        return self._books[""].hardware(spec.hardware)

    def command(self, spec: ServerSpec) -> tuple[str, ...]:
        """What starts a server: its own command, else the option, else this interpreter's
        engine."""
        return self._settings.command(spec)

    def distribution(self, spec: ServerSpec) -> EngineDistribution | None:
        """The installed engine behind a server's command; None where it cannot be told."""
        return probe_command(self.command(spec), dialect_of(spec.framework))

    def differences(self, server: str) -> tuple[str, ...]:
        """What tells the second engine from the first on a server: as asked for, and by the
        distributions behind the commands."""
        first, second = (self.spec(Launch(server, arm=arm)) for arm in ("a", SECOND))
        found = list(differences(first, second, self.command(first)))
        if self.command(first) != self.command(second):
            engines = [self.distribution(spec) for spec in (first, second)]
            names = [
                f"{engine.distribution} {engine.version}" if engine else "an unknown engine"
                for engine in engines
            ]
            found += [f"{names[1]} instead of {names[0]}"] if names[0] != names[1] else []
        return tuple(found)

    def words(self, server: str) -> str:
        """One line about the second engine on a server: the option as written, and what differs."""
        option = self._settings.against
        if option is None:
            return ""
        if server not in self._words:
            first = self._settings.first_engine
            self._words[server] = (
                (f"engine A is {first.text}, " if first else "") + f"engine B is {option.text} "
                f"({'; '.join(self.differences(server)) or 'the same as engine A'})"
            )
        return self._words[server]

    def against(self, launch: Launch) -> dict[str, object] | None:
        """For the records of the second engine: the option as written, and what differs from the
        first; of the first, where it is not that of the recipes, what differs from theirs."""
        option, first = self._settings.against, self._settings.first_engine
        if first is not None and launch.arm != SECOND:
            recipe = self._recipes.server(launch.server)
            own = differences(recipe, self.spec(launch), self.command(recipe))
            return {"option": first.text, "differences": own}
        if option is None or launch.arm != SECOND:
            return None
        return {"option": option.text, "differences": self.differences(launch.server)}

    def _arm(self, launch: Launch) -> str:
        return SECOND if SECOND in self._books and launch.arm == SECOND else ""


def _with(engine: Against | None, book: RecipeBook) -> RecipeBook:
    """The recipes with the engine that an option says."""
    if engine is None:
        return book
    return replace(book, servers=tuple((key, engine.applied(spec)) for key, spec in book.servers))


def _counterparts(settings: Settings, book: RecipeBook) -> Counterparts:
    """What the recipes of another checkout have for those of this run.

    Raises:
        GpubenchError: if they are wrong.
    """
    files = settings.against.recipes if settings.against else ()
    other = load_recipes(files, policy=settings.server_per)
    if other.problems:
        raise GpubenchError(f"--gpubench-against-checkout: {problem_text(other)}")
    return counterparts(book, other)
