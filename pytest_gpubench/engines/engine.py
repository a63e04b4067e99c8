"""A running engine, as tests, measurements and records see it, started by us or attached to; and
whether it agrees with the recipe: one sentence per deviation, and what could not be seen is said,
too."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_gpubench.dialects.engine_facts import Check, EngineFacts, some_names
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines import http_probe
from pytest_gpubench.engines.diagnosis import Ending, classify
from pytest_gpubench.engines.interpreter import check_version
from pytest_gpubench.engines.process import ServerProcess, StopReport
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import Frozen
from pytest_gpubench.model.specs import ServerSpec

FATAL_GRACE = 1.0
"""Seconds that an engine gets to finish its traceback after a fatal line."""


@dataclass(slots=True)
class Engine:
    """One running server.

    ``argv`` and ``env`` are what really started it, without secrets; both are empty where we
    attached to a server.
    """

    url: str
    """``http://host:port``, for ``/health``, ``/metrics``, ``/tokenize``."""
    api_key: str = field(repr=False)
    served_name: str
    facts: EngineFacts = field(repr=False)
    attached: bool = False
    argv: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    log_path: Path | None = None
    process: ServerProcess | None = field(default=None, repr=False)
    _stopped: bool = False

    @property
    def base_url(self) -> str:
        """``http://host:port/v1``, what OpenAI clients take."""
        return f"{self.url}/v1"

    @property
    def pid(self) -> int | None:
        """The server's first process; None where we attached."""
        return self.process.pid if self.process else None

    @property
    def phases(self) -> Mapping[str, float]:
        """Start-up phases by name, in seconds, in the order in which they happen."""
        return {
            name: float(value)
            for name, value in self.facts.phases.items()
            if isinstance(value, int | float)
        }

    def alive(self) -> Failure | None:
        """None while the engine is well, else why it is not: an exit with any code, a fatal line,
        no health where we attached."""
        if self._stopped:
            return Failure("engine-stopped", "client", "The engine has been stopped already.")
        if self.process is None:
            health = http_probe.get(f"{self.url}/health", self.api_key)
            if health.status == 200:
                return None
            return Failure(
                "engine-not-healthy",
                "infrastructure",
                f"The server at {self.url} is not healthy: {health}.",
                remedy="Look at its log.",
            )
        return failure_of(self.process, serving=True)

    def compiled_between(self, start_ns: int, end_ns: int) -> tuple[str, ...]:
        """Kernels that the engine said it compiled between two moments of `time.monotonic_ns`, by
        name; () where we attached."""
        compiled = self.process.log.compiled if self.process else ()
        return tuple(
            dict.fromkeys(name for moment, name in list(compiled) if start_ns <= moment <= end_ns)
        )

    def scrape(self) -> str:
        """The text of ``/metrics`` now.

        Raises:
            BenchmarkError: with the engine's own failure, or if it does not answer within 30 s.
        """
        answer = http_probe.get(f"{self.url}/metrics", self.api_key, timeout=30.0)
        if answer.status != 200:
            raise BenchmarkError(self.alive() or no_metrics(self.url, answer))
        return answer.body.decode("utf-8", "replace")

    def stop(self) -> StopReport | None:
        """Stop the whole process tree; never raises, may be called again. Does nothing where we
        attached (None)."""
        self._stopped = True
        return self.process.stop() if self.process else None


def no_metrics(url: str, answer: http_probe.Answer) -> Failure:
    """Without the page nothing can be measured."""
    return Failure(
        "no-metrics",
        "engine",
        f"{url}/metrics gave {answer}.",
        remedy=(
            "Speculative counters and token counts come from there: do not disable the "
            "engine's statistics."
        ),
    )


def failure_of(process: ServerProcess, *, serving: bool) -> Failure | None:
    """Why a server process is lost, or None while it is not. Takes up to `FATAL_GRACE` seconds, to
    let a traceback finish."""
    if process.poll() is None and process.log.fatal is None:
        return None
    until = time.monotonic() + FATAL_GRACE
    while process.poll() is None and time.monotonic() < until:
        quiet = time.monotonic() - (process.log.last_output or 0.0)
        if quiet > 0.4:
            break
        time.sleep(0.05)
    code = process.poll()
    if code is not None:
        process.wait_drained(2.0)
    return classify(
        process.log.lines(),
        Ending("fatal-line" if code is None else "exited", code, serving=serving),
        process.log.format,
    )


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SNAPSHOT = re.compile(r"models--([A-Za-z0-9][\w.-]*?)--([\w.-]+?)/snapshots/")


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """What the comparison of a recipe with a running engine gave."""

    deviations: tuple[str, ...]
    """Sentences; empty if everything that can be seen is as asked."""
    unseen: tuple[str, ...]
    """Sentences about checks that could not be made: the engine did not say."""
    checked: tuple[str, ...]
    """Names of the checks that were made and hold."""

    @property
    def ok(self) -> bool:
        return not self.deviations


def check_engine(spec: ServerSpec, facts: EngineFacts, *, served_name: str) -> EngineCheck:
    """Compare what runs with what the recipe asked for.

    Only what the recipe states is compared: a flag that it leaves to the engine has no wrong value.
    """
    deviations: list[str] = []
    unseen: list[str] = []
    checked: list[str] = []
    for check in _checks(spec, facts, served_name):
        if check.running is None:
            unseen.append(
                check.unseen
                or (
                    f"{check.name}: not visible in this engine's log and metrics (asked "
                    f"for: {_show(check.asked)})."
                )
            )
        elif check.holds:
            checked.append(check.name)
        else:
            deviations.append(
                f"{check.name}: {check.source} {_show(check.asked)}, the engine runs "
                f"with {_show(check.running)}."
            )
    # Variables that the engine does not know: those of the recipe were asked for in vain, the
    # host's are only noted.
    asked = [name for name, value in spec.env.items() if value is not None]
    unknown = [name for name in facts.unknown_variables if name in asked]
    foreign = [name for name in facts.unknown_variables if name not in asked]
    deviations += [
        f"environment variable {name}: the recipe sets it, the engine does not know it."
        for name in unknown
    ]
    if foreign:
        unseen.append(
            "environment variables of this host that the engine does not know: "
            f"{some_names(foreign)}."
        )
    if asked and not unknown and facts.version is not None:
        checked.append("environment variables")
    if spec.requires and facts.version is None:
        unseen.append("engine version: the engine does not say which it is.")
    elif spec.requires and facts.version is not None:
        known = dialect_of(spec.framework).distributions
        problems = check_version(spec.requires, facts.version, known)
        deviations += problems
        if not problems:
            checked.append("engine version")
    return EngineCheck(tuple(deviations), tuple(unseen), tuple(checked))


def _served_repository(spec: ServerSpec, root: str | None) -> str | None:
    """The repository that is served, as far as a path or a name tells it; None: it cannot be
    told."""
    if root is None or root == spec.model:
        return root
    snapshot = _SNAPSHOT.search(root)
    if snapshot is not None:
        return f"{snapshot[1]}/{snapshot[2]}"
    if _REPOSITORY.fullmatch(root) and _REPOSITORY.fullmatch(spec.model):
        return root
    return None


def _checks(spec: ServerSpec, facts: EngineFacts, served_name: str) -> Iterator[Check]:
    running_name: str | None = served_name
    if served_name not in facts.served_names:
        running_name = some_names(facts.served_names) or None
    yield Check("served name", served_name, running_name)
    if facts.owned_by is not None:
        running = facts.owned_by
        if running in dialect_of(spec.framework).owners:
            running = spec.framework
        yield Check("engine", spec.framework, running)
    repository = _served_repository(spec, facts.served_root)
    if repository is not None:
        yield Check("served model", spec.model, repository)
    yield from dialect_of(spec.framework).checks(spec, facts)


def _show(value: Frozen | object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
