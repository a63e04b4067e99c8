"""SGLang: what it says of itself. Written for 0.5.17, which was run; 0.5.23's flags were read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pytest_gpubench.dialects.command_line import KEY_FILE, PORT, flag, json_text
from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.dialect import Answers, Dialect, KeyDelivery
from pytest_gpubench.dialects.engine_facts import Check, EngineFacts, whole_number
from pytest_gpubench.dialects.engine_log import EngineLog
from pytest_gpubench.dialects.server_flags import (
    DRAFT,
    FILE,
    GPU_VARIABLES,
    HTTP,
    KEY,
    MAX_CONCURRENCY,
    MAX_TOKENS,
    METRICS,
    MODEL,
    NAME,
    ONE_HOST,
    PLACE,
    REVISION,
    ROW,
    SECRET,
    TCP,
    FlagRules,
    for_reasons,
)
from pytest_gpubench.model.frozen import Frozen, FrozenMap, is_number, thaw
from pytest_gpubench.model.secrets import is_secret
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

FLAGS = FlagRules(
    ours=for_reasons(
        {
            ROW.format("tp"): "tp-size tensor-parallel-size",
            ROW.format("pp"): "pp-size pipeline-parallel-size",
            ROW.format("dcp-size"): "dcp-size",
            ROW.format("dp-attn"): "dp-size data-parallel-size attn-dp-size enable-dp-attention",
            ROW.format("ep"): "ep-size expert-parallel-size",
            DRAFT: (
                "speculative-algorithm speculative-draft-model-path "
                "speculative-draft-model-revision speculative-num-steps speculative-eagle-topk "
                "speculative-num-draft-tokens speculative-draft-attention-backend"
            ),
            MODEL: "model-path",
            REVISION: "revision",
            PLACE: "host port",
            HTTP: "grpc-mode smg-grpc-mode grpc-port",
            ONE_HOST: "nnodes node-rank",
            TCP: "ssl-keyfile ssl-certfile ssl-ca-certs",
            SECRET: "ssl-keyfile-password admin-api-key",
            KEY: "api-key",
            NAME: "served-model-name",
            FILE: "config",
            METRICS: "enable-metrics",
        }
    ),
    length="context-length",
    synonyms={
        "tensor-parallel-size": "tp-size",
        "pipeline-parallel-size": "pp-size",
        "data-parallel-size": "dp-size",
        "expert-parallel-size": "ep-size",
    },
    env={**GPU_VARIABLES},
    ranges={
        "mem-fraction-static": ("number", 0.01, 1),
        "context-length": ("integer", 1, MAX_TOKENS),
        "chunked-prefill-size": ("integer", -1, MAX_TOKENS),
        "max-prefill-tokens": ("integer", 1, MAX_TOKENS),
        "max-running-requests": ("integer", 1, MAX_CONCURRENCY),
        "cuda-graph-max-bs": ("integer", 0, 65_536),
        "cuda-graph-max-bs-decode": ("integer", 0, 65_536),
        "page-size": ("integer", 1, 65_536),
        "stream-interval": ("integer", 1, 100_000),
    },
    offloading=("enable-hierarchical-cache", "enable-lmcache"),
    capacities=(
        "context-length",
        "chunked-prefill-size",
        "max-prefill-tokens",
        "max-running-requests",
        "cuda-graph-max-bs",
        "cuda-graph-max-bs-decode",
    ),
    negation="",
)

COUNTERS = Counters(
    prefix="sglang:",
    running="sglang:num_running_reqs",
    waiting="sglang:num_queue_reqs",
    prompt_tokens="sglang:prompt_tokens_total",
    generated_tokens="sglang:generation_tokens_total",
    live_tokens=('sglang:realtime_tokens_total{mode="decode"}',),
    requests="sglang:num_requests_total",
    preemptions="sglang:num_retracted_requests_total",
    prefix_cache_hits="sglang:cached_tokens_total",
    kv_cache_usage="sglang:token_usage",
    rank="dp_rank",
    verify_steps="sglang:spec_verify_calls_total",
    generated_when="end",
)

RENAMED = {"cuda-graph-max-bs": "cuda-graph-max-bs-decode"}
"""Flags that newer versions call otherwise; the old ones still work."""


ALGORITHMS = {
    "eagle3": "EAGLE3",
    "eagle": "EAGLE",
    "mtp": "NEXTN",
    "nextn": "NEXTN",
    "ngram": "NGRAM",
    "standalone": "STANDALONE",
}
"""Methods of a recipe in SGLang's words."""
_OPTIONS = {"topk", "draft_tokens", "quantization"}
"""Keys of a draft, beside those of every engine, that have a flag."""
_LONGEST = 200
_CALLED = {"speculative_draft_model_path": "draft_model"}
"""Settings that are facts under another name."""
_HIDDEN = ("api_key", "admin_api_key", "ssl_keyfile_password")


class SglangDialect(Dialect):
    """SGLang from 0.5.17 on."""

    name = "sglang"
    title = "SGLang"
    owners = ("sglang",)
    distributions = ("sglang",)
    key_variable = "SGLANG_API_KEY"
    flags = FLAGS
    counters = COUNTERS
    recorded_env = ("SGLANG_", "SGL_")
    doctor_rules = "pytest_gpubench.doctor.sglang_rules:RULES"
    starts = (("-m", "sglang.launch_server"), ("sglang", "serve"))
    example = "/opt/sglang-next/bin/python -m sglang.launch_server"
    continuous_usage = True
    attention_alone = True
    drafted_by_another = ("eagle3", "standalone")  # EAGLE is also what it calls a model's own heads
    ours_env: ClassVar[Mapping[str, str]] = {
        "PYTHONUNBUFFERED": "1",
        # Else every look at /health makes the server generate a token: load on what is measured,
        # and progress where there is none.
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
    }

    @property
    def log(self) -> EngineLog:
        from pytest_gpubench.dialects.sglang.log import LOG  # its patterns are not for every run

        return LOG

    def default_command(self, installed: Callable[[str], bool]) -> tuple[str, ...]:
        """This interpreter's own engine, else ``sglang serve`` on PATH."""
        if installed("sglang"):
            return (sys.executable, *self.starts[0])
        return self.starts[1]

    def words(self, spec: ServerSpec, command: Sequence[str], served_name: str) -> Iterator[str]:
        yield from command
        yield from ("--model-path", spec.model)
        if spec.revision is not None:
            yield from ("--revision", spec.revision)
        yield from _parallel(spec.topology)
        for name, value in spec.serve.items():
            yield from flag(name, value, negation="")
        if spec.speculative is not None:
            yield from _draft(spec.speculative)
        yield from ("--host", "127.0.0.1", "--port", PORT, "--served-model-name", served_name)
        yield from ("--enable-metrics", "--config", KEY_FILE)
        yield from spec.extra_args

    def draft_keys(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return _draft_keys(settings)

    def key(self, api_key: str) -> KeyDelivery:
        # It reads a key from its command line or from a file; every user of a host can see the
        # former.
        return KeyDelivery(file=f"api-key: {api_key}\n")

    def topology_error(self, topology: Topology) -> str | None:
        if topology.pcp > 1:
            return "pcp-size: no way is known to start SGLang with prefill context parallelism"
        return None

    def draft_error(self, draft: Speculative) -> str | None:
        if draft.method not in ALGORITHMS:
            return f"SGLang has no method '{draft.method}'; it has {', '.join(ALGORITHMS)}"
        others = sorted(set(draft.options) - _OPTIONS)
        if others:
            names = ", ".join(name.replace("_", "-") for name in others)
            return f"{names}: SGLang has no flag for that; write its own flag under `serve`"
        return None

    def made_up_weights(self, spec: ServerSpec) -> bool:
        return spec.serve.get("load-format") == "dummy"

    def prefix_caching(self, spec: ServerSpec) -> bool:
        return spec.serve.get("disable-radix-cache") is not True

    def complete(self, facts: EngineFacts, answers: Answers) -> EngineFacts:
        info = answers.ask("/server_info")
        changes = _told(info) if isinstance(info, dict) else {}
        length = whole_number(answers.entry.get("max_model_len"))
        if length is not None:
            changes["max_model_len"] = length
        return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]

    def checks(self, spec: ServerSpec, facts: EngineFacts) -> Iterator[Check]:
        """The parallelism, the draft, and every flag of the recipe that the server names among its
        own settings: it must be equal."""
        settings = facts.settings
        topology = spec.topology
        for name, key, asked in (
            ("tensor parallel size", "tp_size", topology.tp),
            ("data parallel size", "dp_size", topology.dp),
            ("pipeline parallel size", "pp_size", topology.pp),
            ("expert parallel size", "ep_size", topology.ep),
        ):
            yield Check(name, asked, settings.get(key))
        yield from _draft_checks(spec.speculative, settings)
        for name, value in spec.serve.items():
            key = RENAMED.get(name, name).replace("-", "_")
            if value is None or value == "auto" or key not in settings:
                continue
            yield Check(name, _comparable(value), _comparable(settings[key]))


def _parallel(topology: Topology) -> Iterator[str]:
    """``tp`` counts the ranks of the whole server, also where attention is data-parallel."""
    yield from ("--tp-size", str(topology.tp))
    if topology.dp_attn:
        yield from ("--dp-size", str(topology.tp), "--enable-dp-attention")
    sizes = (("--pp-size", topology.pp), ("--dcp-size", topology.dcp), ("--ep-size", topology.ep))
    for name, size in sizes:
        if size > 1:
            yield from (name, str(size))


def _draft(draft: Speculative) -> Iterator[str]:
    yield from ("--speculative-algorithm", ALGORITHMS[draft.method])
    if draft.model is not None:
        yield from ("--speculative-draft-model-path", draft.model)
    if draft.revision is not None:
        yield from ("--speculative-draft-model-revision", draft.revision)
    if draft.method != "ngram":
        yield from ("--speculative-num-steps", str(draft.num_speculative_tokens))
        yield from ("--speculative-eagle-topk", str(topk(draft)))
    yield from ("--speculative-num-draft-tokens", str(draft_tokens(draft)))
    if draft.attention_backend is not None:
        yield from ("--speculative-draft-attention-backend", draft.attention_backend)
    quantization = draft.options.get("quantization")
    if quantization is not None:
        yield from ("--speculative-draft-model-quantization", str(quantization))


def _draft_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `_draft` would write so."""
    given = {
        name.removeprefix("speculative-"): value
        for name, value in settings.items()
        if name in FLAGS.ours and FLAGS.ours[name] == DRAFT
    }
    if not given:
        return {}
    algorithm = given.get("algorithm")
    # Methods that are one algorithm: the first name is as good as the other.
    method = next((name for name, word in ALGORITHMS.items() if word == algorithm), None)
    if method is None:
        raise ValueError(f"--speculative-algorithm is {algorithm}")
    keys: dict[str, Any] = {"method": method}
    for name, key in (
        ("draft-model-path", "model"),
        ("draft-model-revision", "revision"),
        ("draft-attention-backend", "attention-backend"),
    ):
        if name in given:
            keys[key] = given[name]
    tokens = given.get("num-draft-tokens")
    steps = given.get("num-steps")
    if method == "ngram" and steps is None and isinstance(tokens, int):
        steps = tokens - 1
    if not isinstance(steps, int):
        raise ValueError("--speculative-num-steps is not given, and a recipe always says it")
    keys["num-speculative-tokens"] = steps
    if given.get("eagle-topk", 1) != 1:
        keys["topk"] = given["eagle-topk"]
    if tokens is not None and tokens != steps + 1:
        keys["draft-tokens"] = tokens
    return keys


def topk(draft: Speculative) -> int:
    """Branches per step of the draft; 1 is a chain."""
    return int(str(draft.options.get("topk", 1)))


def draft_tokens(draft: Speculative) -> int:
    """Tokens that are verified at once, the last accepted one included: steps + 1 for a chain."""
    return int(str(draft.options.get("draft_tokens", draft.num_speculative_tokens + 1)))


def _draft_checks(draft: Speculative | None, settings: Mapping[str, Frozen]) -> Iterator[Check]:
    running = settings.get("speculative_algorithm")
    if not settings:
        running = None
    elif running is None:
        running = "none"
    if draft is None:
        yield Check("speculative decoding", "none", running)
        return
    yield Check("speculative method", ALGORITHMS[draft.method], running)
    if running == "none":
        return
    if draft.method != "ngram":
        steps, branches = draft.num_speculative_tokens, topk(draft)
        yield Check("speculative steps", steps, settings.get("speculative_num_steps"))
        yield Check("speculative topk", branches, settings.get("speculative_eagle_topk"))
    tokens = settings.get("speculative_num_draft_tokens")
    yield Check("speculative draft tokens", draft_tokens(draft), tokens)
    if draft.attention_backend is not None:
        backend = settings.get("speculative_draft_attention_backend")
        yield Check("draft attention backend", draft.attention_backend, backend)


def _comparable(value: Frozen) -> object:
    """A value as it is compared: numbers as numbers, maps and lists as JSON."""
    if isinstance(value, tuple | FrozenMap):
        return json_text(thaw(value))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _told(info: dict[str, Any]) -> dict[str, object]:
    """Facts of ``/server_info``: all settings as resolved, and what was measured at the start."""
    settings = {
        name: value
        for name, value in info.items()
        if name not in _HIDDEN and (isinstance(value, bool | int | float) or _is_short(name, value))
    }
    changes: dict[str, object] = {"settings": FrozenMap(settings)}
    for name in (
        *("version", "device", "dtype"),
        *("kv_cache_dtype", "attention_backend", "quantization", "speculative_draft_model_path"),
    ):
        if name in settings:
            changes[_CALLED.get(name, name)] = str(settings[name])
    for name, fact in (
        ("tp_size", "tensor_parallel_size"),
        ("dp_size", "data_parallel_size"),
        ("pp_size", "pipeline_parallel_size"),
        ("page_size", "block_size"),
        ("context_length", "max_model_len"),
        ("max_total_num_tokens", "kv_cache_tokens"),
        ("speculative_num_steps", "num_speculative_tokens"),
    ):
        number = whole_number(info.get(name))
        if number is not None:
            changes[fact] = number
    changes["speculative_method"] = str(info.get("speculative_algorithm") or "").lower()
    if isinstance(info.get("disable_radix_cache"), bool):
        changes["enable_prefix_caching"] = not info["disable_radix_cache"]
    if isinstance(info.get("disable_cuda_graph"), bool):
        changes["enforce_eager"] = info["disable_cuda_graph"]
    experts = whole_number(info.get("ep_size"))
    if experts is not None:
        changes["expert_parallel"] = experts > 1
    return changes | _memory(info)


def _is_short(name: str, value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and not is_secret(name, value)


def _memory(info: dict[str, Any]) -> dict[str, object]:
    states = info.get("internal_states")
    first = states[0] if isinstance(states, list) and states else None
    usage = first.get("memory_usage") if isinstance(first, dict) else None
    if not isinstance(usage, dict):
        return {}
    told: dict[str, object] = {}
    for name, fact in (
        ("weight", "weights_gib"),
        ("kvcache", "kv_cache_memory_gib"),
        ("graph", "capture_gib"),
    ):
        value = usage.get(name)
        if isinstance(value, dict):  # of the graphs, by kind
            value = sum(part for part in value.values() if isinstance(part, int | float))
        if is_number(value):
            told[fact] = float(value)
    return told
