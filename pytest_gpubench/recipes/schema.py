"""The schema of recipe files: what may stand where. Unknown keys are errors; numbers are never read from text.

Every key of a recipe is optional here, because a parent may supply it; `loading` checks the merged recipe for completeness.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from pytest_gpubench.domain.hardware import HARDWARE
from pytest_gpubench.domain.specs import SharingPolicy
from pytest_gpubench.recipes.fields import (
    Command,
    Concurrency,
    Count,
    MetricName,
    NonNegative,
    PositiveCount,
    PositiveTokens,
    Ranks,
    Ratio,
    Seed,
    Temperature,
    Text,
    Texts,
    Token,
    Tokens,
    VersionSpecifier,
    fail,
)

PRECISIONS = ("fp4", "fp6", "fp8", "fp16", "fp32", "bf16", "int4", "int8")
FRAMEWORKS = ("vllm",)


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Section(BaseModel):
    """Base of all parts: kebab-case keys, nothing unknown, no coercion."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=_kebab, frozen=True, use_attribute_docstrings=True)


class Row(Section):
    """One row of a search space: a topology and the concurrencies at which it is measured."""

    tp: Ranks
    pp: Ranks = 1
    pcp_size: Ranks = 1
    dcp_size: Ranks = 1
    ep: Ranks | None = None
    """1, or equal to tp: vLLM takes no expert-parallel size."""
    dp_attn: bool = False
    spec_decoding: Literal["mtp", "none"] = "none"
    conc_start: Concurrency | None = None
    conc_end: Concurrency | None = None
    conc_list: Annotated[list[Concurrency], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if self.conc_list is not None and (self.conc_start is not None or self.conc_end is not None):
            raise fail("conc-list and conc-start/conc-end exclude each other; keep one")
        if self.conc_list is None and (self.conc_start is None or self.conc_end is None):
            raise fail("needs conc-list, or both conc-start and conc-end")
        if self.conc_start is not None and self.conc_end is not None and self.conc_start > self.conc_end:
            raise fail(f"conc-start {self.conc_start} is above conc-end {self.conc_end}")
        if self.conc_list is not None and len(set(self.conc_list)) != len(self.conc_list):
            raise fail("conc-list names a concurrency twice; remove the duplicate")
        if self.ep is not None and self.ep not in (1, self.tp):
            raise fail(f"ep {self.ep} with tp {self.tp}: vLLM takes no expert-parallel size, so ep is 1 or equal to tp")
        if self.dp_attn and (self.ep or 1) != self.tp:
            raise fail(f"dp-attn: true spreads the experts over all ranks; write ep: {self.tp} beside it")
        if self.tp % self.dcp_size:
            raise fail(f"dcp-size {self.dcp_size} does not divide tp {self.tp}")
        return self


class FixedSeqLen(Section):
    """Lengths in tokens, and the search space for them."""

    isl: Tokens
    osl: Tokens
    search_space: Annotated[list[Row], Field(min_length=1, max_length=1000)]


class Scenarios(Section):
    """What is measured."""

    fixed_seq_len: Annotated[list[FixedSeqLen], Field(min_length=1, max_length=1000)] | None = None
    agentic_coding: Annotated[Any, WithJsonSchema({"description": "InferenceX only; listed as not supported"})] = None


class SpeculativeKeys(Section):
    """A draft: vLLM's speculative config in kebab-case."""

    method: Text | None = None
    model: Text | None = None
    revision: Text | None = None
    num_speculative_tokens: PositiveCount | None = None
    attention_backend: Text | None = None
    """Backend of the draft; `auto` leaves the choice to the engine."""
    code_revision: Text | None = None
    draft_load_config: dict[str, Any] | None = None
    draft_sample_method: Text | None = None
    draft_tensor_parallel_size: PositiveCount | None = None
    dspark_draft_topk: PositiveCount | None = None
    enable_adaptive_verification: bool | None = None
    enforce_eager: bool | None = None
    kv_cache_dtype: Text | None = None
    max_model_len: PositiveTokens | None = None
    moe_backend: Text | None = None
    parallel_drafting: bool | None = None
    prompt_lookup_max: PositiveCount | None = None
    prompt_lookup_min: PositiveCount | None = None
    quantization: Text | None = None
    rejection_sample_method: Text | None = None
    suffix_decoding_max_cached_requests: Count | None = None
    suffix_decoding_max_spec_factor: NonNegative | None = None
    suffix_decoding_max_tree_depth: PositiveCount | None = None
    suffix_decoding_min_token_prob: NonNegative | None = None
    synthetic_acceptance_length: NonNegative | None = None
    synthetic_acceptance_rates: list[NonNegative] | None = None
    use_heterogeneous_vocab: bool | None = None
    use_local_argmax_reduction: bool | None = None


class ClientKeys(Section):
    """How the load is made."""

    api: Literal["chat", "completions"] | None = None
    chat_template: Literal["server", "none"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    ignore_eos: bool | None = None
    temperature: Temperature | None = None
    range_ratio: Ratio | None = None
    prompts_per_conc: PositiveCount | None = None
    """Measured requests per unit of concurrency (10)."""
    warmups_per_conc: Count | None = None
    """Warm-up requests per unit of concurrency (2)."""
    dataset: Text | None = None
    seed: Seed | None = None


class Laid(Section):
    """The keys that a `when` part may lay over the recipe."""

    image: Text | None = None
    """The environment that the run must already be in; matrix and Slurm jobs use it as the container."""
    serve: dict[str, Any] | None = None
    """Flags of the server without dashes. true: --flag, false: --no-flag, map: one JSON value, list: --flag a b."""
    speculative: SpeculativeKeys | None = None
    env: dict[str, Any] | None = None
    """Environment of the server: text or integer; null unsets; {from: NAME, default: X} reads the host's."""
    client: ClientKeys | None = None
    gates: dict[str, Any] | None = None
    """Metric to tolerance (5%), to {tolerance, absolute, at-least, at-most}, or to false."""
    requires: dict[str, VersionSpecifier] | None = None


def _condition(value: Any) -> Any:
    if not isinstance(value, str | bool):
        raise fail("must be a condition such as `dp_attn` or `conc >= 64`")
    return value


class When(Laid):
    """A part that is laid over the recipe for the cases where `if` holds."""

    if_: Annotated[Any, BeforeValidator(_condition), WithJsonSchema({"type": ["string", "boolean"]})]


class Recipe(Laid):
    """One entry: a superset of an InferenceX master entry."""

    extends: Texts | None = None
    model: Text | None = None
    revision: Text | None = None
    model_prefix: Token | None = None
    precision: Literal["fp4", "fp6", "fp8", "fp16", "fp32", "bf16", "int4", "int8"] | None = None
    framework: Literal["vllm"] | None = None
    runner: Text | None = None
    multinode: Literal[False] | None = None
    disagg: Literal[False] | None = None
    scenarios: Scenarios | None = None
    when: Annotated[list[When], Field(max_length=200)] | None = None
    server_per: SharingPolicy | None = None
    command: Command | None = None
    source: Text | None = None


class Runner(Section):
    """What a runner label means."""

    hardware: Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(HARDWARE)})]


class RatioGate(Section):
    """A gate across cases of one run."""

    name: Token
    metric: MetricName
    of: Text
    over: Text
    at: Text | dict[str, Any] | None = None
    at_least: Annotated[float, Field(gt=0)] | None = None
    at_most: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> RatioGate:
        if self.at_least is None and self.at_most is None:
            raise fail("needs at-least or at-most")
        return self


class File(Section):
    """The reserved keys of a recipe file; every other key is a recipe."""

    templates: dict[str, Recipe] | None = None
    runners: dict[str, Runner] | None = None
    ratios: list[RatioGate] | None = None


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
