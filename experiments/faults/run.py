"""Injects faults, one after the other, and looks at what comes of each: the verdict, the time to
it, what remains.

    python experiments/faults/run.py [--only WORD ...] [--list]

Most faults run pytest as a user does, in a folder of their own, with the stub engine of the tests.
It needs the plugin's environment and, for small disks, root on Linux. A run over everything writes
its table into README.md. The exit code is 1 if a fault is named wrongly, takes longer than its
limit, leaves something behind or loses a finished result.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import downloads
import interrupting
import serving
import starting
import weights
from document import machine, write_section
from harness import NO_FAILURE, Fault, Observed, remains, workplace

GROUPS = (
    ("Before the engine is ready", starting.FAULTS),
    ("While it serves", serving.FAULTS),
    ("The run and the host", interrupting.FAULTS),
    ("The cache of weights", weights.FAULTS),
    ("Downloads", downloads.FAULTS),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and what came of it."""

    fault: Fault
    seen: Observed
    left: tuple[str, ...]

    @property
    def counted(self) -> list[str]:
        """What remained and should not have."""
        allowed = f"temporary {self.fault.may_leave}" if self.fault.may_leave else None
        return [what for what in self.left if allowed is None or not what.startswith(allowed)]

    @property
    def wrong(self) -> list[str]:
        """Everything that is not as it must be."""
        fault, seen = self.fault, self.seen
        found = [*seen.problems, *(f"left behind: {what}" for what in self.counted)]
        if (seen.cause, seen.whose) != (fault.cause, fault.whose):
            found.append(
                f"named {seen.cause} ({seen.whose}) instead of {fault.cause} ({fault.whose})"
            )
        if seen.exit_code != fault.exit_code:
            found.append(f"exit code {seen.exit_code} instead of {fault.exit_code}")
        if seen.seconds > fault.within:
            found.append(f"{seen.seconds:.1f} s instead of at most {fault.within:g} s")
        return found

    def line(self) -> str:
        """The row of the table."""
        seen = self.seen
        verdict = (
            "goes on"
            if seen.cause == NO_FAILURE
            else f"{seen.cause}{f' ({seen.whose})' if seen.whose else ''}"
        )
        if seen.cause == NO_FAILURE and seen.exit_code not in (0, None):
            verdict = "ended"
        exit_code = "" if seen.exit_code is None else str(seen.exit_code)
        cells = [
            self.fault.name,
            verdict,
            f"{seen.seconds:.1f}",
            f"{self.fault.within:g}",
            exit_code,
            str(len(self.counted)),
            seen.note,
        ]
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def inject(fault: Fault, folder: Path) -> Row:
    """Run one fault in a new folder; whatever goes wrong with it is one of its problems."""
    folder.mkdir()
    try:
        seen = fault.inject(folder)
    except Exception as error:  # noqa: BLE001  # the other faults are still to be run
        traceback.print_exc()
        seen = Observed(
            "?",
            problems=[
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ],
        )
    return Row(fault, seen, tuple(remains(folder)))


def main() -> int:
    """Inject what was asked for; print, and write the document where that is everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="faults whose name holds one of these words"
    )
    parser.add_argument("--list", action="store_true", help="name the faults and end")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the hub's client tells of every attempt
    warnings.simplefilter("ignore")
    begin = time.monotonic()
    rows: list[Row] = []
    text: list[str] = []
    with workplace() as root:
        for title, faults in GROUPS:
            chosen = [
                fault
                for fault in faults
                if not options.only or any(word in fault.name for word in options.only)
            ]
            if options.list or not chosen:
                print(*(fault.name for fault in chosen), sep="\n")
                continue
            text += [
                "",
                f"### {title}",
                "",
                "| fault | verdict | s | limit | exit | left | |",
                "|---|---|---|---|---|---|---|",
            ]
            for fault in chosen:
                row = inject(fault, root / f"fault-{len(rows):02d}")
                rows.append(row)
                text.append(row.line())
                print(
                    f"{'wrong' if row.wrong else 'ok   '} {row.line()}",
                    *row.wrong,
                    sep="\n      ",
                    flush=True,
                )
    if options.list:
        return 0
    wrong = sum(bool(row.wrong) for row in rows)
    end = (
        f"{len(rows)} faults in {time.monotonic() - begin:.0f} s: {len(rows) - wrong} as they "
        f"must be, {wrong} not; "
        f"{sum(len(row.counted) for row in rows)} processes, leases, locks or temporary files "
        f"left. {machine()}"
    )
    print(end)
    if not options.only:
        write_section("faults", [end, *text])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
