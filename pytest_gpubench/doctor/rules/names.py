"""Rules about names: flags, variables, backends, methods and types that vLLM does not know, and
flags that contradict each other.

What a vLLM takes is its vocabulary: from its own parser where it was asked, else the shipped one of
its version. Where the version is not known, a name is unknown that no known version has.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from packaging.version import Version

from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in
from pytest_gpubench.doctor.findings import Severity
from pytest_gpubench.doctor.known_vocabularies import (
    Kind,
    known_choices,
    known_versions,
    newest_vocabulary,
    versions_with,
)
from pytest_gpubench.engines.interpreter import Vocabulary
from pytest_gpubench.model.printing import listed

_PLUGINS = ("bitsandbytes", "gguf")
"""Quantization methods that libraries beside vLLM bring."""


@rule(
    "attention backends that vLLM knows",
    "error",
    "seen on the CPU engine",
    "Unknown attention backend: '{name}'. Valid options are: FLASH_ATTN, ...",
)
def unknown_attention_backend(context: ServerContext) -> Iterator[Symptom]:
    known = _choices(context, "attention-backend")
    draft = context.asked_draft_backend
    for place, name in (
        ("attention-backend", context.settings.attention_backend),
        ("speculative.attention-backend", draft),
    ):
        if name is not None and known and name not in known and name != "CUSTOM":
            yield Symptom(
                f"{place}: {_knows_no(context, f'attention backend {name!r}')}",
                _hint(name, known),
                {"name": name},
                severity=_unless_outside(context),
            )


@rule(
    "values of flags, such as MoE and linear backends, that vLLM knows",
    "error",
    "seen on the CPU engine",
    "error: argument --{flag}: invalid choice: '{name}'",
)
def unknown_flag_value(context: ServerContext) -> Iterator[Symptom]:
    for flag in context.settings.flags:
        name, known = context.settings.word(flag), _choices(context, flag)
        if name is None or not known or flag in ("attention-backend", "quantization"):
            continue
        if _plain(name) not in map(_plain, known):
            yield Symptom(
                f"{flag}: {_knows_no(context, repr(name))}",
                _hint(name, known),
                {"flag": flag, "name": name},
                severity=_unless_outside(context),
            )


@rule(
    "quantization methods that vLLM knows",
    "error",
    "seen on the CPU engine",
    "Unknown quantization method: {name}. Must be one of [...].",
)
def unknown_quantization(context: ServerContext) -> Iterator[Symptom]:
    known = _choices(context, "quantization")
    asked = context.settings.quantization
    name = asked or context.checkpoint_quantization
    if name and known and name.lower() not in (*known, *_PLUGINS):
        where = "--quantization" if asked else "the model's quantization_config"
        yield Symptom(
            f"{where}: {_knows_no(context, f'method {name!r}')}",
            _hint(name, known),
            {"name": name},
            severity=_unless_outside(context)
            if asked
            else "warning",  # vLLM knows more spellings of what checkpoints say than we do
        )


def _choices(context: ServerContext, flag: str) -> tuple[str, ...]:
    """The values of a flag: of the vLLM at hand, else of any that we know; empty: it takes any."""
    if context.vocabulary is not None:
        return tuple(sorted(context.vocabulary.choices.get(flag, ())))
    return tuple(sorted(known_choices(flag)))


def _knows_no(context: ServerContext, what: str) -> str:
    if context.vocabulary is not None:
        return f"vLLM {context.vocabulary.version} knows no {what}."
    return f"vLLM knows no {what} ({_asked()} were asked)."


def _asked() -> str:
    return f"{known_versions()[0]} to {known_versions()[-1]}"


def _unless_outside(context: ServerContext) -> Severity | None:
    """A warning for an engine that was never asked: it may know more."""
    return "warning" if context.engine is not None and context.vocabulary is None else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


@rule("a JSON flag whole or in dotted parts, not both", "warning", "seen on the CPU engine")
def flag_given_twice(context: ServerContext) -> Iterator[Symptom]:
    for flag in context.settings.doubled:
        yield Symptom(
            f"--{flag} is given as one JSON value and again in dotted parts: vLLM takes "
            "the parts and drops the whole value.",
            f"Write one map under serve.{flag}.",
        )


@rule(
    "one spelling of a setting",
    "error",
    "seen on the CPU engine",
    "{name} and {other} are mutually exclusive",
)
def exclusive_flags(context: ServerContext) -> Iterator[Symptom]:
    settings = context.settings
    pairs = (
        ("attention-backend", "attention-config", "backend", "attention_backend"),
        (
            "max-cudagraph-capture-size",
            "compilation-config",
            "max_cudagraph_capture_size",
            "max_cudagraph_capture_size",
        ),
        (
            "cudagraph-capture-sizes",
            "compilation-config",
            "cudagraph_capture_sizes",
            "cudagraph_capture_sizes",
        ),
    )
    for flag, whole, key, name in pairs:
        if flag in settings.flags and settings.part(whole, key) is not None:
            yield Symptom(
                f"{flag} is set twice: as a flag and as {key} in {whole}.",
                f"Keep one of the two, best serve.{flag}.",
                {"name": name, "other": f"{whole.replace('-', '_')}.{key}"},
            )


REMOVED_FLAGS: dict[str, str] = {
    "disable-log-requests": "leave it out: requests are not logged",
    "swap-space": "leave it out: nothing is swapped",
    "num-scheduler-steps": "leave it out: scheduling is asynchronous",
    "use-v2-block-manager": "leave it out",
    "multi-step-stream-outputs": "leave it out",
    "num-lookahead-slots": "leave it out",
    "preemption-mode": "leave it out",
    "scheduler-delay-factor": "leave it out",
    "disable-async-output-proc": "leave it out",
    "disable-frontend-multiprocessing": "leave it out",
    "enable-prompt-adapter": "leave it out",
    "worker-use-ray": "write distributed-executor-backend: ray",
    "guided-decoding-backend": "write structured-outputs-config: {backend: ...}",
    "enable-reasoning": "write reasoning-parser alone",
    "max-seq-len-to-capture": "write max-cudagraph-capture-size, in tokens of a batch",
    "cuda-graph-sizes": "write cudagraph-capture-sizes",
    "full-cuda-graph": "write compilation-config: {cudagraph_mode: FULL}",
    "speculative-model": "write the recipe's `speculative` section",
    "num-speculative-tokens": "write the recipe's `speculative` section",
    "ngram-prompt-lookup-max": "write the recipe's `speculative` section",
    "speculative-draft-tensor-parallel-size": "write the recipe's `speculative` section",
    "spec-decoding-acceptance-method": "write the recipe's `speculative` section",
    "rope-scaling": "write hf-overrides: {rope_parameters: ...}",
    "rope-theta": "write hf-overrides: {rope_parameters: ...}",
    "device": "leave it out: the platform is found",
    "task": "write runner and convert",
}
REMOVED_VARIABLES: dict[str, str] = {
    "VLLM_ATTENTION_BACKEND": "write attention-backend under serve",
    "VLLM_USE_V1": "leave it out: there is no other engine",
    "VLLM_FLASH_ATTN_VERSION": "write attention-config: {flash_attn_version: ...}",
    "VLLM_USE_TRITON_FLASH_ATTN": "leave it out",
    "VLLM_USE_TRTLLM_ATTENTION": "write attention-config: {use_trtllm_attention: ...}",
    **dict.fromkeys(
        (
            "VLLM_FLASHINFER_MOE_BACKEND",
            "VLLM_USE_FLASHINFER_MOE_FP4",
            "VLLM_USE_FLASHINFER_MOE_FP8",
            "VLLM_USE_FLASHINFER_MOE_FP16",
            "VLLM_USE_FLASHINFER_MOE_MXFP4_BF16",
            "VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8",
            "VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8_CUTLASS",
        ),
        "write moe-backend under serve",
    ),
    "VLLM_MXFP4_USE_MARLIN": "write moe-backend: marlin or linear-backend: marlin under serve",
    "VLLM_NVFP4_GEMM_BACKEND": "write linear-backend under serve",
    "VLLM_USE_NVFP4_CT_EMULATIONS": "write linear-backend: emulation under serve",
    "VLLM_USE_FBGEMM": "write linear-backend: fbgemm under serve",
    "VLLM_V1_USE_PREFILL_DECODE_ATTENTION": "leave it out",
    "VLLM_TORCH_PROFILER_DIR": "write profiler-config",
    "VLLM_CUTLASS_MLA_FORCE": "write attention-backend under serve",
    "VLLM_ALL2ALL_BACKEND": "write all2all-backend under serve",
}


@rule(
    "flags that vLLM still has",
    "warning",
    "seen on the CPU engine",
    "error: unrecognized arguments: --{name}",
)
def removed_flag(context: ServerContext) -> Iterator[Symptom]:
    for name in _flags(context):
        yield from _removed(context, "flags", name, REMOVED_FLAGS.get(name))


@rule(
    "flags that the vLLM at hand has",
    "error",
    "seen on the CPU engine",
    "error: unrecognized arguments: --{name}",
)
def unknown_flag(context: ServerContext) -> Iterator[Symptom]:
    for name in _flags(context):
        if name not in REMOVED_FLAGS:
            yield from _unknown(context, "flags", name)


@rule(
    "environment variables that vLLM still reads",
    "warning",
    "seen on the CPU engine",
    "Unknown vLLM environment variable detected: {name}",
)
def removed_variable(context: ServerContext) -> Iterator[Symptom]:
    for name in _variables(context):
        yield from _removed(context, "variables", name, REMOVED_VARIABLES.get(name))


@rule(
    "environment variables that the vLLM at hand reads",
    "warning",
    "seen on the CPU engine",
    "Unknown vLLM environment variable detected: {name}",
)
def unknown_variable(context: ServerContext) -> Iterator[Symptom]:
    for name in _variables(context):
        if name not in REMOVED_VARIABLES:
            yield from _unknown(context, "variables", name)


def _flags(context: ServerContext) -> list[str]:
    """The flags as they stand on the command line, without dashes."""
    given = context.settings.flags.items()
    return [f"no-{name}" if value is False else name for name, value in given]


def _variables(context: ServerContext) -> list[str]:
    env = context.spec.env.items()
    return [name for name, value in env if value is not None and name.startswith("VLLM_")]


def _has(vocabulary: Vocabulary, kind: Kind, name: str) -> bool:
    if kind == "variables":
        return name in vocabulary.variables
    # the beginning of a flag is read as that flag; what once was a flag meant something else
    return name in vocabulary.flags or (name not in REMOVED_FLAGS and vocabulary.takes_flag(name))


def _earlier(context: ServerContext, kind: Kind, name: str) -> list[str]:
    """The versions before the one at hand that have it."""
    found = versions_with(kind, name)
    return [one for one in found if context.engine is None or Version(one) < context.engine]


def _removed(
    context: ServerContext, kind: Kind, name: str, instead: str | None
) -> Iterator[Symptom]:
    vocabulary = context.vocabulary or newest_vocabulary()
    earlier, shown = _earlier(context, kind, name), _shown(kind, name)
    last = f"; the last that has it is {earlier[-1]}" if earlier else ""
    message = f"{shown} is not there any more in vLLM {vocabulary.version}{last}."
    if _has(vocabulary, kind, name):
        if context.vocabulary is not None or instead is None:
            return
        # it went and came back; which version will serve is not known
        message = f"Of vLLM {_asked()} only {', '.join(versions_with(kind, name))} has {shown}."
    elif instead is None and not earlier:
        return
    instead = instead or "leave it out, or see the release notes for what took its place"
    yield Symptom(
        message,
        f"{instead[0].upper()}{instead[1:]}.",
        {"name": name},
        severity=_severity(context, kind),
    )


def _unknown(context: ServerContext, kind: Kind, name: str) -> Iterator[Symptom]:
    vocabulary = context.vocabulary or newest_vocabulary()
    if _has(vocabulary, kind, name) or _earlier(context, kind, name):
        return
    later = versions_with(kind, name)
    known = sorted(vocabulary.flags if kind == "flags" else vocabulary.variables)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    remedy = "Leave it out, or write what vLLM calls it (vllm serve --help=all)."
    if later:
        remedy = f"Leave it out, or take vLLM {later[0]} or newer."
    elif near:
        remedy = f"Did you mean {_shown(kind, near[0])}?"
    if context.vocabulary is not None:
        message = f"vLLM {vocabulary.version} has no {_shown(kind, name)}."
    else:
        message = f"No vLLM from {_asked()} has {_shown(kind, name)}."
        if context.engine is not None and not context.node.wrapped:
            message += (
                f" Whether {context.engine} has is not known here: `gpubench vocabulary` asks it."
            )
    yield Symptom(message, remedy, {"name": name}, severity=_severity(context, kind))


def _shown(kind: Kind, name: str) -> str:
    return f"--{name}" if kind == "flags" else name


def _severity(context: ServerContext, kind: Kind) -> Severity:
    """An error where the vLLM at hand is known to refuse it; of variables it warns, unless it is
    told to refuse them."""
    refused = kind == "flags" or context.settings.flags.get("fail-on-environ-validation") is True
    return "error" if refused and context.vocabulary is not None else "warning"


def _hint(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known names: {listed(known, 8)}."


RULES = rules_in(globals())
