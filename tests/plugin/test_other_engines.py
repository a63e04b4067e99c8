"""Recipes of several engines in one run: each is started by its own command, and none passes for
another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_gpubench.load.loopback.http_server import Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer
from tests.plugin.conftest import STUB, Project

OTHERS = Path(__file__).parents[1] / "stub_dialects.py"
RECIPES = """
templates:
  base:
    model-prefix: tiny
    multinode: false
    runner: cpu
    scenarios:
      fixed-seq-len:
      - {isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [2]}]}
    client: {prompts-per-conc: 4, warmups-per-conc: 1}
  tiny-pair: {extends: base, model: pytest-gpubench/tiny-llama, precision: bf16}
tiny-bf16-cpu-vllm:
  extends: tiny-pair
  framework: vllm
  serve: {enable-prefix-caching: false}
tiny-bf16-cpu-sglang:
  extends: tiny-pair
  framework: sglang
  serve: {disable-radix-cache: true, context-length: 512}
tiny-f32-cpu-llamacpp:
  extends: base
  model: pytest-gpubench/tiny-llama-gguf
  precision: f32
  framework: llamacpp
  serve: {parallel: 2, cache-prompt: false}
ratios:
- {name: engines, of: tiny-bf16-cpu-sglang, over: tiny-bf16-cpu-vllm, metric: output_tput, at-least: 0.01}
"""


def commands() -> list[str]:
    return [
        f"--gpubench-command=vllm={sys.executable} {STUB} serve",
        f"--gpubench-command=sglang={sys.executable} {OTHERS} sglang",
        f"--gpubench-command=llamacpp={sys.executable} {OTHERS} llamacpp",
    ]


@pytest.mark.slow
def test_three_engines_in_one_run_and_a_ratio_between_two(project: Project) -> None:
    project.recipes(RECIPES)
    result = project.run(*commands(), "--gpubench-report=page.html", stub=False)
    result.assert_outcomes(passed=7)
    records = {record["server"]: record for record in project.records() if record["kind"] == "case"}
    assert {key: record["engine"]["dialect"] for key, record in records.items()} == {
        "tiny-bf16-cpu-vllm-tp1": "vllm",
        "tiny-bf16-cpu-sglang-tp1": "sglang",
        "tiny-f32-cpu-llamacpp-tp1": "llamacpp",
    }
    assert len({record["fingerprint"] for record in records.values()}) == 3
    for record in records.values():
        totals = record["measurement"]["totals"]
        assert totals["engine_output_tokens"] == totals["output_tokens_with_warmup"] > 0
    page = (project.pytester.path / "page.html").read_text()
    assert all(key in page for key in records)
    argv = records["tiny-f32-cpu-llamacpp-tp1"]["argv"]
    assert argv[argv.index("--ctx-size") + 1] == str(2 * (32 + 4 + 256))
    assert argv[argv.index("--model") + 1].endswith("tiny-llama-f32.gguf")
    keys = [word for record in records.values() for word in record["argv"] if "key" in word]
    assert keys == []


def test_old_records_are_vllms(project: Project) -> None:
    from pytest_gpubench.report.record import record_adapter

    golden = Path(__file__).parents[1] / "golden" / "results"
    for path in golden.rglob("*.json"):
        record = json.loads(path.read_text())
        if record.get("kind") == "case":
            assert "dialect" not in (record["engine"] or {})
            record_adapter().validate_python(record)
            assert "vllm" in record["case"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "owner"), [("sglang", "vllm"), ("llamacpp", "vllm"), ("vllm", "sglang")]
)
def test_a_server_of_another_engine_is_refused(project: Project, recipe: str, owner: str) -> None:
    project.recipes(RECIPES)
    entry = {"id": "m", "owned_by": owner, "max_model_len": 512}

    def listed(_request: Request) -> Response:
        return Response.of_json({"data": [entry]})

    with LoopbackServer(model="m", routes={("GET", "/v1/models"): listed}).in_thread() as server:
        result = project.run(
            "-k", f"{recipe} and test_engine_init", f"--gpubench-base-url={server.url}", stub=False
        )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*engine: the recipe asks for {recipe}, *runs with {owner}*"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["trt=x"], "names no engine; write ENGINE=COMMAND, ENGINE being 'vllm', 'sglang' or"),
        (["vllm"], "names no engine"),
        (["vllm="], "is empty"),
        (["vllm='x"], "cannot be split into words"),
        (["vllm=x", "vllm=y"], "vllm has two commands"),
        (["vllm=x --api-key abcdefgh"], "--api-key"),
        (["sglang=x --admin-api-key abcdefgh"], "--admin-api-key"),
    ],
)
def test_a_wrong_command_is_a_sentence(project: Project, given: list[str], words: str) -> None:
    project.recipes(RECIPES)
    options = [f"--gpubench-command={text}" for text in given]
    result = project.inside(*options, "--collect-only", stub=False)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str() + result.stdout.str()


def test_the_ini_file_says_commands(project: Project) -> None:
    project.recipes(RECIPES)
    project.pytester.makeini(
        "[pytest]\ngpubench_command =\n    sglang = /opt/sglang serve\n    vllm=/opt/vllm serve\n"
    )
    result = project.inside("--gpubench-plan=plan.json", stub=False)
    assert result.ret == 0
    plan = json.loads((project.pytester.path / "plan.json").read_text())
    for engine in ("vllm", "sglang"):
        argv = plan["servers"][f"tiny-bf16-cpu-{engine}-tp1"]["argv"]
        assert argv[:2] == [f"/opt/{engine}", "serve"]


def test_a_recipe_with_what_its_engine_does_not_have(project: Project) -> None:
    for old, new, words in (
        (
            "serve: {disable-radix-cache: true,",
            "serve: {disable-radix-cache: false,",
            "no word for",
        ),
        ("serve: {disable-radix-cache: true,", "serve: {tp-size: 2,", "comes from the row"),
        ("[{tp: 1, conc", "[{tp: 8, ep: 4, conc", "vLLM takes no expert-parallel size"),
        ("framework: sglang", "framework: tgi", "must be 'vllm', 'sglang' or 'llamacpp'"),
    ):
        project.recipes(RECIPES.replace(old, new))
        result = project.inside("--collect-only", "-q", stub=False)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert words in result.stderr.str() + result.stdout.str()


def test_a_broken_package_of_another_engine_is_nobody_elses_trouble(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.pytester.path / "packages" / "broken_engine-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-engine\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(
        "[pytest_gpubench.engines]\nbroken = no_such_module:DIALECT\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder.parent), prepend=":")
    result = project.run("-m", "tiny and vllm and c1 and not mtp", "-q")
    result.assert_outcomes(passed=1)
    project.recipes(RECIPES.replace("framework: sglang", "framework: broken"))
    named = project.run("--collect-only", "-q", stub=False)
    assert named.ret == pytest.ExitCode.USAGE_ERROR
    said = named.stderr.str() + named.stdout.str()
    assert "Traceback" not in said
    assert "the engine 'broken' cannot be loaded from no_such_module:DIALECT" in said
