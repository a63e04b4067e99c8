"""The reference is made from the sources; whatever a user can write or gets has a description
there."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, is_dataclass
from functools import cache

import pytest

from docs_reference import pages
from docs_reference.api import documented_types, public_fixtures, suite_tests
from docs_reference.commands import commands
from docs_reference.markdown import attribute_docstrings, cell, table
from docs_reference.options import declared
from docs_reference.outcomes import exit_codes, raised, verdicts
from docs_reference.schema import schema_keys
from pytest_gpubench.gate.policy import DEFAULTS
from pytest_gpubench.model.failures import FAILURE_CLASSES
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.recipes.schema import json_schema
from pytest_gpubench.report.results import RunEnd
from tests.docs.sandbox import ROOT

made = cache(pages)
"""Made once, and not by each process that only collects."""
PATHS = (
    "api",
    "commands",
    "failures",
    "metrics",
    "options",
    "outcomes",
    "recipes",
    "records",
    "rules",
    "wrong-input",
)


def test_every_page_is_looked_at() -> None:
    assert sorted(made()) == [f"reference/{name}.md" for name in PATHS]


def test_every_key_of_a_recipe_says_what_it_means() -> None:
    keys = schema_keys()
    assert [f"{key.part}.{key.name}" for key in keys if len(key.meaning) < 5] == []
    properties = json.dumps(json_schema()).count('"properties"')
    assert len({key.part for key in keys}) == properties


def test_every_option_says_what_it_means() -> None:
    kept = declared()
    assert [one.name for one in [*kept.options, *kept.inis] if len(one.help) < 5] == []
    assert {option.name for option in kept.options} >= {
        "--gpubench-recipes",
        "--gpubench-vllm-command",
    }


def test_every_ini_value_has_an_option() -> None:
    kept = declared()
    assert {ini.name for ini in kept.inis} <= {
        option.name.removeprefix("--").replace("-", "_") for option in kept.options
    }


def test_every_command_and_argument_says_what_it_means() -> None:
    found = commands()
    assert [command.name for command in found if len(command.help) < 5] == []
    assert [
        (command.name, written)
        for command in found
        for written, meaning in command.arguments
        if len(meaning) < 5
    ] == []
    assert {"gpubench init", "gpubench plan"} <= {command.name for command in found}


def test_every_fixture_test_and_type_says_what_it_means() -> None:
    assert {fixture.name for fixture in public_fixtures()} >= {
        "engine",
        "case",
        "client",
        "async_client",
        "measure",
        "gate",
    }
    assert [fixture.name for fixture in public_fixtures() if len(fixture.doc) < 5] == []
    assert [name for name, doc in suite_tests().items() if len(doc) < 5] == []
    # A dataclass without words of its own has its signature for a docstring.
    assert [
        one.__name__
        for one in documented_types()
        if (inspect.getdoc(one) or "").startswith((f"{one.__name__}(", " ")) or not one.__doc__
    ] == []


def test_methods_of_the_types_say_what_they_mean() -> None:
    bare = [
        f"{one.__name__}.{name}"
        for one in documented_types()
        for name, member in vars(one).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property))
        and not inspect.getdoc(member)
    ]
    assert len(bare) <= 2, bare  # Identity.label and Case.gpus say it by their names


def test_every_verdict_exit_code_class_and_metric_says_what_it_means() -> None:
    assert all(len(text) > 5 for text in verdicts().values())
    assert all(len(text) > 3 for codes in exit_codes().values() for _, text in codes)
    assert {number for number, _ in exit_codes()["pytest"]} == {"0", "1", "2", "3", "4", "5", "10"}
    assert all(len(text) > 5 for text in FAILURE_CLASSES.values())
    assert all(len(metric.definition) > 3 for metric in METRICS.values())


def test_the_page_of_gates_has_the_gates_that_nobody_asks_for() -> None:
    """Its table is written by hand, for whoever reads the rule without the site."""
    text = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+)% \| ([\d ms]*)\|(.*)\|$", text, re.MULTILINE)
    seconds = {"": 0.0, "10 ms": 0.01, "20 s": 20.0}
    assert [(name, int(share), seconds[guard.strip()]) for name, share, guard, _ in rows] == [
        (one.metric, round(100 * (one.tolerance or 0)), one.absolute) for one in DEFAULTS
    ]
    needs = {name: "1,000 requests" in words for name, _, _, words in rows}
    assert needs == {one.metric: one.min_requests == 1000 for one in DEFAULTS}


def test_the_page_of_results_has_what_is_read_of_the_end_of_a_run() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"\w+", row)}
    assert {one.name for one in fields(RunEnd)} <= told


def test_failures_are_of_a_known_class() -> None:
    found = raised()
    assert {one.failure_class for one in found} <= set(FAILURE_CLASSES)
    assert {"engine-died", "weights-missing", "doctor", "silent-engine"} <= {
        one.cause for one in found
    }


@pytest.mark.parametrize("path", [f"reference/{name}.md" for name in PATHS])
def test_pages_are_whole(path: str) -> None:
    text = made()[path]
    assert text.startswith("# ")
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert rows
    for line in rows:
        assert line.endswith(" |"), line
        assert re.search(r"<(?!/?(b|i|br)>)", line) is None, f"raw markup in {line}"


def test_a_table_survives_bars_and_line_ends() -> None:
    assert cell("a | b\n  c") == "a \\| b c"
    assert table(("x",), [("1|2",)]) == "| x |\n|---|\n| 1\\|2 |"


class _Documented:
    """Of its own."""

    first = 1
    """What first is."""
    second: int = 2
    third = 3
    """What third
    is."""


def test_words_below_attributes_are_found() -> None:
    assert attribute_docstrings(_Documented) == {
        "first": "What first is.",
        "third": "What third\nis.",
    }


def test_types_of_the_reference_are_named_once() -> None:
    names = [one.__name__ for one in documented_types()]
    assert len(set(names)) == len(names)
    assert all(not is_dataclass(one) or fields(one) for one in documented_types())
