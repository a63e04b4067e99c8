"""Rules about what the client will send, and about what the doctor does not know."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in
from pytest_gpubench.model.workload import AGENTIC, SESSIONS


@rule(
    "a chat template for chat requests",
    "error",
    "read in source",
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide "
    "a chat template if the tokenizer does not define one.",
)
def chat_template(context: ServerContext) -> Iterator[Symptom]:
    if context.chat_template is not False or "chat-template" in context.settings.flags:
        return
    asking = tuple(case.id for case in context.cases if case.workload.chat_template == "server")
    if asking:
        yield Symptom(
            "The model's tokenizer has no chat template, and chat requests need one: "
            "every request would be refused.",
            "Set serve.chat-template to a template file, or client.api to completions "
            "with chat-template none.",
            cases=asking,
        )


@rule("prefix caching is off while prefill is measured", "note", "read in source")
def prefix_caching(context: ServerContext) -> Iterator[Symptom]:
    if context.cases and all(
        case.workload.dataset in (AGENTIC, SESSIONS) for case in context.cases
    ):
        return  # sessions grow: the cache is what is measured
    if context.settings.flags.get("enable-prefix-caching") is not False:
        yield Symptom(
            "Prefix caching is on: prompts that share a beginning (the chat template, "
            "warm-up prompts) skip part of their prefill.",
            "Set serve.enable-prefix-caching to false, unless the cache is what you measure.",
        )


@rule("the recipe's facts agree with the model's files", "warning", "read in source")
def facts_contradict(context: ServerContext) -> Iterator[Symptom]:
    for sentence in context.contradictions:
        yield Symptom(sentence, "Mend or remove it: what the files say counts.")


@rule("the models' config.json are known", "note", "read in source", outcome_unknown=True)
def unknown_model(context: ServerContext) -> Iterator[Symptom]:
    unknown = []
    if context.target is None:
        unknown.append(context.spec.model)
    if context.draft_model and context.draft is None:
        unknown.append(context.draft_model)
    for name in unknown:
        yield Symptom(
            f"The config.json of {name} is not at hand: rules about its shape say nothing.",
            "Fetch it (gpubench fetch) and ask again.",
        )
    for fact, stated in (("config", context.spec.model), ("draft-config", context.draft_model)):
        if fact in context.stated:
            yield Symptom(
                f"The config.json of {stated} is not at hand: the recipe's facts stand for it.",
                "Fetch it (gpubench fetch --configs) to see whether they are right.",
            )


RULES = rules_in(globals())
