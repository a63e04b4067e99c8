from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.host.gpus.inventory import Gpu, Inventory
from pytest_gpubench.host.host_facts import cgroup_limits, host_facts, ranges


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_facts_are_plain_json_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    inventory = Inventory(
        (Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 80 << 30, 0, 700.0),), "580.82.07"
    )
    facts = host_facts(inventory)
    text = json.dumps(facts, allow_nan=False)
    assert json.loads(text) == facts
    assert "hf_verysecret" not in text
    assert facts["gpus"][0]["hardware"] == "h100"
    assert facts["driver"] == "580.82.07"
    assert facts["memory"]["total"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert facts["cpu"]["model"]
    assert facts["hostname"]


def test_facts_of_a_host_without_gpus_say_so() -> None:
    facts = host_facts(Inventory(reason="NVML: Driver Not Loaded"))
    assert facts["gpus"] == []
    assert facts["no_gpus_because"] == "NVML: Driver Not Loaded"


def test_proc_and_sys_are_read(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Xeon 9000\n",
            "sys/devices/system/node/node0/x": "",
        },
    )
    _tree(tmp_path, {"sys/devices/system/node/node1/x": ""})
    cpu = host_facts(root=tmp_path)["cpu"]
    assert cpu["model"] == "Xeon 9000"
    assert cpu["numa_nodes"] == 2


def test_cgroup_2_limits_are_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/job\n",
            f"{top}/slice/cpu.max": "150000 100000\n",
            f"{top}/slice/memory.max": "1000\n",
            f"{top}/slice/job/cpu.max": "max 100000\n",
            f"{top}/slice/job/memory.max": "2000\n",
        },
    )
    assert cgroup_limits(tmp_path) == (1.5, 1000)


def test_in_a_container_the_mount_is_the_group(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/host/path\n",
            "sys/fs/cgroup/cpu.max": "400000 100000",
            "sys/fs/cgroup/memory.max": "max",
        },
    )
    assert cgroup_limits(tmp_path) == (4.0, None)


def test_cgroup_1_limits(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "4096",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(0x7FFFFFFFFFFFF000),
        },
    )
    assert cgroup_limits(tmp_path) == (0.5, 4096)


def test_no_cgroups_are_no_limits(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path) == (None, None)
    _tree(tmp_path, {"proc/self/cgroup": "nonsense\n::\n"})
    assert cgroup_limits(tmp_path) == (None, None)


@given(st.sets(st.integers(0, 300)))
def test_ranges_name_exactly_their_numbers(numbers: set[int]) -> None:
    text = ranges(sorted(numbers))
    named: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == numbers
