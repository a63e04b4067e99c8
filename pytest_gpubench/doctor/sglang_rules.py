"""Rules about SGLang's servers."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.dialects.sglang.dialect import RENAMED, draft_tokens, topk
from pytest_gpubench.doctor.context import Rule, ServerContext, Symptom, rule, rules_in
from pytest_gpubench.doctor.rules import SHARED_RULES
from pytest_gpubench.model.frozen import is_whole

_WITH_DRAFT = 48
"""Requests that run at once where a draft is given and nothing is said."""


def _number(context: ServerContext, *flags: str) -> int | None:
    values = map(context.spec.serve.get, flags)
    return next((value for value in values if is_whole(value)), None)


@rule("max-running-requests at least the concurrency (SGLang)", "warning", "seen on a GPU")
def sglang_running_below_concurrency(context: ServerContext) -> Iterator[Symptom]:
    """``max-running-requests`` is of the whole server."""
    given = _number(context, "max-running-requests")
    drafting = context.spec.speculative is not None
    if given is None and not drafting:
        return
    limit = _WITH_DRAFT if given is None else given
    over = tuple(case.id for case in context.cases if case.workload.conc > limit)
    if over:
        most = max(case.workload.conc for case in context.cases)
        whose = " (SGLang's default with a draft)" if given is None else ""
        yield Symptom(
            f"{most} requests in flight, of which {limit} may run at once{whose}: the others wait.",
            f"Set max-running-requests to {most} or more.",
            cases=over,
        )


@rule(
    "CUDA graphs for the concurrency of a data-parallel rank (SGLang)", "warning", "read in source"
)
def sglang_capture_below_concurrency(context: ServerContext) -> Iterator[Symptom]:
    """CUDA graphs are captured by sequences, whatever a draft adds to each."""
    limit = _number(context, "cuda-graph-max-bs-decode", "cuda-graph-max-bs")
    if limit is None or context.spec.serve.get("disable-cuda-graph") is True or context.on_cpu:
        return
    over = tuple(case.id for case in context.cases if context.conc_per_rank(case) > limit)
    if over:
        most = max(map(context.conc_per_rank, context.cases))
        yield Symptom(
            f"CUDA graphs hold {limit} sequences, {most} run at once{context.per_rank}: larger "
            "batches run without graphs.",
            f"Set cuda-graph-max-bs-decode to {most} or more (sequences, not tokens).",
            cases=over,
        )


@rule("draft-tokens is steps + 1 for a chain (SGLang)", "error", "read in source")
def sglang_chain_tokens(context: ServerContext) -> Iterator[Symptom]:
    draft = context.spec.speculative
    if draft is None or draft.method == "ngram" or topk(draft) != 1:
        return
    steps, tokens = draft.num_speculative_tokens, draft_tokens(draft)
    if tokens != steps + 1:
        yield Symptom(
            f"A chain of {steps} steps verifies {steps + 1} tokens, draft-tokens says {tokens}.",
            "Leave draft-tokens out, or give topk above 1.",
        )


@rule(
    "an EAGLE3 draft names its layers where SGLang looks",
    "error",
    "seen on a GPU",
    "The size of tensor a must match the size of tensor b",
)
def sglang_tapped_layers(context: ServerContext) -> Iterator[Symptom]:
    """Seen on an H100: with vLLM's place of the key alone the start dies of a shape."""
    draft = context.spec.speculative
    shape = context.draft
    if draft is None or draft.method != "eagle3" or shape is None:
        return
    if shape.aux_layers and not shape.eagle_aux_layers:
        wanted = [layer - 1 for layer in shape.aux_layers]
        yield Symptom(
            f"The draft's config.json names the layers that it reads ({list(shape.aux_layers)}) "
            "where vLLM looks only: SGLang reads eagle_config, and taps others.",
            f"Add eagle_config: {{eagle_aux_hidden_state_layer_ids: {wanted}}} to it: SGLang "
            "counts one lower.",
        )


@rule("flags that SGLang still calls so", "note", "seen on a GPU")
def sglang_renamed_flag(context: ServerContext) -> Iterator[Symptom]:
    for flag, successor in RENAMED.items():
        if flag in context.spec.serve:
            yield Symptom(
                f"{flag} is deprecated from SGLang 0.5.17 on.",
                f"Write {successor} where every engine that runs this recipe has it.",
            )


RULES: tuple[Rule, ...] = (*SHARED_RULES, *rules_in(globals()))
