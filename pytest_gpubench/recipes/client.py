"""The ``client`` section of one point: from rendered values to a workload, its contradictions at their keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_gpubench.model.cases import SourcePosition
from pytest_gpubench.model.frozen import FrozenMap, freeze
from pytest_gpubench.model.workload import Workload, contradictions
from pytest_gpubench.recipes.client_schema import ClientKeys
from pytest_gpubench.recipes.problems import PointError, join_path
from pytest_gpubench.recipes.rows import Point
from pytest_gpubench.recipes.yamltree import Node

PROMPTS_PER_CONC = 10
WARMUPS_PER_CONC = 2
_FLOATS = ("temperature", "range_ratio", "request_rate", "burstiness", "ramp", "duration", "interval", "think_time", "time_scale")
"""One number is one number, written 2 or 2.0: workloads are compared and hashed."""


def given_keys(keys: ClientKeys, node: Node) -> dict[str, Any]:
    """The keys that are written, as fields of a workload (and the two counts per unit of concurrency)."""
    given = {name: value for name, value in keys.model_dump(by_alias=False).items() if value is not None}
    for name in _FLOATS:
        if name in given:
            given[name] = float(given[name])
    if "slo" in given:
        given["slo"] = {name: float(value) for name, value in given["slo"].items() if value is not None}
    if "dataset_file" in given:
        written = node.get("dataset-file") or node
        given["dataset_file"] = str(Path(written.at.file).absolute().parent / given["dataset_file"])
    return {name: freeze(value) for name, value in given.items()}


def workload_of(point: Point, given: Mapping[str, Any], node: Node, path: str, max_model_len: int) -> Workload:
    """The workload of a point.

    Args:
        given: of ``given_keys``.
        node: the section, or the recipe where it has none: where faults are placed.
        path: key path of the section.

    Raises:
        PointError: if keys contradict each other, the point's draft, or the server's context length.
    """
    fields = dict(given)
    if fields.get("profile") == "inferencex":  # the original applies a template for a draft only
        fields = {"api": "completions", "chat_template": "server" if point.speculative else "none", **fields}
    prompts, warmups = fields.pop("prompts_per_conc", PROMPTS_PER_CONC), fields.pop("warmups_per_conc", WARMUPS_PER_CONC)
    workload = Workload(
        isl=point.isl,
        osl=point.osl,
        conc=point.conc,
        num_prompts=prompts * point.conc,
        num_warmups=warmups * point.conc,
        **{"slo": FrozenMap(), **fields},
    )
    fault = _fault(workload, point, max_model_len)
    if fault is not None:
        key, words = fault
        raise PointError(_place(node, key), join_path(path, key), words)
    return workload


def _fault(workload: Workload, point: Point, max_model_len: int) -> tuple[str, str] | None:
    if workload.chat_template == "none" and point.speculative:
        words = "speculative decoding is measured through the chat template (acceptance on raw text means nothing); use server"
        return "chat-template", words
    if workload.profile == "inferencex" and workload.chat_template == "server" and not point.speculative:
        return "chat-template", "profile inferencex applies the template for a draft only; remove this key, or the profile"
    needed = workload.turns * (point.isl + point.osl)
    if workload.turns > 1 and needed > max_model_len:
        words = f"{workload.turns} turns of isl {point.isl} and osl {point.osl} grow to {needed} tokens, the server takes "
        return "turns", f"{words}{max_model_len}; raise serve.max-model-len"
    return next(iter(contradictions(workload)), None)


def _place(node: Node, key: str) -> SourcePosition:
    found = node.get(key)
    return (found or node).at
