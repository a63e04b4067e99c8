"""SGLang's flags and metrics, as far as recipes and measurements are concerned with them."""

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

FLAGS = FlagRules(
    ours={
        "tp-size": ROW.format("tp"),
        "tensor-parallel-size": ROW.format("tp"),
        "pp-size": ROW.format("pp"),
        "pipeline-parallel-size": ROW.format("pp"),
        "dcp-size": ROW.format("dcp-size"),
        "dp-size": ROW.format("dp-attn"),
        "data-parallel-size": ROW.format("dp-attn"),
        "attn-dp-size": ROW.format("dp-attn"),
        "enable-dp-attention": ROW.format("dp-attn"),
        "ep-size": ROW.format("ep"),
        "expert-parallel-size": ROW.format("ep"),
        "speculative-algorithm": DRAFT,
        "speculative-draft-model-path": DRAFT,
        "speculative-draft-model-revision": DRAFT,
        "speculative-num-steps": DRAFT,
        "speculative-eagle-topk": DRAFT,
        "speculative-num-draft-tokens": DRAFT,
        "speculative-draft-attention-backend": DRAFT,
        "model-path": MODEL,
        "revision": REVISION,
        "host": PLACE,
        "port": PLACE,
        "ssl-keyfile": TCP,
        "ssl-certfile": TCP,
        "ssl-ca-certs": TCP,
        "ssl-keyfile-password": SECRET,
        "api-key": KEY,
        "admin-api-key": SECRET,
        "served-model-name": NAME,
        "config": FILE,
        "enable-metrics": "the plugin sets it: token totals are checked against the engine's",
    },
    length="context-length",
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
