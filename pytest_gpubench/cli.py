"""``gpubench``: the parts of the product that are no test run."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench._version import __version__
from pytest_gpubench.commands import (
    EXIT_USAGE,
    FLAG,
    FOLDER,
    CommandParser,
    add_selection,
    baseline,
    bisecting,
    client_commands,
    clusters,
    importing_recipes,
    plan_of,
    print_json,
    reports,
    selected,
)
from pytest_gpubench.doctor.findings import format_findings
from pytest_gpubench.doctor.rules import every_rule
from pytest_gpubench.host.files import careful_umask
from pytest_gpubench.model.failures import CommandError, GpubenchError
from pytest_gpubench.model.printing import counted, listed

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.host.hub.fetch import Progress
    from pytest_gpubench.model.cases import Case
    from pytest_gpubench.model.specs import ServerSpec

EXIT_FINDINGS = 1
"""The doctor found errors."""
EXIT_UNREAD = 141
"""As a shell says of a program that nobody reads from any more."""
_STARTER_FILES = {
    "recipes.yaml": "starter_recipes.yaml",
    "benchmarks/test_serving.py": "starter_test_serving.py",
}
_SHOWN_ENTRIES = 4
"""Names of a group of entries that are not supported, where it is told to a person."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. An error that a user can cause ends in a sentence on
    stderr."""
    _replace_what_the_terminal_lacks()
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.run
    try:
        with careful_umask():
            code = command(parsed)
        sys.stdout.flush()
        return code
    except CommandError as error:
        print(f"gpubench: {error}", file=sys.stderr)
        return error.exit_code
    except GpubenchError as error:
        print(f"gpubench: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        # Who read the output has gone; nothing more is to be said, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_UNREAD
    except OSError as error:
        print(
            f"gpubench: {error.strerror or error}{f': {error.filename}' if error.filename else ''}",
            file=sys.stderr,
        )
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130


def _replace_what_the_terminal_lacks() -> None:
    """A stream in a small character set prints a replacement instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _parser() -> CommandParser:
    parser = CommandParser(prog="gpubench", description="LLM serving benchmarks as pytest tests.")
    parser.add_argument("--version", action="version", version=f"pytest-gpubench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser(
        "init", help="write a starter recipes.yaml and benchmarks/test_serving.py into a repository"
    )
    init.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        help="root of the repository (default: here)",
    )
    init.set_defaults(run=_init)

    demo = commands.add_parser(
        "demo-model", help="write the embedded model pair into a Hugging Face cache folder"
    )
    demo.add_argument(
        "folder", type=Path, help="cache folder, as HF_HUB_CACHE or --gpubench-cache-dir names it"
    )
    demo.set_defaults(run=_demo_model)

    plan = commands.add_parser("plan", help="print what a selection would run, as JSON")
    add_selection(plan)
    plan.set_defaults(run=_plan)

    doctor = commands.add_parser("doctor", help="foretell which servers cannot start, and why")
    add_selection(doctor)
    doctor.add_argument("--rules", **FLAG, help="print all its rules, and no findings")
    doctor.set_defaults(run=_doctor)

    gpus = commands.add_parser(
        "gpus", help="list this host's GPUs, and what declares those that are not known"
    )
    gpus.set_defaults(run=_gpus)

    vocabulary = commands.add_parser(
        "vocabulary",
        help="ask the installed vLLM for its flags and variables, and keep them for the doctor",
    )
    vocabulary.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="as --gpubench-vllm-command (default: this environment's vLLM)",
    )
    vocabulary.set_defaults(run=_vocabulary)

    fetch = commands.add_parser(
        "fetch", help="download the weights of a selection, under the lock, ahead of a run"
    )
    add_selection(fetch)
    fetch.add_argument("--cache-dir", **FOLDER, help="as --gpubench-cache-dir")
    fetch.add_argument(
        "--configs",
        **FLAG,
        help="config, tokenizer and the index of the weights only: what the doctor needs",
    )
    fetch.add_argument(
        "--sources",
        **FLAG,
        help="the official recipes that the selection follows, instead: what gpubench "
        "compare-source reads",
    )
    fetch.add_argument(
        "--sources-url",
        metavar="URL",
        help="root of their project (default: its main branch on GitHub)",
    )
    fetch.set_defaults(run=_fetch)

    schema = commands.add_parser(
        "schema", help="print the JSON Schema of recipes.yaml, for editors"
    )
    schema.add_argument("--record", **FLAG, help="of result records instead")
    schema.set_defaults(run=_schema)

    for add_commands in (
        client_commands.add_commands,
        baseline.add_commands,
        bisecting.add_commands,
        _add_changelog,
        reports.add_commands,
        clusters.add_commands,
        importing_recipes.add_commands,
        _add_tools,
        client_commands.add_trace,
    ):
        add_commands(commands)
    return parser


def _add_changelog(commands: Subparsers) -> None:
    changelog = commands.add_parser(
        "changelog", help="print as Markdown what changed in the recipes since a git revision"
    )
    changelog.add_argument("revision", metavar="REV", help="commit, branch or tag")
    changelog.add_argument(
        "recipes", nargs="*", type=Path, help="recipe files (default: recipes.yaml)"
    )
    changelog.set_defaults(run=_changelog)


def _add_tools(commands: Subparsers) -> None:
    tools = commands.add_parser(
        "tools", help="install the load generators that `client: {tool: ...}` runs, or list them"
    )
    actions = tools.add_subparsers(required=True, metavar="ACTION")
    install = actions.add_parser("install", help="make an environment for one of them")
    install.add_argument("name", metavar="TOOL", help="aiperf")
    install.add_argument(
        "--python", default="", metavar="PATH", help="interpreter to make it with (default: this)"
    )
    install.set_defaults(run=_install_tool)
    there = actions.add_parser("list", help="say which are there")
    there.set_defaults(run=_list_tools)


def _init(parsed: argparse.Namespace) -> int:
    """Write what is missing of the starter files, and say what was there."""
    root: Path = parsed.folder
    if not root.is_dir():
        raise GpubenchError(f"{root} is not a folder; give the root of a repository")
    told = []
    for name, source in _STARTER_FILES.items():
        path, text = root / name, resources.files("pytest_gpubench.report") / "starter" / source
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text.read_text(encoding="utf-8"))
            told.append(f"wrote {path}")
        except FileExistsError:
            told.append(f"kept {path}: it exists")
        except OSError as error:
            raise GpubenchError(f"{path} could not be written: {error.strerror}") from error
    for words in sorted(told, key=lambda words: words.startswith("kept")):
        print(words)
    print("next: pytest benchmarks -k tiny")
    return 0


def _demo_model(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.demo.models import write_demo_models

    for repository, commit in write_demo_models(parsed.folder).items():
        print(f"{repository} {commit}")
    return 0


def _plan(parsed: argparse.Namespace) -> int:
    plan = plan_of(parsed)
    for group, names in plan["unsupported_groups"].items():
        shown = listed(names, _SHOWN_ENTRIES)
        print(f"not supported: {len(names)} {group}: {shown}", file=sys.stderr)
    print_json(plan)
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    if parsed.rules:
        for rule in every_rule():
            print(f"{rule.severity:8} {rule.id:34} {rule.title} ({rule.evidence_class})")
        return 0
    from pytest_gpubench.report.plan import findings_by_server

    plan = plan_of(parsed)
    errors = 0
    for server, findings in findings_by_server(plan).items():
        print(format_findings(findings, title=server))
        errors += sum(finding.severity == "error" for finding in findings)
    print(
        f"{counted(len(plan['cases']), 'case')} on "
        f"{counted(len(plan['servers']), 'server')}: {counted(errors, 'error')}"
    )
    return EXIT_FINDINGS if errors else 0


def _gpus(_parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.gpus.amd import UNSEEN
    from pytest_gpubench.host.gpus.drivers import read_inventory

    inventory = read_inventory()
    if not inventory.gpus:
        raise GpubenchError(
            f"this host has no GPU that can be used ({inventory.reason}): see whether nvidia-smi, "
            "or amd-smi, works"
        )
    for gpu in inventory.gpus:
        print(f"{gpu.index} {gpu.name}: {gpu.hardware.key if gpu.hardware else 'not known'}")
    if inventory.declarations:
        print("\nFor a recipe file:\n\nrunners:")
        print("\n".join(f"  {entry}" for entry in inventory.declarations))
    if any(gpu.platform == "rocm" for gpu in inventory.gpus):
        print(f"\n{UNSEEN}")
    return 0


def _vocabulary(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.dialects.registry import DEFAULT, dialect_of
    from pytest_gpubench.engines.interpreter import ask_vocabulary, default_command

    words = parsed.words[0].split() if len(parsed.words) == 1 else parsed.words
    dialect = dialect_of(DEFAULT)
    engine, found, path = ask_vocabulary(tuple(words) or default_command(dialect), dialect)
    print(
        f"{engine.distribution} {engine.version} ({engine.interpreter}): {len(found.flags)} "
        f"spellings of flags, {len(found.variables)} variables; kept in {path}"
    )
    return 0


def _fetch(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.hub.fetch import fetch_dataset
    from pytest_gpubench.model.workload import HUB_FILE
    from pytest_gpubench.runs.model_files import fetch_weights

    if parsed.sources:
        return importing_recipes.fetch_sources(parsed)
    _, cases, servers = selected(parsed)
    if parsed.configs:
        return _fetch_descriptions(servers, parsed.cache_dir)
    done: set[str] = set()
    for spec in servers:
        for repository, commit in fetch_weights(spec, parsed.cache_dir, _show_progress).items():
            if repository not in done:
                done.add(repository)
                print(f"{repository} {commit or 'local folder'}")
    for address in sorted(filter(HUB_FILE.match, {case.workload.dataset_file for case in cases})):
        print(f"{address} {fetch_dataset(address)}")
    _fetch_questions(cases)
    return 0


def _fetch_questions(cases: Iterable[Case]) -> None:
    """The data sets of evaluations, each once, by lm-eval; the embedded task brings its own."""
    from pytest_gpubench.evals.evaluating import fetch_questions
    from pytest_gpubench.model.evaluation import EMBEDDED_TASK

    tasks = dict.fromkeys(case.evaluation.task for case in cases if case.evaluation)
    for task in tasks:
        if task != EMBEDDED_TASK:
            fetch_questions(task)
            print(f"{task} fetched by lm-eval")


def _fetch_descriptions(servers: Iterable[ServerSpec], cache_dir: Path | None) -> int:
    from pytest_gpubench.runs.model_files import fetch_descriptions

    found: dict[str, tuple[str, int]] = {}
    for spec in servers:
        found |= fetch_descriptions(spec, cache_dir, known=found)
    for repository, (commit, size) in found.items():
        print(f"{repository} {commit or 'local folder'} {size / 1e6:.1f} MB")
    return 0


def _show_progress(progress: Progress) -> None:
    if progress.waiting:
        print(f"{progress.model}: another process is fetching it", file=sys.stderr)
    else:
        print(
            f"{progress.model}: {progress.done_bytes / 2**30:.1f} of "
            f"{progress.total_bytes / 2**30:.1f} GiB",
            file=sys.stderr,
        )


def _schema(parsed: argparse.Namespace) -> int:
    if parsed.record:
        from pytest_gpubench.report.record import record_schema

        print_json(record_schema())
        return 0
    from pytest_gpubench.recipes.schema import json_schema

    print_json(json_schema())
    return 0


def _changelog(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.git import files_at
    from pytest_gpubench.recipes.changes import broken_before, changelog, changes
    from pytest_gpubench.recipes.loading import load_recipes
    from pytest_gpubench.recipes.problems import problem_text

    files = parsed.recipes or [Path("recipes.yaml")]
    missing = next((path for path in files if not path.exists()), None)
    if missing is not None:
        raise GpubenchError(f"{missing} does not exist; give the path of a recipe file")
    book = load_recipes(files)
    if book.problems:
        raise GpubenchError(problem_text(book))
    with tempfile.TemporaryDirectory(prefix="gpubench-revision-") as folder:
        before = load_recipes(files_at(files, parsed.revision, Path(folder)))
    if before.problems:
        print(
            f"gpubench: at {parsed.revision} {broken_before(len(before.problems))}", file=sys.stderr
        )
    print(changelog(changes(before, book), parsed.revision))
    return 0


def _install_tool(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.tool_environments import install_tool

    environment = install_tool(parsed.name, parsed.python)
    print(f"{environment.name} {environment.version}: {environment.python}")
    return 0


def _list_tools(_parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.tool_environments import PINNED, environment_of

    for name in PINNED:
        it = environment_of(name)
        where = str(it.python) if it.installed else f"not installed: gpubench tools install {name}"
        print(f"{it.name} {it.version}: {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
