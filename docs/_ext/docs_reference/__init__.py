"""The reference, made from the sources while the documentation is built: it cannot be stale.

Every function returns the Markdown of one page; `pages` names them all. `docs/_ext/docs_hook.py`
hands them to mkdocs, `tests/docs` looks for whatever has no description.
"""

from __future__ import annotations

from docs_reference.api import api_page
from docs_reference.commands import commands_page
from docs_reference.metrics import metrics_page
from docs_reference.options import options_page
from docs_reference.outcomes import failures_page, outcomes_page
from docs_reference.records import records_page
from docs_reference.rules import rules_page
from docs_reference.schema import schema_page
from docs_reference.wrong_input import wrong_input_page


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    return {
        "reference/recipes.md": schema_page(),
        "reference/options.md": options_page(),
        "reference/commands.md": commands_page(),
        "reference/api.md": api_page(),
        "reference/metrics.md": metrics_page(),
        "reference/outcomes.md": outcomes_page(),
        "reference/failures.md": failures_page(),
        "reference/rules.md": rules_page(),
        "reference/wrong-input.md": wrong_input_page(),
        "reference/records.md": records_page(),
    }
