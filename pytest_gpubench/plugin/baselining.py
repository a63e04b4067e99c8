"""Baselines of a run: read before any server starts, written by the controller when the run
ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap

if TYPE_CHECKING:
    from pytest_gpubench.gate.baselines import Baseline

from pytest_gpubench.model.verdicts import Change, MetricVerdict, Status, Verdict


class Baselines:
    """The baseline files of the cases of a recipe book."""

    def __init__(self, folder: Path, book: RecipeBook) -> None:
        self._folder = folder
        self._hardware = {key: spec.hardware for key, spec in book.servers}
        self._known: dict[str, Baseline | None] = {}

    def read(self, subjects: Iterable[str]) -> None:
        """Read the files of these cases and server starts now.

        Raises:
            GpubenchError: for the first that cannot be used, as
                ``gate.baseline_files.read_baseline``.
        """
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
    run: str,
    judged: Mapping[str, Sequence[Mapping[str, Any]]],
    not_judged: Sequence[str] = (),
    *,
    accept_regression: bool = False,
) -> Updated:
    """Append the launches of every case that may be recorded.

    Args:
        baselines: where the files are.
        run: name of the run's folder.
        judged: by case (or start of a server) its launches in order, as
            ``plugin.run_gate.Gate.told`` describes them, with the verdict on all of them in the
            last one.
        not_judged: sentences on cases that are left out.
        accept_regression: whether worse levels are recorded.
    """
    from pytest_gpubench.gate.recording import recording

    recorded: list[str] = []
    refused = list(not_judged)
    errors: list[str] = []
    for subject, launches in judged.items():
        decision = recording(
            verdict_of(launches[-1]["verdict"]), accept_regression=accept_regression
        )
        if not decision.allowed:
            refused.append(f"{subject} {decision.reason}")
            continue
        try:
            count = _append(baselines.path(subject), subject, run, launches, decision.anchors)
        except GpubenchError as error:
            errors.append(str(error))
        else:
            recorded.append(f"{subject}: {count} in {baselines.path(subject)}")
    return Updated(tuple(recorded), tuple(refused), tuple(errors))


def _append(
    path: Path,
    subject: str,
    run: str,
    launches: Sequence[Mapping[str, Any]],
    anchors: Mapping[str, str],
) -> str:
    from pytest_gpubench.gate.baseline_files import update_baseline
    from pytest_gpubench.gate.baselines import append
    from pytest_gpubench.gate.evidence import LaunchEvidence
    from pytest_gpubench.gate.recording import entries_of
    from pytest_gpubench.gate.wording import count

    last = launches[-1]
    evidence = [
        (
            LaunchEvidence(
                one["launch"], one["metrics"], one["requests"], invalid=tuple(one["invalid"])
            ),
            one["date"],
        )
        for one in launches
        if one["key"] == last["key"]
    ]
    entries = entries_of(run, evidence, FrozenMap(last["axis"]), anchors)
    key = FrozenMap(last["key"])
    update_baseline(path, subject, lambda before: append(before, key, entries))
    return count(len(entries), "launch")


def verdict_of(plain: Mapping[str, Any]) -> Verdict:
    """The verdict of a record, from its plain JSON data."""
    metrics = tuple(_metric(one) for one in plain["metrics"])
    return Verdict(
        **{
            **plain,
            "status": Status(plain["status"]),
            "metrics": metrics,
            "notes": tuple(plain["notes"]),
        }
    )


def _metric(plain: Mapping[str, Any]) -> MetricVerdict:
    change = plain["change"]
    return MetricVerdict(
        **{**plain, "status": Status(plain["status"]), "change": change and Change(**change)}
    )
