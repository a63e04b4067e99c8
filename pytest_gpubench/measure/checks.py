"""Hard checks before any statistics: each finding is one sentence that fails the case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_gpubench.load.protocol import ClientFacts, Phase, RequestRecord
from pytest_gpubench.measure.measurement import Drafting
from pytest_gpubench.model.workload import Workload

_SHOWN_REASONS = 3
_PROMPT_TOLERANCE = 1


def find_problems(
    records: Sequence[RequestRecord],
    workload: Workload,
    drafting: Drafting | None,
    *,
    speculative: bool,
    client: ClientFacts | None = None,
) -> tuple[str, ...]:
    """Everything that makes the measurement worthless, the root cause first."""
    phases: tuple[tuple[Phase, str, int], ...] = (
        ("warmup", "warm-up", workload.num_warmups),
        ("measured", "measured", workload.num_prompts if client is None or client.planned is None else client.planned),
    )
    problems = []
    for phase, name, planned in phases:
        mine = [record for record in records if record.phase == phase]
        problems += _failed(mine, name)
        early = phase == "measured" and client is not None and client.stopped_by != "count"
        if not mine if early else len(mine) != planned:
            problems.append(f"{len(mine)} of {planned} {name} requests were made")
    good = [record for record in records if record.ok]
    problems += _wrong_lengths(good, workload)
    if speculative and good and (drafting is None or drafting.drafts == 0):
        problems.append("the recipe asks for speculative decoding, but the engine counted no draft")
    return tuple(problems)


def _failed(records: Sequence[RequestRecord], name: str) -> list[str]:
    failed = [record for record in records if not record.ok]
    if not failed:
        return []
    reasons = Counter(record.error for record in failed).most_common()
    shown = "; ".join(f"{reason} ({count}x)" if count > 1 else reason for reason, count in reasons[:_SHOWN_REASONS])
    more = f"; and {len(reasons) - _SHOWN_REASONS} other reasons" if len(reasons) > _SHOWN_REASONS else ""
    return [f"{len(failed)} of {len(records)} {name} requests failed: {shown}{more}"]


def _wrong_lengths(records: Sequence[RequestRecord], workload: Workload) -> list[str]:
    problems = []
    silent = [record for record in records if record.completion_tokens is None or record.prompt_tokens is None]
    if silent:
        problems.append(f"{len(silent)} requests came back without usage, so their tokens are not known")
    wrong = [record for record in records if record.completion_tokens is not None and _wrong_output(record, workload)]
    if wrong:
        one = wrong[0]
        problems.append(
            f"{len(wrong)} outputs are not as long as asked, for instance {one.phase} request {one.index}: "
            f"{one.completion_tokens} tokens instead of {one.asked_osl} (finish reason {one.finish_reason})"
        )
    # All tokens that were asked for are a whole answer, said or not.
    cut = [record for record in records if record.finish_reason is None and record.completion_tokens != record.asked_osl]
    if cut and not wrong:
        problems.append(f"{len(cut)} answers ended without a finish reason, so nobody can tell whether they are whole")
    off = [
        record
        for record in records
        if record.prompt_tokens is not None and abs(record.prompt_tokens - record.asked_isl) > _PROMPT_TOLERANCE
    ]
    if off:
        one = off[0]
        problems.append(
            f"{len(off)} prompts are more than {_PROMPT_TOLERANCE} token off, for instance {one.phase} request {one.index}: "
            f"{one.prompt_tokens} tokens instead of {one.asked_isl}"
        )
    return problems


def _wrong_output(record: RequestRecord, workload: Workload) -> bool:
    tokens = record.completion_tokens or 0
    return tokens != record.asked_osl if workload.ignore_eos else not 0 < tokens <= record.asked_osl
