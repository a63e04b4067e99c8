"""Data sets of the hub: fetched once, then read without the network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.host.hub.fetch import FetchSettings, fetch_dataset, local_path
from pytest_gpubench.load.datasets import comparable, dataset_problem, parse_sharegpt, read_text
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.workload import HUB_FILE, Workload
from tests.host.fake_hub import FakeHub, Fault, fake_hub

CHATS = [{"id": "1", "conversations": [{"from": "human", "value": "Where is north?"}]}]
ADDRESS = "hf://datasets/org/chats/data/chats.json"


@pytest.fixture(name="hub")
def _hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with fake_hub() as hub:
        hub.add("org/chats", {"data/chats.json": json.dumps(CHATS).encode()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def _workload(file: str) -> Workload:
    return Workload(64, 8, 1, 1, 1, dataset="sharegpt", dataset_file=file)


def _settings() -> FetchSettings:
    return FetchSettings(attempts=3, backoff=0.01)


def _failure(address: str) -> str:
    with pytest.raises(BenchmarkError) as caught:
        fetch_dataset(address, _settings())
    return f"{caught.value.failure.cause} {caught.value.failure.failure_class} {caught.value}"


def test_it_is_downloaded_once_and_then_read_offline(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch_dataset(ADDRESS, _settings())
    assert fetch_dataset(ADDRESS, _settings()) == local_path(ADDRESS) == path
    assert hub.downloads == {"org/chats/data/chats.json": 1}
    hub.faults.append(Fault(".", "status", times=99))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (chat,) = parse_sharegpt(read_text(ADDRESS), ADDRESS).found
    assert chat.messages == (("user", "Where is north?"),)
    assert dataset_problem(_workload(ADDRESS)) is None
    copied = path.with_name("copy.json")
    copied.write_bytes(path.read_bytes())
    what_it_holds = comparable(_workload(ADDRESS))
    assert what_it_holds == comparable(_workload(str(copied)))


def test_what_was_not_fetched_is_said_before_anything_is_sent(hub: FakeHub) -> None:
    problem = dataset_problem(_workload(ADDRESS))
    assert problem is not None
    assert problem.cause == "dataset-missing"
    assert "gpubench fetch" in problem.remedy
    assert hub.requests == []


def test_gpubench_fetch_brings_it(
    hub: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(
        f"""
tiny-bf16-cpu-vllm:
  model: pytest-gpubench/tiny-llama
  model-prefix: tiny
  precision: bf16
  framework: vllm
  multinode: false
  runner: cpu
  client: {{dataset: sharegpt, dataset-file: "{ADDRESS}"}}
  scenarios:
    fixed-seq-len:
    - {{isl: 32, osl: 8, search-space: [{{tp: 1, conc-list: [1]}}]}}
"""
    )
    for _ in range(2):
        assert main(["fetch", str(recipes), "--cache-dir", str(tmp_path / "weights")]) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed[1] == printed[3] == f"{ADDRESS} {local_path(ADDRESS)}"
    assert hub.downloads == {"org/chats/data/chats.json": 1}


def test_offline_nothing_is_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "dataset-missing infrastructure" in _failure(ADDRESS)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://datasets/org/chats/no.json", "file-not-found recipe"),
        ("hf://datasets/org/none/no.json", "repository-not-found recipe"),
        ("hf://datasets/org/chats@v9/data/chats.json", "revision-not-found recipe"),
    ],
)
def test_what_is_not_on_the_hub(hub: FakeHub, address: str, words: str) -> None:
    assert words in _failure(address)


def test_a_busy_hub_is_asked_again(hub: FakeHub) -> None:
    hub.faults.append(Fault("resolve", "status", method="HEAD", status=503))
    assert fetch_dataset(ADDRESS, _settings()).is_file()


@pytest.mark.parametrize(
    "address",
    [
        "hf://org/chats/chats.json",
        "hf://datasets/org/chats",
        "hf://datasets/org/chats/",
        "hf://datasets/org/chats/../../secret",
        "hf://datasets/org/chats/data/..",
        "hf://datasets//chats/chats.json",
    ],
)
def test_what_is_no_address(address: str) -> None:
    assert HUB_FILE.fullmatch(address) is None
