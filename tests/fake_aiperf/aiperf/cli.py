"""The command line of AIPerf as far as it is used: sends requests, writes what AIPerf 0.13 writes.

Without a port in ``--url`` nothing is sent, and times are made up. GPUBENCH_FAKE_AIPERF names what
goes wrong.
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

FAULTS = {
    "refuse": "knows a flag not, exit code 1",
    "tokenizer": "cannot load the tokenizer, exit code 1, the reason in a box",
    "killed": "ends by a signal",
    "stall": "stops in the middle, with a child, and says every 50 ms that it lives",
    "nothing": "measures no request",
    "no-summary": "does not write its summary",
    "not-json": "writes something else for its summary",
    "cut-summary": "writes half of its summary",
    "missing-key": "has no time to first token in its summary",
    "other-unit": "tells the time to first token in seconds",
    "cut-records": "writes half of its last record",
    "lost-record": "does not write its last record",
    "other-record": "writes records without the number of the turn",
    "failed": "the second measured request fails with status 503",
    "overflow": "the second measured request is turn 30, and longer than the context",
    "ends-early": "says that one session was not finished",
    "cut-off": "cuts two requests off when the time is over",
    "unsaid": "sends one request more than it writes down",
    "late": "its worker was late",
    "tell-key": "writes the server's key into its table of numbers",
    "tell-key-broken": "likewise, and something else for its summary",
}
FAULT = os.environ.get("GPUBENCH_FAKE_AIPERF", "")
CAPTURED = Path(__file__).parent / "captured"
LINE = json.loads((CAPTURED / "profile_export.jsonl").read_text().splitlines()[-1])
SUMMARY = json.loads((CAPTURED / "profile_export_aiperf.json").read_text())


def box(title: str, text: str) -> None:
    print(f"╭─ {title} ─{'─' * 40}╮")
    for line in text.splitlines():
        print(f"│ {line:60} │")
    print(f"╰─{'─' * 60}─╯", flush=True)


def options(words: list[str]) -> dict[str, str]:
    assert words[0] == "profile"
    pairs = (word.removeprefix("--").partition("=") for word in words[1:])
    return {name: value for name, _, value in pairs}


class Run:
    """One run of the tool."""

    def __init__(self, told: dict[str, str]) -> None:
        self.told = told
        self.url = urllib.parse.urlsplit(told["url"])
        self.folder = Path(told["output-artifact-dir"])
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        self.lines: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.records = (self.folder / "profile_export.jsonl").open("w")
        self.log = (self.folder / "logs" / "aiperf.log").open("w")
        self.say("system_controller - INFO - Registered Worker (id: 'worker_5eb5ccd0')")
        (self.folder / "inputs.json").write_text('{"data": ["a prompt"]}')

    def say(self, text: str) -> None:
        self.log.write(f"2026-11-29 01:02:25.745 - {text}\n")
        self.log.flush()

    def ask(self, phase: str, number: int) -> dict[str, Any]:
        """One request, as a line of the records."""
        line: dict[str, Any] = copy.deepcopy(LINE)
        tokens = int(self.told.get("osl", 4))
        started = time.time_ns()
        stamps = (
            self.send(tokens)
            if self.url.port
            else [started + 50_000_000 + i * 1_000_000 for i in range(tokens)]
        )
        prompt = self.prompt if self.url.port else 10
        first, last = stamps[0], stamps[-1]
        line["metadata"] |= {
            "session_num": number,
            "x_request_id": str(uuid.uuid4()),
            "conversation_id": f"session_{number:06}",
            "x_correlation_id": str(uuid.uuid4()),
            "turn_index": 0,
            "credit_issued_ns": started - 100_000,
            "request_start_ns": started,
            "request_end_ns": last,
            "benchmark_phase": phase,
        }
        metrics = line["metrics"]
        metrics["time_to_first_token"]["value"] = (first - started) / 1e6
        metrics["request_latency"]["value"] = (last - started) / 1e6
        metrics["inter_chunk_latency"]["value"] = [
            (after - before) / 1e6 for before, after in pairwise(stamps)
        ]
        for name, value in (("prompt", prompt), ("completion", tokens)):
            metrics[f"usage_{name}_tokens"]["value"] = value
        return line

    def send(self, tokens: int) -> list[int]:
        """When the chunks of an answer came."""
        words = " ".join(["word"] * 20) + f" {uuid.uuid4()}"
        body = json.loads(self.told["extra-inputs"]) | {
            "model": self.told["model"],
            "messages": [{"role": "user", "content": words}],
            "max_completion_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"Content-Type": "application/json"}
        if "api-key" in self.told:
            headers["Authorization"] = f"Bearer {self.told['api-key']}"
        connection = http.client.HTTPConnection(str(self.url.hostname), self.url.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        stamps: list[int] = []
        for raw in answer:
            if not raw.startswith(b"data: {"):
                continue
            chunk = json.loads(raw[6:])
            if chunk.get("usage"):
                self.prompt = int(chunk["usage"]["prompt_tokens"])
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                stamps.append(time.time_ns())
        connection.close()
        return stamps

    def keep(self, line: dict[str, Any]) -> None:
        with self.lock:
            self.lines.append(line)
            self.records.write(json.dumps(line, separators=(",", ":")) + "\n")
            self.records.flush()

    def phase(self, phase: str, kind: str, count: int) -> None:
        self.say(f"PhaseRunner - NOTICE - Phase {kind} ({kind}) started | phase_index=0")

        def one(number: int) -> None:
            line = self.ask(phase, number)
            if phase == "profiling":
                line = broken(line, number)
            if FAULT != "lost-record" or number + 1 < count or phase == "warmup":
                self.keep(line)

        with ThreadPoolExecutor(int(self.told.get("concurrency", 1))) as pool:
            list(pool.map(one, range(count)))
        if FAULT == "late" and phase == "profiling":
            for _ in range(200):
                self.say(
                    "worker_5eb5ccd0 - WARNING - Event loop for worker_5eb5ccd0 is taking too long "
                    "to run. Overhead: 312.50ms"
                )
        cut = 2 if FAULT == "cut-off" and phase == "profiling" else 0
        short = 1 if FAULT == "ends-early" and phase == "profiling" else 0
        self.say(
            f"PhaseRunner - NOTICE - Phase {kind} ({kind}) sending complete | sent={count}, "
            f"completed={count}, in_flight=0 | sessions: sent={count}, completed={count}"
            + (" | timeout_triggered=True" if cut else "")
        )
        self.say(
            f"PhaseRunner - NOTICE - Phase {kind} ({kind}) complete | completed={count}, "
            f"cancelled={cut}, errors=0 | sessions: completed={count - short}, cancelled=0 | "
            "elapsed=1.36s"
        )

    def finish(self) -> None:
        self.records.close()
        path = self.folder / "profile_export.jsonl"
        if FAULT == "cut-records":
            text = path.read_text()
            path.write_text(text[: -len(text.splitlines()[-1]) // 2])
        summary = self.folder / "profile_export_aiperf.json"
        text = json.dumps(self.summary(), indent=1)
        if FAULT in ("not-json", "tell-key-broken"):
            text = "<html>"
        if FAULT == "cut-summary":
            text = text[: len(text) // 2]
        if FAULT != "no-summary":
            summary.write_text(text)
        key = self.told.get("api-key", "") if FAULT.startswith("tell-key") else ""
        (self.folder / "profile_export_aiperf.csv").write_text(f"Metric,avg\n{key}\n")

    def summary(self) -> dict[str, Any]:
        """What AIPerf would say of the measured requests that did not fail."""
        lines = [it for it in self.lines if it["metadata"]["benchmark_phase"] == "profiling"]
        good = [it for it in lines if "error" not in it]
        extra = 1 if FAULT == "lost-record" else 0
        summary: dict[str, Any] = copy.deepcopy(SUMMARY)
        for name in ("time_to_first_token", "request_latency", "inter_token_latency"):
            if good:
                values = sorted(times(it)[name] for it in good)
                stats = {"avg": sum(values) / len(values), "min": values[0], "max": values[-1]}
                stats |= {
                    f"p{at}": values[min(len(values) - 1, len(values) * at // 100)]
                    for at in (50, 90, 99)
                }
                summary[name] |= stats
        starts = [it["metadata"]["request_start_ns"] for it in good]
        ends = [it["metadata"]["request_end_ns"] for it in good]
        seconds = (max(ends) - min(starts)) / 1e9 if good else 1.0
        tokens = {
            name: sum(it["metrics"][f"usage_{name}_tokens"]["value"] for it in good)
            for name in ("prompt", "completion")
        }
        summary["benchmark_duration"]["avg"] = seconds
        summary["request_throughput"]["avg"] = len(good) / seconds
        summary["output_token_throughput"]["avg"] = tokens["completion"] / seconds
        summary["input_token_throughput"]["avg"] = tokens["prompt"] / seconds
        summary["total_token_throughput"]["avg"] = sum(tokens.values()) / seconds
        summary["request_count"]["avg"] = float(len(good) + extra)
        if len(lines) > len(good):
            summary["error_request_count"] = {
                "unit": "requests",
                "avg": float(len(lines) - len(good)),
            }
        if FAULT == "missing-key":
            del summary["time_to_first_token"]
        if FAULT == "other-unit":
            summary["time_to_first_token"]["unit"] = "sec"
        return summary


def times(line: dict[str, Any]) -> dict[str, float]:
    metrics = line["metrics"]
    tokens = max(2, metrics["usage_completion_tokens"]["value"])
    first, whole = metrics["time_to_first_token"]["value"], metrics["request_latency"]["value"]
    return {
        "time_to_first_token": first,
        "request_latency": whole,
        "inter_token_latency": (whole - first) / (tokens - 1),
    }


def broken(line: dict[str, Any], number: int) -> dict[str, Any]:
    """A measured request, with what goes wrong with it."""
    if FAULT == "other-record":
        del line["metadata"]["turn_index"]
    if number != 1:
        return line
    if FAULT == "failed":
        line |= {"metrics": {}, "error": {"code": 503, "type": "HTTP", "message": "no place"}}
    if FAULT == "overflow":
        line["metadata"]["turn_index"] = 29
        told = "This model's maximum context length is 2048 tokens. However, you requested 2100."
        message = json.dumps({"error": {"message": told, "code": 400}})
        line |= {"metrics": {}, "error": {"code": 400, "type": "HTTP", "message": message}}
    return line


def app() -> None:
    """The entry point, as AIPerf's."""
    told = options(sys.argv[1:])
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "GPUBENCH_TOOL_API_KEY" not in os.environ
    if FAULT == "refuse":
        box("Error", "Unknown option: --no-such-flag. Did you mean --search-sla?")
        sys.exit(1)
    if FAULT == "tokenizer":
        print("01:08:15.946 ERROR    Failed to handle command profile_configure (service.py:522)")
        box(
            "AIPerf System Exit Errors",
            "• Service: dataset_manager\n   Error: CommandError\n   Reason: Failed to load tokenizer\n           'no/such'\n",
        )
        print("Log File: aiperf.log")
        sys.exit(1)
    if FAULT == "killed":
        os.kill(os.getpid(), 9)
    run = Run(told)
    warmups, requests = int(told.get("warmup-request-count", 0)), int(told.get("request-count", 2))
    if warmups:
        run.phase("warmup", "warmup", warmups)
    if FAULT == "stall":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        run.phase("profiling", "profiling", 2)
        while True:
            print("01:02:30 INFO     alive", flush=True)
            time.sleep(0.05)
    if FAULT == "unsaid":
        run.ask("profiling", 99)
    run.phase("profiling", "profiling", 0 if FAULT == "nothing" else requests)
    run.finish()


if __name__ == "__main__":
    app()
