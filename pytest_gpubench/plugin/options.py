"""The options of the command line and their ini twins: one table. Imported in every pytest run, so
it imports nothing heavy."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_gpubench.model.policies import SHARING_POLICIES

_PREFIX = "--gpubench-"
_ADDOPTS = "PYTEST_ADDOPTS"
_MOST_FILES = 20


def joined(words: Sequence[str], takes_value: Callable[[str], bool], depth: int = 0) -> list[str]:
    """The words with each of our options and its value in one; ``@FILE`` is read as pytest reads
    it.

    Args:
        takes_value: whether an option, by its name with dashes, takes a value.
    """
    result: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*result, word, *rest]
        if word.startswith("@") and depth < _MOST_FILES and (lines := _lines(word[1:])) is not None:
            result += joined(lines, takes_value, depth + 1)
        elif word.startswith(_PREFIX) and "=" not in word and takes_value(word):
            value = next(rest, None)
            result += [word] if value is None else [f"{word}={value}"]
        else:
            result.append(word)
    return result


def begin_anew(config: pytest.Config) -> int | None:
    """Run pytest with our options in one word where two words have misled it; its exit code, None
    where they have not."""
    given = list(config.invocation_params.args)
    added = shlex.split(os.environ.get(_ADDOPTS, ""))

    def takes_value(option: str) -> bool:
        name = option.removeprefix("--").replace("-", "_")
        return not isinstance(getattr(config.option, name, False), bool)

    ours, ours_added = joined(given, takes_value), joined(added, takes_value)
    if not any(_is_path(config, word) for word in {*ours, *ours_added} - {*given, *added}):
        return None
    if ours_added != added:
        os.environ[_ADDOPTS] = shlex.join(ours_added)
    return int(pytest.main(ours, plugins=config.invocation_params.plugins))


def _is_path(config: pytest.Config, word: str) -> bool:
    """Whether the value of a joined option exists, so that pytest has looked for its root there."""
    option, equals, value = word.partition("=")
    if not (option.startswith(_PREFIX) and equals):
        return False
    try:
        return Path(config.invocation_params.dir, value.split("::")[0]).exists()
    except (OSError, ValueError):
        return False


def _lines(name: str) -> list[str] | None:
    try:
        return Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None


RECIPE_FILE = "recipes.yaml"
DEFAULT_RESULTS = "results"
DEFAULT_BASELINES = "benchmarks/baselines"
INCONCLUSIVE_CHOICES = ("exit", "warn", "fail")
DEFAULT_START_TIMEOUT_S = 3600.0


class Repeat(Enum):
    """Which of the commands that a run prints or writes keeps an option."""

    ALWAYS = "always"
    """It says what is measured, on what."""
    RERUN = "rerun"
    """``rerun.txt`` keeps it; the command that records a baseline does not: it sets its own."""
    NEVER = "never"
    """It says what is written, or what has been done."""


class Option(NamedTuple):
    """One ``--gpubench-NAME``. A dataclass takes 1 ms to define, in every pytest run."""

    name: str
    help: str
    value: str = ""
    """What ``--help`` shows for the value; empty without choices: a switch."""
    choices: tuple[str, ...] = ()
    many: bool = False
    """Repeatable."""
    ini: str = ""
    """What the ini twin ``gpubench_NAME`` means; empty: there is none."""
    ini_type: str | None = None
    repeat: Repeat = Repeat.ALWAYS
    excludes: Mapping[str, str] = {}
    """Names of options that contradict it, with the reason."""
    needs: Mapping[str, str] = {}
    """Names of options without which it means nothing, with the sentence that says so."""

    @property
    def flag(self) -> str:
        """As on the command line."""
        return f"--gpubench-{self.name}"

    @property
    def key(self) -> str:
        """As in ``config.option`` and in the ini file."""
        return f"gpubench_{self.name.replace('-', '_')}"


OPTIONS = (
    Option(
        "recipes",
        "recipe file, repeatable (default: recipes.yaml of the root folder, if it exists)",
        value="FILE",
        many=True,
        ini="recipe files (one a line)",
        ini_type="linelist",
    ),
    Option(
        "runner",
        "this host is the runner LABEL: a case for it whose hardware is missing fails "
        "instead of being skipped",
        value="LABEL",
    ),
    Option(
        "plan",
        "collect only, and write the selected cases and servers with their command lines as JSON",
        value="FILE",
        repeat=Repeat.NEVER,
    ),
    Option(
        "matrix",
        "collect only, and write the jobs of the selection (one per server) as JSON "
        "for a CI matrix",
        value="FILE",
        repeat=Repeat.NEVER,
    ),
    Option(
        "canary",
        "with --gpubench-matrix: the lowest concurrency of every server is a job of its own, for "
        "a stage before all others",
        repeat=Repeat.NEVER,
        needs={"matrix": "says how jobs are cut: give --gpubench-matrix as well"},
    ),
    Option("trim", "of every server that is selected only the case of lowest concurrency"),
    Option(
        "server-per",
        "what shares a server: all points of a parallelism (default), of a shape "
        "(ISL/OSL), or one server per point",
        choices=SHARING_POLICIES,
        ini="what shares a server: parallelism, shape or point",
    ),
    Option(
        "launches",
        "fresh starts of every server: N, or N certain ones and up to M for what is "
        "undecided (default: 1..3 where it has baselines, else 1)",
        value="N|N..M",
        ini="fresh starts of every server: N or N..M",
        repeat=Repeat.RERUN,
    ),
    Option(
        "rounds",
        "measurements of a case on one launch, for every recipe: N, or N and up to M where a "
        "baseline is compared or recorded (default: as in the recipes, 1..8)",
        value="N|N..M",
        ini="measurements of a case on one launch: N or N..M",
        repeat=Repeat.RERUN,
    ),
    Option(
        "budget",
        "time that the run may take: launches and rounds are planned within it from the baselines, "
        "and what they will be able to tell is said before anything starts",
        value="15m|900s|1.5h",
        repeat=Repeat.RERUN,
        excludes={
            "against": "the launches of a comparison are counted in blocks; give "
            "--gpubench-launches",
            "update-baselines": "a baseline is measured until its launches tell their level; limit "
            "it with --gpubench-rounds",
        },
    ),
    Option(
        "baselines",
        f"folder of baseline files, kept in git (default: {DEFAULT_BASELINES})",
        value="DIR",
        ini="folder of baseline files",
    ),
    Option(
        "update-baselines",
        "record the launches of cases that pass as baselines; needs a clean git working tree",
        repeat=Repeat.NEVER,
    ),
    Option(
        "accept-regression",
        "with --gpubench-update-baselines: what became worse is accepted and begins a new anchor",
        repeat=Repeat.NEVER,
        needs={
            "update-baselines": "accepts what is recorded: give --gpubench-update-baselines as well"
        },
    ),
    Option("require-baseline", "a case without a comparable baseline fails", repeat=Repeat.RERUN),
    Option(
        "inconclusive",
        "what INCONCLUSIVE and INVALID verdicts do: exit code 10 (exit, the default), "
        "only a skip (warn), a failure (fail)",
        choices=INCONCLUSIVE_CHOICES,
        ini="what INCONCLUSIVE and INVALID verdicts do: exit, warn or fail",
        repeat=Repeat.RERUN,
    ),
    Option(
        "results",
        f"folder of result records (default: {DEFAULT_RESULTS})",
        value="DIR",
        ini="folder of result records",
    ),
    Option(
        "reuse",
        "do not measure again what the results folder holds already: same server, "
        "workload, engine version, device, weights",
        repeat=Repeat.NEVER,
        excludes={
            "base-url": "what a running server is, only the server can say",
            "update-baselines": "a baseline takes launches that this run has measured",
        },
    ),
    Option(
        "changed-since",
        "only cases whose resolved recipe differs from that of a git revision; each is "
        "printed with what differs",
        value="REV",
        repeat=Repeat.NEVER,
    ),
    Option(
        "base-url",
        "measure a server that runs already (key from OPENAI_API_KEY); nothing is "
        "started or stopped",
        value="URL",
    ),
    Option(
        "model",
        "with --gpubench-base-url: the served name to measure, where the server lists "
        "several models",
        value="NAME",
        needs={
            "base-url": (
                "names a model of a server that runs already: give its address with "
                "--gpubench-base-url"
            )
        },
    ),
    Option(
        "command",
        "how to start an engine, repeatable: vllm='/opt/next/bin/vllm serve' (default: this "
        "interpreter's own engine, else its command on PATH)",
        value="ENGINE=COMMAND",
        many=True,
        ini="how to start engines, a line ENGINE=COMMAND each",
        ini_type="linelist",
    ),
    Option(
        "vllm-command",
        "the same as --gpubench-command vllm=COMMAND",
        value="COMMAND",
        ini="how to start vLLM",
    ),
    Option(
        "aiperf-command",
        "how AIPerf is started, for recipes whose client says `tool: aiperf` (default: what "
        "`gpubench tools install aiperf` made, else its command on PATH)",
        value="COMMAND",
        ini="how AIPerf is started",
    ),
    Option(
        "against",
        "compare with a second engine on this host, launches in the order A B B A: another "
        "command, or flags and "
        "environment to change, such as '--block-size 256'; --gpubench-launches counts blocks",
        value="ENGINE|ARGS",
        repeat=Repeat.RERUN,
        excludes={
            "base-url": "a comparison starts both engines itself, one after the other",
            "update-baselines": (
                "the launches of a comparison alternate between two engines, a baseline is of one"
            ),
        },
    ),
    Option(
        "against-checkout",
        "the same, engine B being that of the same recipes in another checkout of this "
        "repository: the folder there in which pytest would be started",
        value="DIR",
        repeat=Repeat.RERUN,
        excludes={
            "against": "each says what engine B is",
            "budget": "the launches of a comparison are counted in blocks; give "
            "--gpubench-launches",
            "base-url": "a comparison starts both engines itself, one after the other",
            "update-baselines": (
                "the launches of a comparison alternate between two engines, a baseline is of one"
            ),
        },
    ),
    Option(
        "first-engine",
        "with --gpubench-against: engine A, in the same words, where it is not that of the recipes",
        value="ENGINE|ARGS",
        repeat=Repeat.RERUN,
        needs={"against": "says what engine A is: give engine B with --gpubench-against"},
    ),
    Option(
        "gate-only",
        "gate no other metric than this in this run, repeatable; the limits of the recipe on "
        "other metrics are not looked at",
        value="METRIC",
        many=True,
        repeat=Repeat.RERUN,
    ),
    Option(
        "benchmark-json",
        "write the durations of this run as a JSON file of pytest-benchmark's schema, "
        "for its tools and those that read it",
        value="FILE",
        repeat=Repeat.NEVER,
    ),
    Option(
        "report",
        "write this run's results as one self-contained HTML page (gpubench report "
        "makes it of any results)",
        value="FILE.html",
        repeat=Repeat.NEVER,
    ),
    Option(
        "cache-dir",
        "Hugging Face cache (default: that of huggingface_hub)",
        value="DIR",
        ini="Hugging Face cache",
    ),
    Option(
        "start-timeout",
        f"deadline for a server's start (default: {DEFAULT_START_TIMEOUT_S:.0f} s)",
        value="SECONDS",
        ini="deadline for a server's start, in seconds",
    ),
    Option(
        "exclusive",
        "one server at a time on this host (default: yes); needed for numbers that are compared. "
        "Holds among the runs of "
        "this user: those of other users are seen only by what they hold on GPUs",
        choices=("yes", "no"),
    ),
    Option(
        "ignore-findings",
        "doctor rule whose errors do not stop a case, repeatable",
        value="RULE",
        many=True,
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare every option in one group, and the ini twins."""
    group = parser.getgroup("gpubench", "LLM serving benchmarks (pytest-gpubench)")
    for option in OPTIONS:
        group.addoption(option.flag, **_declared(option), help=option.help)
        if option.ini:
            default: Any = [] if option.ini_type == "linelist" else ""
            parser.addini(option.key, option.ini, type=option.ini_type, default=default)  # type: ignore[arg-type]


def _declared(option: Option) -> dict[str, Any]:
    if option.choices:
        return {"choices": option.choices}
    if not option.value:
        return {"action": "store_true"}
    declared: dict[str, Any] = {"metavar": option.value, "type": _not_empty}
    return declared | ({"action": "append"} if option.many else {})


def _not_empty(value: str) -> str:
    """A script's unset variable must not take an option away in silence."""
    if not value.strip():
        raise argparse.ArgumentTypeError("the value is empty; give one, or leave the option out")
    return value


def refuse_contradictions(config: pytest.Config) -> None:
    """Options that do not go together.

    Raises:
        pytest.UsageError: naming both, and why.
    """
    given = {option.name for option in OPTIONS if config.getoption(option.key)}
    for option in OPTIONS:
        if option.name not in given:
            continue
        for other, why in option.excludes.items():
            if other in given:
                raise pytest.UsageError(
                    f"{option.flag} and --gpubench-{other} exclude each other: {why}; leave one out"
                )
        for other, why in option.needs.items():
            if other not in given:
                raise pytest.UsageError(f"{option.flag} {why}")


def source_of(config: pytest.Config, name: str) -> str:
    """Where the value of an option with an ini twin comes from, as a message names it."""
    flag = f"--gpubench-{name.replace('_', '-')}"
    return flag if config.getoption(f"gpubench_{name}") else f"ini option gpubench_{name}"


def words_to_repeat(config: pytest.Config, *kept: Repeat) -> list[str]:
    """The options of this run that another command is to have, as words."""
    words: list[str] = []
    for option in OPTIONS:
        value = config.getoption(option.key)
        if option.repeat not in kept or not value:
            continue
        values = value if isinstance(value, list) else [value]
        words += [option.flag if one is True else f"{option.flag}={one}" for one in values]
    return words


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
    """The path that ``--gpubench-NAME`` gives, relative to where pytest was started; None without
    it."""
    given = config.getoption(f"gpubench_{name}")
    return _as_given(config, given) if given else None


def _as_given(config: pytest.Config, given: str) -> Path:
    from pytest_gpubench.host.files import expanded  # most runs have no paths to read

    return Path(config.invocation_params.dir, expanded(given))
