"""How vLLM writes its log."""

from __future__ import annotations

import re

from pytest_gpubench.dialects.engine_log import CRASHES, EngineLog
from pytest_gpubench.dialects.vllm.causes import CAUSES
from pytest_gpubench.dialects.vllm.log_reader import LogReader, parse_line

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
