"""Servers to examine: from the logs of real ones, and from a small healthy one that tests make
ill."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.doctor.context import Node
from pytest_gpubench.model.cases import Case, Identity, SourcePosition
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import HARDWARE, Hardware
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology
from pytest_gpubench.model.workload import Workload

HERE = Path(__file__).parent
LOGS = HERE / "logs"
"""The lines of the real logs (vLLM 0.26.0, H100 and H200) that say what was served and what came of
it."""
_ROW_FLAGS = (
    "tensor_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "speculative_config",
)
_NOT_FLAGS = ("model", "model_tag", "host", "port", "served_model_name", "api_server_count")


def config(name: str) -> dict[str, Any]:
    """A config.json that was served."""
    loaded: dict[str, Any] = json.loads(
        (HERE / "configs" / f"{name}.json").read_text(encoding="utf-8")
    )
    return loaded


TINY_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "vocab_size": 2048,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
TINY_DRAFT: dict[str, Any] = {
    **TINY_LLAMA,
    "architectures": ["LlamaForCausalLMEagle3"],
    "num_hidden_layers": 1,
    "draft_vocab_size": 2048,
    "eagle_aux_hidden_state_layer_ids": [2, 4, 5],
}


@dataclass(frozen=True, slots=True)
class Served:
    """A server that was really started."""

    spec: ServerSpec
    hardware: Hardware
    node: Node
    target: Mapping[str, Any]
    draft: Mapping[str, Any] | None
    log: str

    def number(self, pattern: str) -> float | None:
        found = re.search(pattern, self.log)
        return float(found.group(1).replace(",", "")) if found else None


def served(name: str) -> Served:
    """Read one log: the spec from its ``non-default args`` line, the model's config.json as it was
    at that time."""
    log = (LOGS / f"{name}.log").read_text(encoding="utf-8")
    found = re.search(r"non-default args: (\{.*\})", log)
    assert found is not None
    args: dict[str, Any] = ast.literal_eval(found.group(1))
    tp, dp = args.get("tensor_parallel_size", 1), args.get("data_parallel_size", 1)
    ep = bool(args.get("enable_expert_parallel"))
    draft = args.get("speculative_config")
    spec = ServerSpec(
        framework="vllm",
        model=args["model"],
        hardware="h200" if "h200" in name else "h100",
        topology=Topology(tp=tp * dp, ep=tp * dp if ep else 1, dp_attn=dp > 1),
        serve=FrozenMap(
            {
                key.replace("_", "-"): value
                for key, value in args.items()
                if key not in (*_ROW_FLAGS, *_NOT_FLAGS)
            }
        ),
        speculative=None
        if draft is None
        else Speculative(
            draft["method"],
            draft["num_speculative_tokens"],
            draft["model"],
            attention_backend=draft.get("attention_backend"),
        ),
    )
    total = re.search(r"Free memory on device \([0-9.]+/([0-9.]+) GiB\)", log)
    multicast = False if "symmetric memory multicast operations are not supported" in log else None
    node = Node(
        gpus=4 if "h200" in name else 1,
        vram_gib=float(total.group(1)) if total else None,
        multicast=multicast,
    )
    model, head = _models(args["model"])
    return Served(spec, HARDWARE[spec.hardware], node, model, head if draft else None, log)


def _models(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if "tiny" in path:
        # not kept; rebuilt from its description (8 layers, hidden 256): nothing here is measured
        # against its memory
        return TINY_LLAMA, TINY_DRAFT
    target = config("m3mini-mxfp8" if path.endswith("m3q") else "m3mini")
    # the vision tower got its 8 heads only after these runs
    return {
        **target,
        "vision_config": {**target["vision_config"], "num_attention_heads": 2},
    }, config("m3mini-eagle3")


def server(
    *,
    hardware: str = "h100",
    tp: int = 1,
    pp: int = 1,
    pcp: int = 1,
    dcp: int = 1,
    ep: bool = False,
    dp_attn: bool = False,
    model: str = "org/model",
    draft: Speculative | None = None,
    env: Mapping[str, Any] | None = None,
    extra_args: tuple[str, ...] = (),
    **serve: Any,
) -> ServerSpec:
    """A server that sets what a careful recipe sets; keywords become flags (``None`` takes one
    away)."""
    flags = {
        "max_model_len": 2304,
        "enable_prefix_caching": False,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 4096,
        **serve,
    }
    return ServerSpec(
        framework="vllm",
        model=model,
        hardware=hardware,
        topology=Topology(
            tp=tp, pp=pp, pcp=pcp, dcp=dcp, ep=tp if ep or dp_attn else 1, dp_attn=dp_attn
        ),
        serve=FrozenMap(
            {key.replace("_", "-"): value for key, value in flags.items() if value is not None}
        ),
        speculative=draft,
        env=FrozenMap(env or {}),
        extra_args=extra_args,
    )


def eagle3(tokens: int = 3, backend: str | None = "FLASH_ATTN", **options: Any) -> Speculative:
    return Speculative(
        "eagle3", tokens, "org/draft", attention_backend=backend, options=FrozenMap(options)
    )


def case(
    conc: int = 1,
    isl: int = 1024,
    osl: int = 1024,
    *,
    topology: Topology | None = None,
    api: Any = "chat",
) -> Case:
    return Case(
        id=f"server:{isl}x{osl}-c{conc}",
        recipe="recipe",
        identity=Identity("model", "bf16", "h100", "vllm"),
        model="org/model",
        runner="h100",
        topology=topology or Topology(),
        workload=Workload(isl, osl, conc, 10 * conc, 2 * conc, api=api),
        max_model_len=isl + osl + 256,
        server="server",
        tags=(),
        position=SourcePosition("recipes.yaml", 1, 1),
    )
