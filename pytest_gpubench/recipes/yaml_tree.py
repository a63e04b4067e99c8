"""YAML to a tree of values that know their place.

The meaning is that of ``yaml.safe_load`` (YAML 1.1, no tags beyond the plain ones, ``<<`` merges),
built from parser events without recursion, so that depth, aliases and size are bounded. Dates stay
text: no recipe key holds one.
"""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import yaml

from pytest_gpubench.model.cases import SourcePosition
from pytest_gpubench.model.frozen import is_number
from pytest_gpubench.recipes.problems import ProblemLog, join_path, shown

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 40
MAX_NODES = 400_000
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile(
    r"[^\x09\x0A\x0D\x20-\x7E\x85\xA0-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]"
)
_UNUSABLE = re.compile(r"[\0\uD800-\uDFFF]")
"""An escape can write what no command line and no file can hold."""
_ODD_NUMBER = re.compile(r"[-+]?0[0-7_]+|[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?")
"""Octal (``010`` is 8) and base 60 (``1:30`` is 90): nobody who writes them means that."""
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""A number for everybody but YAML 1.1, which wants a dot in it and takes it for text."""
MOST = 2**64 - 1
"""Largest whole number: no flag and no key takes more."""
_TAG = "tag:yaml.org,2002:"
_COLLECTIONS: dict[type[yaml.Event], tuple[str, type[list[Any] | dict[str, Any]]]] = {
    yaml.MappingStartEvent: ("map", dict),
    yaml.SequenceStartEvent: ("seq", list),
}

Leaf: TypeAlias = "str | int | float | bool | None"


class Entry(NamedTuple):
    """One key of a map: where the key stands, and its value."""

    key_at: SourcePosition
    node: Node


@dataclass(slots=True, eq=False)
class Node:
    """A value of a recipe file and where it stands."""

    value: Leaf | list[Node] | dict[str, Entry]
    at: SourcePosition
    doubt: str = ""
    """Why a scalar is hardly what was meant, though YAML has a meaning for it."""

    def get(self, *keys: str) -> Node | None:
        """The value below a chain of keys, None if one of them is absent or stands below no map."""
        node = self
        for key in keys:
            entry = node.entries.get(key)
            if entry is None:
                return None
            node = entry.node
        return node

    def items_of(self, *keys: str) -> list[Node]:
        """The items of a list below a chain of keys; empty if there is none."""
        node = self.get(*keys)
        return [] if node is None else node.items

    def entries_of(self, *keys: str) -> dict[str, Entry]:
        """The keys of a map below a chain of keys; empty if there is none."""
        node = self.get(*keys)
        return {} if node is None else node.entries

    @property
    def entries(self) -> dict[str, Entry]:
        """The keys of a map; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The items of a list; empty for anything else."""
        return self.value if isinstance(self.value, list) else []

    def plain(self) -> Any:
        """The value without places, as ``safe_load`` would give it."""
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


class _UnreadableError(Exception):
    """The file cannot be read any further."""

    def __init__(self, at: SourcePosition, message: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message


def read_tree(file: str, data: bytes, log: ProblemLog) -> Node | None:
    """Parse the bytes of a file.

    Args:
        file: name for positions, as the user gave it.
        log: receives every problem (syntax, duplicate keys, bounds).

    Returns:
        The top-level value, or None if the file cannot be read as a whole.
    """
    try:
        text = _decode(file, data)
        return _Builder(file, text, log).build()
    except _UnreadableError as stop:
        log.add(stop.at, "", stop.message)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = SourcePosition(file, 1, 1)
        if mark:
            at = SourcePosition(file, mark.line + 1, mark.column + 1)
        log.add(at, "", _syntax_message(error, text))
    except yaml.YAMLError as error:
        log.add(SourcePosition(file, 1, 1), "", f"not valid YAML: {' '.join(str(error).split())}")
    return None


def _decode(file: str, data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _UnreadableError(
            SourcePosition(file, 1, 1), f"the file has more than {MAX_BYTES} bytes; split it"
        )
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        raise _UnreadableError(
            SourcePosition(file, before.count(b"\n") + 1, column),
            "not UTF-8 text; save the file as UTF-8",
        ) from None
    bad = _UNPRINTABLE.search(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        raise _UnreadableError(
            SourcePosition(file, line, column),
            f"the character {bad.group()!r} is not allowed in YAML; remove it",
        )
    return text


def _syntax_message(error: yaml.MarkedYAMLError, text: str) -> str:
    words = ", ".join(part for part in (error.context, error.problem) if part)
    if "nesting depth" in words:  # the parser of newer releases has a limit of its own, above ours
        return f"nested deeper than {MAX_DEPTH} levels"
    message = f"not valid YAML: {words}"
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if re.search(r"[{\[,]", line.split("#")[0]) and (
        "${" in line or re.search(r"\bif:[^'\"]*\[", line)
    ):
        message += '; inside {...} an expression must be quoted: {max-num-seqs: "${conc * 2}"}'
    return message


@dataclass(slots=True)
class _Open:
    """A collection under construction."""

    node: Node
    path: str
    anchor: str | None
    key: tuple[str, SourcePosition] | None = None
    merges: list[Node] | None = None
    skip: bool = False
    """The value that comes next belongs to a key that was refused: read it and drop it."""


class _Builder:
    def __init__(self, file: str, text: str, log: ProblemLog) -> None:
        self._file = file
        self._log = log
        self._loader = _LOADER(text)
        self._anchors: dict[str, Node] = {}
        self._extents: dict[int, tuple[int, int]] = {}
        self._nodes = 0
        self._stack: list[_Open] = []
        self._root: Node | None = None

    def build(self) -> Node | None:
        documents = 0
        try:
            while self._loader.check_event():
                event = self._loader.get_event()
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise _UnreadableError(
                            self._at(event),
                            "a second YAML document begins here; a recipe file is one document",
                        )
                elif isinstance(event, yaml.NodeEvent):
                    self._node_event(event)
                elif isinstance(event, yaml.CollectionEndEvent):
                    self._close()
        finally:
            self._loader.dispose()
        return self._root

    def _at(self, event: yaml.Event) -> SourcePosition:
        mark: Any = event.start_mark
        return SourcePosition(self._file, mark.line + 1, mark.column + 1)

    def _node_event(self, event: yaml.NodeEvent) -> None:
        at = self._at(event)
        if isinstance(event, yaml.AliasEvent):
            self._put(self._alias(event.anchor or "", at), at)
            return
        self._count(1, at)
        if isinstance(event, yaml.ScalarEvent):
            if self._awaits_key():
                self._put_key(event, at, self._stack[-1])
                return
            value = self._scalar(event, at)
            node = Node(value, at, _doubt(event, value))
            if event.anchor:
                self._anchors[event.anchor] = node
            self._put(node, at)
            return
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._open(event, at)

    def _awaits_key(self) -> bool:
        """Whether the next value is the key of a map."""
        return (
            bool(self._stack)
            and isinstance(self._stack[-1].node.value, dict)
            and self._stack[-1].key is None
        )

    def _open(
        self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, at: SourcePosition
    ) -> None:
        kind, value = _COLLECTIONS[type(event)]
        if event.tag not in (None, "!", _TAG + kind):
            raise _UnreadableError(
                at, f"the tag {shown(event.tag)} is not allowed; write plain YAML"
            )
        if len(self._stack) >= MAX_DEPTH:
            raise _UnreadableError(at, f"nested deeper than {MAX_DEPTH} levels")
        if self._awaits_key():
            raise _UnreadableError(
                at, 'a map or list cannot be a key here; inside {...} quote expressions: "${...}"'
            )
        node = Node(value(), at)
        self._stack.append(_Open(node, self._child_path(), event.anchor))
        if event.anchor:
            self._anchors.pop(event.anchor, None)

    def _close(self) -> None:
        done = self._stack.pop()
        if done.merges:
            self._apply_merges(done)
        if done.anchor:
            self._anchors[done.anchor] = done.node
        self._put(done.node, done.node.at)

    def _alias(self, anchor: str, at: SourcePosition) -> Node:
        if any(level.anchor == anchor for level in self._stack):
            raise _UnreadableError(at, f"the alias *{anchor} stands inside the very value it names")
        node = self._anchors.get(anchor)
        if node is None:
            raise _UnreadableError(at, f"the alias *{anchor} names no anchor before it")
        size, depth = self._extent(node)
        self._count(size, at)
        if len(self._stack) + depth > MAX_DEPTH:
            raise _UnreadableError(at, f"nested deeper than {MAX_DEPTH} levels, aliases expanded")
        return node

    def _extent(self, node: Node) -> tuple[int, int]:
        """Number of nodes and depth of an anchored value, aliases followed; remembered, so that
        nested aliases stay cheap."""
        known = self._extents.get(id(node))
        if known is None:
            below = [
                self._extent(child)
                for child in ([entry.node for entry in node.entries.values()] or node.items)
            ]
            known = (
                1 + sum(size for size, _ in below),
                1 + max((depth for _, depth in below), default=0),
            )
            self._extents[id(node)] = known
        return known

    def _count(self, nodes: int, at: SourcePosition) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _UnreadableError(
                at, f"more than {MAX_NODES} values, aliases expanded; split the file"
            )

    def _child_path(self) -> str:
        if not self._stack:
            return ""
        top = self._stack[-1]
        if top.key:
            return join_path(top.path, top.key[0])
        if isinstance(top.node.value, list):
            return join_path(top.path, len(top.node.items))
        return top.path

    def _put_key(self, event: yaml.ScalarEvent, at: SourcePosition, top: _Open) -> None:
        if event.tag is None and event.implicit[0] and event.value == "<<":
            top.key = ("<<", at)
            return
        key = self._scalar(event, at)
        if event.anchor:
            self._anchors[event.anchor] = Node(key, at)
        top.skip = False
        if not isinstance(key, str):
            self._log.add(
                at,
                top.path,
                f"the key {event.value} is not text for YAML; quote it: '{event.value}'",
            )
            key, top.skip = str(event.value), True
        elif key in top.node.entries:
            first = top.node.entries[key].key_at
            self._log.add(
                at,
                join_path(top.path, key),
                f"duplicate key '{key}', first on line {first.line}; remove one",
            )
            top.skip = True
        top.key = (key, at)

    def _put(self, node: Node, at: SourcePosition) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif isinstance(top.node.value, dict):
            if top.key is None:
                if not isinstance(node.value, str):
                    raise _UnreadableError(at, "a map, list or number cannot be a key here")
                top.key = (node.value, at)
                return
            key, key_at = top.key
            top.key = None
            if key == "<<":
                top.merges = [
                    *(top.merges or []),
                    *(node.items if isinstance(node.value, list) else [node]),
                ]
            elif not top.skip:
                top.node.value[key] = Entry(key_at, node)

    def _apply_merges(self, done: _Open) -> None:
        for source in done.merges or []:
            if not isinstance(source.value, dict):
                self._log.add(source.at, done.path, "`<<` merges maps only")
                continue
            self._count(len(source.value), source.at)
            for key, entry in source.value.items():
                done.node.entries.setdefault(key, entry)

    def _scalar(self, event: yaml.ScalarEvent, at: SourcePosition) -> Leaf:
        tag = event.tag
        if tag is None:
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        elif tag == "!":  # text, whatever it looks like
            tag = self._loader.resolve(yaml.ScalarNode, event.value, (False, True))
        kind = tag.removeprefix(_TAG) if tag.startswith(_TAG) else ""
        if kind in ("str", "timestamp", "value", "merge"):
            return str(event.value)
        if kind == "null":
            return None
        if kind == "bool" and event.value.lower() in self._loader.bool_values:
            return bool(self._loader.bool_values[event.value.lower()])
        if kind in ("bool", "int", "float"):
            return self._number(kind, yaml.ScalarNode(tag, event.value), at)
        raise _UnreadableError(at, f"the tag {shown(event.tag)} is not allowed; write plain YAML")

    def _number(self, kind: str, node: yaml.ScalarNode, at: SourcePosition) -> Leaf:
        try:
            if kind == "int":
                whole = int(self._loader.construct_yaml_int(node))
                if abs(whole) <= MOST:
                    return whole
            else:
                number = float(self._loader.construct_yaml_float(node))
                if math.isfinite(number):
                    return number
        except (ValueError, KeyError, IndexError, OverflowError):
            pass
        self._log.add(at, self._child_path(), _no_number(str(node.value)))
        return None


def _doubt(event: yaml.ScalarEvent, value: Leaf) -> str:
    text = str(event.value)
    if isinstance(value, str):
        if _UNUSABLE.search(text):
            return f"{shown(text)} holds a NUL or half of a surrogate pair; remove it"
        if event.implicit[0] and _EXPONENT.fullmatch(text) and not math.isfinite(float(text)):
            return _no_number(text)
        return ""
    if not is_number(value):
        return ""
    if _ODD_NUMBER.fullmatch(text) or (value == 0 and text.startswith("-")):
        return f"YAML reads {text} as {value:g}; write that, or quote it"
    return ""


def _no_number(written: str) -> str:
    return f"{shown(written)} is not a finite number of 64 bits; write a smaller one or quote it"
