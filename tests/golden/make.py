"""Texts that pin behaviour, made from this repository's own recipes and from three real records.

``python -m tests.golden.make`` writes them anew: read the difference before it is committed.
"""

from __future__ import annotations

import contextlib
import gzip
import html.parser
import io
import json
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_gpubench import __version__
from pytest_gpubench.cli import main
from pytest_gpubench.report import html as page
from pytest_gpubench.report.markdown import markdown
from pytest_gpubench.report.read_results import load_results

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
PLAN = HERE / "plan.json.gz"
PAGE = HERE / "page.txt"
COMMENT = HERE / "comment.md"


def plan() -> str:
    """``gpubench plan`` of what recipes.yaml has itself: cases, servers with their command lines,
    gates, findings. The families beside it are held against what their originals start."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as empty:
        patch.chdir(ROOT)
        for name in ("PYTEST_ADDOPTS", "HF_HUB_CACHE"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HOME", empty)  # what lies in a cache makes the doctor say more
        with contextlib.redirect_stdout(out):
            code = main(["plan", str(ROOT / "recipes.yaml"), "-m", "tiny or minimaxm3"])
    assert code == 0
    text = out.getvalue()
    assert json.loads(text)["cases"]
    # which engines this environment has is not pinned; the environment may lie below ROOT
    return text.replace(json.dumps(sys.executable), '"python"').replace(str(ROOT), "ROOT")


def page_text() -> str:
    """The visible text of the report's page, one piece a line."""
    reader = _Reader()
    reader.feed(page.render(load_results([RESULTS])))
    return (
        "\n".join(reader.pieces).replace(__version__, "VERSION").replace(str(RESULTS), "RESULTS")
        + "\n"
    )


def comment() -> str:
    """The pull-request comment."""
    return markdown(load_results([RESULTS]))


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._skipping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipping += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skipping -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._skipping:
            self.pieces.append(data.strip())


def write() -> None:
    """Write all of them."""
    PLAN.write_bytes(gzip.compress(plan().encode(), mtime=0))
    PAGE.write_text(page_text())
    COMMENT.write_text(comment())


if __name__ == "__main__":
    write()
