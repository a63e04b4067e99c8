"""llama-server's flags and metrics, as far as recipes and measurements are concerned with them."""

from __future__ import annotations

from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.server_flags import (
    DRAFT,
    GPU_VARIABLES,
    KEY,
    MAX_CONCURRENCY,
    MAX_TOKENS,
    MODEL,
    NAME,
    PLACE,
    ROW,
    SECRET,
    TCP,
    FlagRules,
)

_ONE_MODEL = "the model comes from the recipe's `model`, a repository or folder with GGUF files"
FILE_FLAG = "hf-file"
"""Names the file of weights where a repository has several; it is not passed on."""

FLAGS = FlagRules(
    ours={
        "model": MODEL,
        "hf-repo": _ONE_MODEL,
        "model-url": _ONE_MODEL,
        "models-dir": _ONE_MODEL,
        "models-preset": _ONE_MODEL,
        "docker-repo": _ONE_MODEL,
        "hf-repo-draft": DRAFT,
        "model-draft": DRAFT,
        "spec-type": DRAFT,
        "spec-draft-n-max": DRAFT,
        "spec-draft-model": DRAFT,
        "draft-max": DRAFT,
        "split-mode": ROW.format("tp (row) or pp (layer)"),
        "host": PLACE,
        "port": PLACE,
        "reuse-port": PLACE,
        "alias": NAME,
        "metrics": "the plugin sets it: token totals are checked against the engine's",
        "api-key": KEY,
        "api-key-file": KEY,
        "api-prefix": PLACE,
        "ssl-key-file": TCP,
        "ssl-cert-file": TCP,
        "hf-token": f"{SECRET}; set HF_TOKEN where gpubench runs",
    },
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
