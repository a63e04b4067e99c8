"""Several workers: one launch per server, results and exit code on the controller, crashes, and
leases between runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.plugin.conftest import Project, workers

pytestmark = pytest.mark.slow

SIDE_BY_SIDE = ("--gpubench-exclusive=no", *workers(2))
FAKE_GPUS = """
from pytest_gpubench.host.gpus.inventory import Gpu, Inventory
import pytest_gpubench.runs.leasing as leasing, pytest_gpubench.runs.servers as servers
GIB = 1 << 30
GPUS = tuple(Gpu(i, f"GPU-{i}", "NVIDIA H100 80GB HBM3", 80 * GIB, GIB // 2) for i in range(8))
for module in (leasing, servers):
    module.read_inventory = lambda: Inventory(GPUS, "580.1")
servers.probe_command = lambda command: None  # a vLLM for the CPU beside the tests does not speak for the stub
"""
TWO_ON_GPUS = """
templates:
  base:
    model: pytest-gpubench/tiny-llama
    precision: bf16
    framework: vllm
    multinode: false
    runner: h100
    serve: {max-model-len: 256, block-size: 128, enable-prefix-caching: false}
    client: {prompts-per-conc: 2, warmups-per-conc: 1}
    scenarios:
      fixed-seq-len:
      - {isl: 32, osl: 4, search-space: [{tp: 2, conc-list: [1]}]}
one-bf16-h100-vllm: {extends: base, model-prefix: one}
two-bf16-h100-vllm: {extends: base, model-prefix: two}
"""


def _leases(project: Project) -> list[str]:
    return sorted(path.name for path in (project.pytester.path / "leases").glob("*.lease"))


def _is_free(project: Project) -> bool:
    """No process of the stub is left, and no lease is held."""
    marker = str(project.pytester.path)
    for process in psutil.process_iter():
        try:
            if "stub_engine.py" in " ".join(process.cmdline()) and marker in " ".join(
                process.environ().values()
            ):
                return False
        except psutil.Error:
            continue
    return True


def _wait_for(condition: object, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_two_servers_side_by_side_are_started_once_each(project: Project) -> None:
    result = project.run("benchmarks", "-k", "tiny and cpu", *SIDE_BY_SIDE)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(
        [
            "selected 3 cases on 2 servers",
            "tiny-bf16-cpu-vllm",
            "*tp1:32x4-c2*UNGATED*",
            "records: *",
        ]
    )
    cases = project.cases()
    assert len({(record["server"], record["served_name"]) for record in cases}) == 2, (
        "a server was started twice"
    )
    assert (
        len({path.parts[-4] for path in (project.pytester.path / "results").rglob("launch-1.json")})
        == 1
    ), "one run, one folder"
    cores = len(os.sched_getaffinity(0))
    for record in [*cases, *project.inits()]:
        facts = record["co_tenancy"]
        assert facts["exclusive"] is False
        bound = record["env"].get("VLLM_CPU_OMP_THREADS_BIND")
        assert (facts["cpus"] is not None) == (bound is not None) == (cores > 1)
    assert _leases(project) == []


@pytest.mark.usefixtures("canned")
def test_alone_a_server_has_the_host(project: Project) -> None:
    project.run("benchmarks", "-k", "tiny and mtp")
    (record,) = project.cases()
    assert record["co_tenancy"] == {"exclusive": True, "gpus": [], "cpus": None, "neighbours": []}
    assert "VLLM_CPU_OMP_THREADS_BIND" not in record["env"]
    assert _leases(project) == []


LATE_NEIGHBOUR = """
from pytest_gpubench.host.leases.broker import Broker
from pytest_gpubench.host.leases.choice import Wanted
from pytest_gpubench.runs import client_runs

run_load, leases = client_runs.run_load, []

def with_neighbour(*arguments, **options):
    result = run_load(*arguments, **options)
    leases.append(Broker().acquire(Wanted("late", "another-run", exclusive=False), timeout=60))
    return result

client_runs.run_load = with_neighbour

def pytest_unconfigure():
    for lease in leases:
        lease.release()
"""


def test_neighbour_that_came_while_a_case_was_measured_is_in_its_record(project: Project) -> None:
    project.pytester.makeconftest(LATE_NEIGHBOUR)
    project.run("benchmarks", "-k", "tiny and mtp", "--gpubench-exclusive=no")
    (record,) = project.cases()
    assert [neighbour["server"] for neighbour in record["co_tenancy"]["neighbours"]] == ["late"]
    (init,) = project.inits()
    assert init["co_tenancy"]["neighbours"] == []


def test_servers_get_gpus_of_their_own_by_uuid(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_DEVICE", "cuda")
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    project.recipes(TWO_ON_GPUS)
    project.pytester.makeconftest(FAKE_GPUS)
    result = project.run("benchmarks", "-k", "h100", *SIDE_BY_SIDE)
    assert result.ret == 0, result.stdout.str()
    visible = {
        record["server"]: record["env"]["CUDA_VISIBLE_DEVICES"] for record in project.cases()
    }
    assert sorted(visible.values()) == ["GPU-0,GPU-1", "GPU-2,GPU-3"]
    assert {tuple(record["co_tenancy"]["gpus"]) for record in project.cases()} == {
        ("GPU-0", "GPU-1"),
        ("GPU-2", "GPU-3"),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (workers(2), "2 workers would run servers side by side*--gpubench-exclusive=no"),
        (
            (*SIDE_BY_SIDE, "--dist", "loadgroup"),
            "--dist loadgroup would start a server once per worker*",
        ),
        ((*SIDE_BY_SIDE, "--dist", "each"), "--dist each would start a server once per worker*"),
    ],
)
def test_what_would_mislead_is_a_usage_error(
    project: Project, arguments: tuple[str, ...], words: str
) -> None:
    result = project.inside("benchmarks", "-k", "tiny", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {words}"])
    assert project.records() == []


@pytest.mark.parametrize("dist", ["load", "loadfile"])
def test_other_tests_run_on_many_workers_as_ever(project: Project, dist: str) -> None:
    project.pytester.makepyfile(
        test_other="import pytest\n@pytest.mark.parametrize('i', range(9))\ndef test_it(i): pass\n"
    )
    result = project.run("test_other.py", *workers(2), "--dist", dist)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    result.assert_outcomes(passed=9)
    result.stdout.no_fnmatch_line("selected *")


def test_a_run_of_nothing_but_skipped_cases_ends_with_5(project: Project) -> None:
    result = project.run("benchmarks", "-k", "h100", *SIDE_BY_SIDE)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["selected 2 cases on 1 server"])


def test_an_undecided_case_on_a_worker_makes_the_run_end_with_10(project: Project) -> None:
    project.pytester.makepyfile(
        test_own="""
        import pytest
        from pytest_gpubench.model.verdicts import Status, Verdict
        from pytest_gpubench.plugin.items import RESULT

        def test_undecided(request, case):
            verdict = Verdict(Status.INCONCLUSIVE, "too few")
            request.node.stash[RESULT] = {"verdict": verdict, "metrics": {"output_tput": 1.5}}
            pytest.skip("INCONCLUSIVE: too few")
        """
    )
    result = project.run("test_own.py", "-k", "mtp", *SIDE_BY_SIDE)
    assert result.ret == 10, result.stdout.str()
    result.stdout.fnmatch_lines(["*1.5*INCONCLUSIVE", "*1 inconclusive*"])


@pytest.mark.usefixtures("canned")
def test_a_worker_that_dies_costs_its_test_and_the_server_is_started_again(
    project: Project,
) -> None:
    project.pytester.makepyfile(
        test_own="""
        import os

        def test_dies(engine, case):
            if case.workload.conc == 1:
                os.kill(os.getpid(), 9)
        """
    )
    result = project.run("test_own.py", "benchmarks", "-k", "tiny and not mtp", *SIDE_BY_SIDE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*crashed while running*test_dies*"])
    assert len(project.cases()) == 2
    assert _is_free(project)


@pytest.mark.usefixtures("canned")
def test_without_restarts_the_run_ends_after_a_crash(project: Project) -> None:
    project.pytester.makepyfile(
        test_own="import os\ndef test_dies(engine, case): os.kill(os.getpid(), 9)\n"
    )
    result = project.run(
        "test_own.py", "benchmarks", "-k", "tiny", "--max-worker-restart=0", *SIDE_BY_SIDE
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*crashed and worker restarting disabled*"])
    _wait_for(lambda: _is_free(project))


def test_a_second_run_waits_for_the_first_and_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = project.pytester.path / "go-on"
    monkeypatch.setenv("GPUBENCH_STUB_UNTIL", str(go_on))
    command, said = project.command("benchmarks", "-k", "mtp"), project.pytester.path / "second.txt"
    first = subprocess.Popen(command, cwd=project.pytester.path, stdout=subprocess.DEVNULL)
    try:
        _wait_for(lambda: _leases(project))
        with said.open("w") as output:
            second = subprocess.Popen(
                command, cwd=project.pytester.path, stdout=output, stderr=subprocess.STDOUT
            )
        _wait_for(lambda: " waits: " in said.read_text())
    finally:
        go_on.touch()
        codes = first.wait(300), second.wait(300)
    assert codes == (0, 0), said.read_text()
    pytest.LineMatcher(said.read_text().splitlines()).fnmatch_lines(
        [
            "gpubench: tiny-bf16-cpu-vllm-mtp-tp1 waits: this host is used by pid "
            f"{first.pid} (run *, server tiny-*, since *)"
        ]
    )
    starts = sorted((record["started"], record["finished"]) for record in project.cases())
    assert starts[0][1] <= starts[1][0], "they ran side by side"
    assert _leases(project) == []


def test_a_second_run_that_waits_too_long_fails_with_the_name_of_the_first(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "300")
    first = subprocess.Popen(
        project.command("benchmarks", "-k", "mtp"),
        cwd=project.pytester.path,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(lambda: _leases(project))
        second = project.run("benchmarks", "-k", "mtp", "--gpubench-start-timeout=1")
    finally:
        first.send_signal(signal.SIGTERM)
        first.wait(300)
    assert second.ret == pytest.ExitCode.TESTS_FAILED
    second.stdout.fnmatch_lines(
        [
            f"*not started, after 1 s of waiting: this host is used by pid {first.pid} "
            "(run *host-busy, infrastructure*"
        ]
    )
    assert _is_free(project)
    assert _leases(project) == []


@pytest.mark.usefixtures("canned")
def test_the_next_run_clears_away_what_a_killed_one_left(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "300")
    first = subprocess.Popen(
        project.command("benchmarks", "-k", "mtp"),
        cwd=project.pytester.path,
        stdout=subprocess.DEVNULL,
    )
    lease = project.pytester.path / "leases" / "host.lease"
    _wait_for(lambda: _named(lease) >= 4)
    guard = json.loads(lease.read_text())["processes"][0]["pid"]
    for pid in (first.pid, guard):  # the guard would end the server: this is the worst case
        os.kill(pid, signal.SIGKILL)
    first.wait()
    assert not _is_free(project), "nothing was left to clear away"
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "0.05")
    second = project.run("benchmarks", "-k", "mtp")
    assert second.ret == 0, second.stdout.str()
    second.stdout.fnmatch_lines(
        [
            f"gpubench: killed what run * (its pytest, pid {first.pid}, is gone) left "
            "behind on this host: *"
        ]
    )
    assert _is_free(project)
    assert _leases(project) == []


def _named(lease: Path) -> int:
    try:
        return len(json.loads(lease.read_text())["processes"])
    except (OSError, ValueError):
        return 0
