"""A submission: its folder with the manifest, its jobs, how far they are."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pytest_gpubench.commands import say, warn_of
from pytest_gpubench.host import files
from pytest_gpubench.host.slurm_queue import JobState, sbatch, states
from pytest_gpubench.host.slurm_queue import cancel as cancel_jobs
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import counted
from pytest_gpubench.report.records import json_object, write_record

_WORD = re.compile(r"[A-Za-z0-9_.,:@+=/-]+")
_UNSAFE_PATH = re.compile(r"[\x00-\x1f\x7f\"'\\%]")
FETCH_MINUTES = 360
MERGE_MINUTES = 30


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What site and person decide, by the options' names; what is empty is left to Slurm."""

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
    sbatch_arg: tuple[str, ...] = ()
    """Further arguments of every ``sbatch``."""


@dataclass(frozen=True, slots=True)
class Script:
    """One batch script."""

    name: str
    """``fetch``, ``tasks-0``, ``merge``."""
    text: str
    tasks: tuple[int, ...] = ()
    """Entries of the manifest that the array runs."""


def scripts(
    manifest: Mapping[str, Any],
    folder: Path,
    python: str,
    options: SlurmOptions,
    *,
    fetch: bool = True,
) -> list[Script]:
    """The scripts of a submission, in the order in which they are submitted.

    Args:
        folder: shared; holds ``manifest.json``, logs and results.

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
        array = ",".join(map(str, indices)) + (
            f"%{options.max_parallel}" if options.max_parallel else ""
        )
        kind = f"gpu:{options.gres_type}" if options.gres_type else "gpu"
        gres = [f"--gres={kind}:{gpus}"] if gpus else []
        more = [f"--array={array}", f"--time={options.time or minutes}", "--requeue", *gres]
        container = image if options.container_image == "recipe" else options.container_image
        run = ["srun", *_container(container, folder, options), *step, "task", str(folder)]
        found.append(
            Script(
                f"tasks-{number}",
                _script(_directives("%A_%a", folder, options, *more), run),
                tuple(indices),
            )
        )
    directives = _directives("merge", folder, options, f"--time={MERGE_MINUTES}", "--requeue")
    found.append(Script("merge", _script(directives, ["srun", *step, "merge", str(folder)])))
    return found


def _check(folder: Path, options: SlurmOptions) -> None:
    for name in ("account", "partition", "time", "gres_type"):
        value = getattr(options, name)
        if value and not _WORD.fullmatch(value):
            raise GpubenchError(
                f"--{name.replace('_', '-')} {value!r}: write letters, digits and any "
                "of _ . , : @ + = / -"
            )
    if _UNSAFE_PATH.search(str(folder)):
        raise GpubenchError(
            f"the results folder {str(folder)!r} has a quote, %, backslash or control "
            "character; choose another"
        )
    for value in (options.container_image, options.container_mounts, *options.sbatch_arg):
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise GpubenchError(f"{value!r} has a control character; leave it out")
    if options.max_parallel < 0:
        raise GpubenchError(
            f"--max-parallel {options.max_parallel}: write 1 or more, or leave it out"
        )


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
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {word}" for word in directives),
        "set -eu",
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


MANIFEST = "manifest.json"
SUITE = ("--pyargs", "pytest_gpubench.suite")


def scripts_of(document: Mapping[str, Any], parsed: argparse.Namespace) -> list[Script]:
    """The batch scripts that a submission with these arguments would consist of."""
    values = {item.name: getattr(parsed, item.name) for item in fields(SlurmOptions)}
    options = SlurmOptions(**values | {"sbatch_arg": tuple(parsed.sbatch_arg)})
    python = "python" if parsed.container_image else sys.executable
    fetch = not getattr(parsed, "no_fetch", False)
    return scripts(document, parsed.results.resolve(), python, options, fetch=fetch)


def submit(document: dict[str, Any], parsed: argparse.Namespace) -> int:
    """Write the folder and submit its jobs: fetch, then the arrays, then the merge whatever became
    of them.

    Raises:
        GpubenchError: if nothing can run, the folder is taken, or Slurm refuses; jobs submitted so
            far are cancelled then.
    """
    warn_of("in no task", [f"{one['what']}: {one['reason']}" for one in document["left_out"]])
    if not document["include"]:
        raise GpubenchError("submit: the selection has no case that can run")
    folder = parsed.results.resolve()
    if (folder / MANIFEST).exists():
        raise GpubenchError(
            f"{folder} holds a submission already: choose another folder with --results"
        )
    planned = scripts_of(document, parsed)
    tests = parsed.tests or (["benchmarks"] if Path("benchmarks").is_dir() else list(SUITE))
    arguments = [*tests, *(f"--gpubench-recipes={path.resolve()}" for path in parsed.recipes)]
    arguments += [f"--gpubench-launches={parsed.launches}"] if parsed.launches else []
    arguments += [f"--gpubench-server-per={parsed.server_per}"] if parsed.server_per else []
    manifest = document | {
        "kind": "submission",
        "pytest": [*arguments, *parsed.pytest_arg],
        "jobs": {},
    }
    manifest["server_per"] = parsed.server_per
    manifest["recipes"] = [str(path.resolve()) for path in parsed.recipes]
    try:
        files.make_folder(folder / "logs")
    except OSError as error:
        raise GpubenchError(
            f"{folder} cannot be used: {error.strerror}; choose another folder with --results"
        ) from None
    write_record(folder / MANIFEST, manifest)
    jobs: dict[str, str] = {}
    try:
        for script in planned:
            path = folder / f"{script.name}.sh"
            files.write_text(
                path, script.text, what="the script", remedy="choose another --results"
            )
            jobs[script.name] = sbatch(path, [*parsed.sbatch_arg, *_dependency(script, jobs)])
    except GpubenchError:
        cancel_jobs(list(jobs.values()))
        (folder / MANIFEST).unlink()
        raise
    write_record(folder / MANIFEST, manifest | {"jobs": jobs})
    tasks = counted(len(document["include"]), "task")
    print(f"submitted {tasks}: {', '.join(f'{name} is job {job}' for name, job in jobs.items())}")
    print(f"gpubench status {parsed.results}")
    return 0


def _dependency(script: Script, jobs: Mapping[str, str]) -> list[str]:
    if script.name == "merge":
        return [
            "--dependency=afterany:"
            + ":".join(job for name, job in jobs.items() if name != "fetch")
        ]
    if script.name != "fetch" and "fetch" in jobs:
        # Without weights the tasks are dropped; the merge then says that nothing reported.
        return [f"--dependency=afterok:{jobs['fetch']}", "--kill-on-invalid-dep=yes"]
    return []


def status(folder: Path) -> int:
    """Print a line per task and job."""
    manifest = read_manifest(folder)
    known = {state.job: state for job in manifest["jobs"].values() for state in states(job)}
    for name, job in manifest["jobs"].items():
        if not name.startswith("tasks"):
            say(f"{name}: job {job}: {_told(known.get(job), ended_of(folder, name))}")
    done = {
        path.parent.parent.name + ":" + path.parent.name
        for path in (folder / "results").glob("*/*/*/*.json")
    }
    for index, entry in enumerate(manifest["include"]):
        task = next((state for job, state in known.items() if job.endswith(f"_{index}")), None)
        reported = sum(case in done for case in entry["cases"])
        told = _told(task, ended_of(folder, f"task-{index}"))
        cases = counted(len(entry["cases"]), "case")
        say(f"task {index} {entry['name']}: {told}, {reported} of {cases}")
    return 0


def _told(state: JobState | None, ended: Mapping[str, Any]) -> str:
    words = "ENDED" if ended else "PENDING or forgotten by Slurm"
    words = state.state if state else words
    if state and state.restarts:
        words += f", restarted {state.restarts} times" if state.restarts > 1 else ", restarted once"
    return words + (f", exit code {ended['exit']}" if ended.get("exit") is not None else "")


def ended_of(folder: Path, name: str) -> dict[str, Any]:
    """What a task or job wrote down of itself; empty before it has."""
    return json_object(folder / "steps" / f"{name}.json") or {}


def cancel(folder: Path) -> int:
    """Cancel what has not ended, the merge as well."""
    jobs = list(read_manifest(folder)["jobs"].values())
    cancel_jobs(jobs)
    print(f"cancelled jobs {', '.join(jobs)}")
    return 0


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a submission.

    Raises:
        GpubenchError: if the folder holds none.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise GpubenchError(
            f"{path} cannot be read: give the folder of gpubench submit --results"
        ) from None
    shape = {"jobs": dict, "include": list, "pytest": list, "recipes": list}
    ours = isinstance(found, dict) and found.get("kind") == "submission"
    if not ours or not all(isinstance(found.get(name), kind) for name, kind in shape.items()):
        raise GpubenchError(f"{path} is no submission of gpubench submit")
    submission: dict[str, Any] = found
    return submission
