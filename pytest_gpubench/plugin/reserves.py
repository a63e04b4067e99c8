"""Which reserve launches start: those that an undecided case asks for. The items of the others are
settled in their set-up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest

from pytest_gpubench.model.specs import Launch, init_subject
from pytest_gpubench.model.verdicts import Verdict
from pytest_gpubench.plugin.items import INIT_GATE, parameters_of


class Settling:
    """Which reserve launches are needed. A launch is needed by a selected subject whose last
    verdict asks for another one."""

    def __init__(
        self,
        items: Sequence[pytest.Item],
        verdict_of: Callable[[str], Verdict | None],
        refusal_of: Callable[[Launch], str] | None = None,
    ) -> None:
        self._verdict_of = verdict_of
        self._refusal_of = refusal_of
        self._begun: set[Launch] = set()
        self._selected: dict[Launch, dict[str, None]] = {}
        self._attempted: dict[str, tuple[str, int]] = {}
        for item in items:
            launch, subject = subject_of(item)
            if launch is not None and subject:
                self._selected.setdefault(launch, {})[subject] = None

    def reason(self, item: pytest.Item) -> str | None:
        """Why an item of a reserve launch need not run; None if it must, which is then
        remembered."""
        launch, subject = subject_of(item)
        if launch is None:
            return None
        asking = (
            [subject]
            if (parameters_of(item) or (None, None))[1]
            else list(self._selected.get(launch, ()))
        )
        if launch.reserve and not any(self._needs(launch, one) for one in asking):
            return self._words(asking)
        if self._refusal_of is not None and launch not in self._begun:
            refused = self._refusal_of(launch)
            if refused:
                return f"settled: {refused}"
            self._begun.add(launch)
        if subject:
            self._attempted[subject] = _block(launch)
        return None

    def _needs(self, launch: Launch, subject: str) -> bool:
        # Where only this launch was selected it is as good as certain; and a block that began is
        # finished.
        attempted = self._attempted.get(subject)
        if attempted is None or attempted == _block(launch):
            return True
        verdict = self._verdict_of(subject)
        return verdict is not None and verdict.wants_launch

    def _words(self, subjects: Sequence[str]) -> str:
        verdicts = [verdict for one in subjects if (verdict := self._verdict_of(one))]
        if len(subjects) == 1 and verdicts:
            return f"settled: {verdicts[0].status.value} without this launch"
        return (
            "settled: no case asks for this launch"
            if not subjects or verdicts
            else "settled: there is nothing to decide"
        )


def subject_of(item: pytest.Item) -> tuple[Launch | None, str]:
    """The launch of an item and what it judges there: its case, the start of the server, or nothing
    (empty)."""
    launch, case = parameters_of(item) or (None, None)
    if launch is None:
        return None, ""
    if case is not None:
        return launch, case.id
    return launch, init_subject(launch.server) if INIT_GATE in getattr(
        item, "fixturenames", ()
    ) else ""


def subjects_of(items: Iterable[pytest.Item]) -> list[str]:
    """What these items judge, each once."""
    return list(dict.fromkeys(subject for item in items if (subject := subject_of(item)[1])))


def _block(launch: Launch) -> tuple[str, int]:
    """Server and block: two launches of each arm are one block, without arms every launch is its
    own."""
    return launch.server, (launch.index - 1) // 2 if launch.arm else launch.index
