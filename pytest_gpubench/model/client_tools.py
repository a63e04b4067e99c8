"""Load generators of others that measure in place of our client, and what a recipe may say to
them.

Pure: recipes put a fault's sentence at its key, the load room makes the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pytest_gpubench.model.frozen import Frozen, FrozenMap, canonical_json
from pytest_gpubench.model.secrets import secret_inside

ToolName: TypeAlias = Literal["aiperf"]
SERIES = "0.13"
"""The releases of AIPerf whose output is read here; numbers of another series are not compared
with theirs."""
DATA = ("input-file", "public-dataset", "hf-weka-dataset")
"""Arguments that bring conversations or a trace in place of drawn lengths."""
INPUT_FILE = "input-file"
"""The argument that names a file: its contents decide what is comparable."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A load generator that is run in place of our client."""

    name: ToolName
    scenario: str = ""
    """Its own word for a set of locked settings."""
    arguments: FrozenMap = field(default_factory=FrozenMap)
    """Further flags of its command line, without dashes."""

    @property
    def brings_data(self) -> bool:
        """Whether its arguments name a trace, so that lengths and counts are the trace's."""
        return any(name in self.arguments for name in DATA)

    @property
    def label(self) -> str:
        """Tool and series: what numbers of different tools differ in."""
        return f"{self.name} {SERIES}"


_OURS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("url", "u"), "the server is the recipe's"),
    (("model", "model-names", "m"), "the recipe's `model` says it"),
    (("api-key",), "the server's key is handed over in the environment, never in a command line"),
    (("header", "H"), "a header may hold a key, and every user of a host can read command lines"),
    (("endpoint-type",), "write `client.api`"),
    (("scenario",), "write `client.scenario`"),
    (("streaming",), "it is always on: there is no first token without a stream"),
    (("use-server-token-count",), "it is always on: tokens are those that the server counts"),
    (("concurrency",), "it is the row's `conc`"),
    (("request-count", "num-requests"), "write `client.prompts-per-conc`"),
    (("warmup-request-count", "num-warmup-requests"), "write `client.warmups-per-conc`"),
    (("isl", "prompt-input-tokens-mean", "synthetic-input-tokens-mean"), "it is the row's `isl`"),
    (("osl", "prompt-output-tokens-mean", "output-tokens-mean"), "it is the row's `osl`"),
    (("benchmark-duration",), "write `client.duration`"),
    (("request-rate",), "write `client.request-rate`"),
    (("arrival-pattern", "request-rate-mode"), "write `client.arrival`"),
    (("arrival-smoothness",), "write `client.burstiness`"),
    (("goodput",), "write `client.slo`"),
    (
        (
            *("output-artifact-dir", "artifact-dir", "profile-export-prefix"),
            *("profile-export-file", "export-level", "profile-export-level"),
        ),
        "its files are kept beside the case's record",
    ),
    (
        ("ui", "ui-type", "verbose", "v", "extra-verbose", "vv", "log-level"),
        "its progress is read from its log",
    ),
    (("config", "f"), "what is measured stands in the recipe; write its keys as arguments"),
    (("num-profile-runs",), "launches and rounds are counted here (`client.rounds`)"),
    (("isl-osl-pairs",), "write a row for each pair"),
    (
        ("system-prompt-file",),
        "what it holds would be no part of what is comparable; write the prompt into the trace",
    ),
    (("api-port", "api-host", "stream"), "nobody else is to ask it while it measures"),
)
_OUR_WORD = {name: why for names, why in _OURS for name in names}
_OUR_FAMILIES = (
    (("search-", "sweep-", "parameter-sweep-", "convergence-", "variant"), "write one row a point"),
    (("otel-", "mlflow-", "wandb-"), "a run is offline; export our records instead"),
)
_KEYS = frozenset(
    {
        *("api", "chat_template_kwargs", "ignore_eos", "temperature", "seed", "rounds"),
        *("duration", "slo", "tool", "scenario", "arguments"),
    }
)
"""Of the recipe's client section, what means something to the tool whatever it replays."""
_DRAWN_KEYS = frozenset(
    {"prompts_per_conc", "warmups_per_conc", "arrival", "request_rate", "burstiness"}
)
"""What means something only where the tool draws lengths."""
_NEUTRAL: dict[str, Frozen] = {
    "profile": "gpubench", "dataset": "random", "range_ratio": 1.0, "handover": "drain",
    "ramp": 0.0, "chat_template": "server", "prefix_tokens": 0, "prefix_groups": 1, "turns": 1,
    "think_time": 0.0, "time_scale": 1.0, "workers": 1, "arrival": "closed",
}  # fmt: skip
"""Values that ask for nothing which the tool lacks."""


def arguments_fault(tool: Tool) -> tuple[str, str] | None:
    """The first argument that cannot be used, and why; None: all can."""
    return next(_argument_faults(tool), None)


def _argument_faults(tool: Tool) -> Iterator[tuple[str, str]]:
    for name, value in tool.arguments.items():
        why = _ours(name)
        if name.startswith("-") or "_" in name or not name.replace("-", "").isalnum():
            wanted = name.strip("-").replace("_", "-")
            yield name, f"write the flag of {tool.name} without dashes before it: '{wanted}'"
        elif why:
            yield name, f"is not for a recipe to say: {why}"
        elif name == "extra-inputs" and not isinstance(value, FrozenMap):
            yield name, "write a map of what goes into every request, such as {top_p: 0.9}"
        elif name == INPUT_FILE and not (isinstance(value, str) and value):
            yield name, "must be the path of a file, from the recipe file's folder"
        elif isinstance(value, tuple) and any(isinstance(it, FrozenMap | tuple) for it in value):
            yield name, "must be a switch, a number, a text, a map, or a list of numbers and texts"
        elif secret := secret_inside(canonical_json(value)) or secret_inside(f"{name}={value}"):
            yield (
                name,
                f"holds a value of {secret}, and every user of a host can read command lines",
            )


def _ours(name: str) -> str:
    if name.endswith("-burstiness"):  # its other name for the smoothness has an engine's before it
        name = "arrival-smoothness"
    of_family = (why for starts, why in _OUR_FAMILIES if name.startswith(starts))
    return _OUR_WORD.get(name) or next(of_family, "")


def key_fault(tool: Tool, given: dict[str, Frozen], *, agentic: bool) -> tuple[str, str] | None:
    """The first key of a client section that the tool does not take, and why.

    Args:
        given: the keys that are written, as fields of a workload.
        agentic: whether the row has sessions of a trace, not lengths.
    """
    if tool.scenario and not agentic:
        return "scenario", "a scenario replays traces: it is for rows of agentic-coding"
    traced = agentic or tool.brings_data
    for name, value in given.items():
        key = name.replace("_", "-")
        if name in _KEYS or (name in _NEUTRAL and _NEUTRAL[name] == value):
            continue
        if name in _DRAWN_KEYS and not traced:
            continue
        if name in _DRAWN_KEYS:
            return key, f"the trace that {tool.name} replays says that; remove it"
        return key, f"{tool.name} does not take it; write its own flag under `arguments`, or null"
    return None
