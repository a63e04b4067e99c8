"""From a workload to AIPerf's command line. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.model.client_tools import Tool
from pytest_gpubench.model.frozen import Frozen, FrozenMap, spelled, thaw
from pytest_gpubench.model.workload import Workload

_GOODPUT = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e": "request_latency"}
"""Limits of goodput, by AIPerf's names; in milliseconds there."""
_DEFAULTS: dict[str, Frozen] = {"gpu-telemetry": False, "server-metrics": False}
"""Said unless the recipe says otherwise: GPUs and counters are watched here."""


@dataclass(frozen=True, slots=True)
class AiperfPlan:
    """One run of AIPerf against a server."""

    url: str
    """Root of the server."""
    model: str
    """Served model name."""
    workload: Workload
    tokenizer: str
    """Repository whose tokenizer makes prompts of a length; it must be in the cache."""
    folder: str
    """Where it writes its files."""
    seed: int = 0
    """Of its random numbers, unless the recipe gives one."""
    revision: str = ""
    """Commit of the tokenizer's repository; empty: its main branch."""
    trust_remote_code: bool = False
    """Whether the tokenizer may bring code, as the server was allowed."""

    @property
    def tool(self) -> Tool:
        """What is run.

        Raises:
            ValueError: if the workload is our own client's.
        """
        if self.workload.tool is None:
            raise ValueError("the workload names no tool")
        return self.workload.tool


def aiperf_words(plan: AiperfPlan) -> tuple[str, ...]:
    """The words behind ``aiperf``, without the server's key."""
    told = {**_DEFAULTS, **_own(plan), **plan.tool.arguments}
    told["extra-inputs"] = FrozenMap(_inputs(plan.workload) | dict(_more_inputs(plan.tool)))
    words = [word for name, value in told.items() for word in _flag(name, value)]
    return ("profile", *words)


def _own(plan: AiperfPlan) -> dict[str, Frozen]:
    """What the recipe's rows and keys decide; arguments never name it, but for defaults."""
    load = plan.workload
    told: dict[str, Frozen] = {
        "url": plan.url,
        "model": plan.model,
        "endpoint-type": load.api,
        "streaming": True,
        "use-server-token-count": True,
        "output-artifact-dir": plan.folder,
        "ui-type": "none",
        "random-seed": plan.seed,
        "tokenizer": plan.tokenizer,
    }
    if plan.revision and "tokenizer" not in plan.tool.arguments:
        told["tokenizer-revision"] = plan.revision
    if plan.trust_remote_code:
        told["tokenizer-trust-remote-code"] = True
    if plan.tool.scenario:
        told["scenario"] = plan.tool.scenario
    if load.open_loop:
        told |= {"request-rate": load.request_rate, "arrival-pattern": load.arrival}
        if load.arrival == "gamma":
            told["arrival-smoothness"] = load.burstiness
    else:
        told["concurrency"] = load.conc
    if load.duration is not None:
        told["benchmark-duration"] = load.duration
    if load.osl:
        told["osl"] = load.osl
    if not load.traced:
        told |= {"isl": load.isl, "request-count": load.num_prompts}
        if load.num_warmups:
            told["warmup-request-count"] = load.num_warmups
    if load.slo:
        limits = thaw(load.slo).items()
        told["goodput"] = " ".join(f"{_GOODPUT[name]}:{at * 1e3:g}" for name, at in limits)
    return told


def _inputs(load: Workload) -> dict[str, Any]:
    """What our client would send with every request as well."""
    inputs: dict[str, Any] = {"ignore_eos": load.ignore_eos, "temperature": load.temperature}
    if load.chat_template_kwargs and load.api == "chat":
        inputs["chat_template_kwargs"] = thaw(load.chat_template_kwargs)
    return inputs


def _more_inputs(tool: Tool) -> Mapping[str, Frozen]:
    given = tool.arguments.get("extra-inputs")
    return given if isinstance(given, FrozenMap) else {}


def _flag(name: str, value: Frozen) -> Iterator[str]:
    """A switch, ``--name=value`` (so that no value passes for a flag), or several of them."""
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
    elif isinstance(value, tuple):
        yield from (f"--{name}={spelled(item)}" for item in value)
    elif isinstance(value, FrozenMap):
        yield f"--{name}={json.dumps(thaw(value))}"
    else:
        yield f"--{name}={spelled(value)}"
