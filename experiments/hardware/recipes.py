"""The recipes of the hardware run, made for the hardware at hand; they extend those of this
repository."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from m3mini import M3MINI, M3MINI_DRAFT, M3MINI_MXFP8, m3mini_config, write_m3mini

from pytest_gpubench.demo.models import DEMO_DRAFT, DEMO_TARGET, write_demo_models
from pytest_gpubench.demo.tokenizer import to_json
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.recipes.loading import load_recipes

REPOSITORY = Path(__file__).parents[2]
SHIPPED = (REPOSITORY / "recipes.yaml", Path(__file__).with_name("m3mini.yaml"))
_GIB = 1 << 30
SMALL: dict[str, Any] = {"gpu-memory-utilization": 0.05, "kv-cache-memory-bytes": _GIB}
"""Many servers share a GPU. With a fixed cache they need not agree on how much memory is free while
the others start."""

SEVERAL = {2: [1, 16, 256], 4: [1, 16, 256], 8: [1, 64, 256]}
"""Concurrencies at which the topologies of so many GPUs are measured."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """A server that should not start, or should be warned of."""

    name: str
    what: str
    recipe: dict[str, Any]
    gpus: int = 1
    on: tuple[str, ...] = ("h100", "h200")


def load(
    hardware: str, cache: Path, folder: Path, policy: SharingPolicy | None = None
) -> RecipeBook:
    """Write the recipes into ``folder`` and load them with those that they extend.

    Raises:
        ValueError: if they have problems.
    """
    path = folder / "recipes.yaml"
    path.write_text(yaml.safe_dump(_document(hardware, cache), sort_keys=False), encoding="utf-8")
    book = load_recipes([*SHIPPED, path], policy=policy)
    if book.problems:
        raise ValueError("\n".join(map(str, book.problems)))
    return book


def prepare(cache: Path) -> None:
    """Write every model that the recipes name, and the misshapen ones, into the cache folder."""
    write_demo_models(cache)
    write_m3mini(cache)
    whole = find_snapshot(M3MINI, None, cache)
    if not isinstance(whole, Snapshot):
        raise ValueError(whole.reason)
    for name, config in _misshapen().items():
        target = _folder(cache, name)
        target.mkdir(parents=True, exist_ok=True)
        for path in whole.path.iterdir():
            (target / path.name).write_bytes(
                to_json(config) if path.name == "config.json" else path.read_bytes()
            )


def _misshapen() -> dict[str, dict[str, Any]]:
    return {"vision-heads": m3mini_config(vision_heads=3), "one-expert": m3mini_config(experts=1)}


def _folder(cache: Path, name: str) -> Path:
    return cache / "misshapen" / name


def _document(hardware: str, cache: Path) -> dict[str, Any]:
    tiny = f"tiny-bf16-{hardware}-vllm"
    base = ["tiny-cpu" if hardware == "cpu" else "tiny-h100"]
    small = {} if hardware == "cpu" else SMALL
    scale = 1 if hardware == "cpu" else 8
    recipes: dict[str, Any] = {
        f"{tiny}-mtp-aa": {
            "extends": [*base, "tiny-draft"],
            "runner": hardware,
            "serve": small,
            "client": {"prompts-per-conc": 6, "warmups-per-conc": 1},
            "scenarios": _points([(128, 16 * scale, [8 * scale])], "mtp"),
        },
        f"{tiny}-mtp-client": {
            "extends": [*base, "tiny-draft"],
            "runner": hardware,
            "serve": {
                **small,
                "enable-per-request-metrics": True,
                **({"max-num-seqs": 256} if hardware != "cpu" else {}),
            },
            "client": {"range-ratio": 1.0},
            "scenarios": _points(
                [(128, 16 * scale, [1, 8, 64, 256] if hardware != "cpu" else [1, 8])], "mtp"
            ),
        },
        f"{tiny}-mtp-capture": {
            "extends": [*base, "tiny-draft"],
            "runner": hardware,
            "serve": {**small, "max-cudagraph-capture-size": 512},
            "scenarios": _points([(128, 16, [64])], "mtp"),
        },
    }
    for each in doomed(hardware, cache):
        recipes[each.name] = each.recipe
    if hardware == "cpu":
        recipes[f"{tiny}-sharing"] = {
            "extends": base,
            "serve": {
                "max-model-len": "${isl + osl + 64}",
                "max-num-batched-tokens": "${2 * (isl + osl + 64)}",
            },
            "scenarios": _points([(64, 16, [1, 4])]),
        }
    else:
        m3mini = f"m3mini-bf16-{hardware}-vllm"
        recipes[f"{m3mini}-sharing"] = {
            "extends": m3mini,
            "serve": SMALL,
            "client": {"prompts-per-conc": 6},
            "scenarios": _points([(1024, 128, [1, 16, 64]), (2048, 128, [1, 16, 64])]),
        }
        for gpus, concs in SEVERAL.items():
            tep = {"tp": gpus, "ep": gpus}
            rows = [{"tp": gpus}, tep, {**tep, "dp-attn": True}]
            for extended in several_bases(hardware, gpus):
                recipes[f"{extended}-on{gpus}"] = {
                    "extends": extended,
                    "serve": SMALL,
                    "when": [{"if": "dp_attn", "serve": SMALL}],
                    "scenarios": _points(
                        [(2048, 128, concs)], "mtp" if extended.endswith("-mtp") else "", rows
                    ),
                }
        recipes.update(_real(hardware))
        recipes[f"m3mini-bf16-{hardware}-vllm-multicast"] = {
            "extends": m3mini,
            "serve": SMALL,
            "when": [{"if": "tp > 1", "env": {"VLLM_FLASHINFER_ALLREDUCE_BACKEND": "auto"}}],
            "scenarios": _points([(2048, 128, [1])], "", [{"tp": 2}]),
        }
    return recipes


def several_bases(hardware: str, gpus: int) -> list[str]:
    """Recipes of the shrunken MiniMax-M3 whose topologies start side by side on so many GPUs."""
    kinds = ["-mtp", ""] if gpus == 8 else ["-mtp"]
    return [f"m3mini-{bits}-{hardware}-vllm{kind}" for bits in ("bf16", "fp8") for kind in kinds]


def _real(hardware: str) -> dict[str, Any]:
    """MiniMax-M3's own recipes on eight GPUs with nothing replaced but the model; one point of each
    topology."""
    rows = [{"tp": 8}, {"tp": 8, "ep": 8}, {"tp": 8, "ep": 8, "dp-attn": True}]
    return {
        f"m3mini-fp8-{hardware}-vllm{kind}-real": {
            "extends": f"minimaxm3-fp8-{hardware}-vllm{kind}",
            "model": M3MINI_MXFP8,
            "model-prefix": "m3mini",
            "source": None,
            "image": None,
            "serve": {"load-format": "dummy"},
            "client": {"prompts-per-conc": 2},
            "scenarios": _points([(1024, 1024, [8])], kind.strip("-"), rows),
            **({"speculative": {"model": M3MINI_DRAFT}} if kind else {}),
        }
        for kind in ("", "-mtp")
    }


def doomed(hardware: str, cache: Path) -> list[Doomed]:
    """Servers that the doctor and the engine are both asked about; names are their recipes'
    names."""
    tiny, m3mini = f"tiny-bf16-{hardware}-vllm", f"m3mini-bf16-{hardware}-vllm"
    mxfp8 = f"m3mini-fp8-{hardware}-vllm"

    def of(
        base: str, variant: str, what: str, serve: dict[str, Any], *, gpus: int = 1, **more: Any
    ) -> Doomed:
        mtp = base.endswith("-mtp")
        rows = [{"tp": gpus}]
        points = _points([(128, 32, [more.pop("conc", 1)])], "mtp" if mtp else "", rows)
        small = {} if hardware == "cpu" else SMALL
        extends = base
        if hardware == "h200" and base.startswith("tiny"):
            extends, more = base.replace("h200", "h100"), {"runner": "h200", **more}
        on = ("cpu", "h100", "h200") if more.pop("everywhere", False) else ("h100", "h200")
        recipe = {"extends": extends, "serve": {**small, **serve}, "scenarios": points, **more}
        return Doomed(f"{base}-{variant}", what, recipe, gpus, on)

    draft = {"method": "eagle3", "num-speculative-tokens": 3}
    every = [
        of(
            f"{m3mini}-mtp",
            "flashinfer",
            "draft on FLASHINFER",
            {},
            speculative={"attention-backend": "FLASHINFER"},
        ),
        of(m3mini, "block64", "block size 64", {"block-size": 64}),
        of(m3mini, "threeways", "16 heads on 3 ranks", {}, gpus=3),
        of(
            f"{tiny}-mtp",
            "capture4",
            "capture size 4, 64 requests of 4 tokens",
            {"max-cudagraph-capture-size": 4},
            conc=64,
        ),
        of(
            tiny,
            "greedy",
            "utilisation 1.0 of a GPU",
            {"gpu-memory-utilization": 1.0, "kv-cache-memory-bytes": None},
        ),
        of(
            m3mini,
            "longcontext",
            "context longer than the cache",
            {"max-model-len": 16384, "kv-cache-memory-bytes": 1 << 26},
        ),
        of(
            tiny,
            "beyondmodel",
            "context longer than the model's",
            {"max-model-len": 65536},
            everywhere=True,
        ),
        of(mxfp8, "awq", "another quantization than the checkpoint's", {"quantization": "awq"}),
        of(
            f"{tiny}-mtp",
            "nodraft",
            "draft that is nowhere",
            {},
            speculative={"model": "pytest-gpubench/no-such"},
            everywhere=True,
        ),
        of(
            f"{m3mini}-mtp",
            "wrongdraft",
            "draft of another model",
            {},
            speculative={**draft, "model": DEMO_DRAFT},
        ),
        of(
            tiny,
            "backend",
            "attention backend that does not exist",
            {"attention-backend": "FLASH_ATTENTION_9"},
            everywhere=True,
        ),
        of(tiny, "unchunked", "batch below the context, unchunked", _UNCHUNKED, everywhere=True),
        of(tiny, "flag", "flag that does not exist", {"nonsense-flag": 1}, everywhere=True),
        of(
            tiny,
            "hugecache",
            "cache of 200 GiB: out of memory at its allocation",
            {"kv-cache-memory-bytes": 200 * _GIB},
        ),
        of(
            m3mini,
            "visionheads",
            "3 vision heads on 2 ranks",
            {},
            gpus=2,
            model=str(_folder(cache, "vision-heads")),
        ),
        of(
            m3mini,
            "oneexpert",
            "1 expert on 2 ranks",
            {},
            gpus=2,
            model=str(_folder(cache, "one-expert")),
        ),
    ]
    return [each for each in every if hardware in each.on]


_UNCHUNKED = {"enable-chunked-prefill": False, "max-num-batched-tokens": 256}


def _points(
    shapes: list[tuple[int, int, list[int]]],
    spec: str = "",
    rows: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    label = {"spec-decoding": spec} if spec else {}
    return {
        "fixed-seq-len": [
            {
                "isl": isl,
                "osl": osl,
                "search-space": [
                    {**row, "conc-list": concs, **label} for row in rows or [{"tp": 1}]
                ],
            }
            for isl, osl, concs in shapes
        ]
    }


def tokenizer_folder(cache: Path) -> Path:
    """The embedded pair's tokenizer, for tools that want one."""
    found = find_snapshot(DEMO_TARGET, None, cache)
    if not isinstance(found, Snapshot):
        raise ValueError(found.reason)
    return found.path


def dump(path: Path, value: Any) -> None:
    """Write JSON, whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    temporary.replace(path)
