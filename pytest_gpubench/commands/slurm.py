"""A submission: its folder with the manifest, its jobs, how far they are."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_gpubench.domain.failures import GpubenchError
from pytest_gpubench.domain.printing import for_terminal
from pytest_gpubench.host import files
from pytest_gpubench.host.slurm import JobState, sbatch, states
from pytest_gpubench.host.slurm import cancel as cancel_jobs
from pytest_gpubench.report.records import write_record
from pytest_gpubench.report.slurm_script import Script, SlurmOptions, scripts
from pytest_gpubench.report.terminal import counted

MANIFEST = "manifest.json"
SUITE = ("--pyargs", "pytest_gpubench.suite")


def scripts_of(document: Mapping[str, Any], parsed: argparse.Namespace) -> list[Script]:
    """The batch scripts that a submission with these arguments would consist of."""
    options = SlurmOptions(
        account=parsed.account,
        partition=parsed.partition,
        time=parsed.time,
        gres_type=parsed.gres_type,
        container_image=parsed.container_image,
        container_mounts=parsed.container_mounts,
        max_parallel=parsed.max_parallel,
        sbatch=tuple(parsed.sbatch_arg),
    )
    python = "python" if parsed.container_image else sys.executable
    return scripts(document, parsed.results.resolve(), python, options, fetch=not getattr(parsed, "no_fetch", False))


def submit(document: dict[str, Any], parsed: argparse.Namespace) -> int:
    """Write the folder and submit its jobs: fetch, then the arrays, then the merge whatever became of them.

    Raises:
        GpubenchError: if nothing can run, the folder is taken, or Slurm refuses; jobs submitted so far are cancelled then.
    """
    for one in document["left_out"][:10]:
        print(for_terminal(f"in no task: {one['what']}: {one['reason']}"), file=sys.stderr)
    if len(document["left_out"]) > 10:
        print(f"in no task: {len(document['left_out']) - 10} more", file=sys.stderr)
    if not document["include"]:
        raise GpubenchError("submit: the selection has no case that can run")
    folder = parsed.results.resolve()
    if (folder / MANIFEST).exists():
        raise GpubenchError(f"{folder} holds a submission already: choose another folder with --results")
    planned = scripts_of(document, parsed)
    tests = parsed.tests or (["benchmarks"] if Path("benchmarks").is_dir() else list(SUITE))
    arguments = [*tests, *(f"--gpubench-recipes={path.resolve()}" for path in parsed.recipes)]
    arguments += [f"--gpubench-launches={parsed.launches}"] if parsed.launches else []
    arguments += [f"--gpubench-server-per={parsed.server_per}"] if parsed.server_per else []
    manifest = document | {"kind": "submission", "pytest": [*arguments, *parsed.pytest_arg], "jobs": {}}
    manifest["server_per"] = parsed.server_per
    manifest["recipes"] = [str(path.resolve()) for path in parsed.recipes]
    try:
        files.make_folder(folder / "logs")
    except OSError as error:
        raise GpubenchError(f"{folder} cannot be used: {error.strerror}; choose another folder with --results") from None
    write_record(folder / MANIFEST, manifest)
    jobs: dict[str, str] = {}
    try:
        for script in planned:
            path = folder / f"{script.name}.sh"
            files.write_text(path, script.text, what="the script", remedy="choose another --results")
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
        return [f"--dependency=afterany:{':'.join(job for name, job in jobs.items() if name != 'fetch')}"]
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
            print(for_terminal(f"{name}: job {job}: {_told(known.get(job), ended_of(folder, name))}"))
    done = {path.parent.parent.name + ":" + path.parent.name for path in (folder / "results").glob("*/*/*/*.json")}
    for index, entry in enumerate(manifest["include"]):
        task = next((state for job, state in known.items() if job.endswith(f"_{index}")), None)
        reported = sum(case in done for case in entry["cases"])
        told = _told(task, ended_of(folder, f"task-{index}"))
        words = f"task {index} {entry['name']}: {told}, {reported} of {counted(len(entry['cases']), 'case')}"
        print(for_terminal(words))
    return 0


def _told(state: JobState | None, ended: Mapping[str, Any]) -> str:
    words = state.state if state else "PENDING or forgotten by Slurm" if not ended else "ENDED"
    if state and state.restarts:
        words += f", restarted {state.restarts} times" if state.restarts > 1 else ", restarted once"
    return words + (f", exit code {ended['exit']}" if ended.get("exit") is not None else "")


def ended_of(folder: Path, name: str) -> dict[str, Any]:
    """What a task or job wrote down of itself; empty before it has."""
    try:
        found: dict[str, Any] = json.loads((folder / "steps" / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
        raise GpubenchError(f"{path} cannot be read: give the folder of gpubench submit --results") from None
    shape = {"jobs": dict, "include": list, "pytest": list, "recipes": list}
    ours = isinstance(found, dict) and found.get("kind") == "submission"
    if not ours or not all(isinstance(found.get(name), kind) for name, kind in shape.items()):
        raise GpubenchError(f"{path} is no submission of gpubench submit")
    submission: dict[str, Any] = found
    return submission
