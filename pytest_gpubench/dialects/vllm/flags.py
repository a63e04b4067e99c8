"""vLLM's flags and metrics, as far as recipes and measurements are concerned with them."""

from __future__ import annotations

from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.server_flags import (
    DRAFT,
    FILE,
    GPU_VARIABLES,
    KEY,
    MAX_CONCURRENCY,
    MAX_TOKENS,
    MODEL,
    NAME,
    PLACE,
    REVISION,
    ROW,
    SECRET,
    TCP,
    FlagRules,
)

SHORT_JSON = {"cc": "compilation-config", "sc": "speculative-config", "ac": "attention-config"}
"""Short options for JSON values, which a single dash begins."""

FLAGS = FlagRules(
    ours={
        "tensor-parallel-size": ROW.format("tp"),
        "pipeline-parallel-size": ROW.format("pp"),
        "prefill-context-parallel-size": ROW.format("pcp-size"),
        "decode-context-parallel-size": ROW.format("dcp-size"),
        "data-parallel-size": ROW.format("dp-attn"),
        "enable-expert-parallel": ROW.format("ep"),
        "speculative-config": DRAFT,
        "model": MODEL,
        "revision": REVISION,
        "host": PLACE,
        "port": PLACE,
        "uds": TCP,
        "fd": TCP,
        "ssl-keyfile": TCP,
        "ssl-certfile": TCP,
        "ssl-ca-certs": TCP,
        "ssl-cert-reqs": TCP,
        "ssl-keyfile-password": SECRET,
        "enable-ssl-refresh": TCP,
        "api-key": KEY,
        "hf-token": f"{SECRET}; set HF_TOKEN where gpubench runs",
        "served-model-name": NAME,
        "config": FILE,
    },
    length="max-model-len",
    short={
        "-tp": "tensor-parallel-size",
        "-pp": "pipeline-parallel-size",
        "-pcp": "prefill-context-parallel-size",
        "-dcp": "decode-context-parallel-size",
        "-dp": "data-parallel-size",
        "-ep": "enable-expert-parallel",
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
