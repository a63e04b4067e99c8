"""Submissions, with a Slurm that only writes down what it was asked (the real one:
experiments/slurm)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.commands.slurm_steps import told_of_tasks
from pytest_gpubench.commands.submission import SlurmOptions, scripts
from pytest_gpubench.host.slurm_queue import parse_states, sbatch
from pytest_gpubench.model.failures import GpubenchError

pytestmark = pytest.mark.usefixtures("light_pytest")

RECIPES = """
tiny-bf16-cpu-vllm: &tiny
  model: org/tiny
  model-prefix: tiny
  precision: bf16
  framework: vllm
  multinode: false
  runner: cpu
  scenarios: {fixed-seq-len: [{isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1, 2]}]}]}
  serve: {max-model-len: 256}
big-fp8-h100-vllm:
  <<: *tiny
  model-prefix: big
  precision: fp8
  runner: h100
  image: vllm/vllm-openai:v1
  scenarios: {fixed-seq-len: [{isl: 32, osl: 4, search-space: [{tp: 8, conc-list: [1]}]}]}
"""
FAKE = """#!{python}
import os, pathlib, sys
log = pathlib.Path({log!r})
name = os.path.basename(sys.argv[0])
with log.open("a") as file:
    file.write(" ".join([name, *sys.argv[1:]]) + "\\n")
calls = [line for line in log.read_text().splitlines() if line.startswith("sbatch")]
if name == "sbatch":
    if pathlib.Path({folder!r}, "refuse").exists() and len(calls) > 1:
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    print(100 + len(calls))
elif name == "scontrol":
    text = pathlib.Path({folder!r}, "states." + sys.argv[-1])
    if not text.exists():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(text.read_text())
"""


class FakeSlurm:
    """Its commands on PATH, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "calls.txt"
        self._log.touch()
        for name in ("sbatch", "scancel", "scontrol"):
            command = folder / name
            command.write_text(
                FAKE.format(python=sys.executable, log=str(self._log), folder=str(folder))
            )
            command.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().splitlines()

    def knows(self, job: str, text: str) -> None:
        (self.folder / f"states.{job}").write_text(text)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    (tmp_path / "bin").mkdir()
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    Path("recipes.yaml").write_text(RECIPES)
    return FakeSlurm(tmp_path / "bin")


def test_a_submission_is_fetch_arrays_and_a_merge_that_waits_for_all(
    slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["submit", "--slurm", "--account", "mine", "--max-parallel", "4", "--launches", "2"])
        == 0
    )
    folder = Path("results/slurm").resolve()
    assert slurm.calls == [
        f"sbatch --parsable {folder}/fetch.sh",
        f"sbatch --parsable --dependency=afterok:101 --kill-on-invalid-dep=yes {folder}/tasks-0.sh",
        f"sbatch --parsable --dependency=afterok:101 --kill-on-invalid-dep=yes {folder}/tasks-1.sh",
        f"sbatch --parsable --dependency=afterany:102:103 {folder}/merge.sh",
    ]
    texts = {path.stem: path.read_text() for path in folder.glob("*.sh")}
    assert all("#SBATCH --account=mine" in text for text in texts.values())
    gpus = {
        text.partition("--gres=")[2].split()[0] if "--gres" in text else ""
        for name, text in texts.items()
        if "tasks" in name
    }
    assert gpus == {"", "gpu:8"}
    assert "%4" in texts["tasks-0"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["jobs"] == {"fetch": "101", "tasks-0": "102", "tasks-1": "103", "merge": "104"}
    assert "--gpubench-launches=2" in manifest["pytest"]
    assert capfd.readouterr().out.startswith("submitted 2 tasks: fetch is job 101,")
    assert main(["submit", "--slurm"]) == 4
    assert "holds a submission already" in capfd.readouterr().err


def test_what_slurm_refuses_leaves_nothing_behind(
    slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    (slurm.folder / "refuse").touch()
    assert main(["submit", "--slurm", "--partition", "nowhere"]) == 4
    assert (
        "gpubench: sbatch failed: sbatch: error: invalid partition specified: nowhere"
        in capfd.readouterr().err
    )
    assert slurm.calls[-1] == "scancel 101"
    assert not Path("results/slurm/manifest.json").exists()


def test_status_says_how_far_each_task_is(
    slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--slurm", "--no-fetch", "-m", "cpu"]) == 0
    slurm.knows(
        "101", "JobId=101 ArrayJobId=101 ArrayTaskId=0 JobState=RUNNING Reason=None Restarts=1"
    )
    folder = Path("results/slurm")
    record = folder / "results" / "run" / "tiny-bf16-cpu-vllm-tp1" / "32x4-c1" / "launch-1.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    capfd.readouterr()
    assert main(["status"]) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[0] == "merge: job 102: PENDING or forgotten by Slurm"
    assert told[1].startswith("task 0 ")
    assert told[1].endswith(": RUNNING, restarted once, 1 of 2 cases")
    (folder / "steps").mkdir()
    (folder / "steps" / "task-0.json").write_text('{"exit": 10, "restarts": 1}')
    (slurm.folder / "states.101").unlink()
    assert main(["status"]) == 0
    assert capfd.readouterr().out.splitlines()[1].endswith(": ENDED, exit code 10, 1 of 2 cases")


def test_cancel_cancels_the_merge_as_well(
    slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--slurm", "--no-fetch", "-m", "cpu"]) == 0
    assert main(["cancel"]) == 0
    assert slurm.calls[-1] == "scancel 101 102"
    assert main(["cancel", "elsewhere"]) == 4
    assert "give the folder of gpubench submit --results" in capfd.readouterr().err


def test_without_slurm_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        GpubenchError,
        match="sbatch is not on PATH: this host has no Slurm; submit from a login node",
    ):
        sbatch(tmp_path / "x.sh")


def test_waiting_tasks_share_a_line() -> None:
    text = (
        "JobId=7 ArrayJobId=7 ArrayTaskId=0-1,4%2 JobState=PENDING "
        "Reason=Dependency\nJobId=9 JobState=COMPLETED Restarts=2\n"
    )
    assert [(one.job, one.state, one.restarts) for one in parse_states(text)] == [
        ("7_0", "PENDING", 0),
        ("7_1", "PENDING", 0),
        ("7_4", "PENDING", 0),
        ("9", "COMPLETED", 2),
    ]


def _manifest(**entry: Any) -> dict[str, Any]:
    return {
        "include": [{"gpus": 8, "image": "vllm/vllm-openai:v1", "timeout_minutes": 90, **entry}]
    }


def test_a_recipe_s_image_and_mounts_reach_srun_quoted() -> None:
    options = SlurmOptions(
        container_image="recipe",
        container_mounts="/data:/data dir",
        gres_type="h100",
        time="02:00:00",
    )
    (task, merge) = scripts(
        _manifest(image="nvcr.io#a b:1"), Path("/shared/run"), "python", options, fetch=False
    )
    assert (
        "'--container-image=nvcr.io#a b:1' "
        "'--container-mounts=/shared/run:/shared/run,/data:/data dir'"
    ) in task.text
    assert "#SBATCH --gres=gpu:h100:8" in task.text
    assert "#SBATCH --time=02:00:00" in task.text
    assert "--container" not in merge.text


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("/shared", SlurmOptions(account="a; rm -rf /")),
        ("/shared", SlurmOptions(partition="a\nb")),
        ("/shared/50%", SlurmOptions()),
        ('/shared/"x"', SlurmOptions()),
        ("/shared", SlurmOptions(container_image="a\nb")),
        ("/shared", SlurmOptions(sbatch_arg=("--x\n#SBATCH -w y",))),
        ("/shared", SlurmOptions(max_parallel=-1)),
    ],
)
def test_nothing_unsafe_gets_into_a_script(folder: str, options: SlurmOptions) -> None:
    with pytest.raises(GpubenchError):
        scripts(_manifest(), Path(folder), "python", options)


def test_what_became_of_the_tasks() -> None:
    entries = [{"name": name} for name in "abcdef"]
    ended: list[dict[str, Any]] = [
        {},
        {"exit": None},
        {"exit": 2, "restarts": 0},
        {"exit": 137},
        {"exit": 10, "restarts": 1},
        {"exit": 0, "restarts": 0},
    ]
    assert told_of_tasks(entries, ended) == [
        "task 0 (a) never ran",
        "task 1 (b) was killed before it could end",
        "task 2 (c) did not finish: it was interrupted, as by scancel or a time limit",
        "task 3 (d) did not finish: exit code 137",
        "task 4 (e) was requeued and went on (restarts: 1)",
    ]


def test_the_merge_says_it_in_every_form(
    slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--slurm", "--no-fetch", "-m", "cpu"]) == 0
    steps = Path("results/slurm/steps")
    steps.mkdir()
    (steps / "task-0.json").write_text('{"kind": "task", "exit": 2, "restarts": 1}')
    assert main(["slurm-step", "merge", "results/slurm"]) == 10
    for text in (
        capfd.readouterr().out,
        Path("results/slurm/report.md").read_text(),
        Path("results/slurm/report.html").read_text(),
    ):
        assert "did not finish: it was interrupted, as by scancel or a time limit" in text
        assert "was requeued and went on" in text
    assert json.loads((steps / "merge.json").read_text())["exit"] == 10
