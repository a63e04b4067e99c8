"""One line of a vLLM log, taken apart: pure.

Lines look like ``(EngineCore pid=12) INFO 11-22 08:15:24 [core.py:116] text``; workers add ranks to the process name, some engines
leave the prefix out, and libraries print without any of it. The printed file and line are never relied on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = re.compile(r"^\((?P<process>[\w.-]+) pid=(?P<pid>[0-9]+)\) ?")
_STAMP = re.compile(r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<time>\d\d-\d\d \d\d:\d\d:\d\d) \[[^\]]*\] ?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HEARTBEAT = re.compile(r"No available shared memory broadcast block|Waiting for \d+ local, \d+ remote core engine")
_PID_DIGITS = 10
MAX_LINE = 100_000
"""Characters of one line that are looked at."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log, taken apart; ``level`` and ``time`` are empty where the line has none."""

    process: str
    pid: int | None
    level: str
    time: str
    text: str

    @property
    def heartbeat(self) -> bool:
        """Whether the line says no more than that something is being waited for: no sign of progress."""
        return bool(_HEARTBEAT.search(self.text))


def parse_line(raw: str) -> LogLine:
    """Take a raw line apart; never fails."""
    line = _COLOUR.sub("", raw[:MAX_LINE].rstrip("\r\n"))
    prefix = _PREFIX.match(line)
    rest = line[prefix.end() :] if prefix else line
    stamp = _STAMP.match(rest)
    return LogLine(
        process=prefix["process"] if prefix else "",
        pid=int(prefix["pid"]) if prefix and len(prefix["pid"]) <= _PID_DIGITS else None,
        level=stamp["level"] if stamp else "",
        time=stamp["time"] if stamp else "",
        text=rest[stamp.end() :] if stamp else rest,
    )
