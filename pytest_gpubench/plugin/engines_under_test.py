"""The two engines of an A/B run: which server a launch starts, and what the doctor says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.against import differences
from pytest_gpubench.engines.interpreter import EngineDistribution, probe_command
from pytest_gpubench.host.gpus.inventory import Inventory
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.plugin.doctoring import Doctor
from pytest_gpubench.plugin.settings import Settings

SECOND = "b"


class Arms:
    """Servers by launch. Without ``--gpubench-against`` there is one engine, that of the
    recipes."""

    def __init__(
        self, settings: Settings, book: RecipeBook, inventory: Callable[[], Inventory]
    ) -> None:
        self._settings = settings
        self._words: dict[str, str] = {}
        self._books = {"": book}
        if settings.against is not None:
            servers = tuple((key, settings.against.applied(spec)) for key, spec in book.servers)
            self._books[SECOND] = replace(book, servers=servers)
        self._doctors = {
            arm: Doctor(settings, arms_book, inventory) for arm, arms_book in self._books.items()
        }

    def spec(self, launch: Launch) -> ServerSpec:
        """The server that a launch starts."""
        return self._books[self._arm(launch)].server(launch.server)

    def never_runs(self, launch: Launch) -> str:
        """Why no case of a launch's server is run, empty where some are."""
        return self._books[""].never_runs(launch.server)

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
            self._words[server] = (
                f"engine B is {option.text} "
                f"({'; '.join(self.differences(server)) or 'the same as engine A'})"
            )
        return self._words[server]

    def against(self, launch: Launch) -> dict[str, object] | None:
        """For the records of the second engine: the option as written, and what differs; None for
        the first engine."""
        option = self._settings.against
        if option is None or launch.arm != SECOND:
            return None
        return {"option": option.text, "differences": self.differences(launch.server)}

    def _arm(self, launch: Launch) -> str:
        return SECOND if SECOND in self._books and launch.arm == SECOND else ""
