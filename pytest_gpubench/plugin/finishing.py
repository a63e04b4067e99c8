"""When a run ends, on the controller: baselines are recorded, what is undecided is written down for
another run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from pytest_gpubench.host import files
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.plugin.options import Repeat, words_to_repeat
from pytest_gpubench.plugin.outcomes import Outcome, last_verdicts
from pytest_gpubench.runs.baselining import Baselines, Updated, update_baselines
from pytest_gpubench.runs.settings import Settings

RERUN_FILE = "rerun.txt"
LAUNCHES_TO_RECORD = 8
"""Of a first baseline: as many as its anchor holds."""

_CASES_NAMED = 4
"""With more cases the command that records them keeps the run's own selection."""


def finish(
    config: pytest.Config,
    settings: Settings,
    baselines: Baselines,
    run: Path,
    outcomes: Sequence[Outcome],
    *,
    interrupted: bool,
) -> tuple[list[str], bool]:
    """Record baselines if asked, write ``rerun.txt`` where something is undecided.

    Returns:
        Lines for the terminal, and whether something that was asked for could not be written.
    """
    lines: list[str] = []
    failed = False
    if settings.update_baselines and interrupted:
        lines.append("no baseline is written: the run was interrupted")
    elif settings.update_baselines:
        updated = update_baselines(
            baselines, run, *_recordable(outcomes), accept_regression=settings.accept_regression
        )
        lines += _update_lines(updated)
        failed = bool(updated.errors)
    elif settings.against is None:
        lines += _offer(config, outcomes)
    ids = undecided_ids(outcomes)
    if ids:
        path = run / RERUN_FILE
        try:
            words = [*words_to_repeat(config, Repeat.ALWAYS, Repeat.RERUN), *_relative(config, ids)]
            files.write_text(path, "\n".join(words) + "\n")
        except GpubenchError as error:
            lines.append(str(error))
            return lines, True
        lines.append(
            "undecided, to be measured again: pytest "
            f"@{os.path.relpath(path, config.invocation_params.dir)}"
        )
    return lines, failed


def undecided_ids(outcomes: Iterable[Outcome]) -> list[str]:
    """Node ids of all launches of what ended INCONCLUSIVE or INVALID, and of the sides of such a
    ratio, in the order of the run."""
    outcomes = list(outcomes)
    open_ones = {key: last for key, last in last_verdicts(outcomes).items() if last.undecided}
    wanted = {*open_ones, *(case for last in open_ones.values() for case in last.sides)}
    return list(dict.fromkeys(outcome.nodeid for outcome in outcomes if outcome.key in wanted))


def _recordable(outcomes: Sequence[Outcome]) -> tuple[list[str], list[str]]:
    """Cases (and starts of servers) that were judged; and a sentence for each of which a launch
    failed before it could be judged."""
    judged = dict.fromkeys(one.subject for one in outcomes if one.verdict and _has_record(one))
    failed = {
        one.key for one in outcomes if one.outcome == "failed" and not (one.verdict and one.subject)
    }
    refused = [f"{key} not recorded: a launch of it failed" for key in judged if key in failed]
    return [key for key in judged if key not in failed], refused


def _has_record(outcome: Outcome) -> bool:
    return bool(outcome.subject) and not outcome.sides


def _update_lines(updated: Updated) -> list[str]:
    lines = [f"baseline of {line}" for line in updated.recorded]
    lines += updated.refused
    return lines + [f"error: {sentence}" for sentence in updated.errors]


def _offer(config: pytest.Config, outcomes: Sequence[Outcome]) -> list[str]:
    """Where verdicts are UNGATED for want of a baseline: the command that records one."""
    last = last_verdicts(outcomes)
    without = [key for key, outcome in last.items() if _lacks_baseline(outcome)]
    if not without:
        return []
    cases = [key for key in without if last[key].case]
    words = ["pytest", *_paths(config)]
    few = len(without) < len(last) and len(cases) <= _CASES_NAMED
    if cases and (few or _named_one_by_one(config)):
        words += ["-m", " or ".join(f"gpubench(case='{case}')" for case in cases)]
    else:
        words += [
            word
            for name, value in (("-k", config.option.keyword), ("-m", config.option.markexpr))
            if value
            for word in (name, value)
        ]
    words += words_to_repeat(config, Repeat.ALWAYS)
    words += [f"--gpubench-launches={LAUNCHES_TO_RECORD}", "--gpubench-update-baselines"]
    what = "1 verdict has" if len(without) == 1 else f"{len(without)} verdicts have"
    return [f"{what} no baseline to compare with; this records one:", f"  {shlex.join(words)}"]


def _named_one_by_one(config: pytest.Config) -> bool:
    """Whether the run was of tests named by their ids, or without some: its files alone, with -k
    and -m, would select more."""
    return bool(config.option.deselect) or any("::" in argument for argument in config.args)


def _lacks_baseline(outcome: Outcome) -> bool:
    codes = {one.code for one in outcome.verdict.metrics} if outcome.verdict else set()
    return outcome.status is Status.UNGATED and bool(codes & {"no-baseline", "not-comparable"})


def _paths(config: pytest.Config) -> list[str]:
    """The files and folders that this run was given; ids name launches that another number of
    launches does not have."""
    if config.args_source is not config.ArgsSource.ARGS:
        return []
    return list(dict.fromkeys(argument.split("::")[0] for argument in config.args))


def _relative(config: pytest.Config, ids: Iterable[str]) -> list[str]:
    """Ids are relative to the root folder, arguments to the folder in which pytest is started."""
    if config.rootpath == config.invocation_params.dir:
        return list(ids)
    return [
        os.path.relpath(config.rootpath, config.invocation_params.dir) + os.sep + nodeid
        for nodeid in ids
    ]
