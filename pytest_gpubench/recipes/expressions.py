"""The small arithmetic of recipes: ``${...}`` and ``if``.

Numbers, booleans, strings (to compare with), names, ``+ - * / // %``, comparisons, ``and or not
in``, ``a if c else b`` and six functions. Parsed by Python's own parser, walked over a whitelist;
nothing is executed. Text, tree and every value are bounded.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from pytest_gpubench.model.frozen import is_number, spelled
from pytest_gpubench.recipes.problems import did_you_mean, shown

Value: TypeAlias = "int | float | bool | str"

CASE_NAMES = (
    "isl", "osl", "conc", "tp", "ep", "pp", "pcp", "dcp", "dp_attn", "gpus", "dp",
    "tensor_parallel_size", "expert_parallel",
    "max_model_len", "spec_tokens", "hardware", "precision", "framework",
    "kv_offloading", "kv_offload_backend", "dram_gb",
)  # fmt: skip
"""Every name that an expression may read."""

MAX_LENGTH = 300
MAX_NODES = 150
MAX_VALUE = 10**15


class ExpressionError(Exception):
    """What is wrong with an expression, as the end of a sentence."""


def pow2ceil(value: float) -> int:
    """The smallest power of two that is at least ``value``; 1 for anything up to 1."""
    return 1 << max(0, math.ceil(value) - 1).bit_length()


MAX_ITEMS = 10_000


def multiples(step: float, count: float, *more: float) -> list[int]:
    """``step``, 2 ``step``, ... ``count`` ``step`` and what else is named, sorted, each once."""
    if not 0 <= count <= MAX_ITEMS:
        raise ExpressionError(f"multiples() makes 0 to {MAX_ITEMS} numbers, not {count}")
    numbers = [*(step * index for index in range(1, int(count) + 1)), *more]
    if any(number != int(number) for number in (count, *numbers)):
        raise ExpressionError("multiples() takes whole numbers")
    return sorted({int(number) for number in numbers})


FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "min": (min, 2, 20),
    "max": (max, 2, 20),
    "ceil": (math.ceil, 1, 1),
    "floor": (math.floor, 1, 1),
    "pow2ceil": (pow2ceil, 1, 1),
    "multiples": (multiples, 2, 20),
}
"""What may be called, with the least and most arguments."""
_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CONSTANTS: dict[str, bool] = {"true": True, "false": False}
_GRAMMAR = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.UAdd, ast.USub,
    ast.Not, ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.Eq, ast.NotEq, ast.In, ast.NotIn,
    ast.List, ast.IfExp, ast.Call, *_ARITHMETIC, *_ORDER,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: ``names`` are those it reads."""

    text: str
    names: frozenset[str]
    tree: ast.expr

    @property
    def makes_list(self) -> bool:
        """Whether the value is a list of numbers, good as a whole value only."""
        match self.tree:
            case ast.Call(func=ast.Name(id=multiples.__name__)):
                return True
        return False

    def numbers(self, names: Mapping[str, Value]) -> list[int]:
        """The value of one that makes a list.

        Raises:
            ExpressionError: see `evaluate`.
        """
        result: list[int] = _Evaluation(names).value(self.tree)
        return result

    def evaluate(self, names: Mapping[str, Value]) -> Value:
        """The value for these names; integral floats come back as integers.

        Raises:
            ExpressionError: for an unknown name, a wrong type, a division by zero, or a value out
                of bounds.
        """
        result = _Evaluation(names).value(self.tree)
        if isinstance(result, list):
            raise ExpressionError("a list is only good for `in`, or as the whole value of a key")
        return int(result) if isinstance(result, float) and result.is_integer() else result


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """Parse an expression.

    Raises:
        ExpressionError: if it is too long, is not in the grammar, or calls an unknown function.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"the expression has {len(text)} characters; the limit is {MAX_LENGTH}"
        )
    if not text.strip():
        raise ExpressionError("the expression is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(" ".join(text.split()), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{shown(text)} is not an expression: {error.msg}") from None
    except (ValueError, MemoryError, RecursionError):
        raise ExpressionError(f"{shown(text)} is not an expression") from None
    nodes = list(ast.walk(tree))
    if len(nodes) > MAX_NODES:
        raise ExpressionError(f"the expression has more than {MAX_NODES} parts; simplify it")
    for node in nodes:
        _check(node)
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    names = {
        node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called
    } - set(_CONSTANTS)
    return Expression(text, frozenset(names), tree)


def _check(node: ast.AST) -> None:
    if isinstance(node, ast.Pow):
        raise ExpressionError("`**` is not allowed; use pow2ceil(x) for powers of two")
    if not isinstance(node, _GRAMMAR):
        raise ExpressionError(f"{type(node).__name__.lower()} is not allowed in an expression")
    if isinstance(node, ast.Constant) and not isinstance(node.value, bool | int | float | str):
        raise ExpressionError(
            f"{shown(node.value)} is not allowed in an expression; use numbers, true, false or text"
        )
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            name = node.func.id if isinstance(node.func, ast.Name) else "this"
            raise ExpressionError(
                f"no function '{name}'{did_you_mean(name, FUNCTIONS)} (known: "
                f"{', '.join(FUNCTIONS)})"
            )
        _, least, most = FUNCTIONS[node.func.id]
        if node.keywords or not least <= len(node.args) <= most:
            count = "one number" if most == 1 else f"{least} to {most} numbers"
            raise ExpressionError(f"{node.func.id}() takes {count}")


class _Evaluation:
    def __init__(self, names: Mapping[str, Value]) -> None:
        self._names = names

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return self._bounded(node.value)
            case ast.Name():
                return self._name(node.id)
            case ast.BinOp():
                left, right = self._number(node.left), self._number(node.right)
                try:
                    return self._bounded(_ARITHMETIC[type(node.op)](left, right))
                except (ZeroDivisionError, OverflowError):
                    raise ExpressionError("division by zero") from None
            case ast.UnaryOp(op=ast.Not()):
                return not self._condition(node.operand)
            case ast.UnaryOp():
                number = self._number(node.operand)
                return -number if isinstance(node.op, ast.USub) else number
            case ast.BoolOp():
                # Lazy, so that what stands after the deciding part is not evaluated, as in Python.
                parts = map(self._condition, node.values)
                return any(parts) if isinstance(node.op, ast.Or) else all(parts)
            case ast.IfExp():
                return self.value(node.body if self._condition(node.test) else node.orelse)
            case ast.Compare():
                return self._comparison(node)
            case ast.List():
                return [self.value(item) for item in node.elts]
            case ast.Call(func=ast.Name(id=name)):
                return self._bounded(
                    FUNCTIONS[name][0](*(self._number(argument) for argument in node.args))
                )
        raise ExpressionError("not an expression")

    def _name(self, name: str) -> Value:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name not in self._names:
            raise ExpressionError(f"unknown name '{name}'{did_you_mean(name, self._names)}")
        return self._names[name]

    def _number(self, node: ast.expr) -> int | float:
        value = self.value(node)
        if not is_number(value):
            raise ExpressionError(f"{shown(value)} is not a number")
        return value

    def _condition(self, node: ast.expr) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            raise ExpressionError(f"{shown(value)} is not true or false; write a comparison")
        return value

    def _comparison(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for operation, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            if not self._holds(operation, left, right):
                return False
            left = right
        return True

    def _holds(self, operation: ast.cmpop, left: Any, right: Any) -> bool:
        if isinstance(operation, ast.In | ast.NotIn):
            if not isinstance(right, list):
                raise ExpressionError("`in` needs a list: isl in [1024, 8192]")
            return any(self._equal(left, item) for item in right) is isinstance(operation, ast.In)
        if isinstance(operation, ast.Eq | ast.NotEq):
            return self._equal(left, right) is isinstance(operation, ast.Eq)
        for side in (left, right):
            if not is_number(side):
                raise ExpressionError(f"{shown(side)} is not a number; only == and != compare it")
        return _ORDER[type(operation)](left, right)

    @staticmethod
    def _equal(left: Any, right: Any) -> bool:
        kinds = {
            next((kind for kind in (bool, str, list) if isinstance(side, kind)), float)
            for side in (left, right)
        }
        if len(kinds) > 1 or list in kinds:
            raise ExpressionError(
                f"{shown(left)} and {shown(right)} are of different kinds and never equal"
            )
        return bool(left == right)

    @staticmethod
    def _bounded(value: Any) -> Any:
        for item in value if isinstance(value, list) else ():
            _Evaluation._bounded(item)
        if isinstance(value, int | float) and not (
            isinstance(value, bool) or -MAX_VALUE <= value <= MAX_VALUE
        ):
            raise ExpressionError(f"a value is beyond {MAX_VALUE:.0e}")
        return value


@lru_cache(maxsize=8192)
def split(text: str) -> tuple[str | Expression, ...]:
    """The literal and computed parts of a string; ``$${`` is a literal ``${``.

    Raises:
        ExpressionError: if an expression is not closed or not valid.
    """
    parts: list[str | Expression] = []
    literal = ""
    position = 0
    while position < len(text):
        if text.startswith("$${", position):
            literal += "${"
            position += 3
        elif text.startswith("${", position):
            end = _end(text, position + 2)
            if literal:
                parts.append(literal)
                literal = ""
            parts.append(parse(text[position + 2 : end]))
            position = end + 1
        else:
            literal += text[position]
            position += 1
    if literal or not parts:
        parts.append(literal)
    return tuple(parts)


def _end(text: str, start: int) -> int:
    # the mark that a string inside the expression began with: a brace in it closes nothing
    quote = ""
    for index in range(start, len(text)):
        character = text[index]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "}":
            return index
    raise ExpressionError(
        "`${` is not closed; write ${...}, or $${ for the two characters themselves"
    )


def names_in(text: str) -> Iterator[str]:
    """Every name that the expressions of a string read."""
    for part in split(text):
        if isinstance(part, Expression):
            yield from part.names


def is_computed(value: object) -> bool:
    """Whether a value is a string that holds (or means to hold) an expression."""
    return isinstance(value, str) and "${" in value


def render(text: str, names: Mapping[str, Value]) -> Value | list[int]:
    """The string with its expressions evaluated; a string that is one expression becomes that value
    (number, boolean, or the list of `multiples`).

    Raises:
        ExpressionError: see `Expression.evaluate`; also for an expression whose value is text.
    """
    parts = split(text)
    if len(parts) == 1 and isinstance(parts[0], Expression):
        if parts[0].makes_list:
            return parts[0].numbers(names)
        return _computed(parts[0], names)
    return "".join(
        part if isinstance(part, str) else spelled(_computed(part, names)) for part in parts
    )


def _computed(expression: Expression, names: Mapping[str, Value]) -> Value:
    value = expression.evaluate(names)
    if isinstance(value, str):
        raise ExpressionError(
            "the value of an expression is a number or true/false; text is only for comparing"
        )
    return value
