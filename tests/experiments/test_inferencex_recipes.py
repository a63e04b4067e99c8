"""The shipped recipes against what InferenceX's own scripts start (experiments/inferencex)."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.loading import load_recipes

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "inferencex"))
import captured
import report


@pytest.fixture(scope="module")
def book() -> RecipeBook:
    return load_recipes([report.SHIPPED], policy="point")


def test_no_problems_and_no_id_twice(book: RecipeBook) -> None:
    assert [str(problem) for problem in book.problems] == []
    assert len({case.id for case in book.cases}) == len(book.cases) > 2700


def test_vllm(book: RecipeBook) -> None:
    result = report.compare(book, "vllm")
    assert (result.points, result.equal, result.missing) == (1742, 1741, {})
    assert list(result.differing) == [  # their script does not read its row's dp-attn
        "minimaxm2.5-fp8-b300-vllm: --data-parallel-size is None there and 2 here",
        "minimaxm2.5-fp8-b300-vllm: --tensor-parallel-size is 2 there and 1 here",
    ]
    # a row of the first pull requests that the later files lack
    assert result.more == ["minimaxm3-fp8-h200-vllm-tep8-1k1k-c512:1k1k-c512"]


def test_sglang(book: RecipeBook) -> None:
    result = report.compare(book, "sglang")
    assert (result.points, result.equal, result.missing) == (991, 978, {})
    assert result.differing == {  # their script leaves it out
        "dsv4-fp4-b200-sglang: --ep-size is None there and 8 here": 10,
        "dsv4-fp4-b300-sglang: --ep-size is None there and 8 here": 3,
    }
    assert result.more == []


def test_vllm_agentic(book: RecipeBook) -> None:
    result = report.compare(book, "vllm-agentic")
    assert (result.points, result.equal, result.missing) == (74, 74, {})
    assert (result.differing, result.more) == ({}, [])
    traces = [case for case in book.cases if case.workload.dataset == "agentic"]
    assert len(traces) == 74
    # AIPerf replays what an engine alone can serve; the others need a router or a store beside it.
    reasons = Counter(case.why_not.partition(", which")[0] for case in traces)
    assert reasons == {
        "": 46,
        "its row needs vllm-router beside the engine": 13,
        "its row needs mooncake_master beside the engine": 9,
        "its flags live in a shell script: the entry has no `speculative`": 6,
    }


def test_a_difference_is_seen(tmp_path: Path) -> None:
    folder = Path(report.SHIPPED).parent / "recipes.d"
    for name in ("gpt-oss.yaml", "inferencex.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    text = (tmp_path / "gpt-oss.yaml").read_text()
    changed = text.replace("max-num-batched-tokens: 8192", "max-num-batched-tokens: 8193")
    changed = changed.replace("image: vllm/", "image: other/", 1)
    assert changed != text
    (tmp_path / "gpt-oss.yaml").write_text(changed.replace("VLLM_MXFP4_USE_MARLIN: 1", "A: 1"))
    result = report.compare(load_recipes([tmp_path / "gpt-oss.yaml"], policy="point"), "vllm")
    seen = set(result.differing)
    assert {
        "gptoss-fp4-h100-vllm: --max-num-batched-tokens is 8192 there and 8193 here",
        "gptoss-fp4-h100-vllm: VLLM_MXFP4_USE_MARLIN is '1' there and None here",
        "gptoss-fp4-h100-vllm: A is None there and '1' here",
    } <= seen
    assert any("image is 'vllm/" in one and "and 'other/" in one for one in seen)
    assert result.missing["dsv4-fp4-b200-vllm"] == 27


@pytest.mark.parametrize(
    ("engine", "words", "flags"),
    [
        ("vllm", "vllm serve m --port 1 --a_b=1 --no-c", {"model": "m", "a-b": 1, "c": False}),
        ("vllm", "vllm serve m --x '{}' --x.y_z True -cc.k.l=2", {
            "model": "m", "x": {"y_z": True}, "compilation-config": {"k": {"l": 2}},
        }),
        ("vllm", "vllm serve m --config f.yaml", {"model": "m", "seed": 3}),
        ("sglang", "python3 -m sglang.launch_server --model m --tp 4 --ep-size 1", {
            "model-path": "m", "tp-size": 4,
        }),
        ("sglang", "sglang serve --model-path m --cuda-graph-bs 1 2 --off", {
            "model-path": "m", "cuda-graph-bs": ["1", "2"], "off": True,
        }),
    ],
)  # fmt: skip
def test_command_lines_are_compared_as_they_are_understood(
    engine: str, words: str, flags: dict[str, object]
) -> None:
    assert report.understood(engine, shlex.split(words), {"f.yaml": {"seed": 3}}) == flags


def test_captures_are_packed_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, object] = dict.fromkeys(("isl", "osl", "tp", "pp", "ep", "conc"), 1)
    config |= {"dp-attn": False, "image": "i"}
    folder = [["hf", "download", "org/m", "--local-dir", "/models/m"], ["curl"]]
    cases: list[dict[str, object]] = [
        {"key": key, "config": config | {"spec-decoding": spec}, "argv": ["a"], "env": {"X": "1"}}
        for key, spec in (("k", "none"), ("k", "mtp"), ("l", "none"))
    ]
    traces = {name: value for name, value in config.items() if name not in ("isl", "osl")}
    traces |= {"spec-decoding": "mtp", "kv-offloading": "dram"}
    env = {"X": "1", "AIPERF_A": "2", "GPU_COUNT": "1"}
    cases.append({"key": "t", "config": traces, "argv": ["/models/m"], "env": env, "steps": folder})
    (tmp_path / "vllm.json.gz").write_bytes(captured.pack(cases))
    monkeypatch.setattr(captured, "HERE", tmp_path)
    *points, trace = captured.read("vllm")
    assert [(one.key, one.place[-1]) for one in points] == [("k", False), ("k", True), ("l", False)]
    assert {(one.image, one.argv, one.env["X"]) for one in points} == {("i", ("a",), "1")}
    assert (trace.place, trace.argv) == ((0, 0, 1, 1, 1, False, 1, True, "dram"), ("org/m",))
    assert trace.env == {"X": "1"}
