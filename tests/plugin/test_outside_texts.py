"""What an engine says and claims: printed without effect, never in the way of a CI's files, checked
where it can be."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.plugin.conftest import XUNIT1, Project, with_gates

ONE = ("benchmarks", "-m", "cpu and not mtp and c1")
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]|^\\s*::|##\\w*\\[", re.MULTILINE)


def test_a_hostile_answer_moves_no_terminal_and_commands_no_ci(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "hostile-error")
    result = project.run(*ONE, "--junitxml=junit.xml", "-o", "junit_logging=all")
    assert result.ret == 1
    said = str(result.stdout) + str(result.stderr)
    assert not _OBEYED.search(said)
    assert r"\x1b]0;TITLE\x07" in said
    ET.parse(project.pytester.path / "junit.xml")
    assert not _OBEYED.search(
        "".join(ET.parse(project.pytester.path / "junit.xml").getroot().itertext())
    )
    (record,) = project.cases()
    assert "\x1b]0;TITLE" in json.dumps(record["failure"], ensure_ascii=False).encode().decode(
        "unicode_escape"
    ), "kept as it came"


def test_a_dying_engines_log_is_printed_without_effect(project: Project) -> None:
    engine = project.pytester.path / "engine.py"
    lines = [
        "\x1b[31mRuntimeError: \x07\x9b2J bad \x1b ]]>\x1b[0m",
        "::error::from a log",
        "##vso[task.complete result=Failed]",
    ]
    engine.write_text(
        f"import sys\nsys.stderr.write({chr(10).join(lines)!r} + chr(10))\nsys.exit(1)\n"
    )
    result = project.run(
        *ONE, f"--gpubench-vllm-command={_python()} {engine}", "--junitxml=junit.xml", stub=False
    )
    assert result.ret == 1
    assert not _OBEYED.search(str(result.stdout) + str(result.stderr))
    result.stdout.fnmatch_lines(["*RuntimeError*bad*", "*: :error::from a log*"])
    ET.parse(project.pytester.path / "junit.xml")


def _python() -> str:
    import sys

    return sys.executable


def _properties(path: Path) -> tuple[int, int]:
    """Test cases, and those that hold properties."""
    cases = list(ET.parse(path).getroot().iter("testcase"))
    return len(cases), sum(case.find("properties") is not None for case in cases)


def test_a_junit_file_has_properties_in_test_cases_only_in_the_family_that_may(
    project: Project,
) -> None:
    with_gates(project, "{ttft_p50: {at-most: 60}}")
    assert project.run(*ONE, "--junitxml=two.xml").ret == 0
    assert _properties(project.pytester.path / "two.xml") == (1, 0)
    assert project.run(*ONE, "--junitxml=one.xml", *XUNIT1).ret == 0
    assert _properties(project.pytester.path / "one.xml") == (1, 1)


def test_parameters_print_as_their_ids(project: Project) -> None:
    result = project.inside("benchmarks", "--setup-plan", "-m", "cpu")
    text = str(result.stdout)
    assert "_gpubench_launch[tiny-bf16-cpu-vllm-tp1]" in text
    assert "_gpubench_case[tiny-bf16-cpu-vllm-tp1:32x4-c1]" in text
    assert not re.search(r"\b(Case|Launch|RatioPoint|SourcePosition)\(", text)
    twice = project.inside(
        "benchmarks", "--setup-plan", "-m", "cpu and c1 and not mtp", "--gpubench-launches=2"
    )
    assert "_gpubench_launch[tiny-bf16-cpu-vllm-tp1:launch2]" in str(twice.stdout)


def test_more_tokens_claimed_than_came_is_invalid(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "usage-lie")
    result = project.run(*ONE)
    assert result.ret == 10
    result.stdout.fnmatch_lines(
        [
            "*streamed text of 2 sampled answers holds 2 tokens by the engine's "
            "/tokenize, usage claims 6*"
        ]
    )
    (record,) = project.cases()
    assert record["verdict"]["status"] == "INVALID"
    recount = {
        "answers": 2,
        "claimed": 6,
        "counted": 2,
        "silent": 0,
        "tokenizer": "the engine's /tokenize",
        "unchecked": "",
    }
    assert record["measurement"]["recount"] == recount


def test_what_nobody_can_count_is_flagged(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "no-recount")
    assert project.run(*ONE).ret == 0
    (record,) = project.cases()
    flags = {flag["code"]: flag["message"] for flag in record["measurement"]["flags"]}
    assert flags["answers-unchecked"] == "no answer was tokenized again: /tokenize answered 404"


def test_records_name_the_runner(project: Project) -> None:
    assert project.run(*ONE, "--gpubench-runner=cpu").ret == 0
    assert {record["runner"] for record in project.records()} == {"cpu"}
