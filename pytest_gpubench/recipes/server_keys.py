"""What a recipe may set of a server: its flags, their ranges, environment, command and draft."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from pytest_gpubench.dialects.registry import common_rules
from pytest_gpubench.dialects.server_flags import FlagRules, secret_error
from pytest_gpubench.model.frozen import canonical_json, is_whole, spelled
from pytest_gpubench.recipes.fields import (
    TEXTS_SCHEMA,
    Count,
    NonNegative,
    Number,
    PositiveCount,
    PositiveTokens,
    Section,
    Text,
    fail,
    texts,
)
from pytest_gpubench.recipes.problems import shown

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9-]*(\.[A-Za-z0-9_.-]+)?")


def check_flag(rules: FlagRules, name: str, value: Any) -> str | None:
    """What is wrong with one server flag of ``serve``, None if nothing; ``value`` may hold
    expressions."""
    if value is None:
        return None  # the flag is left to the engine
    if ours := rules.our_flag(name):
        return f"this flag is not a recipe's to set: {ours[1]}"
    if name.startswith("-"):
        return f"flags are written without dashes; write '{name.lstrip('-')}'"
    if name.startswith("no-") and rules.negation:
        return f"write '{name[3:]}: false' for --{name}"
    head, dot, inner = name.partition(".")
    if head in rules.instead:
        written = f"{rules.instead[head][bool(dot)]}{dot}{inner}"
        return f"the engine has no --{head}; write '{written}'"
    if "_" in head:  # what follows the dot is the spelling of a key
        return f"flags are written with dashes; write '{head.replace('_', '-')}{dot}{inner}'"
    if not _FLAG.fullmatch(name):
        return "this is not the name of a flag"
    if value is False and not rules.negation:
        return (
            "this engine has no word for false: leave it out, or write the flag that turns it off"
        )
    if isinstance(value, list) and any(
        isinstance(item, dict | list) or item is None for item in value
    ):
        return "a list holds words and numbers only (--flag a b)"
    if isinstance(value, list) and (wrong := rules.words_error([str(item) for item in value])):
        return wrong
    if isinstance(value, dict | str) and (wrong := secret_error(f"{name}={canonical_json(value)}")):
        return wrong
    return _range_error(rules, name, value)


def _range_error(rules: FlagRules, name: str, value: Any) -> str | None:
    if name not in rules.ranges:
        return None
    try:
        Number(*rules.ranges[name]).check(value)
    except PydanticCustomError as error:
        return error.message()
    return None


def check_env(rules: FlagRules, name: str, value: Any) -> str | None:
    """What is wrong with one environment variable, None if nothing."""
    if not _ENV_NAME.fullmatch(name):
        return "this is not the name of an environment variable"
    if name in rules.env:
        return f"this variable is not a recipe's to set: {rules.env[name]}"
    if isinstance(value, dict):
        unknown = set(value) - {"from", "default", "optional"}
        if (
            unknown
            or not isinstance(value.get("from"), str)
            or not _ENV_NAME.fullmatch(value["from"])
        ):
            return (
                "a map must be {from: NAME, default: TEXT} or {from: NAME, optional: true}, NAME "
                "being a variable of the host"
            )
        optional, value = value.get("optional", False), value.get("default")
        if not isinstance(optional, bool):
            return f"optional must be true or false, not {shown(optional)}"
        if optional and value is not None:
            return "default and optional exclude each other; keep one"
        if value is None:
            return None
    if value is None or (isinstance(value, str) and "\0" not in value) or is_whole(value):
        return None
    return f"must be text or an integer, not {shown(value)}; quote it: '{spelled(value)}'"


def _command(value: Any) -> Any:
    texts(value)
    words = value
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise fail(f"is not a command line: {str(error).lower()}") from None
    wrong = common_rules().words_error(words, short=False)
    if wrong:
        raise fail(wrong)
    return value


Command: TypeAlias = Annotated[Any, BeforeValidator(_command), TEXTS_SCHEMA]
"""A command line, or its words."""


GOLDEN = "golden"
"""In place of a synthetic acceptance length: the one that is published for the draft."""
_LENGTH = Number("number", 0, 1_000_000)


def _length(value: Any) -> Any:
    return value if value == GOLDEN else _LENGTH.check(value)


AcceptanceLength: TypeAlias = Annotated[
    Any,
    BeforeValidator(_length),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": _LENGTH.least},
                {"type": "string", "pattern": rf"\$\{{|^{GOLDEN}$"},
            ]
        }
    ),
]


class SpeculativeKeys(Section):
    """A draft, in kebab-case."""

    method: Text | None = None
    """`eagle3`, `mtp`, `ngram`, ..."""
    model: Text | None = None
    """Repository or folder of the draft; absent for methods without a draft model."""
    revision: Text | None = None
    """Branch, tag or commit of the draft's repository."""
    num_speculative_tokens: PositiveCount | None = None
    """Draft tokens per step."""
    attention_backend: Text | None = None
    """Backend of the draft; `auto` leaves the choice to the engine."""
    topk: PositiveCount | None = None
    """Branches per step of the draft (1: a chain); only some engines have it."""
    draft_tokens: PositiveCount | None = None
    """Tokens that are verified at once, where a draft branches; only some engines have it."""
    code_revision: Text | None = None
    """Revision of the draft's own code on the Hub."""
    draft_load_config: dict[str, Any] | None = None
    """How the draft's weights are loaded."""
    draft_sample_method: Text | None = None
    """How draft tokens are chosen: `greedy` or `probabilistic`."""
    draft_tensor_parallel_size: PositiveCount | None = None
    """Ranks of the draft: 1, or the target's."""
    dspark_draft_topk: PositiveCount | None = None
    """DSpark: candidates that are looked at per position."""
    enable_adaptive_verification: bool | None = None
    """DSpark: how many draft tokens are verified follows the draft's confidence."""
    enforce_eager: bool | None = None
    """The draft runs without CUDA graphs."""
    kv_cache_dtype: Text | None = None
    """Type of the draft's KV cache."""
    max_model_len: PositiveTokens | None = None
    """Longest sequence of the draft, in tokens."""
    moe_backend: Text | None = None
    """Kernels of the draft's experts."""
    parallel_drafting: bool | None = None
    """The draft makes all its tokens in one step."""
    prompt_lookup_max: PositiveCount | None = None
    """n-gram: longest piece of text that is looked up."""
    prompt_lookup_min: PositiveCount | None = None
    """n-gram: shortest piece of text that is looked up."""
    quantization: Text | None = None
    """Quantization of the draft's weights."""
    rejection_sample_method: Text | None = None
    """How draft tokens are accepted: `standard`, `block` or `synthetic`."""
    suffix_decoding_max_cached_requests: Count | None = None
    """Suffix decoding: answers that are kept for lookup."""
    suffix_decoding_max_spec_factor: NonNegative | None = None
    """Suffix decoding: draft tokens per matched token, at most."""
    suffix_decoding_max_tree_depth: PositiveCount | None = None
    """Suffix decoding: longest match and draft together, in tokens."""
    suffix_decoding_min_token_prob: NonNegative | None = None
    """Suffix decoding: least probability of a drafted token."""
    synthetic_acceptance_length: AcceptanceLength | None = None
    """Synthetic acceptance: mean tokens per step, whatever the draft says; `golden`: the length
    that InferenceX publishes for it."""
    synthetic_acceptance_rates: list[NonNegative] | None = None
    """Synthetic acceptance: per position, the share of steps in which it and all before it are
    accepted."""
    use_heterogeneous_vocab: bool | None = None
    """The draft may have another vocabulary than the target."""
    use_local_argmax_reduction: bool | None = None
    """Draft tokens are chosen per rank before they are gathered."""
