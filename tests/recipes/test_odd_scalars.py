"""Scalars that are hardly what was meant end with their place, in every key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.schema import json_schema

ODD = [
    "0x" + "f" * 400,
    "0x" + "f" * 5000,
    "9" * 5000,
    "18446744073709551616",
    "1e999",
    "1.0e+999",
    ".inf",
    "-.inf",
    ".nan",
    "-0",
]
ODD += ["-0.0", "010", "1:30", '"a\\0b"', '"\\ud800"', "!!float x", "&a [*a]", "*zz"]
PLACES = {
    "serve: {seed: %s}": "serve: {block-size: 128}",
    "serve: {a: {b: [%s]}}": "serve: {block-size: 128}",
    "serve: {extra-args: [--x, %s]}": "serve: {block-size: 128}",
    "env: {A: %s}": "serve: {block-size: 128}",
    "client: {seed: %s}": "serve: {block-size: 128}",
    "gates: {tpot_p50: {at-most: %s}}": "serve: {block-size: 128}",
    "image: %s": "serve: {block-size: 128}",
    "isl: %s": "isl: 1024",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("odd", ODD, ids=[text[:12] for text in ODD])
def test_an_odd_scalar(odd: str, place: str, load: Callable[..., RecipeBook], whole: str) -> None:
    book = load(whole.replace(PLACES[place], place % odd))
    assert book.problems
    assert all(problem.position.line > 0 and str(problem).encode() for problem in book.problems)


@pytest.mark.parametrize(
    "sound", ["0", "7", "0x10", "1_000", "1.5", "18446744073709551615", "-1", "'010'", "2024-01-01"]
)
def test_a_sound_one(sound: str, load: Callable[..., RecipeBook], whole: str) -> None:
    assert (
        load(whole.replace("serve: {block-size: 128}", f"serve: {{seed: {sound}}}")).problems == ()
    )


def test_golden_as_the_docs_teach_it(load: Callable[..., RecipeBook], whole: str) -> None:
    for value, sound in (
        ("true", True),
        ("2.5", True),
        ("false", True),
        ("0.5", False),
        ("yes please", False),
    ):
        gates = (
            f"gates: {{acceptance_length: {{golden: {value}, tolerance: 10%}}}}\n  serve: "
            "{block-size: 128}"
        )
        assert (load(whole.replace("serve: {block-size: 128}", gates)).problems == ()) is sound, (
            value
        )
    text = whole.replace("serve: {block-size: 128}", "gates: {tpot_p50: {golden: 2.5}}")
    assert "unknown key 'golden'" in str(load(text).problems[0])


@pytest.mark.parametrize(
    ("gate", "error"),
    [
        (
            "{tpot_p50: 0%}",
            "a tolerance is a percentage above 0% and below 100%, such as 5%, not '0%'",
        ),
        (
            "{tpot_p50: {at-most: -1, tolerance: 5}}",
            "'at-most' must be a number of at least 0, not -1",
        ),
        ("{tpot_p50: {tolerence: 5%}}", "unknown key 'tolerence'; did you mean 'tolerance'?"),
        (
            "{acceptance_length: {golden: 0.5}}",
            "'golden' is true or an acceptance length of at least 1, not 0.5",
        ),
        ("{tpot_p5: 5%}", "no metric is named 'tpot_p5'; did you mean 'tpot_p50'?"),
    ],
)
def test_what_is_wrong_with_a_gate_stands_at_its_metric(
    load: Callable[..., RecipeBook], whole: str, gate: str, error: str
) -> None:
    problem = load(whole.replace("serve: {block-size: 128}", f"gates: {gate}")).problems[0]
    assert f"m-fp8-h100-vllm.gates.{gate[1:].split(':')[0]}: {error}" in str(problem)


def test_editors_offer_golden_for_the_acceptance_length_only() -> None:
    schema = json_schema()
    gates = schema["$defs"]["Recipe"]["properties"]["gates"]["anyOf"][0]
    assert "AcceptanceGateKeys" in str(gates["patternProperties"])
    assert "AcceptanceGateKeys" not in str(gates["additionalProperties"])
    assert set(schema["$defs"]["AcceptanceGateKeys"]["properties"]) - set(
        schema["$defs"]["GateKeys"]["properties"]
    ) == {"golden"}
