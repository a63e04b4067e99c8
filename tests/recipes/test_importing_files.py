"""Entries of vllm-project/recipes, workloads of perf-eval and captured points as recipes. The files
here are made up, in the form of those."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_gpubench.commands.importing_recipes import checked, recipes_of_file
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.recipes.importing.imported import Imported, Wishes, text_of
from pytest_gpubench.recipes.importing.official_entries import Picks
from pytest_gpubench.recipes.importing.official_nodes import our_key, own_profile
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.recipes.source_comparison import compare

ENTRY: dict[str, Any] = yaml.safe_load("""
meta: {hardware: {h200: verified, b200: verified, mi300x: verified, h100: unsupported, trillium: verified}}
model:
  model_id: org/Model-9B
  min_vllm_version: "0.24.0"
  docker_image: {nvidia: img:nv, amd: img:amd}
  base_args: ["--block-size", "128", "--trust-remote-code"]
  base_env: {A: 1}
features:
  tools: {args: ["--tool-call-parser", "x"]}
  text_only: {args: ["--language-model-only"]}
  vision:
    args: ["--mm", "plain"]
    hardware_overrides: {nvidia: {args: ["--mm", "nv"]}, amd: {args: ["--mm", "amd"]}}
  node_only: {args: ["--n"], strategies: [multi_node_tp]}
  helped: {args: ["--h"], companion: {command: x}}
  spec_decoding:
    default_mode: eagle3
    modes:
      mtp: {args: ["--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}'], variants: [fp8]}
      eagle3:
        args: ["--speculative-config", '{"method": "eagle3", "model": "o/d", "num_speculative_tokens": 3}']
        hardware: {amd: unsupported}
opt_in_features: [text_only, vision, helped, spec_decoding]
variants:
  default: {precision: bf16, vram_minimum_gb: 150}
  fp8:
    model_id: org/Model-9B-FP8
    precision: fp8
    vram_minimum_gb: 75
    extra_args: ["--kv-cache-dtype", "fp8", "--block-size", "64"]
    extra_env: {B: "x"}
    default_modes: {spec_decoding: mtp}
    hardware_overrides: {h200: {extra_args: ["--exact"], extra_env: {A: 2}, docker_image: "docker pull x"}}
  nvfp4: {model_id: org/Model-9B-NVFP4, precision: nvfp4, vram_minimum_gb: 40, tp: {b200: 2}}
  huge: {precision: bf16, vram_minimum_gb: 9000}
  amd_only: {precision: mxfp4, vram_minimum_gb: 40, supported_hardware: [mi300x]}
compatible_strategies: [single_node_tp, single_node_tep, single_node_dep, multi_node_tp]
hardware_overrides: {amd: {extra_env: {ROCM: "1"}}, nvidia: {extra_args: ["--nv"]}}
strategy_overrides:
  single_node_dep: {extra_args: ["--dep-only"], extra_env: {C: d}}
dependencies: [{note: "needs a wheel", command: "pip install x"}]
""")


def written(folder: Path, document: Any, name: str = "models/org/Model-9B.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def imported(path: Path, picks: Picks | None = None, **wishes: Any) -> list[Imported]:
    made = recipes_of_file(path, Wishes(**wishes), picks or Picks())
    return checked(made, "x")


def test_an_entry_is_a_recipe_per_variant_and_gpu(tmp_path: Path) -> None:
    recipes = {one.name: one for one in imported(written(tmp_path, ENTRY))}
    assert list(recipes) == [
        "model9b-bf16-b200-vllm",
        "model9b-bf16-b200-vllm-dep",
        "model9b-bf16-h200-vllm",
        "model9b-bf16-h200-vllm-dep",
        "model9b-bf16-mi300x-vllm",
        "model9b-bf16-mi300x-vllm-dep",
        "model9b-fp8-b200-vllm-mtp",
        "model9b-fp8-b200-vllm-mtp-dep",
        "model9b-fp8-h200-vllm-mtp",
        "model9b-fp8-h200-vllm-mtp-dep",
        "model9b-fp8-mi300x-vllm-mtp",
        "model9b-fp8-mi300x-vllm-mtp-dep",
        "model9b-fp4-b200-vllm",
        "model9b-fp4-b200-vllm-dep",
        "model9b-fp4-mi300x-vllm-amd-only",
        "model9b-fp4-mi300x-vllm-amd-only-dep",
    ]
    lost = [lost for one in recipes.values() for lost in one.lost if lost.startswith("hardware")]
    assert lost == ["hardware trillium: it is not in our table"]
    one = recipes[next(name for name in recipes if "fp8-h200" in name and "dep" not in name)]
    assert one.body["model"] == "org/Model-9B-FP8"
    assert one.body["requires"] == {"vllm": ">=0.24.0"}
    assert one.body["serve"] == {
        "trust-remote-code": True,
        "kv-cache-dtype": "fp8",
        "block-size": 64,
        "exact": True,
        "nv": True,
        "tool-call-parser": "x",
        "max-model-len": None,
    }
    assert one.body["env"] == {"A": 2, "B": "x"}
    assert one.body["speculative"] == {"method": "mtp", "num-speculative-tokens": 1}
    assert "docker_image: 'docker pull x' is no image" in one.lost
    assert "dependencies: needs a wheel" in one.lost


@pytest.mark.parametrize(
    ("picks", "rows", "serve"),
    [
        (Picks("default", "single_node_tp", "h200"), [{"tp": 8}], {"nv": True}),
        (Picks("fp8", "single_node_tp", "h200"), [{"tp": 1}], {"exact": True}),
        (Picks("nvfp4", "single_node_tp", "b200"), [{"tp": 2}], {}),
        (Picks("default", "single_node_tep", "h200"), [{"tp": 8, "ep": 8}], {}),
        (
            Picks("default", "single_node_dep", "h200"),
            [{"tp": 8, "ep": 8, "dp-attn": True}],
            {"dep-only": True},
        ),
        (Picks("default", "single_node_tp", "h200", ("vision",)), [{"tp": 8}], {"mm": "nv"}),
        (Picks("default", "single_node_tp", "mi300x", ("vision",)), [{"tp": 1}], {"mm": "amd"}),
        (
            Picks("default", "single_node_tp", "h100", ("node_only",)),
            [{"tp": 8}],
            {"block-size": 128},
        ),
    ],
)
def test_what_is_picked_of_an_entry(
    tmp_path: Path, picks: Picks, rows: list[dict[str, Any]], serve: dict[str, Any]
) -> None:
    (recipe,) = imported(written(tmp_path, ENTRY), picks)
    (lengths,) = recipe.body["scenarios"]["fixed-seq-len"]
    for row, wanted in zip(lengths["search-space"], rows, strict=True):
        kept = {
            name: value for name, value in row.items() if name not in ("conc-list", "spec-decoding")
        }
        assert kept == wanted
    assert serve.items() <= recipe.body["serve"].items()


def test_a_draft_that_the_hardware_cannot_run_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, ENTRY)
    picks = Picks("default", "single_node_tp", "mi300x", ("spec_decoding",))
    (recipe,) = imported(path, picks)
    assert "speculative" not in recipe.body
    (recipe,) = imported(
        path, Picks("default", "single_node_tp", "h200", ("spec_decoding", "helped"))
    )
    assert recipe.body["speculative"]["attention-backend"] == "auto"
    assert "features.helped: needs a process of its own beside the server" in recipe.lost


def test_the_taxonomy_of_the_checkout_says_what_a_node_is(tmp_path: Path) -> None:
    path = written(tmp_path, ENTRY)
    profile = {"brand": "NVIDIA", "generation": "hopper", "gpu_count": 4, "vram_gb": 564}
    written(tmp_path, {"hardware_profiles": {"h200": profile}}, "taxonomy.yaml")
    (recipe,) = imported(path, Picks("default", "single_node_tp", "h200"))
    (lengths,) = recipe.body["scenarios"]["fixed-seq-len"]
    assert lengths["search-space"][0]["tp"] == 4


@pytest.mark.parametrize(
    ("name", "key", "gpus"),
    [
        ("h200", "h200", 8),
        ("rtx_pro_6000_2x", "rtxpro6000", 2),
        ("rtx_5090", "rtx5090", 1),
        ("dgx_spark_gb10", "gb10", 1),
        ("dgx_station_gb300", "gb300", 1),
        ("xeon6", "cpu", 1),
        ("trillium", "", 1),
    ],
)
def test_nodes_by_name(name: str, key: str, gpus: int) -> None:
    assert (our_key(name), own_profile(name).gpus) == (key, gpus)


WORKLOAD: dict[str, Any] = yaml.safe_load("""
name: model-h200
gpu: H200
num_gpus: 8
vllm:
  model: org/Model-9B
  image: img:x
  env: {A: 1, HF_HOME: /somewhere}
  serve_args: >-
    --tensor-parallel-size 4 --max-model-len 32768
lm_eval: {tasks: [{name: gsm8k}]}
vllm_bench:
  metadata: {precision: fp8}
  configs:
  - {name: a, backend: openai, dataset: random, input_len: 8192, output_len: 1024, num_prompts: 512,
     max_concurrency: [64, 128], repetitions: 3, args: {num_warmups: 128, odd: 1}}
  - {name: b, backend: openai, input_len: 128, output_len: 32, num_prompts: 7, max_concurrency: 4}
  - {name: c, backend: openai, input_len: many, output_len: 32, num_prompts: 7, max_concurrency: 4}
""")


def test_a_workload_says_what_is_measured(tmp_path: Path) -> None:
    path = written(tmp_path, WORKLOAD, "workloads/model_h200.yaml")
    written(tmp_path, {"H200": {"env": {"G": "skip"}}}, "lib/gpu_profiles.yaml")
    (recipe,) = imported(path)
    assert recipe.name == "model9b-fp8-h200-vllm"
    assert recipe.body["env"] == {"G": "skip", "A": 1}
    assert recipe.body["client"] == {
        "range-ratio": 1,
        "api": "completions",
        "chat-template": "none",
    }
    assert [part["client"] for part in recipe.body["when"]] == [
        {"prompts-per-conc": 8, "warmups-per-conc": 2},
        {"prompts-per-conc": 4, "warmups-per-conc": 1},
        {"warmups-per-conc": 0},
    ]
    assert [(one["isl"], one["osl"]) for one in recipe.body["scenarios"]["fixed-seq-len"]] == [
        (8192, 1024),
        (128, 32),
    ]
    assert [*recipe.lost] == [
        "lm_eval: accuracy tasks, which no case measures",
        "env HF_HOME: where files lie is the machine's",
        "vllm_bench a: repetitions, which --gpubench-launches says here",
        "vllm_bench a: args.odd",
        "vllm_bench b: prompts-per-conc at 4",
        "vllm_bench c: its lengths or concurrencies are no numbers",
    ]


def test_a_workload_without_its_checkout_names_what_it_lacks(tmp_path: Path) -> None:
    document = {
        key: value for key, value in WORKLOAD.items() if key not in ("lm_eval", "vllm_bench")
    }
    (recipe,) = imported(written(tmp_path, document, "w.yaml"), isl=64, osl=8)
    assert recipe.lost[0] == "gpu H200: variables of lib/gpu_profiles.yaml, which is not at hand"
    (lengths,) = recipe.body["scenarios"]["fixed-seq-len"]
    assert lengths["isl"] == 64
    with pytest.raises(GpubenchError, match="names no model"):
        imported(written(tmp_path, {"gpu": "H200", "vllm": {}}, "w.yaml"))


def point(conc: int, *words: str, **changes: Any) -> dict[str, Any]:
    config = {
        "model-prefix": "m", "precision": "fp8", "runner": "cluster:h200-cw", "image": "img:a",
        "isl": 1024, "osl": 1024, "tp": 8, "conc": conc,
    }  # fmt: skip
    argv = [
        "vllm",
        "serve",
        "org/m",
        "--port",
        "8888",
        "-tp",
        "8",
        "--max-model-len",
        "4096",
        *words,
    ]
    case = {
        "key": "m-fp8-h200-vllm",
        "config": config,
        "status": "ok",
        "argv": argv,
        "env": {"A": "1"},
    }
    case["config"] = config | changes.pop("config", {})
    return case | changes


def captured(folder: Path, *points: Any) -> Path:
    path = folder / "argv.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"cases": points}).encode()))
    return path


def test_points_of_one_key_are_one_recipe(tmp_path: Path) -> None:
    path = captured(
        tmp_path,
        point(1, "--a", "x"),
        point(2, "--a", "x", "-ep", env={"A": "1", "MODEL_PATH": "m"}),
        point(
            4,
            "--config",
            "f.yaml",
            files={"f.yaml": {"a": "y", "b": True}},
            config={"image": "img:b"},
        ),
        point(8, argv=[], status="client not reached"),
        point(16, argv=["vllm", "serve", "org/m", "-tp", "2", "-dp", "2"]),
    )
    (recipe,) = imported(path)
    assert recipe.name == "m-fp8-h200-vllm"
    assert recipe.lost == (
        "1 point (isl 1024 conc 8): no server was started (client not reached)",
        "1 point (isl 1024 conc 16): no row of a search space says this parallelism: "
        "--tensor-parallel-size 2 --data-parallel-size 2 (rows know tp, pp, ep and dp-attn, "
        "data-parallel over all ranks)",
    )
    assert recipe.body["serve"] == {"max-model-len": 4096}
    row = "isl == 1024 and osl == 1024 and tp == 8 and ep == {} and pp == 1 and not dp_attn and conc in [{}]"
    assert recipe.body["when"] == [
        {"if": row.format(1, 1), "serve": {"a": "x"}, "image": "img:a"},
        {"if": row.format(8, 2), "serve": {"a": "x"}, "image": "img:a"},
        {"if": row.format(1, 4), "serve": {"a": "y", "b": True}, "image": "img:b"},
    ]
    (lengths,) = recipe.body["scenarios"]["fixed-seq-len"]
    assert lengths["search-space"] == [
        {"tp": 8, "conc-list": [1, 4]},
        {"tp": 8, "ep": 8, "conc-list": [2]},
    ]


def test_a_key_of_several(tmp_path: Path) -> None:
    path = captured(
        tmp_path,
        point(1),
        point(1, key="other", config={"runner": "nothing", "model-prefix": "o"}),
        point(1, key="m-fp8-h200-vllm-b"),
    )
    assert [one.name for one in recipes_of_file(path, Wishes(), Picks())] == [
        "m-fp8-h200-vllm",
        "m-fp8-h200-vllm-b",
    ]
    (one,) = recipes_of_file(path, Wishes(), Picks(), "m-fp8-h200-vllm-b")
    assert one.name == "m-fp8-h200-vllm-b"
    with pytest.raises(GpubenchError, match="no point has the key 'x'"):
        recipes_of_file(path, Wishes(), Picks(), "x")
    with pytest.raises(GpubenchError, match="other: unknown runner 'nothing'"):
        recipes_of_file(path, Wishes(), Picks(), "other")


@pytest.mark.parametrize(
    "changes", [{"config": 1}, {"argv": 1}, {"argv": [1]}, {"env": []}, {"key": 1}]
)
def test_points_of_another_shape_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    broken = point(1) | changes
    with pytest.raises(GpubenchError, match="holds no captured points"):
        imported(captured(tmp_path, broken))


def test_strategies_of_one_parallelism_are_one_row(tmp_path: Path) -> None:
    document = ENTRY | {"model": ENTRY["model"] | {"base_args": ["--enable-expert-parallel"]}}
    recipes = imported(written(tmp_path, document), Picks("default", "", "h200"))
    rows = [
        row for one in recipes for row in one.body["scenarios"]["fixed-seq-len"][0]["search-space"]
    ]
    assert [(row["tp"], row["ep"], "dp-attn" in row) for row in rows] == [
        (8, 8, False),
        (8, 8, True),
    ]


def test_a_draft_inside_the_model_and_numbers_that_are_text(tmp_path: Path) -> None:
    draft = '{"method": "dspark", "num_speculative_tokens": "2", "max_model_len": "4096"}'
    document = ENTRY | {"features": {"spec_decoding": {"args": ["--speculative-config", draft]}}}
    picks = Picks("default", "single_node_tp", "h200", ("spec_decoding",))
    (recipe,) = imported(written(tmp_path, document), picks)
    assert recipe.body["speculative"] == {
        "method": "dspark",
        "num-speculative-tokens": 2,
        "max-model-len": 4096,
    }
    assert [*recipe.lost] == ["dependencies: needs a wheel"]


def test_an_imported_entry_is_as_its_source(tmp_path: Path) -> None:
    path = written(tmp_path, ENTRY)
    every = Picks(features=("text_only", "vision", "spec_decoding"))
    for picks in (Picks(), every, Picks("fp8", "", "rtx_pro_6000_2x")):
        recipes = recipes_of_file(path, Wishes(), picks)
        file = tmp_path / "recipes.yaml"
        file.write_text(text_of(recipes, "x"))
        book = load_recipes([file], policy="point")
        assert not book.problems
        for recipe in recipes:
            cases = [case for case in book.cases if case.recipe == recipe.name]
            assert cases[0].source == "https://recipes.vllm.ai/org/Model-9B"
            assert compare(cases, dict(book.servers), ENTRY, {}).differences == ()


def test_the_source_says_what_would_not_be_meant_without_a_word(tmp_path: Path) -> None:
    twin = {"precision": "bf16", "vram_minimum_gb": 30, "extra_args": ["--twin"]}
    document = ENTRY | {"variants": {"default": ENTRY["variants"]["default"], "twin": twin}}
    path = written(tmp_path, document)
    (recipe,) = imported(path, Picks("twin", "single_node_tp", "rtx_5090_2x", ("text_only",)))
    assert recipe.body["source"] == {
        "at": "https://recipes.vllm.ai/org/Model-9B",
        "variant": "twin",
        "hardware": "rtx_5090_2x",
        "features": ["text_only"],
    }
    (recipe,) = imported(path, Picks("default", "single_node_tp", "h200"))
    assert recipe.body["source"] == "https://recipes.vllm.ai/org/Model-9B"
    (recipe,) = imported(
        written(tmp_path, document, "odd folder/x.yaml"), Picks("twin", "single_node_tp", "h200")
    )
    assert "source" not in recipe.body
