"""What an evaluation says where an engine is broken on purpose: vLLM on a CPU, the embedded pair, 200
questions of ``tiny-recall``, the limit of recipes.yaml.

    python experiments/accuracy/broken_engines.py [FAULT...] > experiments/accuracy/results/broken_engines.md

In an interpreter with vLLM's CPU build and lm-eval (``tools/install_cpu_engine.py``). About a
minute a fault.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pytest_gpubench.demo.models import write_trained_target

HERE = Path(__file__).parent
RECIPES = """\
templates:
  tiny:
    model: MODEL
    model-prefix: tiny
    precision: bf16
    framework: vllm
    runner: cpu
    scenarios:
      fixed-seq-len: [{isl: 16, osl: 8, search-space: [{tp: 1, conc-list: [8]}]}]
    serve: {dtype: bfloat16, max-model-len: 512, block-size: 128, max-num-seqs: 16, enable-prefix-caching: false, enforce-eager: true}
    env: {VLLM_CPU_KVCACHE_SPACE: 1}
    client: {prompts-per-conc: 1, warmups-per-conc: 1, dataset: text}
    evals: [{task: tiny-recall, limit: 200, at-least: 0.75}]
tiny-bf16-cpu-vllm:
  extends: tiny
  serve: SERVE
"""
DRAFTED = """\
tiny-bf16-cpu-vllm-mtp:
  extends: tiny
  scenarios:
    fixed-seq-len: [{isl: 16, osl: 8, search-space: [{tp: 1, conc-list: [8], spec-decoding: mtp}]}]
  speculative: {method: eagle3, model: pytest-gpubench/tiny-llama-eagle3, num-speculative-tokens: 3}
  serve: SERVE
"""


@dataclass(frozen=True)
class Fault:
    """One way in which a server is broken."""

    name: str
    words: str
    serve: dict[str, Any] = field(default_factory=dict)
    damaged: float = 0.0
    """Share of the bytes of the weights that are replaced."""
    zeros: float = 0.0
    """Share of the weights that become 0."""
    draft: dict[str, Any] | None = None
    """Flags of the server with a draft, where there is one."""


FAULTS = (
    Fault("none", "nothing"),
    Fault("draft", "nothing, beside a draft that fits", draft={}),
    Fault("weights-1", "1 byte in 100 of the weights is another", damaged=0.01),
    Fault("weights-zero", "1 weight in 12 is 0", zeros=1 / 12),
    Fault("weights-few", "1 weight in 40 is 0", zeros=1 / 40),
    Fault("template", "a chat template of another model", {"chat-template": "TEMPLATE"}),
    Fault(
        "draft-changes",
        "with its draft the server answers 1 question in 7 otherwise",
        draft={"middleware": "broken_middleware.Change"},
    ),
    Fault("context", "a context of 40 tokens", {"max-model-len": 40}),
    Fault("refused", "1 request in 20 is refused", {"middleware": "broken_middleware.Refuse"}),
)
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>"
    "{% endfor %}<|assistant|>"
)


def damage(folder: Path, fault: Fault) -> None:
    """Replace bytes and values of the weights (bfloat16), evenly drawn."""
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    (head,) = struct.unpack("<Q", content[:8])
    random = Random(23)
    begin = 8 + head
    size = len(content) - begin
    for _ in range(int(size * fault.damaged)):
        content[random.randrange(begin, len(content))] = random.randrange(256)
    for _ in range(int(size / 2 * fault.zeros)):
        at = begin + 2 * random.randrange(size // 2)
        content[at : at + 2] = b"\0\0"
    path.write_bytes(content)


def run(fault: Fault) -> list[dict[str, Any]]:
    """The records of the evaluations on one broken server."""
    with tempfile.TemporaryDirectory(prefix="accuracy-") as name:
        folder = Path(name)
        model = "pytest-gpubench/tiny-llama"
        if fault.damaged or fault.zeros:
            model = str(folder / "model")
            Path(model).mkdir()
            write_trained_target(Path(model))
            damage(Path(model), fault)
        (folder / "template.jinja").write_text(TEMPLATE)
        serve = json.dumps(fault.serve).replace("TEMPLATE", str(folder / "template.jinja"))
        text = RECIPES.replace("MODEL", model).replace("SERVE", serve)
        if fault.draft is not None:
            text += DRAFTED.replace("SERVE", json.dumps(fault.draft))
        (folder / "recipes.yaml").write_text(text)
        (folder / "test_serving.py").write_text("from pytest_gpubench.suite import test_accuracy\n")
        (folder / "pytest.ini").write_text("[pytest]\n")
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        path = os.pathsep.join([str(HERE), str(Path.cwd())])
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)
        found = sorted(folder.glob("results/*/*/tiny-recall/launch-1.json"))
        return [json.loads(path.read_text()) for path in found]


def row(fault: Fault, record: dict[str, Any]) -> str:
    """One line of the table."""
    part, verdict = record.get("evaluation") or {}, record.get("verdict") or {}
    failure = record.get("failure") or {}
    low, high = part.get("interval") or (0, 0)
    share = f"{part['right']} of {part['asked']}" if part else "-"
    beside = part.get("without_draft") or {}
    cells = [
        fault.words + (" (the server with the draft)" if beside else ""),
        share,
        f"{low:.1%} to {high:.1%}" if part else "-",
        ", ".join(f"{number} {kind}" for kind, number in part.get("failures", {}).items()) or "-",
        f"{beside['differing']} of {beside['common']}" if beside else "-",
        verdict.get("status") or "FAIL",
        (verdict.get("reason") or failure.get("summary") or "").replace("|", "/"),
        f"{part.get('seconds', 0):.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the faults that are named, else all of them."""
    print(
        "| what is broken | right | 98% interval | failures | other answers | verdict | why | took |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for fault in FAULTS:
        if not sys.argv[1:] or fault.name in sys.argv[1:]:
            for record in run(fault):
                print(row(fault, record), flush=True)


if __name__ == "__main__":
    main()
