"""What a run leaves besides records: the page, the summary of a CI job, the estimate, the live line
on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.plugin.conftest import Project, workers

pytestmark = pytest.mark.usefixtures("canned")


def test_a_run_leaves_its_page_and_the_summary_of_its_job(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.pytester.path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    result = project.run("benchmarks", "-k", "tiny and cpu", "--gpubench-report", "out.html")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["estimated time: unknown*", f"report: {project.pytester.path}/out.html"]
    )
    page = (project.pytester.path / "out.html").read_text()
    assert page.count('class="case"') == 3
    assert "Content-Security-Policy" in page
    text = summary.read_text()
    assert text.startswith("before\n### Serving benchmarks\n\n**3 UNGATED** in 3 cases")
    again = project.run("benchmarks", "-k", "tiny and cpu", "-q")
    assert re.search(r"estimated time: about \d.*, from earlier results", again.stdout.str())
    assert summary.read_text().count("### Serving benchmarks") == 2


def test_a_server_that_does_not_start_is_in_both(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "wrong-argument")
    project.run("benchmarks", "-m", "cpu and mtp", "--gpubench-report=out.html")
    assert "1 server did not start" in summary.read_text()
    assert "tiny-bf16-cpu-vllm-mtp-tp1:init | ✕ FAIL" in summary.read_text()
    page = (project.pytester.path / "out.html").read_text()
    assert "1 server did not start" in page
    assert "[wrong-argument, recipe]" in page


WORKERS = workers(1)


def test_workers_leave_one_page(project: Project) -> None:
    result = project.run("benchmarks", "-m", "cpu and mtp", *WORKERS, "--gpubench-report=out.html")
    assert result.ret == 0, result.stdout.str()
    assert (project.pytester.path / "out.html").read_text().count('class="case"') == 1
    assert result.stdout.str().count("report: ") == 1


def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(project: Project) -> None:
    result = project.inside("benchmarks", "--gpubench-report=nowhere/out.html")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*--gpubench-report: */nowhere/out.html cannot be written: the folder * does not exist*"]
    )


def test_a_summary_that_cannot_be_written_is_a_line_and_no_failure(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.pytester.path / "nowhere" / "summary.md"))
    result = project.run("benchmarks", "-m", "cpu and mtp")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["GITHUB_STEP_SUMMARY: *could not be written: No such file or directory"]
    )


def test_collecting_leaves_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = project.pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    result = project.inside("benchmarks", "--co", "-q", "-k", "tiny", "--gpubench-report=out.html")
    assert result.ret == 0
    assert "estimated" not in result.stdout.str()
    assert not summary.exists()
    assert not (project.pytester.path / "out.html").exists()


def _on_a_terminal(project: Project, *arguments: str, columns: int = 100) -> str:
    """What pytest writes when its output is a terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "GPUBENCH_STUB_FAULT": ""}
    for name in ("NO_COLOR", "PY_COLORS", "COLUMNS"):  # pytester sets one
        environment.pop(name, None)
    with subprocess.Popen(
        project.command(*arguments),
        cwd=project.pytester.path,
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env=environment,
    ):
        os.close(follower)
        written = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            written += part
    os.close(leader)
    return written.decode()


def test_the_live_line_is_as_long_as_the_terminal_allows(project: Project) -> None:
    text = _on_a_terminal(project, "benchmarks", "-m", "cpu and mtp", columns=50)
    lines = re.findall(r"[^\r\n]*:32x4-c1  (?:making prompts|warm-up|measuring) \d+/\d+", text)
    assert lines
    assert max(map(len, lines)) < 50


@pytest.mark.parametrize(
    ("arguments", "live", "escapes"),
    [
        ((), True, True),
        (("--color=no",), True, False),
        (("-q", "-q"), False, True),
        (WORKERS, False, True),
    ],
)
def test_the_live_line_on_a_terminal(
    project: Project, arguments: tuple[str, ...], live: bool, escapes: bool
) -> None:
    text = _on_a_terminal(project, "benchmarks", "-m", "cpu and mtp", *arguments)
    shown = re.findall(
        r"tiny-bf16-cpu-vllm-mtp-tp1:32x4-c1  (?:making prompts|warm-up|measuring) \d+/\d+", text
    )
    assert bool(shown) == live, text
    assert ("\x1b[" in text) == escapes
    assert ("\x1b8" in text) == (live and escapes)
    assert "passed" in text or "-q" in arguments


def test_a_start_is_shown_on_a_terminal(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "3")
    monkeypatch.setenv("GPUBENCH_STUB_WARM", "1")
    # The option has the servers looked at before there is a terminal reporter.
    early = "--gpubench-ignore-findings=minimax-m3-top-k-layout"
    text = _on_a_terminal(project, "benchmarks", "-m", "cpu and mtp", early)
    assert re.search(r"tiny-bf16-cpu-vllm-mtp-tp1  starting, \d+ s  \S", text), text
    assert re.search(r"tiny-bf16-cpu-vllm-mtp-tp1  warming up, \d+ s", text), text
    assert "passed" in text


def test_without_a_terminal_there_is_no_live_line(project: Project) -> None:
    result = project.run("benchmarks", "-m", "cpu and mtp")
    assert "making prompts" not in result.stdout.str()
    assert not list(Path(project.pytester.path).glob("*.html"))
