"""Learn the demo tokenizer's word list and merges and write them as data files of
``pytest_gpubench.demo``.

Words, one token each: those of the training text, most frequent first; then those of synthetic
prompts (``load.prompts``), so that such prompts have exact lengths; then, up to the number wanted,
the words that the list held before. Merges are learned from the list by ``tokenizers``; as many are
kept as ids are left. Needs: pip install tokenizers. Then train the pair again.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from pathlib import Path

from demo_corpus import Writer
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from pytest_gpubench.demo import tokenizer as demo
from pytest_gpubench.load.prompts import WORDS

COUNT = 1500
CONVERSATIONS = 20_000


def main() -> None:
    """Write words.txt and merges.txt."""
    folder = Path(demo.__file__).parent
    writer, counts = Writer("tokenizer"), Counter[str]()
    for _ in range(CONVERSATIONS):
        for _, text in writer.conversation():
            counts.update(re.findall(r"[A-Za-z]+", text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = list(dict.fromkeys([*ranked, *WORDS, *demo.words()]))[:COUNT]
    (folder / "words.txt").write_text(
        "\n".join(textwrap.wrap(" ".join(words), 132)) + "\n", encoding="ascii"
    )

    trained = Tokenizer(BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=True)
    alphabet = sorted(ByteLevel.alphabet())
    trained.train_from_iterator(
        words, BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    )
    known = {"\u0120" + word for word in words}
    room = demo.VOCAB_SIZE - len(demo.SPECIAL_TOKENS) - len(alphabet) - len(words)
    lines: list[str] = []
    for left, right in json.loads(trained.to_str())["model"]["merges"]:
        new = left + right not in known
        if new and room == 0:
            break
        room -= new
        lines.append(f"{left} {right}".replace("\u0120", "_"))
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    print(f"{len(ranked)} words of the text, {len(words)} in all, {len(lines)} merges")


if __name__ == "__main__":
    main()
