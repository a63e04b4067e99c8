"""What the doctor looks at: one server with everything that is known about it, and the form of a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pytest_gpubench.doctor.findings import EvidenceClass, Severity
from pytest_gpubench.doctor.memory import MemoryEstimate
from pytest_gpubench.doctor.settings import Settings
from pytest_gpubench.doctor.shape import ModelShape
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import ServerSpec


@dataclass(frozen=True, slots=True)
class Node:
    """Facts about the machine at hand; what is None is not known, and the hardware table's nominal value is used."""

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
    """Version of the vLLM that would serve."""


@dataclass(frozen=True, slots=True)
class Patient:
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

    @property
    def tp(self) -> int:
        """vLLM's tensor parallel size."""
        return self.spec.topology.tensor_parallel_size

    @property
    def spec_tokens(self) -> int:
        """Draft tokens per step, 0 without a draft."""
        return self.spec.speculative.num_speculative_tokens if self.spec.speculative else 0

    @property
    def draft_tp(self) -> int:
        value = self.spec.speculative.options.get("draft_tensor_parallel_size") if self.spec.speculative else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else self.tp

    def is_family(self, capability: int) -> bool:
        """Whether the GPU is NVIDIA's generation 90 (Hopper), 100 (datacenter Blackwell), ..."""
        return self.hardware.platform == "cuda" and self.hardware.compute_capability // 10 == capability // 10

    def conc_per_rank(self, case: Case) -> int:
        """Requests in flight on one data-parallel rank."""
        return math.ceil(case.workload.conc / self.spec.topology.dp)


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a rule saw: the sentence with this server's numbers, what to do, and the values of vLLM's own sentence."""

    message: str
    remedy: str
    says: Mapping[str, object] = field(default_factory=dict)
    cases: tuple[str, ...] = ()
    severity: Severity | None = None
    """Where it differs from the rule's own."""
    evidence_class: EvidenceClass | None = None
    """Where we know this variant less well than the rule."""


Check: TypeAlias = Callable[[Patient], Iterable[Symptom]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that the doctor knows. ``engine_says`` has ``{names}`` that a symptom's ``says`` fills in."""

    id: str
    title: str
    severity: Severity
    evidence_class: EvidenceClass
    engine_says: str
    check: Check
    outcome_unknown: bool = False
