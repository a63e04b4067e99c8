"""Rules about quantized weights."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from pytest_gpubench.dialects.vllm.expectations import HUMMING_FIRST
from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in
from pytest_gpubench.doctor.findings import Severity
from pytest_gpubench.doctor.weight_estimate import DENSE_MLP, SHARED_EXPERT, unquantized_share
from pytest_gpubench.model.frozen import is_whole

_MIN_CAPABILITY: dict[str, int] = {
    "awq": 75,
    "awq_marlin": 75,
    "auto_awq": 75,
    "fp8": 75,
    "fbgemm_fp8": 80,
    "fp_quant": 100,
    "modelopt": 80,
    "modelopt_fp4": 75,
    "modelopt_mxfp8": 80,
    "mxfp8": 80,
    "mxfp4": 80,
    "gpt_oss_mxfp4": 80,
    "experts_int8": 80,
    "gptq": 60,
    "gptq_marlin": 60,
    "auto_gptq": 60,
    "compressed-tensors": 70,
    "quark": 70,
    "torchao": 75,
    "moe_wna16": 70,
}
_BFLOAT16_ONLY = ("mxfp8", "modelopt_mxfp8", "mxfp4", "gpt_oss_mxfp4", "fp_quant")
_HALF = ("float16", "bfloat16", "half")
_UNALIGNED = (
    "The input size is not aligned with the quantized weight shape. This can be caused by too "
    "large tensor parallel size."
)
_NO_BLOCKS = (
    "Weight input_size_per_partition = {width} is not divisible by weight quantization "
    "block_k = {group}."
)
_NO_EXPERT_BLOCKS = (
    "The output_size of gate's and up's weight = {width} is not divisible by weight quantization "
    "block_n = {group}."
)
_REFINES_EXPERTS = Version("0.32")
_MX8 = ("mxfp8", "modelopt_mxfp8")


def _method(context: ServerContext) -> str:
    return (context.settings.quantization or context.checkpoint_quantization).lower()


def _dtype(context: ServerContext) -> str:
    if context.settings.dtype != "auto":
        return context.settings.dtype.removeprefix("torch.")
    return context.target.dtype if context.target else ""


@rule(
    "tensor parallelism that keeps the groups of AWQ weights and the blocks of FP8 weights whole",
    "error",
    "read in source",
)
def quantization_groups(context: ServerContext) -> Iterator[Symptom]:
    """Row-parallel layers are cut across the groups, or blocks, that share a scale."""
    target, tp = context.target, context.tp
    if target is None or target.puzzling or tp < 2:
        return
    method, quant = _method(context), target.quant_config
    awq = "awq" in method and "modelopt" not in method
    blocks = quant.get("weight_block_size")
    if awq:
        group, says = quant.get("group_size", quant.get("q_group_size")), _UNALIGNED
    elif method == "fp8" and isinstance(blocks, list) and len(blocks) == 2:
        group, says = blocks[1], _NO_BLOCKS
    else:
        return
    if not is_whole(group) or group < 2:
        return
    widths: dict[str, tuple[int | None, str]] = {}
    if target.dense_layers and unquantized_share(target, *DENSE_MLP) < 1:
        widths["MLP"] = (target.dense_intermediate, says)
    if target.is_moe and unquantized_share(target, *SHARED_EXPERT) < 1:
        widths["shared expert"] = (target.shared_intermediate or None, says)
    if target.is_moe and not awq and not context.settings.expert_parallel:
        widths["expert"] = (target.expert_intermediate, _NO_EXPERT_BLOCKS)
    for name, (width, sentence) in widths.items():
        if width is None or width % tp or (width // tp) % group == 0:
            continue
        severity = _severity_of_experts(context) if name == "expert" else "error"
        if severity is None:
            continue
        yield Symptom(
            f"Cut over {tp} ranks, the {name}'s intermediate size {width} leaves {width // tp}, "
            f"which the {method} weights' groups of {group} do not divide.",
            f"Use {_fitting(width, group, tp)}, or weights with smaller groups"
            + (", or expert parallelism, which does not cut experts." if name == "expert" else "."),
            sentence.format(width=width // tp, group=group),
            severity=severity,
        )


@rule(
    "quantized weights that this GPU can compute with",
    "error",
    "read in source",
    "The quantization method {method} is not supported for the current GPU. "
    "Minimum capability: {needs}. Current capability: {has}.",
)
def quantization_capability(context: ServerContext) -> Iterator[Symptom]:
    method, has = _method(context), context.hardware.compute_capability
    needs = _MIN_CAPABILITY.get(method, 0)
    if context.hardware.platform == "cuda" and has and has < needs:
        yield Symptom(
            f"{method} weights need compute capability {needs / 10}, "
            f"{context.hardware.key} has {has / 10}.",
            "Use weights of another format on this GPU.",
            {"method": method, "needs": needs, "has": has},
        )


@rule(
    "activation types of the quantization method",
    "error",
    "seen on the CPU engine",
    "torch.{dtype} is not supported for quantization method {method}. Supported "
    "dtypes: [torch.bfloat16]",
)
def quantization_dtype(context: ServerContext) -> Iterator[Symptom]:
    method, dtype = _method(context), _dtype(context)
    if method == "mxfp8" and context.target is not None and not context.target.quantization:
        return  # quantized while loading: another path, which takes float16 as well
    supported = ("bfloat16",) if method in _BFLOAT16_ONLY else _HALF
    knows = method in _MIN_CAPABILITY and method not in ("compressed-tensors", "torchao")
    if knows and dtype and dtype not in supported:
        yield Symptom(
            f"{method} weights work with {' or '.join(supported[:2])} activations, not {dtype}.",
            "Set serve.dtype to bfloat16.",
            {"method": method, "dtype": dtype},
        )


@rule(
    "--quantization agrees with the model",
    "error",
    "seen on the CPU engine",
    "Quantization method specified in the model config ({has}) does not match the quantization "
    "method specified in the `quantization` argument ({asked}).",
)
def quantization_contradiction(context: ServerContext) -> Iterator[Symptom]:
    asked, has = context.settings.quantization, context.checkpoint_quantization
    families = (
        {"awq", "awq_marlin", "auto_awq", "moe_wna16"},
        {"gptq", "gptq_marlin", "auto_gptq", "moe_wna16"},
        {"modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "mxfp8"},
        {"mxfp4", "gpt_oss_mxfp4", "quark"},
        {"fp8", "fbgemm_fp8", "deepseek_v4_fp8"},
    )
    if (
        asked
        and has
        and asked != has
        and asked != "humming"
        and not any({asked, has} <= family for family in families)
    ):
        yield Symptom(
            f"--quantization {asked}, but the model's config.json says {has}.",
            "Leave serve.quantization out: vLLM reads it from the model.",
            {"has": has, "asked": asked},
        )


@rule("MXFP8 experts cut into whole blocks of 32", "error", "read in source")
def mxfp8_blocks(context: ServerContext) -> Iterator[Symptom]:
    target = context.target
    if target is None or not target.is_moe or _method(context) not in _MX8:
        return
    ranks = 1 if context.settings.expert_parallel else context.tp
    if target.hidden is not None and target.hidden % 32:
        yield Symptom(
            f"MXFP8 blocks are 32 wide, the hidden size is {target.hidden}.",
            "This checkpoint cannot be MXFP8.",
            f"MXFP8 MoE requires hidden_size divisible by 32, got {target.hidden}.",
        )
    if target.expert_intermediate is None:
        return
    width, rest = divmod(target.expert_intermediate, ranks)
    if not rest and width % 32:
        yield Symptom(
            f"Cut over {ranks} ranks, an expert's intermediate size "
            f"{target.expert_intermediate} leaves {width}, not n x 32.",
            "Use a smaller tp, or expert parallelism, which does not cut experts.",
            f"MXFP8 MoE requires intermediate_size_per_partition divisible by 32, got {width}.",
        )


def _severity_of_experts(context: ServerContext) -> Severity | None:
    """vLLM 0.32 takes smaller blocks by itself; an engine that we do not know may be older."""
    if context.engine is None:
        return "warning"
    return "error" if context.engine < _REFINES_EXPERTS else None


def _fitting(width: int, group: int, tp: int) -> str:
    fits = max(size for size in range(1, tp) if width % (size * group) == 0 or size == 1)
    return f"tp {fits}" if width % (fits * group) == 0 else "another checkpoint"


@rule("Marlin's hidden size is a multiple of 128", "error", "read in source")
def marlin_hidden_size(context: ServerContext) -> Iterator[Symptom]:
    target = context.target
    asked = context.settings.word("moe-backend")
    if target is None or not target.is_moe or _method(context) not in _MX8:
        return
    if target.hidden is None or target.hidden % 128 == 0:
        return
    if asked == "marlin":
        yield Symptom(
            f"Marlin needs a hidden size that 128 divides, not {target.hidden}.",
            "Drop moe-backend.",
            "No supported MXFP8 expert class for MARLIN: ...",
        )
    elif (
        context.is_family(90)
        and asked in (None, "auto")
        and (context.engine is None or context.engine < HUMMING_FIRST)
    ):
        yield Symptom(
            "On Hopper vLLM before 0.32 runs MXFP8 experts through Marlin, which needs a hidden "
            f"size that 128 divides, not {target.hidden}: it falls back to emulation or finds no "
            "backend.",
            "Use a model whose hidden size is a multiple of 128.",
            "No MXFP8 MoE backends available.",
            severity="warning",
        )


@rule("dummy MXFP8 weights have no scales", "note", "seen on a GPU")
def dummy_mxfp8(context: ServerContext) -> Iterator[Symptom]:
    if (
        context.settings.load_format == "dummy"
        and context.target
        and context.target.quantization in _MX8
    ):
        yield Symptom(
            "Dummy weights leave MXFP8 scales uninitialised: logits may be NaN.",
            "Good for engine start and throughput only; for answers load real weights.",
        )


RULES = rules_in(globals())
