"""How SGLang writes its log, and what it dies of.

``[2026-11-28 04:16:52 TP0] text``: no level, ranks where there are several. What a scheduler dies
of follows "Scheduler hit an exception", without prefixes; then a SIGQUIT ends the others, after up
to 65 s of waiting for core dumps.
"""

from __future__ import annotations

import contextlib
import re

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.engine_log import (
    CRASHES,
    GPU_MEMORY_FOREIGN,
    MAX_LINE,
    OUT_OF_MEMORY,
    WRONG_ARGUMENT,
    Cause,
    EngineLog,
    LogLine,
    amount_of,
    cause,
    count_of,
    refused_by,
)
from pytest_gpubench.dialects.shared_causes import SHARED_CAUSES
from pytest_gpubench.model.frozen import FrozenMap

_LINE = re.compile(
    r"\[\d{4}-(?P<time>\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)?(?: (?P<rank>[A-Z0-9_ ]+))?\] ?"
)
_COLOUR = re.compile(r"\x1b?\[[0-9;]*m")
_EXCEPTION = re.compile(r"\w+ hit an exception: (?=Traceback)")
_ROOT = " [of a scheduler]"
"""Marks the header of the traceback of a part that died."""


def parse_line(raw: str) -> LogLine:
    """Take a raw line apart; never fails."""
    line = _COLOUR.sub("", raw[:MAX_LINE].rstrip("\r\n"))
    head = _LINE.match(line)
    if head is None:
        return LogLine("", None, "", "", line)
    text = line[head.end() :]
    if _EXCEPTION.match(text):
        # The traceback's own lines have neither rank nor time: the header must belong to them.
        return LogLine("", None, "", "", _EXCEPTION.sub("", text, count=1) + _ROOT)
    return LogLine((head["rank"] or "").replace(" ", "_"), None, "", head["time"], text)


CAUSES: tuple[Cause, ...] = (
    GPU_MEMORY_FOREIGN,
    cause("kv-cache-too-small", "recipe",
        r"Not enough memory\. Please try to increase --mem-fraction-static"
        r"|(?:or increase|Raise) --mem-fraction-static|hybrid .* state cache|Hybrid .* state cache",
        "The KV cache does not fit beside the weights.",
        "Raise mem-fraction-static, lower context-length or max-running-requests, or use more "
        "GPUs."),
    cause("gpu-memory-taken", "infrastructure", r"memory capacity is unbalanced",
        "One GPU has less free memory than another: part of it is taken.",
        "Find the other process (nvidia-smi), end it or wait until its memory is free."),
    cause("worker-hangs", "engine", r"watchdog timeout \((?!.*soft=True)",
        "A scheduler hangs: one batch took longer than watchdog-timeout.",
        "Look in the log for what the ranks wait for; try another attention or all-reduce "
        "backend, or raise watchdog-timeout where kernels are compiled meanwhile."),
    cause("out-of-memory-capture", "recipe", OUT_OF_MEMORY,
        "The GPU ran out of memory while CUDA graphs were captured.",
        "Lower mem-fraction-static or cuda-graph-max-bs-decode.",
        frames=r"cuda_graph_runner|capture"),
    cause("out-of-memory-weights", "recipe", OUT_OF_MEMORY,
        "The GPU ran out of memory while the weights were loaded.",
        "Use more GPUs (a larger TP or EP), a smaller precision, or free the GPU.",
        frames=r"load_model|load_weights|create_weights|process_weights"),
    cause("draft-tapped-layers", "recipe",
        r"size of tensor a \(\d+\) must match the size of tensor b",
        "The draft takes another number of the target's layers than the engine taps.",
        "Give the draft's config.json an eagle_config with eagle_aux_hidden_state_layer_ids, "
        "counted one lower than vLLM does.",
        frames=r"speculative/eagle|draft_hidden_states|llama_eagle3"),
    cause("parallel-size", "recipe", r"^AssertionError:?$",
        "A size of the model cannot be divided by the parallel size.",
        "Choose a TP (or DP) size that divides heads, experts and widths of the model, draft "
        "included.",
        frames=r"\n\s*assert [^\n]*(?:tp|dp|world)_size[^\n]*(?:\n[ ~^]*)*\Z"),
    cause("unsupported-architecture", "recipe",
        r"Model architectures? .* (?:are|is) not supported|does not recognize this architecture"
        r"|has no SGlang implementation",
        "This engine does not know the model's architecture.",
        "Use an engine version that supports the model (`requires` in the recipe)."),
    WRONG_ARGUMENT,
    *SHARED_CAUSES,
    refused_by(r"/sglang/srt/(?:server_args|arg_groups/\w+)\.py"),
)  # fmt: skip


class LogReader:
    """Collects what is said before the server answers; `/server_info` says the rest."""

    def __init__(self) -> None:
        self._phases: dict[str, float] = {}
        self._tokens: list[int] = []
        self._sizes: tuple[int, ...] = ()
        self._weights: float | None = None

    def feed(self, raw: str) -> LogLine:
        """Read one line and return it taken apart."""
        line = parse_line(raw)
        with contextlib.suppress(ValueError):  # no number that anybody could have meant
            self._read(line.text)
        return line

    def facts(self) -> EngineFacts:
        """What is known so far."""
        return EngineFacts(
            weights_gib=self._weights,
            kv_cache_tokens=min(self._tokens, default=None),
            capture_sizes=self._sizes,
            phases=FrozenMap(self._phases),
        )

    def _read(self, text: str) -> None:
        if found := _LOADED.search(text):
            self._longest("weights", amount_of(found[1]))
            self._weights = max(self._weights or 0.0, amount_of(found[2]))
        elif found := _CACHE.search(text):
            self._tokens.append(count_of(found[1]))
        if found := _SIZES.search(text):
            self._sizes = tuple(count_of(size) for size in found[1].split(","))
        if found := _CAPTURED.search(text):
            spent = self._phases.get("graph_capture", 0.0)
            self._phases["graph_capture"] = round(spent + amount_of(found[1]), 3)

    def _longest(self, phase: str, seconds: float) -> None:
        self._phases[phase] = max(self._phases.get(phase, 0.0), seconds)


_LOADED = re.compile(r"Load weight end\. elapsed=([\d.]+) s, .*mem usage=([\d.]+) GB")
_CACHE = re.compile(r"^KV Cache is allocated\..*#tokens: (\d+)")
# Sizes stand where the capture begins, in 0.5.23 where it ends; "verify" with a draft.
_SIZES = re.compile(r"Capture target (?:decode|verify) \w+ graph \w+\..* bs=\[([\d, ]+)\]")
_CAPTURED = re.compile(r"Capture \w+ \w+ \w+ graph end\.(?:.*,)? elapsed=([\d.]+) s")

_DIED = r"Subprocess \S+ \(pid=\d+\) crashed|Rank \d+ scheduler (?:died|is dead)|^Exit code: -\d"
LOG = EngineLog(
    parse=parse_line,
    reader=LogReader,
    causes=CAUSES,
    mark=re.compile(re.escape(_ROOT)),
    fatal=re.compile(
        rf"{re.escape(_ROOT)}|{_DIED}|SIGQUIT received\.|Received sigquit from a child|{CRASHES}"
    ),
    died=re.compile(_DIED),
    last_words=re.compile(r"watchdog timeout \("),
    generic=re.compile(
        r"^(?:SystemExit|KeyboardInterrupt|GeneratorExit|asyncio\.exceptions\.CancelledError)\b"
        r"|scheduler died during initialization|^EOFError$"
    ),
    worth_reading=re.compile(
        rb"Fatal Python error|CUDA error|Traceback|SIGQUIT|Subprocess .* crashed|Load weight end"
    ),
)
