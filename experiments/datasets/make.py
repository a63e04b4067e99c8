"""Recorded data in the exact forms in which people have them, small: a ShareGPT file, Mooncake's
trace, Azure's trace of an LLM service. Lengths fit the embedded model.

    python experiments/datasets/make.py FOLDER
    pytest benchmarks --gpubench-recipes FOLDER/recipes.yaml

writes the files and recipes for both CPU engines into FOLDER.
"""

from __future__ import annotations

import json
import os
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

from pytest_gpubench.load.datasets import CORPUS

ENTRIES = 24
"""Six for each of four streams."""
RECIPES = """\
include: [{root}/recipes.yaml]
templates:
  recorded:
    client: {{prompts-per-conc: 6, warmups-per-conc: 1}}
    scenarios:
      fixed-seq-len:
      - {{isl: 128, osl: 32, search-space: [{{tp: 1, conc-list: [4]}}]}}
"""
"""Paths of ``include`` are relative to the file."""
ROW = """\
{prefix}-{name}:
  extends: [{prefix}, recorded]
  client: {{{data}}}
"""


def sharegpt(rng: random.Random) -> str:
    """As ShareGPT_V3_unfiltered_cleaned_split.json: ids, turns of human and gpt."""
    words = CORPUS.read_text(encoding="utf-8").split()
    entries = [
        {
            "id": f"QWJhYvA_{number}",
            "conversations": [
                {"from": "human", "value": " ".join(words[at : at + 20])},
                {"from": "gpt", "value": " ".join(words[at + 20 : at + rng.randint(30, 60)])},
            ],
        }
        for number, at in enumerate(range(0, len(words) - 60, 60))
    ]
    return json.dumps(entries[: 4 * ENTRIES])


def mooncake(rng: random.Random) -> str:
    """As conversation_trace.jsonl: milliseconds, lengths, hashes of blocks of 512 tokens."""
    lines = []
    for number in range(ENTRIES):
        entry = {
            "timestamp": 150 * number,
            "input_length": rng.randint(40, 240),
            "output_length": rng.randint(8, 40),
            "hash_ids": [rng.randint(0, 5)],
        }
        lines.append(json.dumps(entry))
    return "\n".join(lines) + "\n"


def azure(rng: random.Random) -> str:
    """As AzureLLMInferenceTrace_conv.csv: times with seven digits, context and generated tokens."""
    now = datetime(2023, 11, 16, 18, 15, 46)  # noqa: DTZ001  # as the file has them
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for _ in range(ENTRIES):
        stamp = now.strftime("%Y-%m-%d %H:%M:%S.%f") + str(rng.randint(0, 9))
        lines.append(f"{stamp},{rng.randint(40, 240)},{rng.randint(8, 40)}")
        now += timedelta(seconds=rng.expovariate(6.0))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[2]
    (folder / "sharegpt.json").write_text(sharegpt(random.Random(1)))
    (folder / "mooncake.jsonl").write_text(mooncake(random.Random(2)))
    (folder / "azure.csv").write_text(azure(random.Random(3)))
    text = RECIPES.format(root=os.path.relpath(root, folder.resolve()))
    for prefix in ("tiny-bf16-cpu-vllm", "tiny-f32-cpu-llamacpp"):
        for name, kind, file in (
            ("sharegpt", "dataset: sharegpt", "sharegpt.json"),
            ("mooncake", "dataset: trace, arrival: trace", "mooncake.jsonl"),
            ("azure", "dataset: trace, arrival: trace", "azure.csv"),
        ):
            data = f"{kind}, dataset-file: {file}"
            text += ROW.format(prefix=prefix, name=name, data=data)
    (folder / "recipes.yaml").write_text(text)


if __name__ == "__main__":
    main()
