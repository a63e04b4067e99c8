"""``gpubench bisect``: the walk, its checkouts and its exit codes, with steps that are made up."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.commands import bisect_walk
from tests.report.result_files import case_record, init_record, write

GOOD, BAD, UNSURE = ("PASS", 0.001), ("FAIL", 0.1), ("INCONCLUSIVE", 0.05)
SERVER = "tiny-bf16-h100-vllm-tp1"
Step = Callable[[Path], tuple[str, float] | int]
"""From the candidate's checkout: the gate's word with the change, or an exit code of pytest."""


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file `level` that says 0, 1, ... 16 in as many commits, tagged v0, v1, ... v16."""
    folder = tmp_path_factory.mktemp("history")
    git(folder, "init", "-q", "-b", "main")
    (folder / ".gitignore").write_text("results/\n")
    for level in range(17):
        (folder / "level").write_text(f"{level}\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"Level {level}")
        git(folder, "tag", f"v{level}")
    return folder


@pytest.fixture
def repository(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that history, where the command is run."""
    folder = tmp_path / "repository"
    shutil.copytree(history, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return folder


class Steps:
    """Stands for pytest: leaves the records of a step."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.bases: list[int] = []
        self.alone: tuple[str, float] | None = None
        """What a step gives of which the other side is not the first commit."""
        self.commands: list[list[str]] = []
        self.of: Step = lambda checkout: BAD
        self.write: Callable[[Path], None] | None = None

    def __call__(self, command: Sequence[str], cwd: Path, log: Path) -> int:
        self.commands.append(list(command))
        options = dict(word.split("=", 1) for word in command if word.startswith("--gpubench-"))
        checkout = Path(options.get("--gpubench-against-checkout", "."))
        assert cwd.is_dir()
        self.asked.append(int((checkout / "level").read_text()))
        log.write_text("ERROR: the reason\n")
        self.bases.append(int((cwd / "level").read_text()))
        found = self.of(checkout)
        if self.alone and self.bases[-1]:
            found = self.alone
        if isinstance(found, int):
            if self.write:
                self.write(log.parent)
            return found
        _leave(log.parent, *found)
        return {"PASS": 0, "FAIL": 1}.get(found[0], 10)


def _leave(folder: Path, status: str, change: float, **more: Any) -> None:
    run = folder / "20260101T000000Z-0001"
    moved = {
        "before": 0.01,
        "now": 0.01 * (1 + change),
        "estimate": change,
        "low": change - 0.01,
        "high": change + 0.01,
        "spread": 0.005,
        "launches_before": 2,
        "launches_now": 2,
        "detectable": 0.08,
    }
    metric = {
        "metric": "tpot_p50",
        "status": status,
        "code": "x",
        "reason": f"{status} because",
        "remedy": "",
        "against": "engine",
        "change": moved,
        "tolerance": 0.05,
        "improved": False,
    }
    verdict = {
        "status": status,
        "reason": f"{status} because",
        "remedy": "",
        "metrics": [metric],
        "notes": [],
        "wants_launch": False,
        "section": "",
    }
    for minute, (arm, index) in enumerate((("a", 1), ("b", 1), ("b", 2), ("a", 2))):
        launch = {"server": SERVER, "index": index, "arm": arm, "reserve": False}
        record = case_record(SERVER, minute=minute, launch=launch, verdict=verdict)
        write(run, record | more)
    _end(run)


def _end(run: Path, **more: Any) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps({"kind": "run", "exit": 0} | more))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    made = Steps()
    monkeypatch.setattr(bisect_walk, "run_step", made)
    return made


def _level(checkout: Path) -> int:
    return int((checkout / "level").read_text())


def _walk(repository: Path, folder: str = "results/bisect") -> dict[str, Any]:
    walk: dict[str, Any] = json.loads((repository / folder / "walk.json").read_text())
    return walk


def _is_clean(repository: Path) -> bool:
    """No checkout is left, and the user's tree is as it was."""
    trees = git(repository, "worktree", "list").splitlines()
    return len(trees) == 1 and (repository / "level").read_text() == "16\n"


def test_a_known_bug_has_a_change_that_made_it(repository: Path, steps: Steps) -> None:
    steps.of = lambda checkout: ("WAIVED", 0.1) if _level(checkout) >= 3 else GOOD
    assert main(["bisect", "v0", "v4", "--", "benchmarks"]) == 0
    assert {step["verdict"] for step in _walk(repository)["steps"]} == {"WAIVED", "PASS"}


@pytest.mark.parametrize("first_bad", [1, 7, 16])
def test_the_change_is_named(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str], first_bad: int
) -> None:
    steps.of = lambda checkout: BAD if _level(checkout) >= first_bad else GOOD
    assert main(["bisect", "v0", "main", "--", "benchmarks", "-m", "tiny"]) == 0
    told = capsys.readouterr().out
    assert f"Level {first_bad} (tpot_p50 +10.0%, 95% interval +9.0% to +11.0%)" in told
    assert steps.asked[0] == 16, "the bad end comes first"
    assert len(steps.asked) <= 6
    assert _is_clean(repository)
    command = steps.commands[0]
    assert command[1:7] == ["-P", "-m", "pytest", "benchmarks", "-m", "tiny"]
    assert {"--gpubench-launches=2..6", "-x"} <= set(command)
    walk = _walk(repository)
    assert walk["conclusion"].startswith("the first bad one is ")
    assert [step["place"] + 1 for step in walk["steps"]] == steps.asked
    page = (repository / "results/bisect/walk.md").read_text()
    assert f"Level {first_bad} | bad, the first | FAIL | tpot\\_p50 \\+10.0%" in page
    assert len(list((repository / "results/bisect").glob("0*/pytest.log"))) == len(steps.asked)


def test_what_cannot_be_told_is_skipped_and_never_guessed(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(checkout: Path) -> tuple[str, float]:
        level = _level(checkout)
        if level in (7, 8):
            return UNSURE
        return BAD if level >= 8 else GOOD

    steps.of = of
    assert main(["bisect", "v0", "v16", "--", "benchmarks"]) == 10
    told = capsys.readouterr().out
    assert "one of 3; what is before the last could not be told:" in told
    assert [f"Level {level}\n" in told.partition("one of 3")[2] for level in (6, 7, 8, 9, 10)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    page = (repository / "results/bisect/walk.md").read_text()
    assert "Level 7: INCONCLUSIVE because" in page
    assert _is_clean(repository)


@pytest.mark.parametrize(
    ("alone", "options", "code", "says"),
    [
        (BAD, (), 0, "Level 5 (tpot_p50 +10.0%, 95% interval +9.0% to +11.0%); against "),
        (GOOD, (), 10, "undecided: "),
        (UNSURE, (), 10, "Level 4, right before it (tpot_p50 +5.0%, "),
        (GOOD, ("--no-confirm",), 0, "Level 5 (tpot_p50 +10.0%"),
    ],
)
def test_the_first_bad_one_is_compared_with_the_one_before_it(
    repository: Path,
    steps: Steps,
    capsys: pytest.CaptureFixture[str],
    alone: tuple[str, float],
    options: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    """Small losses may add up, and a verdict may be wrong."""
    steps.of, steps.alone = lambda checkout: BAD if _level(checkout) >= 5 else GOOD, alone
    assert main(["bisect", *options, "v0", "v16", "--", "benchmarks"]) == code
    told = capsys.readouterr().out
    assert says in told
    assert steps.bases[:-1] == [0] * (len(steps.bases) - 1)
    last = (steps.bases[-1], steps.asked[-1])
    assert (last == (4, 5)) == (not options)
    page = (repository / "results/bisect/walk.md").read_text()
    assert ("Level 5, against " in page) == (not options)
    assert _is_clean(repository)
    asked = len(steps.asked)
    assert main(["bisect", "--resume", *options, "v0", "v16", "--", "benchmarks"]) == code
    assert len(steps.asked) == asked


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        (GOOD, "there is nothing to find"),
        (UNSURE, "the walk cannot begin: "),
        (3, "pytest ended with 3: the reason"),
        (-9, "pytest was ended by signal 9"),
        (2, "pytest ended with 2: the reason"),
    ],
)
def test_a_bad_end_that_is_not_shown_bad_ends_the_walk(
    repository: Path,
    steps: Steps,
    capsys: pytest.CaptureFixture[str],
    ends: tuple[str, float] | int,
    says: str,
) -> None:
    steps.of = lambda checkout: ends
    assert main(["bisect", "v0", "v3", "--", "benchmarks"]) == 10
    assert says in capsys.readouterr().out
    assert steps.asked == [3]


@pytest.mark.parametrize("code", [4, 5])
def test_a_command_line_that_no_step_can_use_ends_the_walk(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    steps.of = lambda checkout: code
    assert main(["bisect", "v0", "v3", "--", "benchmarks"]) == code
    assert "bisect: pytest says: the reason (" in capsys.readouterr().err
    assert steps.asked == [3]
    assert _is_clean(repository)


FAILURE = {
    "cause": "out-of-memory",
    "failure_class": "engine",
    "summary": "no memory",
    "evidence": [],
    "remedy": "",
}


@pytest.mark.parametrize(
    ("arm", "cause", "options", "code", "says"),
    [
        ("b", "out-of-memory", (), 10, "engine B failed: no memory [out-of-memory, engine]"),
        ("b", "out-of-memory", ("--failure-is-bad",), 0, "the first bad one is"),
        ("a", "out-of-memory", ("--failure-is-bad",), 10, "engine A, the good end's, failed"),
        ("b", "no-counterpart", ("--failure-is-bad",), 10, "engine B failed"),
    ],
)
def test_an_engine_that_does_not_start_is_skipped(
    repository: Path,
    steps: Steps,
    capsys: pytest.CaptureFixture[str],
    arm: str,
    cause: str,
    options: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    def leave(folder: Path) -> None:
        launch = {"server": SERVER, "index": 1, "arm": arm, "reserve": False}
        record = init_record(SERVER, failure=FAILURE | {"cause": cause}) | {"launch": launch}
        write(folder / "run", record)
        _end(folder / "run", exit=1)

    steps.of, steps.write = lambda checkout: 1, leave
    assert main(["bisect", *options, "v0", "v1", "--", "benchmarks"]) == code
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"failures": [{"test": "test_mine", "reason": "assert 1 == 2"}]},
            "test_mine failed: assert",
        ),
        ({"not_run": ["tiny:1k1k-c8"]}, "tiny:1k1k-c8 was not measured"),
    ],
)
def test_a_pass_that_is_not_whole_is_not_good(
    repository: Path,
    steps: Steps,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
    says: str,
) -> None:
    def leave(folder: Path) -> None:
        _leave(folder, *GOOD)
        _end(next(folder.glob("2026*")), **more)

    steps.of, steps.write = lambda checkout: 1, leave
    assert main(["bisect", "v0", "v1", "--", "benchmarks"]) == 10
    assert says in capsys.readouterr().out


def test_ctrl_c_leaves_nothing_behind_and_the_walk_goes_on_with_resume(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(checkout: Path) -> tuple[str, float]:
        if len(steps.asked) == 3:
            raise KeyboardInterrupt
        return BAD if _level(checkout) >= 11 else GOOD

    words = ["bisect", "v0", "v16", "--", "benchmarks"]
    steps.of = interrupted
    assert main(words) == 130
    assert _is_clean(repository)
    assert len(_walk(repository)["steps"]) == 2
    assert main(words) == 4
    assert "holds a walk: --resume goes on with it" in capsys.readouterr().err
    assert main(["bisect", "--resume", "v0", "v16", "--", "other"]) == 4
    assert "is of another walk: the arguments of pytest differ" in capsys.readouterr().err
    known = steps.asked[:2]
    steps.asked.clear()
    steps.of = lambda checkout: BAD if _level(checkout) >= 11 else GOOD
    assert main(["bisect", "--resume", *words[1:]]) == 0
    assert not set(known) & set(steps.asked), "what is known is not asked again"
    assert "2 steps known" in capsys.readouterr().out
    steps.asked.clear()
    assert main(["bisect", "--resume", *words[1:]]) == 0, "a walk that is over is told again"
    assert steps.asked == []
    assert "Level 11 (" in capsys.readouterr().out


def test_only_commits_that_touch_a_path(repository: Path, steps: Steps) -> None:
    for name in ("a", "b", "c"):
        (repository / name).write_text(name)
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "-m", f"Adds {name}")
    steps.of = lambda checkout: BAD
    assert main(["bisect", "--path", "level", "--path", "b", "v15", "HEAD", "--", "x"]) == 0
    titles = [one["title"] for one in _walk(repository)["candidates"]]
    assert titles == ["Level 16", "Adds b", "Adds c"]


def test_a_good_end_beside_the_line_begins_where_they_parted(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    git(repository, "checkout", "-q", "-b", "side", "v13")
    git(repository, "commit", "-q", "--allow-empty", "-m", "Faster")
    git(repository, "checkout", "-q", "main")
    steps.of = lambda checkout: BAD
    assert main(["bisect", "side", "main", "--", "x"]) == 0
    told = capsys.readouterr().out
    assert "side is no ancestor of main: the walk begins at" in told
    assert "the first bad one is" in told
    assert told.strip().splitlines()[-2].count("Level 13")


def test_the_users_tree_is_not_touched_and_hooks_are_not_run(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {repository}/hooked\n")
    hook.chmod(0o755)
    (repository / "level").write_text("99\n")
    assert main(["bisect", "v14", "v15", "--", "x"]) == 0
    assert "what is not committed does not count" in capsys.readouterr().out
    assert (repository / "level").read_text() == "99\n"
    assert not (repository / "hooked").exists()
    assert steps.asked == [15]


def test_engines_in_a_row(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is checked out; A is the first engine."""
    words = ["--block-size 16", f"{sys.executable} engine.py", "--block-size 32", "X=1"]
    steps.of = lambda checkout: BAD
    (repository / "engines.txt").write_text("# versions\n" + "\n".join(words) + "\n\n")
    assert main(["bisect", "--engines", "engines.txt", "--metric", "tpot_p50", "--", "x"]) == 0
    assert f"the first bad one is {words[1]}" in capsys.readouterr().out
    last = steps.commands[-1]
    assert f"--gpubench-first-engine={words[0]}" in last
    assert f"--gpubench-against={words[1]}" in last
    assert "--gpubench-gate-only=tpot_p50" in last
    options = [option for word in words for option in ("--engine", word)]
    assert main(["bisect", *options, "--results", "other", "--", "x"]) == 0


@pytest.mark.parametrize(
    ("found", "code"), [(GOOD, 0), (BAD, 1), (UNSURE, 125), (3, 125), (4, 128), (5, 128)]
)
def test_exit_codes_for_git_bisect_run(
    repository: Path, steps: Steps, found: tuple[str, float] | int, code: int
) -> None:
    """The working tree, as it is, against the good end."""
    (repository / "level").write_text("99\n")
    steps.of = lambda checkout: found
    words = ["bisect", "v0", "--exit-code", "git-bisect", "--", "-m", "tiny"]
    assert main(words) == code
    assert steps.asked == [99]
    assert main(words) == code, "a folder of its own for each"
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("v0", "v1"),
        ("nowhere",),
        ("v0", "--resume"),
        ("v0", "--launches", "x"),
        ("v0", "--unknown"),
        ("--launches",),
    ],
)
def test_a_mistake_ends_git_bisect_run(
    repository: Path, steps: Steps, words: tuple[str, ...]
) -> None:
    """A code below 128 would be taken for a bad revision."""
    ended: object
    try:
        ended = main(["bisect", "--exit-code", "git-bisect", *words, "--", "x"])
    except SystemExit as error:
        ended = error.code
    assert ended == 128
    assert steps.asked == []


@pytest.mark.parametrize("error", [OSError("no space left"), ZeroDivisionError()])
def test_a_fault_is_no_bad_revision(
    repository: Path, steps: Steps, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(checkout: Path) -> int:
        raise error

    steps.of = fails
    assert main(["bisect", "v0", "--exit-code", "git-bisect", "--", "x"]) == 128
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("v0", "nowhere", "--", "x"), "'nowhere' is no revision of "),
        (("v0", "v0\nv1", "--", "x"), "is no revision of "),
        (("v1", "v0", "--", "x"), "no commit lies after v1 on the way to v0"),
        (("v0", "v0", "--", "x"), "no commit lies after v0"),
        (("v0", "--", "x"), "1 revisions given; name two"),
        (("v0", "v1", "--launches", "0", "--", "x"), "bisect: --launches: launches '0'"),
        (("v0", "v1", "--metric", "tpot", "--", "x"), "'tpot' is no metric that can be gated"),
        (("v0", "v1", "--metric", "accuracy", "--", "x"), "'accuracy' is no metric that can be"),
        (("v0", "v1", "--", "x", "--gpubench-against=y"), "is set by bisect itself"),
        (("v0", "v1", "--", "x", "--gpubench-results", "y"), "is set by bisect itself"),
        (("v0", "v1", "--resume", "--", "x"), "so there is nothing to resume"),
        (("v0", "v1", "--results", "level", "--", "x"), "is a file; choose another folder"),
        (("v0", "v1", "--engine", "X=1", "--", "x"), "cannot both change"),
        (("--engine", "X=1", "--", "x"), "1 engines given; name at least two"),
        (("--engine", "X=1", "--engines", "level", "--", "x"), "say the same"),
        (("--engines", "nowhere", "--", "x"), "--engines nowhere cannot be read"),
        (
            ("--engine", "X=1", "--engine", "vllm/vllm-openai:v1", "--", "x"),
            "engine 2, read as --gpubench-against: --gpubench-against 'vllm/vllm-openai:v1' begins "
            "with vllm/vllm-openai:v1, which is no executable here and looks like an image",
        ),
        (
            ("--engine", "X=1", "--engine", "X=2", "--path", "y", "--", "x"),
            "--path chooses commits",
        ),
    ],
)
def test_wrong_words_are_a_sentence(
    repository: Path,
    steps: Steps,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    assert main(["bisect", *words]) == 4
    assert says in capsys.readouterr().err
    assert steps.asked == []


def test_unrelated_histories(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(repository, "checkout", "-q", "--orphan", "other")
    git(repository, "commit", "-q", "-m", "Other")
    assert main(["bisect", "main", "other", "--", "x"]) == 4
    assert "have no commit in common" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"kind": "walk"}',
        '{"kind": "run"}',
        "[" * 100_000,
        '{"kind": "walk", "good": 1}',
    ],
)
def test_a_damaged_walk_is_a_sentence(
    repository: Path, steps: Steps, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    folder = repository / "results" / "bisect"
    folder.mkdir(parents=True)
    (folder / "walk.json").write_text(text)
    assert main(["bisect", "--resume", "v0", "v1", "--", "x"]) == 4
    told = capsys.readouterr().err
    assert "begin another folder" in told
    assert "Traceback" not in told


INTERRUPTED = """
import sys
from pathlib import Path
from pytest_gpubench.commands.bisect_walk import run_step
child = '''
import signal, time
from pathlib import Path
def stop(*_):
    Path("stopped").touch()
    raise SystemExit
signal.signal(signal.SIGTERM, stop)
Path("started").touch()
time.sleep(600)
'''
try:
    run_step([sys.executable, "-c", child], Path(), Path("log"))
except KeyboardInterrupt:
    sys.exit(42)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_pytest_first(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], cwd=tmp_path)
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == 42
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "stopped").exists()


def test_pytests_words_behind_its_own_dashes_stay_there(repository: Path, steps: Steps) -> None:
    assert main(["bisect", "v0", "v1", "--", "-m", "tiny", "--", "file.py"]) == 0
    command = steps.commands[0]
    assert command[-2:] == ["--", "file.py"]
    assert command.index("-x") < command.index("--")
