"""What a run with recipes does when pytest is configured: load them, refuse what cannot be, take
part."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import re
import signal
import termios
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_gpubench.model.cases import Problem, RecipeBook, SourcePosition
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.plugin import gc_pause, reporting
from pytest_gpubench.plugin.fixtures import SESSION
from pytest_gpubench.plugin.hooks import Hooks
from pytest_gpubench.plugin.items import MARK_FIELDS, Parameters
from pytest_gpubench.plugin.options import OPTIONS, source_of
from pytest_gpubench.plugin.session import BenchmarkSession
from pytest_gpubench.plugin.session_end import SessionEnd
from pytest_gpubench.plugin.xdist import WorkerEnd
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.recipes.problems import problem_text
from pytest_gpubench.recipes.selection import field_errors, find_ambiguity
from pytest_gpubench.recipes.server_groups import plan_launches
from pytest_gpubench.report.records import RunFolder
from pytest_gpubench.runs.settings import Settings


def activate(config: pytest.Config, settings: Settings) -> None:
    """Load the recipes and take part in the run.

    Raises:
        pytest.UsageError: for options that cannot be met.
    """
    missing = [
        str(path) for path in settings.recipe_files if settings.recipes_named and not path.exists()
    ]
    if missing:
        raise pytest.UsageError(
            f"{source_of(config, 'recipes')}: {missing[0]} does not exist; give the path of a "
            "recipe file"
        )
    worker = getattr(config, "workerinput", None)
    processes = getattr(config.option, "numprocesses", None)
    with gc_pause.paused():
        book = _with_recipes(load_recipes(settings.recipe_files, policy=settings.server_per))
    gc_pause.spare_what_stays()
    if book.problems and processes:
        raise pytest.UsageError(problem_text(book))
    if (
        settings.update_baselines
        and not worker
        and not (config.option.collectonly or settings.plan)
    ):
        _refuse_unclean_tree(settings)
    launches = _planned(config, settings, book)
    folder = RunFolder.create(settings.results, worker["gpubench_run"] if worker else None)
    benchmark = BenchmarkSession(
        config, settings, book, Parameters(book, launches), folder, launches
    )
    wrong = benchmark.wrong_ratios() if processes else None
    if wrong:  # without workers it is said when one of our tests is collected
        raise pytest.UsageError(wrong)
    if settings.ignore_findings or (settings.against and settings.against.recipes):
        # Refuses an unknown rule, and wrong recipes of engine B, now and not at the first test.
        _ = benchmark.servers
    config.stash[SESSION] = benchmark
    _register_marks(config, book)
    _refuse_ambiguous_selection(config, book)
    if settings.plan is not None or settings.matrix is not None:
        config.option.collectonly = True
    config.pluginmanager.register(Hooks(benchmark), name="gpubench-benchmark")
    config.pluginmanager.register(_UnknownNames(), name="gpubench-ini-names")
    if settings.changed_since is not None:
        from pytest_gpubench.plugin.narrowing import Changed

        config.pluginmanager.register(
            Changed(benchmark, settings.changed_since), name="gpubench-changed"
        )
    if settings.trim:
        from pytest_gpubench.plugin.narrowing import Trim

        config.pluginmanager.register(Trim(), name="gpubench-trim")
    write_report = reporting.take_part(config, benchmark)
    write_json = reporting.take_part_for_benchmark(config, settings.benchmark_json, folder.path)
    if worker is None:
        writers = (benchmark.finish, write_report, write_json)
        config.pluginmanager.register(SessionEnd(benchmark, writers), name="gpubench-session-end")
    else:
        output = config.workeroutput  # type: ignore[attr-defined]
        config.pluginmanager.register(WorkerEnd(output), name="gpubench-worker-end")
    config.add_cleanup(benchmark.close)
    _be_careful_with_modes(config)
    end_cleanly(config)


def _with_recipes(book: RecipeBook) -> RecipeBook:
    """The book; with a problem where its files declare no recipe, which is no reason to be
    green."""
    if book.cases or book.unsupported or book.problems:
        return book
    words = "no recipe is declared, here or in a file that it includes; write one"
    return replace(book, problems=(Problem(SourcePosition(book.files[0], 1, 1), "", words),))


def _refuse_unclean_tree(settings: Settings) -> None:
    """Now, and not after hours of measuring."""
    from pytest_gpubench.gate.recording import tree_refusal
    from pytest_gpubench.host.git import git_state

    refusal = tree_refusal(git_state(settings.root, apart=settings.baselines))
    if refusal:
        raise pytest.UsageError(f"--gpubench-update-baselines: {refusal}")


def _planned(config: pytest.Config, settings: Settings, book: RecipeBook) -> tuple[Launch, ...]:
    try:
        return plan_launches(
            (key for key, _ in book.servers),
            settings.launches or _launches_by_baselines(settings, book),
            against=settings.against is not None,
        )
    except GpubenchError as error:
        raise pytest.UsageError(f"{source_of(config, 'launches')}: {error}") from None


COMPARED = "1..3"
"""Launches of a server that has baselines, where ``--gpubench-launches`` does not say: a FAIL takes
a second one."""


def _launches_by_baselines(settings: Settings, book: RecipeBook) -> Callable[[str], str]:
    one = settings.against is not None or settings.base_url is not None
    if one or not settings.baselines.is_dir():
        return lambda _server: "1"
    from pytest_gpubench.runs.budgeting import LAUNCHES

    specs = dict(book.servers)
    several = COMPARED if settings.budget_s is None else LAUNCHES

    def launches_of(server: str) -> str:
        folder = settings.baselines / specs[server].hardware / server
        return several if any(folder.glob("*.json")) else "1"

    return launches_of


def _register_marks(config: pytest.Config, book: RecipeBook) -> None:
    known = {str(line).split(":")[0].split("(")[0].strip() for line in config.getini("markers")}
    tags = dict.fromkeys(tag for case in book.cases for tag in case.tags)
    for tag in tags:
        if tag not in known:
            config.addinivalue_line("markers", f"{tag}: benchmark cases of pytest-gpubench")


def _refuse_ambiguous_selection(config: pytest.Config, book: RecipeBook) -> None:
    keyword = config.option.keyword
    found = find_ambiguity(keyword, book.cases) if keyword else None
    if found is not None:
        raise pytest.UsageError(str(found))
    wrong = field_errors(config.option.markexpr or "", MARK_FIELDS)
    if wrong:
        raise pytest.UsageError(f"-m {config.option.markexpr!r}: {'; '.join(wrong)}")


_UNKNOWN = re.compile(r"Unknown config option: (gpubench_\w*)")
"""As pytest warns of it, when the collection is over."""


class _UnknownNames:
    """Names of ours in the ini file that mean nothing: pytest warns of them, and the setting would
    hold nowhere. Hears its warnings, and ends the run where one is about such a name."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        self._names += _UNKNOWN.findall(str(warning_message.message))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's own, which warns at its end
    def pytest_collection(self) -> Generator[None, object, object]:
        result = yield
        for name in self._names:
            raise pytest.UsageError(f"ini option {name} does not exist; {_hint(name)}")
        return result


def _hint(name: str) -> str:
    for option in OPTIONS:
        if option.key == name:
            return f"it is given on the command line (addopts may hold it): {option.flag}"
    near = difflib.get_close_matches(name, [one.key for one in OPTIONS if one.ini], n=1)
    return f"did you mean {near[0]}?" if near else "pytest --help lists them"


def _be_careful_with_modes(config: pytest.Config) -> None:
    if config.option.collectonly:
        return
    from pytest_gpubench.host.files import careful_umask

    stack = contextlib.ExitStack()
    stack.enter_context(careful_umask())
    config.add_cleanup(stack.close)


ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_cleanly(config: pytest.Config) -> None:
    """Take the signals until the end of the session; one that is ignored (``nohup``) or taken by
    somebody else stays as it is."""
    ending = _Ending()
    config.pluginmanager.register(ending, name="gpubench-ending")
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_DFL:
            continue
        try:
            previous = signal.signal(number, ending.interrupt)
        except ValueError:  # not the main thread: the embedding program owns the signals
            return
        config.add_cleanup(functools.partial(_restore, number, previous))


def _restore(number: signal.Signals, handler: Any) -> None:
    signal.signal(number, handler)


class _Ending:
    """The first signal ends the run, a later one must not disturb the end: a shell and the kernel
    send SIGHUP each, CI services and schedulers send SIGINT, then SIGTERM, then SIGKILL."""

    def __init__(self) -> None:
        self._main_process = os.getpid()
        self._begun = False

    def pytest_keyboard_interrupt(self) -> None:
        self._begun = True

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._main_process:  # a child between fork and exec
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.Signals(number))
        if number == signal.SIGHUP:
            _leave_lost_terminals()
        if not self._begun:
            self._begun = True
            raise KeyboardInterrupt(signal.Signals(number).name)


def _leave_lost_terminals() -> None:
    """Let descriptors of a terminal that is gone lead to nowhere: a line that cannot be written
    would break off the end."""
    with contextlib.suppress(OSError):
        for name in [entry.name for entry in Path("/proc/self/fd").iterdir()]:
            with contextlib.suppress(OSError):
                if str(Path("/proc/self/fd", name).readlink()).startswith(
                    ("/dev/pts/", "/dev/tty")
                ) and _is_lost(int(name)):
                    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                    os.dup2(nowhere, int(name), inheritable=os.get_inheritable(int(name)))
                    os.close(nowhere)


def _is_lost(descriptor: int) -> bool:
    try:
        termios.tcgetattr(descriptor)
    except termios.error:
        return True
    return False
