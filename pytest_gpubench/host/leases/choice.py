"""Which GPUs or cores a server gets, or what it waits for; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.host.host_facts import ranges
from pytest_gpubench.host.leases.lease_file import HOST, Holder

GIB = 1 << 30
_RETURNED_WITHIN = GIB // 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a server asks this host for."""

    server: str
    run: str
    exclusive: bool = True
    """Nothing else of ours on this host meanwhile."""
    gpus: int = 0
    """0: a CPU engine."""
    ranks: int = 1
    """Processes of a CPU engine that compute, each on cores of its own."""
    cores: tuple[tuple[int, ...], ...] = ()
    """Physical cores of a CPU engine that does not bind its own threads, each as its logical
    CPUs."""
    side_by_side: int = 1
    """Servers that this run starts at the same time at most: the cores are divided by it."""
    pid: int = 0
    """Of the process that asks."""

    def will_end(self, holder: Holder) -> bool:
        """Whether a holder is another worker of the same run: however long its cases take, it is
        not in trouble."""
        return holder.run == self.run and holder.owner.pid != self.pid


@dataclass(frozen=True, slots=True)
class Grant:
    """What a server gets."""

    units: tuple[str, ...]
    """Names of its leases, apart from the host's."""
    gpus: tuple[Gpu, ...] = ()
    """As they were before the start."""
    cores: tuple[tuple[int, ...], ...] = ()
    """Cores of its own; empty: it shares all of them."""

    @property
    def cpus(self) -> tuple[int, ...]:
        return tuple(sorted(cpu for core in self.cores for cpu in core))


@dataclass(frozen=True, slots=True)
class Blocked:
    """What a server waits for."""

    reasons: tuple[str, ...]
    """Sentences without an end, each about one holder or user."""
    who: frozenset[int]
    """Pids behind the reasons: a new sentence is worth saying only when they change."""
    own_run: bool
    """Whether only servers of the same run are in the way: they will end."""


def choose(
    wanted: Wanted, held: Sequence[Holder], gpus: Sequence[Gpu], name: Callable[[int], str] = str
) -> Grant | Blocked:
    """Decide.

    Args:
        held: every lease that somebody holds.
        gpus: the GPUs that this server may use, as they are now.
        name: a process in words, for sentences.
    """
    in_the_way = held if wanted.exclusive else [holder for holder in held if holder.unit == HOST]
    if in_the_way:
        return _blocked_by(wanted, in_the_way, "this host is used by ")
    if wanted.gpus:
        return _choose_gpus(wanted, held, gpus, name)
    return _choose_cores(wanted, held)


def _choose_gpus(
    wanted: Wanted, held: Sequence[Holder], gpus: Sequence[Gpu], name: Callable[[int], str]
) -> Grant | Blocked:
    holders = {holder.unit: holder for holder in held}
    free: list[Gpu] = []
    reasons: list[str] = []
    who: set[int] = set()
    coming = 0
    for gpu in gpus:
        holder = holders.get(gpu_unit(gpu))
        foreign = foreign_use(gpu, name)
        if holder is not None:
            reasons.append(f"GPU {gpu.index} is used by {holder}")
            who.add(holder.owner.pid)
            coming += wanted.will_end(holder)
        elif foreign is not None:
            reasons.append(foreign)
            who.update(process.pid for process in gpu.processes)
        else:
            free.append(gpu)
    if len(free) < wanted.gpus:
        reasons = reasons or ["the driver lists no GPU of its kind now"]
        return Blocked(tuple(reasons), frozenset(who), own_run=len(free) + coming >= wanted.gpus)
    chosen = _aligned(list(gpus), free, wanted.gpus)
    return Grant(tuple(gpu_unit(gpu) for gpu in chosen), tuple(chosen))


def _aligned(every: list[Gpu], free: list[Gpu], count: int) -> list[Gpu]:
    """A block of neighbours that starts at a multiple of its size, which is how nodes group GPUs by
    switch and socket."""
    for first in range(0, len(every) - count + 1, count):
        block = every[first : first + count]
        if all(gpu in free for gpu in block):
            return block
    return free[:count]


def _choose_cores(wanted: Wanted, held: Sequence[Holder]) -> Grant | Blocked:
    size = len(wanted.cores) // max(wanted.side_by_side, 1)
    if wanted.exclusive or wanted.side_by_side < 2 or size < wanted.ranks:
        return Grant(("cpu-shared",))
    taken = {cpu: holder for holder in held for cpu in holder.cpus}
    free = [core for core in wanted.cores if taken.keys().isdisjoint(core)]
    if len(free) < size:
        return _blocked_by(wanted, list(dict.fromkeys(taken.values())), "cores are used by ")
    slots = [
        wanted.cores[first : first + size] for first in range(0, len(wanted.cores) - size + 1, size)
    ]
    chosen = next(
        (slot for slot in slots if all(core in free for core in slot)), tuple(free[:size])
    )
    return Grant(
        (f"cpu-{ranges(sorted(cpu for core in chosen for cpu in core))}",), cores=tuple(chosen)
    )


def _blocked_by(wanted: Wanted, holders: Sequence[Holder], words: str) -> Blocked:
    reasons = dict.fromkeys(f"{words}{holder}" for holder in holders)
    return Blocked(
        tuple(reasons),
        frozenset(holder.owner.pid for holder in holders),
        all(map(wanted.will_end, holders)),
    )


def gpu_unit(gpu: Gpu) -> str:
    """The name of a GPU's lease."""
    return f"gpu-{gpu.uuid}"


def foreign_use(gpu: Gpu, name: Callable[[int], str] = str) -> str | None:
    """Who uses a GPU that nobody has leased, in words; None where it is free.

    In a container the driver may hide the processes; memory in use tells of them all the same. An
    idle H100 shows 0.47 GiB, one with a bare CUDA context 1.0 GiB.
    """
    limit = max(GIB * 3 // 4, gpu.memory_total // 100)
    if not gpu.processes and gpu.memory_used <= limit:
        return None
    who = (
        ", ".join(name(process.pid) for process in gpu.processes)
        or "a process that cannot be seen from here"
    )
    return (
        f"GPU {gpu.index} ({gpu.uuid}) has {gpu.memory_used / GIB:.1f} GiB in use by {who}, "
        "outside pytest-gpubench"
    )


def memory_not_returned(before: Sequence[Gpu], now: Sequence[Gpu]) -> list[str]:
    """Sentences about GPUs whose memory is not back at its level from before a start (up to 0.25
    GiB); empty if all is well."""
    current = {gpu.uuid: gpu for gpu in now}
    left = [(gpu, current[gpu.uuid]) for gpu in before if gpu.uuid in current]
    return [
        (
            f"GPU {after.index} has {after.memory_used / GIB:.1f} GiB in use, "
            f"{gpu.memory_used / GIB:.1f} GiB before the start"
        )
        for gpu, after in left
        if after.memory_used > gpu.memory_used + _RETURNED_WITHIN
    ]


def server_env(
    grant: Grant, dialect: Dialect, engine_version: str | None, ranks: int = 1
) -> dict[str, str]:
    """The environment that keeps a server on what it was granted.

    NVIDIA's GPUs go by UUID; by index in the order of the PCI bus where the engine is older than
    the first version proven. AMD's go by HIP's index, as its documentation has it, in both
    variables: engines for ROCm read either, and some refuse two that differ.
    """
    if grant.gpus and grant.gpus[0].platform == "rocm":
        indices = ",".join(str(gpu.index) for gpu in grant.gpus)
        return {"HIP_VISIBLE_DEVICES": indices, "CUDA_VISIBLE_DEVICES": indices}
    if grant.gpus:
        if _takes_uuids(dialect, engine_version):
            return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in grant.gpus)}
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(str(gpu.index) for gpu in grant.gpus),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }
    if not grant.cores or not dialect.thread_places:
        return {}
    # One thread per physical core; cores that do not divide by the ranks
    # stay idle.
    per_rank = len(grant.cores) // ranks
    threads = [core[-1] for core in grant.cores]
    return {
        dialect.thread_places: "|".join(
            ranges(sorted(threads[rank * per_rank : (rank + 1) * per_rank]))
            for rank in range(ranks)
        )
    }


def _takes_uuids(dialect: Dialect, engine_version: str | None) -> bool:
    if engine_version is None or not dialect.uuids_from:
        return True
    try:
        return Version(engine_version) >= Version(dialect.uuids_from)
    except InvalidVersion:
        return True
