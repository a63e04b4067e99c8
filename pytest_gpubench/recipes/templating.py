"""``${...}`` inside the strings of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from pytest_gpubench.recipes.expressions import Expression, ExpressionError, Value, parse


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
    quote = ""
    for index in range(start, len(text)):
        character = text[index]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "}":
            return index
    raise ExpressionError("`${` is not closed; write ${...}, or $${ for the two characters themselves")


def names_in(text: str) -> Iterator[str]:
    """Every name that the expressions of a string read."""
    for part in split(text):
        if isinstance(part, Expression):
            yield from part.names


def is_computed(value: object) -> bool:
    """Whether a value is a string that holds (or means to hold) an expression."""
    return isinstance(value, str) and "${" in value


def render(text: str, names: Mapping[str, Value]) -> Value:
    """The string with its expressions evaluated; a string that is one expression becomes that value (number or boolean).

    Raises:
        ExpressionError: see `Expression.evaluate`; also for an expression whose value is text.
    """
    parts = split(text)
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return _computed(parts[0], names)
    return "".join(part if isinstance(part, str) else _text(_computed(part, names)) for part in parts)


def _computed(expression: Expression, names: Mapping[str, Value]) -> Value:
    value = expression.evaluate(names)
    if isinstance(value, str):
        raise ExpressionError("the value of an expression is a number or true/false; text is only for comparing")
    return value


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
