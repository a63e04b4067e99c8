"""The `gpubench` command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench import __version__
from pytest_gpubench.cli import main
from pytest_gpubench.demo.models import DEMO_REPOSITORIES
from pytest_gpubench.doctor.rules import every_rule
from pytest_gpubench.recipes.schema import json_schema
from tests.host.fake_hub import fake_hub, model_files

pytestmark = pytest.mark.usefixtures("light_pytest")

ROOT = Path(__file__).parents[1]

DOOMED = """
doomed-bf16-h100-vllm:
  model: MiniMaxAI/MiniMax-M3
  model-prefix: doomed
  precision: bf16
  framework: vllm
  multinode: false
  runner: h100
  serve: {block-size: 64}
  scenarios:
    fixed-seq-len:
    - {isl: 1024, osl: 1024, search-space: [{tp: 8, conc-list: [4]}]}
"""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"pytest-gpubench {__version__}\n"


def test_schema_is_the_one_that_editors_are_pointed_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json_schema()
    shipped = json.loads((ROOT / "docs" / "recipes.schema.json").read_text())
    assert _keys(printed) == _keys(shipped), (
        "write it anew: gpubench schema > docs/recipes.schema.json"
    )


def _keys(schema: dict[str, Any]) -> dict[str, list[str]]:
    """The keys and the words that each part knows: releases of pydantic write the details
    differently."""
    return {
        name: sorted({*part.get("properties", {}), *_words(part)})
        for name, part in schema["$defs"].items()
    }


def _words(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from map(str, part.get("enum", ()))
        for value in part.values():
            yield from _words(value)
    elif isinstance(part, list):
        for value in part:
            yield from _words(value)


def test_demo_model_writes_its_repositories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo-model", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "pytest-gpubench/tiny-llama",
        "pytest-gpubench/tiny-llama-eagle3",
        "pytest-gpubench/tiny-llama-gguf",
        "pytest-gpubench/tiny-llama-eagle3-gguf",
    ]
    assert (
        tmp_path / "models--pytest-gpubench--tiny-llama" / "refs" / "main"
    ).read_text() == lines[0].split()[1]


def test_plan_prints_json_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "plan",
                str(ROOT / "recipes.yaml"),
                "-m",
                "gpubench(hardware='h200', spec='mtp', conc=4)",
            ]
        )
        == 0
    )
    plan = json.loads(capfd.readouterr().out)
    assert {case["conc"] for case in plan["cases"]} == {4}
    assert {case["rounds"] for case in plan["cases"]} <= {"1", "1..8"}
    assert {key for case in plan["cases"] for key in [case["server"]]} == set(plan["servers"])


def test_plan_tells_a_person_what_it_leaves_out_in_groups(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = (
        "{image: i, model: org/m, model-prefix: m, runner: h100, precision: fp8, framework: %s, "
        "multinode: false, scenarios: {fixed-seq-len: [{isl: 1024, osl: 1024, "
        "search-space: [{tp: 8, conc-list: [1]}]}]}}"
    )
    names = [f"m{number}-fp8-h100-trt" for number in range(6)]
    (tmp_path / "m.yaml").write_text(
        f"m-fp8-h100-vllm: {entry % 'vllm'}\n"
        + "".join(f"{name}: {entry % 'trt'}\n" for name in names)
    )
    assert main(["plan", str(tmp_path / "m.yaml")]) == 0
    printed = capfd.readouterr()
    shown = ", ".join(names[:4])
    assert f"not supported: 6 framework trt: {shown} and 2 more" in printed.err
    assert json.loads(printed.out)["unsupported_groups"] == {"framework trt": names}


def test_plan_of_nothing_is_exit_4_with_pytests_words(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nowhere.yaml"]) == 4
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "nowhere.yaml does not exist" in captured.err


def test_doctor_names_the_death_and_exits_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text(DOOMED)
    assert main(["doctor", str(path)]) == 1
    printed = capfd.readouterr().out
    assert "No common block size for 64" in printed
    assert "1 case on 1 server: " in printed


def test_doctor_prints_its_rules(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--rules"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[one.severity, one.id] for one in every_rule()]


def test_doctor_finds_no_error_in_the_shipped_recipes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(ROOT / "recipes.yaml")]) == 0
    assert capfd.readouterr().out.splitlines()[-1].endswith(": 0 errors")


def test_fetch_names_what_it_has(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "fetch",
                str(ROOT / "recipes.yaml"),
                "-k",
                "tiny and cpu and mtp",
                "--cache-dir",
                str(tmp_path),
            ]
        )
        == 0
    )
    names = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert names == list(DEMO_REPOSITORIES)


@pytest.mark.parametrize(
    ("task", "code", "words"),
    [
        ("sums", 0, "sums fetched by lm-eval"),
        ("unknown", 4, "lm-eval could not bring unknown: KeyError: 'unknown'"),
    ],
)
def test_fetch_lets_lm_eval_bring_the_questions(
    task: str,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fake = str(ROOT / "tests" / "fake_lm_eval")
    monkeypatch.syspath_prepend(fake)
    monkeypatch.setenv("PYTHONPATH", fake, prepend=os.pathsep)
    recipes = tmp_path / "recipes.yaml"
    text = RECIPE_OF_TINY.replace("EVALS", f"[{{task: {task}}}, {{task: tiny-recall}}]")
    recipes.write_text(text)
    assert main(["fetch", str(recipes), "--cache-dir", str(tmp_path / "hub")]) == code
    captured = capfd.readouterr()
    told = captured.out if code == 0 else captured.err
    assert words in told
    assert "Traceback" not in told
    assert "tiny-recall" not in captured.out


RECIPE_OF_TINY = """\
tiny-bf16-cpu-vllm:
  model: pytest-gpubench/tiny-llama
  model-prefix: tiny
  precision: bf16
  framework: vllm
  runner: cpu
  scenarios:
    fixed-seq-len: [{isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1]}]}]
  serve: {max-model-len: 256}
  evals: EVALS
"""


def test_fetch_of_configs_lets_the_doctor_see_a_model_that_is_not_on_disk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    config = {"model_type": "llama", "num_attention_heads": 6, "hidden_size": 768}
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(DOOMED.replace("MiniMaxAI/MiniMax-M3", "org/six-heads"))
    with fake_hub() as hub:
        files = {**model_files(50_000), "config.json": json.dumps(config).encode()}
        commit = hub.add("org/six-heads", files)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["fetch", str(recipes), "--configs"]) == 0
        assert not any(name.endswith(".safetensors") for name in hub.downloads)
    assert capfd.readouterr().out == f"org/six-heads {commit} 0.0 MB\n"
    assert main(["doctor", str(recipes)]) == 1
    assert "6 attention heads cannot be divided by tensor parallel size 8" in capfd.readouterr().out


def test_fetch_offline_says_what_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [
        "fetch",
        str(ROOT / "recipes.yaml"),
        "-m",
        "gpubench(hardware='h100', spec='mtp', model='minimaxm3')",
    ]
    assert main([*arguments, "--cache-dir", str(tmp_path)]) == 4
    assert "MiniMaxAI/MiniMax-M3-MXFP8 is not complete in" in capfd.readouterr().err
