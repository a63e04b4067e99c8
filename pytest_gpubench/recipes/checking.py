"""Checks one section of a recipe file as it is written, and puts every fault at its line and
column."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pytest_gpubench.dialects.registry import common_rules, every_dialect
from pytest_gpubench.dialects.server_flags import FlagRules
from pytest_gpubench.model.cases import SourcePosition
from pytest_gpubench.recipes import schema
from pytest_gpubench.recipes.expressions import (
    CASE_NAMES,
    FUNCTIONS,
    Expression,
    ExpressionError,
    Value,
    parse,
    split,
)
from pytest_gpubench.recipes.fields import Section
from pytest_gpubench.recipes.gates import check_gate
from pytest_gpubench.recipes.inheritance import branch, condition_text, without_nulls
from pytest_gpubench.recipes.problems import ProblemLog, did_you_mean, join_path, one_of, shown
from pytest_gpubench.recipes.server_keys import check_env, check_flag
from pytest_gpubench.recipes.yaml_tree import Entry, Node

_Model = TypeVar("_Model", bound=BaseModel)
_COMPUTED = ("serve", "speculative", "env", "client")


def check_section(
    model: type[BaseModel],
    node: Node,
    name: str,
    log: ProblemLog,
    names: Collection[str] = CASE_NAMES,
) -> bool:
    """Validate a node against a model of the schema; for recipes also flags, environment, gates and
    expressions.

    Args:
        names: what expressions may read.

    Returns:
        Whether it is free of problems.
    """
    before = len(log)
    cleaned = _without_list_nulls(without_nulls(node))
    for leaf, path in _leaves(cleaned, name):
        if leaf.doubt:
            log.add(leaf.at, path, leaf.doubt)
    _read(model, cleaned, name, log)
    if model is schema.Recipe:
        rules = _rules(cleaned)
        _check_layer(cleaned, name, rules, log, names)
        before_it = ""
        for index, part in enumerate(cleaned.items_of("when")):
            path = join_path(name, "when", index)
            _check_layer(part, path, rules, log, names)
            key, condition = branch(part)
            if key in ("elif", "else") and before_it not in ("if", "elif"):
                words = f"`{key}` follows no `if` of this list; write `if`, or put one before it"
                log.add(part.at, join_path(path, key), words)
            _check_condition(condition, join_path(path, key), log, names)
            before_it = key
    return len(log) == before


def validated(node: Node, name: str, log: ProblemLog) -> schema.Recipe | None:
    """A merged recipe as a typed object; None after reporting what is wrong."""
    return _read(schema.Recipe, _without_list_nulls(without_nulls(node)), name, log)


def _read(model: type[_Model], node: Node, name: str, log: ProblemLog) -> _Model | None:
    try:
        return model.model_validate(node.plain())
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _report(model, node, name, detail, log)
    except RecursionError:
        log.add(node.at, name, "nested too deeply")
    return None


def _without_list_nulls(node: Node) -> Node:
    """Null keys inside the items of lists mean absence, too: ``{tp: 8, ep: null}``."""
    if isinstance(node.value, list):
        return Node([_without_list_nulls(without_nulls(item)) for item in node.value], node.at)
    if isinstance(node.value, dict):
        return Node(
            {
                k: Entry(e.key_at, e.node if k in _COMPUTED else _without_list_nulls(e.node))
                for k, e in node.value.items()
            },
            node.at,
        )
    return node


def _rules(node: Node) -> FlagRules:
    """The rules of the engine that a section names; where it names none (a template), those that
    all engines have together."""
    framework = node.get("framework")
    known = {dialect.name: dialect.flags for dialect in every_dialect()}
    return known.get(str(framework.value) if framework else "") or common_rules()


def _check_layer(
    node: Node, path: str, rules: FlagRules, log: ProblemLog, names: Collection[str]
) -> None:
    checks: dict[str, Callable[[str, Any], str | None]] = {
        "serve": partial(_flag_error, rules),
        "env": partial(check_env, rules),
        "gates": check_gate,
    }
    for section, check in checks.items():
        for key, entry in node.entries_of(section).items():
            if error := check(key, entry.node.plain()):
                log.add(entry.key_at, join_path(path, section, key), error)
    for key in _COMPUTED:
        computed = node.get(key)
        if computed is None:
            continue
        for leaf, leaf_path in _leaves(computed, join_path(path, key)):
            if isinstance(leaf.value, str):
                _check_text(leaf, leaf_path, log, names)


def _flag_error(rules: FlagRules, flag: str, value: Any) -> str | None:
    if flag != "extra-args":
        return check_flag(rules, flag, value)
    if isinstance(value, list) and all(
        isinstance(item, str | int | float) and not isinstance(item, bool) for item in value
    ):
        return rules.words_error([str(item) for item in value])
    return f"must be a list of words such as [--flag, value], not {shown(value)}"


def _leaves(node: Node, path: str) -> Iterator[tuple[Node, str]]:
    """The scalars of a value, each with its key path."""
    if not isinstance(node.value, dict | list):
        yield node, path
    for key, entry in node.entries.items():
        yield from _leaves(entry.node, join_path(path, key))
    for index, item in enumerate(node.items):
        yield from _leaves(item, join_path(path, index))


def _check_text(node: Node, path: str, log: ProblemLog, names: Collection[str]) -> None:
    try:
        parts = split(str(node.value))
    except ExpressionError as error:
        log.add(node.at, path, str(error))
        return
    for part in parts:
        if isinstance(part, Expression):
            _check_names(part, node.at, path, log, names)


def _check_names(
    expression: Expression, at: SourcePosition, path: str, log: ProblemLog, names: Collection[str]
) -> None:
    for name in sorted(expression.names - set(names)):
        log.add(
            at,
            path,
            f"unknown name '{name}'{did_you_mean(name, names)} (known: {', '.join(names)})",
        )


def _check_condition(
    condition: Node | None, path: str, log: ProblemLog, names: Collection[str]
) -> None:
    if condition is None or not isinstance(condition.value, str):
        return
    try:
        expression = parse(condition_text(condition.value))
    except ExpressionError as error:
        log.add(condition.at, path, str(error))
        return
    _check_names(expression, condition.at, path, log, names)
    if "spec_tokens" in expression.names:
        log.add(
            condition.at,
            path,
            "a condition may not read spec_tokens: `when` may still change the draft; write "
            "the row's own values",
        )


def _report(
    model: type[BaseModel], node: Node, name: str, detail: ErrorDetails, log: ProblemLog
) -> None:
    location = [
        part
        for part in detail["loc"]
        if isinstance(part, int) or not part.startswith(("function-", "constrained-"))
    ]
    kind = detail["type"]
    path = join_path(name, *location)
    if kind == "missing":
        parent, _ = _find(node, location[:-1])
        log.add(parent, path, f"missing key '{location[-1]}'; add it")
        return
    at, key_at = _find(node, location)
    if kind == "extra_forbidden":
        known = [
            field.alias or key
            for key, field in _model_at(model, location[:-1]).model_fields.items()
        ]
        hint = did_you_mean(str(location[-1]), known) or f" (known: {','.join(known)})"
        log.add(key_at, path, f"unknown key '{location[-1]}'{hint}")
        return
    log.add(at, path, _words(kind, detail, str(location[-1]) if location else ""))


def _model_at(model: type[BaseModel], location: list[str | int]) -> type[BaseModel]:
    """The part of the schema that stands at a location."""
    for key in location:
        known = {field.alias or name: field for name, field in model.model_fields.items()}
        if key in known:
            model = next(_parts(known[str(key)].annotation), model)
    return model


def _parts(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _find(node: Node, location: list[str | int]) -> tuple[SourcePosition, SourcePosition]:
    """Where the value at a location stands, and its key; as far down as the tree goes."""
    at = key_at = node.at
    for part in location:
        if isinstance(part, int):
            if part >= len(node.items):
                break
            node = node.items[part]
            at = key_at = node.at
        else:
            entry = node.entries.get(part)
            if entry is None:
                break
            node, key_at = entry.node, entry.key_at
            at = node.at
    return at, key_at


_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
}


def _words(kind: str, detail: ErrorDetails, key: str) -> str:
    value = detail["input"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind == "recipe":
        return detail["msg"]
    if kind in _KINDS:
        hint = ""
        if kind == "int_type" and isinstance(value, str) and value.lstrip("-").isdigit():
            hint = "; write it without quotes"
        return f"must be {_KINDS[kind]}, not {shown(value)}{hint}"
    if kind in ("greater_than_equal", "greater_than"):
        bound = context.get("ge", context.get("gt"))
        return (
            f"must be {'at least' if kind.endswith('equal') else 'above'} {bound}, not "
            f"{shown(value)}"
        )
    if kind == "less_than_equal":
        return f"must be at most {context.get('le')}, not {shown(value)}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "too_long":
        return f"must have at most {context.get('max_length')} items"
    if kind == "literal_error":
        if key in ("multinode", "disagg"):
            return (
                f"must be false, not {shown(value)}: one server over several nodes is not supported"
            )
        allowed = [
            word.strip("' ")
            for word in str(context.get("expected", "")).replace(" or ", ",").split(",")
        ]
        return f"must be {one_of(allowed)}, not {shown(value)}{did_you_mean(str(value), allowed)}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}"


KEY = "host"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def host_facts(roots: Iterable[Node], log: ProblemLog) -> dict[str, Value]:
    """The facts of all files by name.

    The first file that says one counts; a file comes before those that it includes, so that a
    recipe's own file holds the usual value and a site's file may say otherwise.
    """
    facts: dict[str, Value] = {}
    for root in roots:
        section = root.get(KEY)
        if section is not None and not isinstance(section.value, dict):
            log.add(section.at, KEY, "must be a map from names to numbers, true/false or text")
        for name, entry in root.entries_of(KEY).items():
            value = entry.node.value
            if wrong := _name_error(name):
                log.add(entry.key_at, join_path(KEY, name), wrong)
            elif isinstance(value, bool | int | float | str) and not entry.node.doubt:
                facts.setdefault(name, value)
            else:
                words = entry.node.doubt or "must be a number, true/false or text"
                log.add(entry.node.at, join_path(KEY, name), words)
    return facts


def _name_error(name: str) -> str | None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in FUNCTIONS:
        return f"{shown(name)} cannot be a name in expressions; write one such as mec_firmware"
    if name in CASE_NAMES or name in ("true", "false"):
        return f"'{name}' has a meaning in expressions already; choose another name"
    return None
