"""Made-up results that look like a real sweep: for volume and layout, never for numbers in
documents."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TOPOLOGIES = {
    "tp8": (8, 1, False),
    "tep8": (8, 8, False),
    "dep8": (8, 8, True),
    "tp4": (4, 1, False),
}
_SPEED = {"h100": 1.0, "h200": 1.25, "b200": 1.9}
_SHAPES = {"1k1k": (1024, 1024), "8k1k": (8192, 1024)}
CONCURRENCIES = (1, 4, 16, 64, 128, 256, 512, 1024, 2048)


def write_results(
    folder: Path,
    cases: int = 200,
    *,
    run: str = "20260901T120000Z-0001",
    seed: int = 1,
    factor: float = 1.0,
    first: int = 0,
) -> int:
    """Write a run folder with this many case records (and the starts of their servers); returns the
    number of files.

    ``factor`` scales throughput, for runs to compare; ``first`` skips cases, for runs to merge.
    """
    chance = random.Random(seed)
    files = 0
    servers: set[str] = set()
    for number, case in enumerate(itertools.islice(_cases(first + cases), first, None)):
        server = case["server"]
        if server not in servers:
            servers.add(server)
            _write(folder / run / server / "init" / "launch-1.json", _init(case, chance))
            files += 1
        _write(
            folder / run / server / case["label"] / "launch-1.json",
            _case(case, number, chance, factor),
        )
        files += 1
    return files


def _cases(count: int) -> Iterator[dict[str, Any]]:
    made = 0
    for variant in range(10_000):
        for shape in _SHAPES:
            for hardware in ("h100", "h200"):
                for spec in ("", "mtp"):
                    for topology in _TOPOLOGIES:
                        for conc in CONCURRENCIES:
                            if made == count:
                                return
                            made += 1
                            words = [
                                "minimaxm3",
                                "fp8",
                                hardware,
                                "vllm",
                                *([spec] if spec else []),
                                *([f"v{variant}"] if variant else []),
                            ]
                            recipe = "-".join(words)
                            server = f"{recipe}-{topology}"
                            label = f"{shape}-c{conc}"
                            yield {
                                "recipe": recipe,
                                "server": server,
                                "label": label,
                                "case": f"{server}:{label}",
                                "hardware": hardware,
                                "spec": spec,
                                "topology": topology,
                                "shape": shape,
                                "conc": conc,
                                "tags": [*words, topology, shape, f"c{conc}"],
                            }


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def _shared(case: dict[str, Any]) -> dict[str, Any]:
    gpu = {
        "index": 0,
        "uuid": "GPU-0",
        "name": f"NVIDIA {case['hardware'].upper()} 80GB HBM3",
        "hardware": case["hardware"],
    }
    return {
        "schema": 1,
        "server": case["server"],
        "launch": {"server": case["server"], "index": 1, "arm": "", "reserve": False},
        "started": "2026-09-01T12:00:00+00:00",
        "finished": "2026-09-01T12:30:00+00:00",
        "failure": None,
        "host": {
            "hostname": "node-7",
            "driver": "580.65.06",
            "gpus": [gpu] * 8,
            "cpu": {"model": "Xeon", "cores": 96},
        },
        "versions": {"pytest-gpubench": "0.1.0", "openai": "3.0.0"},
        "git": {"commit": "5e7310083aa1b2c3d4e5f60718293a4b5c6d7e8f", "dirty": False},
        "argv": [
            "vllm",
            "serve",
            "MiniMaxAI/MiniMax-M3-MXFP8",
            "--tensor-parallel-size",
            "8",
            "--block-size",
            "128",
            "--speculative-config",
            '{"method": "eagle3", "num_speculative_tokens": 3}',
        ],
        "env": {"VLLM_ENGINE_READY_TIMEOUT_S": "3600", "VLLM_API_KEY": "<removed>"},
        "engine": {
            "version": "0.26.0",
            "attention_backend": "FLASH_ATTN",
            "kv_cache_tokens": 1_234_567,
            "speculative_method": "eagle3" if case["spec"] else "",
            "compile_cache": "warm",
            "max_model_len": 2304,
        },
        "phases": {},
        "commits": {"MiniMaxAI/MiniMax-M3-MXFP8": "0" * 40},
        "checks": {
            "deviations": [],
            "unseen": ["draft attention backend"],
            "checked": ["tensor parallel size", "block size"],
        },
    }


def _init(case: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    phases = {
        "process_start": 6.1,
        "imports": 9.4,
        "config": 4.2,
        "weights": chance.uniform(60, 140),
        "compile": chance.uniform(0, 90),
        "kv_cache": 3.0,
        "graph_capture": chance.uniform(8, 30),
    }
    return _shared(case) | {
        "kind": "engine-init",
        "phases": phases | {"ready": sum(phases.values()) * 1.08},
        "spec": {},
    }


def _case(
    case: dict[str, Any], number: int, chance: random.Random, factor: float
) -> dict[str, Any]:
    tp, ep, dp_attn = _TOPOLOGIES[case["topology"]]
    metrics = _metrics(case, tp, chance, factor)
    isl, osl = _SHAPES[case["shape"]]
    spec = bool(case["spec"])
    positions = (
        [share - 0.05 * list(_TOPOLOGIES).index(case["topology"]) for share in (0.78, 0.61, 0.47)]
        if spec
        else []
    )
    measurement = {
        "metrics": metrics,
        "totals": {
            "requests": case["conc"] * 10,
            "failed": 0,
            "prompt_tokens": 10 * isl,
            "output_tokens": 10 * osl,
            "output_tokens_with_warmup": 12 * osl,
            "engine_output_tokens": 12 * osl,
            "preemptions": 0,
            "prefix_cache_hits": 0,
        },
        "problems": [],
        "invalid": [],
        "flags": [
            {
                "code": "few-requests",
                "message": "p99 rests on few requests",
                "metrics": ["ttft_p99"],
                "hidden": ["ttft_p99"],
            }
        ]
        if case["conc"] < 16
        else [],
        "drafting": {
            "drafts": 1000,
            "draft_tokens": 3000,
            "accepted_tokens": 1860,
            "acceptance_per_position": positions,
        }
        if spec
        else None,
        "client_cpu_share": 0.21,
        "started_unix": 1756728000.0,
        "quantiles": _quantiles(metrics),
        "series": _series(case, chance),
        "gpu_series": [
            {"seconds": float(at), "power": 4200 + 400 * chance.random(), "sm_clock": 1980.0}
            for at in range(-4, 120)
        ],
    }
    return _shared(case) | {
        "kind": "case",
        "case": case["case"],
        "recipe": case["recipe"],
        "tags": case["tags"],
        "server_per": "parallelism",
        "fingerprint": f"{number:016x}",
        "hardware": case["hardware"],
        "topology": {"tp": tp, "pp": 1, "pcp": 1, "dcp": 1, "ep": ep, "dp_attn": dp_attn},
        "workload": {
            "isl": isl,
            "osl": osl,
            "conc": case["conc"],
            "num_prompts": case["conc"] * 10,
            "arrival": "closed",
            "request_rate": 0.0,
        },
        "source": "https://recipes.vllm.ai/MiniMaxAI/MiniMax-M3",
        "image": "vllm/vllm-openai:minimax-m3",
        "findings": [],
        "metrics": metrics,
        "measurement": measurement,
        "verdict": _verdict(number, metrics, chance),
    }


def _metrics(
    case: dict[str, Any], gpus: int, chance: random.Random, factor: float
) -> dict[str, float]:
    speed = _SPEED[case["hardware"]] * (1.45 if case["spec"] else 1.0) * factor
    half = {"tp8": 60, "tep8": 130, "dep8": 420, "tp4": 50}[case["topology"]]
    single = (
        {"tp8": 145, "tep8": 120, "dep8": 70, "tp4": 95}[case["topology"]]
        * speed
        * chance.uniform(0.97, 1.03)
    )
    per_user = single / (1 + case["conc"] / half)
    tpot = 1 / per_user
    bend = {"tp8": 1.1, "tep8": 1.04, "dep8": 0.97, "tp4": 1.2}[case["topology"]]
    ttft = (0.08 + 0.0006 * case["conc"] ** bend) * (4 if case["shape"] == "8k1k" else 1) / speed
    isl, osl = _SHAPES[case["shape"]]
    e2e = ttft + tpot * osl
    output = case["conc"] * osl / e2e
    metrics = {
        "output_tput": output,
        "output_tput_per_gpu": output / gpus,
        "input_tput_per_gpu": output * isl / osl / gpus,
        "total_tput_per_gpu": output * (1 + isl / osl) / gpus,
        "request_tput": output / osl,
        "duration": 10 * e2e,
        "interactivity": per_user,
    }
    for name, value in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e), ("icl", tpot)):
        spread = chance.uniform(1.15, 1.6)
        metrics |= {
            f"{name}_mean": value * 1.03,
            f"{name}_p50": value,
            f"{name}_p90": value * spread,
            f"{name}_p99": value * spread**2.2,
        }
    if case["spec"]:
        metrics["acceptance_length"] = chance.uniform(2.6, 2.95)
    return metrics


def _quantiles(metrics: dict[str, float]) -> dict[str, list[float]]:
    found = {}
    for name in ("ttft", "tpot", "e2e"):
        middle, high = metrics[f"{name}_p50"], metrics[f"{name}_p99"]
        found[name] = [
            round(middle * (high / middle) ** ((step - 10) / 9.8 * abs((step - 10) / 9.8)), 7)
            for step in range(21)
        ]
    return found


def _series(case: dict[str, Any], chance: random.Random) -> list[dict[str, float]]:
    points = []
    for second in range(-4, 120):
        running = (
            case["conc"] * min(1.0, (second + 5) / 8) * (1 if second < 110 else (120 - second) / 10)
        )
        points.append(
            {
                "seconds": float(second),
                "running": round(running),
                "waiting": round(max(0, 20 - second) * chance.random()),
                "kv_cache_usage": round(
                    0.6 * running / (case["conc"] + 40) + 0.02 * math.sin(second), 3
                )
                + 0.03,
                "preemptions": 0.0,
                "generated_tokens": 1000.0 * second,
            }
        )
    return points


def _verdict(number: int, metrics: dict[str, float], chance: random.Random) -> dict[str, Any]:
    status = {3: "FAIL", 17: "INCONCLUSIVE", 40: "INVALID"}.get(
        number % 60, "PASS" if number % 4 else "UNGATED"
    )
    if status == "UNGATED":
        return {
            "status": status,
            "reason": "no baseline",
            "remedy": "record one with --gpubench-update-baselines",
        }
    if status == "INVALID":
        return {
            "status": status,
            "reason": "tokens received differ from the engine's counter",
            "remedy": "find who else used the server",
        }
    change = {"FAIL": -0.098, "INCONCLUSIVE": -0.045}.get(status, chance.uniform(-0.02, 0.02))
    now, width = metrics["output_tput_per_gpu"], 0.021 if status != "INCONCLUSIVE" else 0.05
    low, high = change - width, change + width
    reason = {
        "FAIL": (
            f"output_tput_per_gpu fell by {-change * 100:.1f}% against the baseline, tolerance 5%"
        ),
        "INCONCLUSIVE": "output_tput_per_gpu: the interval straddles the tolerance of 5%",
    }.get(status, "output_tput_per_gpu within tolerance")
    metric = {
        "metric": "output_tput_per_gpu",
        "status": status,
        "code": "x",
        "reason": reason,
        "remedy": "",
        "against": "baseline",
        "change": {
            "before": now / (1 + change),
            "now": now,
            "estimate": change,
            "low": low,
            "high": high,
            "spread": 0.008,
            "launches_before": 5,
            "launches_now": 1,
            "detectable": 0.04,
        },
        "tolerance": 0.05,
        "improved": False,
    }
    return {
        "status": status,
        "reason": reason,
        "remedy": "",
        "metrics": [metric],
        "notes": [],
        "wants_launch": False,
        "section": "",
    }
