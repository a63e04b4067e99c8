"""What a launch is sent before anything on it counts: every data-parallel rank, alone and busy, at
every length that its cases will use. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_gpubench.model.workload import Workload

_OUTPUT_TOKENS = 12
"""Enough for some steps of a draft and its target, few enough to cost a second."""
_INPUT_TOKENS = 512
"""Of a workload whose lengths are those of a trace."""
_BUSY = 16
"""Requests in flight for each rank: cases warm up at their own concurrency, too."""
_KIND = (
    *("profile", "api", "chat_template", "chat_template_kwargs"),
    *("ignore_eos", "temperature", "range_ratio", "seed"),
)
"""Fields of a workload that say what its requests are like, whatever their number and schedule."""


def waves_of(workloads: Iterable[Workload], ranks: int) -> tuple[Workload, ...]:
    """Loads that warm a launch up, one after another; for each input length two: few requests, so
    that every rank decodes one alone, and many.

    A balancer sends a request to the rank that has the fewest: as many at once as there are ranks
    reach all of them, where requests one by one reach the same.

    Args:
        workloads: of the cases that will be measured on it.
        ranks: data-parallel ranks.
    """
    longest: dict[int, Workload] = {}
    for one in workloads:
        known = longest.get(one.isl)
        if known is None or one.conc > known.conc:
            longest[one.isl] = one
    return tuple(
        _wave(workload, conc, times)
        for _, workload in sorted(longest.items())
        for conc, times in ((ranks, 2), (max(ranks, min(workload.conc, _BUSY * ranks)), 1))
    )


def _wave(workload: Workload, conc: int, times: int) -> Workload:
    """The same kind of request, briefly, in a closed loop; a file's texts are replaced by words."""
    return Workload(
        isl=workload.isl or _INPUT_TOKENS,
        osl=min(workload.osl or _OUTPUT_TOKENS, _OUTPUT_TOKENS),
        conc=conc,
        num_prompts=conc * times,
        num_warmups=0,
        **{name: getattr(workload, name) for name in _KIND},
    )
