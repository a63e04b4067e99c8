"""Does the engine that runs agree with the recipe? Pure; one sentence per deviation, and what could
not be seen is said, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gpubench.engines.engine_facts import EngineFacts, some_names
from pytest_gpubench.engines.interpreter import check_version
from pytest_gpubench.model.frozen import Frozen
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.specs import ServerSpec

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SNAPSHOT = re.compile(r"models--([A-Za-z0-9][\w.-]*?)--([\w.-]+?)/snapshots/")
_SERVE = (
    ("block-size", "block_size", "block size"),
    ("max-model-len", "max_model_len", "maximum model length"),
    ("enable-prefix-caching", "enable_prefix_caching", "prefix caching"),
    ("dtype", "dtype", "dtype"),
    ("quantization", "quantization", "quantization"),
    ("kv-cache-dtype", "kv_cache_dtype", "KV cache dtype"),
    ("enforce-eager", "enforce_eager", "eager mode"),
    ("attention-backend", "attention_backend", "attention backend"),
    ("api-server-count", "api_servers", "API servers"),
)
_M3 = "MiniMaxM3Sparse"
_CAPTURE_STEP = 16
"""Between the larger sizes that vLLM captures: a limit that is none of them is rounded down."""


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """What the comparison of a recipe with a running engine gave."""

    deviations: tuple[str, ...]
    """Sentences; empty if everything that can be seen is as asked."""
    unseen: tuple[str, ...]
    """Sentences about checks that could not be made: the engine did not say."""
    checked: tuple[str, ...]
    """Names of the checks that were made and hold."""

    @property
    def ok(self) -> bool:
        return not self.deviations


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    asked: object
    running: object
    unseen: str = ""
    source: str = "the recipe asks for"

    @property
    def holds(self) -> bool:
        return _plain(self.asked) == _plain(self.running)


def check_engine(spec: ServerSpec, facts: EngineFacts, *, served_name: str) -> EngineCheck:
    """Compare what runs with what the recipe asked for.

    Only what the recipe states is compared: a flag that it leaves to the engine has no wrong value.
    """
    deviations: list[str] = []
    unseen: list[str] = []
    checked: list[str] = []
    for check in _checks(spec, facts, served_name):
        if check.running is None:
            unseen.append(
                check.unseen
                or (
                    f"{check.name}: not visible in this engine's log and metrics (asked "
                    f"for: {_show(check.asked)})."
                )
            )
        elif check.holds:
            checked.append(check.name)
        else:
            deviations.append(
                f"{check.name}: {check.source} {_show(check.asked)}, the engine runs "
                f"with {_show(check.running)}."
            )
    # Variables that the engine does not know: those of the recipe were asked for in vain, the
    # host's are only noted.
    asked = [name for name, value in spec.env.items() if value is not None]
    unknown = [name for name in facts.unknown_variables if name in asked]
    foreign = [name for name in facts.unknown_variables if name not in asked]
    deviations += [
        f"environment variable {name}: the recipe sets it, the engine does not know it."
        for name in unknown
    ]
    if foreign:
        unseen.append(
            "environment variables of this host that the engine does not know: "
            f"{some_names(foreign)}."
        )
    if asked and not unknown and facts.version is not None:
        checked.append("environment variables")
    if spec.requires and facts.version is None:
        unseen.append("engine version: the engine does not say which it is.")
    elif spec.requires and facts.version is not None:
        problems = check_version(spec.requires, facts.version)
        deviations += problems
        if not problems:
            checked.append("engine version")
    return EngineCheck(tuple(deviations), tuple(unseen), tuple(checked))


def _served_repository(spec: ServerSpec, root: str | None) -> str | None:
    """The repository that is served, as far as a path or a name tells it; None: it cannot be
    told."""
    if root is None or root == spec.model:
        return root
    snapshot = _SNAPSHOT.search(root)
    if snapshot is not None:
        return f"{snapshot[1]}/{snapshot[2]}"
    if _REPOSITORY.fullmatch(root) and _REPOSITORY.fullmatch(spec.model):
        return root
    return None


def _checks(spec: ServerSpec, facts: EngineFacts, served_name: str) -> Iterator[_Check]:
    running_name: str | None = served_name
    if served_name not in facts.served_names:
        running_name = some_names(facts.served_names) or None
    yield _Check("served name", served_name, running_name)
    if facts.owned_by is not None:
        yield _Check("engine", spec.framework, facts.owned_by)
    repository = _served_repository(spec, facts.served_root)
    if repository is not None:
        yield _Check("served model", spec.model, repository)
    topology = spec.topology
    yield _Check("tensor parallel size", topology.tensor_parallel_size, facts.tensor_parallel_size)
    yield _Check("data parallel size", topology.dp, facts.data_parallel_size)
    yield _Check("pipeline parallel size", topology.pp, facts.pipeline_parallel_size)
    yield _Check("expert parallelism", topology.expert_parallel, facts.expert_parallel)
    if topology.dcp > 1 or facts.decode_context_parallel_size is not None:
        yield _Check(
            "decode context parallel size", topology.dcp, facts.decode_context_parallel_size
        )
    if topology.pcp > 1 or facts.prefill_context_parallel_size is not None:
        yield _Check(
            "prefill context parallel size", topology.pcp, facts.prefill_context_parallel_size
        )
    on_cpu = _on_cpu(spec, facts)
    for flag, attribute, name in _SERVE:
        asked = spec.serve.get(flag)
        if asked is None or asked == "auto" or (on_cpu and flag == "attention-backend"):
            continue
        yield _Check(name, asked, getattr(facts, attribute))
    for name, must, chosen in kernel_choices(spec, facts):
        yield _Check(name, must, chosen, source="model, GPU and recipe call for")
    yield from _draft_checks(spec, facts, on_cpu)


def _draft_checks(spec: ServerSpec, facts: EngineFacts, on_cpu: bool) -> Iterator[_Check]:
    draft = spec.speculative
    running = facts.speculative_method
    if running == "":
        running = "none"
    if draft is None:
        yield _Check("speculative decoding", "none", running)
        return
    # The engine has one name for all its MTP variants.
    if running is not None and running.endswith("mtp") and draft.method.endswith("mtp"):
        running = draft.method
    yield _Check("speculative method", draft.method, running)
    if running == "none":
        return
    yield _Check("speculative tokens", draft.num_speculative_tokens, facts.num_speculative_tokens)
    if on_cpu:
        # The CPU engine has one attention backend and ignores any other wish.
        yield _Check("attention backend", "CPU_ATTN", facts.attention_backend)
    elif draft.attention_backend is not None:
        yield _Check(
            "draft attention backend", draft.attention_backend, facts.draft_attention_backend
        )


def _on_cpu(spec: ServerSpec, facts: EngineFacts) -> bool:
    if facts.device is not None:
        return facts.device == "cpu"
    hardware = HARDWARE.get(spec.hardware)
    return hardware is not None and hardware.platform == "cpu"


def _plain(value: object) -> str:
    return str(value).casefold().removeprefix("torch.")


def _show(value: Frozen | object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def kernel_choices(spec: ServerSpec, facts: EngineFacts) -> Iterator[tuple[str, object, object]]:
    """(name, what it must be, what the engine said or None) for every choice that follows from
    model, GPU and recipe."""
    yield from _captures(spec, facts)
    hardware = HARDWARE.get(spec.hardware)
    if hardware is None or hardware.platform != "cuda" or facts.device not in (None, "cuda"):
        return
    hopper = hardware.compute_capability == 90
    if hopper and any(name.startswith(_M3) for name in facts.architectures):
        yield "sparse attention", "Triton", facts.other_backends.get("sparse_attention")
    if hopper and facts.quantization == "mxfp8":
        experts = "moe-backend" not in spec.serve and "moe" in facts.other_backends
        if experts:
            yield "MXFP8 experts", "MARLIN", facts.other_backends.get("moe")
        if "linear-backend" not in spec.serve:
            yield "MXFP8 matrices", "MarlinMxfp8LinearKernel", facts.other_backends.get("linear")


def _captures(spec: ServerSpec, facts: EngineFacts) -> Iterator[tuple[str, object, object]]:
    limit = spec.serve.get("max-cudagraph-capture-size")
    if not isinstance(limit, int) or facts.enforce_eager or facts.device == "cpu":
        return
    largest = max(facts.capture_sizes, default=None)
    if largest is not None and largest <= limit < largest + _CAPTURE_STEP:
        largest = limit
    yield "largest captured batch", limit, largest
