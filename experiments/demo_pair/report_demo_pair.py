"""Write README.md, its data (.json) and the model card from what was trained and measured: no
number has another source.

    PYTHONPATH=. python experiments/demo_pair/report_demo_pair.py CPU_DIR [--gpu GPU_DIR]

CPU_DIR and GPU_DIR are output folders of experiments/demo_pair/measure_demo_pair.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
import time
import zipfile
from pathlib import Path
from typing import Any

from pytest_gpubench.demo import models
from pytest_gpubench.demo.models import write_demo_models

DATA = Path(models.__file__).parent / "data"
DOCUMENT = Path(__file__).parent / "README.md"
SETS = {
    "corpus": "corpus questions, chat",
    "text": "corpus sentences cut at 120 words, chat",
    "random": "120 random words, chat",
    "random-raw": "120 random words, no template",
}
SAMPLES = 10


def kind(name: str) -> str:
    """What drafts on an engine, in words."""
    return {
        "bf16": "EAGLE3",
        "fp32": "EAGLE3, float32",
        "random": "random EAGLE3",
        "ngram": "n-gram",
    }[name.split("-")[0]]


def acceptance_table(summary: dict[str, Any]) -> list[str]:
    """One row per kind and number of drafts."""
    lines = [
        "| draft | tokens | prompts | acceptance length | accepted at position 1, 2, ... |",
        "|---|--:|---|--:|---|",
    ]
    found = summary["acceptance"]
    order = sorted(
        found,
        key=lambda name: (("bf16", "fp32", "random", "ngram").index(name.split("-")[0]), name),
    )
    for name in order:
        number = name.rpartition("-")[2]
        for label, words in SETS.items():
            row = found[name][label]
            length = f"{row['length']:.2f}" if row["length"] else "nothing drafted"
            places = ", ".join(f"{each:.2f}" for each in row["per_position"])
            lines.append(f"| {kind(name)} | {number} | {words} | {length} | {places} |")
    return lines


def equality_table(summary: dict[str, Any]) -> list[str]:
    """Requests whose whole output is the same with and without a draft."""
    lines = [
        "| draft | prompts | same output | largest gap of the two best logits where they part |",
        "|---|---|--:|--:|",
    ]
    for name, sets in summary["equality"].items():
        for label, row in sets.items():
            gap = max((each["gap"] for each in row["differ"]), default="none parts")
            lines.append(
                f"| {kind(name)}, {name.rpartition('-')[2]} | {SETS[label]} | "
                f"{row['equal']} of {row['of']} | {gap} |"
            )
    return lines


def samples(plain: dict[str, Any]) -> list[str]:
    """What the target writes, greedily, cut at the number of tokens that were asked for."""
    lines = []
    for request in plain["sets"]["corpus"]["requests"][:SAMPLES]:
        lines += [f"> **{request['question']}**", ">", f"> {request['text'].strip()}", ""]
    return lines


def sizes() -> list[str]:
    """Size of the files, of the package as a wheel holds it, and the time to unfold."""
    package = DATA.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "wheel.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(package.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    file.write(path, path.relative_to(package.parent))
        begin = time.perf_counter()
        write_demo_models(Path(folder) / "cache")
        seconds = time.perf_counter() - begin
        weights = {path.name: path.stat().st_size for path in sorted(DATA.glob("*.safetensors"))}
        return [
            *(f"- {name}: {size / 1e6:.2f} MB" for name, size in weights.items()),
            f"- the whole package, compressed as in a wheel: {archive.stat().st_size / 1e6:.2f} MB",
            f"- time to unfold into an empty cache: {seconds:.2f} s",
        ]


def training() -> list[str]:
    """The recipe, from training.json."""
    facts = json.loads((DATA / "training.json").read_text())
    target, draft, spent = facts["target"], facts["draft"], facts["seconds"]
    length = ", ".join(f"{each:.2f}" for each in facts["acceptance"]["length"])
    return [
        f"- Target: {facts['parameters']['target']:,} parameters; {target['steps']} steps of "
        f"{target['batch']} rows of 512 tokens "
        f"(AdamW, cosine) over {facts['text_tokens']:,} tokens of text; loss "
        f"{target['losses'][0]} at the start, "
        f"{target['held_out_loss']} on text it has not seen.",
        f"- Draft: {facts['parameters']['draft']:,} parameters; {draft['steps']} steps of "
        f"{draft['batch']} rows of what the target "
        "writes greedily, training-time test over 5 drafts, cross entropy with the target's "
        "distribution and its choice; loss "
        f"{draft['losses'][0]} at the start, {draft['losses'][-1]} at the end.",
        f"- {facts['device']}, PyTorch {facts['torch']}: {sum(spent.values()):.0f} s in all (text "
        f"{spent['text']:.0f}, target "
        f"{spent['target']:.0f}, answers {spent['answers']:.0f}, draft {spent['draft']:.0f}).",
        f"- Acceptance length in training, 1 to 5 drafts, on 512 held-out questions: {length}.",
    ]


def prose(text: str) -> list[str]:
    """A paragraph between empty lines."""
    return ["", *textwrap.wrap(" ".join(text.split()), 132, break_on_hyphens=False), ""]


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cpu", type=Path)
    parser.add_argument("--gpu", type=Path)
    options = parser.parse_args()
    summary = json.loads((options.cpu / "summary.json").read_text())
    plain = json.loads((options.cpu / "bf16-0.json").read_text())
    body = [
        "# The demo pair",
        *prose(
            """A Llama of a few megabytes that tells children's stories, and an EAGLE3 draft for it. They come with
            pytest-gpubench, so that speculative decoding can be seen, tested and gated on a machine without a GPU and without a
            network. They are of no other use."""
        ),
        "## Licence and data",
        *prose(
            """Apache-2.0, weights and text. No text of others: a grammar of ours (`demo_corpus.py`) writes all
            conversations, and `data/corpus.txt` is some of it, held out. The tokenizer (`train_demo_tokenizer.py`) is a
            byte-level BPE of 2048 ids in which the words of the text and of synthetic prompts are one token each. Questions are
            drawn anew for the measurements, but a grammar repeats itself: many sentences occur in the training text. Trained on
            512 tokens; beyond that it is out of its depth."""
        ),
        "## Training",
        *prose(
            """`train_demo_pair.py` makes both from a seed. The draft guesses among 320 of the 2048 ids, the most frequent
            ones, as large drafts do: a rarer word ends a run of accepted drafts."""
        ),
        *training(),
        "",
        "## Acceptance",
        *prose(
            f"""vLLM {", ".join(summary["vllm"])} on a CPU, bfloat16 unless said, greedy, 50 prompts a row, 64 tokens each, end
            of text ignored; `measure_demo_pair.py` measures it anew. Acceptance length is 1 + accepted / drafts, from the
            engine's counters. `experiments/demo_pair/check_demo_draft.py` computes the same in plain PyTorch."""
        ),
        *acceptance_table(summary),
        "",
        "## Drafting does not change the text",
        *prose(
            """Greedy output with a draft against the same engine without one, token for token. In float32 it should be the
            same. In bfloat16 a batch of another shape rounds differently, and where the two best logits tie, either may win;
            from there on the texts differ."""
        ),
        *equality_table(summary),
        "",
    ]
    if options.gpu:
        gpu = json.loads((options.gpu / "summary.json").read_text())
        body += [
            "## On a GPU", "", f"vLLM {', '.join(gpu['vllm'])}, draft on FLASH_ATTN.", "", *acceptance_table(gpu), "",
            *equality_table(gpu), "",
        ]  # fmt: skip
        if "ratio" in gpu:
            body += ["Acceptance length on the GPU divided by the CPU's:", ""]
            body += [
                f"- {name}: " + ", ".join(f"{SETS[label]} {each}" for label, each in row.items())
                for name, row in gpu["ratio"].items()
            ]
            body += [""]
    body += ["## Size and time", "", *sizes(), "", "## Ten samples"]
    body += prose(
        """Greedy, 64 tokens each. The end of text is ignored, as in benchmarks: after an answer comes the next question."""
    )
    body += samples(plain)
    text = "\n".join(body).rstrip() + "\n"
    DOCUMENT.write_text(text)
    DOCUMENT.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    (DATA / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: text-generation\n---\n" + text
    )
    print(text)


if __name__ == "__main__":
    main()
