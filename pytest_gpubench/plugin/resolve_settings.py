"""The settings of a run, from the command line and the ini file."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gpubench.dialects.registry import dialect_of, frameworks
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.policies import SHARING_POLICIES, SharingPolicy
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.plugin.options import (
    DEFAULT_BASELINES,
    DEFAULT_RESULTS,
    DEFAULT_START_TIMEOUT_S,
    INCONCLUSIVE_CHOICES,
    given_path,
    recipe_files,
    refuse_contradictions,
    source_of,
)
from pytest_gpubench.runs.settings import Settings

if TYPE_CHECKING:
    from pytest_gpubench.engines.against import Against


def resolve_settings(config: pytest.Config) -> Settings:
    """Option, else ini twin, else default.

    Raises:
        pytest.UsageError: for a value that cannot be used, naming the option.
    """
    refuse_contradictions(config)
    root = config.rootpath
    files, named = recipe_files(config)
    return Settings(
        recipe_files=files,
        recipes_named=named,
        root=root,
        results=_path(config, root, "results") or root / DEFAULT_RESULTS,
        runner=config.getoption("gpubench_runner"),
        plan=given_path(config, "plan"),
        matrix=given_path(config, "matrix"),
        canary=bool(config.getoption("gpubench_canary")),
        trim=bool(config.getoption("gpubench_trim")),
        report=_target(config, "report"),
        reuse=bool(config.getoption("gpubench_reuse")),
        changed_since=config.getoption("gpubench_changed_since"),
        server_per=_server_per(config),
        base_url=_base_url(config),
        model=config.getoption("gpubench_model"),
        commands=_commands(config),
        aiperf_command=_aiperf_command(config),
        cache_dir=_path(config, root, "cache_dir"),
        start_timeout_s=_seconds(config),
        exclusive=config.getoption("gpubench_exclusive") != "no",
        ignore_findings=tuple(config.getoption("gpubench_ignore_findings") or ()),
        against=_against(config, files),
        first_engine=_said(config, "first_engine"),
        gate_only=_gate_only(config),
        benchmark_json=_target(config, "benchmark_json"),
        launches=_text(config, "launches"),
        budget_s=_budget(config),
        rounds=_rounds(config),
        baselines=_path(config, root, "baselines") or root / DEFAULT_BASELINES,
        update_baselines=config.getoption("gpubench_update_baselines"),
        accept_regression=config.getoption("gpubench_accept_regression"),
        require_baseline=config.getoption("gpubench_require_baseline"),
        inconclusive=_inconclusive(config),
    )


def _budget(config: pytest.Config) -> float | None:
    text = config.getoption("gpubench_budget")
    if not text:
        return None
    from pytest_gpubench.runs.budgeting import parse_budget

    try:
        return parse_budget(text)
    except ValueError as error:
        raise pytest.UsageError(f"--gpubench-budget: {error}") from None


def _rounds(config: pytest.Config) -> Rounds | None:
    text = _text(config, "rounds")
    try:
        return Rounds.parse(text) if text else None
    except ValueError as error:
        raise pytest.UsageError(f"{source_of(config, 'rounds')}: {error}") from None


def _commands(config: pytest.Config) -> dict[str, tuple[str, ...]]:
    """By engine; the command line wins over the ini file, the option that names an engine over the
    general one."""
    from pytest_gpubench.recipes.problems import one_of

    source = "--gpubench-command"
    given = config.getoption("gpubench_command")
    if not given:
        source, given = "ini option gpubench_command", config.getini("gpubench_command")
    commands: dict[str, tuple[str, ...]] = {}
    for text in given:
        engine, equals, command = (part.strip() for part in text.partition("="))
        if not equals or engine not in frameworks():
            raise pytest.UsageError(
                f"{source}: {text!r} names no engine; write ENGINE=COMMAND, ENGINE being "
                f"{one_of(frameworks())}"
            )
        if engine in commands:
            raise pytest.UsageError(f"{source}: {engine} has two commands; leave one out")
        commands[engine] = _command(source, engine, command)
    of_one = _text(config, "vllm_command")
    if of_one:
        commands["vllm"] = _command(source_of(config, "vllm_command"), "vllm", of_one)
    return commands


def _command(source: str, engine: str, text: str) -> tuple[str, ...]:
    """The words of a command; refused is what a recipe's `command` may not hold either."""
    words = _split(source, text)
    wrong = dialect_of(engine).flags.words_error(words, short=False)
    if wrong:
        raise pytest.UsageError(f"{source}: {wrong}")
    return words


def _aiperf_command(config: pytest.Config) -> tuple[str, ...]:
    text = _text(config, "aiperf_command")
    return _split(source_of(config, "aiperf_command"), text, "AIPerf") if text else ()


def _text(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"gpubench_{name}") or config.getini(f"gpubench_{name}") or "")


def _path(config: pytest.Config, root: Path, name: str) -> Path | None:
    given = config.getoption(f"gpubench_{name}")
    listed = str(config.getini(f"gpubench_{name}") or "")
    if not given and not listed:
        return None
    try:
        path = given_path(config, name) or root / Path(listed).expanduser()
        wrong = "is a file; give a folder" if path.exists() and not path.is_dir() else ""
    except (OSError, RuntimeError, ValueError) as error:
        path, wrong = Path(given or listed), f"cannot be used: {error}"
    if wrong:
        raise pytest.UsageError(f"{source_of(config, name)}: {path} {wrong}")
    return path


def _target(config: pytest.Config, name: str) -> Path | None:
    """A file that is written when the run ends: better refused now."""
    target = given_path(config, name)
    if target is not None and (target.is_dir() or not target.parent.is_dir()):
        what = (
            "is a folder"
            if target.is_dir()
            else f"cannot be written: the folder {target.parent} does not exist"
        )
        option = f"--gpubench-{name.replace('_', '-')}"
        raise pytest.UsageError(
            f"{option}: {target} {what}; give the path of a file in an existing folder"
        )
    return target


def _inconclusive(config: pytest.Config) -> str:
    text = _text(config, "inconclusive") or INCONCLUSIVE_CHOICES[0]
    if text not in INCONCLUSIVE_CHOICES:
        raise pytest.UsageError(
            f"ini option gpubench_inconclusive: {text!r} is not one of "
            f"{', '.join(INCONCLUSIVE_CHOICES)}"
        )
    return text


def _against(config: pytest.Config, files: tuple[Path, ...]) -> Against | None:
    checkout = given_path(config, "against_checkout")
    if checkout is not None:
        return _against_checkout(config, files, checkout)
    return _said(config, "against")


def _said(config: pytest.Config, name: str) -> Against | None:
    """The engine that an option describes."""
    text = config.getoption(f"gpubench_{name}")
    if text is None:
        return None
    try:
        from pytest_gpubench.engines.against import parse_against

        return parse_against(text)
    except GpubenchError as error:
        other = "--gpubench-first-engine, read as --gpubench-against: "
        raise pytest.UsageError(f"{other if name == 'first_engine' else ''}{error}") from None


def _gate_only(config: pytest.Config) -> tuple[str, ...]:
    names = tuple(config.getoption("gpubench_gate_only") or ())
    if not names:
        return ()
    from pytest_gpubench.recipes.gates import name_error

    if wrong := next(filter(None, map(name_error, names)), None):
        raise pytest.UsageError(f"--gpubench-gate-only: {wrong}; the page on metrics lists them")
    return names


def _against_checkout(config: pytest.Config, files: tuple[Path, ...], checkout: Path) -> Against:
    from pytest_gpubench.engines.against import Against

    option = "--gpubench-against-checkout"
    if not checkout.is_dir():
        raise pytest.UsageError(
            f"{option}: {checkout} is no folder; give the folder of another checkout in which "
            "pytest would be started"
        )
    here = config.invocation_params.dir.resolve()
    places = [os.path.relpath(file.parent.resolve() / file.name, here) for file in files]
    there = tuple(Path(os.path.normpath(checkout.resolve() / place)) for place in places)
    for file in there:
        if not file.is_file():
            raise pytest.UsageError(
                f"{option}: {file} does not exist, and the recipes of engine B would be in it; "
                "give a checkout that has the same recipe files"
            )
    return Against(f"the recipes in {checkout}", checkout=checkout.resolve(), recipes=there)


def _base_url(config: pytest.Config) -> str | None:
    given: str | None = config.getoption("gpubench_base_url")
    if given is None:
        return None
    from pytest_gpubench.engines.http_probe import base_url_error

    wrong = base_url_error(given)
    if wrong:
        raise pytest.UsageError(f"--gpubench-base-url {wrong}")
    return given


def _server_per(config: pytest.Config) -> SharingPolicy | None:
    text = _text(config, "server_per")
    if not text:
        return None
    for policy in SHARING_POLICIES:
        if policy == text:
            return policy
    raise pytest.UsageError(
        f"ini option gpubench_server_per: {text!r} is not one of {', '.join(SHARING_POLICIES)}"
    )


def _seconds(config: pytest.Config) -> float:
    given: Any = config.getoption("gpubench_start_timeout")
    source = "--gpubench-start-timeout"
    if given is None:
        given, source = (
            config.getini("gpubench_start_timeout") or DEFAULT_START_TIMEOUT_S,
            "ini option gpubench_start_timeout",
        )
    try:
        seconds = float(given)
    except ValueError:
        raise pytest.UsageError(f"{source}: {given!r} is not a number of seconds") from None
    if not 0 < seconds < 1e7:
        raise pytest.UsageError(f"{source}: {given!r} must be above 0 and below 10,000,000 seconds")
    return seconds


def _split(source: str, command: str, what: str = "the engine") -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise pytest.UsageError(
            f"{source}: {command!r} cannot be split into words ({error}); check its quotes"
        ) from None
    from pytest_gpubench.model.secrets import secret_inside

    if name := next(filter(None, map(secret_inside, words)), ""):
        raise pytest.UsageError(
            f"{source}: holds a value of {name}, and a command line can be read by every user of "
            "the host; "
            f"set {name} where pytest runs, and `env: {{{name}: {{from: {name}}}}}` in the recipe"
        )
    if not words:
        raise pytest.UsageError(f"{source}: is empty; give the command that starts {what}")
    return words
