"""What came of an evaluation, read from the files of the process that asked."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.evals import answered as module
from pytest_gpubench.evals.answered import (
    archive_lines,
    compare,
    encode_answers,
    read_answered,
)
from pytest_gpubench.evals.lm_eval_run import ANSWERS, JUDGED
from pytest_gpubench.gate.accuracy_verdicts import decode_answers
from pytest_gpubench.model.evaluation import Evaluation
from pytest_gpubench.model.failures import BenchmarkError

ASKED = Evaluation("sums", "sums", "sums")


def write(folder: Path, answers: list[dict[str, Any]], filters: tuple[str, ...] = ("a",)) -> None:
    """A folder as it is when the process has ended; an answer ``right`` is judged so."""
    head = {"task": "sums", "lm_eval": "0.4.13", "version": None}
    judged: list[dict[str, Any]] = [head]
    lines = []
    for index, answer in enumerate(answers):
        question = hashlib.sha256(str(index).encode()).hexdigest()
        said = {"text": "because", "finish_reason": "stop", "error": "", "output_tokens": 3}
        lines.append({"question": question, "prompt": "?", **said, **answer})
        right = float(answer.get("right", 0))
        judged += [
            {"id": index, "question": question, "filter": name, "target": "4", "read": "5"}
            | {"metrics": {"exact_match": right, "f1": 0.3}}
            for name in filters
        ]
    for name, kept in ((ANSWERS, lines), (JUDGED, judged)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in kept))


def test_failures_are_told_apart_from_wrong_answers(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"right": 1},
            {"right": 0},
            {"error": "HTTP 400: too long", "text": ""},
            {"error": "APITimeoutError: late", "text": ""},
            {"finish_reason": "length"},
            {"text": " \n"},
            {"finish_reason": "length", "right": 1},
        ],
    )
    found = read_answered(tmp_path, ASKED)
    assert [one.kind for one in found.questions] == [
        *("right", "wrong", "refused", "unanswered", "truncated", "empty", "right"),
    ]
    assert found.right == 2
    assert found.failures == {"refused": 1, "unanswered": 1, "truncated": 1, "empty": 1}
    (words,) = found.invalid()
    assert words.startswith("4 of 7 questions failed: 1 refused by the server, 1 without an answer")


@pytest.mark.parametrize(("failed", "invalid"), [(0, False), (2, False), (3, True)])
def test_more_than_a_hundredth_of_failures_voids_the_share(
    tmp_path: Path, failed: int, invalid: bool
) -> None:
    write(tmp_path, [{"text": ""}] * failed + [{"right": 1}] * (200 - failed))
    assert bool(read_answered(tmp_path, ASKED).invalid()) == invalid


def test_an_answer_that_was_never_sent_is_no_wrong_answer(tmp_path: Path) -> None:
    write(tmp_path, [{"right": 1}, {"right": 0}])
    lines = (tmp_path / ANSWERS).read_text().splitlines()
    (tmp_path / ANSWERS).write_text(lines[0] + "\n")
    assert read_answered(tmp_path, ASKED).failures == {"unanswered": 1}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"finish_reason": "length"}, "a wrong chat template, or damaged weights"),
        ({}, "damaged weights, or another model"),
        ({"right": 1}, ""),
    ],
)
def test_a_share_near_nothing_raises_a_suspicion(
    tmp_path: Path, answer: dict[str, Any], words: str
) -> None:
    write(tmp_path, [answer] * 20)
    found = read_answered(tmp_path, ASKED).suspicion
    assert words in found
    assert bool(words) == bool(found)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"filter": "b"}, "the task sums has no filter 'b' (it has a)"),
        ({"metric": "bleu"}, "the task sums has no metric 'bleu' (it has exact_match, f1)"),
        ({"metric": "f1"}, "f1 of sums is 0.3 for a question, and not 0 or 1"),
    ],
)
def test_what_the_task_does_not_have_is_a_sentence(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    write(tmp_path, [{"right": 1}])
    with pytest.raises(BenchmarkError, match="evals") as error:
        read_answered(tmp_path, Evaluation("sums", "sums", "sums", **keys))
    assert words in str(error.value)
    assert error.value.failure.failure_class == "recipe"


@pytest.mark.parametrize("text", ["", "{", '{"task": "sums"}\n{}\n', "[]\n"])
def test_half_a_result_is_a_sentence(tmp_path: Path, text: str) -> None:
    write(tmp_path, [{"right": 1}])
    (tmp_path / JUDGED).write_text(text)
    with pytest.raises(BenchmarkError, match="lm-eval's results cannot be read"):
        read_answered(tmp_path, ASKED)


def test_a_task_without_questions_is_a_sentence(tmp_path: Path) -> None:
    write(tmp_path, [])
    with pytest.raises(BenchmarkError, match="has no questions"):
        read_answered(tmp_path, ASKED)


def test_the_archive_is_bounded_and_keeps_the_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ARCHIVE", 6_000)
    write(tmp_path, [{"right": 1, "text": "x" * 9000}, {"text": "y" * 9000}])
    wrong, right = archive_lines(read_answered(tmp_path, ASKED))
    assert wrong["judged"] == "wrong"
    assert len(wrong["said"]) < 4100
    assert right["judged"] == "right"
    assert "said" not in right


def test_archived_answers_are_compared(tmp_path: Path) -> None:
    files: list[Path] = []
    given: tuple[tuple[str, list[dict[str, Any]]], ...] = (
        ("own", [{"right": 0}, {"right": 1, "text": "other"}, {"right": 1}, {"right": 1}]),
        ("there", [{"right": 1}, {"right": 1}, {"right": 0}, {"right": 1}]),
    )
    for name, answers in given:
        (tmp_path / name).mkdir()
        write(tmp_path / name, answers)
        files.append(tmp_path / f"{name}.gz")
        with gzip.open(files[-1], "wt") as file:
            for line in archive_lines(read_answered(tmp_path / name, ASKED)):
                file.write(json.dumps(line) + "\n")
    beside = compare(*files)
    assert beside is not None
    assert (beside.common, beside.differing, beside.lost, beside.won) == (4, 1, 1, 1)
    assert compare(files[0], tmp_path / "nothing.gz") is None


@given(st.lists(st.booleans()))
@settings(deadline=None)
def test_answers_survive_their_code(right: list[bool]) -> None:
    assert decode_answers(encode_answers("abc", right)) == ("abc", tuple(right))


@given(st.text())
@settings(deadline=None)
def test_any_text_is_read_as_a_code_or_as_nothing(text: str) -> None:
    digest, right = decode_answers(text)
    assert right == () or digest == text.split(":")[0]
