"""Leases with real files, locks and processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_gpubench.host.gpus.inventory import Gpu, GpuProcess
from pytest_gpubench.host.leases.broker import Broker, Lease
from pytest_gpubench.host.leases.choice import Wanted
from pytest_gpubench.host.leases.lease_file import lease_folder
from pytest_gpubench.host.leases.owners import ProcessId, identify, is_alive, kill_all, lock_holders
from pytest_gpubench.model.failures import BenchmarkError

GIB = 1 << 30
GPUS = tuple(
    Gpu(index, f"GPU-{index}", "NVIDIA H100 80GB HBM3", 80 * GIB, GIB // 2) for index in range(4)
)
SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
OWNER = """
import os, subprocess, sys, time
from pathlib import Path
from pytest_gpubench.host.leases.broker import Broker
from pytest_gpubench.host.leases.choice import Wanted
folder, inherit = Path(sys.argv[1]), sys.argv[2] == "inherit"
lease = Broker(folder).acquire(Wanted("server", "dead-run"), timeout=60)
words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
heir = subprocess.Popen(words, pass_fds=lease.fds, stdout=subprocess.PIPE)
heir.stdout.readline()
lease.name_processes()
if not inherit:  # what is named in the lease without holding it: as workers that were spawned and not forked
    files, lease._files = lease._files, []
    for file in files:
        file.close()
    subprocess.run(["true"])
print(heir.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "leases"
    path.mkdir()
    return path


@pytest.fixture
def run_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(words, pass_fds=fds, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wanted(
    server: str = "server", *, exclusive: bool = True, gpus: int = 0, run: str = "run-1"
) -> Wanted:
    return Wanted(server, run, exclusive, gpus)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.lease"))


def _take(
    folder: Path,
    wanted: Wanted,
    timeout: float = 0.0,
    gpus: tuple[Gpu, ...] = GPUS,
    **seconds: float,
) -> Lease:
    return Broker(folder).acquire(
        wanted, timeout=timeout, gpus=lambda: gpus, poll_seconds=0.05, **seconds
    )


def test_all_devices_of_a_server_are_taken_at_once_and_all_given_back(folder: Path) -> None:
    lease = _take(folder, _wanted(gpus=2))
    assert _names(folder) == ["gpu-GPU-0.lease", "gpu-GPU-1.lease", "host.lease"]
    said = json.loads((folder / "gpu-GPU-1.lease").read_text())
    assert said["owner"]["pid"] == os.getpid()
    assert (said["run"], said["server"], said["exclusive"]) == ("run-1", "server", True)
    assert len(lease.fds) == 3
    lease.release()
    lease.release()
    assert _names(folder) == []


def test_a_second_exclusive_server_waits_and_then_fails_naming_the_first(folder: Path) -> None:
    first = _take(folder, _wanted("first"))
    heard: list[str] = []
    with pytest.raises(BenchmarkError) as caught:
        Broker(folder, notify=heard.append).acquire(
            _wanted("second", run="run-2"), timeout=0.3, poll_seconds=0.05
        )
    failure = caught.value.failure
    assert (failure.cause, failure.failure_class) == ("host-busy", "infrastructure")
    assert f"pid {os.getpid()} (run run-1, server first, since" in failure.summary
    assert len(heard) == 1, "one sentence however long it waits"
    assert heard[0].startswith("second waits: this host is used by pid ")
    first.release()
    _take(folder, _wanted("second", run="run-2")).release()


def test_a_waiting_server_gets_its_turn(folder: Path) -> None:
    first = _take(folder, _wanted("first"))
    got: list[Lease] = []
    waiter = threading.Thread(
        target=lambda: got.append(_take(folder, _wanted("second", run="run-2"), timeout=120))
    )
    waiter.start()
    time.sleep(0.2)
    assert not got
    first.release()
    waiter.join(120)
    assert got
    got[0].release()


def test_servers_that_are_not_exclusive_share_the_host_on_gpus_of_their_own(folder: Path) -> None:
    first = _take(folder, _wanted("first", exclusive=False, gpus=2))
    second = _take(folder, _wanted("second", exclusive=False, gpus=2))
    assert {gpu.uuid for gpu in first.grant.gpus}.isdisjoint(gpu.uuid for gpu in second.grant.gpus)
    with pytest.raises(BenchmarkError, match=r"GPU 0 is used by pid \d+ \(run run-1, server first"):
        _take(folder, _wanted("third", exclusive=False, gpus=1))
    with pytest.raises(BenchmarkError, match="this host is used by"):
        _take(folder, _wanted("alone", gpus=1))
    assert first.co_tenancy() == {
        "exclusive": False,
        "gpus": ["GPU-0", "GPU-1"],
        "cpus": None,
        "neighbours": [{"run": "run-1", "server": "second", "units": ["gpu-GPU-2", "gpu-GPU-3"]}],
    }
    second.release()
    assert first.co_tenancy()["neighbours"], "whoever was seen once stays in the facts"
    first.release()
    assert _names(folder) == []


def test_servers_that_share_the_cores_have_a_lease_each(folder: Path) -> None:
    leases = [_take(folder, _wanted(name, exclusive=False)) for name in ("a", "b")]
    assert len([name for name in _names(folder) if name.startswith("cpu-shared-")]) == 2
    assert [entry["server"] for entry in leases[0].co_tenancy()["neighbours"]] == ["b"]
    for lease in leases:
        lease.release()


def test_a_foreign_process_on_the_gpu_is_waited_for_and_named(folder: Path) -> None:
    foreign = replace(GPUS[0], memory_used=9 * GIB, processes=(GpuProcess(os.getpid()),))
    with pytest.raises(BenchmarkError) as caught:
        _take(folder, _wanted(gpus=1), gpus=(foreign,))
    assert (
        f"GPU 0 (GPU-0) has 9.0 GiB in use by pid {os.getpid()} (" in caught.value.failure.summary
    )
    assert "CUDA_VISIBLE_DEVICES" in caught.value.failure.remedy
    assert _names(folder) == []


def test_the_lease_lives_as_long_as_the_process_that_inherited_it(
    folder: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    lease = _take(folder, _wanted("first"))
    heir = run_python(*SLEEP, fds=lease.fds)
    lease.release()  # as after a stop that could not end every process
    assert _names(folder) != []
    with pytest.raises(BenchmarkError, match="server first"):
        _take(folder, _wanted("second"))
    heir.kill()
    heir.wait()
    _take(folder, _wanted("second")).release()
    assert _names(folder) == []


def test_the_tree_of_a_server_is_named_in_its_lease(
    folder: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    other = run_python(*SLEEP)
    lease = _take(folder, _wanted())
    nest = f"import subprocess, sys; subprocess.Popen({SLEEP!r}).wait()"
    with lease.naming():
        heir = run_python(sys.executable, "-c", nest, fds=lease.fds)
        assert heir.stdout is not None
        heir.stdout.readline()
    named = json.loads((folder / "host.lease").read_text())["processes"]
    assert named[0]["pid"] == heir.pid
    assert len(named) == 2, "the child of the heir, which inherited nothing"
    assert other.pid not in {process["pid"] for process in named}
    kill_all([ProcessId(process["pid"], process["start"]) for process in named])
    lease.release()


@pytest.mark.parametrize("how", ["inherit", "named"])
def test_strays_of_a_dead_owner_are_killed_by_the_next_run(
    folder: Path, how: str, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = run_python(sys.executable, "-c", OWNER, str(folder), how)
    assert owner.stdout is not None
    stray = identify(int(owner.stdout.readline()))
    assert stray is not None
    if how == "inherit":
        with pytest.raises(BenchmarkError, match=r"run dead-run, server server"):
            _take(folder, _wanted("next", run="run-2"))
    owner.kill()
    owner.wait()
    heard: list[str] = []
    broker = Broker(folder, notify=heard.append)
    lease = broker.acquire(
        _wanted("next", run="run-2"), timeout=120, orphan_seconds=0.2, poll_seconds=0.05
    )
    assert not is_alive(stray)
    assert any(f"({stray.pid})" in text and "dead-run" in text for text in heard)
    lease.release()
    assert _names(folder) == []


def test_processes_of_a_dead_owner_get_the_time_to_end_by_themselves(
    folder: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = run_python(sys.executable, "-c", OWNER, str(folder), "inherit")
    assert owner.stdout is not None
    heir = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    with pytest.raises(BenchmarkError, match="whose pytest has died"):
        _take(folder, _wanted("next"), timeout=0.3, orphan_seconds=60)
    assert identify(heir) is not None
    os.kill(heir, signal.SIGKILL)


def test_a_lease_of_a_pid_that_was_used_again_kills_nobody(
    folder: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    bystander = run_python(*SLEEP)
    lease = _take(folder, _wanted())
    text = (folder / "host.lease").read_text()
    lease.release()
    stale = json.loads(text) | {"owner": {"pid": bystander.pid, "start": 1, "name": "python"}}
    stale["processes"] = [
        {"pid": bystander.pid, "start": 1, "name": "python"},
        {"pid": os.getpid(), "start": 1, "name": "x"},
    ]
    (folder / "host.lease").write_text(json.dumps(stale))
    _take(folder, _wanted()).release()
    assert bystander.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": 3}', '{"owner": {"pid": 1}}', "\0\0\0"])
def test_a_damaged_lease_stops_nobody(folder: Path, text: str) -> None:
    (folder / "gpu-GPU-0.lease").write_text(text)
    (folder / "host.lease").write_text(text)
    _take(folder, _wanted(gpus=1)).release()
    assert _names(folder) == []


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        "NaN",
        json.dumps({"owner": {"pid": -1, "start": 0, "name": ""}, "cpus": [], "processes": []}),
        "x" * 3_000_000,
        b"\xff\xfe\x00",
    ],
    ids=lambda content: repr(content[:8]),
)
def test_no_text_of_a_lease_is_too_strange(folder: Path, content: str | bytes) -> None:
    for name in ("host", "gpu-GPU-0"):
        (folder / f"{name}.lease").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    _take(folder, _wanted(gpus=1)).release()
    assert _names(folder) == []


@pytest.mark.parametrize(
    "change",
    [
        {"owner": {"pid": -1, "start": 1, "name": "x"}},
        {"owner": {"pid": 0, "start": 1, "name": "x"}},
        {"owner": {"pid": True, "start": 1, "name": "x"}},
        {"owner": {"pid": "1", "start": 1, "name": "x"}},
        {"owner": {"pid": 10**400, "start": 1, "name": "x"}},
        {"processes": [{"pid": -1, "start": 1, "name": "x"}]},
        {"processes": 5},
        {"cpus": "0-3"},
        {"cpus": [[]]},
        {"run": 7},
        {"exclusive": "yes"},
        {"place": None},
    ],
)
def test_a_held_lease_of_a_wrong_shape_is_held_by_somebody_unknown(
    folder: Path, change: dict[str, object]
) -> None:
    lease = _take(folder, _wanted())
    path = folder / "host.lease"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BenchmarkError, match="unknown"):
        _take(folder, _wanted("second"))
    lease.release()


def _strange_files(folder: Path, name: str) -> Iterator[Path]:
    """A path of this name as everything but a file, one after another."""
    path = folder / f"{name}.lease"
    path.mkdir()
    yield path
    path.rmdir()
    os.mkfifo(path)
    yield path
    path.unlink()
    for target in (folder / "nowhere", folder / "broker.lock"):
        path.symlink_to(target)
        yield path
        path.unlink()


def test_what_is_no_file_is_no_lease(folder: Path) -> None:
    _take(folder, _wanted()).release()
    for path in _strange_files(folder, "gpu-GPU-9"):
        _take(folder, _wanted(gpus=1)).release()
        assert os.path.lexists(path)


def test_what_is_in_the_place_of_a_lease_is_a_sentence(folder: Path) -> None:
    _take(folder, _wanted()).release()
    for _ in _strange_files(folder, "host"):
        with pytest.raises(
            BenchmarkError, match=r"the leases of this host cannot be looked at: .*host\.lease: "
        ) as found:
            _take(folder, _wanted())
        assert (found.value.failure.cause, found.value.failure.failure_class) == (
            "leases-unusable",
            "infrastructure",
        )
    _take(folder, _wanted()).release()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_lock_counts_even_where_its_file_says_nothing(folder: Path, exclusive: bool) -> None:
    lease = _take(folder, _wanted(exclusive=True))
    for path in folder.glob("*.lease"):
        path.write_text("")
    with pytest.raises(BenchmarkError, match=rf"host.lease is locked by pid {os.getpid()} \("):
        _take(folder, _wanted("second", exclusive=exclusive))
    lease.release()
    _take(folder, _wanted("second", exclusive=exclusive)).release()


def test_killing_spares_this_process_and_its_parents() -> None:
    own = [one for one in map(identify, (os.getpid(), os.getppid())) if one is not None]
    assert len(own) == 2
    assert kill_all([one for one in own if one.pid == os.getpid()]) == []
    assert all(map(is_alive, own))


def test_who_holds_a_lock_is_told_from_who_only_reads(
    tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    path = tmp_path / "x.lease"
    with path.open("w") as file:
        assert lock_holders(path) == []
        fcntl.flock(file, fcntl.LOCK_EX)
        heir = run_python(*SLEEP, fds=(file.fileno(),))
        assert sorted(lock_holders(path)) == sorted([os.getpid(), heir.pid])
        reader = run_python(
            sys.executable,
            "-c",
            "import sys, time; f = open(sys.argv[1]); print(flush=True); time.sleep(600)",
            str(path),
        )
        assert reader.stdout is not None
        reader.stdout.readline()
        assert lock_holders(path, among=[reader.pid]) == []
    assert lock_holders(path) == [heir.pid]


def test_a_clock_jump_does_not_change_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identify(os.getpid())
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert identify(os.getpid()) == before


def test_the_lease_folder_is_the_users_own(tmp_path: Path) -> None:
    folder = lease_folder(
        {"GPUBENCH_LEASE_DIR": str(tmp_path / "a" / "b"), "TMPDIR": "/nonexistent"}
    )
    assert folder == tmp_path / "a" / "b"
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(folder)
    for unusable in (tmp_path / "link", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(BenchmarkError, match="GPUBENCH_LEASE_DIR"):
            lease_folder({"GPUBENCH_LEASE_DIR": str(unusable)})


def test_a_broker_that_never_answers_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("pytest_gpubench.host.leases.broker._BROKER_SECONDS", 0.2)
    monkeypatch.setattr("pytest_gpubench.host.leases.broker._RELEASE_SECONDS", 0.2)
    lease = _take(folder, _wanted())
    with FileLock(folder / "broker.lock"):
        with pytest.raises(
            BenchmarkError, match=r"another process has held .*broker.lock for more than 0 s"
        ):
            _take(folder, _wanted())
        lease.release()
    assert _names(folder) != [], "the files stay where the broker could not be asked"
    _take(folder, _wanted()).release()
    assert _names(folder) == []


def test_a_hundred_leases_leave_no_descriptor(folder: Path) -> None:
    before, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for number in range(100):
        lease = _take(folder, _wanted(exclusive=number % 2 == 0, gpus=2))
        with lease.naming():
            pass
        lease.release()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert threading.active_count() <= threads
