"""Rules about attention backends: block sizes, head sizes and KV cache types; and about MiniMax-M3,
whose sparse attention has kernels of its own: where it runs, and the sizes they are written for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gpubench.dialects.vllm.dialect import FLASHINFER_PAGES, is_default
from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in
from pytest_gpubench.doctor.memory_estimate import block_size_of
from pytest_gpubench.doctor.shape import ModelShape

_ALL_PAGES = (16, 32, 64, 128, 256, 512, 1024)
_EXACT = {
    "ROCM_AITER_FA": (16, 32),
    "FLASHMLA": (64,),
    "CUTLASS_MLA": (128,),
    "FLASHINFER_MLA": (32, 64),
}
_MULTIPLES = {
    "FLASH_ATTN": 16,
    "TRITON_ATTN": 16,
    "FLEX_ATTENTION": 16,
    "ROCM_ATTN": 16,
    "TRITON_MLA": 16,
    "CPU_ATTN": 32,
}
_LATENT = {
    "FLASH_ATTN": False,
    "FLASHINFER": False,
    "TRITON_ATTN": False,
    "FLEX_ATTENTION": False,
    "FLASHMLA": True,
    "CUTLASS_MLA": True,
    "FLASHINFER_MLA": True,
    "FLASH_ATTN_MLA": True,
    "TRITON_MLA": True,
}
"""Whether a backend is for multi-head latent attention, or for ordinary attention."""
_CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_NVIDIA_ONLY = ("FLASHINFER", "FLASHMLA", "CUTLASS", "TRITON_FLASHINFER")


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Block sizes that a backend takes: some exactly, or every multiple of one."""

    name: str
    exact: tuple[int, ...] = ()
    multiple: int = 0

    def takes(self, size: int) -> bool:
        return size in self.exact or (self.multiple > 0 and size % self.multiple == 0)

    def __str__(self) -> str:
        return (
            f"{self.name}: {list(self.exact)}"
            if self.exact
            else f"{self.name}: [MultipleOf({self.multiple})]"
        )


def _kernel(name: str, context: ServerContext) -> _Kernel | None:
    """What a backend says of itself for this server; None: we do not know it."""
    if name == "FLASHINFER":
        target = context.target
        # it looks at the target's heads even where the draft will use it
        large = context.is_family(100) and target is not None and not target.is_mha
        return _Kernel(name, _ALL_PAGES if large else FLASHINFER_PAGES)
    if name in _EXACT:
        return _Kernel(name, _EXACT[name])
    if name in _MULTIPLES:
        return _Kernel(name, multiple=_MULTIPLES[name])
    return None


def _automatic(context: ServerContext, shape: ModelShape | None) -> str | None:
    """The backend that vLLM takes by itself for ordinary attention; None where it depends on more
    than we know."""
    if context.on_cpu:
        return "CPU_ATTN"
    if context.hardware.platform != "cuda" or shape is None or shape.latent_dim:
        return None
    return "FLASHINFER" if context.is_family(100) else "FLASH_ATTN"


def draft_backend(context: ServerContext) -> str | None:
    """The backend of the draft's layers: its own, else the target's, else vLLM's choice."""
    if context.draft_model is None:
        return None
    if context.on_cpu:
        return "CPU_ATTN"
    return (
        context.asked_draft_backend
        or context.settings.attention_backend
        or _automatic(context, context.draft)
    )


def _kernels(context: ServerContext) -> list[_Kernel]:
    """Of the target's sparse layers, of its ordinary ones, and of the draft, as far as we know
    them."""
    kernels: list[_Kernel] = []
    names: list[str | None] = []
    target = context.target
    if target is not None:
        if target.sparse is not None and target.sparse.block_size is not None:
            kernels.append(_Kernel("MINIMAX_M3_SPARSE", (target.sparse.block_size,)))
        if target.sparse is None or (
            target.layers is not None and target.sparse.layers < target.layers
        ):
            names.append(_target_backend(context) or _automatic(context, target))
    names.append(draft_backend(context))
    kernels += [
        kernel for name in dict.fromkeys(names) if name and (kernel := _kernel(name, context))
    ]
    return kernels


@rule(
    "one block size for every attention backend of the server",
    "error",
    "seen on a GPU",
    "ValueError: No common block size for {size} ({backends}).",
)
def common_block_size(context: ServerContext) -> Iterator[Symptom]:
    kernels = _kernels(context)
    size = block_size_of(context.settings, context.target, context.hardware)
    if not kernels or (
        context.settings.block_size is None and not (context.target and context.target.sparse)
    ):
        return  # left open, vLLM looks for a size that suits every backend
    smaller = {exact for kernel in kernels for exact in kernel.exact if size % exact == 0}
    if any(all(kernel.takes(candidate) for kernel in kernels) for candidate in {size, *smaller}):
        return
    packed = "VLLM_KV_CACHE_LAYOUT" in context.settings.environment
    yield Symptom(
        f"No block size suits every attention backend at block size {size} "
        f"({'; '.join(map(str, kernels))}); vLLM finds out after the weights are loaded."
        + (" A packed VLLM_KV_CACHE_LAYOUT may avoid it." if packed else ""),
        _block_remedy(context, kernels),
        {"size": size, "backends": "; ".join(map(str, kernels))},
        severity="warning" if packed else None,
    )


def _block_remedy(context: ServerContext, kernels: list[_Kernel]) -> str:
    culprits = [
        kernel.name
        for kernel in kernels
        if kernel.name != "MINIMAX_M3_SPARSE" and not kernel.multiple
    ]
    sparse = context.target.sparse if context.target else None
    if sparse and culprits and not context.on_cpu:
        where = (
            "speculative.attention-backend"
            if draft_backend(context) in culprits
            else "serve.attention-backend"
        )
        return f"Set {where} to FLASH_ATTN (or TRITON_ATTN) instead of {culprits[0]}."
    wanted = (sparse and sparse.block_size) or max(
        kernel.multiple or min(kernel.exact) for kernel in kernels
    )
    return f"Set serve.block-size to a multiple of {wanted}, or leave it out."


@rule(
    "no FlashInfer pages above 64 tokens for a draft without grouped heads (Blackwell)",
    "error",
    "read in source",
    "AssertionError: Unexpected FlashInfer page size {size} without trtllm-gen GQA",
)
def mha_draft_page_size(context: ServerContext) -> Iterator[Symptom]:
    draft, target = context.draft, context.target
    if (
        draft is None
        or target is None
        or not context.is_family(100)
        or draft_backend(context) != "FLASHINFER"
    ):
        return
    size = block_size_of(context.settings, target, context.hardware)
    if size > 64 and draft.is_mha and not target.is_mha:
        how = (
            "is set to"
            if context.asked_draft_backend
            else "has no attention backend, so that vLLM takes"
        )
        yield Symptom(
            f"The draft {how} FLASHINFER on {context.hardware.key}; it has a KV head for each of "
            f"its {draft.heads} query heads, and FlashInfer has pages of {size} tokens only for "
            "grouped heads. vLLM finds out after the weights are loaded.",
            "Set speculative.attention-backend to FLASH_ATTN, or use a draft with "
            "grouped heads (GQA).",
            {"size": size},
        )


@rule(
    "a backend that has the model's, and the draft's, kind of attention",
    "error",
    "read in source",
    "Selected backend {backend} is not valid for this configuration. Reason: "
    "['{reason} not supported']",
)
def latent_attention(context: ServerContext) -> Iterator[Symptom]:
    """A backend for latent attention under a model without it, or the other way round."""
    settings, spec = context.settings, context.spec
    if context.hardware.platform != "cuda" or "VLLM_MLA_DISABLE" in settings.environment:
        return
    asked = [("model", context.target, settings.attention_backend, "serve.attention-backend")]
    if context.draft_model is not None:
        own = context.asked_draft_backend
        asked.append(("draft", context.draft, own, "speculative.attention-backend"))
    for who, shape, backend, key in asked:
        if shape is None or backend not in _LATENT:
            continue
        if bool(shape.latent_dim) == _LATENT[backend]:
            continue
        draft = spec.speculative
        ours = who == "draft" and draft and is_default(draft, spec.hardware, spec.serve)
        has = "multi-head latent attention" if shape.latent_dim else "ordinary attention"
        yield Symptom(
            f"The {who} has {has}, which {backend}"
            + (", our default for EAGLE3 drafts at this block size," if ours else "")
            + " cannot serve.",
            f"Set {key} to auto, or leave it out."
            if not ours
            else f"Set {key} to auto, which leaves it to the engine.",
            {"backend": backend, "reason": "MLA" if shape.latent_dim else "non-MLA"},
        )


@rule(
    "head sizes that the chosen backend has",
    "error",
    "read in source",
    "Selected backend {backend} is not valid for this configuration. Reason: "
    "['head_size not supported']",
)
def head_size(context: ServerContext) -> Iterator[Symptom]:
    for who, shape, backend in (
        ("model", context.target, _target_backend(context)),
        ("draft", context.draft, draft_backend(context)),
    ):
        if shape is None or not shape.head_dim or shape.latent_dim or backend is None:
            continue
        dim = shape.head_dim
        wrong = {
            "CPU_ATTN": dim not in _CPU_HEADS,
            "FLASHINFER": dim not in (64, 128, 256, 512),
            "FLASH_ATTN": dim % 8 != 0,
            "TRITON_ATTN": dim < 32,
        }
        # only a backend that is asked for by name cannot be replaced by another one
        asked = backend == context.settings.attention_backend or (
            who == "draft" and backend == context.asked_draft_backend
        )
        if wrong.get(backend) and (asked or backend == "CPU_ATTN"):
            yield Symptom(
                f"The {who}'s head size {dim} is not one that {backend} has kernels for.",
                "Choose another attention backend."
                if backend != "CPU_ATTN"
                else "This model needs a GPU.",
                {"backend": backend},
            )


def _target_backend(context: ServerContext) -> str | None:
    return "CPU_ATTN" if context.on_cpu else context.settings.attention_backend


@rule("attention backends of this platform", "error", "read in source")
def backend_of_other_platform(context: ServerContext) -> Iterator[Symptom]:
    platform = context.hardware.platform
    for name in dict.fromkeys((context.settings.attention_backend, context.asked_draft_backend)):
        if name is None:
            continue
        if platform == "cpu":
            message = (
                f"The CPU has one attention backend: {name} is passed over (and logged as "
                "an error)."
            )
            yield Symptom(
                message,
                "Nothing to do; on a GPU the setting counts.",
                f"Cannot use AttentionBackendEnum.{name} backend on CPU.",
                severity="note",
            )
        elif (platform == "cuda" and name.startswith("ROCM_")) or (
            platform == "rocm" and name.startswith(_NVIDIA_ONLY)
        ):
            yield Symptom(
                f"{name} does not run on {context.hardware.key} ({platform}).",
                "Choose a backend of this platform; TRITON_ATTN runs on both.",
                f"Selected backend AttentionBackendEnum.{name} is not valid for "
                "this configuration.",
            )


@rule(
    "KV cache types that FLASH_ATTN reads",
    "error",
    "read in source",
    "FlashAttention does not support {kind} kv-cache on this device.",
)
def fp8_cache_of_flash_attention(context: ServerContext) -> Iterator[Symptom]:
    kind = context.settings.kv_cache_dtype
    backends = {context.settings.attention_backend, draft_backend(context)}
    if context.hardware.platform != "cuda" or "FLASH_ATTN" not in backends:
        return
    if kind == "fp8_e5m2" or (
        kind in ("fp8", "fp8_e4m3") and not (context.is_family(90) or context.is_family(100))
    ):
        yield Symptom(
            f"FLASH_ATTN cannot read a {kind} KV cache on {context.hardware.key}.",
            "Use kv-cache-dtype auto, or fp8 (e4m3) on Hopper or Blackwell.",
            {"kind": kind},
        )


@rule(
    "a vLLM that reads MiniMax-M3's top-k buffer as it is written",
    "error",
    "seen on a GPU",
    "Triton Error [CUDA]: an illegal memory access was encountered",
)
def minimax_m3_top_k_layout(context: ServerContext) -> Iterator[Symptom]:
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
    "an NVFP4 KV cache for MiniMax-M3 on Blackwell only",
    "error",
    "read in source",
    "MiniMax M3 sparse attention supports an NVFP4 KV cache only with the SM100 MSA backend "
    "(kv_cache_dtype={kind}, topk_blocks={topk})",
)
def nvfp4_cache_needs_blackwell(context: ServerContext) -> Iterator[Symptom]:
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


@rule("no MiniMax-M3 on the CPU", "error", "read in source")
def minimax_m3_on_cpu(context: ServerContext) -> Iterator[Symptom]:
    if context.target and context.target.is_minimax_m3 and context.on_cpu:
        yield Symptom(
            "MiniMax-M3 has no CPU kernels, whatever its size.",
            "Use a Llama-like model on the CPU (gpubench demo-model makes one).",
        )


@rule(
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


@rule("sizes that MiniMax-M3's kernels are written for", "error", "read in source")
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
