"""Result folders as the plugin writes them, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_gpubench.report.records import SCHEMA_VERSION, plain

HOST = {
    "hostname": "node1",
    "driver": "570.1",
    "cpu": {"model": "AMD EPYC"},
    "gpus": [{"index": 0, "name": "NVIDIA H100 80GB HBM3"}],
}


def case_record(
    server: str = "tiny-bf16-h100-vllm-tp1",
    *,
    recipe: str = "tiny-bf16-h100-vllm",
    isl: int = 1024,
    osl: int = 1024,
    conc: int = 4,
    index: int = 1,
    metrics: Mapping[str, float] | None = None,
    status: str | None = "PASS",
    failure: Mapping[str, Any] | None = None,
    minute: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A case's record as plain data."""
    values = (
        {"output_tput": 100.0, "output_tput_per_gpu": 100.0, "ttft_p50": 0.1, "tpot_p50": 0.01}
        if metrics is None
        else metrics
    )
    hardware = recipe.split("-")[2]
    label = f"{isl // 1024}k{osl // 1024}k-c{conc}" if isl % 1024 == 0 else f"{isl}x{osl}-c{conc}"
    record = {
        "schema": SCHEMA_VERSION,
        "kind": "case",
        "case": f"{server}:{label}",
        "recipe": recipe,
        "tags": [*server.split("-"), *label.split("-")],
        "server": server,
        "server_per": "parallelism",
        "launch": {"server": server, "index": index, "arm": "", "reserve": False},
        "started": f"2026-01-01T00:{minute:02}:00+00:00",
        "finished": f"2026-01-01T00:{minute:02}:30+00:00",
        "fingerprint": "0123456789abcdef",
        "hardware": hardware,
        "topology": {"tp": 1, "pp": 1, "pcp": 1, "dcp": 1, "ep": 1, "dp_attn": False, "gpus": 1},
        "workload": {"isl": isl, "osl": osl, "conc": conc, "num_prompts": 4, "num_warmups": 0},
        "host": HOST,
        "versions": {"pytest-gpubench": "0.1.0"},
        "git": {"commit": "c" * 40, "dirty": False},
        "engine": {"version": "0.26.0"},
        "metrics": values if failure is None else None,
        "measurement": None if failure else measurement(values),
        "verdict": {"status": status, "reason": "as declared"} if status and not failure else None,
        "failure": failure,
    }
    return record | more


def measurement(metrics: Mapping[str, float]) -> dict[str, Any]:
    """What a record keeps of a measurement."""
    totals = {
        "requests": 4,
        "failed": 0,
        "prompt_tokens": 4096,
        "output_tokens": 4096,
        "output_tokens_with_warmup": 4096,
        "engine_output_tokens": 4096,
    }
    return {
        "metrics": dict(metrics),
        "totals": totals,
        "problems": [],
        "flags": [],
        "drafting": None,
    }


def init_record(
    server: str = "tiny-bf16-h100-vllm-tp1",
    *,
    index: int = 1,
    failure: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A start's record as plain data."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": "engine-init",
        "server": server,
        "launch": {"server": server, "index": index, "arm": "", "reserve": False},
        "finished": "2026-01-01T00:00:00+00:00",
        "failure": failure,
        "host": HOST,
        "versions": {"pytest-gpubench": "0.1.0"},
        "git": None,
        "engine": None if failure else {"version": "0.26.0"},
        "argv": None if failure else ["vllm", "serve"],
        "env": None if failure else {"HF_HUB_OFFLINE": "1"},
        "phases": None if failure else {"imports": 2.0, "ready": 30.0},
    }


FAILURE = {
    "cause": "node-lost",
    "failure_class": "infrastructure",
    "summary": "the node went away",
    "evidence": [],
    "remedy": "",
}


def write(run: Path, record: Mapping[str, Any]) -> Path:
    """Put a record where the plugin would."""
    launch = record["launch"]
    label = f"{launch['arm']}{launch['index']}" if launch["arm"] else f"launch-{launch['index']}"
    folder = "init" if record["kind"] == "engine-init" else record["case"].rpartition(":")[2]
    path: Path = run / record["server"] / folder / f"{label}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(record), indent=1))
    return path
