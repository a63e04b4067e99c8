from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.host.gpus.inventory import Gpu, GpuProcess
from pytest_gpubench.host.host_facts import physical_cores
from pytest_gpubench.host.leases.choice import (
    Blocked,
    Grant,
    Wanted,
    choose,
    foreign_use,
    gpu_unit,
    memory_not_returned,
    server_env,
)
from pytest_gpubench.host.leases.lease_file import Holder
from pytest_gpubench.host.leases.owners import ProcessId, this_place

GIB = 1 << 30
GPUS = tuple(
    Gpu(index, f"GPU-{index}", "NVIDIA H100 80GB HBM3", 80 * GIB, GIB // 2) for index in range(8)
)
CORES = tuple((core, core + 8) for core in range(8))


def _holder(
    unit: str, *, run: str = "theirs", pid: int = 4711, cpus: tuple[int, ...] = ()
) -> Holder:
    return Holder(
        unit,
        ProcessId(pid, 1),
        this_place(),
        run,
        "some-server",
        "12:00",
        exclusive=unit == "host",
        cpus=cpus,
    )


def _wanted(
    gpus: int = 0, *, exclusive: bool = False, side_by_side: int = 1, ranks: int = 1
) -> Wanted:
    cores = () if gpus else CORES
    return Wanted("server", "ours", exclusive, gpus, ranks, cores, side_by_side, pid=1)


def _granted(found: Grant | Blocked) -> Grant:
    assert isinstance(found, Grant), found
    return found


def _blocked(found: Grant | Blocked) -> Blocked:
    assert isinstance(found, Blocked), found
    return found


def test_gpus_come_as_an_aligned_block_and_else_as_they_are_free() -> None:
    first = _granted(choose(_wanted(4), [_holder("gpu-GPU-1")], GPUS))
    assert [gpu.index for gpu in first.gpus] == [4, 5, 6, 7]
    held = [_holder(f"gpu-GPU-{index}") for index in (1, 6)]
    assert [gpu.index for gpu in _granted(choose(_wanted(4), held, GPUS)).gpus] == [0, 2, 3, 4]
    assert first.units == ("gpu-GPU-4", "gpu-GPU-5", "gpu-GPU-6", "gpu-GPU-7")


@given(held=st.sets(st.integers(0, 7)), foreign=st.sets(st.integers(0, 7)), count=st.integers(1, 8))
def test_a_server_gets_all_its_gpus_free_of_others_or_none(
    held: set[int], foreign: set[int], count: int
) -> None:
    gpus = [
        replace(gpu, processes=(GpuProcess(99),)) if gpu.index in foreign else gpu for gpu in GPUS
    ]
    found = choose(_wanted(count), [_holder(f"gpu-GPU-{index}") for index in held], gpus)
    free = set(range(8)) - held - foreign
    if isinstance(found, Grant):
        chosen = {gpu.index for gpu in found.gpus}
        assert len(chosen) == count
        assert chosen <= free
    else:
        assert len(free) < count
        assert len(found.reasons) == len(held | foreign)


def test_an_exclusive_server_waits_for_every_lease_and_everybody_for_an_exclusive_one() -> None:
    blocked = _blocked(choose(_wanted(1, exclusive=True), [_holder("cpu-0-3")], GPUS))
    assert blocked.reasons == (
        "this host is used by pid 4711 (run theirs, server some-server, since 12:00)",
    )
    assert not blocked.own_run
    _blocked(choose(_wanted(1), [_holder("host")], GPUS))
    _blocked(choose(_wanted(0), [_holder("host")], ()))
    _granted(choose(_wanted(1, exclusive=True), [], GPUS))


def test_waiting_for_another_worker_of_the_same_run_has_no_deadline() -> None:
    of_ours = [_holder(f"gpu-GPU-{index}", run="ours") for index in range(8)]
    assert _blocked(choose(_wanted(2), of_ours, GPUS)).own_run
    of_both = [*of_ours[:1], *(_holder(f"gpu-GPU-{index}") for index in range(1, 8))]
    assert not _blocked(choose(_wanted(2), of_both, GPUS)).own_run, "one GPU of ours is not enough"
    own_leftover = [replace(holder, owner=ProcessId(1, 1)) for holder in of_ours]
    assert not _blocked(choose(_wanted(2), own_leftover, GPUS)).own_run, (
        "waiting for oneself never ends"
    )


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (GPUS[0], None),
        (
            replace(GPUS[3], processes=(GpuProcess(99),)),
            "GPU 3 (GPU-3) has 0.5 GiB in use by <99>, outside pytest-gpubench",
        ),
        (replace(GPUS[3], memory_used=GIB * 7 // 10), None),
        (
            replace(GPUS[3], memory_used=71 * GIB),
            "GPU 3 (GPU-3) has 71.0 GiB in use by a process that cannot be seen from "
            "here, outside pytest-gpubench",
        ),
    ],
)
def test_foreign_users_of_a_gpu_are_named(gpu: Gpu, words: str | None) -> None:
    assert foreign_use(gpu, lambda pid: f"<{pid}>") == words


def test_a_foreign_user_is_waited_for_even_with_our_own_servers_beside_it() -> None:
    gpus = [replace(GPUS[0], processes=(GpuProcess(99),)), *GPUS[1:2]]
    blocked = _blocked(choose(_wanted(2), [_holder("gpu-GPU-1", run="ours")], gpus))
    assert not blocked.own_run
    assert blocked.who == {99, 4711}


def test_memory_counts_as_returned_within_a_quarter_gib() -> None:
    assert memory_not_returned(GPUS[:1], [replace(GPUS[0], memory_used=GIB // 2 + GIB // 4)]) == []
    assert memory_not_returned(GPUS[:1], [replace(GPUS[0], memory_used=3 * GIB), GPUS[1]]) == [
        "GPU 0 has 3.0 GiB in use, 0.5 GiB before the start"
    ]
    assert memory_not_returned(GPUS[:1], []) == [], (
        "a GPU that the driver no longer lists says nothing"
    )


def test_gpus_are_named_by_uuid_and_for_older_engines_by_index() -> None:
    grant = Grant(("gpu-GPU-2", "gpu-GPU-3"), GPUS[2:4])
    by_uuid = {"CUDA_VISIBLE_DEVICES": "GPU-2,GPU-3"}
    for version in (None, "0.26.0", "0.27.1rc2.dev3+g123", "a-build-of-ours"):
        assert server_env(grant, VLLM, version) == by_uuid
    assert server_env(grant, VLLM, "0.25.1") == {
        "CUDA_VISIBLE_DEVICES": "2,3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_servers_side_by_side_on_a_cpu_get_disjoint_cores() -> None:
    first = _granted(choose(_wanted(side_by_side=2), [], ()))
    assert first.cpus == (0, 1, 2, 3, 8, 9, 10, 11)
    assert first.units == ("cpu-0-3,8-11",)
    second = _granted(
        choose(_wanted(side_by_side=2), [_holder(first.units[0], cpus=first.cpus)], ())
    )
    assert not set(first.cpus) & set(second.cpus)
    held = [_holder(grant.units[0], run="ours", cpus=grant.cpus) for grant in (first, second)]
    third = _blocked(choose(_wanted(side_by_side=2), held, ()))
    assert third.own_run
    assert third.reasons == (
        "cores are used by pid 4711 (run ours, server some-server, since 12:00)",
    )


def test_a_cpu_server_shares_all_cores_where_it_cannot_have_its_own() -> None:
    for wanted in (
        _wanted(),
        _wanted(exclusive=True, side_by_side=2),
        _wanted(side_by_side=2, ranks=5),
        replace(_wanted(side_by_side=2), cores=()),
    ):
        grant = _granted(choose(wanted, [], ()))
        assert grant.units == ("cpu-shared",)
        assert server_env(grant, VLLM, "0.26.0") == {}


def test_cores_become_threads_one_per_core_in_equal_parts_for_the_ranks() -> None:
    assert server_env(Grant(("x",), cores=CORES[:4]), VLLM, None) == {
        "VLLM_CPU_OMP_THREADS_BIND": "8-11"
    }
    assert server_env(Grant(("x",), cores=((0,), (1,), (2,), (3,), (4,))), VLLM, None, 2) == {
        "VLLM_CPU_OMP_THREADS_BIND": "0-1|2-3"
    }


def test_logical_cpus_are_grouped_by_physical_core(tmp_path: Path) -> None:
    for cpu, siblings in {0: "0,2", 2: "0,2", 1: "1,3", 3: "1,3"}.items():
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert physical_cores([3, 2, 1, 0, 7], root=tmp_path) == ((0, 2), (1, 3), (7,))


def test_a_lease_is_named_after_the_gpu() -> None:
    assert gpu_unit(GPUS[5]) == "gpu-GPU-5"
