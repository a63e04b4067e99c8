"""``evals`` of a recipe: what may stand there, what is meant where nothing stands, and the cases
that it makes of a server's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.evaluation import ACCURACY, EMBEDDED_TASK, Evaluation
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.fields import Concurrency, Section, Text, Tokens
from pytest_gpubench.recipes.problems import PointError, join_path
from pytest_gpubench.recipes.yaml_tree import Node

LEAST_CONCURRENCY = 16
"""InferenceX evaluates no lower concurrency: few sequences at a time hide what large batches do."""
PROMPT_ROOM = 4096
"""Tokens of the context that InferenceX leaves to a prompt with its examples."""


class EvaluationKeys(Section):
    """A set of questions with known answers, asked of every server of the recipe."""

    task: Text
    """A task of lm-eval that generates its answers (`gsm8k`), the embedded `tiny-recall`, or the
    YAML file of a task of your own, relative to the recipe file."""
    shots: Annotated[int, Field(ge=0, le=100)] | None = None
    """Examples before each question (as the task has it; gsm8k: 5)."""
    limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Only the first so many questions (all)."""
    metric: Text | None = None
    """The task's metric, which must be 0 or 1 for each question (exact_match)."""
    filter: Text | None = None
    """Of a task that reads answers in several ways the one that counts (the task's first; gsm8k:
    strict-match)."""
    at_least: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the questions that must be answered right."""
    max_tokens: Tokens | None = None
    """Of an answer (at most 16384, and what the context leaves beside 4096 tokens of prompt, or
    half of a small context; tiny-recall: 48)."""
    concurrency: Concurrency | Literal["highest-and-median"] | None = None
    """Questions in flight: a number, or `highest-and-median` of those of the longest input
    (default: the highest; of those from 16 on, where there are any)."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What a task means where a recipe says nothing."""

    questions: int
    """All that it has."""
    shots: int | None = None
    filter: str = ""
    max_tokens: int = 16_384


_TASKS = {
    EMBEDDED_TASK: _Task(500, 0, "first-sentence", 48),
    # InferenceX's validate_scores.py demands its threshold of both filters, strict-match and
    # flexible-extract: the stricter one decides.
    "gsm8k": _Task(1319, 5, "strict-match"),
}
_OTHER = _Task(1000)
_NAME = re.compile(r"[a-z0-9.]+(-[a-z0-9.]+)*")


def evaluation_cases(
    keys: Sequence[EvaluationKeys], nodes: Sequence[Node], cases: Sequence[Case], path: str
) -> Iterator[Case]:
    """The evaluations of a recipe's servers, for each task server by server.

    Args:
        keys: ``evals`` of the recipe.
        nodes: the same as they are written.
        cases: of the recipe, all loads.
        path: of the key.

    Raises:
        PointError: where two would have one id, or a task's name cannot be part of one.
    """
    served = grouped(cases, lambda case: case.server)
    taken = {case.id for case in cases}
    for index, (one, node) in enumerate(zip(keys, nodes, strict=True)):
        name = _name(one, node, join_path(path, index))
        for own in served.values():
            concurrencies = _concurrencies(own, one)
            for conc in concurrencies:
                label = f"{name}-c{conc}" if len(concurrencies) > 1 else name
                made = _case(own, one, node, name, label, conc)
                if made.id in taken:
                    words = f"{made.id} is there already; keep one, or give the other task a name"
                    raise PointError(node.at, join_path(path, index), words)
                taken.add(made.id)
                yield made


def _name(keys: EvaluationKeys, node: Node, path: str) -> str:
    at = (node.get("task") or node).at
    text = Path(keys.task).stem if _is_file(keys.task) else keys.task
    name = re.sub(r"[_\s]+", "-", text.lower())
    if not _NAME.fullmatch(name) or name == "init":
        words = (
            f"'{text}' cannot be a part of test ids; name the task or its file with letters, "
            "digits, dots and dashes"
        )
        raise PointError(at, join_path(path, "task"), words)
    if _is_file(keys.task) and not _file(keys, node).is_file():
        words = f"{_file(keys, node)} is no file; give the path of a task's YAML from this file"
        raise PointError(at, join_path(path, "task"), words)
    return name


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))


def _file(keys: EvaluationKeys, node: Node) -> Path:
    written = node.get("task") or node
    return Path(written.at.file).absolute().parent / keys.task


def _concurrencies(cases: Sequence[Case], keys: EvaluationKeys) -> tuple[int, ...]:
    if isinstance(keys.concurrency, int):
        return (keys.concurrency,)
    longest = max(case.workload.isl for case in cases)
    all_of_it = sorted({case.workload.conc for case in cases if case.workload.isl == longest})
    found = [conc for conc in all_of_it if conc >= LEAST_CONCURRENCY] or all_of_it[-1:]
    if keys.concurrency is None:
        return (found[-1],)
    return tuple(dict.fromkeys((found[-1], found[len(found) // 2])))


def _case(
    own: Sequence[Case], keys: EvaluationKeys, node: Node, name: str, label: str, conc: int
) -> Case:
    longest = max(own, key=lambda case: (case.workload.isl, case.workload.osl))
    known = _TASKS.get(keys.task, _OTHER)
    evaluation = Evaluation(
        task=str(_file(keys, node)) if _is_file(keys.task) else keys.task,
        name=name,
        label=label,
        metric=keys.metric or "exact_match",
        filter=keys.filter or known.filter,
        shots=known.shots if keys.shots is None else keys.shots,
        limit=keys.limit,
        max_tokens=keys.max_tokens or _max_tokens(known, [case.max_model_len for case in own]),
        at_least=keys.at_least,
    )
    load = longest.workload
    identifier = f"{longest.server}:{label}"
    words = (word for part in identifier.split(":") for word in part.split("-") if word)
    return replace(
        longest,
        id=identifier,
        workload=Workload(
            isl=load.isl,
            osl=load.osl,
            conc=conc,
            num_prompts=keys.limit or known.questions,
            num_warmups=0,
            chat_template_kwargs=load.chat_template_kwargs,
            ignore_eos=False,
            range_ratio=1.0,
        ),
        evaluation=evaluation,
        tags=tuple(dict.fromkeys((*words, name, ACCURACY))),
        position=node.at,
        gates=FrozenMap(),
    )


def _max_tokens(known: _Task, contexts: Sequence[int | None]) -> int:
    """Within the context of the server, a prompt's room left; half of a small one."""
    if None in contexts:  # the engine takes the model's own, which is not known here
        return known.max_tokens
    context = max(length for length in contexts if length is not None)
    return max(1, min(known.max_tokens, max(context - PROMPT_ROOM, context // 2)))
