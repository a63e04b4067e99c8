"""The schema of recipe files: what may stand where. Unknown keys are errors; numbers are never read
from text.

Every key of a recipe is optional here, because a parent may supply it; `loading` checks the merged
recipe for completeness.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic_core import CoreSchema

from pytest_gpubench.dialects.registry import dialect_of, frameworks
from pytest_gpubench.model.client_tools import ToolName
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.hardware import HARDWARE, Hardware, name_words
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.recipes.evaluations import EvaluationKeys
from pytest_gpubench.recipes.fields import (
    ByteCount,
    Count,
    Factor,
    HalfWidth,
    Image,
    MetricName,
    NonNegative,
    PositiveCount,
    Ranks,
    Rate,
    Ratio,
    RoundsRange,
    Seconds,
    Section,
    Seed,
    Temperature,
    Text,
    Texts,
    Token,
    TokenCount,
    VersionSpecifier,
    Workers,
    fail,
)
from pytest_gpubench.recipes.gates import Gates
from pytest_gpubench.recipes.inheritance import BRANCHES
from pytest_gpubench.recipes.problems import did_you_mean, one_of, shown
from pytest_gpubench.recipes.search_space import AgenticCoding, FixedSeqLen, Row, Scenarios
from pytest_gpubench.recipes.server_keys import Command, SpeculativeKeys


class SourceKeys(Section):
    """What is meant of an official recipe."""

    at: Text
    """Its address, shown in reports and read by `gpubench compare-source`."""
    variant: Text | None = None
    """The official variant (default: the one that serves the same model)."""
    strategy: Text | None = None
    """The official strategy (default: the one of the row's parallelism)."""
    hardware: Text | None = None
    """The official name of the node (default: the recipe's hardware)."""
    features: list[Text] | None = None
    """Official features that are on beside those that nobody has to ask for."""

    @model_validator(mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return {"at": value} if isinstance(value, str) else value


class _OrAddress:
    """For editors: the address alone will do, too."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


Source: TypeAlias = Annotated[SourceKeys, _OrAddress()]
"""An address, or a map with what is meant of it."""


def _framework(value: Any) -> Any:
    if value not in frameworks():
        hint = did_you_mean(str(value), frameworks())
        raise fail(f"must be {one_of(frameworks())}, not {shown(value)}{hint}")
    try:
        dialect_of(value)
    except GpubenchError as error:
        raise fail(str(error)) from None
    return value


Framework = Annotated[
    str, BeforeValidator(_framework), WithJsonSchema({"enum": list(frameworks())})
]
"""The word of an engine."""


Precision = Literal["fp4", "fp6", "fp8", "fp16", "fp32", "f32", "bf16", "int4", "int8"]


class SloKeys(Section):
    """Limits of goodput, in seconds."""

    ttft: Seconds | None = None
    """Time to first token."""
    tpot: Seconds | None = None
    """Time per output token."""
    e2e: Seconds | None = None
    """End to end."""


class ClientKeys(Section):
    """How the load is made."""

    profile: Literal["gpubench", "inferencex"] | None = None
    """`inferencex`: as the original's client, random token ids to `/v1/completions`, the template
    for a draft only, a drained warm-up of which every request is prompt 0; keys that say otherwise
    are an error."""
    api: Literal["chat", "completions", "responses"] | None = None
    """`chat`: `/v1/chat/completions` (default); `completions`: `/v1/completions`; `responses`:
    `/v1/responses`."""
    chat_template: Literal["server", "none"] | None = None
    """`server`: the server's chat template (default), with `api: completions` applied beforehand;
    `none`: no template."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Arguments of the chat template, sent with every request."""
    ignore_eos: bool | None = None
    """Every answer is as long as asked (true)."""
    temperature: Temperature | None = None
    """Sampling temperature (0: greedy)."""
    range_ratio: Ratio | None = None
    """Lengths are drawn from [ratio x length, length] (0.8)."""
    prompts_per_conc: PositiveCount | None = None
    """Measured requests per unit of concurrency (10)."""
    warmups_per_conc: Count | None = None
    """Warm-up requests per unit of concurrency (2)."""
    rounds: RoundsRange | None = None
    """Measurements of a case on one launch: `3`, or `1..8`: as many as its gate needs (1..8)."""
    dataset: Literal["random", "text", "sharegpt", "jsonl", "trace", "sessions"] | None = None
    """Where prompts come from: `random` words (default), sentences of a `text`, or a file of
    conversations, requests, a trace of requests or of sessions."""
    dataset_file: Text | None = None
    """File of the dataset, relative to the recipe file, or ``hf://datasets/ORG/NAME/FILE``, which
    ``gpubench fetch`` brings; its contents belong to what makes numbers
    comparable."""
    seed: Seed | None = None
    """Seed of lengths, texts and schedules (0)."""
    arrival: Literal["closed", "constant", "poisson", "gamma", "trace"] | None = None
    """`closed`: an answer makes room for the next request (default); else a schedule that does not
    wait for the server, of `trace` the file's timestamps."""
    request_rate: Rate | None = None
    """Requests per second of `constant`, `poisson` and `gamma`; the schedule has this mean
    exactly."""
    burstiness: Factor | None = None
    """Shape of `gamma`: 1 is poisson, less comes in bursts (1)."""
    ramp: NonNegative | None = None
    """Seconds over which concurrency or rate grows, at the start of the warm-up (0)."""
    handover: Literal["drain", "continue"] | None = None
    """From warm-up to measurement: hand every slot over as it becomes free (`continue`, the
    default), or wait until the server is empty (`drain`)."""
    duration: Seconds | None = None
    """Seconds after which no measured request is sent; prompts-per-conc is then the most."""
    interval: HalfWidth | None = None
    """Stop once the 95% confidence interval of interval-metric, by batch means of C requests and at
    least ten of them, is this narrow: 0.02 is 2% to each side."""
    interval_metric: MetricName | None = None
    """The metric of `interval` (output_tput)."""
    prefix_tokens: TokenCount | None = None
    """Tokens at the start of a prompt that all prompts of its group share (0)."""
    prefix_groups: PositiveCount | None = None
    """Number of different shared prefixes (1)."""
    turns: PositiveCount | None = None
    """Requests of one conversation; later ones carry the earlier ones with recorded answers (the
    file's, or drawn text), not what the server said (1)."""
    think_time: NonNegative | None = None
    """Seconds between an answer and the next turn (0)."""
    time_scale: Factor | None = None
    """Factor on the timestamps of a trace, and on the pauses of sessions: 0.5 is twice as fast
    (1)."""
    sessions_per_conc: PositiveCount | None = None
    """Sessions of a trace that are replayed, per unit of concurrency (all, whatever the
    concurrency)."""
    idle_cap: Seconds | None = None
    """Seconds that a pause in a session lasts at most (as long as the trace says)."""
    block_tokens: PositiveCount | None = None
    """Tokens of a block that `hash_ids` of a trace of sessions name (512)."""
    workers: Workers | None = None
    """Processes that share the load (1)."""
    slo: SloKeys | None = None
    """Limits of goodput in seconds: any of ttft, tpot, e2e."""
    tool: ToolName | None = None
    """`aiperf`: AIPerf measures in place of our client, in an environment of its own."""
    scenario: Text | None = None
    """A named set of locked settings of the tool, such as `inferencex-agentx-mvp`."""
    arguments: dict[str, Any] | None = None
    """Further flags of the tool, without dashes; null takes one away."""


class Laid(Section):
    """The keys that a `when` part may lay over the recipe."""

    image: Image | None = None
    """The environment that the run must already be in; matrix and Slurm jobs use it as the
    container."""
    model: Text | None = None
    """Repository on the Hub, or a folder."""
    serve: dict[str, Any] | None = None
    """Flags of the server without dashes. true: --flag, false: --no-flag, map: one JSON value,
    list: --flag a b."""
    speculative: SpeculativeKeys | None = None
    """The draft, for rows with `spec-decoding: mtp`."""
    env: dict[str, Any] | None = None
    """Environment of the server: text or integer; null unsets; {from: NAME, default: X} reads the
    host's."""
    client: ClientKeys | None = None
    """How the load is made."""
    gates: Gates | None = None
    """Metric to tolerance (5%), to {tolerance, absolute, at-least, at-most}, or to false."""
    requires: dict[str, VersionSpecifier] | None = None
    """Versions of the engine, its distribution to a specifier; checked before the launch."""
    plan_only: Text | None = None
    """Why these cases are planned and never run, for rows of others that are known not to start."""


def _condition(value: Any) -> Any:
    if not isinstance(value, str | bool):
        raise fail("must be a condition such as `dp_attn` or `conc >= 64`")
    return value


Condition = Annotated[
    Any, BeforeValidator(_condition), WithJsonSchema({"type": ["string", "boolean"]})
]


class When(Laid):
    """A part that is laid over the recipe for the cases where its condition holds: one of `if`,
    `elif` and `else`."""

    if_: Condition | None = None
    """Condition over the case's names, such as `dp_attn` or `conc >= 64`."""
    elif_: Condition | None = None
    """As `if`, where no part before it of the same chain holds."""
    else_: Literal[True] | None = None
    """Where none of the chain before it holds: `else: true`."""

    @model_validator(mode="after")
    def _one_branch(self) -> When:
        said = [name for name in BRANCHES if getattr(self, f"{name}_") is not None]
        if not said:
            raise fail("missing key 'if'; add it (or `elif`, or `else: true`)")
        if len(said) > 1:
            raise fail(f"{' and '.join(said)} exclude each other; keep one")
        return self


class Facts(Section):
    """What the model's files would say, for a doctor without them; files that are there count."""

    config: dict[str, Any] | None = None
    """Keys of the model's config.json, as they stand there (`num_attention_heads`, ...)."""
    draft_config: dict[str, Any] | None = None
    """Keys of the draft's config.json."""
    weight_bytes: ByteCount | None = None
    """Size of the model's weight files, such as 57.3e9."""


class Recipe(Laid):
    """One entry: a superset of an InferenceX master entry."""

    extends: Texts | None = None
    """A recipe, a template, or a list of them: maps merge, lists replace, null removes, `when`
    concatenates."""
    revision: Text | None = None
    """Branch, tag or commit of the model's repository."""
    model_prefix: Token | None = None
    """The model's word in ids and selections, such as `minimaxm3`."""
    precision: Precision | None = None
    """Precision of the weights."""
    framework: Framework | None = None
    """The engine."""
    runner: Text | None = None
    """Label of the machines that it is for: a hardware key such as `h100`, or a name from
    `runners`."""
    multinode: Literal[False] | None = None
    """One server on several nodes; not supported."""
    disagg: Literal[False] | None = None
    """Prefill and decode on servers of their own; not supported."""
    scenarios: Scenarios | None = None
    """What is measured."""
    when: Annotated[list[When], Field(max_length=200)] | None = None
    """Parts that are laid over the recipe, in order, for the cases where their `if` holds."""
    server_per: SharingPolicy | None = None
    """What shares a server: `parallelism` (default), `shape` or `point`."""
    command: Command | None = None
    """How this recipe's engine is started, instead of the `--gpubench-command` option."""
    source: Source | None = None
    """The official recipe that it follows: an address, or a map with what is meant of it."""
    differs: dict[str, Text] | None = None
    """Flag or variable to the reason why it is not as in the official recipe; `speculative` is the
    draft, a dotted name one key of a value."""
    evals: Annotated[list[EvaluationKeys], Field(max_length=50)] | None = None
    """Questions with known answers, asked of every server after its loads."""
    facts: Facts | None = None
    """What the doctor is to know of a model that is not at hand."""

    @property
    def lengths(self) -> list[FixedSeqLen]:
        """Lengths and their search spaces; empty where a recipe has none."""
        return (self.scenarios and self.scenarios.fixed_seq_len) or []

    @property
    def agentic(self) -> list[AgenticCoding]:
        """Agentic search spaces; empty where a recipe has none."""
        return (self.scenarios and self.scenarios.agentic_coding) or []

    @property
    def rows(self) -> list[Row]:
        """All rows of all search spaces."""
        spaces: list[FixedSeqLen | AgenticCoding] = [*self.lengths, *self.agentic]
        return [row for space in spaces for row in space.search_space]


class Runner(Section):
    """What a runner label means: a key of the hardware table, or an NVIDIA GPU that the table
    lacks."""

    hardware: (
        Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(HARDWARE)})] | None
    ) = None
    """Key of the hardware table."""
    name: Text | None = None
    """Words that all occur in the driver's product name: `RTX 6000 Ada`. The label then is the
    hardware's word in ids."""
    memory_gib: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Memory of one GPU, as the driver reports it."""
    compute_capability: Annotated[float, Field(ge=5, le=30)] | None = None
    """As NVIDIA writes it: 8.9 is Ada, 9.0 Hopper."""
    gpus_per_node: Ranks = 8
    """GPUs of one host."""
    nvlink: bool = False
    """Whether they are joined by NVLink."""
    dram_mib: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Memory of one host that `kv-offloading: dram` is sized by, in MiB."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Runner:
        facts = (self.name, self.memory_gib, self.compute_capability)
        if (self.hardware is None) == (facts == (None, None, None)):
            raise fail("needs `hardware`, or `name`, `memory-gib` and `compute-capability`")
        if self.hardware is None and None in facts:
            raise fail("needs `name`, `memory-gib` and `compute-capability` together")
        return self

    def declared(self, key: str) -> Hardware | None:
        """The GPU that it describes; None where it names a key."""
        if self.name is None or self.memory_gib is None or self.compute_capability is None:
            return None
        return Hardware(
            key,
            "cuda",
            self.memory_gib,
            self.gpus_per_node,
            round(self.compute_capability * 10),
            self.nvlink,
            name_words(self.name),
        )


class RatioGate(Section):
    """A gate across cases of one run."""

    name: Token
    """Name of the gate in ids and reports."""
    metric: MetricName
    """Metric that is compared."""
    of: Text
    """Numerator: a recipe, a server, or tags joined by dashes."""
    over: Text
    """Denominator, likewise."""
    at: Text | dict[str, Any] | None = None
    """Workloads that take part, by tags or fields (default: all that both sides have)."""
    at_least: Annotated[float, Field(gt=0)] | None = None
    """The ratio must be at least this."""
    at_most: Annotated[float, Field(gt=0)] | None = None
    """The ratio must be at most this."""

    @model_validator(mode="after")
    def _bounded(self) -> RatioGate:
        if self.at_least is None and self.at_most is None:
            raise fail("needs at-least or at-most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise fail(
                f"at-least {self.at_least:g} is above at-most {self.at_most:g}: nothing is both"
            )
        return self


class File(Section):
    """The reserved keys of a recipe file; every other key is a recipe."""

    include: Texts | None = None
    """Further recipe files, by their path from this file's folder."""
    host: dict[str, bool | int | float | str] | None = None
    """Facts of the host that expressions may read; the first file that says one counts."""
    templates: dict[str, Recipe] | None = None
    """Parts to extend; they are no recipes themselves."""
    runners: dict[str, Runner] | None = None
    """Runner labels and the hardware that they stand for."""
    ratios: list[RatioGate] | None = None
    """Gates between cases of one run."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors (draft 2020-12)."""
    schema = File.model_json_schema(by_alias=True)
    recipe = Recipe.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    schema.setdefault("$defs", {}).update(recipe.pop("$defs", {}))
    schema["$defs"].setdefault("Recipe", recipe)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "pytest-gpubench recipes"
    schema["additionalProperties"] = {"$ref": "#/$defs/Recipe"}
    for model in schema["$defs"].values():
        _without_titles(model)
    return schema


def _without_titles(value: Any) -> None:
    if isinstance(value, dict):
        if isinstance(value.get("title"), str):
            del value["title"]
        for item in value.values():
            _without_titles(item)
    elif isinstance(value, list):
        for item in value:
            _without_titles(item)
