"""mkdocs calls this while it builds: the reference pages join those of docs/."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what `docs_reference` makes from the sources."""
    # mkdocs gives hooks a search path of their own while they are loaded, and takes it away.
    sys.path.insert(0, str(Path(__file__).parent))
    from docs_reference import pages

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
