"""What a client sends to a server to measure one point."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pytest_gpubench.model.frozen import FrozenMap

Arrival: TypeAlias = Literal["closed", "constant", "poisson", "gamma", "trace"]
"""When requests are due: when one before has ended, or by a schedule that does not wait for the server."""
RATED: tuple[Arrival, ...] = ("constant", "poisson", "gamma")
"""Arrivals by a rate."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One load point: lengths in tokens, concurrency in requests in flight, and how prompts are made."""

    isl: int
    """Input sequence length asked for, in tokens, chat template included."""
    osl: int
    """Output sequence length asked for, in tokens."""
    conc: int
    """Requests in flight (closed loop). In an open loop: connections opened beforehand, not a bound."""
    num_prompts: int
    """Measured requests; the most of them where ``duration`` or ``interval`` may end the run earlier."""
    num_warmups: int
    """Requests sent, at the tested concurrency, before the measured ones; their outcome is checked, their times are not used."""
    api: Literal["chat", "completions"] = "chat"
    chat_template: str = "server"
    """``server``: the model's own template, applied by the server; with api completions beforehand through ``/tokenize``, and token
    ids are sent. ``none``: the prompt is sent as it is (api completions)."""
    chat_template_kwargs: FrozenMap = field(default_factory=FrozenMap)
    """Passed to the template by the server (a thinking switch, say); it changes acceptance, so it belongs to the workload."""
    dataset: str = "random"
    """``random`` words, ``text`` (sentences of a corpus), ``sharegpt``, ``jsonl`` or ``trace``."""
    ignore_eos: bool = True
    temperature: float = 0.0
    range_ratio: float = 0.8
    """Lengths are drawn uniformly from ``[int(range_ratio * L), L]``, L being isl or osl; 1.0: all the same."""
    seed: int = 0
    arrival: Arrival = "closed"
    request_rate: float = 0.0
    """Requests per second of the open loop (constant, poisson, gamma)."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of gaps: 1 is Poisson, less comes in bursts, more is steadier."""
    ramp: float = 0.0
    """Seconds over which concurrency or rate grows to its full value, at the start of the warm-up (of the run without one)."""
    handover: Literal["drain", "continue"] = "drain"
    """Between warm-up and measurement: wait until the server is empty, or hand every slot over as it becomes free."""
    duration: float | None = None
    """Seconds after which no measured request is sent any more; None: ``num_prompts`` decides."""
    interval: float | None = None
    """Stop once the 95% confidence interval is at most this far from its middle (0.02: 2%); None: do not look."""
    interval_metric: str = "output_tput"
    """The metric whose confidence interval is meant."""
    dataset_file: str = ""
    """Path of the dataset's file; empty: the shipped corpus (``text`` only). Its contents, not its path, decide comparability."""
    prefix_tokens: int = 0
    """Tokens at the start of a prompt that it shares with others (``random`` and ``text``)."""
    prefix_groups: int = 1
    """Number of different shared prefixes."""
    turns: int = 1
    """Requests of one conversation; later ones carry the earlier ones and recorded answers. Each is one of ``num_prompts``."""
    think_time: float = 0.0
    """Seconds between an answer and the next turn."""
    time_scale: float = 1.0
    """Factor on the timestamps of a trace: 0.5 replays it twice as fast."""
    workers: int = 1
    """Processes that share the load; each measures its own part."""
    slo: FrozenMap = field(default_factory=FrozenMap)
    """Goodput's limits in seconds: any of ``ttft``, ``tpot``, ``e2e``."""
    profile: Literal["gpubench", "inferencex"] = "gpubench"
    """``inferencex``: as the original's client: random token ids to ``/v1/completions``, every warm-up request is prompt 0."""

    @property
    def open_loop(self) -> bool:
        """Whether requests are due by a schedule."""
        return self.arrival != "closed"

    @property
    def sends_token_ids(self) -> bool:
        """Whether prompts are made into token ids before they are sent."""
        return self.profile == "inferencex" or (self.api == "completions" and self.chat_template == "server")

    @property
    def label(self) -> str:
        """Short name in ids: ``1k1k-c64``, ``8k1k-c4``, ``128x32-c1``, or ``1k1k-r2.5`` where a request rate is set."""
        if self.open_loop and self.request_rate:
            return f"{self.shape}-r{f'{self.request_rate:.6f}'.rstrip('0').rstrip('.')}"
        return f"{self.shape}-c{self.conc}"

    @property
    def shape(self) -> str:
        """The lengths without the concurrency: ``1k1k`` or ``128x32``."""
        if self.isl % 1024 == 0 and self.osl % 1024 == 0:
            return f"{self.isl // 1024}k{self.osl // 1024}k"
        return f"{self.isl}x{self.osl}"
