"""The questions of the embedded evaluation ``tiny-recall``: things are told and one is asked for, so
that the right answer is known by construction.

Four in five are of the kind that the demo pair was trained on, two people and one question, each
checked not to be among its training texts; one in five tells of four people, which its grammar
never writes, and is hard for it.

    PYTHONPATH=. python demo_recall_task.py > pytest_gpubench/demo/data/recall.jsonl

Two minutes on two cores: it writes all texts of the training again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor

from demo_corpus import Turn, Writer

COUNT = 500
HARD_EVERY = 5
ROWS, SHARDS, SEED, LENGTH = 200_000, 64, 6, 512
"""Of the training (`train_demo_pair`), as data/training.json has them."""
ASKS = (
    ("What does {name} have?", "{name} has a {color} {thing}."),
    ("What color is the {thing}?", "The {thing} of {name} is {color}."),
    ("Where does {other} live?", "{other} lives near the {place}."),
    ("Who has a {thing}?", "It is {name} who has a {thing}."),
)


class Examiner(Writer):
    """Draws questions whose answer is one sentence."""

    def item(self, pairs: int) -> dict[str, str]:
        """A question about one of ``2 * pairs`` people who share no name, thing or place."""
        casts: list[dict[str, str]] = []
        taken: set[str] = set()
        while len(casts) < pairs:
            cast = self._cast()
            own = {cast[key] for key in ("name", "other", "thing", "place")}
            if len(own) == 4 and not own & taken:
                taken |= own
                casts.append(cast)
        told = [
            sentence.format_map(cast)
            for cast in casts
            for sentence in (
                "{name} has a {color} {thing} made of {material}.",
                "{other} lives near the {place} and likes the {animal}.",
            )
        ]
        self._rng.shuffle(told)
        asked = self._rng.choice(casts)
        question, answer = self._rng.choice(ASKS)
        return {
            "question": " ".join([*told, question.format_map(asked)]),
            "answer": answer.format_map(asked),
        }


def drawn() -> list[dict[str, str]]:
    """More than enough of both kinds in turn; no question twice."""
    writer, found = Examiner("recall"), dict[str, dict[str, str]]()
    while len(found) < 2 * COUNT:
        item = writer.item(2 if len(found) % HARD_EVERY == HARD_EVERY - 1 else 1)
        found.setdefault(item["question"], item)
    return list(found.values())


def trained_on(shard: int) -> set[str]:
    """The questions of ours that one shard of the training texts has."""
    ours = {item["question"] for item in drawn()}
    writer, found = Writer(f"rows/{SEED}/{shard}"), set[str]()
    for _ in range(ROWS // SHARDS):
        length = 0
        while length <= LENGTH:
            turns = writer.conversation()
            found |= {text for role, text in turns if role == "user" and text in ours}
            length += _tokens(turns)
    return found


def _tokens(turns: list[Turn]) -> int:
    """As many as `train_demo_pair.encode_turns` makes, which needs torch."""
    return 1 + sum(2 + len(re.findall(r"\w+|[^\w\s]", text)) for _, text in turns)


def main() -> None:
    """Print the questions that were not trained on, every fifth a hard one."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        known = set().union(*pool.map(trained_on, range(SHARDS)))
    print(f"{len(known)} of {2 * COUNT} drawn questions were trained on", file=sys.stderr)
    fresh = [item for item in drawn() if item["question"] not in known]
    hard = [item for item in fresh if item["question"].count(" lives near the ") == 2]
    easy = [item for item in fresh if item["question"].count(" lives near the ") == 1]
    for index in range(COUNT):
        chosen = hard if index % HARD_EVERY == HARD_EVERY - 1 else easy
        print(json.dumps(chosen.pop(0)))


if __name__ == "__main__":
    main()
