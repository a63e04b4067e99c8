"""What records hold, from the model that reads them."""

from __future__ import annotations

from docs_reference.markdown import code, prose, table
from pytest_gpubench.report.record import CaseRecord, Record, StartRecord

_HEAD = """# Fields of records

Made from the model that reads them; `gpubench schema --record` prints it as JSON Schema.
[Results](../results.md) says where they lie.
"""
_PARTS = (
    ("Every record", Record, ()),
    ("The record of a case", CaseRecord, Record.model_fields),
    ("The record of a start", StartRecord, Record.model_fields),
)


def fields_of(model: type[Record]) -> dict[str, str]:
    """Description by field, as the file spells it."""
    return {
        field.alias or name: " ".join((field.description or "").split())
        for name, field in model.model_fields.items()
    }


def records_page() -> str:
    """The page."""
    lines = [_HEAD]
    for title, model, shared in _PARTS:
        rows = [
            (code(name), prose(description))
            for name, description in fields_of(model).items()
            if name not in (*shared, "schema", "kind") or model is Record
        ]
        lines.append(f"\n## {title}\n\n" + table(("field", "meaning"), rows))
    return "\n".join(lines) + "\n"
