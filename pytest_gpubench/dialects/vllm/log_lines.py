"""One line of a vLLM log, taken apart: pure.

Lines look like ``(EngineCore pid=12) INFO 11-22 08:15:24 [core.py:116] text``; workers add ranks to
the process name, some engines leave the prefix out, and libraries print without any of it. The
printed file and line are never relied on.
"""

from __future__ import annotations

import re
from typing import cast

from pytest_gpubench.dialects.log_lines import MAX_LINE, LogLine

_LINE = re.compile(
    r"(?:(?:\([\w.-]+ pid=[0-9]+\) ?)*\((?P<process>[\w.-]+) pid=(?P<pid>[0-9]+)\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<time>\d\d-\d\d \d\d:\d\d:\d\d) "
    r"\[[^\]]*\] ?)?"
)
"""What may stand before the text; it matches every line."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BARE_COLOUR = re.compile(r"^\[[0-9;]+m(?=\()|(?<=\))\[[0-9;]+m")
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
    text = line[head.end() :]
    return LogLine(process, number, level, time, text, bool(_HEARTBEAT.search(text)))
