"""``gpubench trace``: draw a trace of sessions by a seed, and look at one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench.commands import NUMBER
from pytest_gpubench.model.failures import GpubenchError

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.load.session_traces import SessionTrace

MOST_SESSIONS = 100_000


def add_commands(commands: Subparsers) -> None:
    """Add the parsers."""
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
