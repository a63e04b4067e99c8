"""An installed vLLM is asked for what it takes (here a fake one: as many modules as the question
imports)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.engines import interpreter
from pytest_gpubench.engines.interpreter import Vocabulary, ask_vocabulary, kept_vocabulary
from pytest_gpubench.model.failures import GpubenchError
from tests.engines.fake_vllm import write_fake_vllm

COMMAND = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
RECIPE = f"""
fresh-bf16-cpu-vllm:
  model: /models/fresh
  model-prefix: fresh
  precision: bf16
  framework: vllm
  runner: cpu
  command: [{sys.executable}, -m, vllm.entrypoints.openai.api_server]
  serve: {{enforce-eagre: true, moe-backend: marlin, swap-space: 4}}
  env: {{VLLM_FAKED: 1}}
  scenarios:
    fixed-seq-len:
    - {{isl: 64, osl: 64, search-space: [{{tp: 1, conc-list: [1]}}]}}
"""


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    write_fake_vllm(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    interpreter._ask.cache_clear()
    yield folder
    interpreter._ask.cache_clear()


def test_the_engine_says_what_it_takes_and_that_is_kept(tmp_path: Path) -> None:
    assert kept_vocabulary(COMMAND, VLLM) is None
    engine, found, path = ask_vocabulary(COMMAND, VLLM)
    assert (engine.distribution, engine.version) == ("vllm", "0.99.0")
    assert found == Vocabulary(
        "0.99.0",
        frozenset({"help", "max-model-len", "enforce-eager", "no-enforce-eager", "moe-backend"}),
        frozenset({"VLLM_LOGGING_LEVEL", "VLLM_FAKE"}),
        {"moe-backend": frozenset({"auto", "warp"}), "kv-cache-dtype": frozenset({"auto", "fp8"})},
    )
    assert path.is_relative_to(tmp_path / "cache" / "gpubench")
    assert kept_vocabulary(COMMAND, VLLM) == found


def test_what_is_kept_holds_for_that_version_alone(fake: Path) -> None:
    ask_vocabulary(COMMAND, VLLM)
    (fake / "vllm-0.99.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 1.0.0\n"
    )
    interpreter._ask.cache_clear()
    assert kept_vocabulary(COMMAND, VLLM) is None


@pytest.mark.parametrize("text", ["", "[]", '{"engine": {}}', "\0", '{"engine": 1, "flags": 2}'])
def test_a_broken_file_counts_as_none(text: str) -> None:
    path = ask_vocabulary(COMMAND, VLLM)[2]
    path.write_text(text)
    assert kept_vocabulary(COMMAND, VLLM) is None


def test_an_engine_that_cannot_be_asked_says_so(fake: Path, tmp_path: Path) -> None:
    (fake / "vllm" / "envs.py").write_text("raise RuntimeError('no libcuda here')")
    with pytest.raises(
        GpubenchError, match=r"vllm 0.99.0 .*no libcuda here.*see whether it starts"
    ):
        ask_vocabulary(COMMAND, VLLM)
    (fake / "vllm" / "envs.py").write_text("import time; time.sleep(60)")
    with pytest.raises(GpubenchError, match="did not answer within 1 s"):
        ask_vocabulary(COMMAND, VLLM, time_limit=1)
    with pytest.raises(GpubenchError, match=r"no vLLM can be found behind `/none serve`: give"):
        ask_vocabulary(("/none", "serve"), VLLM)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_the_doctor_judges_by_what_the_engine_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(RECIPE)
    assert main(["doctor", str(recipes)]) == 0
    before = capsys.readouterr().out
    assert "WARNING unknown-flag: No vLLM from 0.20 to " in before
    assert main(["vocabulary", " ".join(COMMAND)]) == 0
    assert "vllm 0.99.0" in capsys.readouterr().out
    assert main(["doctor", str(recipes)]) == 1
    after = capsys.readouterr().out
    assert "ERROR unknown-flag: vLLM 0.99.0 has no --enforce-eagre." in after
    assert "Did you mean --enforce-eager?" in after
    assert "ERROR unknown-flag-value: moe-backend: vLLM 0.99.0 knows no 'marlin'." in after
    assert "ERROR removed-flag: --swap-space is not there any more in vLLM 0.99.0." in after
    assert "WARNING unknown-variable: vLLM 0.99.0 has no VLLM_FAKED." in after


def test_a_command_that_is_not_vllms_own_may_have_flags_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask_vocabulary(COMMAND, VLLM)
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(RECIPE.replace("-m, vllm.entrypoints.openai.api_server", "launcher.py"))
    assert main(["doctor", str(recipes)]) == 0
    assert "WARNING unknown-flag" in capsys.readouterr().out
