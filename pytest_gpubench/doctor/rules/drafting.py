"""Rules about speculative decoding."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in

_EAGLE = ("eagle", "eagle3")


@rule("draft tokens per step", "error", "seen on the CPU engine")
def draft_tokens(context: ServerContext) -> Iterator[Symptom]:
    if context.spec.speculative is None:
        return
    count, step = context.spec_tokens, context.draft and context.draft.n_predict
    if count <= 0:
        yield Symptom(
            f"{count} draft tokens per step.",
            "Set speculative.num-speculative-tokens to 1 or more.",
            "num_speculative_tokens: Input should be greater than 0",
        )
    elif step and count > step and count % step:
        yield Symptom(
            f"{count} draft tokens per step with a draft that predicts {step} at a time.",
            f"Use a multiple of {step}.",
            f"num_speculative_tokens:{count} must be divisible by n_predict={step}",
            evidence_class="read in source",
        )


@rule("the draft's tensor parallel size", "error", "seen on the CPU engine")
def draft_tensor_parallel(context: ServerContext) -> Iterator[Symptom]:
    if context.draft_option("tensor_parallel_size") is not None:
        yield Symptom(
            "speculative has a key tensor_parallel_size.",
            "Name it draft-tensor-parallel-size.",
            "'tensor_parallel_size' is not a valid argument in the speculative_config. "
            "Please pass 'draft_tensor_parallel_size' instead.",
        )
    asked = context.draft_option("draft_tensor_parallel_size")
    if asked is not None and asked not in (1, context.tp):
        yield Symptom(
            f"The draft's tensor parallel size is {asked}, the model's {context.tp}.",
            f"Use 1 or {context.tp}.",
            f"speculative_draft_tensor_parallel_size={asked} cannot be other value than 1 "
            "or target model tensor_parallel_size",
        )


@rule("the draft's heads divide by its tensor parallel size", "error", "seen on the CPU engine")
def draft_heads_by_tp(context: ServerContext) -> Iterator[Symptom]:
    draft, tp = context.draft, context.draft_tp
    if draft and draft.heads and draft.heads % tp:
        yield Symptom(
            f"The draft's {draft.heads} attention heads cannot be divided by tensor "
            f"parallel size {tp}.",
            "Set speculative.draft-tensor-parallel-size to 1.",
            f"Total number of attention heads ({draft.heads}) must be divisible by "
            f"tensor parallel size ({tp}).",
        )
    elif draft and draft.kv_heads and draft.kv_heads % tp and tp % draft.kv_heads:
        yield Symptom(
            f"The draft's {draft.kv_heads} KV heads and tensor parallel size {tp}: "
            "neither divides the other.",
            "Set speculative.draft-tensor-parallel-size to 1.",
            "AssertionError",
            evidence_class="read in source",
        )


@rule(
    "a draft made for this model's hidden size",
    "error",
    "read in source",
    "a shape mismatch while the draft's weights load",
)
def draft_hidden_size(context: ServerContext) -> Iterator[Symptom]:
    draft, target = context.draft, context.target
    speculative = context.spec.speculative
    if (
        speculative is None
        or speculative.method not in _EAGLE
        or not draft
        or not target
        or not target.hidden
    ):
        return
    expects = draft.target_hidden or draft.hidden
    if expects and expects != target.hidden:
        yield Symptom(
            f"The draft reads hidden states of size {expects}, the model gives "
            f"{target.hidden}: it was made for another model.",
            "Use the draft that belongs to this model.",
            # Seen on an H100: without real weights nothing is loaded that could mismatch, and vLLM
            # 0.26 starts.
            severity="warning" if context.settings.load_format == "dummy" else None,
        )


@rule(
    "draft and model share a vocabulary",
    "error",
    "seen on the CPU engine",
    "Target and draft model should have the same vocabulary size. "
    "Target model vocab_size={target}. Draft model vocab_size={draft}.",
)
def draft_vocabulary(context: ServerContext) -> Iterator[Symptom]:
    draft, target, speculative = context.draft, context.target, context.spec.speculative
    if not draft or not target or speculative is None or not draft.vocab or not target.vocab:
        return
    if draft.vocab != target.vocab and not context.draft_option("use_heterogeneous_vocab"):
        separate = speculative.method == "draft_model"
        yield Symptom(
            f"The draft's vocabulary has {draft.vocab} ids, the model's {target.vocab}.",
            "Use a draft with the model's tokenizer.",
            {"draft": draft.vocab, "target": target.vocab},
            severity=None if separate else "warning",
        )


@rule("layers that an EAGLE3 draft reads exist and differ", "error", "read in source")
def draft_aux_layers(context: ServerContext) -> Iterator[Symptom]:
    draft, target = context.draft, context.target
    if draft is None or target is None or not draft.aux_layers or not target.layers:
        return
    beyond = [layer for layer in draft.aux_layers if not 0 <= layer <= target.layers]
    if beyond or len(set(draft.aux_layers)) < len(draft.aux_layers):
        yield Symptom(
            f"The draft reads layers {list(draft.aux_layers)} of a model with "
            f"{target.layers} layers: they must exist and differ.",
            "Use the draft that belongs to this model.",
        )


@rule("the draft's context is as long as the requests", "warning", "read in source")
def draft_context(context: ServerContext) -> Iterator[Symptom]:
    draft, needs = context.draft, context.settings.max_model_len
    longest = max((case.workload.isl + case.workload.osl for case in context.cases), default=0)
    if draft and draft.max_length and needs and draft.max_length < min(needs, longest or needs):
        yield Symptom(
            f"The draft knows {draft.max_length} positions, requests grow to "
            f"{min(needs, longest or needs)} tokens: beyond that nothing is drafted.",
            "Expect a lower acceptance length, or use a draft with a longer context.",
        )


@rule("synthetic acceptance is whole and in range", "error", "seen on the CPU engine")
def synthetic_acceptance(context: ServerContext) -> Iterator[Symptom]:
    method = context.draft_option("rejection_sample_method")
    length = context.draft_option("synthetic_acceptance_length")
    rates = context.draft_option("synthetic_acceptance_rates")
    most = context.spec_tokens + 1
    if method != "synthetic":
        if length is not None or rates is not None:
            yield Symptom(
                "A synthetic acceptance without its method.",
                "Set rejection_sample_method: synthetic.",
                "synthetic_acceptance_rates / synthetic_acceptance_length are only valid "
                "with rejection_sample_method='synthetic'.",
            )
        return
    if context.on_cpu:
        yield Symptom(
            "Synthetic acceptance does not work on the CPU.",
            "Use real drafts there.",
            "Synthetic acceptance not supported with CPU sampling",
            evidence_class="read in source",
        )
    if (length is None) == (rates is None):
        yield Symptom(
            "Synthetic acceptance needs a length or rates, one of them.",
            "Give one.",
            "rejection_sample_method='synthetic' requires exactly one of "
            "synthetic_acceptance_rates or synthetic_acceptance_length.",
        )
    elif isinstance(length, int | float) and not 1 <= length <= most:
        yield Symptom(
            f"An acceptance length of {length} with {most - 1} draft tokens.",
            f"Use 1 to {most}.",
            f"synthetic_acceptance_length must be in [1, {most}], got {length}.",
        )


@rule(
    "draft metrics need a draft",
    "error",
    "seen on the CPU engine",
    "--per-request-spec-decode-metrics requires speculative decoding to be enabled "
    "(via --speculative-config).",
)
def draft_metrics_without_draft(context: ServerContext) -> Iterator[Symptom]:
    asked = context.settings.word("per-request-spec-decode-metrics")
    if asked not in (None, "none") and context.spec.speculative is None:
        yield Symptom(
            "--per-request-spec-decode-metrics without a draft.", "Drop the flag from this recipe."
        )


@rule(
    "no min_p or logit_bias with speculative decoding",
    "error",
    "read in source",
    "The min_p and logit_bias sampling parameters are not yet supported with speculative decoding.",
)
def sampling_with_draft(context: ServerContext) -> Iterator[Symptom]:
    if context.spec.speculative is None:
        return
    for name in ("min_p", "logit_bias"):
        if context.settings.part("override-generation-config", name):
            yield Symptom(
                f"The server's default sampling has {name}, which does not go with "
                "speculative decoding: every request would fail.",
                f"Drop {name} from override-generation-config.",
                cases=tuple(case.id for case in context.cases),
            )


RULES = rules_in(globals())
