"""What every step of the hardware run works with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import recipes
from fleet import Job

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.interpreter import default_command
from pytest_gpubench.host.gpus.drivers import read_inventory
from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.runs.doctoring import Doctor
from pytest_gpubench.runs.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """One run on one kind of hardware."""

    hardware: str
    results: Path
    cache: Path
    few: bool = False
    """A rehearsal: as few launches and requests as still go through every line."""
    leave_out: str = ""
    """Servers that are not started, as a regular expression."""
    mended: bool = False
    """Whether the engine's known fault with MiniMax-M3 was mended (`backport`), so that the doctor
    need not stop it."""
    concurrencies: tuple[int, ...] = ()
    """Of the client step, where not all."""

    def leaves_out(self, name: str) -> bool:
        """Whether a server is not started."""
        return bool(self.leave_out and re.search(self.leave_out, name))

    def folder(self, step: str) -> Path:
        """A folder of a step's own."""
        folder = self.results / step
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def book(self, policy: SharingPolicy | None = None) -> RecipeBook:
        """All recipes, the repository's and the hardware run's."""
        return recipes.load(self.hardware, self.cache, self.folder("recipes"), policy)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The host's GPUs of this hardware."""
        return read_inventory().of_hardware(HARDWARE[self.hardware])

    def doctor(self, book: RecipeBook) -> Doctor:
        """The doctor, who knows this host and the models in the cache."""
        settings = cast(
            "Settings",
            SimpleNamespace(
                ignore_findings=self._ignored, cache_dir=self.cache, command=_default_command
            ),
        )
        return Doctor(settings, book, read_inventory)

    @property
    def _ignored(self) -> tuple[str, ...]:
        return ("minimax-m3-top-k-layout",) if self.mended else ()

    def pytest(
        self,
        step: str,
        *arguments: str,
        limit: float,
        name: str = "pytest",
        gpus: int | None = None,
    ) -> dict[str, Any]:
        """Run pytest over the benchmarks, with so many of the GPUs (default: all); its exit code,
        wall time and last lines."""
        folder = self.folder(step)
        started = time.monotonic()
        process = self.pytest_process(step, *arguments, name=name, gpus=gpus)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            code = None
            process.wait(60)
        lines = (folder / f"{name}.txt").read_text("utf-8", "replace").splitlines()
        return {
            "arguments": arguments,
            "code": code,
            "seconds": round(time.monotonic() - started, 1),
            "tail": lines[-40:],
        }

    def pytest_process(
        self, step: str, *arguments: str, name: str = "pytest", gpus: int | None = None
    ) -> subprocess.Popen[bytes]:
        """The same, not waited for."""
        folder = self.folder(step)
        plugin = [] if _installed() else ["-p", "pytest_gpubench.plugin"]
        command = [
            sys.executable,
            "-m",
            "pytest",
            *plugin,
            "benchmarks",
            "-v",
            f"--gpubench-results={folder / 'records'}",
        ]
        ignored = [f"--gpubench-ignore-findings={rule}" for rule in self._ignored]
        shipped = [f"--gpubench-recipes={path}" for path in recipes.SHIPPED]
        chosen = ",".join(gpu.uuid for gpu in self.gpus[:gpus])
        visible = {"CUDA_VISIBLE_DEVICES": chosen} if chosen and gpus is not None else {}
        with (folder / f"{name}.txt").open("wb") as file:
            return subprocess.Popen(
                [*command, *shipped, f"--gpubench-cache-dir={self.cache}", *ignored, *arguments],
                cwd=recipes.REPOSITORY,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **visible},
            )

    def write(self, step: str, value: Any) -> None:
        """A step's result."""
        recipes.dump(self.results / f"{step}.json", value)


def _default_command(spec: ServerSpec) -> tuple[str, ...]:
    return spec.command or default_command(dialect_of(spec.framework))


def _installed() -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("pytest-gpubench")
    except PackageNotFoundError:
        return False
    return True


def cases_of(book: RecipeBook, recipe: str) -> list[Case]:
    """The cases of a recipe, in its order.

    Raises:
        KeyError: if there are none.
    """
    found = [case for case in book.cases if case.recipe == recipe]
    if not found:
        raise KeyError(recipe)
    return found


def job_of(
    book: RecipeBook, case: Case, gpus: Sequence[Gpu], name: str = "", first: int = 0
) -> Job:
    """The server of a case on the host's GPUs from ``first`` on."""
    spec = book.server(case.server)
    count = case.gpus
    chosen = (
        [gpus[(first + offset) % len(gpus)].uuid for offset in range(count)]
        if len(gpus) >= count
        else []
    )
    return Job(
        name or case.server, spec, {"CUDA_VISIBLE_DEVICES": ",".join(chosen)} if chosen else {}
    )
