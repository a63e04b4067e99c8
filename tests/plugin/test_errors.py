"""What users can get wrong: one sentence with place and remedy, the right exit code, no
traceback."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project


def test_a_named_file_that_is_missing_is_exit_4(project: Project) -> None:
    result = project.inside("benchmarks", "--gpubench-recipes=nowhere.yaml")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*nowhere.yaml does not exist*"])


def test_our_tests_without_any_recipes_are_exit_4_and_name_init(project: Project) -> None:
    (project.pytester.path / "recipes.yaml").unlink()
    result = project.inside("benchmarks")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*no recipes.yaml in *gpubench init*"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("block-size: 128", "block-size: 128}\n    servee: {a: 1"),
            "*recipes.yaml:*:*servee*serve*",
        ),
        (("runner: cpu", "runner: h1000"), "*recipes.yaml:*:*h1000*"),
        (("tp: 1, conc-list: [1, 2]", "tp: -8, conc-list: [1, 2]"), "*recipes.yaml:*:*tp*-8*"),
    ],
)
def test_a_broken_recipe_is_exit_4_with_file_line_and_key(
    project: Project, change: tuple[str, str], words: str
) -> None:
    text = (project.pytester.path / "recipes.yaml").read_text()
    assert change[0] in text
    project.recipes(text.replace(*change))
    result = project.inside("benchmarks")
    assert result.ret == 4
    result.stderr.fnmatch_lines([words])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_broken_recipe_does_not_stop_unrelated_tests(project: Project) -> None:
    project.recipes("a: [")
    (project.pytester.path / "test_other.py").write_text("def test_other():\n    pass\n")
    result = project.inside("test_other.py")
    assert result.ret == 0


def test_a_finding_of_the_doctor_fails_before_anything_starts(project: Project) -> None:
    text = (project.pytester.path / "recipes.yaml").read_text()
    project.recipes(text.replace("max-model-len: 256", "max-model-len: 32"))
    result = project.inside("benchmarks", "-k", "tiny and cpu and not mtp and c1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the doctor foresees*", "*--gpubench-ignore-findings *"])
    assert not list(project.pytester.path.rglob("launch-1.log")), "a server was started"
    (record,) = project.cases()
    assert (record["failure"]["cause"], record["metrics"]) == ("doctor", None)
    assert record["findings"]


def test_an_unknown_rule_is_exit_4_with_a_suggestion(project: Project) -> None:
    result = project.inside("benchmarks", "--gpubench-ignore-findings=no-common-blocksize")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*no rule 'no-common-blocksize'*"])


@pytest.mark.parametrize("value", ["0", "-3", "nan"])
def test_a_start_timeout_that_is_no_time_is_exit_4(project: Project, value: str) -> None:
    result = project.inside("benchmarks", f"--gpubench-start-timeout={value}")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--gpubench-start-timeout*"])


def test_a_command_with_open_quotes_is_exit_4(project: Project) -> None:
    result = project.inside("benchmarks", "--gpubench-vllm-command=vllm 'serve", stub=False)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--gpubench-vllm-command*quotes*"])


RERUNS = """
def pytest_addoption(parser):
    parser.addoption("--reruns", type=int, default=0)  # as pytest-rerunfailures does

def pytest_configure(config):
    config.addinivalue_line("markers", "flaky: as pytest-rerunfailures registers it")
"""


def test_repeating_cases_until_they_pass_is_exit_4(project: Project) -> None:
    (project.pytester.path / "conftest.py").write_text(RERUNS)
    result = project.inside("benchmarks", "--reruns=2")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--reruns*a benchmark case is not repeated until it passes*"])
    assert project.inside("benchmarks", "-k", "big and h100").ret == 5


def test_reruns_of_other_tests_are_none_of_our_business(project: Project) -> None:
    (project.pytester.path / "conftest.py").write_text(RERUNS)
    (project.pytester.path / "test_other.py").write_text("def test_other():\n    pass\n")
    assert project.inside("test_other.py", "--reruns=2").ret == 0


def test_a_flaky_mark_on_a_case_is_exit_4(project: Project) -> None:
    (project.pytester.path / "conftest.py").write_text(RERUNS)
    (project.pytester.path / "benchmarks" / "test_own.py").write_text(
        "import pytest\n\n@pytest.mark.flaky(reruns=3)\ndef test_own(client):\n    pass\n"
    )
    result = project.inside("benchmarks")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*test_own*is marked flaky*"])
