"""``gpubench tools``: environments of the load generators that measure in place of our client."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    """Add the parsers."""
    tools = commands.add_parser(
        "tools", help="install the load generators that `client: {tool: ...}` runs, or list them"
    )
    actions = tools.add_subparsers(required=True, metavar="ACTION")
    install = actions.add_parser("install", help="make an environment for one of them")
    install.add_argument("name", metavar="TOOL", help="aiperf")
    install.add_argument(
        "--python", default="", metavar="PATH", help="interpreter to make it with (default: this)"
    )
    install.set_defaults(run=_install)
    listed = actions.add_parser("list", help="say which are there")
    listed.set_defaults(run=_list)


def _install(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.tool_environments import install_tool

    environment = install_tool(parsed.name, parsed.python)
    print(f"{environment.name} {environment.version}: {environment.python}")
    return 0


def _list(_parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.tool_environments import PINNED, environment_of

    for name in PINNED:
        it = environment_of(name)
        where = str(it.python) if it.installed else f"not installed: gpubench tools install {name}"
        print(f"{it.name} {it.version}: {where}")
    return 0
