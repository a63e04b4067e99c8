"""Rounds of a case on a launch, and what a budget leaves of them."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest

from pytest_gpubench.gate.baseline_files import update_baseline
from pytest_gpubench.gate.baselines import LaunchEntry, append
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.runs.budgeting import warmup_share
from tests.plugin.conftest import Project, workers
from tests.plugin.test_gate_baselines import (
    CASE,
    FAST,
    ONE,
    UPDATE,
    baseline_file,
    repository,
    seed,
)

__all__ = ["repository"]

pytestmark = pytest.mark.usefixtures("canned")

AS_THE_BASELINES_ASK = ("-o", "gpubench_launches=")
MANY = "--gpubench-rounds=1..8"


def requests(project: Project) -> list[str]:
    return sorted(path.name for path in project.pytester.path.rglob("*.requests.jsonl.gz"))


def test_a_run_without_a_baseline_measures_once(project: Project) -> None:
    assert project.run(*ONE, MANY).ret == 0
    assert project.cases()[-1]["measurement"]["rounds"] == []
    assert requests(project) == ["launch-1.requests.jsonl.gz"]


def test_a_launch_that_is_recorded_is_measured_until_it_tells_its_level(
    repository: Project,
) -> None:
    result = repository.run(*ONE, UPDATE, MANY)  # canned: every round is the same
    assert result.ret == 0, result.stdout.str()
    record = repository.cases()[-1]
    assert len(record["measurement"]["rounds"]) == 3
    totals, one = record["measurement"]["totals"], record["measurement"]["rounds"][0]
    assert totals["requests"] % 3 == 0
    assert record["metrics"]["output_tput"] == pytest.approx(one["output_tput"])
    assert requests(repository) == [
        "launch-1.requests.jsonl.gz",
        "launch-1.round-2.requests.jsonl.gz",
        "launch-1.round-3.requests.jsonl.gz",
    ]
    assert '"rounds": 3' in baseline_file(repository).read_text()


def test_rounds_that_are_asked_for_are_taken_with_prompts_of_their_own(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "")  # nothing is canned then
    assert project.run(*ONE, "--gpubench-rounds=2").ret == 0
    record = project.cases()[-1]
    assert len(record["measurement"]["rounds"]) == 2
    files = project.pytester.path.rglob("*.requests.jsonl.gz")
    first, second = (gzip.decompress(path.read_bytes()) for path in files)
    assert first != second
    counted = record["measurement"]["totals"]
    assert counted["output_tokens_with_warmup"] == counted["engine_output_tokens"]


def test_a_baseline_says_how_many_rounds_its_comparison_takes(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    seed(repository, FAST, rounds=4, noise=0.05)
    repository.run(*ONE, "--gpubench-launches=1", MANY)
    # the eighth would find less than a hundredth more
    assert len(repository.cases()[-1]["measurement"]["rounds"]) == 7


def test_a_server_with_a_baseline_gets_up_to_three_launches(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    seed(repository, FAST)
    result = repository.run(*ONE, *AS_THE_BASELINES_ASK)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*FAIL on 2 launches*"])
    assert list(repository.pytester.path.rglob("launch-2.json"))


def test_a_budget_says_beforehand_what_it_will_tell(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    seed(repository, FAST, rounds=4, noise=0.05)
    result = repository.run(*ONE, "--gpubench-budget=10s", MANY, *AS_THE_BASELINES_ASK)
    result.stdout.fnmatch_lines(
        [
            "gpubench: budget 10 s: *are planned",
            "gpubench: tiny-bf16-cpu-vllm-tp1: * launch*, * round* on each; found in 95% of runs: *",
        ]
    )


def test_a_budget_plans_no_less_than_what_will_run(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    seed(repository, FAST)
    asked = ["--gpubench-launches=2..3", "--gpubench-rounds=3..8", "--gpubench-budget=0.1s"]
    asked += ["--gpubench-gate-only=tpot_p50", "-m", "cpu and not mtp", "--setup-only"]
    result = repository.inside("benchmarks", *asked)
    result.stdout.fnmatch_lines(
        [
            "*that is the least that this selection takes*",
            "gpubench: tiny-bf16-cpu-vllm-tp1: 2 launches, 3 rounds on each; *least well tpot_p50 *",
            "*no baseline to plan by, so what these take is not in it: 1 case of tiny-bf16-cpu-vllm-tp1",
        ]
    )


def test_a_budget_promises_nothing_by_what_cannot_be_compared(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    record = repository.cases()[-1]
    older = record["gate"]["key"] | {"measurement_version": 1}
    entries = [
        LaunchEntry(f"run{day}", "launch-1", f"2026-01-0{day}T00:00:00+00:00", "", FrozenMap(FAST))
        for day in range(1, 7)
    ]
    update_baseline(
        baseline_file(repository), CASE, lambda before: append(before, FrozenMap(older), entries)
    )
    result = repository.inside(*ONE, "--gpubench-budget=1m", "--setup-only")
    result.stdout.fnmatch_lines(
        [
            "*no baseline to plan by but one that was measured in another way, so *: 1 case of "
            "tiny-bf16-cpu-vllm-tp1"
        ]
    )
    assert "found in 95%" not in result.stdout.str()


def test_a_budget_says_how_many_launches_a_baseline_lacks(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    seed(repository, FAST, launches=4)
    result = repository.inside(*ONE, "--gpubench-budget=1m", "--setup-only")
    result.stdout.fnmatch_lines(
        [
            "gpubench: a baseline of 4 launches, where a plan takes 5 (record 1 more), so what "
            "these take is not in it: 1 case of tiny-bf16-cpu-vllm-tp1"
        ]
    )
    asked = [*ONE, "--gpubench-budget=1m", "--gpubench-gate-only=e2e_p50", "--setup-only"]
    result = repository.inside(*asked)
    result.stdout.fnmatch_lines(["gpubench: a baseline that says nothing of e2e_p50, so *"])


def test_a_budget_that_is_spent_starts_no_launch_in_reserve(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    seed(repository, FAST)
    spent = ("--gpubench-budget=0.001s", "--junitxml=junit.xml", *AS_THE_BASELINES_ASK)
    result = repository.run(*ONE, *spent)
    result.stdout.fnmatch_lines(
        ["*that is the least that this selection takes*", "*not yet confirmed by another launch*"]
    )
    assert result.ret == 10  # what one launch shows is not enough to fail
    told = (repository.pytester.path / "junit.xml").read_text()
    assert "settled: the budget has room for 1 launch of this server" in told
    assert not list(repository.pytester.path.rglob("launch-2.json"))


def test_a_replay_of_sessions_costs_a_budget_no_share_of_prompts_that_it_has_not() -> None:
    drawn = Workload(64, 4, 8, num_prompts=80, num_warmups=16)
    assert warmup_share(drawn) == 0.2
    assert warmup_share(replace(drawn, dataset="sessions")) == 0.0


def test_a_budget_under_xdist(repository: Project) -> None:
    assert repository.run(*ONE).ret == 0
    seed(repository, FAST)
    result = repository.run(*ONE, "--gpubench-budget=10m", *workers(1))
    result.stdout.fnmatch_lines(["gpubench: budget 10 min 0 s: *are planned"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--gpubench-budget=soon", "*--gpubench-budget: 'soon' is no time; write 15m*"),
        ("--gpubench-budget=0", "*--gpubench-budget: '0' is no time*"),
        ("--gpubench-rounds=0", "*--gpubench-rounds: rounds '0': write a number such as 3*"),
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(
    project: Project, option: str, words: str
) -> None:
    result = project.run(*ONE, option)
    assert result.ret == 4
    result.stderr.fnmatch_lines([words])
