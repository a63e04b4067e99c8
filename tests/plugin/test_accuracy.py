"""Evaluations of a run, with a lm-eval that asks for sums and an engine that can add."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from pytest_gpubench.gate.accuracy_verdicts import decode_answers
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.runs.baselining import Baselines, update_baselines
from tests.plugin.conftest import RECIPES, Project

FAKE = Path(__file__).parents[1] / "fake_lm_eval"
ONE = ("benchmarks", "-m", "tiny and accuracy and not mtp")


def with_evals(project: Project, evals: str = "[{task: sums, at-least: 0.9}]") -> None:
    project.recipes(RECIPES.replace("    client: {", f"    evals: {evals}\n    client: {{"))


@pytest.fixture
def asking(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose plain and drafted server are asked for sums."""
    folders = [str(FAKE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.setenv("FAKE_LM_EVAL", "ask")
    with_evals(project)
    return project


def test_questions_are_asked_after_the_loads_and_judged_beside_them(
    asking: Project, canned: None
) -> None:
    result = asking.run("benchmarks", "-k", "tiny", "-v", "--gpubench-report=page.html")
    assert result.ret == 0
    ran = [line for line in result.outlines if "PASSED" in line]
    order = [line.split("::")[1].split(" ")[0] for line in ran]
    assert order == [
        "test_engine_init[tiny-bf16-cpu-vllm-tp1]",
        "test_throughput[tiny-bf16-cpu-vllm-tp1:32x4-c1]",
        "test_throughput[tiny-bf16-cpu-vllm-tp1:32x4-c2]",
        "test_accuracy[tiny-bf16-cpu-vllm-tp1:sums]",
        "test_engine_init[tiny-bf16-cpu-vllm-mtp-tp1]",
        "test_throughput[tiny-bf16-cpu-vllm-mtp-tp1:32x4-c1]",
        "test_accuracy[tiny-bf16-cpu-vllm-mtp-tp1:sums]",
    ]
    result.stdout.fnmatch_lines(
        ["*tp1:sums: 100 of 100 questions right, 100.0% (98% interval 95.5% to 100.0%)"]
    )
    plain, drafted = (one for one in asking.cases() if one.get("evaluation"))
    if plain["identity"]["spec"]:
        plain, drafted = drafted, plain
    assert plain["metrics"] == {"accuracy": 1.0}
    assert plain["verdict"]["status"] == "PASS"
    assert plain["workload"]["conc"] == 2
    part = plain["evaluation"]
    assert (part["asked"], part["right"], part["failures"]) == (100, 100, {})
    assert decode_answers(part["answers"])[1] == (True,) * 100
    assert drafted["evaluation"]["without_draft"] == {
        "case": "tiny-bf16-cpu-vllm-tp1:sums",
        "common": 100,
        "differing": 0,
        "lost": 0,
        "won": 0,
    }
    kept = asking.pytester.path.glob("results/*/*-vllm-tp1/sums/launch-1.answers.jsonl.gz")
    with gzip.open(next(kept), "rt") as file:
        lines = [json.loads(line) for line in file]
    assert len(lines) == 100
    assert lines[3]["asked"] == '[{"role": "user", "content": "What is 3 + 21?"}]'
    assert [lines[3][key] for key in ("said", "expected", "read")] == ["It is 24.", "24", "24"]
    assert "sums" in (asking.pytester.path / "page.html").read_text()


MEANT = {
    "wrong-5": ("at-least: 0.9", "FAIL", "80 of 100 questions right, 80.0%"),
    "wrong-20": ("at-least: 0.93", "INCONCLUSIVE", "questions would settle it"),
    "refused-20": ("at-least: 0.9", "INVALID", "5 refused by the server (HTTP 400: "),
    "cut-20": ("at-least: 0.9", "INVALID", "5 cut off at the longest answer allowed"),
    "cut-1": ("at-least: 0.9", "INVALID", "a wrong chat template, or damaged weights, are"),
    "empty-20": ("at-least: 0.9", "INVALID", "5 of 100 questions failed: 5 answered with nothing"),
    "cut-100": ("limit: 60, shots: 2", "INVALID", "1 of 60 questions failed"),
    "right-1": ("filter: nothing", "FAILED", "has no filter 'nothing' (it has first-sentence"),
    "right-2": ("metric: closeness", "FAILED", "closeness of right-2 is 0.5 for a question"),
}
"""Task (what the stub engine makes of its questions), its keys, the status, words of the reason."""


def test_what_goes_wrong_with_answers_is_told_apart(asking: Project) -> None:
    evals = ", ".join(f"{{task: {task}, {keys}}}" for task, (keys, _, _) in MEANT.items())
    with_evals(asking, f"[{evals}]")
    result = asking.run(*ONE)
    assert result.ret == 1
    found = {one["case"].rpartition(":")[2]: one for one in asking.cases()}
    assert found.keys() == MEANT.keys()
    for task, (_, status, words) in MEANT.items():
        verdict, failure = found[task]["verdict"], found[task]["failure"]
        if status == "FAILED":
            assert failure["failure_class"] == "recipe"
            assert words in failure["summary"]
        else:
            assert (task, verdict["status"]) == (task, status)
            assert words in f"{verdict['reason']}; {verdict['remedy']}"
    assert [found["cut-100"]["evaluation"][key] for key in ("asked", "shots")] == [60, 2]
    assert "Traceback" not in result.stdout.str()


def test_a_draft_that_changes_answers_fails(
    asking: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_ANSWERS", "draft-wrong:10")
    with_evals(asking, "[{task: sums, at-least: 0.7}]")
    result = asking.run("benchmarks", "-m", "tiny and accuracy")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*with the draft, against tiny-bf16-cpu-vllm-tp1:sums: 10 of 100 questions were right*"]
    )
    notes = [note for one in asking.cases() for note in one["verdict"]["notes"]]
    assert any(note.startswith("10 of 100 greedy answers (10.0%) differ") for note in notes)


def test_two_engines_are_compared_question_by_question(asking: Project) -> None:
    with_evals(asking, "[{task: sums, at-least: 0.5}]")
    result = asking.run(*ONE, "--gpubench-against=GPUBENCH_STUB_ANSWERS=wrong:10")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*10 of 100 questions were right before and are wrong now*"])
    first, second = (case for name in ("a1", "b1") for case in asking.cases(f"{name}.json"))
    assert first["verdict"]["status"] == "INCONCLUSIVE"
    assert [one["code"] for one in second["verdict"]["metrics"]] == ["limit-held", "less-accurate"]
    assert not asking.cases("a2.json")


def test_an_engine_that_dies_while_it_is_asked_is_the_failure(
    asking: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_ANSWERS", "late-death:50")
    result = asking.run(*ONE)
    assert result.ret == 1
    (case,) = asking.cases()
    assert case["failure"]["cause"] == "killed"
    assert "lm-eval" not in case["failure"]["summary"]


WITHOUT = """
from pytest_gpubench.evals import evaluating

evaluating.find_spec = lambda name: None
"""


def test_without_lm_eval_a_sentence_says_what_to_install(project: Project) -> None:
    with_evals(project)
    project.pytester.makeconftest(WITHOUT)
    result = project.run(*ONE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*lm-eval, which is not installed*", "*pytest-gpubench?eval?*"])
    assert "Traceback" not in result.stdout.str()


def test_a_task_whose_data_are_missing_is_a_sentence(
    asking: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LM_EVAL", "fail")
    result = asking.run(*ONE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*lm-eval ended with exit code 1 on sums: KeyError*", "*gpubench fetch*"]
    )


def test_files_that_ask_nothing_are_told(asking: Project) -> None:
    suite = asking.pytester.path / "benchmarks" / "test_serving.py"
    suite.write_text("from pytest_gpubench.suite import test_throughput\n")
    result = asking.inside("benchmarks", "-k", "tiny", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*no test asks their questions: import test_accuracy*"])


def test_a_baseline_keeps_the_answers_and_finds_what_was_lost(
    asking: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asking.run(*ONE).ret == 0
    folder = asking.pytester.path
    (run,) = (folder / "results").iterdir()
    book = load_recipes([folder / "recipes.yaml"])
    case = "tiny-bf16-cpu-vllm-tp1:sums"
    kept = Baselines(folder / "benchmarks" / "baselines", book)
    assert update_baselines(kept, run, [case]).recorded
    assert '"answers": "' in kept.path(case).read_text()
    monkeypatch.setenv("GPUBENCH_STUB_ANSWERS", "wrong:10")
    with_evals(asking, "[{task: sums, at-least: 0.7}]")
    second = asking.run(*ONE)
    assert second.ret == 1
    second.stdout.fnmatch_lines(["*10 of 100 questions were right before and are wrong now*"])
