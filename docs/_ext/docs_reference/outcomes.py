"""Verdicts, exit codes, and the causes of failures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import pytest_gpubench
from docs_reference.markdown import attribute_docstrings, code, prose, sentence, table
from pytest_gpubench import cli, commands
from pytest_gpubench.dialects.engine_log import Cause
from pytest_gpubench.dialects.registry import every_dialect
from pytest_gpubench.model.failures import FAILURE_CLASSES
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.plugin import outcomes

_VERDICTS = """# Verdicts and exit codes

Worst first. [Results](../results.md) says where a verdict is written, [Gates](../gates.md) how it comes about.
"""
_PYTESTS = (
    ("0", "every selected test passed, and every verdict is PASS or UNGATED"),
    ("1", "a test failed: a verdict is FAIL, or a server or a case failed"),
    ("2", "the run was interrupted; finished cases keep their records"),
    ("3", "an error inside pytest or a plugin"),
    (
        "4",
        "a recipe, an option or a file cannot be used; the sentence says which, where, "
        "and what to do",
    ),
    ("5", "nothing was selected, or nothing but cases and all of them were skipped"),
)
_FAILURES = """# Failures

Every failure has a cause, which is a stable name, and a class that says who must act. Both are in the record (`failure`), in the
failed test's text and in reports. Only failures of the class `infrastructure` may be retried by a machine.
"""


_OTHERS = (
    ("0, 1, 10", "of `report --matrix`, `retry`: what pytest would say of all of it"),
    ("130", "interrupted"),
)
_CAUSES = ("cause", "class", "what happened", "what to do")


def verdicts() -> dict[str, str]:
    """What each status means."""
    said = attribute_docstrings(Status)
    return {status.value: said.get(status.name, "") for status in Status}


def exit_codes() -> dict[str, list[tuple[str, str]]]:
    """Codes and meanings, of pytest and of `gpubench`; our own from the docstrings of their
    constants."""
    modules = [
        cli,
        *(
            import_module(f"{commands.__name__}.{found.name}")
            for found in iter_modules(commands.__path__)
        ),
    ]
    ours = sorted(code for module in modules for code in _codes(module))
    return {
        "pytest": [*_PYTESTS, *_codes(outcomes)],
        "gpubench": [("0", "it is done"), *ours, *_OTHERS],
    }


def _codes(module: ModuleType) -> list[tuple[str, str]]:
    said = attribute_docstrings(module)
    return [
        (str(getattr(module, name)), text)
        for name, text in said.items()
        if name.startswith("EXIT_")
    ]


def outcomes_page() -> str:
    """The page of verdicts and exit codes."""
    lines = [
        _VERDICTS,
        table(
            ("verdict", "meaning"), [(code(name), prose(text)) for name, text in verdicts().items()]
        ),
    ]
    for program, codes in exit_codes().items():
        rows = [(number, sentence(prose(text))) for number, text in codes]
        lines += [f"\n## Exit codes of {program}\n", table(("code", "meaning"), rows)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Raised:
    """A failure that our code makes itself."""

    cause: str
    failure_class: str
    summary: str


def raised() -> list[Raised]:
    """Every `Failure("cause", "class", "summary")` of the package, one per cause; what is put in at
    run time is an ellipsis."""
    found: dict[tuple[str, str], Raised] = {}
    for path in sorted(Path(pytest_gpubench.__file__).parent.rglob("*.py")):
        for one in _failures(ast.parse(path.read_text(encoding="utf-8"))):
            known = found.get((one.cause, one.failure_class))
            if known is None or len(known.summary) < len(one.summary):
                found[one.cause, one.failure_class] = one
    return sorted(found.values(), key=lambda one: (one.failure_class, one.cause))


def _failures(tree: ast.Module) -> Iterator[Raised]:
    words = {
        ast.unparse(node.targets[0]): node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _failures_of(scope, words)


def _failures_of(
    scope: ast.FunctionDef | ast.AsyncFunctionDef, words: Mapping[str, ast.expr]
) -> Iterator[Raised]:
    said = [
        node
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]
    calls = [
        node
        for node in ast.walk(scope)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Failure"
    ]
    for call in calls:
        if len(call.args) < 3:
            continue
        names, failure_class, summary = call.args[:3]
        if isinstance(summary, ast.Name):
            before = [
                one
                for one in said
                if ast.unparse(one.targets[0]) == summary.id and one.lineno <= call.lineno
            ]
            summary = max(before, key=lambda one: one.lineno).value if before else summary
        if isinstance(failure_class, ast.Constant):
            for name in _constants(words.get(ast.unparse(names), names)):
                yield Raised(name, str(failure_class.value), _text(summary))


def _constants(node: ast.expr) -> Iterator[str]:
    """The words of a literal, or of both sides of `a if c else b`."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from _constants(node.body)
        yield from _constants(node.orelse)


def _text(node: ast.expr) -> str:
    """The literal words of an expression; empty where there are none."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
        return (
            re.sub(r"…[ …]*…", "…", "".join(parts))
            if any(part.strip("… .:;,") for part in parts)
            else ""
        )
    return ""


def every_cause() -> list[Cause]:
    """The causes that any engine's log can tell, each name once."""
    causes = (cause for dialect in every_dialect() for cause in dialect.log.causes)
    return list({cause.name: cause for cause in reversed(list(causes))}.values())[::-1]


def failures_page() -> str:
    """The page of failures."""
    classes = [(code(name), sentence(prose(text))) for name, text in FAILURE_CLASSES.items()]
    lines = [_FAILURES, table(("class", "meaning"), classes)]
    lines.append(
        "\n## Told from the engine's log\n\nThe first that fits the root cause in the "
        "log. Each engine says them in words of its own; not every engine has all.\n"
    )
    known = [
        (code(cause.name), cause.failure_class, prose(cause.summary), prose(cause.remedy))
        for cause in every_cause()
    ]
    lines.append(table(_CAUSES, known))
    lines.append(
        "\n## Told by the benchmark itself\n\n`…` stands for what is filled in; no "
        "text: it is made at run time.\n"
    )
    names = {cause.name for cause in every_cause()}
    own = [
        (code(one.cause), one.failure_class, sentence(prose(one.summary)))
        for one in raised()
        if one.cause not in names
    ]
    lines.append(table(_CAUSES[:3], own))
    return "\n".join(lines) + "\n"
