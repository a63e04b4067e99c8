"""Rules about lengths, batches and CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in
from pytest_gpubench.model.cases import Case


def _length_limit(context: ServerContext) -> int | None:
    """The longest request that the server will take, None if not known."""
    if context.settings.max_model_len is not None or context.target is None:
        return context.settings.max_model_len
    return context.target.max_length


def _ids(cases: list[Case]) -> tuple[str, ...]:
    return tuple(case.id for case in cases)


@rule(
    "a number of sequences for which a hybrid model has state blocks",
    "warning",
    "read in source",
    "max_num_seqs ({seqs}) exceeds available Mamba cache blocks (...)",
)
def state_blocks(context: ServerContext) -> Iterator[Symptom]:
    """Each sequence of a hybrid model keeps a state, which needs a block of the cache."""
    settings, target = context.settings, context.target
    if target is None or not target.has_state or settings.eager or settings.max_num_seqs_given:
        return
    yield Symptom(
        f"Some layers keep a state per sequence, and vLLM's default of {settings.max_num_seqs} "
        "sequences needs as many blocks of the cache; with fewer it ends while it captures CUDA "
        "graphs.",
        "Set serve.max-num-seqs to what the cases need, for instance "
        f"{max((case.workload.conc for case in context.cases), default=256)}.",
        {"seqs": settings.max_num_seqs},
    )


@rule(
    "max-model-len within the model's own context",
    "error",
    "seen on the CPU engine",
    "User-specified max_model_len ({asked}) is greater than the derived max_model_len "
    "({key}={derived} or model_max_length=None in model's config.json).",
)
def context_of_model(context: ServerContext) -> Iterator[Symptom]:
    asked, target = context.settings.max_model_len, context.target
    if asked is None or target is None or not target.max_length or asked <= target.max_length:
        return
    said = context.settings.environment.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0")
    allowed = said.lower() in ("1", "true")
    starts = (
        "; VLLM_ALLOW_LONG_MAX_MODEL_LEN lets it start, positions beyond the model's may give NaN"
    )
    yield Symptom(
        f"max-model-len {asked} is above the model's {target.max_length} ({target.max_length_key})"
        f"{starts if allowed else ''}.",
        f"Use {target.max_length} or less.",
        {"asked": asked, "key": target.max_length_key, "derived": target.max_length},
        severity="warning" if allowed else None,
    )


@rule(
    "input, template and output fit into max-model-len (vLLM cuts the output silently)",
    "error",
    "read in source",
    "This model's maximum context length is {limit} tokens.",
)
def context_of_requests(context: ServerContext) -> Iterator[Symptom]:
    limit = _length_limit(context)
    if limit is None:
        return
    too_long = [case for case in context.cases if case.workload.isl + case.workload.osl > limit]
    if too_long:
        longest = max(case.workload.isl + case.workload.osl for case in too_long)
        yield Symptom(
            f"Input (chat template included) plus output grows to {longest} tokens, the server "
            f"takes {limit}: vLLM refuses a "
            "longer prompt and silently cuts the output of the others.",
            f"Set max-model-len to {longest} or more.",
            {"limit": limit},
            _ids(too_long),
        )


@rule(
    "max-num-batched-tokens at least max-num-seqs",
    "error",
    "seen on the CPU engine",
    "max_num_batched_tokens ({batched}) must be greater than or equal to max_num_seqs ({seqs}).",
)
def batch_below_sequences(context: ServerContext) -> Iterator[Symptom]:
    settings = context.settings
    if settings.max_num_batched_tokens < settings.max_num_seqs:
        yield Symptom(
            f"max-num-batched-tokens {settings.max_num_batched_tokens} is below "
            f"max-num-seqs {settings.max_num_seqs}.",
            f"Raise max-num-batched-tokens to {settings.max_num_seqs} or lower max-num-seqs.",
            {"batched": settings.max_num_batched_tokens, "seqs": settings.max_num_seqs},
        )


@rule(
    "without chunked prefill, max-num-batched-tokens at least max-model-len",
    "error",
    "seen on the CPU engine",
    "max_num_batched_tokens ({batched}) is smaller than max_model_len ({limit}). This "
    "effectively limits the maximum sequence "
    "length to max_num_batched_tokens and makes vLLM reject longer sequences.",
)
def batch_below_context(context: ServerContext) -> Iterator[Symptom]:
    settings, limit = context.settings, _length_limit(context)
    if (
        not settings.chunked_prefill
        and limit is not None
        and settings.max_num_batched_tokens < limit
    ):
        yield Symptom(
            "Without chunked prefill a prompt must fit into one batch, but max-num-batched-tokens "
            f"{settings.max_num_batched_tokens} is below max-model-len {limit}.",
            f"Raise max-num-batched-tokens to {limit}, or leave chunked prefill on.",
            {"batched": settings.max_num_batched_tokens, "limit": limit},
        )


@rule("one batch holds every request's step", "warning", "read in source")
def batch_below_decode(context: ServerContext) -> Iterator[Symptom]:
    width, limit = 1 + context.spec_tokens, context.settings.max_num_batched_tokens
    cut = [case for case in context.cases if context.conc_per_rank(case) * width > limit]
    if cut:
        most = max(context.conc_per_rank(case) for case in cut)
        yield Symptom(
            f"{most} requests with {width} tokens per step do not fit into one batch of "
            f"{limit} tokens: some wait in every step.",
            f"Raise max-num-batched-tokens to {most * width}.",
            cases=_ids(cut),
        )


def captured(limit: int) -> int:
    """The largest batch that vLLM captures for ``max_cudagraph_capture_size=limit``: 1, 2, 4, every
    8 below 256, every 16 above."""
    if limit >= 256:
        return limit - limit % 16
    if limit >= 8:
        return limit - limit % 8
    return max((size for size in (1, 2, 4) if size <= limit), default=0)


def _capture(context: ServerContext) -> int:
    settings = context.settings
    if settings.capture_sizes:
        return max(settings.capture_sizes)
    limit = settings.capture_max
    if limit is None:
        ceiling = 1024 if context.is_family(100) else 512
        limit = min(settings.max_num_seqs * (1 + context.spec_tokens) * 2, ceiling)
    return min(limit, settings.max_num_batched_tokens)


def _graphs(context: ServerContext) -> bool:
    mode = context.settings.part("compilation-config", "cudagraph_mode")
    return not context.settings.eager and (mode is None or str(mode).upper() not in ("NONE", "0"))


@rule("max-num-seqs at least the concurrency of a data-parallel rank", "warning", "read in source")
def concurrency_above_sequences(context: ServerContext) -> Iterator[Symptom]:
    limit = context.settings.max_num_seqs
    queued = [case for case in context.cases if context.conc_per_rank(case) > limit]
    if queued:
        most = max(context.conc_per_rank(case) for case in queued)
        rank = context.per_rank
        whose = "" if context.settings.max_num_seqs_given else " (vLLM's default here)"
        yield Symptom(
            f"{most} requests in flight{rank}, the server runs {limit}{whose} at once: the others "
            "queue, and TTFT measures the queue.",
            f"Raise max-num-seqs to {most}.",
            cases=_ids(queued),
        )


@rule(
    "CUDA graphs for concurrency x (1 + draft tokens), per data-parallel rank",
    "warning",
    "read in source",
)
def capture_below_batch(context: ServerContext) -> Iterator[Symptom]:
    if not _graphs(context):
        return
    limit, width = captured(_capture(context)), 1 + context.spec_tokens
    eager = [case for case in context.cases if context.conc_per_rank(case) * width > limit]
    given = context.settings.capture_max is not None or bool(context.settings.capture_sizes)
    if eager:
        most = max(context.conc_per_rank(case) for case in eager) * width
        per = context.per_rank
        default = "" if given else " (vLLM's default)"
        yield Symptom(
            f"Decode batches grow to {most} tokens{per} (concurrency x (1 + draft tokens)), CUDA "
            "graphs are captured up to "
            f"{limit}{default}: larger batches run without a graph, silently.",
            f"Set max-cudagraph-capture-size to {most} or more.",
            cases=_ids(eager),
            severity=None if given else "note",
        )


@rule(
    "one capture limit",
    "error",
    "read in source",
    "customized max_cudagraph_capture_size(={limit}) should be consistent with the max value "
    "of cudagraph_capture_sizes(={largest})",
)
def capture_contradiction(context: ServerContext) -> Iterator[Symptom]:
    limit, sizes = context.settings.capture_max, context.settings.capture_sizes
    kept = [size for size in sizes if size <= context.settings.max_num_batched_tokens]
    if _graphs(context) and limit is not None and sizes and limit != max(kept, default=0):
        yield Symptom(
            f"max-cudagraph-capture-size {limit}, but the largest of "
            f"cudagraph-capture-sizes is {max(kept, default=0)}.",
            "Give one of the two.",
            {"limit": limit, "largest": max(kept, default=0)},
        )


@rule(
    "a capture limit that vLLM keeps",
    "note",
    "read in source",
    "Truncating max_cudagraph_capture_size to {kept}",
)
def capture_truncated(context: ServerContext) -> Iterator[Symptom]:
    limit = context.settings.capture_max
    if not _graphs(context) or limit is None or limit < 1 or context.settings.capture_sizes:
        return
    batched = context.settings.max_num_batched_tokens
    kept = batched if batched <= limit else captured(limit)
    if kept != limit:
        why = (
            f"max-num-batched-tokens is {batched}"
            if batched < limit
            else "vLLM captures 1, 2, 4, every 8 below 256, every 16 above"
        )
        yield Symptom(
            f"max-cudagraph-capture-size {limit} becomes {kept}: {why}.",
            f"Write {kept}, if that is meant.",
            {"kept": kept},
        )


RULES = rules_in(globals())
