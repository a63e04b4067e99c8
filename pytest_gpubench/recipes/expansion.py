"""Rows of a search space to points (the expansion of InferenceX), and what a point resolves to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pytest_gpubench.model.cases import Identity, SourcePosition
from pytest_gpubench.model.frozen import FrozenMap, freeze
from pytest_gpubench.model.rounds import AS_USUAL, Rounds
from pytest_gpubench.model.specs import ServerSpec, Topology
from pytest_gpubench.model.workload import AGENTIC, SESSIONS, Workload, contradictions
from pytest_gpubench.recipes.expressions import Value
from pytest_gpubench.recipes.problems import PointError, join_path, one_of
from pytest_gpubench.recipes.schema import ClientKeys
from pytest_gpubench.recipes.search_space import Row
from pytest_gpubench.recipes.yaml_tree import Node

DRAM_LIMIT_MIB = 2_861_022
"""InferenceX lets no host use more than these 3 TB."""
AGENTIC_SECONDS = 3600.0
"""How long InferenceX replays a trace."""
MODEL_LEN_MARGIN = 256
"""InferenceX gives every server this many tokens beyond isl + osl."""


def concurrencies(row: Row) -> tuple[int, ...]:
    """The list as written, or conc-start doubled until conc-end, which is always the last: 4 to 100
    is 4 8 16 32 64 100."""
    if row.conc_list is not None:
        return tuple(row.conc_list)
    if row.conc_start is None or row.conc_end is None:
        return ()
    return tuple(_doubled(row.conc_start, row.conc_end))


def _doubled(start: int, end: int) -> Iterator[int]:
    conc = start
    while conc < end:
        yield conc
        conc *= 2
    yield end


def topology(row: Row) -> Topology:
    """The row's parallelism; an ``ep`` that is not written is 1."""
    return Topology(
        tp=row.tp,
        pp=row.pp,
        pcp=row.pcp_size,
        dcp=row.dcp_size,
        ep=row.ep or 1,
        dp_attn=row.dp_attn,
    )


@dataclass(frozen=True, slots=True)
class Offload:
    """Where the KV blocks of an agentic row go that the GPU has no room for."""

    to: str = "none"
    """``none`` or ``dram``."""
    backend: str = ""
    dram_gb: int | None = 0
    """Memory of the host for it, in units of 10**9 bytes; None: the host's size is not known."""


def offload_error(
    offload: Offload, flags: Iterable[str], serve: Mapping[str, object], words: Sequence[str]
) -> str | None:
    """Why a server does not do what its row says of KV blocks, None if it does.

    Args:
        flags: the engine's flags that offload.
        serve: what the server is given.
        words: what it is given beside that, as it stands on the command line.
    """
    said = {word.split("=", 1)[0].removeprefix("--") for word in words if word.startswith("--")}
    said |= {flag for flag, value in serve.items() if value not in (None, False)}
    given = [flag for flag in flags if flag in said]
    if offload.to == "none" and given:
        return (
            f"the row says kv-offloading none, and {given[0]} offloads; put it under "
            "`when` with `if: kv_offloading == 'dram'`, or mend the row"
        )
    if offload.to != "none" and not given:
        known = one_of(flags) if flags else "none"
        return f"the row says kv-offloading {offload.to}, and no flag offloads (known: {known})"
    return None


def dram_budget_gb(host_mib: int, utilization: float, gpus: int, gpus_per_node: int) -> int:
    """Memory of a host that a server of so many GPUs may offload to, in whole units of 10**9 bytes
    (InferenceX's rule)."""
    usable = Decimal(min(host_mib, DRAM_LIMIT_MIB)) * 2**20 * Decimal(str(utilization))
    return int(usable * gpus / gpus_per_node / 10**9)


@dataclass(frozen=True, slots=True)
class Point:
    """A row at one concurrency, before anything is resolved."""

    topology: Topology
    isl: int
    """Of an agentic row 0, as `osl`: its traces have lengths of their own."""
    osl: int
    conc: int
    speculative: bool
    at: SourcePosition
    offload: Offload | None = None
    """Of an agentic row, and only of one."""

    @property
    def agentic(self) -> bool:
        """Whether sessions of a trace are meant, not lengths."""
        return self.offload is not None

    def names(self, hardware: str, precision: str, framework: str) -> dict[str, Value]:
        """The names of expressions that the row decides."""
        it, offload = self.topology, self.offload or Offload()
        lengths = {} if self.agentic else {"isl": self.isl, "osl": self.osl}
        dram = {} if offload.dram_gb is None else {"dram_gb": offload.dram_gb}
        return {
            **lengths, **dram, "conc": self.conc,
            "kv_offloading": offload.to, "kv_offload_backend": offload.backend,
            "tp": it.tp, "ep": it.ep, "pp": it.pp, "pcp": it.pcp, "dcp": it.dcp,
            "dp_attn": it.dp_attn, "gpus": it.gpus, "dp": it.dp,
            "tensor_parallel_size": it.tensor_parallel_size, "expert_parallel": it.expert_parallel,
            "hardware": hardware, "precision": precision, "framework": framework,
        }  # fmt: skip


PROMPTS_PER_CONC = 10
WARMUPS_PER_CONC = 2
_FLOATS = (
    "temperature",
    "range_ratio",
    "request_rate",
    "burstiness",
    "ramp",
    "duration",
    "interval",
    "think_time",
    "time_scale",
    "idle_cap",
)
"""One number is one number, written 2 or 2.0: workloads are compared and hashed."""


def given_keys(keys: ClientKeys, node: Node) -> dict[str, Any]:
    """The keys that are written, as fields of a workload (and the two counts per unit of
    concurrency)."""
    given = {
        name: value for name, value in keys.model_dump(by_alias=False).items() if value is not None
    }
    for name in _FLOATS:
        if name in given:
            given[name] = float(given[name])
    if "slo" in given:
        given["slo"] = {
            name: float(value) for name, value in given["slo"].items() if value is not None
        }
    if "dataset_file" in given and not given["dataset_file"].startswith("hf://"):
        written = node.get("dataset-file") or node
        given["dataset_file"] = str(Path(written.at.file).absolute().parent / given["dataset_file"])
    return {name: freeze(value) for name, value in given.items()}


def workload_of(
    point: Point, given: Mapping[str, Any], node: Node, path: str, max_model_len: int | None
) -> tuple[Workload, Rounds]:
    """The workload of a point, and how often it is measured.

    Args:
        given: of ``given_keys``.
        node: the section, or the recipe where it has none: where faults are placed.
        path: key path of the section.

    Raises:
        PointError: if keys contradict each other, the point's draft, or the server's context
            length.
    """
    if point.agentic:
        return _agentic(point, given), AS_USUAL
    fields = dict(given)
    written = fields.pop("rounds", None)
    rounds = AS_USUAL if written is None else Rounds.parse(str(written))
    if fields.get("profile") == "inferencex":  # the original applies a template for a draft only
        fields = {
            "api": "completions",
            "chat_template": "server" if point.speculative else "none",
            **fields,
        }
    sessions = fields.pop("sessions_per_conc", 0) * point.conc
    drained = fields.get("profile") == "inferencex" or fields.get("dataset") in ("trace", SESSIONS)
    if not drained:
        fields = {"handover": "continue", **fields}
    prompts, warmups = (
        fields.pop("prompts_per_conc", PROMPTS_PER_CONC),
        fields.pop("warmups_per_conc", WARMUPS_PER_CONC),
    )
    if fields.get("dataset") == SESSIONS and "prompts_per_conc" in given:
        words = "a trace of sessions is replayed turn by turn; write sessions-per-conc"
        path = join_path(path, "prompts-per-conc")
        raise PointError((node.get("prompts-per-conc") or node).at, path, words)
    workload = Workload(
        isl=point.isl,
        osl=point.osl,
        conc=point.conc,
        num_prompts=prompts * point.conc,
        num_warmups=warmups * point.conc,
        sessions=sessions,
        **{"slo": FrozenMap(), **fields},
    )
    fault = _fault(workload, point, max_model_len)
    if fault is not None:
        key, words = fault
        raise PointError((node.get(key) or node).at, join_path(path, key), words)
    return workload, rounds


def _agentic(point: Point, given: Mapping[str, Any]) -> Workload:
    """Of `client` only the duration counts: the trace has the rest."""
    return Workload(
        isl=0,
        osl=0,
        conc=point.conc,
        num_prompts=point.conc,
        num_warmups=0,
        dataset=AGENTIC,
        duration=given.get("duration", AGENTIC_SECONDS),
    )


def _fault(workload: Workload, point: Point, max_model_len: int | None) -> tuple[str, str] | None:
    if workload.chat_template == "none" and point.speculative:
        words = (
            "speculative decoding is measured through the chat template (acceptance on raw "
            "text means nothing); use server"
        )
        return "chat-template", words
    if (
        workload.profile == "inferencex"
        and workload.chat_template == "server"
        and not point.speculative
    ):
        return (
            "chat-template",
            "profile inferencex applies the template for a draft only; remove this "
            "key, or the profile",
        )
    needed = workload.turns * (point.isl + point.osl)
    if workload.turns > 1 and max_model_len is not None and needed > max_model_len:
        words = (
            f"{workload.turns} turns of isl {point.isl} and osl {point.osl} grow to "
            f"{needed} tokens, the server takes "
        )
        return "turns", f"{words}{max_model_len}; raise serve.max-model-len"
    return next(iter(contradictions(workload)), None)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """All of a point but its load, before sharing. Points that differ in nothing but an unread
    concurrency have one object."""

    identity: Identity
    spec: ServerSpec
    max_model_len: int | None
    """None: the engine takes the model's own."""
    runnable: bool
    why_not: str
    gates: FrozenMap


@dataclass(frozen=True, slots=True)
class Resolved:
    """A point with its own server, before sharing."""

    point: Point
    workload: Workload
    rounds: Rounds
    served: Served
