"""Walks of ``gpubench bisect`` over 16 edits of a recipe, one of which costs 10%.

    python experiments/gate/bisect_walks.py simulated [--walks 20] [--write experiments/gate/README.md]
    python experiments/gate/bisect_walks.py loopback | llamacpp [--walks 1] [--work FOLDER]

``simulated``: many walks in memory, with the functions that judge and that walk, in calm and in
restless worlds. ``loopback``: the command itself, over the commits of a scratch repository, with an
engine that wanders as a calm host does (`wandering_engine.py`). ``llamacpp``: the same with llama.cpp
on this CPU and a proxy that holds every token (`delaying_engine.py`), its llama.cpp found in the
Python that runs this. Every walk has the loss at another random place, seeded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_gpubench.commands.bisecting import DEFAULT_LAUNCHES
from pytest_gpubench.gate.bisection import Answer, Bisection
from pytest_gpubench.gate.case_verdicts import Evidence, Judging
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.policy import DEFAULTS
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.recipes.server_groups import plan_launches
from pytest_gpubench.report.walk import read_walk

HERE = Path(__file__).parent
BEGIN, END = "<!-- bisect: begin -->", "<!-- bisect: end -->"
SEED = 20261128
EDITS = 16
LOSS = 0.10
LEVELS = {"output_tput_per_gpu": 1000.0, "tpot_p50": 0.010, "ttft_p50": 0.100}
_POLICIES = tuple(policy for policy in DEFAULTS if policy.metric in LEVELS)
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTEST_ADDOPTS")


@dataclass(frozen=True, slots=True)
class World:
    """How launches differ. Standard deviations on the log scale."""

    name: str
    launch: float
    """Of a launch's speed, all metrics alike."""
    repeat: dict[str, float]
    """Of one measurement, by metric."""
    others: float = 0.0
    """Of what each of the other edits changes for good."""
    drift: float = 0.001
    """By which each launch is slower than the one before."""
    metrics: tuple[str, ...] = ()
    """As ``--metric``."""


def _alike(spread: float) -> dict[str, float]:
    return dict.fromkeys(LEVELS, spread)


CALM = World("calm: launches 0.5%, measurements 0.3%", 0.005, _alike(0.003))
_16 = {"output_tput_per_gpu": 0.006, "tpot_p50": 0.009, "ttft_p50": 0.11}
_64 = {"output_tput_per_gpu": 0.048, "tpot_p50": 0.06, "ttft_p50": 0.11}
WORLDS = (
    CALM,
    replace(CALM, name="calm, each other edit moves it by 0.3%", others=0.003),
    World("launches 1%, measurements 0.7%", 0.01, _alike(0.007)),
    World("launches 3%, measurements 0.7%", 0.03, _alike(0.007)),
    World("8B sizes on an H100, c=16", 0.0, _16),
    World("the same, --metric tpot_p50", 0.0, _16, metrics=("tpot_p50",)),
    World("8B sizes on an H100, c=64, --metric tpot_p50", 0.0, _64, metrics=("tpot_p50",)),
)


@dataclass(slots=True)
class Ended:
    """What a walk gave."""

    planted: int
    found: int | None
    suspects: range
    steps: int
    launches: int
    skipped: int

    @property
    def kind(self) -> str:
        """``right``, ``wrong`` or ``undecided``; a row of suspects without the right one is
        wrong."""
        if self.found is not None:
            return "right" if self.found == self.planted else "wrong"
        return "undecided" if self.planted in self.suspects else "wrong"


@dataclass(slots=True)
class Simulated:
    """One walk in a world."""

    world: World
    launches: str
    rng: np.random.Generator
    started: int = 0
    levels: list[float] = field(default_factory=list)

    def walk(self, planted: int) -> Ended:
        """The walk with the loss at a place."""
        moves = self.rng.normal(0.0, self.world.others, EDITS)
        self.levels = list(np.cumsum(moves))
        for place in range(planted, EDITS):
            self.levels[place] += float(np.log1p(LOSS))
        state = Bisection(EDITS)
        while (place_asked := state.next) is not None:
            answer = Answer.of(self._step(self.levels[place_asked]))
            state = replace(state, answers={**state.answers, place_asked: answer})
        if (first_bad := state.unconfirmed) is not None:
            alone = self._step(self.levels[first_bad] - self.levels[first_bad - 1])
            state = replace(state, alone=Answer.of(alone))
        skipped = sum(answer is Answer.SKIPPED for answer in state.answers.values())
        suspects = state.suspects if state.end is Answer.BAD else range(EDITS)
        found = state.found if state.confirmed else None
        # One that is not confirmed is not named: anything may be the change.
        suspects = suspects if found is not None or len(suspects) > 1 else range(EDITS)
        steps = len(state.answers) + (state.alone is not None)
        return Ended(planted, found, suspects, steps, self.started, skipped)

    def _step(self, worse: float) -> Status:
        """The launches of a step, in their order, judged after each as in a run."""
        planned = plan_launches(["server"], self.launches, against=True)
        judging = Judging(planned, lambda _subject: None)
        policies = [
            policy
            for policy in _POLICIES
            if not self.world.metrics or policy.metric in self.world.metrics
        ]
        status = Status.INCONCLUSIVE
        for number, launch in enumerate(planned):
            verdict = judging.verdict("case")
            block_begins = number % 4 == 0
            if block_begins and launch.reserve and verdict and not verdict.wants_launch:
                break
            self.started += 1
            shift = worse if launch.arm == "b" else 0.0
            metrics = self._measured(shift + self.world.drift * number)
            evidence = LaunchEvidence(launch.label, metrics, 1000)
            status = judging.judge(
                "case", launch, Evidence(evidence, "", FrozenMap(), FrozenMap()), policies
            ).status
            if status is Status.FAIL:  # -x
                break
        return status

    def _measured(self, slower: float) -> dict[str, float]:
        common = self.rng.normal(0.0, self.world.launch)
        found = {}
        for name, level in LEVELS.items():
            own = self.rng.normal(0.0, self.world.repeat[name])
            # The first token is not what the planted edit makes slower.
            moved = common + own + (0.0 if name == "ttft_p50" else slower)
            found[name] = level * float(np.exp(-moved if name.startswith("output") else moved))
        return found


def simulated(walks: int, launches: str) -> list[str]:
    """The table of all worlds."""
    lines = [
        "| world | walks | right | undecided | wrong | steps | skipped | starts of an engine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, world in enumerate(WORLDS):
        rng = np.random.default_rng([SEED, number])
        ended = [
            Simulated(world, launches, rng).walk(int(rng.integers(EDITS))) for _ in range(walks)
        ]
        kinds = Counter(one.kind for one in ended)
        mean = [
            sum(getattr(one, name) for one in ended) / walks
            for name in ("steps", "skipped", "launches")
        ]
        lines.append(
            f"| {world.name} | {walks} | {kinds['right']} | {kinds['undecided']} | {kinds['wrong']} "
            f"| {mean[0]:.1f} | {mean[1]:.1f} | {mean[2]:.0f} |"
        )
    return lines


RECIPE = """
tiny-{precision}-cpu-{framework}:
  model: pytest-gpubench/tiny-llama{suffix}
  model-prefix: tiny
  precision: {precision}
  framework: {framework}
  multinode: false
  runner: cpu
  scenarios:
    fixed-seq-len:
    - {{isl: 64, osl: 64, search-space: [{{tp: 1, conc-list: [1]}}]}}
  serve: {serve}
  env: {env}
  client: {{prompts-per-conc: {prompts}, warmups-per-conc: 4}}
  gates: {{tpot_p50: {tolerance}, output_tput_per_gpu: false, ttft_p50: false}}
"""


@dataclass(frozen=True, slots=True)
class Real:
    """An engine for real walks."""

    framework: str
    precision: str
    suffix: str
    serve: str
    prompts: int
    command: tuple[str, ...]
    tolerance: str
    """Of tpot_p50."""
    env: tuple[str, str]
    """Of the engine before and after the loss."""


def repository(work: Path, real: Real, planted: int) -> None:
    """A scratch repository: a first commit and 16 edits, each of a flag or a variable that this
    engine's speed does not depend on, one of which is the loss."""
    (work / "benchmarks").mkdir(parents=True)
    (work / "benchmarks" / "test_serving.py").write_text(
        "from pytest_gpubench.suite import test_throughput\n"
    )
    (work / "pytest.ini").write_text("[pytest]\n")
    (work / ".gitignore").write_text("results/\n__pycache__/\n.pytest_cache/\n")
    git = ["git", "-C", str(work), "-c", "user.name=gate", "-c", "user.email=gate@localhost"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    for number in range(EDITS + 1):
        slow = number > planted
        env = {"EDIT": str(number), **json.loads(real.env[slow])}
        recipe = RECIPE.format(
            framework=real.framework,
            precision=real.precision,
            suffix=real.suffix,
            serve=real.serve,
            env=json.dumps(env),
            prompts=real.prompts,
            tolerance=real.tolerance,
        )
        (work / "recipes.yaml").write_text(recipe)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"Edit {number}"], check=True)
        if number == 0:
            subprocess.run([*git, "tag", "good"], check=True)


def reals() -> dict[str, Real]:
    """The engines, with what the loss is."""
    from pytest_gpubench.dialects.llamacpp import xllamacpp_server

    python = sys.executable
    proxy = str(HERE / "delaying_engine.py")
    return {
        "loopback": Real(
            "vllm",
            "bf16",
            "",
            "{max-model-len: 256, block-size: 128, enable-prefix-caching: false}",
            20,
            (python, str(HERE / "wandering_engine.py")),
            "5%",
            ('{"GATE_STRETCH": "0"}', f'{{"GATE_STRETCH": "{LOSS}"}}'),
        ),
        "llamacpp": Real(
            "llamacpp",
            "f32",
            "-gguf",
            "{ctx-size: 512, threads: 1, parallel: 1, cache-prompt: false}",
            48,
            (python, proxy, python, xllamacpp_server.__file__),
            "60%",
            ('{"GATE_DELAY_MS": "0"}', '{"GATE_DELAY_MS": "2"}'),
        ),
    }


def real_walks(name: str, walks: int, work: Path, launches: str) -> list[dict[str, Any]]:
    """Walks of the command itself."""
    real, chance = reals()[name], random.Random(SEED)
    rows = []
    for number in range(walks):
        planted = chance.randrange(EDITS)
        folder = work / f"{name}-{number + 1}"
        repository(folder, real, planted)
        command = [
            *(sys.executable, "-m", "pytest_gpubench.cli", "bisect", "good", "main"),
            *("--launches", launches, "--", "benchmarks"),
            f"--gpubench-command={real.framework}={' '.join(real.command)}",
            f"--gpubench-cache-dir={work / 'hub'}",
        ]
        environment = {key: value for key, value in os.environ.items() if key not in _UNSET}
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        (folder / "bisect.log").write_text(done.stdout + done.stderr)
        walk = json.loads((folder / "results" / "bisect" / "walk.json").read_text())
        state = read_walk(folder / "results" / "bisect" / "walk.json").state
        found = state.found if state.confirmed else None
        one_of = state.end is Answer.BAD and state.found is None
        ended = Ended(planted, found, state.suspects if one_of else range(EDITS), 0, 0, 0)
        row = {
            "walk": number + 1,
            "planted": f"Edit {planted + 1}",
            "kind": ended.kind,
            "exit": done.returncode,
            "seconds": round(time.monotonic() - began),
            "steps": [
                {
                    "edit": step["place"] + 1,
                    "against": step["base"] + 1,
                    **{key: step[key] for key in ("answer", "change", "pairs", "seconds")},
                }
                for step in walk["steps"]
            ],
            "conclusion": walk["conclusion"],
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def write(path: Path, lines: Sequence[str]) -> None:
    """Put the table between its marks."""
    text = path.read_text()
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{head}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{tail}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("simulated", "loopback", "llamacpp"))
    parser.add_argument("--walks", type=int)
    parser.add_argument("--launches", default=DEFAULT_LAUNCHES)
    parser.add_argument("--work", type=Path, default=Path("bisect-work"))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.kind == "simulated":
        lines = simulated(options.walks or 20, options.launches)
        print("\n".join(lines))
        if options.write:
            write(options.write, lines)
        return
    real_walks(options.kind, options.walks or 1, options.work.resolve(), options.launches)


if __name__ == "__main__":
    main()
