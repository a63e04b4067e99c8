"""Selection: counts, the -k guard, empty selections, missing hardware, order, plan."""

from __future__ import annotations

import json

from tests.plugin.conftest import Project


def test_a_substring_that_selects_more_than_it_says_is_refused_with_the_exact_form(
    project: Project,
) -> None:
    result = project.inside("benchmarks", "-k", "big and c1")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*c1*big-fp8-h100-vllm-tp8:1k1k-c16*-m*"])


def test_the_exact_form_selects_exactly(project: Project) -> None:
    result = project.inside("benchmarks", "--co", "-q", "-m", "big and c1")
    result.stdout.fnmatch_lines(
        ["*test_throughput?big-fp8-h100-vllm-tp8:1k1k-c1?", "selected 1 case on 1 server"]
    )
    result = project.inside("benchmarks", "--co", "-q", "-m", "gpubench(hardware='h100', conc=16)")
    result.stdout.fnmatch_lines(["*:1k1k-c16?", "selected 1 case on 1 server"])


def test_words_that_several_families_have_are_said_with_their_counts(project: Project) -> None:
    result = project.inside("benchmarks", "--co", "-q", "-k", "vllm")
    result.stdout.fnmatch_lines(["-k 'vllm' selects several families: tiny (3), big (2)"])
    result = project.inside("benchmarks", "--co", "-q", "-k", "tiny and vllm")
    assert "several families" not in result.stdout.str()


def test_nothing_selected_is_exit_5_and_names_the_words(project: Project) -> None:
    result = project.inside("benchmarks", "-k", "nosuchmodel")
    assert result.ret == 5
    result.stdout.fnmatch_lines(
        [
            "*-k 'nosuchmodel' selects none of the 5 cases of *recipes.yaml; their "
            "words are: *tiny*h100*"
        ]
    )


def test_absent_hardware_skips_every_case_with_what_is_missing_and_exits_5(
    project: Project,
) -> None:
    result = project.inside("benchmarks", "-k", "big and h100", "-rs")
    assert result.ret == 5
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*needs 8 x H100 (cuda); this host has*"])
    assert not (project.pytester.path / "results").exists()


def test_absent_hardware_fails_where_the_runner_was_named(project: Project) -> None:
    result = project.inside("benchmarks", "-k", "big and h100", "--gpubench-runner=h100")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*although --gpubench-runner=h100 names this host*"])


def test_skipped_cases_beside_other_tests_keep_pytests_exit_code(project: Project) -> None:
    (project.pytester.path / "benchmarks" / "test_other.py").write_text(
        "def test_big_h100():\n    pass\n"
    )
    result = project.inside("benchmarks", "-k", "big and h100")
    assert result.ret == 0


def test_order_is_others_first_then_servers_by_gpu_count(project: Project) -> None:
    (project.pytester.path / "benchmarks" / "test_zz.py").write_text(
        "def test_other():\n    pass\n"
    )
    result = project.inside("benchmarks", "--co", "-q")
    ids = [line for line in result.outlines if "::" in line]
    assert "test_other" in ids[0]
    assert all("big" in line for line in ids[1:4])
    servers = [line.split("[")[1].split(":")[0].rstrip("]") for line in ids[1:]]
    assert servers == sorted(servers, key=servers.index), "items of one server are apart"


def test_plan_writes_cases_and_servers_and_starts_nothing(project: Project) -> None:
    result = project.inside("benchmarks", "--gpubench-plan=plan.json", "-k", "tiny and mtp")
    assert result.ret == 0
    plan = json.loads((project.pytester.path / "plan.json").read_text())
    (case,) = plan["cases"]
    assert case["id"] == "tiny-bf16-cpu-vllm-mtp-tp1:32x4-c1"
    assert case["topology"] == {"tp": 1, "pp": 1, "ep": 1, "dp_attn": False}
    server = plan["servers"][case["server"]]
    assert server["cases"] == [case["id"]]
    assert "{port}" in server["argv"]
    assert "VLLM_API_KEY" not in server["env"]
    assert not (project.pytester.path / "results").exists()


def test_server_per_point_gives_every_case_its_own_server(project: Project) -> None:
    result = project.inside(
        "benchmarks", "--co", "-q", "--gpubench-server-per=point", "-k", "tiny and not mtp"
    )
    result.stdout.fnmatch_lines(["selected 2 cases on 2 servers"])
