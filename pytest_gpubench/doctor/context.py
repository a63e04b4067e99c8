"""What the doctor looks at: one server with everything that is known about it, and the form of a
rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Required, TypeAlias, TypedDict, Unpack

from packaging.version import InvalidVersion, Version

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.doctor.configs import known_config
from pytest_gpubench.doctor.findings import EvidenceClass, Severity
from pytest_gpubench.doctor.known_vocabularies import known_vocabulary
from pytest_gpubench.doctor.memory_estimate import (
    GIB,
    MemoryEstimate,
    estimate_memory,
    least_weights,
)
from pytest_gpubench.doctor.server_settings import Settings, backend_name, settings_of
from pytest_gpubench.doctor.shape import ModelShape, shape_of
from pytest_gpubench.engines.interpreter import Vocabulary
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap, is_whole, mapping, thaw
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import ServerSpec

Config: TypeAlias = Mapping[str, Any]
_ROUNDING = 0.01
"""Part of the weights' size by which a stated one may differ: it is often read off a page."""


@dataclass(frozen=True, slots=True)
class Node:
    """Facts about the machine at hand; what is None is not known, and the hardware table's nominal
    value is used."""

    gpus: int | None = None
    vram_gib: float | None = None
    """Of one GPU, as the driver reports it."""
    free_vram_gib: float | None = None
    """The least free memory over the GPUs that the server would get."""
    memory_gib: float | None = None
    """Main memory that this process may use (cgroup limits counted)."""
    multicast: bool | None = None
    """Whether programs may use NVLink multicast between its GPUs."""
    engine: str | None = None
    """Version of the engine that would serve."""
    vocabulary: Vocabulary | None = None
    """What that engine said of itself when it was asked."""
    wrapped: bool = False
    """Whether it is started by another program, which may have flags of its own."""


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One server, its cases, its models and its machine."""

    spec: ServerSpec
    cases: tuple[Case, ...]
    settings: Settings
    target: ModelShape | None
    """None: its config.json is not known."""
    draft: ModelShape | None
    hardware: Hardware
    node: Node
    chat_template: bool | None
    """Whether the model's tokenizer has a chat template; None: not known."""
    memory: MemoryEstimate | None
    """None: the model's shape or quantization is not known well enough."""
    least_weights_gib: float | None = None
    """Of the weight files, on one GPU, spread as evenly as can be; None: they are not at hand, or
    say nothing about what is loaded."""
    stated: frozenset[str] = frozenset()
    """Which of ``config``, ``draft-config`` and ``weight-bytes`` are the recipe's, for want of
    files."""
    contradictions: tuple[str, ...] = ()
    """What the recipe states and the files say otherwise, as sentences."""

    @property
    def tp(self) -> int:
        """Ranks that share one attention layer."""
        return self.spec.topology.tensor_parallel_size

    @property
    def engine(self) -> Version | None:
        """Of the engine at hand; None where it is not known, or spelled as no version is."""
        try:
            return Version(self.node.engine) if self.node.engine else None
        except InvalidVersion:
            return None

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The names that the engine at hand takes; None where that is not known."""
        if self.node.wrapped:
            return None
        if self.node.vocabulary is not None:
            return self.node.vocabulary
        return known_vocabulary(self.engine) if self.engine is not None else None

    @property
    def spec_tokens(self) -> int:
        """Draft tokens per step, 0 without a draft."""
        return self.spec.speculative.num_speculative_tokens if self.spec.speculative else 0

    @property
    def draft_model(self) -> str | None:
        """Repository or folder of the draft, None without a model of its own."""
        return self.spec.speculative.model if self.spec.speculative else None

    def draft_option(self, name: str) -> object:
        """A further key of the draft's config, None where it is not set."""
        return self.spec.speculative and self.spec.speculative.options.get(name)

    @property
    def draft_tp(self) -> int:
        size = self.draft_option("draft_tensor_parallel_size")
        if is_whole(size) and size > 0:
            return size
        return self.tp

    @property
    def asked_draft_backend(self) -> str | None:
        """The attention backend that is asked for the draft by name."""
        return (
            backend_name(self.spec.speculative.attention_backend) if self.spec.speculative else None
        )

    @property
    def checkpoint_quantization(self) -> str:
        """What the model's config.json says, empty if nothing."""
        return self.target.quantization if self.target else ""

    @property
    def on_cpu(self) -> bool:
        return self.hardware.platform == "cpu"

    @property
    def per_rank(self) -> str:
        """Words behind a number that holds for one of several data-parallel ranks."""
        return " per data-parallel rank" if self.spec.topology.dp > 1 else ""

    def is_family(self, capability: int) -> bool:
        """Whether the GPU is NVIDIA's generation 90 (Hopper), 100 (datacenter Blackwell), ..."""
        return (
            self.hardware.platform == "cuda"
            and self.hardware.compute_capability // 10 == capability // 10
        )

    def conc_per_rank(self, case: Case) -> int:
        """Requests in flight on one data-parallel rank."""
        return math.ceil(case.workload.conc / self.spec.topology.dp)


class Known(TypedDict, total=False):
    """What is known about a server beside its spec and cases; None, as what is left out: nothing
    is."""

    hardware: Required[Hardware]
    """What it is meant for."""
    target: Config | None
    """The model's config.json as plain data; None: the built-in facts about the repository, if
    there are any."""
    draft: Config | None
    """The draft's config.json, likewise."""
    chat_template: bool | None
    """Whether the model's tokenizer has a chat template."""
    weights: int | None
    """Bytes of the model's weight files."""
    node: Node | None
    """Facts about the machine at hand; None when planning for another one."""
    facts: FrozenMap
    """What the recipe states of config, draft-config and weight-bytes, for those that are None."""


def context_of(
    spec: ServerSpec, cases: Iterable[Case] = (), **known: Unpack[Known]
) -> ServerContext:
    """Gather what is known about a server. Its ``memory`` is the estimate that plans and records
    carry."""
    hardware = known["hardware"]
    files: dict[str, Any] = {
        "config": known.get("target"),
        "draft-config": known.get("draft"),
        "weight-bytes": known.get("weights"),
    }
    recipe = thaw(known.get("facts", FrozenMap()))
    stated = frozenset(name for name in recipe if files[name] is None)
    best = {name: recipe[name] if name in stated else value for name, value in files.items()}
    settings = settings_of(spec, hardware)
    context = ServerContext(
        spec=spec,
        cases=tuple(cases),
        settings=settings,
        target=_shape(spec.model, best["config"], mapping(settings.flags.get("hf-overrides"))),
        draft=None,
        hardware=hardware,
        node=known.get("node") or Node(),
        chat_template=known.get("chat_template"),
        memory=None,
        stated=stated,
        contradictions=tuple(
            sentence
            for name, value in recipe.items()
            if name not in stated
            for sentence in _contradictions(f"facts.{name}", value, files[name])
        ),
    )
    draft_tp = 0
    if context.draft_model is not None:
        context = replace(context, draft=_shape(context.draft_model, best["draft-config"], {}))
        draft_tp = context.draft_tp
    weights = None if best["weight-bytes"] is None else round(best["weight-bytes"])
    memory = estimate_memory(
        context.target,
        context.draft,
        settings=settings,
        topology=spec.topology,
        hardware=hardware,
        total_gib=context.node.vram_gib,
        draft_tp=draft_tp,
        on_disk=weights,
    )
    least = least_weights(context.target, settings, spec.topology, weights)
    return replace(context, memory=memory, least_weights_gib=least and least / GIB)


def memory_of(spec: ServerSpec, **known: Unpack[Known]) -> MemoryEstimate | None:
    """The memory estimate of one server, or None where its model, or its engine's use of memory, is
    not known well enough."""
    return context_of(spec, **known).memory if dialect_of(spec.framework).estimates_memory else None


def _contradictions(path: str, stated: Any, real: Any) -> Iterator[str]:
    if isinstance(stated, Mapping) and isinstance(real, Mapping):
        for key, value in stated.items():
            yield from _contradictions(f"{path}.{key}", value, real.get(key))
    elif path == "facts.weight-bytes":
        if abs(stated / real - 1) > _ROUNDING:
            yield f"{path} is {stated:,.0f}, the weight files have {real:,} bytes."
    elif stated != real:
        yield f"{path} is {stated!r}, the model's file says {real!r}."


def _shape(repository: str, config: Config | None, overrides: Config) -> ModelShape | None:
    if config is None:
        config = known_config(repository)
    if config is None:
        return None
    merged = {**config, **overrides}
    inner, inner_overrides = config.get("text_config"), overrides.get("text_config")
    if isinstance(inner, Mapping) and isinstance(inner_overrides, Mapping):
        merged["text_config"] = {**inner, **inner_overrides}
    return shape_of(merged)


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a rule saw: the sentence with this server's numbers, what to do, and vLLM's own
    sentence, or the values of the rule's."""

    message: str
    remedy: str
    says: Mapping[str, object] | str = field(default_factory=dict)
    cases: tuple[str, ...] = ()
    severity: Severity | None = None
    """Where it differs from the rule's own."""
    evidence_class: EvidenceClass | None = None
    """Where we know this variant less well than the rule."""

    def said(self, sentence: str) -> str:
        """The engine's own sentence, of the rule's."""
        return self.says if isinstance(self.says, str) else sentence.format(**self.says)


Check: TypeAlias = Callable[[ServerContext], Iterable[Symptom]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that the doctor knows. ``engine_says`` has ``{names}`` that a symptom's ``says``
    fills in."""

    id: str
    title: str
    severity: Severity
    evidence_class: EvidenceClass
    engine_says: str
    check: Check
    outcome_unknown: bool = False


def rule(
    title: str,
    severity: Severity,
    evidence_class: EvidenceClass,
    engine_says: str = "",
    *,
    outcome_unknown: bool = False,
) -> Callable[[Check], Rule]:
    """Makes a rule of the generator function below it, whose name is the rule's with dashes in
    recipes and on command lines: to rename it changes what users write."""

    def made(check: Check) -> Rule:
        id = check.__name__.replace("_", "-")
        return Rule(id, title, severity, evidence_class, engine_says, check, outcome_unknown)

    return made


def rules_in(module: Mapping[str, object]) -> tuple[Rule, ...]:
    """The rules of a module, in its order: at its end, ``rules_in(globals())``."""
    return tuple(value for value in module.values() if isinstance(value, Rule))
