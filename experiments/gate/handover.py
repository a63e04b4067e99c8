"""How far rounds of one load are apart by the way in which the warm-up hands over to the
measurement, in a model of a server.

    python experiments/gate/handover.py

The model: continuous batching in steps; a step takes 5 ms, 20 us for each request that decodes, and
the time of the prompts read in it (8,192 tokens at most, 26,000 a second). Lengths are drawn as the
plugin draws them (512 in, 128 out, at least four fifths of that). A round has one warm-up request
per slot.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ISL, OSL, RATIO = 512, 128, 0.8
STEP_S, DECODE_S, PREFILL_S, STEP_TOKENS = 0.005, 20e-6, 1 / 26_000, 8192
ROUNDS = 40


@dataclass(slots=True)
class Request:
    """One request, from due to its last token."""

    measured: bool
    isl: int
    osl: int
    due: float = 0.0
    unread: int = 0
    made: int = 0
    first: float = 0.0
    end: float = 0.0


def draw(slots: int, measured: int, how: str, rng: random.Random) -> list[list[Request]]:
    """The requests of a round, in the groups that wait for each other."""
    every = [
        Request(
            number >= slots,
            rng.randint(int(RATIO * ISL), ISL),
            rng.randint(int(RATIO * OSL), OSL),
        )
        for number in range(slots + measured)
    ]
    if how == "handed over one after another":
        for number, one in enumerate(every[:slots]):
            one.osl = math.ceil(one.osl * (number + 1) / slots)
    return [every[:slots], every[slots:]] if how == "drained" else [every]


def serve(groups: Sequence[Sequence[Request]], slots: int, rng: random.Random) -> None:
    """A closed loop of so many slots against the server."""
    now = 0.0
    for group in groups:
        left = iter(group)
        waiting = list(_begin(left, slots, now))
        running: list[Request] = []
        while waiting or running:
            room, read = STEP_TOKENS - len(running), 0
            begun = []
            for one in list(waiting):
                part = min(one.unread, room)
                one.unread -= part
                room -= part
                read += part
                if not one.unread:
                    waiting.remove(one)
                    begun.append(one)
            took = STEP_S + DECODE_S * len(running) + PREFILL_S * read
            now += took * (1 + rng.gauss(0, 0.01))
            for one in running:
                one.made += 1
            for one in begun:
                one.first, one.made = now, 1
            running += begun
            for one in [one for one in running if one.made >= one.osl]:
                one.end = now
                running.remove(one)
                waiting += _begin(left, 1, now)


def _begin(left: Iterator[Request], count: int, now: float) -> Iterator[Request]:
    for _, one in zip(range(count), left, strict=False):
        one.due, one.unread = now, one.isl
        yield one


def metrics(requests: Sequence[Request]) -> tuple[float, float, float]:
    """Output throughput, median TTFT and median TPOT."""
    window = max(one.end for one in requests) - min(one.due for one in requests)
    return (
        sum(one.osl for one in requests) / window,
        statistics.median(one.first - one.due for one in requests),
        statistics.median((one.end - one.first) / (one.osl - 1) for one in requests),
    )


def main() -> None:
    """Print the table."""
    print("| c | prompts per slot | slots | throughput | TTFT p50 | TPOT p50 |")
    print("|---|---|---|---|---|---|")
    for slots in (16, 64):
        for prompts in (2, 4, 10):
            for how in ("drained", "handed over", "handed over one after another"):
                found = []
                for seed in range(ROUNDS):
                    rng = random.Random(seed)
                    groups = draw(slots, slots * prompts, how, rng)
                    serve(groups, slots, rng)
                    found.append(
                        metrics([one for group in groups for one in group if one.measured])
                    )
                spreads = [
                    statistics.stdev(math.log(one[index]) for one in found) for index in range(3)
                ]
                cells = " | ".join(f"{spread:.1%}" for spread in spreads)
                print(f"| {slots} | {prompts} | {how} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
