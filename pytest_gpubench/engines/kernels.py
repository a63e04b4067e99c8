"""Which kernels an engine must have chosen, given model, GPU and recipe: what nobody writes down and everybody relies on.

Only choices that have no alternative are listed, so that another one means another code path than the recipe is about.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.engines.engine_facts import EngineFacts
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.specs import ServerSpec

_M3 = "MiniMaxM3Sparse"
_CAPTURE_STEP = 16
"""Between the larger sizes that vLLM captures: a limit that is none of them is rounded down."""


def kernel_choices(spec: ServerSpec, facts: EngineFacts) -> Iterator[tuple[str, object, object]]:
    """(name, what it must be, what the engine said or None) for every choice that follows from model, GPU and recipe."""
    yield from _captures(spec, facts)
    hardware = HARDWARE.get(spec.hardware)
    if hardware is None or hardware.platform != "cuda" or facts.device not in (None, "cuda"):
        return
    hopper = hardware.compute_capability == 90
    if hopper and any(name.startswith(_M3) for name in facts.architectures):
        yield "sparse attention", "Triton", facts.other_backends.get("sparse_attention")
    if hopper and facts.quantization == "mxfp8":
        experts = "moe-backend" not in spec.serve and "moe" in facts.other_backends
        if experts:
            yield "MXFP8 experts", "MARLIN", facts.other_backends.get("moe")
        if "linear-backend" not in spec.serve:
            yield "MXFP8 matrices", "MarlinMxfp8LinearKernel", facts.other_backends.get("linear")


def _captures(spec: ServerSpec, facts: EngineFacts) -> Iterator[tuple[str, object, object]]:
    limit = spec.serve.get("max-cudagraph-capture-size")
    if not isinstance(limit, int) or facts.enforce_eager or facts.device == "cpu":
        return
    largest = max(facts.capture_sizes, default=None)
    if largest is not None and largest <= limit < largest + _CAPTURE_STEP:
        largest = limit
    yield "largest captured batch", limit, largest
