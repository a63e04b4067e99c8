"""What a client sends to a server to measure one point, and which parts of it contradict each
other.

Pure: recipes put a contradiction's sentence at its key, the load generator refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pytest_gpubench.model.client_tools import Tool
from pytest_gpubench.model.frozen import FrozenMap, spelled

Arrival: TypeAlias = Literal["closed", "constant", "poisson", "gamma", "trace"]
"""When requests are due: when one before has ended, or by a schedule that does not wait for the
server."""
RATED: tuple[Arrival, ...] = ("constant", "poisson", "gamma")
"""Arrivals by a rate."""


HUB_FILE = re.compile(
    r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?"
    r"/(?P<file>(?:(?!\.\.?(?:/|$))[^/]+(?:/(?!$)|$))+)"
)
"""A file of a data set on the Hugging Face hub, as huggingface_hub writes its address."""


AGENTIC = "agentic"
"""The data set of traces of coding sessions: they have no lengths; a tool replays them."""


BLOCK_TOKENS = 512
"""Mooncake's."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One load point: lengths in tokens, concurrency in requests in flight, and how prompts are
    made."""

    isl: int
    """Input sequence length asked for, in tokens, chat template included."""
    osl: int
    """Output sequence length asked for, in tokens."""
    conc: int
    """Requests in flight (closed loop). In an open loop: connections opened beforehand, not a
    bound."""
    num_prompts: int
    """Measured requests; the most of them where ``duration`` or ``interval`` may end the run
    earlier."""
    num_warmups: int
    """Requests sent, at the tested concurrency, before the measured ones; their outcome is checked,
    their times are not used."""
    api: Literal["chat", "completions", "responses"] = "chat"
    chat_template: str = "server"
    """``server``: the model's own template, applied by the server; with api completions beforehand
    through ``/tokenize``, and token ids are sent. ``none``: the prompt is sent as it is (api
    completions)."""
    chat_template_kwargs: FrozenMap = field(default_factory=FrozenMap)
    """Passed to the template by the server (a thinking switch, say); it changes acceptance, so it
    belongs to the workload."""
    dataset: str = "random"
    """``random`` words, ``text`` (sentences of a corpus), ``sharegpt``, ``jsonl``, ``trace`` or
    ``sessions``."""
    ignore_eos: bool = True
    temperature: float = 0.0
    range_ratio: float = 0.8
    """Lengths are drawn uniformly from ``[int(range_ratio * L), L]``, L being isl or osl; 1.0: all
    the same."""
    seed: int = 0
    arrival: Arrival = "closed"
    request_rate: float = 0.0
    """Requests per second of the open loop (constant, poisson, gamma)."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of gaps: 1 is Poisson, less comes in bursts, more is
    steadier."""
    ramp: float = 0.0
    """Seconds over which concurrency or rate grows to its full value, at the start of the warm-up
    (of the run without one)."""
    handover: Literal["drain", "continue"] = "drain"
    """Between warm-up and measurement: wait until the server is empty, or hand every slot over as
    it becomes free."""
    duration: float | None = None
    """Seconds after which no measured request is sent any more; None: ``num_prompts`` decides."""
    interval: float | None = None
    """Stop once the 95% confidence interval is at most this far from its middle (0.02: 2%); None:
    do not look."""
    interval_metric: str = "output_tput"
    """The metric whose confidence interval is meant."""
    dataset_file: str = ""
    """Path of the dataset's file; empty: the shipped corpus (``text`` only). Its contents, not its
    path, decide comparability."""
    prefix_tokens: int = 0
    """Tokens at the start of a prompt that it shares with others (``random`` and ``text``)."""
    prefix_groups: int = 1
    """Number of different shared prefixes."""
    turns: int = 1
    """Requests of one conversation; later ones carry the earlier ones and recorded answers. Each is
    one of ``num_prompts``."""
    think_time: float = 0.0
    """Seconds between an answer and the next turn."""
    time_scale: float = 1.0
    """Factor on the timestamps of a trace, and on the pauses of one of sessions: 0.5 replays it
    twice as fast."""
    sessions: int = 0
    """Of a trace of sessions: how many of its own are replayed, from the first; 0: all."""
    idle_cap: float | None = None
    """Seconds that a pause in a session lasts at most; None: as long as the trace says."""
    block_tokens: int = BLOCK_TOKENS
    """Tokens of a block that ``hash_ids`` of a trace of sessions name."""
    workers: int = 1
    """Processes that share the load; each measures its own part."""
    slo: FrozenMap = field(default_factory=FrozenMap)
    """Goodput's limits in seconds: any of ``ttft``, ``tpot``, ``e2e``."""
    profile: Literal["gpubench", "inferencex"] = "gpubench"
    """``inferencex``: as the original's client: random token ids to ``/v1/completions``, every
    warm-up request is prompt 0."""
    tool: Tool | None = None
    """What measures in place of our client; None: our client does."""

    @property
    def traced(self) -> bool:
        """Whether a tool replays a trace, which has lengths and counts of its own."""
        return self.tool is not None and (self.dataset == AGENTIC or self.tool.brings_data)

    @property
    def open_loop(self) -> bool:
        """Whether requests are due by a schedule."""
        return self.arrival != "closed"

    @property
    def sends_token_ids(self) -> bool:
        """Whether prompts are made into token ids before they are sent."""
        return self.profile == "inferencex" or (
            self.api == "completions" and self.chat_template == "server"
        )

    @property
    def label(self) -> str:
        """Short name in ids: ``1k1k-c64``, ``8k1k-c4``, ``128x32-c1``, or ``1k1k-r2.5`` where a
        request rate is set."""
        if self.open_loop and self.request_rate:
            return f"{self.shape}-r{f'{self.request_rate:.6f}'.rstrip('0').rstrip('.')}"
        return f"{self.shape}-c{self.conc}"

    @property
    def shape(self) -> str:
        """The lengths without the concurrency: ``1k1k`` or ``128x32``; ``agentic`` of traces."""
        if self.dataset == AGENTIC or not self.isl:
            return AGENTIC
        if self.isl % 1024 == 0 and self.osl % 1024 == 0:
            return f"{self.isl // 1024}k{self.osl // 1024}k"
        return f"{self.isl}x{self.osl}"


SESSIONS = "sessions"
"""The data set of sessions whose turns come after each other; concurrency counts those that
live."""
SESSION_FIELDS = ("sessions", "idle_cap", "block_tokens")
"""Fields that mean something with that data set alone."""
_FILES = ("sharegpt", "jsonl", "trace", SESSIONS)
_DRAWN = ("random", "text")
_SLO = ("ttft", "tpot", "e2e")
_WATCHED = (
    *("output_tput", "input_tput", "total_tput", "request_tput", "interactivity"),
    *("ttft_", "tpot_", "e2e_", "icl_", "itl_"),
)

Contradiction: TypeAlias = tuple[str, str]
"""Key of the recipe's client section, and what is wrong with it, with what to write instead."""


def contradictions(workload: Workload) -> tuple[Contradiction, ...]:
    """Everything about a workload that cannot be run or would silently have no effect; empty: it is
    sound."""
    checks: tuple[Callable[[Workload], Iterator[Contradiction]], ...] = (
        _numbers,
        _profile,
        _template,
        _dataset,
        _schedule,
        _conversation,
        _sessions,
        _ending,
    )
    if workload.tool is not None:
        checks = (_numbers, _rate)  # whatever else it is told is the tool's to judge
    return tuple(contradiction for check in checks for contradiction in check(workload))


def _numbers(it: Workload) -> Iterator[Contradiction]:
    positive = {
        "burstiness": it.burstiness,
        "time-scale": it.time_scale,
        "duration": 1 if it.duration is None else it.duration,
        "idle-cap": 1 if it.idle_cap is None else it.idle_cap,
    }
    counts = {
        "prompts-per-conc": it.num_prompts,
        "turns": it.turns,
        "prefix-groups": it.prefix_groups,
        "workers": it.workers,
        "block-tokens": it.block_tokens,
    }
    natural = {
        "ramp": it.ramp,
        "think-time": it.think_time,
        "prefix-tokens": it.prefix_tokens,
        "request-rate": it.request_rate,
        "sessions-per-conc": it.sessions,
    }
    if it.conc < 1:
        yield "conc", f"the concurrency must be at least 1, not {it.conc}"
    for key, value in positive.items():
        if value <= 0:
            yield key, f"{key} must be above 0, not {value:g}"
    for key, count in counts.items():
        if count < 1:
            yield key, f"{key} must be at least 1, not {count}"
    for key, value in natural.items():
        if value < 0:
            yield key, f"{key} must be at least 0, not {value:g}"
    if it.workers > it.conc:
        yield (
            "workers",
            f"{it.workers} workers cannot share a concurrency of {it.conc}; use at most as many",
        )


def _profile(it: Workload) -> Iterator[Contradiction]:
    if it.profile != "inferencex":
        return
    wanted: dict[str, tuple[object, object]] = {
        "api": (it.api, "completions"),
        "dataset": (it.dataset, "random"),
        "arrival": (it.arrival, "closed"),
        "handover": (it.handover, "drain"),
        "ignore-eos": (it.ignore_eos, True),
        "turns": (it.turns, 1),
        "prefix-tokens": (it.prefix_tokens, 0),
    }
    for key, (value, must) in wanted.items():
        if value != must:
            yield (
                key,
                f"profile inferencex means {key} {spelled(must)}; remove this key, or the profile",
            )


def _template(it: Workload) -> Iterator[Contradiction]:
    if it.chat_template not in ("server", "none"):
        yield "chat-template", f"must be 'server' or 'none', not {it.chat_template!r}"
    if it.api != "completions" and it.chat_template == "none":
        words = (
            f"the {it.api} API always applies the template; use `api: completions`, or "
            "`chat-template: server`"
        )
        yield "chat-template", words
    if it.chat_template == "none" and it.chat_template_kwargs:
        yield (
            "chat-template-kwargs",
            "no chat template is applied that could take them; remove them or use "
            "`chat-template: server`",
        )


def _dataset(it: Workload) -> Iterator[Contradiction]:
    known = (*_DRAWN, *_FILES)
    if it.dataset not in known:
        yield "dataset", f"the dataset {it.dataset!r} is not known; known: {', '.join(known)}"
    if it.dataset in _FILES and not it.dataset_file:
        yield (
            "dataset",
            f"dataset {it.dataset} needs dataset-file, a path relative to the recipe file or "
            "hf://datasets/ORG/NAME/FILE",
        )
    if it.dataset == "random" and it.dataset_file:
        yield (
            "dataset-file",
            "dataset random reads no file; add `dataset: text` (or sharegpt, jsonl, "
            "trace, sessions), or remove this key",
        )
    if it.dataset_file.startswith("hf://") and not HUB_FILE.fullmatch(it.dataset_file):
        yield (
            "dataset-file",
            f"{it.dataset_file} is no address of a data set's file; write "
            "hf://datasets/ORG/NAME/FILE, with @REVISION after NAME where one is meant",
        )
    if "\0" in it.dataset_file:
        yield "dataset-file", "is not a path: it holds a null character"
    if it.dataset not in _DRAWN and it.prefix_tokens:
        yield (
            "prefix-tokens",
            f"dataset {it.dataset} brings its own prompts; shared prefixes are for random and text",
        )
    if it.prefix_groups > 1 and not it.prefix_tokens:
        yield "prefix-groups", "has no effect without prefix-tokens; add them, or remove this key"
    if it.prefix_tokens and it.prefix_tokens >= it.isl:
        yield (
            "prefix-tokens",
            f"a shared prefix of {it.prefix_tokens} tokens leaves nothing of isl {it.isl}",
        )


def _rate(it: Workload) -> Iterator[Contradiction]:
    if it.arrival in RATED and not it.request_rate:
        yield "arrival", f"arrival {it.arrival} needs request-rate, requests per second"
    if it.arrival not in RATED and it.request_rate:
        yield (
            "request-rate",
            f"has no meaning with arrival {it.arrival}; add `arrival: poisson` "
            "(constant, gamma), or remove it",
        )
    if it.arrival != "gamma" and it.burstiness != 1:
        yield "burstiness", f"has no effect with arrival {it.arrival}; use `arrival: gamma`"


def _schedule(it: Workload) -> Iterator[Contradiction]:
    yield from _rate(it)
    if (it.dataset == "trace") != (it.arrival == "trace"):
        yield (
            "arrival",
            "arrival trace and dataset trace belong together: a trace says when its "
            "requests are due",
        )
    if it.dataset not in ("trace", SESSIONS) and it.time_scale != 1:
        yield (
            "time-scale",
            "is a factor on the times of a trace; use `dataset: trace` or `sessions`, or remove it",
        )
    if it.dataset == "trace" and it.handover != "drain":
        yield "handover", "a trace is replayed from its start after a drained warm-up; use drain"
    if it.dataset == "trace" and it.ramp:
        yield "ramp", "a trace has its own times; remove it"


def _conversation(it: Workload) -> Iterator[Contradiction]:
    if it.turns > 1 and it.dataset == "trace":
        yield "turns", "a trace is replayed request by request; its rows are no conversations"
    if it.turns > 1 and it.api == "completions" and it.profile != "inferencex":
        yield "turns", "several turns need `api: chat` or `api: responses`"
    if it.turns == 1 and it.think_time:
        yield (
            "think-time",
            "is the time between the turns of a conversation; add turns, or remove it",
        )


def _sessions(it: Workload) -> Iterator[Contradiction]:
    if it.dataset != SESSIONS:
        only: dict[str, bool] = {
            "sessions-per-conc": it.sessions != 0,
            "idle-cap": it.idle_cap is not None,
            "block-tokens": it.block_tokens != BLOCK_TOKENS,
        }
        for key, written in only.items():
            if written:
                yield key, "is for traces of sessions; add `dataset: sessions`, or remove it"
        return
    wanted: dict[str, tuple[object, object, str]] = {
        "arrival": (it.arrival, "closed", "the next session begins when one is over"),
        "handover": (it.handover, "drain", "sessions begin on a server that is empty"),
        "turns": (it.turns, 1, "the trace has its turns"),
        "think-time": (it.think_time, 0, "the trace has its pauses"),
        "workers": (it.workers, 1, "what prompts share is known within one process"),
    }
    for key, (value, must, why) in wanted.items():
        if value != must:
            yield key, f"with dataset sessions it is {spelled(must)} ({why}); remove it"
    if it.api == "completions":
        yield "api", "sessions are conversations; use `api: chat` or `api: responses`"


def _ending(it: Workload) -> Iterator[Contradiction]:
    if it.interval is not None and not 0 < it.interval < 1:
        yield (
            "interval",
            f"is a part of the metric's value, above 0 and below 1, not {it.interval:g}",
        )
    if it.interval is None and it.interval_metric != "output_tput":
        yield "interval-metric", "has no effect without interval; add it (0.02 is 2%)"
    if not it.interval_metric.startswith(_WATCHED):
        yield (
            "interval-metric",
            f"{it.interval_metric} cannot be followed during a run; use a throughput or a latency",
        )
    unknown = sorted(set(it.slo) - set(_SLO))
    if unknown:
        yield "slo", f"knows {', '.join(_SLO)}, not {', '.join(unknown)}"
