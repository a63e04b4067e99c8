"""Texts from outside: nothing in them moves a terminal or commands a CI."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.model.cases import Problem, SourcePosition
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
from pytest_gpubench.model.printing import for_terminal, printable


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\x1b]0;TITLE\x07", r"\x1b]0;TITLE\x07"),
        ("\x1b[2J\x9b31m", r"\x1b[2J\x9b31m"),
        ("a\x00b\x7fc\x08", r"a\x00b\x7fc\x08"),
        ("50%\r100%\r\nnext\tcell", "50%\\x0d100%\nnext\tcell"),
        ("evil\u202etxt.exe", r"evil\u202etxt.exe"),
        ("\ud83d alone", r"\ud83d alone"),
        ("one\u2028::error::two", r"one\u2028::error::two"),
        ("\n::error title=x::y", "\n: :error title=x::y"),
        ("    ::set-output name=a::b", "    : :set-output name=a::b"),
        ("\u00a0::stop-commands::x", "\u00a0: :stop-commands::x"),
        (
            "see ##[error]x and ##vso[task.complete] and ##teamcity[a]",
            "see # #[error]x and # #vso[task.complete] and # #teamcity[a]",
        ),
        ("section_start:1:name\r\x1b[0K", r"section _start:1:name\x0d\x1b[0K"),
    ],
)
def test_what_a_terminal_or_a_ci_would_obey_is_shown_instead(text: str, clean: str) -> None:
    assert for_terminal(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "std::vector<int>",
        "## heading [x]",
        "naïve 😀 ﷽ 日本",
        "a::b\nC++ x::y",
        "::",
        "tiny-bf16:1k1k-c1",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert for_terminal(text).replace(": :", "::") == text
    assert printable(text) == text


@given(
    st.text(st.characters(codec=None), max_size=60)
    | st.text("\x1b\r\n\t :#[a]gsection_travis_fold", max_size=60)
)
def test_nothing_that_is_obeyed_is_left_whatever_the_text(text: str) -> None:
    clean = for_terminal(text)
    assert for_terminal(clean) == clean
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", clean
    )
    assert not re.search(r"^\s*::|##\w*\[", clean, re.MULTILINE)
    clean.encode("utf-8")


def test_every_sentence_of_ours_is_clean_wherever_it_is_shown() -> None:
    failure = Failure(
        "engine-died", "engine", "it said \x1b[2J", ("\x1b]0;x\x07", "::error::no"), "see \x9bx"
    )
    for text in (
        str(failure),
        str(BenchmarkError(failure)),
        str(GpubenchError(str(failure.summary))),
    ):
        assert not re.search("[\x00-\x08\x1b\x9b]", text)
    assert "    : :error::no" in str(failure)
    assert failure.summary == "it said \x1b[2J", "records keep what came"
    assert (
        str(Problem(SourcePosition("r.yaml", 1, 2), "a.\x1b", "unknown key"))
        == r"r.yaml:1:2: a.\x1b: unknown key"
    )
