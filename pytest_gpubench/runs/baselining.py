"""Baselines of a run: read before any server starts, written by the controller when the run
ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import init_subject
from pytest_gpubench.model.verdicts import Verdict

if TYPE_CHECKING:
    from pytest_gpubench.gate.baselines import Baseline
    from pytest_gpubench.gate.waivers import Waivers


class Baselines:
    """The baseline files of the cases of a recipe book, and the waivers beside them."""

    def __init__(self, folder: Path, book: RecipeBook, *, waive: bool = True) -> None:
        self._folder = folder
        self._waive = waive
        self._subjects = [case.id for case in book.cases]
        self._subjects += [init_subject(key) for key, _ in book.servers]
        self._hardware = {key: spec.hardware for key, spec in book.servers}
        self._known: dict[str, Baseline | None] = {}

    def read(self, subjects: Iterable[str]) -> None:
        """Read the files of these cases and server starts now, and the waivers.

        Raises:
            GpubenchError: for the first that cannot be used, as
                ``gate.baseline_files.read_baseline``.
        """
        _ = self.waivers
        for subject in subjects:
            self.of(subject)

    def of(self, subject: str) -> Baseline | None:
        """The baseline of a case or of the start of a server, None where none is recorded; read
        once.

        Raises:
            GpubenchError: if the file cannot be used.
        """
        if subject not in self._known:
            self._known[subject] = self._read(subject)
        return self._known[subject]

    @cached_property
    def waivers(self) -> Waivers:
        """The known bugs, on the day of this run; none where ``--runxfail`` wants none.

        Raises:
            GpubenchError: if the file cannot be used.
        """
        from pytest_gpubench.gate.waivers import NO_WAIVERS

        if not self._waive or not self._folder.is_dir():
            return NO_WAIVERS
        from pytest_gpubench.gate.waiver_file import read_waivers

        return read_waivers(self._folder)

    def idle_waivers(self) -> list[str]:
        """A sentence for each waiver that covers nothing of the recipes, or whose date has
        passed."""
        if not self._folder.is_dir():
            return []
        from pytest_gpubench.gate.waivers import idle_words

        return idle_words(self.waivers, self._subjects)

    def path(self, subject: str) -> Path:
        """Where the baseline of a case or of the start of a server lies."""
        from pytest_gpubench.gate.baseline_files import baseline_path

        return baseline_path(self._folder, self._hardware[subject.partition(":")[0]], subject)

    def _read(self, subject: str) -> Baseline | None:
        if not self._folder.is_dir():  # most repositories: nothing of the gate need be imported
            return None
        from pytest_gpubench.gate.baseline_files import read_baseline

        return read_baseline(self.path(subject), subject)


@dataclass(frozen=True, slots=True)
class Updated:
    """What became of the launches of a run."""

    recorded: tuple[str, ...] = ()
    """A line per baseline that has grown."""
    refused: tuple[str, ...] = ()
    """A sentence per case that is not recorded."""
    errors: tuple[str, ...] = field(default=())
    """A sentence per file that could not be written."""


def update_baselines(
    baselines: Baselines,
    run: Path,
    subjects: Sequence[str],
    not_judged: Sequence[str] = (),
    *,
    accept_regression: bool = False,
) -> Updated:
    """Append the launches of every case that may be recorded.

    Args:
        baselines: where the files are.
        run: folder of the run; its records say what is recorded.
        subjects: cases and starts of servers that were judged on all their launches.
        not_judged: sentences on cases that are left out.
        accept_regression: whether worse levels are recorded.
    """
    from pytest_gpubench.gate.recording import recording
    from pytest_gpubench.report.records import records_of

    recorded: list[str] = []
    refused = list(not_judged)
    errors: list[str] = []
    for subject in subjects:
        try:
            records = [one for one in records_of(run, subject) if one.get("verdict")]
            if not records:
                raise GpubenchError(f"{subject} not recorded: {run} has no verdict on it any more")
            verdict = Verdict.from_json(records[-1]["verdict"])
            decision = recording(verdict, accept_regression=accept_regression)
            if not decision.allowed:
                refused.append(f"{subject} {decision.reason}")
                continue
            count = _append(baselines.path(subject), subject, run.name, records, decision.anchors)
        except GpubenchError as error:
            errors.append(str(error))
        else:
            recorded.append(f"{subject}: {count} in {baselines.path(subject)}")
    return Updated(tuple(recorded), tuple(refused), tuple(errors))


def _append(
    path: Path,
    subject: str,
    run: str,
    records: Sequence[Mapping[str, Any]],
    anchors: Mapping[str, str],
) -> str:
    from pytest_gpubench.gate.baseline_files import update_baseline
    from pytest_gpubench.gate.baselines import append
    from pytest_gpubench.gate.recording import entries_of, launch_of
    from pytest_gpubench.gate.wording import count

    gate = records[-1]["gate"]
    launches = [launch_of(one) for one in records if one["gate"]["key"] == gate["key"]]
    entries = entries_of(run, launches, FrozenMap(gate["axis"]), anchors)
    key = FrozenMap(gate["key"])
    update_baseline(path, subject, lambda before: append(before, key, entries))
    return count(len(entries), "launch")
