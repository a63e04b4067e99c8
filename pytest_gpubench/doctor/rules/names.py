"""Rules about names: backends, methods and types that vLLM does not know, and flags that contradict each other."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pytest_gpubench.doctor.patient import Patient, Rule, Symptom
from pytest_gpubench.doctor.settings import backend_name
from pytest_gpubench.doctor.vocabulary import ATTENTION_BACKENDS, KV_CACHE_DTYPES, LINEAR_BACKENDS, MOE_BACKENDS, QUANTIZATIONS


def attention_backend(patient: Patient) -> Iterator[Symptom]:
    draft = backend_name(patient.spec.speculative.attention_backend) if patient.spec.speculative else None
    for place, name in (("attention-backend", patient.settings.attention_backend), ("speculative.attention-backend", draft)):
        if name is not None and name not in ATTENTION_BACKENDS and name != "CUSTOM":
            yield Symptom(f"{place}: no attention backend {name!r}.", _hint(name, ATTENTION_BACKENDS), {"name": name})


def flag_choice(patient: Patient) -> Iterator[Symptom]:
    for flag, known in (("moe-backend", MOE_BACKENDS), ("linear-backend", LINEAR_BACKENDS), ("kv-cache-dtype", KV_CACHE_DTYPES)):
        name = patient.settings.word(flag)
        if name is not None and name not in known:
            yield Symptom(f"{flag}: vLLM knows no {name!r}.", _hint(name, known), {"flag": flag, "name": name})


def quantization_method(patient: Patient) -> Iterator[Symptom]:
    asked = patient.settings.quantization
    name = asked or (patient.target.quantization if patient.target else "")
    if name and name.lower() not in QUANTIZATIONS and name.lower() not in ("bitsandbytes", "gguf"):
        where = "--quantization" if asked else "the model's quantization_config"
        yield Symptom(
            f"{where}: vLLM knows no method {name!r}.",
            _hint(name, QUANTIZATIONS),
            {"name": name},
            severity=None if asked else "warning",  # vLLM knows more spellings of what checkpoints say than we do
        )


def doubled_flag(patient: Patient) -> Iterator[Symptom]:
    for flag in patient.settings.doubled:
        yield Symptom(
            f"--{flag} is given as one JSON value and again in dotted parts: vLLM takes the parts and drops the whole value.",
            f"Write one map under serve.{flag}.",
        )


def exclusive_flags(patient: Patient) -> Iterator[Symptom]:
    settings = patient.settings
    pairs = (
        ("attention-backend", "attention-config", "backend", "attention_backend"),
        ("max-cudagraph-capture-size", "compilation-config", "max_cudagraph_capture_size", "max_cudagraph_capture_size"),
        ("cudagraph-capture-sizes", "compilation-config", "cudagraph_capture_sizes", "cudagraph_capture_sizes"),
    )
    for flag, whole, key, name in pairs:
        if flag in settings.flags and settings.part(whole, key) is not None:
            yield Symptom(
                f"{flag} is set twice: as a flag and as {key} in {whole}.",
                f"Keep one of the two, best serve.{flag}.",
                {"name": name, "other": f"{whole.replace('-', '_')}.{key}"},
            )


def _hint(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known names: {', '.join(known[:8])} and {len(known) - 8} more."


RULES: tuple[Rule, ...] = (
    Rule(
        "unknown-attention-backend",
        "attention backends that vLLM knows",
        "error",
        "seen on the CPU engine",
        "Unknown attention backend: '{name}'. Valid options are: FLASH_ATTN, ...",
        attention_backend,
    ),
    Rule(
        "unknown-flag-value",
        "MoE, linear and KV cache names that vLLM knows",
        "error",
        "seen on the CPU engine",
        "error: argument --{flag}: invalid choice: '{name}'",
        flag_choice,
    ),
    Rule(
        "unknown-quantization",
        "quantization methods that vLLM knows",
        "error",
        "seen on the CPU engine",
        "Unknown quantization method: {name}. Must be one of [...].",
        quantization_method,
    ),
    Rule(
        "flag-given-twice", "a JSON flag whole or in dotted parts, not both", "warning", "seen on the CPU engine", "", doubled_flag
    ),
    Rule(
        "exclusive-flags",
        "one spelling of a setting",
        "error",
        "seen on the CPU engine",
        "{name} and {other} are mutually exclusive",
        exclusive_flags,
    ),
)
