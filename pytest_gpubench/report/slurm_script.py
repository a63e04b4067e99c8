"""A matrix as Slurm jobs: one array per kind of machine, a job that fetches weights before, one that merges after. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.model.failures import GpubenchError

_WORD = re.compile(r"[A-Za-z0-9_.,:@+=/-]+")
_UNSAFE_PATH = re.compile(r"[\x00-\x1f\x7f\"'\\%]")
FETCH_MINUTES = 360
MERGE_MINUTES = 30


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What the site and the person decide; values that are empty are left to Slurm."""

    account: str = ""
    partition: str = ""
    time: str = ""
    """Time limit of every task, as Slurm writes times; empty: each matrix entry's own."""
    gres_type: str = ""
    """``h100`` makes ``gpu:h100:8`` of ``gpu:8``."""
    container_image: str = ""
    """For pyxis; ``recipe`` takes the image of each recipe; empty: no container."""
    container_mounts: str = ""
    max_parallel: int = 0
    """Tasks of one array that run at the same time; 0: no limit."""
    sbatch: tuple[str, ...] = ()
    """Further arguments of every ``sbatch``."""


@dataclass(frozen=True, slots=True)
class Script:
    """One batch script."""

    name: str
    """``fetch``, ``tasks-0``, ``merge``."""
    text: str
    tasks: tuple[int, ...] = ()
    """Entries of the manifest that the array runs."""


def scripts(manifest: Mapping[str, Any], folder: Path, python: str, options: SlurmOptions, *, fetch: bool = True) -> list[Script]:
    """The scripts of a submission, in the order in which they are submitted.

    Args:
        manifest: the matrix of the selection.
        folder: shared; holds ``manifest.json``, logs and results.
        python: interpreter of the tasks.
        options: checked here.
        fetch: whether a job fetches the weights first.

    Raises:
        GpubenchError: for a value that cannot stand in a batch script.
    """
    _check(folder, options)
    groups: dict[tuple[int, str], list[int]] = {}
    for index, entry in enumerate(manifest["include"]):
        groups.setdefault((int(entry["gpus"]), str(entry["image"])), []).append(index)
    found = []
    step = [python, "-m", "pytest_gpubench.cli", "slurm-step"]
    if fetch:
        directives = _directives("fetch", folder, options, f"--time={FETCH_MINUTES}", "--requeue")
        found.append(Script("fetch", _script(directives, ["srun", *step, "fetch", str(folder)])))
    for number, ((gpus, image), indices) in enumerate(groups.items()):
        minutes = max(int(manifest["include"][index]["timeout_minutes"]) for index in indices)
        array = ",".join(map(str, indices)) + (f"%{options.max_parallel}" if options.max_parallel else "")
        kind = f"gpu:{options.gres_type}" if options.gres_type else "gpu"
        gres = [f"--gres={kind}:{gpus}"] if gpus else []
        more = [f"--array={array}", f"--time={options.time or minutes}", "--requeue", *gres]
        container = image if options.container_image == "recipe" else options.container_image
        run = ["srun", *_container(container, folder, options), *step, "task", str(folder)]
        found.append(Script(f"tasks-{number}", _script(_directives("%A_%a", folder, options, *more), run), tuple(indices)))
    directives = _directives("merge", folder, options, f"--time={MERGE_MINUTES}", "--requeue")
    found.append(Script("merge", _script(directives, ["srun", *step, "merge", str(folder)])))
    return found


def _check(folder: Path, options: SlurmOptions) -> None:
    for name in ("account", "partition", "time", "gres_type"):
        value = getattr(options, name)
        if value and not _WORD.fullmatch(value):
            raise GpubenchError(f"--{name.replace('_', '-')} {value!r}: write letters, digits and any of _ . , : @ + = / -")
    if _UNSAFE_PATH.search(str(folder)):
        raise GpubenchError(f"the results folder {str(folder)!r} has a quote, %, backslash or control character; choose another")
    for value in (options.container_image, options.container_mounts, *options.sbatch):
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise GpubenchError(f"{value!r} has a control character; leave it out")
    if options.max_parallel < 0:
        raise GpubenchError(f"--max-parallel {options.max_parallel}: write 1 or more, or leave it out")


def _directives(log: str, folder: Path, options: SlurmOptions, *more: str) -> list[str]:
    words = [
        "--job-name=gpubench",
        f'--output="{folder / "logs" / log}.log"',
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        *more,
    ]
    words += [f"--account={options.account}"] if options.account else []
    return words + ([f"--partition={options.partition}"] if options.partition else [])


def _container(image: str, folder: Path, options: SlurmOptions) -> list[str]:
    if not image:
        return []
    mounts = ",".join(part for part in (f"{folder}:{folder}", options.container_mounts) if part)
    return [f"--container-image={image}", f"--container-mounts={mounts}"]


def _script(directives: Sequence[str], command: Sequence[str]) -> str:
    # exec: signals of a preemption or a requeue reach srun itself, which hands them to the step.
    lines = ["#!/bin/bash", *(f"#SBATCH {word}" for word in directives), "set -eu", f"exec {shlex.join(command)}"]
    return "\n".join(lines) + "\n"
