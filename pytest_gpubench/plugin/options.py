"""Command-line options and their ini twins. Imported in every pytest run, so it imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.model.policies import SHARING_POLICIES
from pytest_gpubench.plugin import fleet, reporting

RECIPE_FILE = "recipes.yaml"
DEFAULT_RESULTS = "results"
DEFAULT_BASELINES = "benchmarks/baselines"
INCONCLUSIVE_CHOICES = ("exit", "warn", "fail")
DEFAULT_START_TIMEOUT_S = 3600.0


def add_options(parser: pytest.Parser) -> None:
    """Declare every option in one group, with an ini twin for the standing ones."""
    group = parser.getgroup("gpubench", "LLM serving benchmarks (pytest-gpubench)")
    group.addoption(
        "--gpubench-recipes",
        action="append",
        metavar="FILE",
        help="recipe file, repeatable (default: recipes.yaml of the root folder, if it exists)",
    )
    group.addoption(
        "--gpubench-runner",
        metavar="LABEL",
        help="this host is the runner LABEL: a case for it whose hardware is missing fails instead of being skipped",
    )
    group.addoption(
        "--gpubench-plan",
        metavar="FILE",
        help="collect only, and write the selected cases and servers with their command lines as JSON",
    )
    group.addoption(
        "--gpubench-server-per",
        choices=SHARING_POLICIES,
        help="what shares a server: all points of a parallelism (default), of a shape (ISL/OSL), or one server per point",
    )
    group.addoption(
        "--gpubench-launches",
        metavar="N|N..M",
        help="fresh starts of every server: N, or N certain ones and up to M for what is undecided (default: 1)",
    )
    group.addoption(
        "--gpubench-baselines", metavar="DIR", help=f"folder of baseline files, kept in git (default: {DEFAULT_BASELINES})"
    )
    group.addoption(
        "--gpubench-update-baselines",
        action="store_true",
        help="record the launches of cases that pass as baselines; needs a clean git working tree",
    )
    group.addoption(
        "--gpubench-accept-regression",
        action="store_true",
        help="with --gpubench-update-baselines: what became worse is accepted and begins a new anchor",
    )
    group.addoption("--gpubench-require-baseline", action="store_true", help="a case without a comparable baseline fails")
    group.addoption(
        "--gpubench-inconclusive",
        choices=INCONCLUSIVE_CHOICES,
        help="what INCONCLUSIVE and INVALID verdicts do: exit code 10 (exit, the default), only a skip (warn), a failure (fail)",
    )
    group.addoption("--gpubench-results", metavar="DIR", help=f"folder of result records (default: {DEFAULT_RESULTS})")
    group.addoption(
        "--gpubench-base-url",
        metavar="URL",
        help="measure a server that runs already (key from OPENAI_API_KEY); nothing is started or stopped",
    )
    group.addoption(
        "--gpubench-model",
        metavar="NAME",
        help="with --gpubench-base-url: the served name to measure, where the server lists several models",
    )
    group.addoption(
        "--gpubench-vllm-command",
        metavar="COMMAND",
        help="how to start the engine (default: this interpreter's vLLM, else 'vllm serve')",
    )
    group.addoption(
        "--gpubench-against",
        metavar="ENGINE|ARGS",
        help="compare with a second engine on this host, launches in the order A B B A: another command, or flags and environment "
        "to change, such as '--block-size 256'; --gpubench-launches counts blocks",
    )
    group.addoption(
        "--gpubench-benchmark-json",
        metavar="FILE",
        help="write the durations of this run as a JSON file of pytest-benchmark's schema, for its tools and those that read it",
    )
    group.addoption("--gpubench-cache-dir", metavar="DIR", help="Hugging Face cache (default: that of huggingface_hub)")
    group.addoption(
        "--gpubench-start-timeout",
        metavar="SECONDS",
        type=float,
        help=f"deadline for a server's start (default: {DEFAULT_START_TIMEOUT_S:.0f} s)",
    )
    group.addoption(
        "--gpubench-exclusive",
        choices=("yes", "no"),
        help="one server at a time on this host (default: yes); needed for numbers that are compared. Holds among the runs of "
        "this user: those of other users are seen only by what they hold on GPUs",
    )
    group.addoption(
        "--gpubench-ignore-findings",
        action="append",
        metavar="RULE",
        default=[],
        help="doctor rule whose errors do not stop a case, repeatable",
    )
    fleet.add_options(group)
    reporting.add_options(group)
    parser.addini("gpubench_recipes", "recipe files (one a line)", type="linelist")
    parser.addini("gpubench_results", "folder of result records", default="")
    parser.addini("gpubench_vllm_command", "how to start the engine", default="")
    parser.addini("gpubench_cache_dir", "Hugging Face cache", default="")
    parser.addini("gpubench_start_timeout", "deadline for a server's start, in seconds", default="")
    parser.addini("gpubench_launches", "fresh starts of every server: N or N..M", default="")
    parser.addini("gpubench_baselines", "folder of baseline files", default="")
    parser.addini("gpubench_inconclusive", "what INCONCLUSIVE and INVALID verdicts do: exit, warn or fail", default="")
    parser.addini("gpubench_server_per", "what shares a server: parallelism, shape or point", default="")


def recipe_files(config: pytest.Config) -> tuple[tuple[Path, ...], bool]:
    """Files to load, and whether they were asked for by name (a missing one is then an error)."""
    root = config.rootpath
    given = config.getoption("gpubench_recipes")
    if given:
        return tuple(_as_given(config, name) for name in given), True
    listed: list[str] = config.getini("gpubench_recipes")
    if listed:
        return tuple(root / name for name in listed), True
    default = root / RECIPE_FILE
    return ((default,), False) if default.is_file() else ((), False)


def given_path(config: pytest.Config, name: str) -> Path | None:
    """The path that ``--gpubench-NAME`` gives, relative to where pytest was started; None without it."""
    given = config.getoption(f"gpubench_{name}")
    return _as_given(config, given) if given else None


def _as_given(config: pytest.Config, given: str) -> Path:
    from pytest_gpubench.host.files import expanded  # most runs have no paths to read

    return Path(config.invocation_params.dir, expanded(given))
