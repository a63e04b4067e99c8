"""Rules about MiniMax-M3: where it runs, and the sizes that its kernels are written for."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in


@rule(
    "minimax-m3-top-k-layout",
    "a vLLM that reads MiniMax-M3's top-k buffer as it is written",
    "error",
    "seen on a GPU",
    "Triton Error [CUDA]: an illegal memory access was encountered",
)
def top_k_layout(context: ServerContext) -> Iterator[Symptom]:
    """vLLM issue 48603: the model's top-k buffer became token-major for Blackwell's kernels while
    the Triton ones, which every other GPU takes, went on to read it head-major. Seen in 0.25.1
    (there) and 0.26.0 (here, on an H100); 0.32 transposes it."""
    target = context.target
    if (
        target is None
        or target.sparse is None
        or not target.is_minimax_m3
        or context.hardware.platform != "cuda"
    ):
        return
    if (
        not context.is_family(100)
        and context.engine is not None
        and context.engine.release[:2] in ((0, 25), (0, 26))
    ):
        yield Symptom(
            f"vLLM {context.node.engine} reads MiniMax-M3's top-k buffer in the wrong layout on "
            f"{context.hardware.key} (its issue 48603): it starts, attends to wrong blocks, and "
            "dies as soon as it decodes one request and prefills another.",
            "Use a vLLM with its pull request 49149 (0.32 has it).",
        )


@rule(
    "nvfp4-cache-needs-blackwell",
    "an NVFP4 KV cache for MiniMax-M3 on Blackwell only",
    "error",
    "read in source",
    "MiniMax M3 sparse attention supports an NVFP4 KV cache only with the SM100 MSA backend "
    "(kv_cache_dtype={kind}, topk_blocks={topk})",
)
def nvfp4_cache(context: ServerContext) -> Iterator[Symptom]:
    kind, target = context.settings.kv_cache_dtype, context.target
    if target is None or not target.is_minimax_m3 or not kind.startswith("nvfp4"):
        return
    topk = target.sparse and target.sparse.topk_blocks
    if kind != "nvfp4" or not context.is_family(100) or topk not in (None, 4, 8, 16, 32):
        yield Symptom(
            f"An NVFP4 KV cache ({kind}) for MiniMax-M3 needs a Blackwell datacenter "
            f"GPU, not {context.hardware.key}.",
            "Use kv-cache-dtype fp8 or auto.",
            {"kind": kind, "topk": topk},
        )


@rule("minimax-m3-on-cpu", "no MiniMax-M3 on the CPU", "error", "read in source")
def minimax_m3_on_cpu(context: ServerContext) -> Iterator[Symptom]:
    if context.target and context.target.is_minimax_m3 and context.on_cpu:
        yield Symptom(
            "MiniMax-M3 has no CPU kernels, whatever its size.",
            "Use a Llama-like model on the CPU (gpubench demo-model makes one).",
        )


@rule(
    "minimax-m3-text-config",
    "MiniMax-M3's whole config.json",
    "error",
    "seen on the CPU engine",
    "The checkpoint you are trying to load has model type `minimax_m3_text` but Transformers "
    "does not recognize this architecture.",
)
def minimax_m3_text_config(context: ServerContext) -> Iterator[Symptom]:
    if context.target and context.target.model_type == "minimax_m3_text":
        yield Symptom(
            "The config.json is MiniMax-M3's bare text config; vLLM registers only the whole one.",
            'Wrap it: {"model_type": "minimax_m3_vl", "text_config": {...}} with the '
            "architecture MiniMaxM3SparseForCausalLM.",
        )


@rule(
    "minimax-m3-shape",
    "sizes that MiniMax-M3's kernels are written for",
    "error",
    "read in source",
)
def minimax_m3_shape(context: ServerContext) -> Iterator[Symptom]:
    target = context.target
    if target is None or target.sparse is None or not target.is_minimax_m3:
        return
    sparse = target.sparse
    sizes = [
        size for size in (target.head_dim, sparse.index_dim, sparse.block_size) if size is not None
    ]
    if any(size != 128 for size in sizes):
        yield Symptom(
            "MiniMax-M3's kernels are written for head, index and block sizes of 128, "
            f"not {', '.join(map(str, sizes))}.",
            "Use a config.json with these sizes at 128.",
            "AssertionError",
        )
    if sparse.index_heads is not None and sparse.index_heads != target.kv_heads:
        yield Symptom(
            f"{sparse.index_heads} index heads, but {target.kv_heads} KV heads: they "
            "must be equal.",
            "Set sparse_num_index_heads to num_key_value_heads.",
            "MinimaxM3QKVParallelLinearWithIndexer requires total_num_index_heads "
            "== total_num_kv_heads",
        )


RULES = rules_in(globals())
