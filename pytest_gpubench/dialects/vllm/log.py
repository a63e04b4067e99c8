"""How vLLM writes its log, read line by line: the same for a running server and for a file.

Lines look like ``(EngineCore pid=12) INFO 11-22 08:15:24 [core.py:116] text``; workers add ranks to
the process name, some engines leave the prefix out, and libraries print without any of it. The
printed file and line are never relied on.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.engine_log import (
    CRASHES,
    MAX_LINE,
    EngineLog,
    LogLine,
    amount_of,
    count_of,
    number_of,
    seconds_of,
    text_of,
    truth_of,
    without_rank,
)
from pytest_gpubench.dialects.vllm.causes import CAUSES
from pytest_gpubench.model.frozen import FrozenMap

_MOST_VARIABLES = 100
_LINE = re.compile(
    r"(?:(?:\([\w.-]+ pid=[0-9]+(?:, ip=[^)]*)?\) ?)*"
    r"\((?P<process>[\w.-]+) pid=(?P<pid>[0-9]+)(?:, ip=[^)]*)?\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<time>\d\d-\d\d \d\d:\d\d:\d\d) "
    r"(?:\[[^\]]*\]|[\w.]+:\d+\]) ?)?"
)
"""What may stand before the text; it matches every line. Ray adds the node, vLLM before 0.7 left a
bracket out."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BARE_COLOUR = re.compile(r"(?:^|(?<=\) ))\[[0-9;]+m(?=\()|(?<=\))\[[0-9;]+m")
"""Colour codes whose escape somebody has taken out, around the process."""
_HEARTBEAT = re.compile(
    r"No available shared memory broadcast block|Waiting for \d+ local, \d+ remote core engine"
)
_PID_DIGITS = 10


def parse_line(raw: str) -> LogLine:
    """Take a raw line apart; never fails."""
    line = _BARE_COLOUR.sub("", _COLOUR.sub("", raw[:MAX_LINE].rstrip("\r\n")))
    head = cast("re.Match[str]", _LINE.match(line))
    process, pid, level, time = head.groups("")
    number = int(pid) if 0 < len(pid) <= _PID_DIGITS else None
    rank, text = without_rank(line[head.end() :])
    heartbeat = bool(_HEARTBEAT.search(text))
    return LogLine(process or rank, number, level, time, text, heartbeat)


@dataclass(slots=True)
class _Selection:
    """Attention backends in the order in which one process selected them."""

    names: list[tuple[str, bool]] = field(default_factory=list)
    drafting: bool = False
    draft: str | None = None


_RULES: list[tuple[str, re.Pattern[str], Callable[[LogReader, re.Match[str]], None]]] = []
"""What to do with a line that has a text in it: the pattern, and what gets its match."""
_Act = TypeVar("_Act", bound="Callable[[LogReader, re.Match[str]], None]")


def _rule(needle: str, pattern: str) -> Callable[[_Act], _Act]:
    """Has the method below it called for lines with this text in which the pattern is found."""

    def noted(act: _Act) -> _Act:
        _RULES.append((needle, re.compile(pattern), act))
        return act

    return noted


class LogReader:
    """Collects `EngineFacts` from lines as they come."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}
        self._selections: dict[str, _Selection] = {}
        self._architectures: list[str] = []
        self._kv_tokens: list[int] = []
        self._kv_memory: list[float] = []
        self._weights: list[tuple[float, float]] = []
        self._captures: list[tuple[float, float]] = []
        self._loading: dict[str, float] = {}
        self._compiling: dict[str, float] = {}
        self._compilation: float | None = None
        self._init: float | None = None
        self._compile_cache: set[str] = set()
        self._other: dict[str, str] = {}
        self._expert_parallel = False
        self._api_servers: set[str] = set()
        self._times: dict[str, float] = {}
        self._unknown_variables: dict[str, None] = {}
        self._line = LogLine("", None, "", "", "")

    def feed(self, raw: str) -> LogLine:
        """Read one line and return it taken apart."""
        line = self._line = parse_line(raw)
        if line.level or line.process:
            for needle, pattern, act in _RULES:
                if needle in line.text:
                    match = pattern.search(line.text)
                    if match is not None:
                        with contextlib.suppress(ValueError):  # no number anybody could have meant
                            act(self, match)
            if "_EP" in line.process:
                self._expert_parallel = True
            if line.process.lower().startswith("apiserver"):
                self._api_servers.add(line.process)
        return line

    def facts(self) -> EngineFacts:
        """What is known so far."""
        target, draft, inferred = self._backends()
        values = dict(self._values)
        if "version" in values and "expert_parallel" not in values:
            values["expert_parallel"] = self._expert_parallel
        elif self._expert_parallel:
            values["expert_parallel"] = True
        return EngineFacts(
            **values,  # type: ignore[arg-type]  # every key is set by a rule below, with the type of its field
            api_servers=len({name for name in self._api_servers if "_" in name})
            or len(self._api_servers)
            or None,
            architectures=tuple(self._architectures),
            attention_backend=target,
            draft_attention_backend=draft,
            draft_attention_backend_inferred=inferred,
            other_backends=FrozenMap(self._other),
            kv_cache_tokens=min(self._kv_tokens, default=None),
            kv_cache_tokens_per_rank=tuple(self._kv_tokens),
            kv_cache_memory_gib=min(self._kv_memory, default=None),
            weights_gib=max((gib for gib, _ in self._weights), default=None),
            capture_gib=max((gib for _, gib in self._captures), default=None),
            unknown_variables=tuple(self._unknown_variables),
            compile_cache=next(
                (state for state in ("cold", "warm") if state in self._compile_cache), None
            ),
            phases=FrozenMap(self._phases()),
        )

    def _backends(self) -> tuple[str | None, str | None, bool]:
        target = next(
            (selection.names[0][0] for selection in self._selections.values() if selection.names),
            None,
        )
        if self._values.get("device") == "cpu":
            # Only CPU_ATTN exists there; a request for another one is logged and ignored.
            target = target or "CPU_ATTN"
        if not self._values.get("speculative_method"):
            return target, None, False
        named = {selection.draft for selection in self._selections.values() if selection.draft}
        if len(named) == 1:
            return target, named.pop(), False
        names = {
            name for selection in self._selections.values() for name, _ in selection.names
        } or ({target} - {None})
        explicit = {
            name
            for selection in self._selections.values()
            for name, asked in selection.names[1:]
            if asked
        }
        automatic = any(
            not asked for selection in self._selections.values() for _, asked in selection.names
        )
        if len(explicit) == 1 and automatic:
            return target, explicit.pop(), False
        if len(names) == 1:
            return target, target, True
        return target, None, False

    def _phases(self) -> dict[str, float]:
        phases: dict[str, float] = {}
        times = self._times
        if "args" in times and "initializing" in times:
            phases["config"] = max(0.0, times["initializing"] - times["args"])
        weights = max((seconds for _, seconds in self._weights), default=None)
        if weights is None:
            weights = max(self._loading.values(), default=None)
        if weights is not None:
            phases["weights"] = weights
        compiled = self._compilation
        if compiled is None:
            compiled = max(self._compiling.values(), default=None)
        if compiled is None and "compiling" in times and "compiled" in times:
            compiled = max(0.0, times["compiled"] - times["compiling"])
        if compiled is not None:
            phases["compile"] = compiled
        loaded = times.get("loaded", times.get("weights"))
        if loaded is not None and "kv_cache" in times:
            phases["kv_cache"] = max(0.0, times["kv_cache"] - loaded - (compiled or 0.0))
        capture = max((seconds for seconds, _ in self._captures), default=None)
        if capture is not None:
            phases["graph_capture"] = capture
        if self._init is not None:
            phases["engine_init"] = self._init
        return phases

    def _mark(self, name: str, *, last: bool = False) -> None:
        seconds = seconds_of(self._line.time)
        if seconds is not None and (last or name not in self._times):
            self._times[name] = seconds

    def _selection(self) -> _Selection:
        return self._selections.setdefault(self._line.process, _Selection())

    def _selected(self, name: str, *, explicit: bool) -> None:
        selection = self._selection()
        selection.names.append((name, explicit))
        if selection.drafting:
            selection.draft = name

    @_rule("non-default args:", r"non-default args:")
    def _on_args(self, match: re.Match[str]) -> None:
        self._mark("args")
        if "'enable_expert_parallel': True" in match.string:
            self._expert_parallel = True
        self._values["prefill_context_parallel_size"] = 1
        if pcp := re.search(r"'prefill_context_parallel_size': ([0-9]+)", match.string):
            self._values["prefill_context_parallel_size"] = count_of(pcp[1])

    @_rule(
        "Initializing a V1",
        r"Initializing a V1 LLM engine \(v(?P<version>[^)\s]+)\) with config: (?P<config>.*)",
    )
    def _on_init(self, match: re.Match[str]) -> None:
        self._mark("initializing")
        self._values["version"] = match["version"]
        text = match["config"]
        for key, (name, convert) in _CONFIG.items():
            value = re.search(rf"(?<![\w']){key}=('[^']*'|[^,\s)]+)", text)
            if value is not None:
                converted = convert(value[1])
                if converted is not None:
                    self._values[name] = converted
        draft = re.search(
            r"speculative_config=SpeculativeConfig\(method='([^']*)', "
            r"model=(None|'[^']*'), num_spec_tokens=(\d+)",
            text,
        )
        if draft is not None:
            self._values["speculative_method"] = draft[1]
            self._values["num_speculative_tokens"] = number_of(draft[3])
            if draft[2] != "None":
                self._values["draft_model"] = draft[2].strip("'")
        elif "speculative_config=None" in text:
            self._values["speculative_method"] = ""
        sizes = re.search(r"'cudagraph_capture_sizes': \[([\d, ]*)\]", text)
        if sizes is not None:
            self._values["capture_sizes"] = tuple(
                count_of(size) for size in sizes[1].split(",") if size.strip()
            )

    @_rule("Resolved architecture", r"Resolved architecture: (\w+)")
    def _on_architecture(self, match: re.Match[str]) -> None:
        if match[1] not in self._architectures:
            self._architectures.append(match[1])

    @_rule("Loading drafter model", r"Loading drafter model")
    def _on_drafter(self, _match: re.Match[str]) -> None:
        self._selection().drafting = True

    @_rule("block size to", r"Setting kv cache block size to (\d+)")
    def _on_block_size(self, match: re.Match[str]) -> None:
        self._values["block_size"] = count_of(match[1])

    @_rule("Loading weights took", r"Loading weights took ([\d.]+) seconds")
    def _on_loading(self, match: re.Match[str]) -> None:
        self._loading[self._line.process] = self._loading.get(self._line.process, 0.0) + amount_of(
            match[1]
        )
        self._mark("weights", last=True)

    @_rule(
        "Model loading took", r"Model loading took ([\d.]+) GiB(?: memory)? and ([\d.]+) seconds"
    )
    def _on_loaded(self, match: re.Match[str]) -> None:
        self._weights.append((amount_of(match[1]), amount_of(match[2])))
        self._mark("loaded", last=True)

    @_rule("Available KV cache memory", r"Available KV cache memory: ([\d.]+) GiB")
    def _on_kv_memory(self, match: re.Match[str]) -> None:
        self._kv_memory.append(amount_of(match[1]))

    @_rule("KV cache size:", r"KV cache size: ([\d,]+) tokens")
    def _on_kv_tokens(self, match: re.Match[str]) -> None:
        self._kv_tokens.append(count_of(match[1].replace(",", "")))
        self._mark("kv_cache", last=True)

    @_rule(
        "Graph capturing finished",
        r"Graph capturing finished in ([\d.]+) secs, took (-?[\d.]+) GiB",
    )
    def _on_captured(self, match: re.Match[str]) -> None:
        self._captures.append((amount_of(match[1]), amount_of(match[2])))

    @_rule(
        "init engine (",
        r"init engine \([^)]*\) took ([\d.]+) s(?:econds)?(?: \(compilation: ([\d.]+) s\))?",
    )
    def _on_engine_init(self, match: re.Match[str]) -> None:
        self._init = max(self._init or 0.0, amount_of(match[1]))
        if match[2] is not None:
            self._compilation = max(self._compilation or 0.0, amount_of(match[2]))

    @_rule("torch.compile took", r"torch\.compile took ([\d.]+) s in total")
    def _on_compiled(self, match: re.Match[str]) -> None:
        self._compiling[self._line.process] = self._compiling.get(
            self._line.process, 0.0
        ) + amount_of(match[1])

    @_rule(
        "environment variable detected", r"Unknown vLLM environment variable detected: (\w{1,200})"
    )
    def _on_unknown_variable(self, match: re.Match[str]) -> None:
        if len(self._unknown_variables) < _MOST_VARIABLES:
            self._unknown_variables[match[1]] = None

    @_rule("Expert parallelism is enabled", r"Expert parallelism is enabled")
    def _on_expert_parallel(self, _match: re.Match[str]) -> None:
        self._expert_parallel = True

    @_rule("attention backend out of", r"^Using (\w+) attention backend out of potential")
    def _on_automatic_backend(self, match: re.Match[str]) -> None:
        self._selected(match[1], explicit=False)

    @_rule("AttentionBackendEnum.", r"^Using AttentionBackendEnum\.(\w+) backend\.")
    def _on_explicit_backend(self, match: re.Match[str]) -> None:
        self._selected(match[1], explicit=True)

    @_rule("Warming up model", r"Warming up model for the compilation")
    def _on_compiling(self, _match: re.Match[str]) -> None:
        self._mark("compiling")

    @_rule("Warming up done", r"Warming up done")
    def _on_compile_end(self, _match: re.Match[str]) -> None:
        self._mark("compiled", last=True)

    @_rule("Compiling a graph", r"Compiling a graph for compile range")
    @_rule("saved AOT", r"saved AOT compiled function")
    def _on_cold_cache(self, _match: re.Match[str]) -> None:
        self._compile_cache.add("cold")

    @_rule("Directly load", r"Directly load (?:AOT compilation|the compiled graph|the \S+ graph)")
    def _on_warm_cache(self, _match: re.Match[str]) -> None:
        self._compile_cache.add("warm")

    @_rule("sparse attention selected", r"sparse attention selected (?P<sparse_attention>\w+)")
    @_rule("MoE backend", r"^Using '?(?P<moe>\w+)'? \w+ MoE backend")
    @_rule("GEMM", r"^Using (?P<linear>\w+) for \w+ GEMM")
    def _on_kernel(self, match: re.Match[str]) -> None:
        self._other |= match.groupdict()


_CONFIG: dict[str, tuple[str, Callable[[str], object]]] = {
    "model": ("model", text_of),
    "dtype": ("dtype", text_of),
    "max_seq_len": ("max_model_len", number_of),
    "tensor_parallel_size": ("tensor_parallel_size", number_of),
    "pipeline_parallel_size": ("pipeline_parallel_size", number_of),
    "data_parallel_size": ("data_parallel_size", number_of),
    "decode_context_parallel_size": ("decode_context_parallel_size", number_of),
    "quantization": ("quantization", text_of),
    "enforce_eager": ("enforce_eager", truth_of),
    "kv_cache_dtype": ("kv_cache_dtype", text_of),
    "device_config": ("device", text_of),
    "enable_prefix_caching": ("enable_prefix_caching", truth_of),
}

_MARK = (
    r"EngineCore failed to start|WorkerProc failed to start|WorkerProc hit an "
    r"exception|EngineCore encountered a fatal error"
    r"|EngineCore hit an exception|DP Coordinator failed|Worker failed with error"
)

LOG = EngineLog(
    parse=parse_line,
    reader=LogReader,
    causes=CAUSES,
    mark=re.compile(_MARK),
    fatal=re.compile(
        _MARK
        + r"|Worker proc \S+ died unexpectedly|Engine core proc(?:ess)? .*died unexpectedly"
        + r"|Engine core initialization failed|"
        + CRASHES
    ),
    died=re.compile(r"(?:Worker proc|Engine core proc(?:ess)?)[^\n]*died unexpectedly"),
    generic=re.compile(
        r"^(?:SystemExit|KeyboardInterrupt|GeneratorExit|asyncio\.exceptions\.CancelledError"
        r"|\S*EngineDeadError)\b"
        r"|Engine core initialization failed|See root cause above|RuntimeError: Executor failed"
        r"|API server .* died"
        r"|Worker failed with error .*please check the stack trace"
    ),
    # From 0.26 on; each kernel is named once.
    compiled=re.compile(r"\[jit_monitor\.py:\d+\] .* during inference: ([^\s.(]+)"),
    worth_reading=re.compile(
        rb"(?:INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d |terminate called|Fatal Python error"
        rb"|CUDA error|Traceback"
    ),
)
