"""The launch plan: which fresh starts of each server are planned before collection."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.specs import Launch

MAX_LAUNCHES = 100
ABBA = ("a", "b", "b", "a")
"""Order of the arms of one block: a drift that is linear in time cancels."""


def parse_launches(text: str) -> tuple[int, int]:
    """Certain and reserve launches of ``3`` (3, 0) or ``1..3`` (1, 2).

    Raises:
        GpubenchError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d{1,4})\s*(?:\.\.\s*(\d{1,4})\s*)?", text, re.ASCII)
    certain = int(match[1]) if match else 0
    most = int(match[2]) if match and match[2] else certain
    if not 1 <= certain <= most <= MAX_LAUNCHES:
        raise GpubenchError(f"launches '{text}': write a number such as 3, or a range such as 1..3, up to {MAX_LAUNCHES}")
    return certain, most - certain


def plan_launches(servers: Iterable[str], launches: str = "1", *, against: bool = False) -> tuple[Launch, ...]:
    """Every launch of every server, server by server, in the order in which they run.

    Args:
        servers: KEYs.
        launches: ``3``: three; ``1..3``: one certain and two in reserve.
        against: two engines are compared; each launch becomes a block of the arms A B B A.

    Raises:
        GpubenchError: if ``launches`` is not understood.
    """
    certain, reserve = parse_launches(launches)
    return tuple(launch for server in servers for launch in _of_server(server, certain, reserve, against))


def _of_server(server: str, certain: int, reserve: int, against: bool) -> list[Launch]:
    planned = []
    counts = dict.fromkeys(("", "a", "b"), 0)
    for block in range(certain + reserve):
        for arm in ABBA if against else ("",):
            counts[arm] += 1
            planned.append(Launch(server, counts[arm], arm, reserve=block >= certain))
    return planned
