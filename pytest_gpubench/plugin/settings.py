"""What the command line and the ini file say, resolved once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gpubench.domain.failures import GpubenchError
from pytest_gpubench.domain.policies import SHARING_POLICIES, SharingPolicy
from pytest_gpubench.plugin.options import (
    DEFAULT_BASELINES,
    DEFAULT_RESULTS,
    DEFAULT_START_TIMEOUT_S,
    INCONCLUSIVE_CHOICES,
    given_path,
    recipe_files,
)

if TYPE_CHECKING:
    from pytest_gpubench.engines.against import Against

_ALONE = {
    "base-url": "a comparison starts both engines itself, one after the other",
    "update-baselines": "the launches of a comparison alternate between two engines, a baseline is of one",
}
"""Options that contradict ``against``, with the reason."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line and the ini file say, resolved once at configure."""

    recipe_files: tuple[Path, ...]
    """Files to load: the options, else the ini value, else recipes.yaml of the root folder if it exists."""
    recipes_named: bool
    """Whether the files were asked for by name (a missing one is then an error)."""
    root: Path
    results: Path
    runner: str | None = None
    plan: Path | None = None
    server_per: SharingPolicy | None = None
    base_url: str | None = None
    model: str | None = None
    """The served name to measure at ``base_url``; None: the only one."""
    vllm_command: tuple[str, ...] | None = None
    cache_dir: Path | None = None
    start_timeout_s: float = DEFAULT_START_TIMEOUT_S
    exclusive: bool = True
    ignore_findings: tuple[str, ...] = ()
    against: Against | None = None
    benchmark_json: Path | None = None
    launches: str = "1"
    """``N`` or ``N..M``, as written."""
    baselines: Path = Path(DEFAULT_BASELINES)
    update_baselines: bool = False
    accept_regression: bool = False
    require_baseline: bool = False
    inconclusive: str = "exit"
    """What INCONCLUSIVE and INVALID do: ``exit`` (code 10), ``warn`` (a skip), ``fail``."""


def resolve_settings(config: pytest.Config) -> Settings:
    """Option, else ini twin, else default.

    Raises:
        pytest.UsageError: for a value that cannot be used, naming the option.
    """
    root = config.rootpath
    files, named = recipe_files(config)
    command = _text(config, "vllm_command")
    return Settings(
        recipe_files=files,
        recipes_named=named,
        root=root,
        results=_path(config, root, "results") or root / DEFAULT_RESULTS,
        runner=config.getoption("gpubench_runner"),
        plan=given_path(config, "plan"),
        server_per=_server_per(config),
        base_url=_base_url(config),
        model=_model(config),
        vllm_command=_split("--gpubench-vllm-command", command) if command else None,
        cache_dir=_path(config, root, "cache_dir"),
        start_timeout_s=_seconds(config),
        exclusive=config.getoption("gpubench_exclusive") != "no",
        ignore_findings=tuple(config.getoption("gpubench_ignore_findings")),
        against=_against(config),
        benchmark_json=given_path(config, "benchmark_json"),
        launches=_text(config, "launches") or "1",
        baselines=_path(config, root, "baselines") or root / DEFAULT_BASELINES,
        update_baselines=config.getoption("gpubench_update_baselines"),
        accept_regression=_accept_regression(config),
        require_baseline=config.getoption("gpubench_require_baseline"),
        inconclusive=_inconclusive(config),
    )


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
        option = f"--gpubench-{name.replace('_', '-')}"
        raise pytest.UsageError(f"{option if given else f'ini option gpubench_{name}'}: {path} {wrong}")
    return path


def _model(config: pytest.Config) -> str | None:
    name: str | None = config.getoption("gpubench_model")
    if name is not None and not config.getoption("gpubench_base_url"):
        raise pytest.UsageError(
            "--gpubench-model names a model of a server that runs already: give its address with --gpubench-base-url"
        )
    return name


def _accept_regression(config: pytest.Config) -> bool:
    accepted = bool(config.getoption("gpubench_accept_regression"))
    if accepted and not config.getoption("gpubench_update_baselines"):
        raise pytest.UsageError("--gpubench-accept-regression accepts what is recorded: give --gpubench-update-baselines as well")
    return accepted


def _inconclusive(config: pytest.Config) -> str:
    text = _text(config, "inconclusive") or INCONCLUSIVE_CHOICES[0]
    if text not in INCONCLUSIVE_CHOICES:
        raise pytest.UsageError(f"ini option gpubench_inconclusive: {text!r} is not one of {', '.join(INCONCLUSIVE_CHOICES)}")
    return text


def _against(config: pytest.Config) -> Against | None:
    text = config.getoption("gpubench_against")
    if text is None:
        return None
    for name, why in _ALONE.items():
        if config.getoption(f"gpubench_{name.replace('-', '_')}", None):
            raise pytest.UsageError(f"--gpubench-against and --gpubench-{name} exclude each other: {why}; leave one out")
    try:
        from pytest_gpubench.engines.against import parse_against

        return parse_against(text)
    except GpubenchError as error:
        raise pytest.UsageError(str(error)) from None


def _base_url(config: pytest.Config) -> str | None:
    given: str | None = config.getoption("gpubench_base_url")
    if given is None:
        return None
    from pytest_gpubench.engines.address import base_url_error

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
    raise pytest.UsageError(f"ini option gpubench_server_per: {text!r} is not one of {', '.join(SHARING_POLICIES)}")


def _seconds(config: pytest.Config) -> float:
    given: Any = config.getoption("gpubench_start_timeout")
    source = "--gpubench-start-timeout"
    if given is None:
        given, source = config.getini("gpubench_start_timeout") or DEFAULT_START_TIMEOUT_S, "ini option gpubench_start_timeout"
    try:
        seconds = float(given)
    except ValueError:
        raise pytest.UsageError(f"{source}: {given!r} is not a number of seconds") from None
    if not 0 < seconds < 1e7:
        raise pytest.UsageError(f"{source}: {given!r} must be above 0 and below 10,000,000 seconds")
    return seconds


def _split(source: str, command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise pytest.UsageError(f"{source}: {command!r} cannot be split into words ({error}); check its quotes") from None
    from pytest_gpubench.domain.secrets import secret_inside

    if name := next(filter(None, map(secret_inside, words)), ""):
        raise pytest.UsageError(
            f"{source}: holds a value of {name}, and a command line can be read by every user of the host; "
            f"set {name} where pytest runs, and `env: {{{name}: {{from: {name}}}}}` in the recipe"
        )
    if not words:
        raise pytest.UsageError(f"{source}: is empty; give a command such as 'vllm serve'")
    return words
