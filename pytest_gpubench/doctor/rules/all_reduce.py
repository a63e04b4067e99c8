"""Rules about the all-reduce of tensor-parallel ranks that vLLM fuses with the norm: by a compiler
pass, in MiniMax-M3 by the model's own code."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from pytest_gpubench.doctor.config_values import mapping
from pytest_gpubench.doctor.context import Rule, ServerContext, Symptom, rule

_BACKEND = "VLLM_FLASHINFER_ALLREDUCE_BACKEND"
_LOOKS_FOR_MULTICAST = Version("0.32")


def _fuses(context: ServerContext) -> bool:
    if context.tp == 1 or context.hardware.platform != "cuda":
        return False
    passes = mapping(context.settings.part("compilation-config", "pass_config"))
    off = context.settings.eager or passes.get("fuse_allreduce_rms") is False
    return not off or _is_minimax(context)


def _is_minimax(context: ServerContext) -> bool:
    return context.target is not None and context.target.is_minimax_m3


@rule(
    "all-reduce-multicast",
    "NVLink multicast for the all-reduce that vLLM fuses with the norm",
    "warning",
    "seen on a GPU",
    "Worker failed with error 'CUDA error: an illegal memory access was encountered",
    outcome_unknown=True,
)
def multicast(context: ServerContext) -> Iterator[Symptom]:
    """FlashInfer's kernel stores through a multicast address, which is 0 where PyTorch's symmetric
    memory has none. Seen with vLLM 0.26 on two and four H100s, with MiniMax-M3 and a plain Llama;
    0.32 looks at the address and takes another backend."""
    if not _fuses(context) or context.node.multicast is not False:
        return
    if context.settings.environment.get(_BACKEND, "auto") == "trtllm":
        return
    engine = context.engine
    if engine is not None and engine >= _LOOKS_FOR_MULTICAST:
        return
    yield Symptom(
        "NVLink multicast is off on this host (TORCH_SYMM_MEM_DISABLE_MULTICAST), and the "
        "all-reduce that vLLM fuses with the norm writes through it: vLLM 0.26 dies in its "
        "profiling run, 0.32 falls back, in between we have not looked.",
        f"Set env {_BACKEND}: trtllm (compiled at the first start, which takes minutes)"
        + (
            "."
            if _is_minimax(context)
            else ", or compilation-config.pass_config.fuse_allreduce_rms: false."
        ),
        severity="warning" if engine is None else "error",
    )


@rule(
    "all-reduce-compiles",
    "time to compile the fused all-reduce at the first start",
    "note",
    "seen on a GPU",
)
def compiles(context: ServerContext) -> Iterator[Symptom]:
    """Seen with 0.26.0 on two H100s: ranks say nothing after "Using flashinfer allreduce backend:
    trtllm" while nvcc compiles; one file alone was not done after 170 s of a core that had nothing
    else to do. With the library in FlashInfer's folder of prebuilt kernels six servers side by side
    were ready after 98 to 121 s, and one alone after 61 s."""
    if not _fuses(context) or context.settings.environment.get(_BACKEND) != "trtllm":
        return
    yield Symptom(
        "At its first start on a host FlashInfer compiles the fused all-reduce with nvcc: that "
        "took more than five minutes on a host with two H100s, without a line in the log.",
        "Leave --gpubench-start-timeout at its hour, or install flashinfer-jit-cache (with the "
        "kernel compiled beforehand the same servers were ready after 61 to 121 s).",
    )


RULES: tuple[Rule, ...] = (multicast, compiles)
