"""What a record holds: the one model by which records are read, documented (``gpubench schema
--record``) and, in the tests, held to be written.

A new field is a line here and its value where the record is made (``plugin.runner``,
``runs.servers``). Files come from anywhere: readers are lenient in what may be missing, strict in
what everything hangs on.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Identity
from pytest_gpubench.model.failures import Failure
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.specs import Launch, Topology
from pytest_gpubench.model.verdicts import Verdict


def known_numbers(metrics: object) -> object:
    """Metrics that are numbers; a metric that is none is absent, as one that is undefined."""
    if not isinstance(metrics, dict):
        return metrics if metrics is not None else {}
    return {
        str(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _or_empty(value: object) -> object:
    return {} if value is None else value


def _or_list(value: object) -> object:
    return [] if value is None else value


def _without_series(value: object) -> object:
    if not isinstance(value, dict):
        return value
    rows: dict[str, object] = {"series": (), "turns": (), "prefixes": (), "prefix_cache": {}}
    return {**value, "metrics": known_numbers(value.get("metrics")), **rows}


Numbers: TypeAlias = Annotated[dict[str, float], BeforeValidator(known_numbers)]
Facts: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_or_empty)]
Text: TypeAlias = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class Record(BaseModel):
    """What the record of a case and that of a start have in common."""

    model_config = ConfigDict(populate_by_name=True, use_attribute_docstrings=True)

    schema_: int = Field(alias="schema")
    """version of this format: 2; readers take 1 as well"""
    server: str
    """KEY of the server, as in ids and folders"""
    launch: Launch
    """which fresh start of it"""
    finished: AwareDatetime
    """when it ended"""
    failure: Failure | None = None
    """why it failed: cause, class, evidence, remedy"""
    verdict: Verdict | None = None
    """the gate's answer on all launches so far"""
    argv: list[str] | None = None
    """what started the server, secrets as `<removed>`"""
    env: Annotated[dict[str, str | None], BeforeValidator(_or_empty)] = Field(default_factory=dict)
    """its environment as far as we set it, secrets as `<removed>`"""
    engine: Facts = Field(default_factory=dict)
    """what the engine says it is: version, parallelism, backends, capture sizes, KV cache"""
    served_name: Text = ""
    """the name under which it serves the model"""
    attached: bool = False
    """whether somebody else had started it"""
    against: Facts = Field(default_factory=dict)
    """of engine B: the option, and what differs from engine A; of an engine A that the command line
    says: what differs from that of the recipes"""
    phases: Numbers = Field(default_factory=dict)
    """start-up, in seconds: process start, imports, weights, compile, KV cache, graph capture,
    ready"""
    warmup: Facts = Field(default_factory=dict)
    """what was sent before anything counted: requests, seconds, data-parallel ranks, kernels that
    were compiled meanwhile, why a part of it could not be sent"""
    times: Numbers = Field(default_factory=dict)
    """where the wall time went, in seconds: of a start `lease` (waiting for free hardware), `fetch`
    (weights), `start`, `stop`; of a case `launch` (the warm-up of its launch), `idle` (waiting for
    an idle engine), `prompts`, `warmup`, `measured`, `results` (answers read, counted again, kept),
    `questions` (of an evaluation), `load` (one that failed)"""
    checks: Facts = Field(default_factory=dict)
    """which of the recipe's wishes were compared with the engine, which hold, which cannot be
    seen"""
    memory: Facts = Field(default_factory=dict)
    """estimated weights and KV cache beside what the engine says, with relative errors"""
    gpus: Annotated[list[Any], BeforeValidator(_or_list)] = Field(default_factory=list)
    """the GPUs that it was given: UUID, name, power cap, clocks, link"""
    co_tenancy: Facts = Field(default_factory=dict)
    """what else of ours was on the host meanwhile"""
    commits: Facts = Field(default_factory=dict)
    """commit of each repository that was loaded"""
    runner: Text = ""
    """the label of `--gpubench-runner`, where one was given"""
    host: Facts = Field(default_factory=dict)
    """machine, GPUs, driver, CPU, limits"""
    versions: Facts = Field(default_factory=dict)
    """of plugin, Python and client libraries"""
    git: Facts = Field(default_factory=dict)
    """commit of the repository, and whether it was dirty"""
    gate: Facts = Field(default_factory=dict)
    """`key`: what must match to be compared; `axis`: what may differ and is told; `invalid`: why
    the launch does not count, beside the measurement's own reasons"""


class CaseRecord(Record):
    """One case on one launch: ``RUN/SERVER/WORKLOAD/LAUNCH.json``."""

    kind: Literal["case"]
    case: str
    """id of the case"""
    recipe: str
    """name of the recipe"""
    identity: Identity | None = None
    """model, precision, hardware, framework, draft and variant; since schema 2"""
    tags: tuple[str, ...] = ()
    """words of the id"""
    source: Text = ""
    """the official recipe that it follows"""
    image: Text = ""
    """the container that the run was to be in"""
    server_per: SharingPolicy = "parallelism"
    """what shared the server"""
    started: AwareDatetime | None = None
    """when it began"""
    fingerprint: str = ""
    """equal for equal server spec, workload, engine version, device, commits and way of
    measuring"""
    hardware: str = ""
    """as the recipe says"""
    topology: Topology
    """parallelism as written, with the number of GPUs"""
    workload: dict[str, Any]
    """lengths, concurrency, prompts, warm-up, dataset, template arguments, sampling, seed"""
    max_model_len: int | None = None
    """of the server"""
    findings: list[Any] = Field(default_factory=list)
    """what the doctor said beforehand"""
    metrics: Numbers = Field(default_factory=dict)
    """by name, in SI units; a metric that is undefined here is absent"""
    measurement: Annotated[Measurement | None, BeforeValidator(_without_series)] = None
    """totals, quality flags, drafting per position, send lag, CPU share of the client, the sample
    of answers that was tokenized again, times by turn and by shared prefix, what the prefix cache
    found, time series"""
    evaluation: Facts = Field(default_factory=dict)
    """of an evaluation: task, version, how it was asked, `asked` and `right` questions, the 98%
    `interval` of their share, `failures` by kind, `answers` (digest of the questions, their number,
    a bit each), what differs from the same server without a draft"""
    tool: Facts = Field(default_factory=dict)
    """of a measurement by another tool than our client: `name`, `version`, `argv` (without the
    key), `left_out` (our metrics that it has no equal of), `mapping` (ours, theirs, factor),
    `files` (its own, kept beside the record)"""
    reused_from: Text = ""
    """run in which it was measured, where this run only judged it again"""


class StartRecord(Record):
    """One start of a server: ``RUN/SERVER/init/LAUNCH.json``."""

    kind: Literal["engine-init"]
    spec: Facts = Field(default_factory=dict)
    """everything that decides the server's process"""


@cache
def record_adapter() -> TypeAdapter[CaseRecord | StartRecord]:
    """Reads either kind."""
    return TypeAdapter(Annotated[CaseRecord | StartRecord, Field(discriminator="kind")])


def record_schema() -> dict[str, Any]:
    """The JSON Schema of records."""
    return record_adapter().json_schema(mode="serialization")
