"""The flags of a server as vLLM will understand them: defaults filled in, extra arguments and JSON
flags read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.model.frozen import entries, is_number, mapping, thaw
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import ServerSpec

_WHOLE = re.compile(r"([0-9]+)([kmgKMG]?)")
_UNITS = {"": 1, "k": 1000, "m": 10**6, "g": 10**9, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, slots=True)
class Settings:
    """One server's settings; ``None`` is "not set, the engine decides"."""

    flags: Mapping[str, Any]
    """Kebab-case names without dashes, from ``serve`` and from the extra arguments (later wins)."""
    environment: Mapping[str, str]
    """What is known of the server's environment: variables that the recipe sets, host variables by
    their default."""
    doubled: tuple[str, ...]
    """JSON flags that are given whole and with dotted parts (``--attention-config`` and
    ``--attention-config.x``)."""
    max_model_len: int | None
    block_size: int | None
    max_num_seqs: int
    max_num_seqs_given: bool
    max_num_batched_tokens: int
    chunked_prefill: bool
    eager: bool
    capture_max: int | None
    capture_sizes: tuple[int, ...]
    attention_backend: str | None
    """Upper case, as vLLM's enum spells it; None: not set, or ``auto``."""
    kv_cache_dtype: str
    quantization: str | None
    dtype: str
    utilization: float
    load_format: str
    expert_parallel: bool
    eplb: bool
    redundant_experts: int

    def word(self, name: str) -> str | None:
        """A flag's value as text, or None where it is absent or no scalar."""
        value = self.flags.get(name)
        return None if value is None or isinstance(value, Mapping | list) else str(value)

    def part(self, name: str, key: str) -> Any:
        """One key of a JSON flag, or None."""
        return mapping(self.flags.get(name)).get(key)


def settings_of(spec: ServerSpec, hardware: Hardware) -> Settings:
    """Resolve a spec's flags for some hardware; malformed values count as not set (the recipe room
    has judged them)."""
    flags, doubled = _flags(spec)
    compilation = mapping(flags.get("compilation-config"))
    batched_default, seqs_default = _batch_defaults(
        hardware, spec.topology.tensor_parallel_size * spec.topology.pp
    )
    length = _integer(flags.get("max-model-len"))
    batched = _integer(flags.get("max-num-batched-tokens"))
    seqs = _integer(flags.get("max-num-seqs"))
    chunked = flags.get("enable-chunked-prefill") is not False
    if batched is None and not chunked:
        batched_default = max(batched_default, length or 0)
    if batched is None:
        batched = batched_default
    if length is not None and length <= 0:
        length = None
    quantization, utilization = flags.get("quantization"), flags.get("gpu-memory-utilization")
    return Settings(
        flags=flags,
        environment=_environment(spec),
        doubled=doubled,
        max_model_len=length,
        block_size=_integer(flags.get("block-size")),
        max_num_seqs=seqs if seqs is not None else min(seqs_default, batched),
        max_num_seqs_given=seqs is not None,
        max_num_batched_tokens=batched,
        chunked_prefill=chunked,
        eager=flags.get("enforce-eager") is True or hardware.platform == "cpu",
        capture_max=_first_integer(
            flags.get("max-cudagraph-capture-size"), compilation.get("max_cudagraph_capture_size")
        ),
        capture_sizes=_integers(flags.get("cudagraph-capture-sizes"))
        or _integers(compilation.get("cudagraph_capture_sizes")),
        attention_backend=backend_name(
            flags.get("attention-backend") or mapping(flags.get("attention-config")).get("backend")
        ),
        kv_cache_dtype=str(flags.get("kv-cache-dtype") or "auto"),
        quantization=quantization if isinstance(quantization, str) else None,
        dtype=str(flags.get("dtype") or "auto"),
        utilization=float(utilization) if is_number(utilization) else 0.92,
        load_format=str(flags.get("load-format") or "auto"),
        expert_parallel=spec.topology.expert_parallel
        or flags.get("enable-expert-parallel") is True,
        eplb=flags.get("enable-eplb") is True,
        redundant_experts=_integer(mapping(flags.get("eplb-config")).get("num_redundant_experts"))
        or 0,
    )


def backend_name(value: object) -> str | None:
    """vLLM's spelling of an attention backend; None for ``auto`` and for nothing."""
    if not isinstance(value, str) or not value or value.lower() == "auto":
        return None
    return value.upper()


def _batch_defaults(hardware: Hardware, world_size: int) -> tuple[int, int]:
    """vLLM's own max_num_batched_tokens and max_num_seqs for an API server, by device memory."""
    if hardware.platform == "cpu":
        return 2048 * world_size, 128 * world_size
    if hardware.vram_gib >= 160:
        return 16384, 1024
    if hardware.vram_gib >= 70:
        return 8192, 1024
    return 2048, 256


def _flags(spec: ServerSpec) -> tuple[dict[str, Any], tuple[str, ...]]:
    given: dict[str, Any] = {}
    for name, value in spec.serve.items():
        given[_kebab(name)] = thaw(value)
    given.update(_parsed(spec.extra_args))
    flags: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if name.startswith("no-") and value is True:
            flags[name[3:]] = False
        elif "." in name:
            head, _, key = name.partition(".")
            parts.setdefault(head, {})[key] = value
        else:
            flags[name] = value
    doubled = tuple(name for name in parts if isinstance(flags.get(name), Mapping))
    # vLLM's parser gathers the dotted parts into one JSON value that it puts after the whole one:
    # the whole one is lost
    return {**flags, **parts}, doubled


def _kebab(name: str) -> str:
    head, dot, key = name.partition(".")
    return head.replace("_", "-") + dot + key


def _parsed(words: tuple[str, ...]) -> dict[str, Any]:
    """Raw arguments as flags: ``--a b``, ``--a=b``, ``--a`` alone; JSON values are read, other
    words are kept."""
    flags: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = _kebab(name)
            flags[name] = _value(value) if equals else True
        elif not name:
            continue
        elif flags[name] is True:
            flags[name] = _value(word)
        else:
            before = flags[name] if isinstance(flags[name], list) else [flags[name]]
            flags[name] = [*before, _value(word)]
    return flags


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        return word


def _environment(spec: ServerSpec) -> dict[str, str]:
    known: dict[str, str] = {}
    for name, value in spec.env.items():
        chosen = value.get("default") if isinstance(value, Mapping) else value
        if chosen is not None:
            known[name] = str(chosen)
    return known


def _integer(value: object) -> int | None:
    """A whole number as vLLM's command line reads it, ``32k`` (1000) and ``32K`` (1024)
    included."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if not isinstance(value, str) or not (match := _WHOLE.fullmatch(value)):
        return None
    return int(match[1]) * _UNITS[match[2]]


def _first_integer(*values: object) -> int | None:
    return next((number for number in map(_integer, values) if number is not None), None)


def _integers(value: object) -> tuple[int, ...]:
    return tuple(number for number in map(_integer, entries(value)) if number is not None)
