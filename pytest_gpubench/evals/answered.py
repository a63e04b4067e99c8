"""What came of an evaluation: of each question whether it was answered right, and why not."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.evals.lm_eval_run import ANSWERS, JUDGED
from pytest_gpubench.model.evaluation import Evaluation
from pytest_gpubench.model.failures import BenchmarkError, Failure

FAILED_SHARE = 0.01
"""Of the questions that may fail (not be answered at all, or not to the end) before the share of
right answers says more about that than about the model."""
_KINDS = {
    "refused": "refused by the server",
    "unanswered": "without an answer",
    "truncated": "cut off at the longest answer allowed",
    "empty": "answered with nothing",
}
"""Failures, apart from answers that are wrong."""
_NEAR_CHANCE = 0.05
_LONGEST_TEXT = 4000
MAX_ARCHIVE = 32 * 2**20
"""Bytes of text of one evaluation that are kept; failures and wrong answers first."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of one evaluation."""

    id: str
    """Digest of the prompt with all its examples."""
    right: bool
    kind: str
    """``right``, ``wrong``, or a kind of failure."""
    said: str
    expected: str
    read: str
    """What the task's filter found in the answer."""
    prompt: object
    error: str = ""
    output_tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """All questions of one evaluation, in the task's order."""

    task: str
    version: str
    lm_eval: str
    questions: tuple[Question, ...]

    @property
    def right(self) -> int:
        return sum(one.right for one in self.questions)

    @property
    def failures(self) -> dict[str, int]:
        """How many questions failed, by kind."""
        counts = Counter(one.kind for one in self.questions)
        return {kind: counts[kind] for kind in _KINDS if counts[kind]}

    @property
    def code(self) -> str:
        """Which were right, as short text: digest of the questions, their number, a bit each."""
        digest = hashlib.sha256("".join(one.id for one in self.questions).encode()).hexdigest()
        return encode_answers(digest[:16], [one.right for one in self.questions])

    def invalid(self) -> tuple[str, ...]:
        """Why the share of right answers does not count; empty where it does."""
        failures, asked = self.failures, len(self.questions)
        failed = sum(failures.values())
        if failed <= FAILED_SHARE * asked:
            return ()
        told = [f"{number} {_KINDS[kind]}" for kind, number in failures.items()]
        words = f"{failed} of {asked} questions failed: {', '.join(told)}"
        errors = [one.error for one in self.questions if one.error]
        if errors:
            often, count = Counter(errors).most_common(1)[0]
            words += f" ({often[:200]}{f', {count} times' if count > 1 else ''})"
        suspicion = self.suspicion
        return (f"{words}; {suspicion}" if suspicion else words,)

    @property
    def suspicion(self) -> str:
        """What else a score near nothing may mean, empty where it is not so low."""
        said = [one for one in self.questions if not one.error]
        if not said or self.right > _NEAR_CHANCE * len(self.questions):
            return ""
        cut = sum(one.finish_reason == "length" for one in said)
        if 2 * cut < len(said):
            return "hardly anything is right: damaged weights, or another model, are suspected"
        return (
            "hardly anything is right and most answers run to the end of what is allowed: a wrong "
            "chat template, or damaged weights, are suspected"
        )

    def part(self) -> dict[str, Any]:
        """For the record."""
        return {
            "task": self.task,
            "version": self.version,
            "lm_eval": self.lm_eval,
            "asked": len(self.questions),
            "right": self.right,
            "failures": self.failures,
            "answers": self.code,
            "output_tokens_p50": statistics.median(one.output_tokens for one in self.questions),
        }


def encode_answers(digest: str, right: Sequence[bool]) -> str:
    """Digest of the list of questions, their number, and a bit for each, as text."""
    bits = sum(1 << index for index, one in enumerate(right) if one)
    raw = bits.to_bytes((len(right) + 7) // 8, "little")
    return f"{digest}:{len(right)}:{base64.b64encode(raw).decode()}"


def read_answered(folder: Path, evaluation: Evaluation) -> Answered:
    """What lm-eval left in a folder.

    Raises:
        BenchmarkError: if it is not whole, or the task has no such filter or metric.
    """
    try:
        return _read(folder, evaluation)
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = f"lm-eval's results cannot be read: {type(error).__name__}: {error}"
        raise BenchmarkError(Failure("lm-eval-failed", "client", words)) from error


def _read(folder: Path, evaluation: Evaluation) -> Answered:
    answers = {line["question"]: line for line in _lines(folder / ANSWERS)}
    head, *samples = _lines(folder / JUDGED)
    task, version = str(head["task"]), head["version"]
    filters = list(dict.fromkeys(str(sample["filter"]) for sample in samples))
    if not filters:
        raise BenchmarkError(Failure("no-questions", "recipe", f"the task {task} has no questions"))
    wanted = evaluation.filter or filters[0]
    if wanted not in filters:
        raise _not_there(task, "filter", wanted, filters)
    questions = [
        _question(task, sample, answers.get(sample["question"]), evaluation)
        for sample in sorted(samples, key=lambda sample: int(sample["id"]))
        if sample["filter"] == wanted
    ]
    told = "" if version is None else str(version)
    return Answered(task, told, str(head["lm_eval"]), tuple(questions))


def _question(
    task: str, sample: Mapping[str, Any], answer: Mapping[str, Any] | None, evaluation: Evaluation
) -> Question:
    metrics = sample["metrics"]
    if evaluation.metric not in metrics:
        raise _not_there(task, "metric", evaluation.metric, list(metrics))
    value = metrics[evaluation.metric]
    if value not in (0, 1):
        raise BenchmarkError(
            Failure(
                "wrong-metric",
                "recipe",
                f"{evaluation.metric} of {task} is {value!r} for a question, and not 0 or 1",
                remedy="Name a metric in evals that says whether an answer is right.",
            )
        )
    given = answer or {"text": "", "error": "it was never sent", "finish_reason": None}
    right = value == 1 and not given["error"]
    return Question(
        id=str(sample["question"])[:16],
        right=right,
        kind="right" if right else _kind(given),
        said=str(given["text"]),
        expected=str(sample["target"]),
        read=str(sample["read"]),
        prompt=given.get("prompt"),
        error=str(given["error"]),
        output_tokens=int(given.get("output_tokens") or 0),
        prompt_tokens=int(given.get("prompt_tokens") or 0),
        finish_reason=given["finish_reason"],
    )


def _kind(answer: Mapping[str, Any]) -> str:
    if answer["error"]:
        return "refused" if str(answer["error"]).startswith("HTTP") else "unanswered"
    if answer["finish_reason"] == "length":
        return "truncated"
    return "wrong" if str(answer["text"]).strip() else "empty"


def _not_there(task: str, what: str, name: str, known: Sequence[str]) -> BenchmarkError:
    words = f"the task {task} has no {what} '{name}' (it has {', '.join(known)})"
    remedy = f"Correct `{what}` in evals."
    return BenchmarkError(Failure(f"wrong-{what}", "recipe", words, remedy=remedy))


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def archive_lines(answered: Answered) -> Iterator[dict[str, Any]]:
    """What is kept of each question: asked, said, expected, judged. Long texts are cut; beyond
    `MAX_ARCHIVE` only the verdict is kept, of right answers first."""
    room = MAX_ARCHIVE
    for one in sorted(answered.questions, key=lambda one: one.right):
        line = {
            "question": one.id,
            "judged": one.kind,
            "said_digest": said_digest(one.said),
            "finish_reason": one.finish_reason,
            "output_tokens": one.output_tokens,
            "error": one.error,
        }
        texts = {"asked": one.prompt, "said": one.said, "expected": one.expected, "read": one.read}
        shown = {name: _cut(text) for name, text in texts.items()}
        room -= sum(map(len, shown.values()))
        yield line | shown if room > 0 else line


def _cut(text: object) -> str:
    whole = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    if len(whole) <= _LONGEST_TEXT:
        return whole
    half = _LONGEST_TEXT // 2
    return f"{whole[:half]} ... {whole[-half:]}"


def said_digest(text: str) -> str:
    """Of an answer, to tell whether two are the same."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Beside:
    """The same questions asked of another server."""

    common: int
    differing: int
    """Answers of another text."""
    lost: int
    """Right there, wrong here."""
    won: int


def compare(own: Path, other: Path) -> Beside | None:
    """How archived answers differ from those of another evaluation; None where a file cannot be
    read, or the questions are others."""
    here, there = _archived(own), _archived(other)
    if not here or here.keys() != there.keys():
        return None
    pairs = [(line, there[question]) for question, line in here.items()]
    rights = [tuple(line["judged"] == "right" for line in pair) for pair in pairs]
    return Beside(
        len(pairs),
        sum(one["said_digest"] != two["said_digest"] for one, two in pairs),
        rights.count((False, True)),
        rights.count((True, False)),
    )


def _archived(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return {line["question"]: line for line in map(json.loads, file)}
    except (OSError, ValueError, KeyError, EOFError):
        return {}
