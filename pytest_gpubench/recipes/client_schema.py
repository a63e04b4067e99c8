"""The schema of a recipe's ``client`` section."""

from __future__ import annotations

from typing import Any, Literal

from pytest_gpubench.recipes.fields import (
    Count,
    Factor,
    HalfWidth,
    MetricName,
    NonNegative,
    PositiveCount,
    Rate,
    Ratio,
    Seconds,
    Seed,
    Temperature,
    Text,
    TokenCount,
    Workers,
)
from pytest_gpubench.recipes.section import Section


class SloKeys(Section):
    """Limits of goodput, in seconds."""

    ttft: Seconds | None = None
    """Time to first token."""
    tpot: Seconds | None = None
    """Time per output token."""
    e2e: Seconds | None = None
    """End to end."""


class ClientKeys(Section):
    """How the load is made."""

    profile: Literal["gpubench", "inferencex"] | None = None
    """`inferencex`: as the original's client, random token ids to `/v1/completions`, every warm-up request is prompt 0."""
    api: Literal["chat", "completions"] | None = None
    """`chat`: `/v1/chat/completions` (default); `completions`: `/v1/completions`."""
    chat_template: Literal["server", "none"] | None = None
    """`server`: the server's chat template (default), with `api: completions` applied beforehand; `none`: no template."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Arguments of the chat template, sent with every request."""
    ignore_eos: bool | None = None
    """Every answer is as long as asked (true)."""
    temperature: Temperature | None = None
    """Sampling temperature (0: greedy)."""
    range_ratio: Ratio | None = None
    """Lengths are drawn from [ratio x length, length] (0.8)."""
    prompts_per_conc: PositiveCount | None = None
    """Measured requests per unit of concurrency (10)."""
    warmups_per_conc: Count | None = None
    """Warm-up requests per unit of concurrency (2)."""
    dataset: Literal["random", "text", "sharegpt", "jsonl", "trace"] | None = None
    """Where prompts come from: `random` words (default), sentences of a `text`, or a file of conversations, requests, a trace."""
    dataset_file: Text | None = None
    """File of the dataset, relative to the recipe file; its contents belong to what makes numbers comparable."""
    seed: Seed | None = None
    """Seed of lengths, texts and schedules (0)."""
    arrival: Literal["closed", "constant", "poisson", "gamma", "trace"] | None = None
    """`closed`: an answer makes room for the next request (default); else a schedule that does not wait for the server."""
    request_rate: Rate | None = None
    """Requests per second of `constant`, `poisson` and `gamma`."""
    burstiness: Factor | None = None
    """Shape of `gamma`: 1 is poisson, less comes in bursts (1)."""
    ramp: NonNegative | None = None
    """Seconds over which concurrency or rate grows, at the start of the warm-up (0)."""
    handover: Literal["drain", "continue"] | None = None
    """From warm-up to measurement: wait until the server is empty (default), or go on without a pause."""
    duration: Seconds | None = None
    """Seconds after which no measured request is sent; prompts-per-conc is then the most."""
    interval: HalfWidth | None = None
    """Stop once the 95% confidence interval of interval-metric is this narrow: 0.02 is 2% to each side."""
    interval_metric: MetricName | None = None
    """The metric of `interval` (output_tput)."""
    prefix_tokens: TokenCount | None = None
    """Tokens at the start of a prompt that all prompts of its group share (0)."""
    prefix_groups: PositiveCount | None = None
    """Number of different shared prefixes (1)."""
    turns: PositiveCount | None = None
    """Requests of one conversation; later ones carry the earlier ones (1)."""
    think_time: NonNegative | None = None
    """Seconds between an answer and the next turn (0)."""
    time_scale: Factor | None = None
    """Factor on the timestamps of a trace: 0.5 is twice as fast (1)."""
    workers: Workers | None = None
    """Processes that share the load (1)."""
    slo: SloKeys | None = None
    """Limits of goodput in seconds: any of ttft, tpot, e2e."""
