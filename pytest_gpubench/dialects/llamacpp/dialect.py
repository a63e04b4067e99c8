"""llama.cpp's server: what it says of itself. Run: the build in the package xllamacpp 2026.10."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_gpubench.dialects.command_line import DRAFT_WEIGHTS, PORT, WEIGHTS, flag
from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.dialect import Answers, Dialect, KeyDelivery, TokenizeRequest
from pytest_gpubench.dialects.engine_facts import Check, EngineFacts, whole_number
from pytest_gpubench.dialects.engine_log import EngineLog
from pytest_gpubench.dialects.server_flags import (
    DRAFT,
    GPU_VARIABLES,
    KEY,
    MAX_CONCURRENCY,
    MAX_TOKENS,
    METRICS,
    MODEL,
    NAME,
    PLACE,
    ROW,
    SECRET,
    TCP,
    FlagRules,
    for_reasons,
)
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

_ONE_MODEL = "the model comes from the recipe's `model`, a repository or folder with GGUF files"
FILE_FLAG = "hf-file"
"""Names the file of weights where a repository has several; it is not passed on."""

FLAGS = FlagRules(
    ours=for_reasons(
        {
            MODEL: "model",
            _ONE_MODEL: "hf-repo model-url models-dir models-preset docker-repo",
            DRAFT: (
                "hf-repo-draft model-draft spec-type spec-draft-n-max spec-draft-model draft-max"
            ),
            ROW.format("tp (row) or pp (layer)"): "split-mode",
            KEY: "api-key api-key-file",
            PLACE: "host port reuse-port api-prefix",
            NAME: "alias",
            METRICS: "metrics",
            TCP: "ssl-key-file ssl-cert-file",
            f"{SECRET}; set HF_TOKEN where gpubench runs": "hf-token",
        }
    ),
    length="ctx-size",
    length_of="parallel",
    slots=4,
    short={
        "-m": "model",
        "-hf": "hf-repo",
        "-hfr": "hf-repo",
        "-hfd": "hf-repo-draft",
        "-hfrd": "hf-repo-draft",
        "-hft": "hf-token",
        "-dr": "docker-repo",
        "-mu": "model-url",
        "-md": "model-draft",
        "-sm": "split-mode",
        "-a": "alias",
    },
    env={"LLAMA_API_KEY": KEY, **GPU_VARIABLES},
    ranges={
        "ctx-size": ("integer", 1, MAX_TOKENS),
        "batch-size": ("integer", 1, MAX_TOKENS),
        "ubatch-size": ("integer", 1, MAX_TOKENS),
        "parallel": ("integer", 1, MAX_CONCURRENCY),
        "threads": ("integer", 1, 100_000),
        "threads-batch": ("integer", 1, 100_000),
    },
    capacities=("ctx-size", "parallel", "batch-size"),
)

COUNTERS = Counters(
    prefix="llamacpp:",
    running="llamacpp:requests_processing",
    waiting="llamacpp:requests_deferred",
    prompt_tokens="llamacpp:prompt_tokens_total",
    generated_tokens="llamacpp:tokens_predicted_total",
    steps=("llamacpp:n_decode_total",),
    prefix_cache_hits="llamacpp:prompt_tokens_cached_total",
    drafts="llamacpp:spec_decode_num_drafts_total",
    draft_tokens="llamacpp:spec_decode_num_draft_tokens_total",
    accepted_tokens="llamacpp:spec_decode_num_accepted_tokens_total",
    accepted_per_position="llamacpp:spec_decode_num_accepted_tokens_per_pos_total",
)


DRAFTERS = {
    "ngram": "ngram-simple",
    "draft_model": "draft-simple",
    "eagle3": "draft-eagle3",
    "mtp": "draft-mtp",
}
"""Methods of a recipe in llama.cpp's words; ``ngram`` and ``eagle3`` have been run."""
_NO_BUILD = "b0-unknown"
"""What a build without its number calls itself."""
_PAD = 256
"""A context is rounded up to a multiple of so many tokens."""


class LlamacppDialect(Dialect):
    """``llama-server``, or the same server out of the Python package xllamacpp."""

    name = "llamacpp"
    title = "llama.cpp"
    owners = ("llamacpp",)
    distributions = ("xllamacpp",)
    platform = "cpu"
    key_variable = "LLAMA_API_KEY"
    flags = FLAGS
    counters = COUNTERS
    recorded_env = ("LLAMA_", "GGML_")
    example = "/opt/llama.cpp/bin/llama-server"
    takes_files = True
    keeps_connections = False

    @property
    def log(self) -> EngineLog:
        from pytest_gpubench.dialects.llamacpp.log import LOG  # its patterns are not for every run

        return LOG

    def default_command(self, installed: Callable[[str], bool]) -> tuple[str, ...]:
        """The server of this interpreter's own xllamacpp, else ``llama-server`` on PATH."""
        if installed("xllamacpp"):
            return (sys.executable, "-m", "pytest_gpubench.dialects.llamacpp.xllamacpp_server")
        return ("llama-server",)

    def words(self, spec: ServerSpec, command: Sequence[str], served_name: str) -> Iterator[str]:
        yield from command
        yield from ("--model", WEIGHTS)
        if spec.topology.tp > 1:
            yield from ("--split-mode", "row")
        elif spec.topology.pp > 1:
            yield from ("--split-mode", "layer")
        for name, value in spec.serve.items():
            if name != FILE_FLAG:
                yield from flag(name, value)
        if spec.speculative is not None:
            yield from _draft(spec.speculative)
        yield from ("--host", "127.0.0.1", "--port", PORT, "--alias", served_name, "--metrics")
        yield from spec.extra_args

    def key(self, api_key: str) -> KeyDelivery:
        return KeyDelivery({self.key_variable: api_key})

    def topology_error(self, topology: Topology) -> str | None:
        if topology.dp_attn or topology.ep > 1 or topology.pcp > 1 or topology.dcp > 1:
            return "llama.cpp divides a model by tp (rows) or pp (layers) only"
        if topology.tp > 1 and topology.pp > 1:
            return "llama.cpp divides a model by tp (rows) or by pp (layers), not by both"
        return None

    def draft_error(self, draft: Speculative) -> str | None:
        if draft.method not in DRAFTERS:
            return f"llama.cpp has no method '{draft.method}'; it has {', '.join(DRAFTERS)}"
        known = {"prompt_lookup_max"} if draft.method == "ngram" else set()
        others = sorted(set(draft.options) - known)
        if draft.attention_backend is not None:
            others.append("attention_backend")
        if others:
            names = ", ".join(name.replace("_", "-") for name in others)
            return f"{names}: llama.cpp has no flag for that; write its own flag under `serve`"
        return None

    def prefix_caching(self, spec: ServerSpec) -> bool:
        return spec.serve.get("cache-prompt") is not False

    def weights_file(self, names: Sequence[str], spec: ServerSpec) -> str | None:
        files = sorted(name for name in names if name.endswith(".gguf"))
        asked = spec.serve.get(FILE_FLAG)
        if asked is not None:
            return str(asked) if asked in files else None
        firsts = [name for name in files if "-of-" not in name or "-00001-of-" in name]
        return firsts[0] if len(firsts) == 1 else None

    def complete(self, facts: EngineFacts, answers: Answers) -> EngineFacts:
        props = answers.ask("/props")
        changes: dict[str, object] = {}
        settings: dict[str, Any] = {}
        if isinstance(props, dict):
            build = props.get("build_info")
            if isinstance(build, str) and build != _NO_BUILD:
                changes["version"] = build[:200]
            slots = whole_number(props.get("total_slots"))
            defaults = props.get("default_generation_settings")
            length = whole_number(defaults.get("n_ctx")) if isinstance(defaults, dict) else None
            settings |= {"total_slots": slots, "n_ctx": length}
            if length is not None:
                changes["max_model_len"] = length
        listed = answers.ask("/slots")
        if isinstance(listed, list) and listed and isinstance(listed[0], dict):
            drafting = listed[0].get("speculative")
            if isinstance(drafting, bool):
                settings["speculative"] = drafting
                changes["speculative_method"] = "on" if drafting else ""
        told = {name: value for name, value in settings.items() if value is not None}
        return dataclasses.replace(facts, settings=FrozenMap(told), **changes)  # type: ignore[arg-type]

    def checks(self, spec: ServerSpec, facts: EngineFacts) -> Iterator[Check]:
        settings, serve = facts.settings, spec.serve
        asked, slots = serve.get("ctx-size"), serve.get("parallel")
        if isinstance(slots, int):
            yield Check("parallel sequences", slots, settings.get("total_slots"))
        if isinstance(asked, int) and isinstance(slots, int):
            each, running = asked // slots, settings.get("n_ctx")
            if isinstance(running, int) and each <= running < each + _PAD:
                running = each
            yield Check("context of a sequence", each, running)
        drafting = spec.speculative is not None
        yield Check("speculative decoding", drafting, settings.get("speculative"))

    def tokenize_text(self, model: str, text: str, *, special: bool) -> TokenizeRequest:
        return _tokenize(text, special=special)

    def tokenize_chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any]
    ) -> TokenizeRequest:
        body: dict[str, Any] = {"messages": list(messages)}
        if template:
            body["chat_template_kwargs"] = dict(template)
        return TokenizeRequest(
            "/apply-template", body, lambda answer: _tokenize(answer["prompt"], special=True)
        )

    def tokens(self, answer: Any) -> tuple[int, Any]:
        return len(answer["tokens"]), answer["tokens"]


def _tokenize(text: str, *, special: bool) -> TokenizeRequest:
    body = {"content": text, "add_special": special, "parse_special": special}
    return TokenizeRequest("/tokenize", body)


def _draft(draft: Speculative) -> Iterator[str]:
    kind = DRAFTERS[draft.method]
    yield from ("--spec-type", kind)
    tokens = str(draft.num_speculative_tokens)
    if draft.method != "ngram":
        if draft.model is not None:
            yield from ("--spec-draft-model", DRAFT_WEIGHTS)
        yield from ("--spec-draft-n-max", tokens)
        return
    yield from (f"--spec-{kind}-size-m", tokens)
    looked_up = draft.options.get("prompt_lookup_max")
    if looked_up is not None:
        yield from (f"--spec-{kind}-size-n", str(looked_up))
