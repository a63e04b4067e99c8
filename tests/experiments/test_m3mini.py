from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import context
import pytest
from m3mini import (
    M3MINI,
    M3MINI_DRAFT,
    M3MINI_MXFP8,
    M3MINI_REPOSITORIES,
    m3mini_config,
    m3mini_draft_config,
    write_m3mini,
)
from recipes import load

from pytest_gpubench.demo.tokenizer import EOS_ID
from pytest_gpubench.dialects.vllm import DIALECT
from pytest_gpubench.host.gpus.inventory import Gpu, Inventory
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot
from pytest_gpubench.model.cases import Case, RecipeBook


def _config(cache: Path, repository: str) -> dict[str, object]:
    found = find_snapshot(repository, None, cache, tokenizer=repository != M3MINI_DRAFT)
    assert isinstance(found, Snapshot), found
    config: dict[str, object] = json.loads((found.path / "config.json").read_text())
    return config


def test_a_server_finds_three_complete_repositories(tmp_path: Path) -> None:
    commits = write_m3mini(tmp_path)
    assert tuple(commits) == M3MINI_REPOSITORIES
    plain, quantized = _config(tmp_path, M3MINI), _config(tmp_path, M3MINI_MXFP8)
    assert {key for key in quantized if quantized[key] != plain.get(key)} == {"quantization_config"}
    assert _config(tmp_path, M3MINI_DRAFT)["architectures"] == ["LlamaForCausalLMEagle3"]
    assert write_m3mini(tmp_path) == commits


def test_what_the_kernels_of_minimax_m3_ask_for() -> None:
    text = m3mini_config()["text_config"]
    sparse = text["sparse_attention_config"]
    assert text["head_dim"] == sparse["sparse_index_dim"] == sparse["sparse_block_size"] == 128
    assert sparse["sparse_num_index_heads"] == text["num_key_value_heads"]
    vision = m3mini_config()["vision_config"]
    divided = (
        *(text["num_attention_heads"], text["num_local_experts"], vision["num_attention_heads"]),
        *(text["intermediate_size"] // 128, text["dense_intermediate_size"] // 128),
        m3mini_draft_config()["num_attention_heads"],
    )
    assert all(size % 8 == 0 for size in divided)  # ranks of the largest server
    assert 8 % text["num_key_value_heads"] == 0
    assert text["eos_token_id"] == EOS_ID


@dataclass(frozen=True)
class Run:
    """A hardware run that is planned."""

    hardware: str
    book: RecipeBook
    cache: Path

    def on_eight(self, kind: str) -> list[Case]:
        return [case for case in self.book.cases if case.gpus == 8 and kind in case.recipe]

    def command(self, case: Case) -> list[str]:
        spec = self.book.server(case.server)
        return list(DIALECT.words(spec, ("vllm",), "served"))


@pytest.fixture(scope="module", params=["h100", "h200"])
def run_on_eight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipes of a hardware run, with the models in a cache."""
    folder = tmp_path_factory.mktemp("run")
    write_m3mini(folder)
    return Run(request.param, load(request.param, folder, folder), folder)


def test_the_topologies_of_eight_gpus_are_planned(run_on_eight: Run) -> None:
    cases = run_on_eight.on_eight("-on8")
    servers = {case.server for case in cases}
    assert len(servers) == 12  # TP, TEP, DEP; BF16, MXFP8; with a draft and without
    assert {case.workload.conc for case in cases} == {1, 64, 256}
    assert all(case.runnable for case in cases)


def test_the_doctor_foresees_no_death_on_a_host_with_eight_gpus(
    run_on_eight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}[run_on_eight.hardware]
    gib = {"h100": 80, "h200": 140}[run_on_eight.hardware] << 30
    host = Inventory(tuple(Gpu(i, f"GPU-{i}", name, gib, 0) for i in range(8)), "580.1")
    monkeypatch.setattr(context, "read_inventory", lambda: host)
    known = context.Context(run_on_eight.hardware, tmp_path, run_on_eight.cache, mended=True)
    doctor = known.doctor(run_on_eight.book)
    servers = {case.server for case in run_on_eight.on_eight("m3mini")}
    assert len(servers) > 12
    found = {
        (server, finding.rule)
        for server in servers
        for finding in doctor.findings(server, here=True)
        if finding.severity == "error"
    }
    assert found == set()


def test_the_real_recipes_are_started_with_another_model_and_nothing_else(
    run_on_eight: Run,
) -> None:
    real = f"minimaxm3-fp8-{run_on_eight.hardware}-vllm"
    cases = run_on_eight.on_eight("-real")
    assert len(cases) == 6
    for case in cases:
        mtp = "-mtp" if "-mtp" in case.recipe else ""
        wanted = [
            each
            for each in run_on_eight.book.cases
            if each.recipe == real + mtp
            and each.topology == case.topology
            and each.workload.isl == case.workload.isl
        ]
        if not wanted:
            continue  # this hardware's original has no such row
        ours, theirs = run_on_eight.command(case), run_on_eight.command(wanted[0])
        added = [word for word in ours if word not in theirs]
        assert {word for word in added if word.startswith("--")} == {"--load-format"}
        missing = {word for word in theirs if word.startswith("--") and word not in ours}
        assert missing == set()
