"""The live line: what it says, and that it leaves no trace."""

from __future__ import annotations

import contextlib
import io

from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.process import LaunchProgress
from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.plugin.live import Screen
from pytest_gpubench.runs.live_line import Line, LiveCase, Showing, launch_text


def _page(tokens: float) -> str:
    return f'vllm:num_requests_running 3\nvllm:generation_tokens_total{{engine="0"}} {tokens}\n'


def test_it_names_phase_requests_rate_and_time_left() -> None:
    live = LiveCase("srv:1k1k-c4", conc=4, counted=COUNTERS.rate)
    assert live.text(0.0) == "srv:1k1k-c4  starting"
    live.progress("prompts", 3, 40, 0.5)
    assert live.text(0.5) == "srv:1k1k-c4  making prompts 3/40"
    live.progress("warmup", 0, 8, 1.0)
    live.page(_page(1000), 1.0)
    live.page(_page(1600), 3.0)
    assert live.text(3.0) == "srv:1k1k-c4  warm-up 0/8  300 tok/s"
    live.progress("measured", 0, 40, 10.0)
    live.page(_page(4000), 11.0)
    live.progress("measured", 10, 40, 20.0)
    assert live.text(20.0) == "srv:1k1k-c4  measuring 10/40  300 tok/s  about 30 s left"


def test_it_says_nothing_that_it_cannot_know() -> None:
    live = LiveCase("x:c8", conc=8, counted=COUNTERS.rate)
    live.progress("measured", 0, 80, 0.0)
    live.progress("measured", 8, 80, 5.0)
    assert "left" not in live.text(5.0), (
        "the first wave of a closed loop says nothing about the rate of completions"
    )
    live.page("no counter here", 5.0)
    live.page("vllm:generation_tokens_total{} nonsense", 5.0)
    assert "tok/s" not in live.text(5.0)
    live.page(_page(100), 6.0)
    live.page(_page(50), 7.0)
    assert "tok/s" not in live.text(7.0), "the counter went back: another engine"


def test_a_limit_in_time_bounds_what_is_left() -> None:
    live = LiveCase("x:c1", conc=1, duration=60.0)
    live.progress("measured", 0, 100_000, 0.0)
    live.progress("measured", 1, 100_000, 10.0)
    assert live.text(10.0).endswith("about 50 s left")


def test_a_trace_has_no_number_of_requests() -> None:
    live = LiveCase("x:agentic-c1", duration=600.0)
    live.progress("prompts", 0, 0, now=0.0)
    live.progress("measured", 1, 0, now=60.0)
    assert live.text(now=360.0).endswith("measuring 1  about 5 min 0 s left")
    live = LiveCase("x:agentic-c1")
    live.progress("measured", 12, 0, now=60.0)
    assert live.text(now=360.0).endswith("measuring 12")


def test_it_fits_the_terminal() -> None:
    live = LiveCase("a-very-long-name-of-a-server-that-nobody-can-read-tp8:1k1k-c64", conc=1)
    live.progress("measured", 5, 10, 0.0)
    for width in (20, 40, 60):
        assert len(live.text(1.0, width)) < width
    assert "1k1k-c64" in live.text(1.0, 50)


class _Terminal:
    """Enough of a terminal: carriage return, newline, index, up, save and restore the cursor."""

    def __init__(self, before: str) -> None:
        self.rows = [before]
        self.row, self.column = 0, len(before)
        self.saved = (0, 0)

    def feed(self, text: str) -> None:
        text = (
            text.replace("\x1bD", "\x01")
            .replace("\x1b[1A", "\x02")
            .replace("\x1b7", "\x03")
            .replace("\x1b8", "\x04")
        )
        for letter in text:
            if letter == "\r":
                self.column = 0
            elif letter in "\n\x01":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif letter == "\x02":
                self.row -= 1
            elif letter == "\x03":
                self.saved = self.row, self.column
            elif letter == "\x04":
                self.row, self.column = self.saved
            else:
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + letter + line[self.column + 1 :]
                self.column += 1


def _drawn(texts: list[str], *, control: bool) -> tuple[str, Screen, io.StringIO]:
    file = io.StringIO()

    @contextlib.contextmanager
    def opened():  # type: ignore[no-untyped-def]
        yield file

    screen = Screen(opened, control=control, columns=lambda: 40)
    for text in texts:
        screen.draw(lambda _, text=text: text)  # type: ignore[misc]
    return file.getvalue(), screen, file


def test_a_terminal_looks_as_before_when_the_line_is_gone() -> None:
    raw, screen, file = _drawn(["first and longer", "second"], control=True)
    terminal = _Terminal("tests/x.py ..")
    terminal.feed(raw)
    assert [row.rstrip() for row in terminal.rows] == ["tests/x.py ..", "second"]
    screen.clear()
    terminal.feed(file.getvalue()[len(raw) :])
    assert [row.rstrip() for row in terminal.rows] == ["tests/x.py ..", ""]
    assert (terminal.row, terminal.column) == (0, len("tests/x.py .."))
    screen.clear()
    assert file.getvalue().count("\x1b8") == 1


def test_without_colours_there_are_no_escape_codes() -> None:
    raw, screen, file = _drawn(["one", "x" * 200], control=False)
    screen.clear()
    assert "\x1b" not in file.getvalue()
    assert "x" * 40 not in raw


def test_it_draws_at_most_once_a_second_and_hands_pages_on() -> None:
    now = [0.0]
    drawn: list[Line] = []
    showing = Showing(LiveCase("c", 1), drawn.append, lambda: now[0])
    for step in range(30):
        now[0] = step / 10
        showing.note(Progress("measured", step, 30))
    assert len(drawn) == 3
    assert showing.page(_page(5)) == _page(5)


def test_without_a_terminal_it_swallows_everything() -> None:
    showing = Showing(LiveCase("c", 1), None)
    showing.note(Progress("measured", 1, 2))
    assert showing.page("text") == "text"


def test_a_launch_names_what_is_compiled_or_the_newest_line() -> None:
    line = "\rCapturing:  0%\rCapturing: 50%\x1b[2J 4/8"
    assert (
        launch_text("srv", LaunchProgress("starting", 83.4, (), line))
        == "srv  starting, 83 s  Capturing: 50%\\x1b[2J 4/8"
    )
    assert launch_text("srv", LaunchProgress("starting", 1.2, (), "")) == "srv  starting, 1 s"
    compiling = LaunchProgress(
        "starting", 250.0, ("cicc", "nvcc"), "Using flashinfer allreduce backend"
    )
    assert launch_text("srv", compiling) == "srv  starting, 250 s  compiling kernels (cicc, nvcc)"
    wide = LaunchProgress("starting", 1.0, (), "\u91cd\u307f 3/4")
    assert launch_text("srv", wide) == "srv  starting, 1 s  ?? 3/4"
    assert len(launch_text("srv", LaunchProgress("starting", 1.0, (), "x" * 500), 40)) == 39
