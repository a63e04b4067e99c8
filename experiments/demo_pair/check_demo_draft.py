"""Check the draft in plain PyTorch against an engine: same text, same proposals, so the same
acceptance.

Reads what measure_demo_pair.py saved (prompts, outputs and counters of one engine), computes in
float32 which tokens the draft would have proposed at every place, and compares the acceptance
length with the engine's counters.

    PYTHONPATH=. python experiments/demo_pair/check_demo_draft.py DIR/bf16-3.json [--within 0.05]

Exits 1 if a set's acceptance length differs by more than that share.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from demo_pair_model import Draft, Shape, Target, matches, walk
from safetensors.torch import load_file

from pytest_gpubench.demo import models


def load_pair() -> tuple[Target, Draft]:
    """The shipped pair in float32."""
    data, shape = Path(models.__file__).parent / "data", Shape()
    target = Target(shape)
    target.load_state_dict(load_file(data / "target.safetensors"))
    weights = load_file(data / "draft.safetensors")
    draft = Draft(shape, weights["d2t"] + torch.arange(shape.draft_vocab))
    draft.load_state_dict(weights)
    return target.float(), draft.float()


def main() -> None:
    """Compare every set of prompts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("--within", type=float, default=0.05)
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    steps = int(result["engine"].rpartition("-")[2])
    target, draft = load_pair()
    wrong = False
    for label, part in result["sets"].items():
        drafts, accepted = 0, [0] * steps
        for request in part["requests"]:
            ids = torch.tensor([request["prompt"] + request["output"]])
            good = matches(target, draft, ids, steps)[0].tolist()
            made, right = walk(good, len(request["prompt"]), ids.shape[1], steps)
            drafts += made
            accepted = [a + b for a, b in zip(accepted, right, strict=True)]
        ours = 1 + sum(accepted) / drafts
        counts = part["counts"]
        theirs = 1 + counts["accepted"] / counts["drafts"]
        positions = " ".join(
            f"{a / drafts:.3f}/{b / counts['drafts']:.3f}"
            for a, b in zip(accepted, counts["per_position"], strict=True)
        )
        print(f"{label}: PyTorch {ours:.3f}, engine {theirs:.3f}; per position {positions}")
        wrong = wrong or abs(ours / theirs - 1) > options.within
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
