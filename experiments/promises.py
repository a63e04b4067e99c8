"""The promises of an engine (`tests/engines/conformance.py`) on a real one, here or on a GPU host.

    python experiments/promises.py [--brief | --refusal] SERVER OUT [COMMAND...]

SERVER is a key of recipes.yaml, such as tiny-bf16-h100-sglang-tp1. COMMAND starts the engine
(default: that of this Python). ``--brief``: one start only; ``--refusal``: only the one that must
fail. Prints one JSON line per promise and
writes the log of each start below OUT.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.interpreter import default_command
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.runs.model_files import fetch_weights, weights_files
from tests.engines import conformance
from tests.engines.conformance import Subject


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--brief", action="store_true")
    which.add_argument("--refusal", action="store_true")
    parser.add_argument("server")
    parser.add_argument("out", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    spec = load_recipes([ROOT / "recipes.yaml"]).server(options.server)
    command = tuple(options.command) or default_command(dialect_of(spec.framework))
    fetch_weights(spec, None)
    subject = Subject(spec, command, weights=weights_files(spec, None), limit=420.0, osl=48)
    options.out.mkdir(parents=True, exist_ok=True)
    lost = 0

    def promise(name: str, keep: Callable[[], Any]) -> None:
        nonlocal lost
        began = time.monotonic()
        try:
            said = keep()
        except Exception as error:  # noqa: BLE001  # one that is broken must not hide the others
            lost += 1
            said = f"BROKEN {type(error).__name__}: {str(error)[:400]}"
        row = {"promise": name, "seconds": round(time.monotonic() - began, 1), "said": str(said)}
        print(json.dumps(row), flush=True)

    log = options.out / f"{options.server}-promises.log"

    def refuses() -> None:
        said = log.with_suffix(".3.log")
        promise("refuses a wrong flag", lambda: conformance.refuses_a_wrong_flag(subject, said))

    if options.refusal:
        refuses()
        sys.exit(1 if lost else 0)
    began = time.monotonic()
    with conformance.running(subject, log) as engine:
        print(json.dumps({"start": round(time.monotonic() - began, 1)}), flush=True)
        (options.out / f"{options.server}-facts.json").write_text(
            json.dumps(dict(engine.facts.settings), indent=1, default=str)
        )
        promise("tells what it is", lambda: conformance.tells_what_it_is(subject, engine))
        promise("keeps its key", lambda: conformance.keeps_its_key(engine, log))
        promise("measures", lambda: conformance.measures(subject, engine).totals)
        promise("can be attached to", lambda: conformance.can_be_attached_to(subject, engine))
        promise("names a killed process", lambda: conformance.names_a_killed_process(engine))
    if options.brief:
        sys.exit(1 if lost else 0)
    with conformance.running(subject, log.with_suffix(".2.log")) as engine:
        promise("leaves nothing", lambda: conformance.leaves_nothing(engine))
    refuses()
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
