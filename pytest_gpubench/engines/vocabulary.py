"""What an installed engine takes: the flags of its argument parser, its environment variables, and
the names of its backends, asked of the engine itself.

To ask is to import it, which takes many seconds: it is done when a user wants it, and the answer
is kept.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.engines.interpreter import (
    EngineDistribution,
    asking_environment,
    interpreter_of,
    probe_command,
)
from pytest_gpubench.host.files import write_text
from pytest_gpubench.host.hub.local import user_cache_dir
from pytest_gpubench.model.failures import GpubenchError

TIME_LIMIT = 180.0
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
    command: Sequence[str], dialect: Dialect, time_limit: float = TIME_LIMIT
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
