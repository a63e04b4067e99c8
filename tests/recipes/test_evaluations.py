"""``evals`` of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.model.cases import Case, RecipeBook, lowest_of_servers
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.recipes.selection import find_ambiguity

RECIPE = """\
t-bf16-h100-vllm:
  model: org/model
  model-prefix: t
  precision: bf16
  framework: vllm
  runner: h100
  scenarios:
    fixed-seq-len:
    - {isl: 1024, osl: 1024, search-space: [{tp: 1, conc-list: [1, 128]}]}
    - {isl: LONG, osl: 1024, search-space: [{tp: 1, conc-list: [4, 64, 16, 32]}]}
  serve: {}
  client: {chat-template-kwargs: {enable_thinking: false}}
  evals:
  - EVALS
"""


def book(tmp_path: Path, evals: str, long: int = 8192) -> RecipeBook:
    path = tmp_path / "recipes.yaml"
    path.write_text(RECIPE.replace("EVALS", evals).replace("LONG", str(long)))
    return load_recipes([path])


def only(found: RecipeBook) -> Case:
    assert found.problems == ()
    (case,) = found.evaluations
    return case


def test_a_task_has_the_defaults_of_the_original(tmp_path: Path) -> None:
    case = only(book(tmp_path, "{task: gsm8k, at-least: 0.9}"))
    assert case.id == "t-bf16-h100-vllm-tp1:gsm8k"
    assert case.tags[-2:] == ("gsm8k", "accuracy")
    evaluation = case.evaluation
    assert evaluation is not None
    assert (evaluation.shots, evaluation.metric, evaluation.filter) == (
        5,
        "exact_match",
        "strict-match",
    )
    assert evaluation.max_tokens == 8192 + 1024 + 256 - 4096
    assert (evaluation.at_least, evaluation.limit) == (0.9, None)
    load = case.workload
    assert (load.isl, load.conc, load.num_prompts, load.num_warmups) == (8192, 64, 1319, 0)
    assert dict(load.chat_template_kwargs) == {"enable_thinking": False}


def test_a_small_context_is_halved(tmp_path: Path) -> None:
    evaluation = only(book(tmp_path, "{task: gsm8k}", long=1025)).evaluation
    assert evaluation is not None
    assert evaluation.max_tokens == (1025 + 1024 + 256) // 2


@pytest.mark.parametrize(
    ("concurrency", "ids"),
    [
        ("7", ["gsm8k"]),
        ("highest-and-median", ["gsm8k-c64", "gsm8k-c32"]),
    ],
)
def test_a_server_may_be_asked_at_several_concurrencies(
    tmp_path: Path, concurrency: str, ids: list[str]
) -> None:
    found = book(tmp_path, f"{{task: gsm8k, concurrency: {concurrency}}}")
    assert [case.label for case in found.evaluations] == ids
    assert found.evaluations[0].workload.conc == (7 if concurrency == "7" else 64)


def test_a_task_of_ones_own_lies_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "My_Task.yaml").write_text("task: mine\n")
    case = only(book(tmp_path, "{task: tasks/My_Task.yaml, limit: 10}"))
    assert case.label == "my-task"
    assert case.evaluation is not None
    assert case.evaluation.task == str(tmp_path / "tasks" / "My_Task.yaml")
    assert str(tmp_path) not in str(case.evaluation.asked())


@pytest.mark.parametrize(
    ("evals", "message"),
    [
        ("{task: none.yaml}", "none.yaml is no file; give the path"),
        ("{task: 'a:b'}", "'a:b' cannot be a part of test ids"),
        ("{task: init}", "'init' cannot be a part of test ids"),
        ("{task: gsm8k}\n  - {task: GSM8K}", "gsm8k is there already"),
        ("{task: gsm8k, at-least: 90}", "must be at most 1"),
        ("{task: gsm8k, concurrency: many}", "highest-and-median"),
        ("{task: gsm8k, limits: 5}", "unknown key 'limits'; did you mean 'limit'?"),
        ("{limit: 5}", "missing key 'task'"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(tmp_path: Path, evals: str, message: str) -> None:
    problems = list(map(str, book(tmp_path, evals).problems))
    assert any(message in problem and ".yaml:1" in problem for problem in problems), problems


def test_accuracy_is_no_metric_of_a_gate(tmp_path: Path) -> None:
    path = tmp_path / "recipes.yaml"
    text = RECIPE.replace("EVALS", "{task: gsm8k}").replace("LONG", "8192")
    path.write_text(text + "  gates: {accuracy: {at-least: 0.9}}\n")
    (problem,) = load_recipes([path]).problems
    assert "`at-least` in `evals`" in str(problem)


def test_words_select_evaluations_as_they_select_loads(tmp_path: Path) -> None:
    found = book(tmp_path, "{task: gsm8k}")
    for words in ("accuracy", "gsm8k", "t and accuracy", "not accuracy"):
        assert find_ambiguity(words, found.cases) is None
    ids = lowest_of_servers(found.cases)
    assert ids == {"t-bf16-h100-vllm-tp1:1k1k-c1"}
