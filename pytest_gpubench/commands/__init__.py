"""Commands of ``gpubench``, one module per subject; each adds its parsers and imports what it runs
only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command that works on selected cases."""
    from pathlib import Path

    parser.add_argument(
        "recipes", nargs="*", type=Path, help="recipe files (default: recipes.yaml)"
    )
    parser.add_argument("-k", dest="keyword", metavar="EXPRESSION", help="as pytest's -k")
    parser.add_argument("-m", dest="markexpr", metavar="EXPRESSION", help="as pytest's -m")
    parser.add_argument(
        "--server-per", choices=("parallelism", "shape", "point"), help="as --gpubench-server-per"
    )


def print_json(document: Any) -> None:
    """Print a document; where the output takes no UTF-8, other characters become JSON's own
    escapes."""
    takes_all = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(document, indent=1, ensure_ascii=not takes_all))
