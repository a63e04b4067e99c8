"""From an engine's log and end to a `Failure` with cause, class, evidence and remedy: pure.

The root cause is the earliest traceback of the process that failed, not the last lines of the log:
the processes above it add their own, generic ones ("See root cause above"), and a stop adds
spurious ones.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_gpubench.dialects.engine_log import Cause, EngineLog, LogLine
from pytest_gpubench.model.failures import Failure

EVIDENCE_LINES = 6
"""At most so many lines of an engine's log are shown."""
_WIDTH = 240
_HEADER = re.compile(r"(?:[\w ]{1,60}: +)?Traceback \(most recent call last\)")
_CONNECTING = re.compile(
    r"^(?:During handling of the above exception|The above exception was the direct cause)"
)
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:\(\w+\))?(?::|$)")
_ELSEWHERE = re.compile(r"^[\w.]+\(\w+\): \w+::")
"""An exception of another process (Ray): its frames, and what it says, follow."""
_LOUD = re.compile(
    r"^(?:usage: |.*: error: )|terminate called|what\(\):|Fatal Python error|CUDA error: |NCCL "
    r"WARN|Segmentation fault|Memory access fault by GPU|Bus error|^ERROR: +\[Errno|rocBLAS error: "
    r"|error while loading shared libraries|pthread_create failed"
)
_FRAME = re.compile(r"\s|$|Traceback \(most recent call last\)")
"""Lines of a traceback other than its message."""
_READ_LOG = (
    "The cause is not one that gpubench knows: read the engine's log from the first traceback on, "
    "and report it with the whole log, so that it will be known."
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a server's run came to its end, as its supervisor saw it."""

    reason: Literal["exited", "fatal-line", "timeout", "stalled", "foreign-server"]
    returncode: int | None = None
    """Of the server's first process, negative for a signal; None while it lives."""
    seconds: float = 0.0
    """For ``timeout`` and ``stalled``: the limit that was passed."""
    serving: bool = False
    """Whether it had been ready before."""
    answering: bool = False
    """Whether the server answered ``/health``, though never with 200."""
    compilers: tuple[str, ...] = ()
    """Compilers of CUDA kernels among its processes at that time, by name."""


@dataclass(frozen=True, slots=True)
class _Traceback:
    index: int
    marked: bool
    frames: str
    message: tuple[str, ...]
    stream: tuple[str, int | None] = ("", None)
    chained: bool = False
    """Whether it says of itself that it came out of the one before it."""

    @property
    def headline(self) -> str:
        return next(iter(self.message), "")

    @property
    def last_frame(self) -> tuple[str, ...]:
        """Where it was raised, and the code there, if the exception itself says nothing."""
        if ": " in self.headline:
            return ()
        frames = [line.strip() for line in self.frames.splitlines() if line.strip()]
        last = max((at for at, line in enumerate(frames) if line.startswith("File ")), default=None)
        return () if last is None else tuple(frames[last : last + 2])


def fatal_line(line: LogLine, log: EngineLog) -> bool:
    """Whether a line means that the engine is lost even if its processes live on.

    Information and warnings never do, nor does what an engine says while it is being stopped: ask
        only before that.
    """
    return line.level in ("", "ERROR", "CRITICAL") and bool(log.fatal.search(line.text))


def classify(lines: Iterable[str], ending: Ending, log: EngineLog) -> Failure:
    """Name the failure.

    Args:
        lines: the log up to the moment when a stop was requested, whole or its beginning and end.
        ending: how the run came to its end.
        log: how the engine writes.
    """
    parsed = [log.parse(line) for line in lines]
    if ending.reason == "foreign-server":
        return Failure(
            "foreign-server",
            "infrastructure",
            "Another server answers on the engine's port, so no request could be trusted.",
            remedy=(
                "Find the process that listens on the port (ss -ltnp) and stop it, or run "
                "again with another port."
            ),
        )
    tracebacks = _tracebacks(parsed, log)
    root = _root(tracebacks, log)
    if ending.reason in ("timeout", "stalled"):
        return _too_late(parsed, root, ending)
    if root is not None:
        for traceback in _chain(root, tracebacks):
            cause = _match(
                log.causes,
                "\n".join(traceback.message),
                traceback.frames,
                parsed[: traceback.index],
            )
            if cause is not None:
                return _known(cause, traceback.message, ending)
        if not _died_without_word(parsed, root, log):
            return Failure(
                "unknown",
                "unknown",
                f"The engine failed: {root.headline}{_how(ending)}",
                _clip((*root.last_frame, *root.message)),
                _READ_LOG,
            )
    return _without_traceback(parsed, ending, log)


def _known(cause: Cause, evidence: Sequence[str], ending: Ending) -> Failure:
    return Failure(
        cause.name,
        cause.failure_class,
        f"{cause.summary[:-1]}{_how(ending)}",
        _clip(evidence),
        cause.remedy,
    )


def _without_traceback(parsed: Sequence[LogLine], ending: Ending, log: EngineLog) -> Failure:
    loud = [
        line.text.strip()
        for line in parsed
        if line.level in ("", "ERROR", "CRITICAL")
        and (_LOUD.search(line.text) or (not line.level and log.last_words.search(line.text)))
    ]
    marked = [line.text for line in parsed if line.level in ("ERROR", "CRITICAL")]
    errors = [text for text in dict.fromkeys(marked) if not _FRAME.match(text)]
    for candidates in (loud, errors):
        for position, text in enumerate(candidates):
            cause = _match(log.causes, text, "")
            if cause is not None:
                return _known(cause, candidates[position : position + EVIDENCE_LINES], ending)
    died = [
        line.text.strip()
        for line in parsed
        if line.level in ("", "ERROR", "CRITICAL") and log.died.search(line.text)
    ]
    if ending.returncode == -signal.SIGKILL or any(
        re.search(r"[Ee]xit code:? -9\b", text) for text in died
    ):
        victim = (
            "The engine"
            if ending.returncode == -signal.SIGKILL
            else "The engine or one of its workers"
        )
        return Failure(
            "killed",
            "infrastructure",
            f"{victim} was killed{_how(ending)}",
            _clip(died),
            "Look in the kernel log for the out-of-memory killer and raise the memory "
            "limit; or find who sent SIGKILL.",
        )
    who = "A process of the engine" if died else "The engine"
    when = "died" if ending.serving else "ended before it was ready"
    return Failure(
        "engine-died",
        "engine",
        f"{who} {when}{_how(ending)[:-1]}, without a word about the cause.",
        _clip(
            died
            or loud
            or errors
            or [line.text.strip() for line in parsed if line.text.strip()][-3:]
        ),
        "Read the engine's log, and the kernel log for the out-of-memory killer or a "
        "crash; run the command by hand to see more.",
    )


def _too_late(parsed: Sequence[LogLine], root: _Traceback | None, ending: Ending) -> Failure:
    errors = [
        line.text.strip()
        for line in parsed
        if line.level in ("ERROR", "CRITICAL") and line.text.strip()
    ]
    last = [line.text.strip() for line in parsed if line.text.strip() and not line.heartbeat][-2:]
    evidence = root.message if root is not None else (errors[:EVIDENCE_LINES] or last)
    if ending.answering:
        return Failure(
            "never-healthy",
            "engine",
            f"The engine answers, but was not healthy within {ending.seconds:g} s.",
            _clip(evidence),
            "Read the engine's log: its core has probably died while its API server lives.",
        )
    if ending.reason == "stalled":
        return Failure(
            "stalled",
            "engine",
            f"The engine showed no sign of life for {ending.seconds:g} s: no new line "
            "in its log and no CPU time.",
            _clip(evidence),
            "Look at the last lines of the log for what it waits for (a download, a "
            "lock, another rank).",
        )
    if ending.compilers:
        return Failure(
            "kernels-compiling",
            "engine",
            f"The engine was not ready after {ending.seconds:g} s: it was compiling "
            f"CUDA kernels ({', '.join(ending.compilers)}).",
            _clip(evidence),
            "Raise --gpubench-start-timeout: a compilation that is cut off begins anew at the next "
            "start, one that ends is kept in the user's cache. FlashInfer's kernels can also be "
            "had compiled (flashinfer-jit-cache).",
        )
    return Failure(
        "timeout",
        "engine",
        f"The engine was not ready after {ending.seconds:g} s.",
        _clip(evidence),
        "Raise --gpubench-start-timeout if the model needs longer to load; else read "
        "the engine's log.",
    )


def _how(ending: Ending) -> str:
    when = " while serving" if ending.serving else ""
    if ending.returncode is None:
        return f"{when}."
    if ending.returncode < 0:
        try:
            name = signal.Signals(-ending.returncode).name
        except ValueError:
            name = f"signal {-ending.returncode}"
        return f"{when} (ended by {name})."
    return f"{when} (exit code {ending.returncode})."


def _match(
    causes: Sequence[Cause], message: str, frames: str, before: Sequence[LogLine] = ()
) -> Cause | None:
    for cause in causes:
        if not cause.pattern.search(message) or (
            cause.frames is not None and not cause.frames.search(frames)
        ):
            continue
        if cause.log is None or any(cause.log.search(line.text) for line in before):
            return cause
    return None


def _clip(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in lines[:EVIDENCE_LINES]
    )


def _died_without_word(parsed: Sequence[LogLine], root: _Traceback, log: EngineLog) -> bool:
    """Whether a process vanished before the first traceback: what follows is only how the others
    noticed."""
    first = next(
        (
            index
            for index, line in enumerate(parsed)
            if line.level in ("ERROR", "CRITICAL") and log.died.search(line.text)
        ),
        None,
    )
    return first is not None and first < root.index


def _root(tracebacks: Sequence[_Traceback], log: EngineLog) -> _Traceback | None:
    telling = [
        traceback
        for traceback in tracebacks
        if traceback.message and not log.generic.search(traceback.headline)
    ]
    marked = [traceback for traceback in telling if traceback.marked]
    return next(iter(marked or telling), None)


def _chain(root: _Traceback, tracebacks: Sequence[_Traceback]) -> list[_Traceback]:
    """The root and the tracebacks of its own process that came out of it, in order."""
    chain = [root]
    for traceback in tracebacks:
        if traceback.stream == root.stream and traceback.index > root.index:
            if not traceback.chained:
                break
            chain.append(traceback)
    return chain


def _tracebacks(parsed: Sequence[LogLine], log: EngineLog) -> list[_Traceback]:
    """All tracebacks in the order of their first lines, each from one process's stream."""
    streams: dict[tuple[str, int | None], list[tuple[int, LogLine]]] = {}
    for index, line in enumerate(parsed):
        streams.setdefault((line.process, line.pid), []).append((index, line))
    tracebacks = [traceback for stream in streams.values() for traceback in _of_stream(stream, log)]
    return sorted(tracebacks, key=lambda traceback: traceback.index)


def _of_stream(stream: Sequence[tuple[int, LogLine]], log: EngineLog) -> list[_Traceback]:
    """The tracebacks of one process, each a header, its frames and the exception's own text."""
    tracebacks: list[_Traceback] = []
    marked = chained = False
    position = 0
    while position < len(stream):
        index, line = stream[position]
        position += 1
        marked = marked or bool(log.mark.search(line.text))
        chained = chained or bool(_CONNECTING.match(line.text))
        if not _HEADER.match(line.text):
            continue
        begin = position
        # Frames are indented; a line without text belongs to them, since source lines may be empty.
        while position < len(stream) and (
            not stream[position][1].text or stream[position][1].text[0] in " \t"
        ):
            position += 1
        position = _past_another_process(stream, position)
        frames = "\n".join(frame.text for _, frame in stream[begin:position])
        message = _message(stream, position, line.level)
        position += len(message)
        # A warning may carry the traceback of something that was handled.
        if line.level not in ("DEBUG", "INFO", "WARNING"):
            tracebacks.append(
                _Traceback(index, marked, frames, message, (line.process, line.pid), chained)
            )
        chained = False
    return tracebacks


def _past_another_process(stream: Sequence[tuple[int, LogLine]], position: int) -> int:
    """Where the exception's own text begins, after the name under which another process sent it."""
    if position < len(stream) and _ELSEWHERE.match(stream[position][1].text):
        after = position + 1
        while after < len(stream) and stream[after][1].text[:1] in ("", " ", "\t"):
            after += 1
        if after < len(stream) and _EXCEPTION.match(stream[after][1].text):
            return after
    return position


def _message(stream: Sequence[tuple[int, LogLine]], begin: int, level: str) -> tuple[str, ...]:
    """The exception's own text, from its name on: one line or several, of which some are the advice
    of a library."""
    message: list[str] = []
    for _, line in stream[begin : begin + EVIDENCE_LINES]:
        text = line.text
        if (
            not text.strip()
            or line.level != level
            or _CONNECTING.match(text)
            or _HEADER.match(text)
        ):
            break
        names_exception = bool(_EXCEPTION.match(text))
        if not message and not names_exception:
            break
        # Where lines have no prefix, nothing but a new exception tells that the message is over;
        # one that says what it was raised for goes on.
        said = bool(message) and not message[-1].endswith("raised:")
        if said and level == "" and names_exception and ": " in text:
            break
        message.append(text.strip())
    return tuple(message)
