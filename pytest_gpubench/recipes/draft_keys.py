"""What a recipe says of a draft."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema

from pytest_gpubench.recipes.fields import (
    Count,
    NonNegative,
    Number,
    PositiveCount,
    PositiveTokens,
    Section,
    Text,
)

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
