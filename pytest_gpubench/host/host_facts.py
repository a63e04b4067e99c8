"""Facts of this host and what is installed for records: what may explain a number later. Plain JSON
values, no secret, nothing that changes by itself."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytest_gpubench._version import __version__
from pytest_gpubench.host.gpus.inventory import Inventory
from pytest_gpubench.model.grouping import grouped

_ROOT = Path("/")
_V1_UNLIMITED = 1 << 60
_CLIENT_DISTRIBUTIONS = (
    "openai",
    "pytest",
    "pytest-xdist",
    "pydantic",
    "numpy",
    "uvloop",
    "huggingface-hub",
    "nvidia-ml-py",
)


def host_facts(inventory: Inventory | None = None, *, root: Path = _ROOT) -> dict[str, Any]:
    """CPU, memory, limits, kernel, Python and GPUs of this host, as this process sees them.

    Memory in bytes, CPU limits in cores, power in watts; None where unlimited or unknown.

    Args:
        inventory: GPUs, if they were read.
        root: where ``/proc`` and ``/sys`` are (for tests).
    """
    import psutil

    inventory = inventory or Inventory(reason="not read")
    cpu_limit, memory_limit = cgroup_limits(root)
    return {
        "hostname": socket.gethostname(),
        "os": _os_name(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu": {
            "model": cpu_model(root),
            "cores": psutil.cpu_count(logical=False),
            "threads": psutil.cpu_count(),
            "affinity": ranges(sorted(os.sched_getaffinity(0))),
            "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
            "cgroup_limit": cpu_limit,
        },
        "memory": {"total": psutil.virtual_memory().total, "cgroup_limit": memory_limit},
        "driver": inventory.driver or None,
        "gpus": [
            {
                "index": gpu.index,
                "uuid": gpu.uuid,
                "name": gpu.name,
                "hardware": gpu.hardware.key if gpu.hardware else None,
                "memory_total": gpu.memory_total,
                "power_limit": gpu.power_limit,
            }
            for gpu in inventory.gpus
        ],
        "no_gpus_because": inventory.reason or None,
    }


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as the kernel lists CPUs: ``0-3,8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join("-".join(map(str, dict.fromkeys(ends))) for ends in parts)


def cpu_model(root: Path = _ROOT) -> str:
    """The processor's product name, else what kind it is."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def physical_cores(
    cpus: Iterable[int] | None = None, *, root: Path = _ROOT
) -> tuple[tuple[int, ...], ...]:
    """Logical CPUs by physical core, in ascending order; where the kernel does not tell, every
    logical CPU is a core.

    Args:
        cpus: logical CPUs to look at; None: those that this process may run on.
        root: where ``/sys`` is (for tests).
    """

    def siblings(cpu: int) -> str:
        place = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            return place.read_text().strip()
        except OSError:
            return str(cpu)

    allowed = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
    return tuple(sorted(map(tuple, grouped(allowed, siblings).values())))


def cgroup_limits(root: Path = _ROOT) -> tuple[float | None, int | None]:
    """CPU limit in cores and memory limit in bytes that control groups (version 2 or 1) set on this
    process; None is unlimited."""
    groups: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        groups.update(dict.fromkeys(controllers.split(","), path))
    top = root / "sys/fs/cgroup"
    cpu: list[float] = []
    memory: list[int] = []
    for folder in _upwards(top, groups.get("", "/")):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cpu.append(int(quota) / int(period))
        limit = _read(folder / "memory.max")
        if limit.isdigit():
            memory.append(int(limit))
    for folder in _upwards(top / "cpu", groups.get("cpu", "/")):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            cpu.append(int(quota) / int(period))
    for folder in _upwards(top / "memory", groups.get("memory", "/")):
        limit = _read(folder / "memory.limit_in_bytes")
        if limit.isdigit() and int(limit) < _V1_UNLIMITED:
            memory.append(int(limit))
    return min(cpu, default=None), min(memory, default=None)


def _upwards(top: Path, path: str) -> list[Path]:
    """The group's folder and those above it; in a container the path may not exist below the mount,
    which is then the group."""
    folder = top / path.lstrip("/")
    return [
        folder,
        *(parent for parent in folder.parents if parent == top or top in parent.parents),
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def client_versions() -> dict[str, str]:
    """Versions of the plugin and of what measures with it; what is not installed is left out."""
    versions = {"pytest-gpubench": __version__, "python": sys.version.split()[0]}
    for name in _CLIENT_DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
