"""mkdocs calls this while it builds: the reference pages join those of docs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(https?:)?//[^>]*>"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what `docs_reference` makes from the sources."""
    # mkdocs gives hooks a search path of their own while they are loaded, and takes it away.
    sys.path.insert(0, str(Path(__file__).parent))
    from docs_reference import pages

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_post_page(output: str, page: Page, **_more: object) -> str:
    """The site works without a network: no page may load anything from another host."""
    foreign = _LOADED.search(output)
    if foreign:
        raise PluginError(f"{page.file.src_uri} loads from another host: {foreign[0]}")
    return output
