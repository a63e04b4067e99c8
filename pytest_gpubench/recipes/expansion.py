"""Rows of a search space to points (the expansion of InferenceX), and what a point resolves to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from pytest_gpubench.model.cases import Identity, SourcePosition
from pytest_gpubench.model.client_tools import DATA, INPUT_FILE, Tool, arguments_fault, key_fault
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


_BESIDE = {"mooncake": "mooncake_master"}
"""Backends that move KV blocks by a process of their own."""


@dataclass(frozen=True, slots=True)
class Offload:
    """Where the KV blocks of an agentic row go that the GPU has no room for."""

    to: str = "none"
    """``none`` or ``dram``."""
    backend: str = ""
    dram_gb: int | None = 0
    """Memory of the host for it, in units of 10**9 bytes; None: the host's size is not known."""
    router: str = ""
    """What spreads sessions over data-parallel ranks, beside the engine."""

    @property
    def beside(self) -> str:
        """What must run beside the engine and is not started here; empty: nothing."""
        return self.router or _BESIDE.get(self.backend, "")


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


_OF_TOOL = (
    *("api", "chat_template_kwargs", "ignore_eos", "temperature", "seed", "duration", "slo"),
    *("arrival", "request_rate", "burstiness"),
)
"""Fields of a workload that a tool is told."""
ONCE = Rounds(1, 1)
"""Of a trace, which the prefix cache would know in a second round."""
PROMPTS_PER_CONC = 10
WARMUPS_PER_CONC = 2
_FLOATS = (
    *("temperature", "range_ratio", "request_rate", "burstiness", "ramp", "duration", "interval"),
    *("think_time", "time_scale", "idle_cap"),
)
"""One number is one number, written 2 or 2.0: workloads are compared and hashed."""


def given_keys(keys: ClientKeys, node: Node) -> dict[str, Any]:
    """The keys that are written, as fields of a workload (and the two counts per unit of
    concurrency)."""
    given = keys.model_dump(by_alias=False, exclude_none=True)
    for name in _FLOATS:
        if name in given:
            given[name] = float(given[name])
    if "slo" in given:
        given["slo"] = {name: float(value) for name, value in given["slo"].items()}
    arguments = given.get("arguments") or {}
    if arguments.get(INPUT_FILE) and isinstance(arguments[INPUT_FILE], str):
        written = node.get("arguments") or node
        folder = Path(written.at.file).absolute().parent
        given["arguments"] = arguments | {INPUT_FILE: str(folder / arguments[INPUT_FILE])}
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
    fields = dict(given)
    tool = _tool(fields, point, node, path)
    written = fields.pop("rounds", None)
    replayed = tool is None and fields.get("dataset") == SESSIONS
    if tool is None and point.agentic and not replayed:
        return _agentic(point, given, None), AS_USUAL
    rounds = AS_USUAL if written is None else Rounds.parse(str(written))
    if replayed and written is None:
        rounds = ONCE
    if tool is not None:
        workload = _by_tool(point, fields, tool)
        if written is None and workload.traced:
            rounds = ONCE
        fault = next(iter(contradictions(workload)), None)
        if fault is not None:
            raise _wrong(node, path, *fault)
        return workload, rounds
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
    prompts = fields.pop("prompts_per_conc", PROMPTS_PER_CONC)
    warmups = fields.pop("warmups_per_conc", WARMUPS_PER_CONC)
    if fields.get("dataset") == SESSIONS and "prompts_per_conc" in given:
        words = (
            "a trace of sessions is replayed turn by turn; write sessions-per-conc, and "
            "`prompts-per-conc: null` where it is inherited"
        )
        raise _wrong(node, path, "prompts-per-conc", words)
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
        raise _wrong(node, path, *fault)
    return workload, rounds


def _wrong(node: Node, path: str, key: str, words: str) -> PointError:
    """What is wrong with a key of a section, at its place; at the section's where it is absent."""
    return PointError((node.get(key) or node).at, join_path(path, key), words)


def no_replay(point: Point, client: Node | None) -> str:
    """Why nothing replays the trace of an agentic row; empty: AIPerf or our client does, or the row
    is none."""
    if point.offload is None:
        return ""
    tool = None if client is None else client.get("tool")
    dataset = None if client is None else client.get("dataset")
    if tool is None and (dataset is None or dataset.value != SESSIONS):
        return (
            "traces of coding sessions are replayed by AIPerf: write `client: {tool: aiperf, "
            "scenario: inferencex-agentx-mvp, arguments: {public-dataset: ...}}`, or by our client "
            "where you have one: `client: {dataset: sessions, dataset-file: ...}`"
        )
    if client and tool and not any(client.get("arguments", name) for name in DATA):
        return f"AIPerf is told no trace: write {one_of(DATA)} under client.arguments"
    if point.offload.beside:
        return f"its row needs {point.offload.beside} beside the engine, which is not started here"
    return ""


def _tool(fields: dict[str, Any], point: Point, node: Node, path: str) -> Tool | None:
    """What measures in place of our client; its three keys are taken out of the fields.

    Raises:
        PointError: if it is told what it does not take, or told something without being named.
    """
    name, scenario = fields.pop("tool", None), fields.pop("scenario", "")
    told = fields.pop("arguments", None) or {}
    arguments = FrozenMap({flag: value for flag, value in told.items() if value is not None})
    if name is None:
        for key in ("scenario", "arguments"):
            if node.get(key) is not None:
                words = "is for a tool that measures in place of our client; add `tool: aiperf`"
                raise _wrong(node, path, key, words)
        return None
    tool = Tool(name, scenario, arguments)
    wrong = arguments_fault(tool)
    if wrong is not None:
        at = node.get("arguments", wrong[0]) or node.get("arguments") or node
        raise PointError(at.at, join_path(path, "arguments", wrong[0]), wrong[1])
    wrong = key_fault(tool, fields, agentic=point.agentic)
    if wrong is not None:
        raise _wrong(node, path, *wrong)
    return tool


def _by_tool(point: Point, fields: Mapping[str, Any], tool: Tool) -> Workload:
    kept = {name: fields[name] for name in _OF_TOOL if name in fields}
    if point.agentic:
        return replace(_agentic(point, fields, tool), **kept)
    prompts = fields.get("prompts_per_conc", PROMPTS_PER_CONC)
    warmups = fields.get("warmups_per_conc", WARMUPS_PER_CONC)
    if tool.brings_data:
        prompts, warmups = 1, 0
    return Workload(
        isl=point.isl,
        osl=point.osl,
        conc=point.conc,
        num_prompts=prompts * point.conc,
        num_warmups=warmups * point.conc,
        range_ratio=1.0,
        tool=tool,
        **kept,
    )


def _agentic(point: Point, given: Mapping[str, Any], tool: Tool | None) -> Workload:
    """Sessions of a trace, which has all lengths; without a tool only the duration counts."""
    return Workload(
        isl=0,
        osl=0,
        conc=point.conc,
        num_prompts=point.conc,
        num_warmups=0,
        dataset=AGENTIC,
        duration=given.get("duration", AGENTIC_SECONDS),
        range_ratio=1.0 if tool else 0.8,
        tool=tool,
    )


def _fault(workload: Workload, point: Point, max_model_len: int | None) -> tuple[str, str] | None:
    if workload.chat_template == "none" and point.speculative:
        words = (
            "speculative decoding is measured through the chat template (acceptance on raw "
            "text means nothing); use server"
        )
        return "chat-template", words
    templated = workload.profile == "inferencex" and workload.chat_template == "server"
    if templated and not point.speculative:
        words = "profile inferencex applies the template for a draft only; remove this key, or the"
        return "chat-template", f"{words} profile"
    needed = workload.turns * (point.isl + point.osl)
    if workload.turns > 1 and max_model_len is not None and needed > max_model_len:
        words = f"{workload.turns} turns of isl {point.isl} and osl {point.osl} grow to {needed}"
        takes = f"the server takes {max_model_len}; raise serve.max-model-len"
        return "turns", f"{words} tokens, {takes}"
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
