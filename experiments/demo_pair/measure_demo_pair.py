"""Measure the demo pair on the vLLM of this interpreter: acceptance of drafts, and that drafting
does not change what is written.

    export PYTHONPATH=.
    PYTHON_OF_ENGINE measure_demo_pair.py --out DIR                       # all; each engine in a process of its own
    PYTHON_OF_ENGINE measure_demo_pair.py --out DIR --only bf16-0 bf16-3 --compare demo-pair.json

DIR gets one JSON file per engine and summary.json; report_demo_pair.py turns them into the
document. Everything is greedy (temperature 0, end of text ignored). With --compare it exits 1 if an
acceptance length differs by more than 5% from the other's. On a CPU: one to two minutes per engine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

PROMPTS = 50
OUTPUT = 64
PROMPT_TOKENS = 120
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
ENGINES = [
    "bf16-0",
    "bf16-3",
    "fp32-0",
    "fp32-3",
    "bf16-1",
    "bf16-2",
    "bf16-4",
    "bf16-5",
    "random-3",
    "ngram-3",
]
"""Type, or what drafts in bfloat16, and the number of draft tokens; 0: no draft."""


def prompt_sets() -> dict[str, list[str]]:
    """Prompts by set; the same on every machine."""
    from demo_corpus import Writer

    from pytest_gpubench.load.prompts import WORDS

    rng = random.Random("measure")  # reproducible, not secret
    writer = Writer("measure")
    sentences = [
        f"{each}." for _ in range(400) for each in writer.passage().rstrip(".").split(". ")
    ]

    def text() -> str:
        words = rng.choices(WORDS, k=4)
        while len(words) < PROMPT_TOKENS:
            words += rng.choice(sentences).split()
        return " ".join(words[:PROMPT_TOKENS])

    return {
        "corpus": [writer.question() for _ in range(PROMPTS)],
        "text": [text() for _ in range(PROMPTS)],
        "random": [" ".join(rng.choices(WORDS, k=PROMPT_TOKENS)) for _ in range(PROMPTS)],
        "random-raw": [" ".join(rng.choices(WORDS, k=PROMPT_TOKENS)) for _ in range(PROMPTS)],
    }


def run_engine(name: str, cache: Path) -> dict[str, Any]:
    """Start one engine in this process and measure it."""
    from vllm import LLM, SamplingParams
    from vllm import __version__ as version

    kind, _, number = name.partition("-")
    drafts = int(number)
    options: dict[str, Any] = {}
    if drafts:
        speculative: dict[str, Any] = {"num_speculative_tokens": drafts}
        if kind == "ngram":
            speculative |= {"method": "ngram", "prompt_lookup_max": 4, "prompt_lookup_min": 2}
        else:
            model = (
                str(cache / "random-draft")
                if kind == "random"
                else "pytest-gpubench/tiny-llama-eagle3"
            )
            speculative |= {"method": "eagle3", "model": model}
            if kind != "random" and not _on_cpu():
                speculative["attention_backend"] = "FLASH_ATTN"
        options["speculative_config"] = speculative
    if not _on_cpu():
        options["gpu_memory_utilization"] = 0.3
    engine = LLM(
        model="pytest-gpubench/tiny-llama", dtype=DTYPES.get(kind, "bfloat16"), max_model_len=512, block_size=128, max_num_seqs=16,
        enforce_eager=True, enable_prefix_caching=False, disable_log_stats=False, **options,
    )  # fmt: skip
    sampling = SamplingParams(
        temperature=0.0, max_tokens=OUTPUT, ignore_eos=True, logprobs=None if drafts else 2
    )
    found: dict[str, Any] = {"engine": name, "vllm": version, "sets": {}}
    for label, prompts in prompt_sets().items():
        before = _counters(engine)
        if label == "random-raw":
            answers = engine.generate(prompts, sampling, use_tqdm=False)
        else:
            answers = engine.chat(
                [[{"role": "user", "content": prompt}] for prompt in prompts],
                sampling,
                use_tqdm=False,
            )
        after = _counters(engine)
        requests = []
        for answer in answers:
            output = answer.outputs[0]
            request: dict[str, Any] = {
                "prompt": list(answer.prompt_token_ids),
                "output": list(output.token_ids),
            }
            if output.logprobs is not None:
                best = [
                    sorted((each.logprob for each in place.values()), reverse=True)
                    for place in output.logprobs
                ]
                request["gaps"] = [round(place[0] - place[1], 5) for place in best]
            if label == "corpus" and name == "bf16-0":
                request["question"], request["text"] = prompts[len(requests)], output.text
            requests.append(request)
        found["sets"][label] = {
            "requests": requests,
            "counts": {key: _minus(after[key], before[key]) for key in after},
        }
    return found


def _counters(engine: Any) -> dict[str, Any]:
    wanted = {
        "vllm:spec_decode_num_drafts": "drafts",
        "vllm:spec_decode_num_accepted_tokens": "accepted",
        "vllm:spec_decode_num_accepted_tokens_per_pos": "per_position",
    }
    return {
        wanted[m.name]: getattr(m, "values", None) or m.value
        for m in engine.get_metrics()
        if m.name in wanted
    }


def _minus(after: Any, before: Any) -> Any:
    return (
        [a - b for a, b in zip(after, before, strict=True)]
        if isinstance(after, list)
        else after - before
    )


def _on_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()


def summarize(folder: Path, compare: Path | None) -> dict[str, Any]:
    """Acceptance per engine and set, and how outputs with a draft differ from those without."""
    results = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in ENGINES
        if (folder / f"{name}.json").exists()
    }
    summary: dict[str, Any] = {
        "vllm": sorted({each["vllm"] for each in results.values()}),
        "acceptance": {},
        "equality": {},
    }
    for name, result in results.items():
        if name.endswith("-0"):
            continue
        rows = {}
        for label, part in result["sets"].items():
            counts = part["counts"]
            drafts = counts["drafts"]
            rows[label] = {
                "drafts": drafts,
                "length": round(1 + counts["accepted"] / drafts, 4) if drafts else None,
                "per_position": [round(each / drafts, 4) for each in counts["per_position"]]
                if drafts
                else [],
            }
        summary["acceptance"][name] = rows
        plain = results.get("fp32-0" if name.startswith("fp32") else "bf16-0")
        if plain is not None:
            summary["equality"][name] = {
                label: _difference(plain["sets"][label], part)
                for label, part in result["sets"].items()
            }
    if compare is not None:
        other = json.loads(compare.read_text())["acceptance"]
        summary["ratio"] = {
            name: {
                label: round(row["length"] / other[name][label]["length"], 4)
                for label, row in rows.items()
                if row["length"]
            }
            for name, rows in summary["acceptance"].items()
            if name in other
        }
    return summary


def _difference(plain: dict[str, Any], drafted: dict[str, Any]) -> dict[str, Any]:
    """Equal requests, and for each other one where it first differs and the gap between the two
    best logits there."""
    equal, others = 0, []
    for one, two in zip(plain["requests"], drafted["requests"], strict=True):
        at = next(
            (
                i
                for i, (a, b) in enumerate(zip(one["output"], two["output"], strict=True))
                if a != b
            ),
            None,
        )
        if at is None:
            equal += 1
        else:
            others.append({"at": at, "gap": one["gaps"][at]})
    return {"equal": equal, "of": len(plain["requests"]), "differ": others}


def main() -> None:
    """Measure what is asked for, then sum up everything in the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="*", choices=ENGINES, help="engines to measure (default: all)"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        help="summary.json of other results, by whose acceptance this one is divided",
    )
    parser.add_argument(
        "--within",
        type=float,
        default=0.05,
        help="share by which acceptance may differ from the other's",
    )
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.out.resolve()
    cache = folder / "cache"
    if options.engine:
        (folder / f"{options.engine}.json").write_text(
            json.dumps(run_engine(options.engine, cache))
        )
        return
    from random_models import write_random_draft

    from pytest_gpubench.demo.models import LlamaShape, write_demo_models

    folder.mkdir(parents=True, exist_ok=True)
    write_demo_models(cache)
    write_random_draft(cache / "random-draft", LlamaShape())
    environment = {
        **os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    }  # fmt: skip
    if _on_cpu():
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    failed = []
    for name in options.only if options.only is not None else ENGINES:
        print(f"measuring {name}", flush=True)
        command = [sys.executable, __file__, "--out", str(folder), "--engine", name]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    summary = summarize(folder, options.compare)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    far = [
        f"{name} {label}"
        for name, row in summary.get("ratio", {}).items()
        for label, each in row.items()
        if abs(each - 1) > options.within
    ]
    if far:
        sys.exit(f"acceptance differs by more than {options.within:.0%}: {', '.join(far)}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
