"""Server specs: everything that decides a server process, resolved but not yet rendered to a
command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.policies import SHARING_POLICIES, SharingPolicy

__all__ = ["SHARING_POLICIES", "Launch", "ServerSpec", "SharingPolicy", "Speculative", "Topology"]


@dataclass(frozen=True, slots=True)
class Topology:
    """One server's parallelism, in InferenceX's words: ``tp`` counts the GPUs of the attention and
    expert group.

    DEP8 (data-parallel attention with expert parallelism) is ``tp=8, ep=8, dp_attn=True``.
    """

    tp: int = 1
    pp: int = 1
    """Pipeline-parallel stages."""
    pcp: int = 1
    """Prefill-context-parallel ranks (each its own GPUs)."""
    dcp: int = 1
    """Decode-context-parallel ranks (they reuse the TP GPUs)."""
    ep: int = 1
    """Groups of experts: 1, or a divisor of ``tp`` that the engine takes."""
    dp_attn: bool = False

    @property
    def gpus(self) -> int:
        """GPUs (or CPU sockets' worth of ranks) that the server occupies."""
        return self.tp * self.pp * self.pcp

    @property
    def dp(self) -> int:
        """Data-parallel ranks."""
        return self.tp if self.dp_attn else 1

    @property
    def tensor_parallel_size(self) -> int:
        """Ranks that share one attention layer."""
        return 1 if self.dp_attn else self.tp

    @property
    def expert_ranks(self) -> int:
        """Ranks that share the experts, whether each expert is cut or the experts are spread."""
        return self.tp * self.pcp

    @property
    def expert_parallel(self) -> bool:
        """Whether experts are spread over the ranks instead of being cut."""
        return self.ep > 1 or (self.dp_attn and self.tp == 1)

    @property
    def label(self) -> str:
        """Short name in ids: ``tp8``, ``tep8``, ``dep8``, ``dpa8`` (attention alone is
        data-parallel), ``tp4.pp2``; sizes at their default are left out."""
        kind = "tep" if self.ep > 1 and self.ep == self.tp else "tp"
        if self.dp_attn:
            kind = "dep" if self.expert_parallel else "dpa"
        sizes = [("pp", self.pp), ("pcp", self.pcp), ("dcp", self.dcp)]
        if self.ep != self.tp:
            sizes.insert(0, ("ep", self.ep))
        extra = [f"{name}{size}" for name, size in sizes if size != 1]
        return ".".join([f"{kind}{self.tp}", *extra])


@dataclass(frozen=True, slots=True)
class Speculative:
    """A draft, as the recipe describes it, with defaults filled in."""

    method: str
    """``eagle3``, ``mtp``, ``ngram``, ..."""
    num_speculative_tokens: int
    model: str | None = None
    """Repository or folder of the draft; None for methods without a draft model."""
    revision: str | None = None
    attention_backend: str | None = None
    """The engine's name of a backend for the draft; None leaves the choice to it."""
    options: FrozenMap = field(default_factory=FrozenMap)
    """Further keys, spelled with underscores."""

    @property
    def injected_length(self) -> float | None:
        """The acceptance length that the engine is told to make up; None: what is accepted is
        measured."""
        if self.options.get("rejection_sample_method") != "synthetic":
            return None
        length, rates = (
            self.options.get(f"synthetic_acceptance_{name}") for name in ("length", "rates")
        )
        if isinstance(rates, tuple):
            return 1.0 + sum(rate for rate in rates if isinstance(rate, int | float))
        return float(length) if isinstance(length, int | float) else None

    def config(self) -> dict[str, object]:
        """The draft as plain data, revisions as written, `options` aside."""
        config: dict[str, object] = {"method": self.method}
        if self.model is not None:
            config["model"] = self.model
        config["num_speculative_tokens"] = self.num_speculative_tokens
        if self.revision is not None:
            config["revision"] = self.revision
        if self.attention_backend is not None:
            config["attention_backend"] = self.attention_backend
        return config


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server, resolved. Equal specs share one process.

    Not part of it: port, API key, GPU ids (host), and the workload (client).
    """

    framework: str
    model: str
    """Repository id or folder, as the recipe writes it."""
    hardware: str
    topology: Topology
    serve: FrozenMap
    """Server flags without dashes, kebab-case, in the order they render: bool, number, string,
    list, or map (one JSON value)."""
    revision: str | None = None
    speculative: Speculative | None = None
    env: FrozenMap = field(default_factory=FrozenMap)
    """Name to string; None unsets it in the server; a map ``{from, default}`` reads the host's
    environment at launch."""
    extra_args: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    """Overrides the option for the engine's command for this server."""
    requires: FrozenMap = field(default_factory=FrozenMap)
    """Distribution name to version specifier."""
    image: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Launch:
    """One fresh start of a server: the unit of statistical evidence, planned before collection."""

    server: str
    """KEY of the server."""
    index: int = 1
    """Counts from 1 within server and arm."""
    arm: str = ""
    """Empty, or ``a``/``b`` where two engines are compared in one run."""
    reserve: bool = False
    """A reserve launch starts only if a case on it is still undecided."""

    def __repr__(self) -> str:
        # As in the ids of tests: pytest prints parameters, and Allure tells a test's history by it.
        if self.arm:
            return f"{self.server}:{self.arm}{self.index}"
        return f"{self.server}:launch{self.index}" if self.index > 1 else self.server

    @property
    def label(self) -> str:
        """``launch-1`` or ``b2``: the name of its records."""
        return f"{self.arm}{self.index}" if self.arm else f"launch-{self.index}"

    @property
    def turn(self) -> int:
        """Place among the launches of its server, from 0; two arms take turns as A B B A."""
        if not self.arm:
            return self.index - 1
        block, second = divmod(self.index - 1, 2)
        # Within its block of four an arm has two places: a the outer ones, b the inner ones.
        return 4 * block + {"a": (0, 3), "b": (1, 2)}[self.arm][second]


def init_subject(server: str) -> str:
    """The name under which the start of a server is judged and recorded, beside its cases' ids."""
    return f"{server}:init"
