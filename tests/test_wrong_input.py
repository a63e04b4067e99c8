"""The table of wrong-input.md, which is also a page of the reference: every row is run."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from tests.plugin.fork_server import ForkServer

PAGE = Path(__file__).with_name("wrong-input.md")
ROW = re.compile(r"^\| `([^`]+)` \| (\d+) \| (.+) \|$", re.MULTILINE)
EITHER = re.compile(r"\{([\w .-]+(?:,[\w .-]+)+)\}")
"""Part of a command that stands for several."""


def spelled(command: str) -> list[str]:
    """The commands that a row's first cell stands for."""
    found = EITHER.search(command)
    if not found:
        return [command]
    return [
        command[: found.start()] + word + command[found.end() :] for word in found[1].split(",")
    ]


ROWS = [
    (command, int(found[2]), found[3])
    for found in ROW.finditer(PAGE.read_text(encoding="utf-8"))
    for command in spelled(found[1])
]

RECIPE = """\
tiny-bf16-cpu-vllm:
  model: pytest-gpubench/tiny-llama
  model-prefix: tiny
  precision: bf16
  framework: vllm
  multinode: false
  runner: cpu
  scenarios:
    fixed-seq-len:
    - {isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1]}]}
"""
SERVE = "  serve: {max-model-len: 256}\n"
ENTRY = """\
meta: {hardware: {trillium: verified}}
model: {model_id: org/model, base_args: []}
variants: {default: {precision: bf16, vram_minimum_gb: 600}}
compatible_strategies: [single_node_tp]
"""
FILES = {
    "recipes.yaml": RECIPE + SERVE,
    # one right and one wrong recipe
    "wrong.yaml": RECIPE + SERVE + RECIPE.replace("tiny", "other").replace("scenarios", "scenario"),
    "port.yaml": f"{RECIPE}  serve:\n    extra-args: [--po, 9]\n".replace(
        "    extra", "         extra"
    ),
    "circle.yaml": "include: [circle.yaml]\n",
    "lost.yaml": "include: [nowhere.yaml]\n",
    "included.yaml": "include: [port.yaml]\n",
    "planned.yaml": f"{RECIPE}{SERVE}  plan-only: it never starts\n",
    "templates.yaml": "templates: {base: {framework: vllm}}\n",
    "bounds.yaml": f"{RECIPE}{SERVE}  gates: {{ttft_p50: {{at-least: 2, at-most: 1}}}}\n",
    "idle.yaml": f"{RECIPE}{SERVE}  gates: {{e2e_p50: {{}}}}\n",
    "neutral.yaml": f"{RECIPE}{SERVE}  gates: {{duration: 5%}}\n",
    "ratio.yaml": f"{RECIPE}{SERVE}ratios:\n"
    "- {name: a, metric: output_tput, of: nowhere, over: tiny-bf16-cpu-vllm, at-least: 1}\n",
    "image.yaml": f"{RECIPE}  image: me:pa55word@registry.example/vllm:v1\n",
    "tool.yaml": f"{RECIPE}{SERVE}  client:\n    {{tool: aiperf, arguments: {{x: 1, api-key: y}}}}\n",
    "evals.yaml": f"{RECIPE}{SERVE}  evals:\n  - {{task: gsm8k, at-least: 90}}\n",
    "lost-task.yaml": f"{RECIPE}{SERVE}  evals:\n  - {{task: nowhere.yaml}}\n",
    # a seed of 5,000 digits
    "huge.yaml": f"{RECIPE}  serve: {{seed: 0x{'f' * 5000}}}\n",
    "text.yaml": "this: [is, not\n",
    "empty.yaml": "",
    "file": "",
    "broken.json": "{",
    # JSON of another shape
    "odd.json": '{"kind": "matrix", "include": [{"cases": 5}]}',
    # one list in another too often
    "deep.json": "[" * 100_000,
    "later.json": '{"kind": "matrix", "schema": 9, "include": [{"cases": ["a"]}]}',
    "matrix.json": '{"kind": "matrix", "include": [{"cases": ["a"]}]}',
    "two.sh": "vllm serve a\nvllm serve b\n",
    "open.sh": "vllm serve 'a\n",
    "shell.sh": "vllm serve $MODEL\n",
    # of vllm-project/recipes, for a TPU
    "entry.yaml": ENTRY,
    "official.yaml": f"{RECIPE}  source: https://recipes.vllm.ai/org/model\n",
    # such an entry of vLLM-Omni
    "omni.yaml": f"{ENTRY}omni: {{tasks: [{{id: t2a}}]}}\n",
    # baselines without launches
    "old/h100/m/x.json": '{"case": "m:x", "keys": {}, "launches": [], "schema": 1}',
    "old/h100/m/y.json": '{"case": "m:y", "keys": {}, "launches": [], "schema": 1}',
    # a date that there is not
    "known/waivers.yaml": "- {bug: http://x/1, case: m, until: 2027-02-30}\n",
    "right/waivers.yaml": "- {bug: http://x/1, case: m, until: 2027-02-28}\n",
    "pytest.ini": "[pytest]\naddopts = -p no:cacheprovider\n",
    "benchmarks/test_serving.py": "from pytest_gpubench.suite import test_engine_init, test_throughput\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, light_pytest: None) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "bytes.yaml").write_bytes(b"\xe9: 1\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 60


@pytest.mark.parametrize(("command", "code", "says"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row(
    command: str,
    code: int,
    says: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    forks: ForkServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    before = _paths(folder)
    ended: object
    program, *words = shlex.split(command)
    if program == "pytest":
        output = tmp_path_factory.mktemp("output")
        ended = forks.run(["-q", *words], folder, timeout=120, output=output).ret
    else:
        ended = _run(words)
    captured = capfd.readouterr()
    told = " ".join((captured.out + captured.err).split())
    assert ended == code, told
    assert says in told
    for never in ("Traceback", "INTERNALERROR", "pa55word"):
        assert never not in told
    assert not re.search(
        r"^\S*: \d+$", captured.err, re.MULTILINE
    )  # how pytest counts what it has collected
    if program == "gpubench" and words[:1] != ["retry"]:
        assert captured.out == ""
    assert _paths(folder) == before


def _paths(folder: Path) -> list[Path]:
    """All but what the interpreter and pytest-benchmark leave behind."""
    theirs = {"__pycache__", ".benchmarks"}
    return [path for path in sorted(folder.rglob("*")) if not theirs.intersection(path.parts)]


def _run(words: list[str]) -> int | str | None:
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code
