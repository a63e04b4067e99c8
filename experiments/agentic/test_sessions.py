"""Sessions replayed by our client and by AIPerf, on the same server in the same run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_gpubench import Case, Engine
from pytest_gpubench.demo.models import write_demo_models
from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.load.composer import Composer
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.prompts import Prompt
from pytest_gpubench.load.protocol import LoadPlan, LoadResult
from pytest_gpubench.load.tokenization import TokenCounter
from pytest_gpubench.suite import test_throughput as test_throughput  # collected

T = TypeVar("T")
AIPERF = os.environ.get("AIPERF")
OUT = os.environ.get("SESSIONS_OUT")


@pytest.mark.skipif(not AIPERF or not OUT, reason="AIPERF and SESSIONS_OUT name nothing")
def test_aiperf(engine: Engine, case: Case, tmp_path: Path) -> None:
    """The same sessions, of other words, by our client and through AIPerf; what they and the engine
    say goes to files."""
    assert OUT is not None
    lines = as_messages(compose(engine, case))
    trace = tmp_path / "messages.jsonl"
    trace.write_text("\n".join(map(json.dumps, lines)) + "\n")
    config, folder = tmp_path / "aiperf.yaml", Path(OUT) / case.server
    config.write_text(json.dumps(aiperf_config(engine, case, trace, folder)))
    write_demo_models(tmp_path / "hub")
    again, ours = engine_side(engine, lambda: replayed(engine, case))
    done, theirs = engine_side(engine, lambda: aiperf(engine, config, tmp_path / "hub"))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    summary = {
        "ours": ours,
        "aiperf": theirs,
        "requests": [record.to_json() for record in again.of_phase("measured")],
    }
    (folder / "both.json").write_text(json.dumps(summary))


def engine_side(engine: Engine, run: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """What a run returns, and what the engine has counted meanwhile."""
    before = counted(engine)
    returned = run()
    after = counted(engine)
    return returned, {name: after[name] - before[name] for name in after}


def replayed(engine: Engine, case: Case) -> LoadResult:
    """Once more by our client, without a warm-up, as AIPerf does it."""
    return run_load(plan_of(engine, case, "again"), api_key=engine.api_key)


def aiperf(engine: Engine, config: Path, hub: Path) -> subprocess.CompletedProcess[str]:
    assert AIPERF is not None
    return subprocess.run(
        [AIPERF, "profile", "--config", str(config), "--ui-type", "none", "--no-gpu-telemetry"],
        env={
            **os.environ,
            "OPENAI_API_KEY": engine.api_key,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_CACHE": str(hub),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def aiperf_config(engine: Engine, case: Case, trace: Path, folder: Path) -> dict[str, Any]:
    """The whole run as a file (JSON is YAML), so that no key stands on a command line."""
    endpoint = {
        "url": f"{engine.base_url}/chat/completions",
        "type": "chat",
        "streaming": True,
        "apiKey": "${OPENAI_API_KEY}",
        "useServerTokenCount": True,
        "extra": {"ignore_eos": True, "temperature": 0},
    }
    return {
        "schemaVersion": "2.0",
        "randomSeed": 1,
        "benchmark": {
            "model": engine.served_name,
            "endpoint": endpoint,
            "tokenizer": {"name": "pytest-gpubench/tiny-llama"},
            "dataset": {"type": "file", "path": str(trace), "format": "mooncake_trace"},
            "profiling": {
                "type": "concurrency",
                "concurrency": case.workload.conc,
                "sessions": len({prompt["session_id"] for prompt in lines_of(trace)}),
            },
            "artifacts": {"dir": str(folder), "summary": ["json"], "records": ["jsonl"]},
        },
    }


def lines_of(trace: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in trace.read_text().splitlines()]


def plan_of(engine: Engine, case: Case, salt: str) -> LoadPlan:
    """The case's sessions in words of their own: no run finds another's in the cache."""
    return LoadPlan(
        engine.url,
        engine.served_name,
        replace(case.workload, num_warmups=0),
        salt=salt,
        context=engine.facts.max_model_len,
    )


def compose(engine: Engine, case: Case) -> list[Prompt]:
    plan = plan_of(engine, case, "aiperf")

    async def main() -> list[Prompt]:
        counter = TokenCounter(plan, engine.api_key)
        try:
            _, measured = await Composer(plan, counter).compose(lambda *_: None)
        finally:
            counter.close()
        return measured

    return asyncio.run(main())


def as_messages(prompts: list[Prompt]) -> list[dict[str, Any]]:
    """AIPerf's lines: all messages of each turn. Its file keeps a session's turns together."""
    lines = []
    for prompt in prompts:
        assert prompt.place is not None
        line: dict[str, Any] = {
            "session_id": prompt.place.session,
            "messages": [
                *({"role": role, "content": text} for role, text in prompt.history),
                {"role": "user", "content": prompt.text},
            ],
            "output_length": prompt.osl,
        }
        if prompt.turn:
            line["delay"] = prompt.place.pause * 1000
        lines.append(line)
    return lines


COUNTED = (
    *("prompt_tokens", "generation_tokens", "prefix_cache_hits", "prefix_cache_queries"),
    *("time_to_first_token_seconds", "request_time_per_output_token_seconds"),
    *("e2e_request_latency_seconds",),
)


def counted(engine: Engine) -> dict[str, float]:
    """The engine's counters, and the sums and counts of its own times."""
    page = parse_metrics(engine.scrape())
    names = [f"{name}{end}" for name in COUNTED for end in ("_total", "_sum", "_count")]
    found = {name: page.total(f"vllm:{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}
