"""Which engine stands behind a command: asked of the command's own interpreter, without importing
the engine; and what it takes: flags, variables, names of backends, asked of the engine itself.

For the latter it is imported, which takes many seconds: it is done when a user wants it, and the
answer is kept.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.host.files import write_text
from pytest_gpubench.host.hub.local import user_cache_dir
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import Frozen
from pytest_gpubench.model.hardware import Platform

TIME_LIMIT = 60.0
"""Seconds that an interpreter gets to answer."""
_QUESTION = """
import importlib.metadata as m, json, sys
for name in sys.argv[1:]:
    try:
        found = m.distribution(name)
    except m.PackageNotFoundError:
        continue
    beside = {str(d.metadata["Name"]).lower(): d.version for d in m.distributions()}
    print(json.dumps([name, found.version, beside]))
    break
else:
    print("null")
"""


@dataclass(frozen=True, slots=True)
class EngineDistribution:
    """The installed engine, from its distribution metadata."""

    distribution: str
    """One of its dialect's."""
    version: str
    """With its local part (``0.26.0+cpu``), as the metadata writes it."""
    platform: Platform
    interpreter: str
    """The Python that runs it."""


def default_command(dialect: Dialect) -> tuple[str, ...]:
    """The command that starts an engine where the user names none."""
    return dialect.default_command(_installed)


def probe_command(command: Sequence[str], dialect: Dialect) -> EngineDistribution | None:
    """The engine behind a command, or None where it cannot be told: not on PATH, not Python, no
    such engine in it, no answer in time.

    The answer is kept for the life of this process; the question costs one interpreter start.
    """
    interpreter = interpreter_of(command)
    if interpreter is None:
        return None
    return _ask(interpreter, dialect.distributions, dialect.platform)


def interpreter_of(command: Sequence[str]) -> str | None:
    """The Python that a command runs: the command itself, or the one in the first line of its
    script."""
    if not command:
        return None
    executable = shutil.which(command[0])
    if executable is None:
        return None
    if Path(executable).name.startswith("python"):
        return executable
    try:
        with Path(executable).open("rb") as script:
            first = script.readline(4096)
            second = script.readline(4096)
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    words = os.fsdecode(first[2:].strip()).split()
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    if words and Path(words[0]).name == "sh" and second.startswith(b"'''exec'"):
        # installers write this where the path is long
        words = [os.fsdecode(second.split(b"'''exec'", 1)[1].strip()).split('"')[1]]
    if not words or not Path(words[0]).name.startswith("python"):
        return None
    return shutil.which(words[0])


def version_in(interpreter: str, distribution: str) -> str | None:
    """The version of a distribution that another interpreter has, by its metadata; None: it has
    none, or does not answer."""
    found = _answer(interpreter, (distribution,))
    return None if found is None else str(found[1])


def starts_itself(command: Sequence[str], dialect: Dialect) -> bool:
    """Whether a command is the engine's own, so that nothing else reads the flags behind it."""
    name = dialect.distributions[0]
    return any(Path(word).name == name or word.startswith(f"{name}.") for word in command)


def asking_environment() -> dict[str, str]:
    """The environment in which an interpreter is asked: this one, without what measures coverage
    in subprocesses."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV_CORE_")}


def check_requires(
    requires: Mapping[str, Frozen], distribution: EngineDistribution | None, known: Sequence[str]
) -> list[str]:
    """Sentences about what a recipe requires and the engine is not; empty if all holds.

    Each of the ``known`` distributions stands for the engine. An engine whose metadata could not be
    read is judged by its ``/version`` instead (`check_version`), so None gives no sentence.
    """
    return [] if distribution is None else check_version(requires, distribution.version, known)


def check_version(requires: Mapping[str, Frozen], version: str, known: Sequence[str]) -> list[str]:
    """Like `check_requires`, for a version text that the engine itself reported.

    Development builds satisfy a specifier by their base version; a text that is not a version at
    all is a sentence, too.
    """
    problems: list[str] = []
    for name, wanted in requires.items():
        if name not in known:
            problems.append(
                f"requires.{name}: only {' and '.join(known)} can be required of an engine."
            )
            continue
        try:
            holds = SpecifierSet(str(wanted)).contains(Version(version), prereleases=True)
        except InvalidSpecifier:
            problems.append(
                f"requires.{name}: {wanted!r} is not a version specifier (for instance '>=0.24')."
            )
        except InvalidVersion:
            problems.append(
                f"requires.{name}: the engine calls itself {version!r}, which cannot be "
                f"compared with {wanted}."
            )
        else:
            if not holds:
                problems.append(
                    f"requires.{name}: the recipe needs {wanted}, the engine is {version}."
                )
    return problems


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def _ask(
    interpreter: str, distributions: tuple[str, ...], platform: Platform
) -> EngineDistribution | None:
    distribution = _answer(interpreter, distributions)
    if distribution is None:
        return None
    name, version, beside = distribution
    if name.endswith("-cpu") or "+cpu" in version:
        platform = "cpu"
    elif "+rocm" in version or _for_rocm(beside):
        platform = "rocm"
    return EngineDistribution(name, version, platform, interpreter)


def _answer(
    interpreter: str, distributions: Sequence[str]
) -> tuple[str, str, dict[str, str]] | None:
    """The first of some distributions that an interpreter has: name, version, and all versions."""
    try:
        answer = subprocess.run(
            [interpreter, "-c", _QUESTION, *distributions],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIME_LIMIT,
            env=asking_environment(),
            check=True,
        )
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return None if found is None else (found[0], found[1], found[2])


def _for_rocm(versions: Mapping[str, str]) -> bool:
    """Whether the distributions beside an engine are those of ROCm.

    AMD's images build torch themselves, so that its version tells nothing; they have ``amdsmi``,
    which another installation may have, too.
    """
    torch = versions.get("torch", "+cpu")
    if "amdsmi" in versions and not any(part in torch for part in ("+cu", "+cpu")):
        return not any(name.startswith("nvidia-cu") for name in versions)
    return "+rocm" in torch or any(name.startswith("rocm") for name in versions)


VOCABULARY_LIMIT = 180.0
"""Seconds that an engine gets to be imported and to answer: a minute is usual on a slow disk."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that one engine takes."""

    version: str
    flags: frozenset[str]
    """Long flags without dashes, each spelling of them: ``enforce-eager``, ``no-enforce-eager``."""
    variables: frozenset[str]
    """Of the environment."""
    choices: Mapping[str, frozenset[str]]
    """Flag to its values, where only some are taken; also what ``attention-backend``,
    ``quantization`` and ``kv-cache-dtype`` may be."""

    def takes_flag(self, name: str) -> bool:
        """Whether the parser reads a flag without dashes; as argparse does, also the beginning of
        one."""
        return name in self.flags or any(flag.startswith(name) for flag in self.flags)


def vocabulary_from(version: str, answer: Mapping[str, Any]) -> Vocabulary:
    """A vocabulary from plain data, as it is kept and shipped.

    Raises:
        KeyError, TypeError, AttributeError: if the data is something else.
    """
    choices = {flag: frozenset(map(str, names)) for flag, names in answer["choices"].items()}
    flags, variables = frozenset(answer["flags"]), frozenset(answer["variables"])
    return Vocabulary(version, flags, variables, choices)


def ask_vocabulary(
    command: Sequence[str], dialect: Dialect, time_limit: float = VOCABULARY_LIMIT
) -> tuple[EngineDistribution, Vocabulary, Path]:
    """Ask the engine behind a command, and keep the answer for `kept_vocabulary`.

    Returns:
        The engine, what it takes, and the file that keeps it.

    Raises:
        GpubenchError: if there is no such engine behind the command, it does not answer in time
            (seconds) or otherwise than expected, or the answer cannot be kept.
    """
    words = " ".join(command)
    engine = probe_command(command, dialect)
    if engine is None:
        raise GpubenchError(
            f"no {dialect.title} can be found behind `{words}`: give the command that starts it, "
            f"such as `gpubench vocabulary {dialect.example}`"
        )
    try:
        done = subprocess.run(
            [engine.interpreter, "-c", dialect.vocabulary_question],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=time_limit,
            env=asking_environment(),
            check=False,
        )
        answer = json.loads(done.stdout.decode(errors="replace").strip().rpartition("\n")[2])
        found = vocabulary_from(engine.version, answer)
    except subprocess.TimeoutExpired:
        why = f"it did not answer within {time_limit:.0f} s"
        raise GpubenchError(_unanswered(engine, why)) from None
    except OSError as error:
        raise GpubenchError(_unanswered(engine, str(error.strerror))) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise GpubenchError(_unanswered(engine, last or "its answer is not understood")) from None
    path = _kept(engine.interpreter)
    kept = {"engine": asdict(engine), **answer}
    write_text(path, json.dumps(kept), what="the engine's vocabulary", remedy="set XDG_CACHE_HOME")
    return engine, found, path


def kept_vocabulary(command: Sequence[str], dialect: Dialect) -> Vocabulary | None:
    """What the engine behind a command said of itself when it was asked; None where it was not, or
    is another version by now. Without an answer that is kept this starts no process."""
    interpreter = interpreter_of(command) if dialect.vocabulary_question else None
    if interpreter is None:
        return None
    try:
        answer = json.loads(_kept(interpreter).read_text(encoding="utf-8"))
        engine = probe_command(command, dialect)
        if engine is None or answer["engine"] != asdict(engine):
            return None
        return vocabulary_from(engine.version, answer)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _kept(interpreter: str) -> Path:
    # an interpreter has one such engine at a time; which one, the file says
    name = hashlib.sha256(str(Path(interpreter).absolute()).encode()).hexdigest()[:16]
    return user_cache_dir() / "gpubench" / "vocabulary" / f"{name}.json"


def _unanswered(engine: EngineDistribution, why: str) -> str:
    return (
        f"{engine.distribution} {engine.version} ({engine.interpreter}) could not be asked for its "
        f"flags: {why}; see whether it starts there"
    )
