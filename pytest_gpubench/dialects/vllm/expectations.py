"""What a recipe asks of a vLLM server, beside what recipes ask of every engine: pure."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from pytest_gpubench.dialects.engine_facts import Check, EngineFacts
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.specs import ServerSpec

_SERVE = (
    ("block-size", "block_size", "block size"),
    ("max-model-len", "max_model_len", "maximum model length"),
    ("enable-prefix-caching", "enable_prefix_caching", "prefix caching"),
    ("dtype", "dtype", "dtype"),
    ("quantization", "quantization", "quantization"),
    ("kv-cache-dtype", "kv_cache_dtype", "KV cache dtype"),
    ("enforce-eager", "enforce_eager", "eager mode"),
    ("attention-backend", "attention_backend", "attention backend"),
    ("api-server-count", "api_servers", "API servers"),
)
_M3 = "MiniMaxM3Sparse"
HUMMING_FIRST = Version("0.32")
"""From which on Humming's kernels stand before Marlin's on Hopper (humming/priority.py)."""
_CAPTURE_STEP = 16
"""Between the larger sizes that vLLM captures: a limit that is none of them is rounded down."""


def checks(spec: ServerSpec, facts: EngineFacts) -> Iterator[Check]:
    """One check per thing that the recipe states or that follows from it."""
    topology = spec.topology
    yield Check("tensor parallel size", topology.tensor_parallel_size, facts.tensor_parallel_size)
    yield Check("data parallel size", topology.dp, facts.data_parallel_size)
    yield Check("pipeline parallel size", topology.pp, facts.pipeline_parallel_size)
    yield Check("expert parallelism", topology.expert_parallel, facts.expert_parallel)
    if topology.dcp > 1 or facts.decode_context_parallel_size is not None:
        yield Check(
            "decode context parallel size", topology.dcp, facts.decode_context_parallel_size
        )
    if topology.pcp > 1 or facts.prefill_context_parallel_size is not None:
        yield Check(
            "prefill context parallel size", topology.pcp, facts.prefill_context_parallel_size
        )
    on_cpu = _on_cpu(spec, facts)
    for key, attribute, name in _SERVE:
        asked = spec.serve.get(key)
        if asked is None or asked == "auto" or (on_cpu and key == "attention-backend"):
            continue
        yield Check(name, asked, getattr(facts, attribute))
    for name, must, chosen in kernel_choices(spec, facts):
        yield Check(name, must, chosen, source="model, GPU and recipe call for")
    yield from _draft_checks(spec, facts, on_cpu)


def _draft_checks(spec: ServerSpec, facts: EngineFacts, on_cpu: bool) -> Iterator[Check]:
    draft = spec.speculative
    running = facts.speculative_method
    if running == "":
        running = "none"
    if draft is None:
        yield Check("speculative decoding", "none", running)
        return
    # The engine has one name for all its MTP variants.
    if running is not None and running.endswith("mtp") and draft.method.endswith("mtp"):
        running = draft.method
    yield Check("speculative method", draft.method, running)
    if running == "none":
        return
    yield Check("speculative tokens", draft.num_speculative_tokens, facts.num_speculative_tokens)
    if on_cpu:
        # The CPU engine has one attention backend and ignores any other wish.
        yield Check("attention backend", "CPU_ATTN", facts.attention_backend)
    elif draft.attention_backend is not None:
        yield Check(
            "draft attention backend", draft.attention_backend, facts.draft_attention_backend
        )


def _on_cpu(spec: ServerSpec, facts: EngineFacts) -> bool:
    if facts.device is not None:
        return facts.device == "cpu"
    hardware = HARDWARE.get(spec.hardware)
    return hardware is not None and hardware.platform == "cpu"


def kernel_choices(spec: ServerSpec, facts: EngineFacts) -> Iterator[tuple[str, object, object]]:
    """(name, what it must be, what the engine said or None) for every choice that follows from
    model, GPU and recipe."""
    yield from _captures(spec, facts)
    hardware = HARDWARE.get(spec.hardware)
    if hardware is None or hardware.platform != "cuda" or facts.device not in (None, "cuda"):
        return
    hopper = hardware.compute_capability == 90
    if hopper and any(name.startswith(_M3) for name in facts.architectures):
        yield "sparse attention", "Triton", facts.other_backends.get("sparse_attention")
    if hopper and facts.quantization == "mxfp8":
        experts, matrices = (facts.other_backends.get(part) for part in ("moe", "linear"))
        kernels = _hopper_mxfp8(facts, str(experts or matrices))
        if "moe-backend" not in spec.serve and experts is not None:
            yield "MXFP8 experts", kernels.upper(), experts
        if "linear-backend" not in spec.serve:
            yield "MXFP8 matrices", f"{kernels}Mxfp8LinearKernel", matrices


def _hopper_mxfp8(facts: EngineFacts, running: str) -> str:
    """Whose kernels vLLM takes there for MXFP8: of a version that cannot be compared either."""
    try:
        return "Humming" if Version(facts.version or "") >= HUMMING_FIRST else "Marlin"
    except InvalidVersion:
        return "Humming" if running.upper().startswith("HUMMING") else "Marlin"


def _captures(spec: ServerSpec, facts: EngineFacts) -> Iterator[tuple[str, object, object]]:
    limit = spec.serve.get("max-cudagraph-capture-size")
    if not isinstance(limit, int) or facts.enforce_eager or facts.device == "cpu":
        return
    largest = max(facts.capture_sizes, default=None)
    if largest is not None and largest <= limit < largest + _CAPTURE_STEP:
        largest = limit
    yield "largest captured batch", limit, largest
