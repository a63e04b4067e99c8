from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.recipes.expressions import (
    MAX_VALUE,
    ExpressionError,
    Value,
    parse,
    pow2ceil,
    render,
    split,
)

NAMES: dict[str, Value] = {
    "conc": 64,
    "isl": 8192,
    "tp": 8,
    "dp_attn": True,
    "hardware": "h100",
    "spec_tokens": 3,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("conc * (1 + spec_tokens)", 256),
        ("min(max(4, pow2ceil(conc * 3)), 2048)", 256),
        ("conc / 2", 32),
        ("conc / 3 > 21", True),
        ("7 // 2", 3),
        ("-7 % 4", 1),
        ("ceil(conc / 7)", 10),
        ("floor(conc / 7)", 9),
        ("0.9 if dp_attn else 0.94", 0.9),
        ("conc in [1, 64]", True),
        ("conc not in [1, 64]", False),
        ("isl >= 8192 and conc >= 64 or false", True),
        ("not dp_attn", False),
        ("1 < conc <= 64", True),
        ("hardware == 'h100'", True),
        ('hardware in ["h200", "b200"]', False),
        ("dp_attn == true", True),
        ("conc == 64.0", True),
        ("+conc\n  + 1", 65),
    ],
)
def test_value(text: str, value: Value) -> None:
    result = parse(text).evaluate(NAMES)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cnc * 2", "unknown name 'cnc'; did you mean 'conc'?"),
        ("conc / 0", "division by zero"),
        ("conc % (tp - 8)", "division by zero"),
        ("conc + dp_attn", "True is not a number"),
        ("conc and dp_attn", "64 is not true or false"),
        ("1 if conc else 2", "64 is not true or false"),
        ("hardware + 'x'", "'h100' is not a number"),
        ("hardware < 'x'", "only == and != compare it"),
        ("hardware == 1", "different kinds"),
        ("dp_attn == 1", "different kinds"),
        ("conc in isl", "`in` needs a list"),
        ("conc == [64]", "different kinds"),
        ("[1, 2]", "only good for `in`"),
        ("1000000000 * 1000000000", "beyond"),
        ("1e999", "beyond"),
    ],
)
def test_evaluation_error(text: str, words: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse(text).evaluate(NAMES)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("conc *", "is not an expression"),
        ("__import__('os')", "no function '__import__'"),
        ("conc.real", "attribute is not allowed"),
        ("conc[0]", "subscript is not allowed"),
        ("lambda: 1", "lambda is not allowed"),
        ("[x for x in [1]]", "listcomp is not allowed"),
        ("f'{conc}'", "joinedstr is not allowed"),
        ("2 ** 9", "`**` is not allowed"),
        ("conc & 1", "bitand is not allowed"),
        ("1j", "is not allowed"),
        ("None", "is not allowed"),
        ("min()", "min() takes 2 to 20 numbers"),
        ("max(conc)", "max() takes 2 to 20 numbers"),
        ("ceil(1, 2)", "ceil() takes one number"),
        ("max(1, key=2)", "max() takes"),
        ("mx(1, 2)", "no function 'mx'; did you mean 'max'?"),
        ("1 " + "+ 1" * 200, "the limit is 300"),
        ("(" * 150 + "1" + ")" * 149, "is not an expression"),
        ("not " * 74 + "true", ""),
        ("+".join("1" * 90), "more than 150 parts"),
        ("a\0b", "is not an expression"),
    ],
)
def test_grammar(text: str, words: str) -> None:
    if not words:
        assert parse(text).evaluate({}) is True
        return
    with pytest.raises(ExpressionError) as raised:
        parse(text)
    assert words in str(raised.value)


def test_names_are_known_before_evaluation() -> None:
    assert parse("min(conc, 4) if dp_attn else max(isl, true)").names == {"conc", "dp_attn", "isl"}


@given(st.integers(1, 10**9))
def test_pow2ceil(value: int) -> None:
    power = pow2ceil(value)
    assert power >= value > power // 2 or value == power == 1
    assert math.log2(power).is_integer()


def test_pow2ceil_of_fractions() -> None:
    assert [pow2ceil(value) for value in (0, 0.2, 1, 1.5, 2, 2.01, 4)] == [1, 1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${isl * 2}", 16384),
        ("${dp_attn}", True),
        ("x-${conc}-${dp_attn}", "x-64-true"),
        ("$${conc}", "${conc}"),
        ("a$b", "a$b"),
        ("", ""),
        ("${'}' == '}'}", True),
        ("${1}${2}", "12"),
    ],
)
def test_render(text: str, value: Value) -> None:
    assert render(text, NAMES) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${conc", "not closed"),
        ("${hardware}", "only for comparing"),
        ("x${}", "empty"),
        ("x${multiples(1, 2)}", "as the whole value of a key"),
        ("${1 + multiples(1, 2)}", "is not a number"),
        ("${multiples(1, 20000)}", "0 to 10000 numbers, not 20000"),
        ("${multiples(1, 1.5)}", "whole numbers"),
        ("${multiples(1e14, 100)}", "beyond"),
        ("${multiples(1)}", "takes 2 to 20"),
    ],
)
def test_render_error(text: str, words: str) -> None:
    with pytest.raises(ExpressionError, match=words):
        render(text, NAMES)


def test_multiples_are_a_list() -> None:
    assert render("${multiples(1 + spec_tokens, 3, 6, 8)}", NAMES) == [4, 6, 8, 12]
    assert render("${multiples(4, 0)}", NAMES) == []
    assert parse("8 in multiples(4, 2)").evaluate(NAMES) is True


_WORDS = st.sampled_from(
    ["conc", "isl", "dp_attn", "hardware", "1", "0", "2.5", "'h100'", "true", "+", "-", "*", "/", "//", "%", "<", "==", "and", "or",
     "not", "in", "if", "else", "(", ")", "[", "]", ",", "min(", "pow2ceil(", "ceil(", "**", "."]
)  # fmt: skip


_OPERATORS = ["+", "-", "*", "/", "//", "%", "<", "==", "!=", "and", "or"]
_FORMED = st.recursive(
    st.sampled_from(
        [
            "conc",
            "isl",
            "dp_attn",
            "hardware",
            "1",
            "0",
            "2.5",
            "'h100'",
            "true",
            "spec_tokens",
            "1e14",
        ]
    ),
    lambda below: st.one_of(
        st.tuples(below, st.sampled_from(_OPERATORS), below).map(lambda t: f"({' '.join(t)})"),
        st.tuples(st.sampled_from(["-", "not ", "ceil", "floor", "pow2ceil"]), below).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
        st.tuples(
            st.sampled_from(["min", "max", "multiples"]), st.lists(below, max_size=3).map(", ".join)
        ).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(below, below, below).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(below, st.lists(below, max_size=2).map(", ".join)).map(
            lambda t: f"({t[0]} in [{t[1]}])"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=600)
@given(_FORMED | st.lists(_WORDS, max_size=14).map(" ".join) | st.text(max_size=30))
def test_any_text_gives_a_bounded_value_or_a_sentence(text: str) -> None:
    try:
        value = parse(text).evaluate(NAMES)
    except ExpressionError:
        return
    assert isinstance(value, int | float | bool | str)
    assert not isinstance(value, int | float) or abs(value) <= MAX_VALUE


@settings(max_examples=150)
@given(st.text(alphabet="${}'\" conc+1", max_size=25))
def test_any_template_splits_or_says_why(text: str) -> None:
    try:
        parts = split(text)
    except ExpressionError:
        return
    assert "${" in text or parts == (text,)
