"""``gpubench compare-source`` and ``gpubench fetch --sources`` as they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.host import source_files
from tests.test_wrong_input import ENTRY, RECIPE

pytestmark = pytest.mark.usefixtures("light_pytest")

SOURCE = "  source: {at: https://recipes.vllm.ai/org/model, variant: default}\n"
REASONS = "  differs: {model: a stand-in, max-model-len: short}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "official" / "models" / "org").mkdir(parents=True)
    (tmp_path / "official" / "models" / "org" / "model.yaml").write_text(ENTRY)
    (tmp_path / "recipes.yaml").write_text(RECIPE + SOURCE)
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_differences_are_printed_and_fail_until_they_are_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare-source", "--official", "official"]) == 1
    told = capsys.readouterr().out
    assert "NOT EXPLAINED: max-model-len: ours 292, official none" in told
    assert "1 recipe compared: 2 differences, 2 not explained" in told
    (folder / "recipes.yaml").write_text(RECIPE + SOURCE + REASONS)
    assert (
        main(["compare-source", "-k", "tiny", "--official", "official/models/org/model.yaml"]) == 0
    )
    assert "2 differences, 0 not explained" in capsys.readouterr().out


def test_recipes_without_a_source_are_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "recipes.yaml").write_text(RECIPE)
    assert main(["compare-source"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 recipes compared: 0 differences, 0 not explained",
        "not compared, 1 recipe without an official source:",
        "  tiny-bf16-cpu-vllm: no source",
    ]


def test_what_is_fetched_is_what_is_compared(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def body(url: str) -> bytes:
        asked.append(url)
        return ENTRY.encode() if url.endswith("model.yaml") else b"hardware_profiles: {}\n"

    monkeypatch.setattr(source_files, "_body", body)
    assert main(["compare-source"]) == 4
    assert "run gpubench fetch --sources" in capsys.readouterr().err
    assert main(["fetch", "--sources", "--sources-url", "https://example.org/r"]) == 0
    assert asked == [
        "https://example.org/r/taxonomy.yaml",
        "https://example.org/r/models/org/model.yaml",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["compare-source"]) == 1
