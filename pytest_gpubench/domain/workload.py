"""What a client sends to a server to measure one point."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pytest_gpubench.domain.frozen import FrozenMap


@dataclass(frozen=True, slots=True)
class Workload:
    """One load point: lengths in tokens, concurrency in requests in flight, and how prompts are made."""

    isl: int
    """Input sequence length asked for, in tokens, chat template included."""
    osl: int
    """Output sequence length asked for, in tokens."""
    conc: int
    """Requests in flight (closed loop)."""
    num_prompts: int
    """Measured requests."""
    num_warmups: int
    """Requests sent, at the tested concurrency, before the measured ones; their outcome is checked, their times are not used."""
    api: Literal["chat", "completions"] = "chat"
    chat_template: str = "server"
    """``server``: the server applies the model's own template; ``none``: the prompt is sent as it is (api completions)."""
    chat_template_kwargs: FrozenMap = field(default_factory=FrozenMap)
    """Passed to the template by the server (a thinking switch, say); it changes acceptance, so it belongs to the workload."""
    dataset: str = "random"
    ignore_eos: bool = True
    temperature: float = 0.0
    range_ratio: float = 0.8
    """Lengths are drawn uniformly from ``[int(range_ratio * L), L]``, L being isl or osl; 1.0: all the same."""
    seed: int = 0

    @property
    def label(self) -> str:
        """Short name in ids: ``1k1k-c64``, ``8k1k-c4``, ``128x32-c1`` where a length is not a multiple of 1024."""
        return f"{self.shape}-c{self.conc}"

    @property
    def shape(self) -> str:
        """The lengths without the concurrency: ``1k1k`` or ``128x32``."""
        if self.isl % 1024 == 0 and self.osl % 1024 == 0:
            return f"{self.isl // 1024}k{self.osl // 1024}k"
        return f"{self.isl}x{self.osl}"
