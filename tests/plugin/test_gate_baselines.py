"""Baselines in a run: recorded on a clean tree, judged against, damaged ones refused before
anything starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import CALMLY, XUNIT1, Project, workers

pytestmark = pytest.mark.usefixtures("canned")

CASE = "tiny-bf16-cpu-vllm-tp1:32x4-c1"
ONE = ("benchmarks", "-m", "cpu and not mtp and c1")
UPDATE = "--gpubench-update-baselines"


def git(project: Project, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(
        ["git", *who, *arguments], cwd=project.pytester.path, check=True, capture_output=True
    )


@pytest.fixture
def repository(project: Project) -> Project:
    """The project, committed."""
    git(project, "init", "-q")
    git(project, "add", "recipes.yaml", "benchmarks", "tox.ini")
    git(project, "commit", "-q", "-m", "start")
    return project


def baseline_file(project: Project) -> Path:
    return (
        project.pytester.path
        / "benchmarks"
        / "baselines"
        / "cpu"
        / "tiny-bf16-cpu-vllm-tp1"
        / "32x4-c1.json"
    )


FAST = {"output_tput_per_gpu": 1e9, "tpot_p50": 1e-9, "ttft_p50": 1e-9}
SLOW = {"output_tput_per_gpu": 1e-9, "tpot_p50": 1e9, "ttft_p50": 1e9}
"""Levels of a baseline that no machine comes near: what is measured is far worse, or far better."""


def seed(
    project: Project,
    levels: Mapping[str, float],
    launches: int = 6,
    rounds: int = 1,
    noise: float = 0.0,
) -> None:
    """A baseline with the key of the record that a first run left, and these levels with a spread
    of 0.2%: what a machine measured has no part in it."""
    from pytest_gpubench.gate.baseline_files import update_baseline
    from pytest_gpubench.gate.baselines import LaunchEntry, append
    from pytest_gpubench.model.frozen import FrozenMap

    record = project.cases()[-1]
    entries = [
        LaunchEntry(
            f"run{index}",
            "launch-1",
            f"2026-01-{index + 1:02}T00:00:00+00:00",
            "",
            FrozenMap(
                {name: level * (1 + 0.002 * (-1) ** index) for name, level in levels.items()}
            ),
            4,
            FrozenMap({"engine": "0.0.0+older"}),
            rounds=rounds,
            noise=FrozenMap(dict.fromkeys(levels, noise) if rounds > 1 else {}),
        )
        for index in range(launches)
    ]
    update_baseline(
        baseline_file(project),
        CASE,
        lambda before: append(before, FrozenMap(record["gate"]["key"]), entries),
    )


def test_launches_of_a_clean_tree_are_recorded_and_the_next_run_adds_to_them(
    repository: Project,
) -> None:
    first = repository.run(*ONE, "--gpubench-launches=2", UPDATE)
    assert first.ret == 0, first.stdout.str() + first.stderr.str()
    first.stdout.fnmatch_lines([f"baseline of {CASE}: 2 launches in *32x4-c1.json"])
    text = baseline_file(repository).read_text()
    entries = json.loads(text)["launches"]
    assert [entry["launch"] for entry in entries] == ["launch-1", "launch-2"]
    assert entries[0]["axis"]["engine"] == "0.0.0+stub"
    assert "duration" not in entries[0]["anchors"]
    git(repository, "add", "benchmarks")
    git(repository, "commit", "-q", "-m", "baseline")
    second = repository.run(*ONE, UPDATE)
    assert second.ret == 10, "three launches do not show a spread: INCONCLUSIVE"
    second.stdout.fnmatch_lines(["*the baseline has 2 launches, a spread takes 5*"])
    assert len(json.loads(baseline_file(repository).read_text())["launches"]) == 3


@pytest.mark.parametrize(
    "named",
    [
        [f"benchmarks/test_serving.py::test_throughput[{CASE}]"],
        ["benchmarks", "-m", "c1 and not mtp", "--deselect", "benchmarks/test_serving.py::test_en"],
    ],
)
def test_the_command_that_records_selects_no_more_than_the_run_did(
    project: Project, named: list[str]
) -> None:
    result = project.run(*named)
    assert result.ret == 0
    (line,) = (line for line in result.outlines if "--gpubench-update-baselines" in line)
    assert f"-m 'gpubench(case='\"'\"'{CASE}'\"'\"')'" in line


def test_a_dirty_tree_is_refused_before_anything_starts(repository: Project) -> None:
    (repository.pytester.path / "benchmarks" / "test_serving.py").write_text("# changed\n")
    result = repository.inside(*ONE, UPDATE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --gpubench-update-baselines: *the working tree has uncommitted "
            "changes*commit first"
        ]
    )


def test_outside_git_nothing_is_recorded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.pytester.path.parent))
    result = project.inside(*ONE, UPDATE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --gpubench-update-baselines: *not a git working tree*"])


def test_accepting_without_recording_is_a_usage_error(project: Project) -> None:
    result = project.inside(*ONE, "--gpubench-accept-regression")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --gpubench-accept-regression accepts what is recorded: give "
            "--gpubench-update-baselines*"
        ]
    )


def damage(path: Path, how: str) -> None:
    text = path.read_text()
    plain: dict[str, Any] = json.loads(text)
    if how == "truncated":
        path.write_text(text[: len(text) // 2])
    elif how == "corrupt":
        path.write_bytes(b"\xff\xfe" + text.encode())
    elif how == "by hand":
        plain["launches"][0]["metrics"]["tpot_p50"] *= 2
        path.write_text(json.dumps(plain))
    else:
        path.write_text(json.dumps(plain | {"schema": 99}))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "*so it is truncated or corrupt; restore it (git checkout -- *"),
        ("corrupt", "*cannot be read*restore it*"),
        ("by hand", "*was changed by hand: launch-1 of run run0 is not what was measured*"),
        ("future", "*was written by a newer pytest-gpubench (schema 99*upgrade*"),
    ],
)
def test_a_damaged_baseline_is_a_sentence_before_anything_starts(
    project: Project, how: str, words: str
) -> None:
    plant(project)
    damage(baseline_file(project), how)
    before = baseline_file(project).read_bytes()
    result = project.inside(*ONE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: the baseline {words}"])
    assert baseline_file(project).read_bytes() == before
    assert project.records() == []
    assert project.inside("benchmarks", "-k", "tiny and mtp", "--co").ret == 0, (
        "nothing is judged there"
    )


def plant(project: Project) -> None:
    """A baseline of another key, without a run."""
    from pytest_gpubench.gate.baseline_files import update_baseline
    from pytest_gpubench.gate.baselines import LaunchEntry, append
    from pytest_gpubench.model.frozen import FrozenMap

    entries = [
        LaunchEntry(
            f"run{index}",
            "launch-1",
            f"2026-01-0{index + 1}T00:00:00+00:00",
            "",
            FrozenMap({"tpot_p50": 0.002}),
            4,
        )
        for index in range(6)
    ]
    update_baseline(
        baseline_file(project),
        CASE,
        lambda before: append(before, FrozenMap({"device": "another"}), entries),
    )


@pytest.mark.slow
def test_a_damaged_baseline_ends_a_run_on_workers_too(project: Project) -> None:
    plant(project)
    damage(baseline_file(project), "truncated")
    result = project.run(*ONE, *workers(2), "--gpubench-exclusive=no")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the baseline *truncated or corrupt*"])
    assert project.records() == []


def test_another_key_is_not_comparable_and_the_field_is_named(project: Project) -> None:
    plant(project)
    result = project.run(*ONE, "--gpubench-require-baseline")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*FAIL: *NOT COMPARABLE with the baseline: device: another before, * now*"]
    )


def test_without_a_baseline_the_command_that_records_one_is_printed_and_works(
    repository: Project,
) -> None:
    result = repository.run(*ONE)
    assert result.ret == 0
    line = next(line for line in result.outlines if UPDATE in line)
    assert line.startswith("  pytest benchmarks -m 'cpu and not mtp and c1'")
    assert "--gpubench-launches=8" in line
    import shlex

    words = [word for word in shlex.split(line)[1:] if not word.startswith("--gpubench-launches")]
    again = repository.run(*words[:3], UPDATE, "--gpubench-require-baseline")
    assert again.ret == 1, "require-baseline fails it, and it is recorded all the same"
    demanded = "*FAIL: no baseline, and --gpubench-require-baseline demands one*"
    again.stdout.fnmatch_lines([demanded, f"baseline of {CASE}: 1 launch in *"])


def test_a_regression_fails_with_a_review_comment_and_can_be_accepted(
    repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tokens that all come at once, as to a client that waits for its turn, have no time between.
    monkeypatch.setenv("GPUBENCH_STUB_TOKEN_TIME", "0.1")
    repository.run(*ONE)
    seed(repository, FAST)
    result = repository.run(*ONE, "--junitxml=junit.xml", *XUNIT1)
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "FAIL: * rose by *% against the baseline, from * to * (95% interval *",
            f"{CASE}: FAIL on 1 launch",
            "FAIL  *",
            "      baseline   * (6 launches)",
            "      now        * (1 launch)",
            "      change     +*%, 95% interval *",
            "      tolerance  5% worse",
            "      next       find the cause, or accept it*",
            "note: changed since the newest launch of the baseline: *engine: "
            "0.0.0+older before, 0.0.0+stub now*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    junit = (repository.pytester.path / "junit.xml").read_text()
    assert 'name="gpubench_verdict" value="FAIL"' in junit
    assert 'name="gpubench_tpot_p50_change" value="+' in junit
    before = baseline_file(repository).read_bytes()
    refused = repository.run(*ONE, UPDATE)
    assert refused.ret == 1
    refused.stdout.fnmatch_lines(
        [f"{CASE} not recorded: *; --gpubench-accept-regression accepts them"]
    )
    assert baseline_file(repository).read_bytes() == before
    accepted = repository.run(*ONE, UPDATE, "--gpubench-accept-regression")
    assert accepted.ret == 0, accepted.stdout.str()
    accepted.stdout.fnmatch_lines([f"baseline of {CASE}: 1 launch in *", "*1 accepted*"])
    newest = json.loads(baseline_file(repository).read_text())["launches"][-1]
    assert newest["anchors"]["tpot_p50"] == "accepted"


def test_a_change_inside_the_tolerance_passes_and_an_improvement_is_said(
    repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.plugin.conftest import with_gates

    monkeypatch.setenv("GPUBENCH_STUB_TOKEN_TIME", "0.1")
    # Inside what is allowed on any machine: a worsening counts from a thousand seconds on.
    inside = "{tolerance: 5%, absolute: 1000}"
    with_gates(repository, f"{{output_tput_per_gpu: false, tpot_p50: 5%, ttft_p50: {inside}}}")
    repository.run(*ONE)
    seed(repository, {"tpot_p50": SLOW["tpot_p50"], "ttft_p50": FAST["ttft_p50"]})
    result = repository.run(*ONE)
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*tp1:32x4-c1 *PASS"])
    result.stdout.fnmatch_lines(["*tpot_p50 fell by *an improvement*"])


@pytest.mark.parametrize(("choice", "code"), [("exit", 10), ("warn", 0), ("fail", 1)])
def test_what_inconclusive_does_is_the_users_choice(
    project: Project, choice: str, code: int
) -> None:
    from tests.plugin.conftest import with_gates

    with_gates(project, "{queue_p50: {at-most: 100}}")
    result = project.run(*ONE, f"--gpubench-inconclusive={choice}")
    assert result.ret == code
    result.stdout.fnmatch_lines(["*queue_p50 could not be measured*"])
    if choice == "exit":
        (rerun,) = (project.pytester.path / "results").rglob("rerun.txt")
        assert (
            rerun.read_text().splitlines()[-1]
            == f"benchmarks/test_serving.py::test_throughput[{CASE}]"
        )
        result.stdout.fnmatch_lines(
            [f"undecided, to be measured again: pytest @{rerun.relative_to(project.pytester.path)}"]
        )
        again = project.pytester.run(*project.command()[:3], *CALMLY, f"@{rerun}", timeout=600)
        again.stdout.fnmatch_lines(["selected 1 case on 1 server", "*1 inconclusive*"])
        assert again.ret == 10


def test_an_ini_value_that_means_nothing_is_a_sentence(project: Project) -> None:
    (project.pytester.path / "tox.ini").write_text("[pytest]\ngpubench_inconclusive = perhaps\n")
    result = project.inside("benchmarks")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: ini option gpubench_inconclusive: 'perhaps' is not one of exit, warn, fail"]
    )


def test_a_regression_can_be_accepted_afterwards(
    repository: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """``gpubench baseline accept`` takes the launches of a run, whose verdict was FAIL, as the new
    level."""
    from pytest_gpubench.cli import main
    from pytest_gpubench.gate.baseline_files import read_baseline

    repository.run(*ONE)
    seed(repository, FAST)
    results = repository.pytester.path / "results"
    before = set(results.iterdir())
    repository.run(*ONE).stdout.fnmatch_lines(["*FAIL*"])
    (last,) = set(results.iterdir()) - before  # names of one second are in no order
    folder = repository.pytester.path / "benchmarks" / "baselines"
    assert (
        main(
            [
                "baseline",
                "accept",
                CASE,
                str(last),
                "--note",
                "new driver",
                "--baselines",
                str(folder),
            ]
        )
        == 0
    )
    assert "1 of 1 launches added" in capsys.readouterr().out
    baseline = read_baseline(baseline_file(repository), CASE)
    assert baseline is not None
    assert any("accepted: new driver" in entry.anchors.values() for entry in baseline.launches)


def test_two_runs_that_record_at_once_are_both_kept(repository: Project) -> None:
    words = repository.command(*ONE, "--gpubench-launches=2", UPDATE, "--gpubench-exclusive=no")
    runs = [
        subprocess.Popen(
            words,
            cwd=repository.pytester.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in "ab"
    ]
    for run in runs:
        output, _ = run.communicate(timeout=600)
        assert run.returncode == 0, output
    entries = json.loads(baseline_file(repository).read_text())["launches"]
    assert sorted(entry["launch"] for entry in entries) == [
        "launch-1",
        "launch-1",
        "launch-2",
        "launch-2",
    ]
    assert len({entry["run"] for entry in entries}) == 2


def test_under_xdist_every_launch_of_every_worker_is_recorded(repository: Project) -> None:
    options = (*workers(2), "--gpubench-exclusive=no", "--gpubench-launches=2", UPDATE)
    result = repository.run("benchmarks", "-m", "cpu and c1", *options)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    files = sorted((repository.pytester.path / "benchmarks" / "baselines").rglob("32x4-c1.json"))
    assert [path.parent.name for path in files] == [
        "tiny-bf16-cpu-vllm-mtp-tp1",
        "tiny-bf16-cpu-vllm-tp1",
    ]
    for path in files:
        assert [entry["launch"] for entry in json.loads(path.read_text())["launches"]] == [
            "launch-1",
            "launch-2",
        ]


INTERRUPTED = """
def pytest_runtest_setup(item):
    if "-c2]" in item.nodeid:
        raise KeyboardInterrupt
"""


def test_an_interrupted_run_records_no_baseline(repository: Project) -> None:
    (repository.pytester.path / "conftest.py").write_text(INTERRUPTED)
    git(repository, "add", "conftest.py")
    git(repository, "commit", "-q", "-m", "a person who presses Ctrl-C")
    result = repository.run("benchmarks", "-m", "cpu and not mtp", UPDATE)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["no baseline is written: the run was interrupted"])
    assert [record["failure"] for record in repository.cases()] == [None], "one had passed"
    assert not baseline_file(repository).exists()
