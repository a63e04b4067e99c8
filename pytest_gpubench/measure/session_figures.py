"""Traces of sessions: what a session took, what its turns took, and whether the prefix cache found
what the trace promises. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.measure.definitions import e2e, tpot, ttft, within
from pytest_gpubench.measure.measurement import Flag
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.printing import counted

MOST_ROWS = 100
"""Turns beyond these are one row."""
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Group:
    """Requests of one turn, or of prompts of which as much could be found in the cache. Times are
    medians in seconds, tokens means; None: nothing is known."""

    begin: int
    """Turn from 0; or the fewest tokens that a prompt before had as well."""
    end: int
    """The last turn, or the most of these tokens."""
    requests: int
    prompt_tokens: float | None
    kept_tokens: float | None
    """By the trace, found by a cache that keeps everything."""
    cached_tokens: float | None
    """Found by the engine's cache, where it tells of each request."""
    ttft: float | None
    tpot: float | None
    e2e: float | None


def _group(begin: int, end: int, records: Sequence[RequestRecord]) -> Group:
    def middle(of: Callable[[RequestRecord], float | None]) -> float | None:
        values = [value for value in map(of, records) if value is not None]
        return statistics.median(values) if values else None

    def mean(values: Iterable[int | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    return Group(
        begin,
        end,
        len(records),
        mean(record.prompt_tokens for record in records),
        mean(record.kept_tokens for record in records),
        mean(record.cached_tokens for record in records),
        middle(ttft),
        middle(tpot),
        middle(e2e),
    )


def by_turn(measured: Sequence[RequestRecord]) -> tuple[Mapping[str, float | None], ...]:
    """A row for each turn of conversations; none where there is one turn only."""
    turns = grouped(measured, lambda record: min(record.turn, MOST_ROWS - 1))
    if len(turns) < 2:
        return ()
    return tuple(
        asdict(_group(turn, max(record.turn for record in turns[turn]), turns[turn]))
        for turn in sorted(turns)
    )


def by_prefix(measured: Sequence[RequestRecord]) -> tuple[Mapping[str, float | None], ...]:
    """A row for each doubling of the tokens at the start that a prompt before had as well; none
    where no trace of sessions says how many these are."""
    known = [record for record in measured if record.kept_tokens is not None]
    rows = grouped(known, lambda record: (record.kept_tokens or 0).bit_length())
    return tuple(
        asdict(_group(1 << bits >> 1, max(0, (1 << bits) - 1), rows[bits])) for bits in sorted(rows)
    )


def of_sessions(measured: Iterable[RequestRecord]) -> dict[str, list[RequestRecord]]:
    """The requests of each session of the trace's own, those of its sub-sessions among them."""
    return grouped((record for record in measured if record.root), lambda record: record.root)


def _unfinished(records: Iterable[RequestRecord]) -> dict[str, list[RequestRecord]]:
    """The sessions that have fewer requests than turns, sub-sessions by themselves."""
    found = grouped((it for it in records if it.session), lambda record: record.session)
    return {name: turns for name, turns in found.items() if len(turns) < turns[0].session_turns}


def session_metrics(
    measured: Sequence[RequestRecord], limits: Mapping[str, float]
) -> dict[str, float]:
    """Of the sessions that came to their end; nothing where none did."""
    cut = {record.root for turns in _unfinished(measured).values() for record in turns}
    whole = [turns for root, turns in of_sessions(measured).items() if root not in cut]
    durations, rates = [], []
    for turns in whole:
        ends = [record.last_token_ns for record in turns if record.last_token_ns is not None]
        if len(ends) < len(turns):
            continue
        duration = (max(ends) - min(record.due_ns for record in turns)) / 1e9
        durations.append(duration)
        if duration > 0:
            rates.append(sum(record.completion_tokens or 0 for record in turns) / duration)
    metrics: dict[str, float] = {}
    if durations:
        metrics["session_duration_mean"] = statistics.fmean(durations)
        metrics["session_duration_p50"] = statistics.median(durations)
    if rates:
        metrics["session_output_tput"] = statistics.median(rates)
    if limits and whole:
        good = sum(all(within(record, limits) for record in turns) for turns in whole)
        metrics["session_goodput"] = good / len(whole)
    return metrics


def ended_early(records: Sequence[RequestRecord]) -> tuple[str, ...]:
    """The sessions that a failed request has ended, one sentence for all of them."""
    words, unsent = [], 0
    for name, turns in _unfinished(records).items():
        last = max(turns, key=lambda record: record.turn)
        if last.error:
            words.append(f"{name!r} in turn {last.turn} of {last.session_turns}: {last.error}")
            unsent += last.session_turns - len(turns)
    if not words:
        return ()
    more = f"; and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    sessions = counted(len(words), "session")
    turns_left = f"{unsent} of their turns were not sent"
    return (f"{sessions} ended early ({'; '.join(words[:_NAMED])}{more}), so {turns_left}",)


def unfinished_flag(records: Sequence[RequestRecord], stopped_by: str) -> tuple[Flag, ...]:
    """Sessions that were under way when enough was measured."""
    left = [turns for turns in _unfinished(records).values() if not any(it.error for it in turns)]
    if not left or stopped_by == "count":
        return ()
    sessions = "1 session was" if len(left) == 1 else f"{len(left)} sessions were"
    message = (
        f"{sessions} under way when the run ended by its {stopped_by}: what a "
        "session took is of those that came to their end"
    )
    return (Flag("sessions-unfinished", message),)


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """What the cache found, and what the trace promises, in tokens: of all requests, warm-up
    included, as the engine counts. None: not known."""

    hits: int | None
    """By the engine's counter, idle to idle."""
    prompt_tokens: int
    promised: int
    """Whole blocks that an answered prompt before had as well: a cache with room finds them."""
    most: int | None
    """Whole blocks that any prompt sent before had as well: no cache can find more."""
    block: int
    slack: int
    """One block for each request: where the template's own tokens end is not known."""
    over: int = 0
    """Requests for which a block more was found than any prompt before had, where it is told."""
    under: int = 0
    """Likewise less than what a prompt before that was answered had."""


def prefix_cache(
    records: Sequence[RequestRecord], hits: int | None, block: int | None
) -> PrefixCache | None:
    """None where no trace of sessions says what is shared."""
    told = [record for record in records if record.kept_tokens is not None and record.ok]
    if not told:
        return None
    size = block or 1

    def whole(tokens: int | None, record: RequestRecord) -> int:
        least = (record.prompt_tokens or record.asked_isl) - 1  # the last token is computed
        return min(tokens or 0, least) // size * size

    known = all(record.shared_tokens is not None for record in told)
    kept = [whole(record.kept_tokens, record) for record in told]
    most = [whole(record.shared_tokens, record) for record in told]
    found = [record.cached_tokens for record in told]
    return PrefixCache(
        hits,
        sum(record.prompt_tokens or 0 for record in told),
        sum(kept),
        sum(most) if known else None,
        size,
        size * len(told),
        sum(known and it is not None and it > m + size for it, m in zip(found, most, strict=True)),
        sum(it is not None and it < k - size for it, k in zip(found, kept, strict=True)),
    )


def broken_promise(
    seen: PrefixCache | None, *, prefix_caching: bool, sent_before: bool = False
) -> tuple[str, ...]:
    """Why the measurement does not count: more was found than the trace has in common.

    Args:
        sent_before: whether this server was sent the trace before. Prompts given by length are
            others each time, those given by text are the same.
    """
    if seen is None or seen.hits is None or not prefix_caching:
        return ()
    if seen.most is None:
        # Texts have no upper bound of what they share; after the first time there is a reason to
        # take anything beyond the promise for what that time has left.
        if not sent_before or seen.hits <= seen.promised:
            return ()
        return (
            f"the engine found {seen.hits:,} tokens of prompts in its prefix cache, of which the "
            f"trace explains {seen.promised:,}: this server was sent the same texts before, by "
            "another case, round or attempt; give each case a server of its own (`server-per: "
            "point` in the recipe file, or --gpubench-server-per=point) and measure it in one "
            "round",
        )
    if seen.hits <= seen.most + seen.slack and not seen.over:
        return ()
    turns = f" (in {counted(seen.over, 'request')} more than promised)" if seen.over else ""
    return (
        f"the engine found {seen.hits:,} tokens of prompts in its prefix cache{turns}, and the "
        f"trace's prompts have {seen.most:,} in common at most (one block of {seen.block} per "
        "request more is let pass): something else was in the cache, an earlier run of the same "
        "seed on this server for instance",
    )


def missed(seen: PrefixCache | None, *, prefix_caching: bool) -> tuple[Flag, ...]:
    """A flag where less was found than a cache with room for everything finds. That is a property
    of the server: what it measures stays gated."""
    if seen is None or not prefix_caching:
        return ()
    if seen.hits is None:
        words = (
            "the engine does not count hits in its prefix cache: the trace's promise is unchecked"
        )
        return (Flag("prefix-hits-unchecked", words),)
    if seen.hits >= seen.promised - seen.slack and not seen.under:
        return ()
    turns = f" (in {counted(seen.under, 'request')} less than promised)" if seen.under else ""
    message = (
        f"the engine found {seen.hits:,} tokens of prompts in its prefix cache{turns}, "
        f"{seen.promised:,} are what a cache with room for everything finds: it was evicted, or "
        "the cache does not keep what is answered"
    )
    return (Flag("prefix-misses", message),)
