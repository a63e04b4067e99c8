"""The keys of recipes.yaml, from the JSON Schema that editors get."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

from docs_reference.markdown import attribute_docstrings, cell, code, prose, table
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.rounds import AS_USUAL
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.expansion import PROMPTS_PER_CONC, WARMUPS_PER_CONC
from pytest_gpubench.recipes.schema import json_schema

_HEAD = """# Keys of recipes.yaml

Made from the schema that checks the file; `gpubench schema` prints it for editors. [Recipes](../recipes.md) explains the language.
A key that is not listed is an error. Wherever a number may be computed, `${...}` may stand instead.
"""
_TITLES = {
    "File": (
        "The file",
        "Reserved keys; every other key at the top is the name of a [recipe](#recipe).",
    ),
    "Recipe": ("Recipe", ""),
    "When": ("when", ""),
    "Scenarios": ("scenarios", ""),
    "FixedSeqLen": ("fixed-seq-len", ""),
    "Row": ("Row of a search space", ""),
    "SpeculativeKeys": ("speculative", ""),
    "ClientKeys": ("client", ""),
    "SloKeys": ("slo", ""),
    "Runner": ("runners", ""),
    "GateKeys": (
        "gates",
        "A metric takes a percentage (its tolerance), `false` (it is not gated) or a map of these.",
    ),
    "AcceptanceGateKeys": ("gates of acceptance_length", ""),
    "RatioGate": ("ratios", ""),
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one part of the schema."""

    part: str
    name: str
    kind: str
    default: str
    required: bool
    meaning: str


def schema_keys() -> list[Key]:
    """Every key, part by part, in the order of the schema."""
    schema = json_schema()
    parts = {"File": schema, **schema["$defs"]}
    order = [name for name in _TITLES if name in parts] + [
        name for name in parts if name not in _TITLES
    ]
    return [key for part in order for key in _keys(part, parts[part])]


def _keys(part: str, schema: dict[str, Any]) -> list[Key]:
    workload = attribute_docstrings(Workload) if part == "ClientKeys" else {}
    defaults = _client_defaults() if part == "ClientKeys" else {}
    required = schema.get("required", [])
    made = []
    for name, value in schema.get("properties", {}).items():
        attribute = name.replace("-", "_")
        default = value.get("default", defaults.get(attribute))
        if default is None:
            default = defaults.get(attribute)
        shown = (
            "" if default is None or default is MISSING or default == "" else code(_plain(default))
        )
        meaning = value.get("description") or workload.get(attribute, "")
        made.append(Key(part, name, _kind(value), shown, name in required, prose(meaning)))
    return made


def _client_defaults() -> dict[str, Any]:
    """What holds where `client` does not say it: a workload's own, but for what a recipe lays over
    it."""
    return {field.name: field.default for field in fields(Workload)} | {
        "handover": "continue",
        "prompts_per_conc": PROMPTS_PER_CONC,
        "warmups_per_conc": WARMUPS_PER_CONC,
        "rounds": f"{AS_USUAL.least}..{AS_USUAL.most}",
    }


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        title = _TITLES.get(name, (name, ""))[0]
        return f"[{title}](#{_anchor(title)})"
    if "anyOf" in value:
        return " or ".join(
            dict.fromkeys(_kind(part) for part in value["anyOf"] if part.get("type") != "null")
        )
    if "const" in value:
        return code(_plain(value["const"]))
    if "enum" in value and set(value["enum"]) <= set(METRICS):
        return "[metric](metrics.md)"
    if "enum" in value:
        return ", ".join(code(_plain(word)) for word in value["enum"])
    kind = value.get("type", "any value")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"list of {_kind(value.get('items', {}))}"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"map to {_kind(inner)}" if isinstance(inner, dict) and inner else "map"
    if "pattern" in value:
        return (
            "`${...}`"
            if value["pattern"].startswith((r"\$\{", r"^\$\{"))
            else f"text like `{value['pattern']}`"
        )
    words = {"string": "text", "boolean": "true or false"}
    return words.get(kind, str(kind)) + _bounds(value)


def _bounds(value: dict[str, Any]) -> str:
    least, most = value.get("minimum"), value.get("maximum")
    if "exclusiveMinimum" in value:
        return f" above {value['exclusiveMinimum']:g}"
    if least is not None and most is not None:
        return f" from {least:,} to {most:,}"
    return f" of at least {least:,}" if least is not None else ""


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def schema_page() -> str:
    """The page."""
    parts: dict[str, list[Key]] = {}
    for key in schema_keys():
        parts.setdefault(key.part, []).append(key)
    schema = json_schema()
    lines = [_HEAD]
    for part, keys in parts.items():
        title, words = _TITLES.get(part, (part, ""))
        lines.append(f"## {title}\n")
        about = words or prose(schema["$defs"].get(part, {}).get("description", ""))
        if about:
            lines.append(cell(about).replace("\\|", "|") + "\n")
        rows = [
            (
                code(key.name) + (" (required)" if key.required else ""),
                key.kind,
                key.default,
                key.meaning or "?",
            )
            for key in keys
        ]
        lines.append(table(("key", "value", "default", "meaning"), rows) + "\n")
    return "\n".join(lines)
