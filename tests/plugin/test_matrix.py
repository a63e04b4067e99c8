"""The matrix: every entry's selection, evaluated by pytest itself, selects exactly its servers'
cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import MarkMatcher
from _pytest.mark.expression import Expression

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.plugin.items import CASE, EVALUATION, LAUNCH
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.report.matrix import MAX_JOBS, jobs_of, matrix_document
from tests.plugin.conftest import Project

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "recipes.yaml"


class _Collected:
    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)


def test_every_entry_of_the_shipped_recipes_selects_exactly_its_servers_cases() -> None:
    book = load_recipes([RECIPES])
    document = json.loads(json.dumps(matrix_document(book, book.cases)))
    collected = _Collected()
    arguments = [
        "--collect-only",
        "-qqq",
        "-p",
        "no:cacheprovider",
        f"--rootdir={REPOSITORY}",
        f"-c{REPOSITORY / 'pyproject.toml'}",
    ]
    pytest.main(
        [
            *arguments,
            f"--gpubench-recipes={RECIPES}",
            str(REPOSITORY / "benchmarks/test_serving.py"),
        ],
        plugins=[collected],
    )
    for name in [name for name in sys.modules if name.rpartition(".")[2] == "test_serving"]:
        del sys.modules[name]  # other tests collect files of that name
    matchers = [
        (item.callspec.params, MarkMatcher.from_markers(item.iter_markers()))  # type: ignore[attr-defined]
        for item in collected.items
    ]
    assert len(matchers) > len(book.cases)
    chosen: list[str] = []
    for entry in document["include"]:
        expression = Expression.compile(entry["selection"])
        picked = [params for params, matcher in matchers if expression.evaluate(matcher)]
        cases = {params[key].id for params in picked for key in (CASE, EVALUATION) if key in params}
        assert cases == set(entry["cases"]), entry["name"]
        assert {params[LAUNCH].server for params in picked} == set(entry["servers"])
        chosen += cases
    runnable = {case.id for case in book.cases if case.runnable}
    left_out = {one["what"] for one in document["left_out"]}
    assert len(chosen) == len(set(chosen)), "a case is in two entries"
    assert set(chosen) | left_out >= {case.id for case in book.cases}, (
        "a case was dropped without a word"
    )
    assert set(chosen) == runnable - left_out


def test_the_matrix_of_the_shipped_recipes_is_one_that_github_takes() -> None:
    book = load_recipes([RECIPES])
    document = matrix_document(book, book.cases)
    include = json.loads(json.dumps(document["include"]))
    assert 0 < len(include) <= MAX_JOBS
    assert len({entry["name"] for entry in include}) == len(include)
    assert len(json.dumps(document)) < 1_000_000, "GitHub's limit for a job's output"
    assert all(0 < entry["timeout_minutes"] <= 5 * 24 * 60 for entry in include)


def test_packing_stays_below_the_limit_and_loses_nothing() -> None:
    book = load_recipes([RECIPES])
    whole, _ = jobs_of(book, book.cases, most=10_000)
    kinds = len({(job.runner, job.image, job.gpus) for job in whole})
    most = kinds + 7
    packed, _ = jobs_of(book, book.cases, most=most)
    assert len(packed) <= most < len(whole)
    assert sorted(case for job in packed for case in job.cases) == sorted(
        case for job in whole for case in job.cases
    )
    assert all(" or " in job.selection for job in packed if len(job.servers) > 1)
    with pytest.raises(GpubenchError, match="kinds of jobs"):
        jobs_of(book, book.cases, most=kinds - 1)


def _matrix(project: Project, *arguments: str) -> dict[str, Any]:
    result = project.inside("benchmarks", "--gpubench-matrix=m.json", *arguments)
    assert result.ret in (0, 5), result.stdout.str()
    found: dict[str, Any] = json.loads((project.pytester.path / "m.json").read_text())
    return found


def test_part_of_a_server_is_selected_case_by_case(project: Project) -> None:
    found = _matrix(project, "-k", "tiny and c2")
    (entry,) = found["include"]
    assert entry["selection"] == "gpubench(case='tiny-bf16-cpu-vllm-tp1:32x4-c2')"
    assert (entry["runs_on"], entry["gpus"], found["has_jobs"]) == ("cpu", 0, True)


def test_a_trace_of_sessions_has_time_for_a_length_that_nothing_here_knows(
    project: Project,
) -> None:
    text = (project.pytester.path / "recipes.yaml").read_text()
    replayed = "{dataset: sessions, dataset-file: s.jsonl, prompts-per-conc: null"
    plain = "tiny-bf16-cpu-vllm: {extends: base}"
    minutes = []
    for duration in ("", ", duration: 36000"):
        client = f"{replayed}{duration}}}"
        project.recipes(
            text.replace(plain, f"tiny-bf16-cpu-vllm: {{extends: base, client: {client}}}")
        )
        (entry,) = _matrix(project, "-k", "tiny and c1 and not mtp")["include"]
        minutes.append(entry["timeout_minutes"])
    assert minutes[0] >= 90  # an hour, and the margin
    assert minutes[1] >= 900


@pytest.mark.parametrize("document", ["plan", "matrix"])
@pytest.mark.parametrize(
    ("client", "missing"),
    [
        ("{dataset: sessions, dataset-file: s.jsonl, prompts-per-conc: null}", "s.jsonl"),
        ("{dataset: trace, arrival: trace, dataset-file: t.jsonl}", "t.jsonl"),
        ("{dataset: text, dataset-file: recipes.yaml/x}", "x"),
        ("{dataset: jsonl, dataset-file: 'hf://datasets/a/b/c.jsonl'}", ""),
        ("{dataset: text, dataset-file: recipes.yaml}", ""),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_cases(
    project: Project, document: str, client: str, missing: str
) -> None:
    text = (project.pytester.path / "recipes.yaml").read_text()
    plain = "tiny-bf16-cpu-vllm: {extends: base"
    project.recipes(text.replace(f"{plain}}}", f"{plain}, client: {client}}}"))
    result = project.inside("benchmarks", "-qq", f"--gpubench-{document}=d.json")
    said = [line for line in result.outlines if "cannot be read" in line]
    if not missing:
        assert said == []
        return
    (line,) = said
    assert f"/{missing} cannot be read: No" in line
    assert ": tiny-bf16-cpu-vllm: the dataset " in line
    assert "recipes.yaml:" in line
    assert line.endswith("without it 2 cases cannot be measured")


def test_a_selection_without_cases_has_no_jobs(project: Project) -> None:
    found = _matrix(project, "-k", "nothing_of_that_name")
    assert (found["has_jobs"], found["include"]) == (False, [])


def test_a_server_of_several_nodes_and_what_cannot_run_are_listed_with_reasons(
    project: Project,
) -> None:
    text = (project.pytester.path / "recipes.yaml").read_text()
    project.recipes(text.replace("tp: 8, conc-list: [1, 16]", "tp: 16, conc-list: [1]"))
    found = _matrix(project)
    assert all("big" not in entry["name"] for entry in found["include"])
    (one,) = found["left_out"]
    assert "needs 16 GPUs and a node of h100 has 8" in one["reason"]


def test_gpubench_matrix_prints_json_and_batch_scripts(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest_gpubench.cli",
        "matrix",
        str(RECIPES),
        "-k",
        "tiny and h100",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert {entry["gpus"] for entry in json.loads(done.stdout)["include"]} == {1}
    options = [
        "--format",
        "slurm",
        "--partition",
        "gpu",
        "--max-parallel",
        "2",
        "--gres-type",
        "h100",
        "--container-image",
        "a b'c",
    ]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "#SBATCH --gres=gpu:h100:1" in done.stdout
    assert "%2\n" in done.stdout
    assert "--container-image=a b'\"'\"'c'" in done.stdout


def test_a_canary_is_the_lowest_concurrency_of_every_server_and_nothing_is_lost() -> None:
    book = load_recipes([RECIPES])
    whole, left_out = jobs_of(book, book.cases, most=10_000)
    jobs, left_out_too = jobs_of(book, book.cases, most=10_000, canary=True)
    assert left_out_too == left_out
    first = [job for job in jobs if job.canary]
    assert jobs[: len(first)] == first
    assert [len(job.cases) for job in first] == [1] * len(whole)
    assert sorted(case for job in jobs for case in job.cases) == sorted(
        case for job in whole for case in job.cases
    )
    assert len({job.name for job in jobs}) == len(jobs)
    (canary,) = (job for job in first if job.servers == ("tiny-bf16-cpu-vllm-tp1",))
    assert canary.selection == "gpubench(case='tiny-bf16-cpu-vllm-tp1:128x32-c1')"
    (rest,) = (job for job in jobs if job.servers == canary.servers and job is not canary)
    assert rest.selection == (
        "(gpubench(server='tiny-bf16-cpu-vllm-tp1') and not "
        "(gpubench(case='tiny-bf16-cpu-vllm-tp1:128x32-c1')))"
    )


def test_trim_leaves_the_lowest_concurrency_of_what_is_selected(project: Project) -> None:
    for keyword, lowest in (("tiny and not mtp", "c1"), ("tiny and not mtp and not c1", "c2")):
        result = project.inside("benchmarks", "-k", keyword, "--gpubench-trim", "--co", "-q")
        told = [line for line in result.outlines if "test_throughput[" in line]
        assert [line.rpartition("-")[2] for line in told] == [f"{lowest}]"]
    found = _matrix(project, "-m", "tiny and not mtp", "--gpubench-trim", "--gpubench-canary")
    assert [(entry["canary"], entry["cases"]) for entry in found["include"]] == [
        (True, ["tiny-bf16-cpu-vllm-tp1:32x4-c1"])
    ]


def test_a_canary_without_a_matrix_is_a_sentence(project: Project) -> None:
    result = project.inside("benchmarks", "--gpubench-canary")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --gpubench-canary says how jobs are cut: give --gpubench-matrix as well"]
    )
