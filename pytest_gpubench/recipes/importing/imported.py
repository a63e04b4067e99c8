"""A recipe made of a source: its name, its keys, what is lost, and the file's text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from pytest_gpubench.dialects.command_line import HostVariable
from pytest_gpubench.dialects.command_reading import comparable, differences
from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.cases import Case, Identity, RecipeBook
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.specs import ServerSpec, Topology
from pytest_gpubench.recipes.fields import is_token
from pytest_gpubench.recipes.importing.foreign_server import ForeignServer, ServerKeys, row_of
from pytest_gpubench.recipes.inferencex import SPEC_WORD, hardware_of, runner_hint, token_error

PRECISIONS = {
    "nvfp4": "fp4", "mxfp4": "fp4", "fp4": "fp4", "mxfp8": "fp8", "fp8": "fp8", "w4a16": "int4",
    "int4": "int4", "awq": "int4", "gptq": "int4", "w8a8": "int8", "int8": "int8", "fp16": "fp16",
    "fp32": "fp32", "bf16": "bf16",
}  # fmt: skip
"""Words of models' names and of official recipes, to the word of a recipe."""
_WORD = re.compile(r"[a-z0-9.]+")
_ACTIVE = re.compile(r"a\d+(\.\d+)?b")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user says of the recipe; empty and None: it follows from the source."""

    runner: str = ""
    model_prefix: str = ""
    precision: str = ""
    isl: int | None = None
    osl: int | None = None
    concs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lengths:
    """Input and output length, and the concurrencies at which they are measured."""

    isl: int
    osl: int
    concs: tuple[int, ...]


USUAL = Lengths(1024, 1024, (64,))
"""Where neither source nor user says what is measured."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The server behind some cases of a recipe; what is None is any."""

    server: ForeignServer
    topology: Topology | None = None
    lengths: tuple[int, int] | None = None
    conc: int | None = None

    def is_of(self, case: Case) -> bool:
        """Whether a case is one of them."""
        load = case.workload
        return (
            self.topology in (None, case.topology)
            and self.lengths in (None, (load.isl, load.osl))
            and self.conc in (None, load.conc)
        )


@dataclass(frozen=True, slots=True)
class Imported:
    """One recipe."""

    name: str
    body: Mapping[str, Any]
    origins: tuple[Origin, ...]
    lost: tuple[str, ...] = ()
    """What the source says and the recipe does not, each named first."""
    notes: tuple[str, ...] = ()
    """What is ours and not the source's."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What names a recipe."""

    model_prefix: str
    precision: str
    runner: str
    hardware: str
    variant: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def name(self, framework: str, *, drafted: bool) -> str:
        """The recipe's name."""
        spec = SPEC_WORD if drafted else ""
        variant = "-".join(self.variant)
        identity = Identity(
            self.model_prefix, self.precision, self.hardware, framework, spec, variant
        )
        return identity.label


def labels(model: str, wishes: Wishes, *, runner: str = "", precision: str = "") -> Labels:
    """What names the recipe of a model: the user's words, else the source's, else what the model's
    name says.

    Raises:
        GpubenchError: if the runner is none, or nobody names one.
    """
    notes = []
    runner = wishes.runner or runner
    if not runner:
        raise GpubenchError(
            "the source does not say on which GPU it is served; say it: --runner h100, for instance"
        )
    hardware = hardware_of(runner, {})
    if hardware is None:
        raise GpubenchError(f"unknown runner '{runner}'{runner_hint(runner, {})}")
    prefix = wishes.model_prefix or model_prefix(model)
    if wishes.model_prefix and token_error(prefix):
        raise GpubenchError(f"--model-prefix {prefix}: {token_error(prefix)}")
    precision = wishes.precision or precision
    if not precision:
        precision = precision_in(model) or "bf16"
        notes.append(f"precision {precision} is read from the model's name")
    return Labels(prefix, precision, runner, hardware, notes=tuple(notes))


def precision_in(text: str) -> str:
    """The precision that a name says, in the words of a recipe; empty: it says none."""
    name = text.rpartition("/")[2].lower()
    return next((word for mark, word in PRECISIONS.items() if mark in name), "")


def model_prefix(model: str) -> str:
    """A word for ids out of a model's name, without its precision, its active parameters, and
    without a size that would run into the number before it."""
    prefix = ""
    for word in _WORD.findall(model.rstrip("/").rpartition("/")[2].lower()):
        runs_into = prefix[-1:].isdigit() and word[0].isdigit()
        if word not in PRECISIONS and not _ACTIVE.fullmatch(word) and not runs_into:
            prefix += word
    prefix = prefix.strip(".") or "model"
    return prefix if is_token(prefix) and not token_error(prefix) else f"model{prefix}"


def variant_words(*texts: str) -> tuple[str, ...]:
    """Words for a recipe's name, as ids take them."""
    words = [word for text in texts for word in _WORD.findall(text.lower())]
    return tuple(
        word for word in dict.fromkeys(words) if not token_error(word) and word != SPEC_WORD
    )


def body_of(
    keys: ServerKeys,
    names: Labels,
    dialect: Dialect,
    rows: Sequence[Topology],
    lengths: Sequence[Lengths],
    **more: Any,
) -> dict[str, Any]:
    """The keys of a recipe, in the order in which they are read best.

    Args:
        more: further keys with underscores: image, requires, source, client, when.
    """
    row_keys = [row_of(row, drafted=bool(keys.speculative)) for row in rows]
    body = head_of(keys, names, dialect) | {
        "image": more.get("image"),
        "source": more.get("source"),
        "requires": more.get("requires"),
        "serve": dict(keys.serve),
        "speculative": dict(keys.speculative),
        "env": dict(keys.env),
        "client": more.get("client"),
        "when": more.get("when"),
        "scenarios": {
            "fixed-seq-len": [
                {
                    "isl": one.isl,
                    "osl": one.osl,
                    "search-space": [row | {"conc-list": list(one.concs)} for row in row_keys],
                }
                for one in lengths
            ]
        },
    }
    return {name: value for name, value in body.items() if value not in (None, {}, [], "")}


def head_of(keys: ServerKeys, names: Labels, dialect: Dialect) -> dict[str, Any]:
    """The first keys of a recipe: what it is."""
    return {
        "model": keys.model,
        "revision": keys.revision,
        "model-prefix": names.model_prefix,
        "precision": names.precision,
        "framework": dialect.name,
        "runner": names.runner,
        "multinode": False,
    }


def measured(wishes: Wishes, keys: ServerKeys, dialect: Dialect) -> Lengths:
    """What the user wants measured, else what fits into the server's context."""
    isl, osl = USUAL.isl, USUAL.osl
    longest = keys.serve.get(dialect.flags.length)
    while isinstance(longest, int) and isl + osl > longest and osl > 1:
        isl, osl = isl // 2, osl // 2
    return Lengths(wishes.isl or isl, wishes.osl or osl, wishes.concs or USUAL.concs)


class _Flow(dict[str, Any]):
    """A map that is written in one line."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - every value is written out
        return True


_MAP, _LIST, _TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str"))
_PLAIN = re.compile(r"[A-Za-z_/]([\w ./:,=()<>\[\]+-]*[\w)\]])?", re.ASCII)
"""Text that is written without quotes, unless YAML then reads something else."""
_Dumper.add_representer(
    _Flow, lambda dumper, data: dumper.represent_mapping(_MAP, data, flow_style=True)
)
_Dumper.add_representer(
    tuple, lambda dumper, data: dumper.represent_sequence(_LIST, data, flow_style=True)
)
_Dumper.add_representer(
    str,
    lambda dumper, data: dumper.represent_scalar(
        _TEXT, data, style=None if _PLAIN.fullmatch(data) else '"'
    ),
)


def _laid_out(value: Any, depth: int = 0) -> Any:
    if isinstance(value, list):
        flat = all(not isinstance(item, dict | list) for item in value)
        return tuple(value) if flat else [_laid_out(item, depth) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _laid_out(item, depth + 1) for key, item in value.items()}
    is_row, is_leaf = "conc-list" in value, depth > 1 and "search-space" not in value
    return _Flow(made) if is_row or is_leaf else made


def text_of(recipes: Sequence[Imported], source: str) -> str:
    """The text of a recipe file: what is lost stands as comments before its recipe.

    Args:
        source: what it was made of, one line.
    """
    parts = [f"# Made by gpubench import of {_line(source)}.\n"]
    for recipe in recipes:
        comments = [f"# {_line(note)}\n" for note in recipe.notes]
        if recipe.lost:
            comments.append("# Not carried over:\n")
            comments += [f"#   {_line(lost)}\n" for lost in recipe.lost]
        body = {key: _laid_out(value, 1) for key, value in recipe.body.items()}
        text = yaml.dump(
            {recipe.name: body},
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=1_000_000,
        )
        parts.append("".join(comments) + text)
    return "\n".join(parts)


def _line(text: str) -> str:
    """A text as one line of a comment."""
    return " ".join(for_terminal(text).split())


def verified(recipes: Sequence[Imported], book: RecipeBook) -> list[Imported]:
    """The recipes, with whatever their plan says otherwise than the source among what is lost.

    Args:
        book: what was loaded of their text, a server per case.

    Raises:
        GpubenchError: if they do not load.
    """
    if book.problems:
        problem = book.problems[0]
        raise GpubenchError(
            f"the recipe would not load: {problem.path}: {problem.message} (line "
            f"{problem.position.line} of what would be printed)"
        )
    return [_verified(recipe, book) for recipe in recipes]


def _verified(recipe: Imported, book: RecipeBook) -> Imported:
    lost = list(recipe.lost)
    for case in book.cases:
        if case.recipe != recipe.name:
            continue
        origin = next(one for one in recipe.origins if one.is_of(case))
        for sentence in unlike(book.server(case.server), origin.server):
            name = sentence.partition(":")[0]
            if not any(known.partition(":")[0] == name for known in lost):
                lost.append(sentence)
    return replace(recipe, lost=tuple(lost))


def unlike(spec: ServerSpec, server: ForeignServer) -> list[str]:
    """What a plan's command line and environment say otherwise than a source's, a sentence each."""
    dialect = dialect_of(spec.framework)
    line = dialect.render(spec, ("",), served_name="", offline=False)
    ours, theirs = comparable(dialect, line.argv[1:]), comparable(dialect, server.options)
    sentences = [
        f"--{name}: the source says {_said(right)}, the recipe {_said(left)}"
        for name, left, right in differences(ours, theirs)
    ]
    given = line.printable_env()
    for name, value in server.env.items():
        told = given.pop(name, None)
        if told != _host_or_text(value):
            sentences.append(f"env {name}: the recipe's plan has another value, or none")
    beside = [name for name in given if name not in dialect.ours_env]
    return [*sentences, *(f"env {name}: the source does not set it" for name in beside)]


def _said(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _host_or_text(value: Any) -> str:
    if isinstance(value, dict):
        return str(HostVariable(value["from"], value.get("default")))
    return str(value)
