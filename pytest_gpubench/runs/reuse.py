"""``--gpubench-reuse``: what the results folder holds already is judged again instead of measured
again."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_gpubench.host.hub.local import Snapshot, default_cache_dir, find_snapshot
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.read_results import load_results, read_whole
from pytest_gpubench.report.records import RunFolder, fingerprint
from pytest_gpubench.report.results import CaseResult
from pytest_gpubench.runs.model_files import models_of
from pytest_gpubench.runs.servers import ServerPool
from pytest_gpubench.runs.settings import Settings


class Reuse:
    """Earlier results by case, launch and fingerprint, read when the first case asks."""

    def __init__(
        self,
        settings: Settings,
        servers: ServerPool,
        folder: RunFolder,
        device: Callable[[str], str],
    ) -> None:
        self._settings = settings
        self._servers = servers
        self._folder = folder
        self._device = device
        self._answers: dict[tuple[Launch, str], CaseResult | None] = {}
        self._said: set[str] = set()

    def find(self, launch: Launch, case: Case) -> CaseResult | None:
        """The newest valid result of the same thing; None where it must be measured.

        Without an engine version that is known beforehand, or with weights that are not on this
        machine, nothing is the same.
        """
        if (launch, case.id) not in self._answers:
            self._answers[launch, case.id] = self._find(launch, case)
        return self._answers[launch, case.id]

    def take_over(self, launch: Launch, case: Case, result: CaseResult) -> dict[str, Any]:
        """The earlier record as one of this run, not judged yet; its requests are beside it."""
        kept = {self._folder.answers_file(launch, case): result.answers_path}
        if case.evaluation is None:
            kept = {
                self._folder.requests_file(launch, case, number): result.requests_path(number)
                for number in range(1, result.rounds + 1)
            }
        for there, here in kept.items():
            with contextlib.suppress(OSError):  # what a result can be judged without
                there.parent.mkdir(parents=True, exist_ok=True)
                _link(here, there)
        return {
            **read_whole(result.path),
            "launch": launch,
            "reused_from": result.reused_from or result.run,
            "verdict": None,
        }

    def _find(self, launch: Launch, case: Case) -> CaseResult | None:
        candidates = self._known.get((case.id, launch.label), [])
        if not candidates:
            return None
        spec = self._servers.arms.spec(launch)
        version = self._servers.engine_version(spec)
        commits = self._commits(spec)
        if not version or commits is None:
            lacking = (
                "its weights are not on this machine"
                if version
                else "the version of its engine cannot be told before it starts"
            )
            self._say_once(f"nothing is reused for {launch.server}: {lacking}")
            return None
        wanted = fingerprint(spec, case, version, self._device(spec.hardware), commits)
        least = 1 if case.evaluation else (self._settings.rounds or case.rounds).least
        return next(
            (one for one in candidates if one.fingerprint == wanted and one.rounds >= least), None
        )

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._servers.say(sentence)

    @cached_property
    def _known(self) -> dict[tuple[str, str], list[CaseResult]]:
        """Valid results by case and launch, newest first."""
        found: dict[tuple[str, str], list[CaseResult]] = {}
        if not self._settings.results.is_dir():
            return found
        for result in sorted(
            load_results([self._settings.results]).cases(),
            key=lambda one: one.finished,
            reverse=True,
        ):
            if is_valid(result):
                found.setdefault((result.case, result.launch.label), []).append(result)
        return found

    def _commits(self, spec: ServerSpec) -> dict[str, str | None] | None:
        cache = self._settings.cache_dir or default_cache_dir()
        commits: dict[str, str | None] = {}
        for one in models_of(spec):
            found = find_snapshot(
                one.repository, one.revision, cache, tokenizer=one.tokenizer, weights=one.weights
            )
            if not isinstance(found, Snapshot):
                return None
            commits[one.repository] = found.commit or None
        return commits


def is_valid(result: CaseResult) -> bool:
    """Whether a result may stand for a measurement: it was measured, nothing failed, and nothing
    voids it."""
    measured = (
        result.measurement is not None and not result.measurement.problems and bool(result.metrics)
    )
    return (
        measured
        and result.failure is None
        and (result.verdict is None or result.verdict.status is not Status.INVALID)
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
