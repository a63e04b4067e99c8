"""``gpubench calibrate``: the error of this host's client at the planned loads; ``gpubench trace``:
draw a trace of sessions by a seed, and look at one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench.commands import FOLDER, MANY, NUMBER, add_selection, selected
from pytest_gpubench.model.failures import GpubenchError

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.load.session_traces import SessionTrace

STREAM_RATE = 100.0
"""Chunks per second of one stream where nobody says otherwise: a token every 10 ms."""
EXIT_UNUSABLE = 1
MOST_STREAMS = 20_000
MOST_CHUNKS = 10_000_000


def add_commands(commands: Subparsers) -> None:
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


MOST_SESSIONS = 100_000


def add_trace(commands: Subparsers) -> None:
    parser = commands.add_parser("trace", help="traces of sessions: draw one, look at one")
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    make = kinds.add_parser("make", help="draw sessions by a seed and write them as JSON lines")
    make.add_argument("file", type=Path, help="the trace that is written")
    make.add_argument(
        "--profile", choices=("coding", "chat"), default="coding", help="lengths (default: coding)"
    )
    make.add_argument("--sessions", **NUMBER, default=64, help="(default: 64)")
    make.add_argument("--seed", **NUMBER, default=0, help="(default: 0)")
    make.add_argument("--block-tokens", **NUMBER, default=512, help="tokens of a block (512)")
    make.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="factor on lengths (default: 1)"
    )
    make.add_argument("--most-tokens", **NUMBER, help="of a prompt with its answer, at most")
    make.add_argument("--turns", **NUMBER, help="of every session, instead of drawn")
    make.add_argument(
        "--pauses", type=float, default=1.0, metavar="F", help="factor on pauses (default: 1)"
    )
    make.add_argument(
        "--sub-sessions",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of turns that spawn a session, which the next turn waits for (default: 0)",
    )
    make.set_defaults(run=_make)
    show = kinds.add_parser("show", help="what a trace of sessions holds, and what it shares")
    show.add_argument("file", type=Path, help="a trace as `client.dataset-file` names it")
    show.add_argument("--block-tokens", **NUMBER, default=512, help="tokens of a block (512)")
    show.set_defaults(run=_show)


def _make(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.files import write_text
    from pytest_gpubench.load.session_maker import PROFILES, Wanted, make_sessions

    limits: dict[str, tuple[float, float, float]] = {
        "--sessions": (parsed.sessions, 1, MOST_SESSIONS),
        "--block-tokens": (parsed.block_tokens, 1, 1_000_000),
        "--scale": (parsed.scale, 1e-6, 100),
        "--most-tokens": (1 if parsed.most_tokens is None else parsed.most_tokens, 1, 10**8),
        "--turns": (1 if parsed.turns is None else parsed.turns, 1, 10_000),
        "--pauses": (parsed.pauses, 0, 1000),
        "--sub-sessions": (parsed.sub_sessions, 0, 1),
    }
    _refuse_outside(limits)
    wanted = Wanted(
        parsed.sessions,
        PROFILES[parsed.profile],
        parsed.seed,
        parsed.block_tokens,
        parsed.scale,
        parsed.most_tokens,
        parsed.turns,
        parsed.pauses,
        parsed.sub_sessions,
    )
    try:
        lines = [json.dumps(line) for line in make_sessions(wanted)]
    except ValueError as error:
        raise GpubenchError(str(error)) from error
    write_text(parsed.file, "\n".join(lines) + "\n")
    print(f"{len(lines)} turns in {parsed.file}")
    return 0


def _refuse_outside(limits: dict[str, tuple[float, float, float]]) -> None:
    for option, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise GpubenchError(f"{option} {value:g} is not between {least:g} and {most:g}")


def _show(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.load.datasets import read_text
    from pytest_gpubench.load.session_traces import parse_sessions

    _refuse_outside({"--block-tokens": (parsed.block_tokens, 1, 1_000_000)})
    name = str(parsed.file)
    trace = parse_sessions(read_text(name), name, parsed.block_tokens)
    for words in _about(trace, parsed.block_tokens):
        print(words)
    for _, words in trace.notes:
        print(words, file=sys.stderr)
    return 0


def _about(trace: SessionTrace, block_tokens: int) -> list[str]:
    sessions = list(trace.sessions.values())
    turns = [turn for session in sessions for turn in session.turns]
    lengths = [turn.input_tokens for turn in turns if turn.input_tokens]
    words = [
        f"sessions: {len(trace.roots)}, sub-sessions: {len(sessions) - len(trace.roots)}",
        f"turns: {len(turns)}, at most {max(len(session.turns) for session in sessions)} a session",
        f"pauses: {sum(turn.pause for turn in turns):,.1f} s, the longest "
        f"{max(turn.pause for turn in turns):,.1f} s",
    ]
    if len(lengths) == len(turns):
        shared = _shared(trace, block_tokens)
        words += [
            f"prompt tokens: {sum(lengths):,}, at most {max(lengths):,} a turn",
            f"answer tokens: {sum(turn.output_tokens or 0 for turn in turns):,}",
            f"shared with an earlier turn of the file: {shared / sum(lengths):.1%}",
        ]
    return words


def _shared(trace: SessionTrace, block_tokens: int) -> int:
    from pytest_gpubench.load.prefix_sharing import PrefixTree
    from pytest_gpubench.load.session_traces import depth_first

    tree, shared, spawned = PrefixTree(), 0, trace.spawned
    for root in trace.roots:
        for session, number in depth_first(spawned, root):
            turn = session.turns[number]
            sizes = [
                (block, min(block_tokens, turn.input_tokens - place * block_tokens))
                for place, block in enumerate(turn.blocks)
            ]
            shared += tree.longest(sizes)
            tree.add(sizes)
    return shared
