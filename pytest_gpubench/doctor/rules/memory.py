"""Rules about memory. A rule that stops a launch looks at the optimistic estimate: nothing but
weights beside the KV cache."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.doctor.context import ServerContext, Symptom, rule, rules_in
from pytest_gpubench.doctor.memory_estimate import GIB

_THIN = 0.05


@rule(
    "gpu-memory-utilization is a fraction",
    "error",
    "seen on the CPU engine",
    "Input should be {sense}",
)
def utilization_range(context: ServerContext) -> Iterator[Symptom]:
    value = context.settings.utilization
    if not 0 < value <= 1:
        sense = "less than or equal to 1" if value > 1 else "greater than 0"
        yield Symptom(
            f"gpu-memory-utilization is {value}.",
            "Use a fraction above 0 and up to 1.",
            {"sense": sense},
        )


@rule(
    "the GPUs are free enough",
    "error",
    "read in source",
    "Free memory on device cuda:0 ({free}/{total} GiB) on startup is less than desired GPU "
    "memory utilization ({util}, {wanted} GiB).",
)
def free_memory(context: ServerContext) -> Iterator[Symptom]:
    free, total = context.node.free_vram_gib, context.node.vram_gib or context.hardware.vram_gib
    wanted = total * context.settings.utilization
    if free is not None and not context.on_cpu and free < wanted:
        yield Symptom(
            f"{free:.1f} of {total:.1f} GiB are free on the fullest GPU, "
            f"gpu-memory-utilization asks for {wanted:.1f}.",
            "Free the GPU, or lower gpu-memory-utilization.",
            {
                "free": f"{free:.2f}",
                "total": f"{total:.2f}",
                "util": context.settings.utilization,
                "wanted": f"{wanted:.2f}",
            },
        )


@rule("the weights leave room", "error", "read in source")
def weights_above_memory(context: ServerContext) -> Iterator[Symptom]:
    memory, least = context.memory, context.least_weights_gib
    if context.on_cpu or (memory is None and least is None):
        return
    total = context.node.vram_gib or context.hardware.vram_gib
    budget = total * context.settings.utilization
    loaded = memory.loaded_gib if memory is not None else 0.0
    if least is not None:  # nothing is stopped that might fit
        loaded = least + (memory.draft_gib if memory is not None else 0.0)
    elif memory is None or memory.kv_gib_at_most > 0:
        return
    if loaded < budget:
        return
    says = (
        "torch.OutOfMemoryError: CUDA out of memory."
        if loaded > total
        else (
            "No available memory for the cache blocks. Try increasing "
            "`gpu_memory_utilization` when initializing the engine."
        )
    )
    yield Symptom(
        f"About {loaded:.1f} GiB of weights per GPU, vLLM may use {budget:.1f} GiB.",
        "Use more GPUs, a smaller format, or a higher gpu-memory-utilization.",
        says,
    )


@rule(
    "kv-cache-memory-bytes that the GPU has",
    "error",
    "read in source",
    "torch.OutOfMemoryError: CUDA out of memory.",
)
def cache_above_memory(context: ServerContext) -> Iterator[Symptom]:
    memory = context.memory
    if memory is None or context.on_cpu or not context.settings.flags.get("kv-cache-memory-bytes"):
        return
    if memory.loaded_gib + memory.kv_gib > memory.total_gib:
        yield Symptom(
            f"kv-cache-memory-bytes asks for {memory.kv_gib:.1f} GiB beside "
            f"{memory.loaded_gib:.1f} GiB of weights, the GPU has {memory.total_gib:.1f} GiB.",
            "Lower kv-cache-memory-bytes, or leave it out: gpu-memory-utilization then decides.",
        )


@rule(
    "the KV cache holds one request of max-model-len",
    "error",
    "read in source",
    "To serve at least one request with the model's max seq len ({length}), ({needed} GiB KV "
    "cache is needed, which is larger than the available KV cache memory ({left} GiB).",
)
def cache_below_one_request(context: ServerContext) -> Iterator[Symptom]:
    memory, length = context.memory, context.settings.max_model_len
    if memory is None or length is None or memory.kv_gib_at_most <= 0 or not memory.exact_kv:
        return
    if memory.concurrency(length, at_most=True) < 1:
        needed = memory.kv_bytes_per_token * length / memory.context_ranks / GIB
        yield Symptom(
            f"One request of {length} tokens needs {needed:.1f} GiB of KV cache, at "
            f"most {memory.kv_gib_at_most:.1f} GiB are left.",
            "Lower max-model-len, use more GPUs, or an fp8 KV cache.",
            {"length": length, "needed": f"{needed:.2f}", "left": f"{memory.kv_gib_at_most:.2f}"},
        )


@rule(
    "more than 5% of the memory is left for the KV cache",
    "warning",
    "read in source",
    "No available memory for the cache blocks.",
)
def thin_memory(context: ServerContext) -> Iterator[Symptom]:
    memory = context.memory
    if memory is None or context.on_cpu or memory.kv_gib_at_most <= 0:
        return
    if memory.kv_gib < _THIN * memory.budget_gib:
        yield Symptom(
            f"Beside {memory.loaded_gib:.1f} GiB of weights and about {memory.allowance_gib:.1f} "
            f"GiB for the engine, {max(memory.kv_gib, 0.0):.1f} of {memory.budget_gib:.1f} GiB are "
            "left for the KV cache: the start may fail.",
            "Raise gpu-memory-utilization, lower max-num-batched-tokens, or use more GPUs.",
        )


@rule("the KV cache holds the requests in flight", "warning", "read in source")
def cache_below_concurrency(context: ServerContext) -> Iterator[Symptom]:
    memory = context.memory
    if memory is None or memory.kv_gib <= 0 or not memory.exact_kv:
        return
    crowded = []
    for case in context.cases:
        tokens = case.workload.isl + case.workload.osl
        if memory.concurrency(tokens) < context.conc_per_rank(case):
            crowded.append((case, memory.concurrency(tokens)))
    if crowded:
        worst, fits = min(crowded, key=lambda item: item[1] / context.conc_per_rank(item[0]))
        yield Symptom(
            f"The KV cache holds about {fits:.0f} requests of "
            f"{worst.workload.isl + worst.workload.osl} tokens per data-parallel "
            f"rank, {context.conc_per_rank(worst)} are in flight: some may be preempted or wait.",
            "Read preemptions and the queue in the result; use more GPUs, an fp8 KV "
            "cache, or a lower concurrency.",
            cases=tuple(case.id for case, _ in crowded),
        )


@rule("weights and cache fit into main memory", "error", "read in source")
def cpu_memory(context: ServerContext) -> Iterator[Symptom]:
    memory, available = context.memory, context.node.memory_gib
    if memory is None or not context.on_cpu or available is None:
        return
    ranks = context.spec.topology.gpus
    needed = (memory.loaded_gib + memory.kv_gib) * ranks
    if needed > available:
        yield Symptom(
            f"Weights and VLLM_CPU_KVCACHE_SPACE take about {needed:.1f} GiB, the "
            f"process may use {available:.1f} GiB.",
            "Lower VLLM_CPU_KVCACHE_SPACE.",
        )


@rule("the CPU engine's cache has a size", "warning", "read in source")
def cpu_cache_not_set(context: ServerContext) -> Iterator[Symptom]:
    flags = context.settings.flags
    sized = (
        "VLLM_CPU_KVCACHE_SPACE" in context.settings.environment or "kv-cache-memory-bytes" in flags
    )
    if context.on_cpu and not sized and "gpu-memory-utilization" not in flags:
        yield Symptom(
            "Without VLLM_CPU_KVCACHE_SPACE the CPU engine reserves 92% of the "
            "machine's memory for its cache.",
            "Set env.VLLM_CPU_KVCACHE_SPACE to a few GiB.",
        )


RULES = rules_in(globals())
