"""Environments of tools: made by pip or uv, whole or not at all."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.engines.interpreter import version_in
from pytest_gpubench.host.tool_environments import PINNED, environment_of, install_tool
from pytest_gpubench.model.failures import GpubenchError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/nowhere")  # no uv
    return tmp_path / "cache"


def wheel(folder: Path) -> None:
    """An AIPerf that pip can install: metadata and one module."""
    folder.mkdir()
    version = PINNED["aiperf"]
    about = f"aiperf-{version}.dist-info"
    with zipfile.ZipFile(folder / f"aiperf-{version}-py3-none-any.whl", "w") as file:
        file.writestr("aiperf/__init__.py", "")
        file.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: aiperf\nVersion: {version}\n"
        )
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


def fake_uv(folder: Path, body: str) -> None:
    folder.mkdir()
    script = folder / "uv"
    script.write_text(f"#!{sys.executable}\nimport os, sys\nwords = sys.argv[1:]\n{body}\n")
    script.chmod(0o755)


@pytest.mark.slow
def test_pip_installs_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert main(["tools", "list"]) == 0
    assert "aiperf 0.13.0: not installed: gpubench tools install aiperf" in capsys.readouterr().out
    left = environment_of("aiperf").folder / "left-over"
    left.mkdir(parents=True, mode=0o700)  # of an installation that did not end
    left.parent.parent.chmod(0o700)
    assert main(["tools", "install", "aiperf"]) == 0
    it = environment_of("aiperf")
    assert capsys.readouterr().out == f"aiperf 0.13.0: {it.python}\n"
    assert it.installed
    assert not left.exists()
    assert version_in(str(it.python), "aiperf") == "0.13.0"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # nothing is asked a second time
    assert install_tool("aiperf") == it
    assert main(["tools", "list"]) == 0
    assert f"aiperf 0.13.0: {it.python}" in capsys.readouterr().out


def test_uv_is_used_where_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
print(words, file=open(os.environ["SEEN"], "a"))
if words[0] == "venv":
    os.makedirs(words[-1] + "/bin")
    os.symlink(sys.executable, words[-1] + "/bin/python")
"""
    fake_uv(tmp_path / "bin", body)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    it = install_tool("aiperf", "/some/python")
    assert it.installed
    assert (tmp_path / "seen").read_text().splitlines() == [
        str(["venv", "--python", "/some/python", str(it.folder)]),
        str(["pip", "install", "--python", str(it.python), "aiperf==0.13.0"]),
    ]


def test_what_fails_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "os.makedirs(words[-1], exist_ok=True)\nprint('no index answers')\nsys.exit(words[0] == 'pip')"
    fake_uv(tmp_path / "bin", body)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert main(["tools", "install", "aiperf"]) == 4
    said = capsys.readouterr().err
    assert "aiperf==0.13.0 could not be installed: no index answers; it needs a package" in said
    assert not environment_of("aiperf").folder.exists()


def test_what_cannot_even_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GpubenchError, match=r"could not be installed: .*No such file"):
        install_tool("aiperf", "/no/such/python")
    with pytest.raises(GpubenchError, match="no tool is named 'vegeta'; known: aiperf"):
        install_tool("vegeta")


def test_a_folder_that_others_can_write_is_not_trusted(cache: Path) -> None:
    folder = cache / "gpubench" / "tools"
    folder.mkdir(parents=True)
    os.chmod(folder, 0o777)  # noqa: PTH101
    with pytest.raises(GpubenchError, match="can be written by other users"):
        install_tool("aiperf")
