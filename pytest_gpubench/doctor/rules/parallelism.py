"""Rules about dividing a model over GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in
from pytest_gpubench.model.frozen import mapping

_ALL_REDUCE_BACKEND = "VLLM_FLASHINFER_ALLREDUCE_BACKEND"
_LOOKS_FOR_MULTICAST = Version("0.32")


@rule(
    "attention heads divide by tensor parallel size",
    "error",
    "seen on the CPU engine",
    "Total number of attention heads ({heads}) must be divisible by tensor parallel size ({tp}).",
)
def heads_by_tp(context: ServerContext) -> Iterator[Symptom]:
    target, tp = context.target, context.tp
    if target and target.heads and target.heads % tp:
        yield Symptom(
            f"{target.heads} attention heads cannot be divided by tensor parallel size {tp}.",
            f"Use a tp that divides {target.heads}.",
            {"heads": target.heads, "tp": tp},
        )


@rule(
    "KV heads and tensor parallel size divide one another",
    "error",
    "read in source",
    "AssertionError",
)
def kv_heads_by_tp(context: ServerContext) -> Iterator[Symptom]:
    target, tp = context.target, context.tp
    if (
        target
        and target.kv_heads
        and not target.latent_dim
        and target.kv_heads % tp
        and tp % target.kv_heads
    ):
        yield Symptom(
            f"{target.kv_heads} KV heads and tensor parallel size {tp}: neither divides the other.",
            f"Use a tp that divides {target.kv_heads} or is a multiple of it.",
        )


@rule(
    "vision heads divide by tensor parallel size, also with --language-model-only",
    "error",
    "seen on a GPU",
    "AssertionError: {heads} is not divisible by {tp}",
)
def vision_heads_by_tp(context: ServerContext) -> Iterator[Symptom]:
    target, tp = context.target, context.tp
    if (
        target
        and target.is_minimax_m3  # other towers are padded, or run data-parallel by themselves
        and target.vision_heads
        and target.vision_heads % tp
        and context.settings.word("mm-encoder-tp-mode") != "data"
    ):
        yield Symptom(
            f"The vision tower's {target.vision_heads} heads cannot be divided by tensor parallel "
            f"size {tp}; its constructor runs even with --language-model-only.",
            f"Use a tp that divides {target.vision_heads}, or data-parallel attention "
            "(tensor parallel size 1).",
            {"heads": target.vision_heads, "tp": tp},
        )


@rule(
    "no more tensor-parallel ranks than experts",
    "error",
    "read in source",
    "Tensor parallel size {tp} is greater than the number of experts {experts}.",
)
def experts_below_tp(context: ServerContext) -> Iterator[Symptom]:
    target, tp = context.target, context.tp
    if target and target.is_moe and tp > target.experts:
        yield Symptom(
            f"Tensor parallel size {tp} is above the {target.experts} experts.",
            f"Use tp {target.experts} or less.",
            {"tp": tp, "experts": target.experts},
        )


@rule(
    "intermediate sizes divide by tensor parallel size",
    "error",
    "read in source",
    "AssertionError: {width} is not divisible by {tp}",
)
def intermediate_by_tp(context: ServerContext) -> Iterator[Symptom]:
    target, tp = context.target, context.tp
    if target is None or tp == 1:
        return
    widths = [("shared-expert", target.shared_intermediate)]
    if target.dense_layers:
        widths.insert(0, ("dense", target.dense_intermediate))
    if target.is_moe and not context.settings.expert_parallel:
        widths.append(("expert", target.expert_intermediate))
    for name, width in widths:
        if width is not None and width % tp:
            yield Symptom(
                f"The {name} intermediate size {width} cannot be divided by tensor "
                f"parallel size {tp}.",
                f"Use a tp that divides {width}.",
                {"width": width, "tp": tp},
            )


@rule(
    "expert parallelism only with experts",
    "error",
    "seen on the CPU engine",
    "Number of experts in the model must be greater than 0 when expert parallelism is enabled.",
)
def ep_without_experts(context: ServerContext) -> Iterator[Symptom]:
    if (
        context.settings.expert_parallel
        and context.target
        and context.target.layers
        and not context.target.is_moe
        and not context.target.puzzling
    ):
        yield Symptom(
            "Expert parallelism is asked for, but the model has no experts.",
            "Drop ep (and dp-attn) from the row: the model is dense.",
        )


@rule("every expert-parallel rank has an expert", "warning", "read in source")
def ep_above_experts(context: ServerContext) -> Iterator[Symptom]:
    target, topology = context.target, context.spec.topology
    ranks = topology.expert_ranks
    if context.settings.expert_parallel and target and target.is_moe and ranks > target.experts:
        yield Symptom(
            f"{ranks} ranks share {target.experts} experts: some would have none.",
            f"Use at most {target.experts} ranks.",
        )


@rule(
    "the server fits on one node",
    "error",
    "read in source",
    "World size ({world}) is larger than the number of available GPUs ({gpus}) in this node.",
)
def gpus_above_node(context: ServerContext) -> Iterator[Symptom]:
    topology = context.spec.topology
    if context.on_cpu:
        return
    here = context.node.gpus if context.node.gpus is not None else context.hardware.gpus_per_node
    if topology.gpus > here:
        where = (
            "this node has"
            if context.node.gpus is not None
            else f"a {context.hardware.key} node has"
        )
        yield Symptom(
            f"The server needs {topology.gpus} GPUs (tp {topology.tp} x pp "
            f"{topology.pp} x pcp {topology.pcp}), {where} {here}.",
            f"Use a row with at most {here} GPUs: servers over several nodes are not supported.",
            {"world": context.tp * topology.pp * topology.pcp, "gpus": here},
        )


@rule("no more pipeline stages than layers", "error", "read in source")
def stages_above_layers(context: ServerContext) -> Iterator[Symptom]:
    target, pp = context.target, context.spec.topology.pp
    if target and target.layers and pp > target.layers:
        yield Symptom(
            f"{pp} pipeline stages for {target.layers} layers.", f"Use pp {target.layers} or less."
        )


@rule(
    "expert load balancing needs a GPU, expert parallelism and several ranks",
    "error",
    "seen on the CPU engine",
)
def eplb_needs_ep(context: ServerContext) -> Iterator[Symptom]:
    settings, topology = context.settings, context.spec.topology
    if not settings.eplb:
        return
    if context.on_cpu:
        yield Symptom(
            "Expert load balancing does not run on the CPU.",
            "Drop enable-eplb.",
            "Expert parallelism load balancing is only supported on CUDA devices or ROCm "
            "devices or XPU devices now.",
        )
    elif not settings.expert_parallel:
        yield Symptom(
            "Expert load balancing without expert parallelism.",
            "Set ep in the row, or drop enable-eplb.",
            "enable_expert_parallel must be True to use EPLB.",
            evidence_class="read in source",
        )
    elif topology.expert_ranks <= 1:
        yield Symptom(
            "Expert load balancing on a single rank.",
            "Drop enable-eplb.",
            "EPLB requires tensor, prefill-context, or data parallelism, but got "
            f"TP={context.tp}, PCP=1, DP=1.",
            evidence_class="read in source",
        )


@rule(
    "expert load balancing needs an even split",
    "error",
    "read in source",
    "EPLB currently only supports even distribution of experts across ranks. Got "
    "{experts} experts and {ranks} EP ranks.",
)
def eplb_even_split(context: ServerContext) -> Iterator[Symptom]:
    target, settings, topology = context.target, context.settings, context.spec.topology
    ranks = topology.expert_ranks
    if settings.eplb and settings.expert_parallel and target and target.is_moe:
        experts = target.experts + settings.redundant_experts
        if experts % ranks:
            yield Symptom(
                f"{experts} experts (redundant ones included) cannot be spread evenly "
                f"over {ranks} ranks.",
                f"Choose num_redundant_experts so that the sum is a multiple of {ranks}.",
                {"experts": experts, "ranks": ranks},
            )


@rule(
    "redundant experts need expert load balancing",
    "error",
    "seen on the CPU engine",
    "num_redundant_experts is set to {count} but EPLB is not enabled. Either "
    "enable EPLB or unset num_redundant_experts.",
)
def redundant_without_eplb(context: ServerContext) -> Iterator[Symptom]:
    count = context.settings.redundant_experts
    if count and not context.settings.eplb:
        yield Symptom(
            f"{count} redundant experts without expert load balancing.",
            "Set enable-eplb, or drop num_redundant_experts.",
            {"count": count},
        )


@rule("decode context parallelism divides its group", "error", "seen on the CPU engine")
def dcp_splits_tp(context: ServerContext) -> Iterator[Symptom]:
    tp, dcp, pcp = context.tp, context.spec.topology.dcp, context.spec.topology.pcp
    if pcp == 1 and tp % dcp:
        yield Symptom(
            f"dcp {dcp} does not divide tensor parallel size {tp}.",
            f"Use a dcp that divides {tp}.",
            f"tp_size={tp} must be divisible by dcp_size={dcp}.",
        )
    elif pcp > 1 and dcp not in (1, pcp, tp * pcp):
        valid = sorted({1, pcp, tp * pcp})
        yield Symptom(
            f"dcp {dcp} does not go with pcp {pcp} and tp {tp}.",
            f"Use a dcp out of {valid}.",
            "When PCP is enabled, DCP must be disabled, span the PCP axis, or span the full TP x "
            f"PCP axis. Got TP={tp}, PCP={pcp}, DCP={dcp}; valid DCP sizes are {valid}.",
        )


@rule(
    "decode context parallelism needs ranks that share a KV head", "error", "seen on the CPU engine"
)
def dcp_needs_spare_heads(context: ServerContext) -> Iterator[Symptom]:
    target, tp, dcp = context.target, context.tp, context.spec.topology.dcp
    if dcp == 1 or target is None or not target.kv_heads or not target.heads or target.latent_dim:
        return
    kv_heads = target.kv_heads
    most = tp // kv_heads
    if tp <= kv_heads:
        yield Symptom(
            f"dcp {dcp} needs a tp above the {kv_heads} KV heads, not {tp}.",
            "Raise tp or drop dcp.",
            f"Decode context parallelism for GQA/MQA requires `--tensor-parallel-size` ({tp}) to "
            f"be greater than the model's total number of KV heads ({kv_heads}). Increase "
            "`--tensor-parallel-size` or set `--decode-context-parallel-size 1`.",
        )
    elif dcp > most:
        yield Symptom(
            f"dcp {dcp} is above tp {tp} / {kv_heads} KV heads = {most}.",
            f"Use dcp {most} or less.",
            f"`--decode-context-parallel-size` ({dcp}) exceeds the maximum supported value "
            f"({most}) for `--tensor-parallel-size` ({tp}) and {kv_heads} model KV heads.",
        )
    elif target.heads // kv_heads % dcp:
        yield Symptom(
            f"dcp {dcp} does not divide the {target.heads // kv_heads} query heads per KV head.",
            "Use another dcp.",
            f"The model's number of query heads per KV head ({target.heads // kv_heads}) must be "
            f"divisible by `--decode-context-parallel-size` ({dcp}) for GQA/MQA.",
        )


def _fuses(context: ServerContext) -> bool:
    if context.tp == 1 or context.hardware.platform != "cuda":
        return False
    passes = mapping(context.settings.part("compilation-config", "pass_config"))
    off = context.settings.eager or passes.get("fuse_allreduce_rms") is False
    return not off or _is_minimax(context)


def _is_minimax(context: ServerContext) -> bool:
    return context.target is not None and context.target.is_minimax_m3


@rule(
    "NVLink multicast for the all-reduce that vLLM fuses with the norm",
    "warning",
    "seen on a GPU",
    "Worker failed with error 'CUDA error: an illegal memory access was encountered",
    outcome_unknown=True,
)
def all_reduce_multicast(context: ServerContext) -> Iterator[Symptom]:
    """vLLM fuses the all-reduce of tensor-parallel ranks with the norm: by a compiler pass, in
    MiniMax-M3 by the model's own code. FlashInfer's kernel stores through a multicast address,
    which is 0 where PyTorch's symmetric memory has none. Seen with vLLM 0.26 on two and four H100s,
    with MiniMax-M3 and a plain Llama; 0.32 looks at the address and takes another backend."""
    if not _fuses(context) or context.node.multicast is not False:
        return
    if context.settings.environment.get(_ALL_REDUCE_BACKEND, "auto") == "trtllm":
        return
    engine = context.engine
    if engine is not None and engine >= _LOOKS_FOR_MULTICAST:
        return
    yield Symptom(
        "NVLink multicast is off on this host (TORCH_SYMM_MEM_DISABLE_MULTICAST), and the "
        "all-reduce that vLLM fuses with the norm writes through it: vLLM 0.26 dies in its "
        "profiling run, 0.32 falls back, in between we have not looked.",
        f"Set env {_ALL_REDUCE_BACKEND}: trtllm (compiled at the first start, which takes minutes)"
        + (
            "."
            if _is_minimax(context)
            else ", or compilation-config.pass_config.fuse_allreduce_rms: false."
        ),
        severity="warning" if engine is None else "error",
    )


@rule("time to compile the fused all-reduce at the first start", "note", "seen on a GPU")
def all_reduce_compiles(context: ServerContext) -> Iterator[Symptom]:
    """Seen with 0.26.0 on two H100s: ranks say nothing after "Using flashinfer allreduce backend:
    trtllm" while nvcc compiles; one file alone was not done after 170 s of a core that had nothing
    else to do. With the library in FlashInfer's folder of prebuilt kernels six servers side by side
    were ready after 98 to 121 s, and one alone after 61 s."""
    if not _fuses(context) or context.settings.environment.get(_ALL_REDUCE_BACKEND) != "trtllm":
        return
    yield Symptom(
        "At its first start on a host FlashInfer compiles the fused all-reduce with nvcc: that "
        "took more than five minutes on a host with two H100s, without a line in the log.",
        "Leave --gpubench-start-timeout at its hour, or install flashinfer-jit-cache (with the "
        "kernel compiled beforehand the same servers were ready after 61 to 121 s).",
    )


RULES = rules_in(globals())
