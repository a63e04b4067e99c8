"""``gpubench calibrate``: the error of this host's client at the planned loads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench.commands import FOLDER, MANY, NUMBER, add_selection, selected
from pytest_gpubench.model.failures import GpubenchError

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers

STREAM_RATE = 100.0
"""Chunks per second of one stream where nobody says otherwise: a token every 10 ms."""
EXIT_UNUSABLE = 1
MOST_STREAMS = 20_000
MOST_CHUNKS = 10_000_000


def add_commands(commands: Subparsers) -> None:
    """Add the parsers."""
    parser = commands.add_parser(
        "calibrate",
        help="measure the client's own error on this host, at the loads that are planned",
    )
    add_selection(parser)
    parser.add_argument(
        "--conc", **MANY, **NUMBER, help="requests in flight, repeatable, instead of recipes"
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="chunks per second of all streams together (with --conc)",
    )
    parser.add_argument(
        "--stream-rate",
        type=float,
        metavar="R",
        help=f"chunks per second of each stream (default: {STREAM_RATE:g})",
    )
    parser.add_argument(
        "--workers", **NUMBER, help="client processes (default: 1, or as the recipe says)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        metavar="S",
        help="length of each measurement (default: 3)",
    )
    parser.add_argument(
        "--results", **FOLDER, default=Path("results"), help="where runs leave their results"
    )
    parser.set_defaults(run=_calibrate)


def _calibrate(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.load.client_calibration import calibrate, host_name, store
    from pytest_gpubench.load.client_error import Calibration, table_of

    points = _points(parsed)
    done: list[Calibration] = []
    for conc, workers, rate in points:
        print(
            f"gpubench: calibrating {conc} streams at {rate:,.0f} chunks/s ...",
            file=sys.stderr,
            flush=True,
        )
        done.append(calibrate(conc, rate, seconds=parsed.seconds, workers=workers))
    path = store(parsed.results, tuple(done))
    print(f"client against the loopback server on {host_name()}:\n{table_of(done)}")
    print(f"stored in {path}; a run on this host beyond 110% of what is usable here is INVALID")
    return EXIT_UNUSABLE if any(one.problem for one in done) else 0


def _points(parsed: argparse.Namespace) -> list[tuple[int, int, float]]:
    """(concurrency, workers, chunks/s), each once, the greatest first."""
    _check(parsed)
    if parsed.conc:
        loads = {(conc, parsed.workers or 1) for conc in parsed.conc}
    else:
        loads = {(conc, parsed.workers or workers) for conc, workers in _selected(parsed)}
    stream_rate = STREAM_RATE if parsed.stream_rate is None else parsed.stream_rate
    points = [
        (conc, workers, conc * stream_rate if parsed.rate is None else parsed.rate)
        for conc, workers in loads
    ]
    for conc, workers, rate in points:
        if workers > conc:
            raise GpubenchError(
                f"{workers} workers cannot share a concurrency of {conc}: use at most as many"
            )
        if rate > MOST_CHUNKS:
            raise GpubenchError(
                f"{rate:,.0f} chunks/s at concurrency {conc} is above {MOST_CHUNKS:,}: "
                "lower --stream-rate"
            )
    return sorted(points, reverse=True)


def _check(parsed: argparse.Namespace) -> None:
    if parsed.conc and (parsed.recipes or parsed.keyword or parsed.markexpr):
        raise GpubenchError(
            "--conc says what to calibrate, and so do recipes, -k and -m: give one of them"
        )
    if parsed.rate is not None and not parsed.conc:
        raise GpubenchError(
            "--rate is the rate of all streams together and needs --conc; for recipes "
            "there is --stream-rate"
        )
    if parsed.rate is not None and parsed.stream_rate is not None:
        raise GpubenchError(
            "--rate and --stream-rate both say how fast chunks come: give one of them"
        )
    for option, value in (("--rate", parsed.rate), ("--stream-rate", parsed.stream_rate)):
        if value is not None and not 0.01 <= value <= MOST_CHUNKS:
            raise GpubenchError(
                f"{option} {value:g}: must be from 0.01 to {MOST_CHUNKS:,} chunks per second"
            )
    if not 0.5 <= parsed.seconds <= 600:
        raise GpubenchError(f"--seconds {parsed.seconds:g}: must be from 0.5 to 600")
    if parsed.workers is not None and not 1 <= parsed.workers <= 256:
        raise GpubenchError(f"--workers {parsed.workers}: must be from 1 to 256")
    for conc in parsed.conc:
        if not 1 <= conc <= MOST_STREAMS:
            raise GpubenchError(f"--conc {conc}: must be from 1 to {MOST_STREAMS:,} streams")


def _selected(parsed: argparse.Namespace) -> set[tuple[int, int]]:
    loads = {
        (case.workload.conc, case.workload.workers)
        for case in selected(parsed)[1]
        if case.evaluation is None and case.workload.tool is None
    }
    if not loads:
        raise GpubenchError(
            "no case is selected, so there is nothing to calibrate for; see gpubench "
            "plan with the same -k"
        )
    too_many = max(conc for conc, _ in loads)
    if too_many > MOST_STREAMS:
        raise GpubenchError(
            f"concurrency {too_many} is more than one host can calibrate "
            f"({MOST_STREAMS:,} streams): select less"
        )
    return loads
