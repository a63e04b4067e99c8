"""What a selection that names what does not exist is answered."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gpubench.plugin.items import MARK_FIELDS
from pytest_gpubench.recipes.selection import field_errors, nearest


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("gpubench(hardwar='cpu')", "did you mean 'hardware'"),
        ("not gpubench(xyzzy=1)", "has no field 'xyzzy' (fields: recipe, "),
        ("gpubench(conc='1')", "write conc=1"),
        ("gpubench(conc='many')", "'conc' is a number without quotes, not 'many'"),
        ("gpubench(tp=8, model=3)", "'model' is text in quotes, not 3; write model='3'"),
        ("gpubench(dp_attn=1)", "write dp_attn=True"),
        ("gpubench(tp=True)", "'tp' is a number"),
        ("h100 or gpubench(isl=\"8\")", "write isl=8"),
    ],
)  # fmt: skip
def test_a_wrong_field(expression: str, words: str) -> None:
    (wrong,) = field_errors(expression, MARK_FIELDS)
    assert words in wrong


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "h100",
        "gpubench(conc=1, case='a:b')",
        "other(hardwar='x')",
        "gpubench(conc=)",
        "gpubench",
    ],
)
def test_no_wrong_field(expression: str) -> None:
    assert field_errors(expression, MARK_FIELDS) == []


def test_the_nearest_value_and_word() -> None:
    values: dict[str, set[Any]] = {"hardware": {"cpu", "h100"}, "conc": {1, 16}}
    assert nearest("gpubench(hardware='cup', conc=3)", ["cpu"], values) == [
        "no case has hardware='cup'; did you mean 'cpu'?",
        "no case has conc=3 (there is 1, 16)",
    ]
    assert nearest("tinny and not h10", ["tiny", "h100"], {}) == [
        "no case has the word 'tinny'; did you mean 'tiny'?"
    ]
