"""Small pieces of Markdown, and the docstrings that stand below attributes."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from types import ModuleType


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold inline Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text for a table's cell: one line, its bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Inline code; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def prose(text: str) -> str:
    """A docstring's words as Markdown: double backticks become single ones, angle brackets stay
    what they are."""
    return text.replace("``", "`").replace("<", "&lt;")


def sentence(text: str) -> str:
    """Words with a capital at the start and a full stop at the end."""
    # A key's name stays as it is written.
    start = text if text.startswith("isl ") else text[:1].upper() + text[1:]
    return f"{start.rstrip('.')}." if text else ""


def attribute_docstrings(source: ModuleType | type) -> dict[str, str]:
    """What stands in a string below each assignment of a module or class, by name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(source)))
    body = (
        tree.body
        if isinstance(source, ModuleType)
        else next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    )
    found: dict[str, str] = {}
    for node, after in itertools.pairwise(body):
        target = (
            node.targets[0]
            if isinstance(node, ast.Assign)
            else node.target
            if isinstance(node, ast.AnnAssign)
            else None
        )
        if (
            isinstance(target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[target.id] = inspect.cleandoc(str(after.value.value))
    return found
