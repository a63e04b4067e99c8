"""Workloads of vllm-project/perf-eval: one model on one kind of GPU, and what is measured of it.

Read from its README.md and lib/parse_workload.py (bbd3fc7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import mapping
from pytest_gpubench.recipes.importing.foreign_server import ForeignServer, server_keys
from pytest_gpubench.recipes.importing.imported import (
    Imported,
    Lengths,
    Origin,
    Wishes,
    body_of,
    labels,
    measured,
    precision_in,
)
from pytest_gpubench.recipes.importing.makers import quantized

_ENGINE = "vllm"
_HOSTS = ("HF_HOME",)
"""Variables that say where something lies on their machines."""
_CHAT = "openai-chat"
_OTHERS = {
    "lm_eval": "accuracy tasks, which no case measures",
    "bfcl": "function-calling tasks, which no case measures",
}


def is_workload(document: Any) -> bool:
    """Whether a parsed YAML file is such a workload."""
    return "gpu" in mapping(document) and isinstance(document.get("vllm"), dict)


def recipe_of_workload(document: Mapping[str, Any], gpu_profiles: Any, wishes: Wishes) -> Imported:
    """A recipe of a workload.

    Args:
        gpu_profiles: parsed lib/gpu_profiles.yaml, which has variables of every server on a kind
            of GPU; None: it is not at hand.

    Raises:
        GpubenchError: if it names no model, or no recipe can say its server.
    """
    vllm, gpu = document["vllm"], str(document["gpu"])
    model = str(vllm.get("model") or "")
    if not model:
        raise GpubenchError("the workload names no model (vllm.model)")
    lost = [f"{name}: {why}" for name, why in _OTHERS.items() if document.get(name)]
    profile = gpu_profiles.get(gpu) if isinstance(gpu_profiles, dict) else None
    if gpu_profiles is None:
        lost.append(f"gpu {gpu}: variables of lib/gpu_profiles.yaml, which is not at hand")
    given = {**mapping(mapping(profile).get("env")), **mapping(vllm.get("env"))}
    lost += [f"env {name}: where files lie is the machine's" for name in _HOSTS if name in given]
    env = {name: str(value) for name, value in given.items() if name not in _HOSTS}
    words = str(vllm.get("serve_args") or "").split()
    server = ForeignServer(dialect_of(_ENGINE), (model, *words), env, tuple(lost))
    hardware = labels(model, wishes, runner=gpu.lower()).hardware
    keys = server_keys(server, hardware)
    said = str(mapping(mapping(document.get("vllm_bench")).get("metadata")).get("precision") or "")
    precision = precision_in(model) or precision_in(said) or quantized(keys)
    names = labels(model, wishes, runner=gpu.lower(), precision=precision)
    lengths, client, when, unsaid = _measured(document)
    if keys.speculative and client.get("chat-template") == "none":
        client["chat-template"] = "server"
        unsaid.append("vllm_bench: prompts without a chat template, which no draft is measured by")
    return Imported(
        names.name(_ENGINE, drafted=bool(keys.speculative)),
        body_of(
            keys,
            names,
            server.dialect,
            [keys.topology],
            lengths or [measured(wishes, keys, server.dialect)],
            image=vllm.get("image"),
            client=client,
            when=when,
        ),
        (Origin(server),),
        (*keys.lost, *unsaid),
        names.notes,
    )


def _measured(
    document: Mapping[str, Any],
) -> tuple[list[Lengths], dict[str, Any], list[dict[str, Any]], list[str]]:
    """Lengths, the client's keys, those that only hold for some cases, and what is lost."""
    configs = [
        one for one in mapping(document.get("vllm_bench")).get("configs") or () if mapping(one)
    ]
    if not configs:
        return [], {}, [], []
    lengths: list[Lengths] = []
    when: list[dict[str, Any]] = []
    lost: list[str] = []
    backends = {str(config.get("backend") or "openai") for config in configs}
    # Its client sends prompts of exactly the length that is asked for, and ignores the end.
    client: dict[str, Any] = {"range-ratio": 1}
    if backends == {_CHAT}:
        client["api"] = "chat"
    else:
        client |= {"api": "completions", "chat-template": "none"}
        if len(backends) > 1 or "openai" not in backends:
            lost.append(f"vllm_bench backend: {', '.join(sorted(backends))}")
    for config in configs:
        name = f"vllm_bench {config.get('name')}"
        isl, osl = config.get("input_len"), config.get("output_len")
        concs = config.get("max_concurrency")
        concs = concs if isinstance(concs, list) else [concs]
        if not all(type(number) is int and number > 0 for number in (isl, osl, *concs)):
            lost.append(f"{name}: its lengths or concurrencies are no numbers")
            continue
        lengths.append(Lengths(int(isl), int(osl), tuple(dict.fromkeys(concs))))
        args, counts = mapping(config.get("args")), config.get("num_prompts")
        prompts = counts if isinstance(counts, list) else [counts] * len(concs)
        for conc, number in zip(concs, prompts, strict=False):
            said = {
                "prompts-per-conc": _share(number, conc),
                "warmups-per-conc": _share(args.get("num_warmups", 0), conc),
            }
            lost += [f"{name}: {key} at {conc}" for key, share in said.items() if share is None]
            known = {key: share for key, share in said.items() if share is not None}
            condition = f"isl == {isl} and osl == {osl} and conc == {conc}"
            when.append({"if": condition, "client": known})
        lost += [
            f"{name}: {key}" for key in config
            if key in ("speed_bench_dataset_subset", "speed_bench_category")
            and config.get("dataset") == "speed_bench"
        ]  # fmt: skip
        if config.get("dataset", "random") != "random":
            lost.append(f"{name}: dataset {config['dataset']}")
        if config.get("repetitions", 1) != 1:
            lost.append(f"{name}: repetitions, which --gpubench-launches says here")
        lost += [
            f"{name}: args.{key}" for key in args if key not in ("num_warmups", "disable_tqdm")
        ]
    if len({str(part["client"]) for part in when}) == 1:
        client, when = client | when[0]["client"], []
    return lengths, client, when, lost


def _share(number: Any, conc: int) -> int | None:
    """A number of requests per unit of concurrency; None: it is no whole number."""
    whole = type(number) is int and number >= 0 and number % conc == 0
    return number // conc if whole else None
