"""What an engine says about itself: collected from its log, completed from its HTTP answers, and
compared with what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_gpubench.model.frozen import FrozenMap, is_whole

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Facts of one running engine; None or empty where the engine did not say.

    Sizes are per engine, memory is in GiB and the least over the ranks, durations are seconds.
    """

    dialect: str = ""
    """The engine's word in ``framework:``, whose dialect read these facts."""
    version: str | None = None
    device: str | None = None
    """``cuda`` or ``cpu``, as the engine names it."""
    model: str | None = None
    architectures: tuple[str, ...] = ()
    """Target first, then the draft's."""
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    enforce_eager: bool | None = None
    enable_prefix_caching: bool | None = None
    max_model_len: int | None = None
    block_size: int | None = None

    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    decode_context_parallel_size: int | None = None
    prefill_context_parallel_size: int | None = None
    expert_parallel: bool | None = None
    api_servers: int | None = None
    """Processes that answer requests."""

    attention_backend: str | None = None
    """Of the target's ordinary attention layers."""
    draft_attention_backend: str | None = None
    draft_attention_backend_inferred: bool = False
    """True where no line names the draft's backend and the engine selected only one: it is the one
    that runs."""
    other_backends: FrozenMap = field(default_factory=FrozenMap)
    """Further kernels by name: ``sparse_attention``, ``moe``, ``linear``."""

    speculative_method: str | None = None
    """None: the engine did not say; an empty text: it runs without a draft."""
    num_speculative_tokens: int | None = None
    draft_model: str | None = None

    capture_sizes: tuple[int, ...] = ()
    kv_cache_tokens: int | None = None
    kv_cache_tokens_per_rank: tuple[int, ...] = ()
    kv_cache_memory_gib: float | None = None
    weights_gib: float | None = None
    capture_gib: float | None = None
    compile_cache: str | None = None
    """``cold`` (something was compiled), ``warm`` (all was loaded), None where nothing is compiled
    or nothing was said."""
    phases: FrozenMap = field(default_factory=FrozenMap)
    """Start-up phases by name, in seconds."""

    served_names: tuple[str, ...] = ()
    """From ``/v1/models``."""
    owned_by: str | None = None
    """Which engine it is, as ``/v1/models`` says."""
    served_root: str | None = None
    """Repository or folder of the served model, from ``/v1/models``."""
    unknown_variables: tuple[str, ...] = ()
    """Environment variables that the engine says it does not know."""
    cache_config: FrozenMap = field(default_factory=FrozenMap)
    """What the engine tells of its cache, as text."""
    settings: FrozenMap = field(default_factory=FrozenMap)
    """Its own settings as it has resolved them, by name, where it tells them; without secrets."""


def some_names(names: Sequence[str], most: int = 10) -> str:
    """Names for a sentence: the first ones, and how many more there are."""
    shown = ", ".join(name[:_LONGEST_NAME] for name in names[:most])
    if len(names) > most:
        shown += f" and {len(names) - most} more"
    return shown


def whole_number(value: object, most: int = 10**15) -> int | None:
    """A count that a server tells, as a number or as text; None for everything else."""
    if (
        isinstance(value, str)
        and value.isascii()
        and value.isdigit()
        and len(value) <= len(str(most))
    ):
        value = int(value)
    return value if is_whole(value) and 0 <= value <= most else None


@dataclass(frozen=True, slots=True)
class Check:
    """Something asked for, and what the engine says that it runs with (None: it did not say)."""

    name: str
    asked: object
    running: object
    unseen: str = ""
    """The sentence where the engine did not say; empty: an ordinary one."""
    source: str = "the recipe asks for"

    @property
    def holds(self) -> bool:
        return _plain(self.asked) == _plain(self.running)


def _plain(value: object) -> str:
    return str(value).casefold().removeprefix("torch.")
