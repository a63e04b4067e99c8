"""The doctor against public configurations: vLLM's official recipes for the hardware on which they
are marked verified, and the sizes of weights that were published.

    python experiments/doctor/official.py            # both tables
    python experiments/doctor/official.py --errors   # every finding of severity error

``models.json.gz`` has the config.json (with the quantization of hf_quant_config.json) of models, as
their pages on the hub have them, gathered by NVIDIA's aiconfigurator (commit of 2026-11) and by
this project; ``gb`` is the published size of the weight files. ``official.json.gz`` has what the
recipes of recipes.vllm.ai (commit 8959cf6) say: model, hardware marked verified, flags, variables,
and each of their single-node strategies on the fewest GPUs that hold the weights by the recipe's own
number.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_gpubench.doctor.findings import Finding
from pytest_gpubench.doctor.rules import examine
from pytest_gpubench.doctor.shape import shape_of
from pytest_gpubench.doctor.weight_estimate import weight_bytes
from pytest_gpubench.model.frozen import FrozenMap, freeze
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.specs import ServerSpec, Topology

HERE = Path(__file__).parent
_TOPOLOGIES = {
    "single_node_tp": lambda gpus: Topology(gpus),
    "single_node_tep": lambda gpus: Topology(gpus, ep=gpus),
    "single_node_dep": lambda gpus: Topology(gpus, ep=gpus, dp_attn=True),
}


def read(name: str) -> Any:
    """One of the two files."""
    return json.loads(gzip.decompress((HERE / f"{name}.json.gz").read_bytes()))


def findings(entry: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Finding, ...]:
    """What the doctor says of one configuration."""
    spec = ServerSpec(
        framework="vllm",
        model=entry["model"],
        hardware=entry["hardware"],
        topology=_TOPOLOGIES[entry["strategy"]](entry["gpus"]),
        serve=FrozenMap({name: freeze(value) for name, value in entry["serve"].items()}),
        env=FrozenMap({name: str(value) for name, value in entry["env"].items()}),
    )
    return examine(spec, hardware=HARDWARE[entry["hardware"]], target=config)


def sizes(models: Mapping[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    """Per model with a published size: it, and the estimate of one rank that holds everything, in
    GB; None: no estimate."""
    for name, model in models.items():
        if "gb" in model and "eagle3" not in name.lower():  # a draft shares what it does not hold
            estimate = weight_bytes(shape_of(model["config"]), Topology())
            yield name, model["gb"], estimate and estimate / 1e9


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--errors", action="store_true")
    options = parser.parse_args()
    models, official = read("models"), read("official")
    wrong: Counter[str] = Counter()
    ill = 0
    for entry in official:
        errors = [
            one
            for one in findings(entry, models[entry["model"]]["config"])
            if one.severity == "error"
        ]
        ill += bool(errors)
        wrong.update(one.rule for one in errors)
        if options.errors and errors:
            place = f"{entry['model']} on {entry['gpus']} x {entry['hardware']}"
            print(f"{place}, {entry['strategy']}: {'; '.join(str(one) for one in errors)}")
    count = len({entry["model"] for entry in official})
    print(f"{len(official)} configurations of {count} models, {ill} with an error: {dict(wrong)}\n")
    print("| model | published, GB | estimate, GB | error |\n|---|---|---|---|")
    shares = []
    for name, published, estimate in sizes(models):
        if estimate is None:
            print(f"| {name} | {published:g} | unknown | |")
            continue
        share = estimate / published - 1
        shares.append(abs(share))
        print(f"| {name} | {published:g} | {estimate:.1f} | {share:+.1%} |")
    print(
        f"\n{len(shares)} estimates: median error {statistics.median(shares):.1%}, "
        f"worst {max(shares):.1%}"
    )


if __name__ == "__main__":
    main()
