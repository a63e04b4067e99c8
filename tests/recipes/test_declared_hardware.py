"""GPUs that the hardware table lacks, as a recipe file declares them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.host.gpus import drivers
from pytest_gpubench.host.gpus.inventory import Gpu, Inventory
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.report.matrix import jobs_of
from pytest_gpubench.runs.doctoring import Doctor
from pytest_gpubench.runs.settings import Settings
from tests.recipes.conftest import Load

RUNNER = """\
runners:
  rtx6000ada: {name: RTX 6000 Ada, memory-gib: 47.5, compute-capability: 8.9, gpus-per-node: 2}
"""


@pytest.fixture
def ada(whole: str) -> str:
    return RUNNER + whole.replace("h100", "rtx6000ada").replace("tp: 8", "tp: 2")


def test_a_declared_gpu_is_hardware_like_any_other(load: Load, ada: str) -> None:
    book = load(ada)
    assert book.problems == ()
    assert {case.identity.hardware for case in book.cases} == {"rtx6000ada"}
    assert all(case.runnable for case in book.cases)
    assert book.hardware("rtx6000ada") == Hardware(
        "rtx6000ada", "cuda", 47.5, 2, 89, False, ("RTX", "6000", "ADA")
    )
    assert book.hardware("h100").vram_gib == 79.6


def test_matrix_and_doctor_know_its_node(load: Load, ada: str) -> None:
    book = load(ada.replace("tp: 2", "tp: 4"))
    jobs, skipped = jobs_of(book, book.cases)
    assert jobs == []
    assert "a node of rtx6000ada has 2" in skipped[0].reason
    assert "gpus-above-node" in rules(book, Inventory())
    jobs, skipped = jobs_of(load(ada), load(ada).cases)
    assert [(job.hardware, job.gpus) for job in jobs] == [("rtx6000ada", 2)]
    assert skipped == []


def test_on_its_host_the_driver_counts(load: Load, ada: str) -> None:
    gpu = Gpu(0, "GPU-0", "NVIDIA RTX 6000 Ada Generation", 48 << 30, 0)
    assert "gpus-above-node" not in rules(load(ada), Inventory())
    assert "gpus-above-node" in rules(load(ada), Inventory((gpu,)))


def rules(book: RecipeBook, found: Inventory) -> set[str]:
    settings = SimpleNamespace(
        ignore_findings=(), cache_dir=Path("/none"), command=lambda _spec: ("none",)
    )
    doctor = Doctor(cast("Settings", settings), book, lambda: found)
    return {one.rule for one in doctor.findings(book.servers[0][0], here=True)}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("a6000: {name: A6000, memory-gib: 48}", "needs `name`, `memory-gib` and"),
        ("a6000: {hardware: h100, name: A6000}", "needs `hardware`, or `name`"),
        ("a6000: {}", "needs `hardware`, or `name`"),
        ("a6000: {name: A6000, memory-gib: -1, compute-capability: 8.6}", "memory-gib"),
        ("a6000: {name: A6000, memory-gib: 48, compute-capability: 86}", "compute-capability"),
        ("a-6: {name: A6000, memory-gib: 48, compute-capability: 8.6}", "stands in test ids"),
        ("h100: {name: H100, memory-gib: 48, compute-capability: 9.0}", "is known already"),
        ("b200-cw: {name: X, memory-gib: 48, compute-capability: 9.0}", "stands in test ids"),
    ],
)
def test_a_wrong_declaration_is_one_sentence(load: Load, entry: str, words: str) -> None:
    found = [str(problem) for problem in load(f"runners:\n  {entry}\n").problems]
    assert len(found) == 1, found
    assert words in found[0]
    assert "r0.yaml:2:" in found[0]


def test_two_files_may_not_describe_it_differently(load: Load, ada: str) -> None:
    assert load(ada, RUNNER).problems == ()
    [problem] = load(ada, RUNNER.replace("47.5", "48")).problems
    assert "another file describes 'rtx6000ada' otherwise; keep one" in str(problem)


def test_the_command_prints_what_declares_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, load: Load, whole: str
) -> None:
    def read() -> Inventory:
        names = ("NVIDIA H100 80GB HBM3", "NVIDIA T4")
        return Inventory(tuple(Gpu(i, str(i), name, 16 << 30, 0) for i, name in enumerate(names)))

    monkeypatch.setattr(drivers, "read_inventory", read)
    assert main(["gpus"]) == 0
    listed, _, entry = capsys.readouterr().out.partition("\n\nFor a recipe file:\n\n")
    assert listed == "0 NVIDIA H100 80GB HBM3: h100\n1 NVIDIA T4: not known"
    entry = entry.replace("capability: 0.0", "capability: 7.5")  # the made-up driver did not say
    assert load(entry + whole.replace("h100", "t4")).problems == ()
    monkeypatch.setattr(drivers, "read_inventory", lambda: Inventory(reason="NVML: no driver"))
    assert main(["gpus"]) == 4
    assert "has no GPU that can be used (NVML: no driver)" in capsys.readouterr().err
