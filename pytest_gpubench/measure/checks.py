"""What is wrong with a measurement: problems, which fail the case before any statistics, and flags,
which limit its use. Pure.

A flagged metric is shown, not gated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pytest_gpubench.dialects.engine_facts import some_names
from pytest_gpubench.load.protocol import ClientFacts, Phase, RequestRecord
from pytest_gpubench.measure.measurement import Drafting, Flag, Totals
from pytest_gpubench.measure.validity import ENGINE_STRETCH, Validity
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.workload import Workload

_SHOWN_REASONS = 3
_PROMPT_TOLERANCE = 1
VANISHED = "counters-vanished"
_BLUR = 0.25
"""Of the median gap between chunks: a client as late as this cannot tell how uneven they are."""
_OUTSIDE, _OUTSIDE_FLOOR = 0.10, 0.020
"""Of the median TTFT, and seconds."""
_INJECTED = 0.02
"""Share by which a made-up acceptance length may differ from the one that was asked for."""
_SPREAD = 0.5
"""Standard deviation of what one draft accepts, in tokens, at most: an engine makes the length up
from the two nearest whole numbers."""
_CACHED = 0.05
"""Of the prompt tokens; a chat template's first words may well be cached."""


def find_problems(
    records: Sequence[RequestRecord],
    workload: Workload,
    drafting: Drafting | None,
    client: ClientFacts,
    *,
    speculative: bool,
) -> Iterator[str]:
    """Everything that makes the measurement worthless, the root cause first."""
    planned_requests = workload.num_prompts if client.planned is None else client.planned
    phases: tuple[tuple[Phase, str, int], ...] = (
        ("warmup", "warm-up", workload.num_warmups),
        ("measured", "measured", planned_requests),
    )
    for phase, name, planned in phases:
        of_phase = [record for record in records if record.phase == phase]
        yield from _failed(of_phase, name)
        ended_early = phase == "measured" and client.stopped_by != "count"
        if len(of_phase) != planned and not (ended_early and of_phase):
            yield (f"{len(of_phase)} of {planned} {name} requests were made")
    good = [record for record in records if record.ok]
    models = sorted({record.model for record in good if record.model})
    if len(models) > 1:
        yield (
            f"the answers came from {len(models)} models ({some_names(models, 3)}): a gateway "
            "falls back from one to the other; measure one of them"
        )
    yield from _wrong_lengths(good, workload)
    if speculative and good and (drafting is None or drafting.drafts == 0):
        yield "the recipe asks for speculative decoding, but the engine counted no draft"


def _failed(records: Sequence[RequestRecord], name: str) -> Iterator[str]:
    failed = [record for record in records if not record.ok]
    if not failed:
        return
    reasons = Counter(record.error for record in failed).most_common()
    shown = [
        f"{reason} ({count}x)" if count > 1 else reason
        for reason, count in reasons[:_SHOWN_REASONS]
    ]
    if len(reasons) > _SHOWN_REASONS:
        shown.append(f"and {len(reasons) - _SHOWN_REASONS} other reasons")
    yield f"{len(failed)} of {len(records)} {name} requests failed: {'; '.join(shown)}"


def _wrong_lengths(records: Sequence[RequestRecord], workload: Workload) -> Iterator[str]:
    silent = sum(one.completion_tokens is None or one.prompt_tokens is None for one in records)
    if silent:
        yield f"{silent} requests came back without usage, so their tokens are not known"
    wrong = [
        record
        for record in records
        if record.completion_tokens is not None and _wrong_output(record, workload)
    ]
    if wrong:
        first = wrong[0]
        yield (
            f"{len(wrong)} outputs are not as long as asked, for instance {first.phase} request "
            f"{first.index}: {first.completion_tokens} tokens instead of {first.asked_osl} (finish "
            f"reason {first.finish_reason})"
        )
    # All tokens that were asked for are a whole answer, said or not.
    cut = sum(
        record.finish_reason is None and record.completion_tokens != record.asked_osl
        for record in records
    )
    if cut and not wrong:
        yield (
            f"{cut} answers ended without a finish reason, so nobody can tell whether they are "
            "whole"
        )
    off = [
        record
        for record in records
        if record.prompt_tokens is not None
        and abs(record.prompt_tokens - record.asked_isl) > _PROMPT_TOLERANCE
    ]
    if off:
        first = off[0]
        yield (
            f"{len(off)} prompts are more than {_PROMPT_TOLERANCE} token off, for instance "
            f"{first.phase} request {first.index}: "
            f"{first.prompt_tokens} tokens instead of {first.asked_isl}"
        )


def _wrong_output(record: RequestRecord, workload: Workload) -> bool:
    tokens = record.completion_tokens or 0
    if workload.ignore_eos:
        return tokens != record.asked_osl
    return not 0 < tokens <= record.asked_osl


def find_flags(
    metrics: Mapping[str, float],
    totals: Totals,
    requests: int,
    workload: Workload,
    seen: Validity,
    client: ClientFacts,
    attempts: int = 1,
    vanished: Sequence[str] = (),
) -> Iterator[Flag]:
    """All flags of a measurement.

    Args:
        vanished: counters that left ``/metrics`` during the run.
    """
    for code, message in client.notes:
        yield Flag(code, message)
    if vanished:
        names = some_names(vanished, 3)
        words = f"/metrics lost {names} during the run: what they count was not checked"
        yield Flag(VANISHED, words)
    for tail in ("p90", "p99"):
        tails = tuple(name for name in metrics if name.endswith(f"_{tail}"))
        shown, gated = METRICS[f"ttft_{tail}"].shown_from, METRICS[f"ttft_{tail}"].gated_from
        if tails and requests < gated:
            words = f"{tail} rests on {requests} requests: shown from {shown}, gated from {gated}"
            yield Flag("few-requests", words, tails, tails if requests < shown else ())
    if "steady_output_tput" not in metrics:
        words = "the run has no steady window of two median request times"
        yield Flag("no-steady-state", words, ("steady_output_tput",))
    if totals.preemptions:
        words = f"the engine preempted {totals.preemptions} requests: its KV cache was too small"
        yield Flag("preemptions", words)
    if totals.engine_output_tokens is None:
        words = "/metrics has no counter of output tokens: token totals could not be checked"
        yield Flag("tokens-unchecked", words)
    yield from _blurred(metrics, seen)
    if attempts > 1:
        words = (
            f"this is measurement {attempts} on this launch: the engine compiled kernels "
            "while the one before was made"
        )
        yield Flag("measured-again", words)
    outside = max(_OUTSIDE_FLOOR, _OUTSIDE * metrics.get("ttft_p50", 0.0))
    if seen.engine_gap is not None and seen.engine_gap > outside:
        words = (
            f"{seen.engine_gap * 1e3:.1f} ms of the TTFT (median) passed outside the "
            "engine: in its API server, or on the way"
        )
        yield Flag("outside-engine", words)
    if seen.engine_stretch is not None and seen.engine_stretch > ENGINE_STRETCH:
        words = (
            f"streams lasted {seen.engine_stretch:.1%} longer than in the engine (median): "
            "its API server is behind"
        )
        yield Flag("streams-outside-engine", words)
    shared = (
        workload.prefix_tokens or workload.turns > 1 or workload.dataset not in ("random", "text")
    )
    if not shared and (totals.prefix_cache_hits or 0) > _CACHED * totals.prompt_tokens:
        words = (
            f"the engine found {totals.prefix_cache_hits} tokens of prompts in its prefix "
            "cache, though all prompts are new"
        )
        yield Flag("prefix-hits", words, tuple(one for one in metrics if one.startswith("ttft_")))
    if client.stopped_by != "count":
        return
    if workload.duration is not None and metrics.get("duration", 0.0) < workload.duration:
        words = (
            f"all {requests} prompts were sent before {workload.duration:g} s had "
            "passed: raise prompts-per-conc"
        )
        yield Flag("prompts-exhausted", words)
    if workload.interval is not None:
        words = (
            f"the confidence interval of {workload.interval_metric} is still wider than "
            f"{workload.interval:.1%}"
        )
        yield Flag("interval-not-reached", words)


def not_injected(drafting: Drafting | None, asked: float | None) -> tuple[str, ...]:
    """Why the measurement does not count where an acceptance length was to be made up: it was
    another. Chance is let pass beside the tolerance: the engine draws for each draft."""
    if asked is None or drafting is None or not drafting.drafts:
        return ()
    found = 1 + drafting.accepted_tokens / drafting.drafts
    if abs(found - asked) <= _INJECTED * asked + 3 * _SPREAD / math.sqrt(drafting.drafts):
        return ()
    return (
        f"an acceptance length of {asked:g} was to be made up, and it was {found:.2f} over "
        f"{drafting.drafts} drafts (limit {_INJECTED:.0%}, and chance)",
    )


def other_name(records: Sequence[RequestRecord], served_name: str) -> tuple[Flag, ...]:
    """A flag where the answers say that they are from another model than the one asked for: many
    gateways have names of their own for it, and some fall back."""
    names = {record.model for record in records if record.model} - {served_name}
    if not names or not served_name:
        return ()
    told = f"the answers are from {some_names(sorted(names), 3)!r}, asked was {served_name!r}"
    return (Flag("answers-name-another-model", told),)


def _blurred(metrics: Mapping[str, float], seen: Validity) -> Iterator[Flag]:
    gap = metrics.get("icl_p50")
    if seen.lag_p99 is not None and gap is not None and seen.lag_p99 > _BLUR * gap:
        words = (
            f"the client was late by {seen.lag_p99 * 1e3:.1f} ms at times, which is much beside "
            f"the {gap * 1e3:.1f} ms between chunks"
        )
        names = tuple(name for name in metrics if name.startswith(("icl_p9", "itl_p9")))
        yield Flag("chunk-times-blurred", words, names)
