"""What AIPerf 0.13 writes, read strictly: a file that is not as it was known is named, never
guessed at."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeGuard

from pytest_gpubench.load.aiperf.running import RECORDS, WORKER
from pytest_gpubench.load.protocol import Phase, RequestRecord
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.grouping import grouped

SUMMARY = "profile_export_aiperf.json"
LOG = "logs/aiperf.log"
KEPT = (SUMMARY, RECORDS, "phase_manifest.json", "profile_export_aiperf.csv", LOG)
"""Files that are kept beside a record; prompts are not among them."""
NOT_TOLD = "not told"
"""Stands for a finish reason: AIPerf writes none."""
_MAX_BYTES = 2**30
_LOOP = re.compile(
    r"Event loop for (?P<who>\S+) is taking too long to run\. Overhead: (?P<ms>[\d,.]+)ms"
)
_SENT = re.compile(
    r"Phase (?P<name>\S+) \((?P<kind>\w+)\) sending complete \| .*?"
    r"sessions: sent=(?P<sessions>\d+)(?P<rest>.*)"
)
_ENDED = re.compile(
    r"Phase (?P<name>\S+) \((?P<kind>\w+)\) complete \| completed=\d+, cancelled=(?P<cancelled>\d+)"
    r".*?sessions: completed=(?P<sessions>\d+)(?P<rest>.*)"
)


@dataclass(frozen=True, slots=True)
class AiperfRequest:
    """One request, as one of ours, and where it stood in its conversation."""

    record: RequestRecord
    session: str
    """Conversation of the data set; the record's is this replay of it, for the same one may be
    replayed more than once."""
    overflowed: bool
    """Whether its prompt was longer than the server's context."""
    off_length: bool
    """Whether the answer was not as long as asked."""


@dataclass(frozen=True, slots=True)
class AiperfOutput:
    """A run's files, read."""

    version: str
    summary: Mapping[str, Mapping[str, Any]]
    """Its metrics by its own names, each with ``unit`` and statistics."""
    requests: tuple[AiperfRequest, ...]
    """By phase, then by the time they were sent."""
    cancelled: int
    """Requests that were cut off at the end of the time; it writes nothing else of them."""
    sessions: int | None
    """Sessions that were begun in the measured phase; None: not told."""
    finished: int | None
    """Those that were replayed to their end."""
    timed_out: bool
    """Whether the time ended the measured phase."""
    late: tuple[float, ...]
    """Seconds by which event loops that measure were late, where it warned of it."""
    loops: int
    """Of how many processes these are."""

    @property
    def records(self) -> tuple[RequestRecord, ...]:
        return tuple(request.record for request in self.requests)


def read_output(folder: Path, log: Sequence[str], offset_ns: int, osl: int) -> AiperfOutput:
    """What a run of AIPerf left in its folder.

    Args:
        folder: of the run.
        log: what it printed, read where its own log file is missing.
        offset_ns: wall clock minus ``time.monotonic_ns``: its stamps are of the wall clock.
        osl: output length that was asked for; 0: the trace's own.

    Raises:
        BenchmarkError: if a file is missing, broken, or not as AIPerf 0.13 writes it.
    """
    document = _summary(folder / SUMMARY)
    if (folder / LOG).is_file():
        log = _text(folder / LOG).splitlines()
    requests = tuple(sorted(_requests(folder / RECORDS, offset_ns, osl), key=_order))
    measured = sum(one.record.phase == "measured" for one in requests)
    count = _count(document, "request_count") + _count(document, "error_request_count")
    if measured != count:
        raise changed(
            f"{RECORDS} holds {measured} measured requests, {SUMMARY} counts {count}: one of them "
            "is not whole"
        )
    if not measured:
        raise BenchmarkError(_nothing(requests))
    ended = {found["kind"]: found for found in _found(_ENDED, log)}
    sent = {found["kind"]: found for found in _found(_SENT, log)}
    last, begun = ended.get("profiling"), sent.get("profiling")
    late = [found for found in _found(_LOOP, _measured(log)) if WORKER.fullmatch(found["who"])]
    timed_out = any("timeout" in found["rest"] for found in (begun, last) if found)
    if begun and last and begun["sessions"] == last["sessions"] and not timed_out:
        requests = _whole(requests)
    return AiperfOutput(
        version=str(document.get("aiperf_version", "")),
        summary={name: it for name, it in document.items() if isinstance(it, dict)},
        requests=requests,
        cancelled=sum(int(found["cancelled"]) for found in ended.values()),
        sessions=int(begun["sessions"]) if begun else None,
        finished=int(last["sessions"]) if last else None,
        timed_out=timed_out,
        late=tuple(float(found["ms"].replace(",", "")) / 1e3 for found in late),
        loops=len({one for line in log for one in WORKER.findall(line)}),
    )


def _whole(requests: Sequence[AiperfRequest]) -> tuple[AiperfRequest, ...]:
    """Requests of sessions that were all replayed to their end: each has as many turns as were
    sent. Conversations of one turn are none."""
    if not any(request.record.turn for request in requests):
        return tuple(requests)
    turns = Counter(one.record.session for one in requests if one.record.phase == "measured")
    return tuple(
        replace(one, record=replace(one.record, session_turns=turns[one.record.session]))
        if one.record.phase == "measured"
        else one
        for one in requests
    )


def _order(request: AiperfRequest) -> tuple[bool, int]:
    return request.record.phase == "measured", request.record.due_ns


def _found(pattern: re.Pattern[str], lines: Iterable[str]) -> Iterator[re.Match[str]]:
    return (found for line in lines if (found := pattern.search(line)))


def _measured(log: Iterable[str]) -> Iterator[str]:
    """The lines of the measured phase; before it event loops load data, and are late for that."""
    inside = False
    for line in log:
        if "(profiling) started" in line or _ENDED.search(line):
            inside = "(profiling) started" in line
        elif inside:
            yield line


def _summary(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise changed(f"{path.name} is no JSON ({error})") from None
    if not isinstance(document, dict):
        raise changed(f"{path.name} holds no map of metrics")
    return document


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise changed(f"{path.name} has more than {_MAX_BYTES // 2**20:,} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise changed(f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise changed(f"{path.name} is not UTF-8") from None


def _count(document: Mapping[str, Any], name: str) -> int:
    """A count of the summary; it leaves out what is zero."""
    entry = document.get(name, {"avg": 0})
    value = entry.get("avg") if isinstance(entry, dict) else None
    if not is_number(value):
        raise changed(f"{SUMMARY} has no number for '{name}.avg'")
    return int(value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of its files is one; Python's JSON has NaN and endless ones, too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _requests(path: Path, offset_ns: int, osl: int) -> Iterator[AiperfRequest]:
    numbers: dict[Phase, int] = {"warmup": 0, "measured": 0}
    # At line feeds alone: names and errors may hold the other line separators of Unicode.
    lines = _text(path).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line), numbers, offset_ns, osl)
        except (ValueError, RecursionError) as error:
            raise changed(
                f"{path.name}, line {number} of {len(lines)}, is no JSON ({error})"
            ) from None
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            lacks = (
                f"lacks {error}" if isinstance(error, KeyError) else f"is not as known ({error})"
            )
            raise changed(f"{path.name}, line {number}, {lacks}") from None
        yield request


def _request(
    line: Mapping[str, Any], numbers: dict[Phase, int], offset_ns: int, osl: int
) -> AiperfRequest:
    about, metrics = line["metadata"], line["metrics"]
    phase: Phase = "warmup" if about["benchmark_phase"] == "warmup" else "measured"
    index = numbers[phase]
    numbers[phase] += 1
    session, turn = str(about["conversation_id"]), int(about["turn_index"])
    # A conversation may be replayed more than once.
    replay = str(about.get("x_correlation_id") or "")
    instance = f"{session}#{replay[:12]}" if replay else session
    started = int(about["request_start_ns"]) - offset_ns
    due = started
    if about.get("credit_issued_ns") is not None:
        due = min(started, int(about["credit_issued_ns"]) - offset_ns)
    error = _error(line, about)
    first = _after(started, metrics, "time_to_first_token")
    tokens = _tokens(metrics, "usage_completion_tokens", "output_sequence_length")
    off = _value(metrics, "osl_mismatch_diff_pct")
    record = RequestRecord(
        index=index,
        phase=phase,
        request_id=str(about["x_request_id"]),
        asked_isl=_tokens(metrics, "usage_prompt_tokens", "input_sequence_length") or 0,
        asked_osl=osl or tokens or 0,
        due_ns=due,
        send_ns=started,
        first_token_ns=first,
        last_token_ns=_after(started, metrics, "request_latency"),
        end_ns=int(about["request_end_ns"]) - offset_ns,
        chunk_ns=_chunks(first, metrics),
        prompt_tokens=_tokens(metrics, "usage_prompt_tokens", "input_sequence_length"),
        completion_tokens=tokens,
        finish_reason=None if error else NOT_TOLD,
        cached_tokens=_tokens(metrics, "usage_prompt_cache_read_tokens"),
        turn=turn,
        error=error,
        session=instance,
        root=str(about.get("root_correlation_id") or instance),
    )
    return AiperfRequest(
        record,
        session,
        bool(about.get("context_overflow_skip")) or _overflow(error),
        off is not None and abs(off) > 0,
    )


def _error(line: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Why a request failed, as one sentence; empty: it did not."""
    error = line.get("error")
    if error:
        code = f"status {error['code']}: " if error.get("code") else ""
        told = str(error.get("message") or error.get("type") or "no reason told")
        return f"{code}{' '.join(_message(told).split())}"[:500]
    if about.get("context_overflow_skip"):
        return "the prompt was longer than the server's context"
    return "it was cancelled" if about.get("was_cancelled") else ""


def _message(text: str) -> str:
    """The server's sentence, where it stands in JSON."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    inner = document.get("error", document) if isinstance(document, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return message if isinstance(message, str) else text


def _overflow(error: str) -> bool:
    words = ("context length", "context size", "context window", "maximum context")
    return any(one in error.lower() for one in words)


def _value(metrics: Mapping[str, Any], name: str) -> Any:
    entry = metrics.get(name)
    return None if entry is None else entry["value"]


def _tokens(metrics: Mapping[str, Any], *names: str) -> int | None:
    """The first of these counts that is there."""
    return next((int(it) for name in names if (it := _value(metrics, name)) is not None), None)


def _after(started: int, metrics: Mapping[str, Any], name: str) -> int | None:
    """The moment so many milliseconds after the start of a request."""
    entry = metrics.get(name)
    if entry is None:
        return None
    if entry["unit"] != "ms":
        raise KeyError(f"milliseconds in '{name}'")
    return started + round(float(entry["value"]) * 1e6)


def _chunks(first: int | None, metrics: Mapping[str, Any]) -> tuple[int, ...]:
    """When the chunks of an answer came, from the gaps between them."""
    gaps = _value(metrics, "inter_chunk_latency")
    if first is None:
        return ()
    return tuple(accumulate((round(float(gap) * 1e6) for gap in gaps or ()), initial=first))


def promised_hits(requests: Sequence[AiperfRequest], block: int) -> int:
    """Prompt tokens that had been in the prompt of the turn before, over all conversations, but for
    one block a turn that is not whole: what a prefix cache that forgets nothing finds, at least."""
    whole = (request.record for request in requests if request.record.ok)
    hits = 0
    for records in grouped(whole, lambda record: record.session).values():
        records.sort(key=lambda record: record.turn)
        for before, after in pairwise(records):
            if after.turn == before.turn + 1:
                repeated = min(before.prompt_tokens or 0, after.prompt_tokens or 0)
                hits += max(0, repeated - block + 1)
    return hits


def changed(words: str) -> BenchmarkError:
    """Output that is not as it was known."""
    return BenchmarkError(
        Failure(
            "aiperf-output",
            "client",
            f"AIPerf's output is not as 0.13 writes it: {words}",
            remedy="Look at its files beside the record; its release must be one of 0.13.",
        )
    )


def _nothing(requests: Sequence[AiperfRequest]) -> Failure:
    warm = f"; {len(requests)} were sent in its warm-up" if requests else ""
    return Failure(
        "aiperf-nothing",
        "client",
        f"AIPerf measured no request{warm}",
        remedy="Look at its log: a trace that is filtered out whole, or a duration that is shorter "
        "than one request, leaves nothing.",
    )
