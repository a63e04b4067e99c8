"""InferenceX's conventions: runner labels, identity and names of recipes, and files with its keys
only.

Hardware comes from the runner label, identity from the fields, and the name may not say otherwise.
What of a file that has only InferenceX keys cannot run here is listed, the rest goes on.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pytest_gpubench.dialects.registry import frameworks
from pytest_gpubench.model.cases import Identity, Unsupported
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.workload import AGENTIC
from pytest_gpubench.recipes.fields import is_token
from pytest_gpubench.recipes.problems import did_you_mean
from pytest_gpubench.recipes.yaml_tree import Node

SPEC_WORD = "mtp"
"""The id's word for speculative decoding, whatever the method, as InferenceX spells it."""

_CLUSTER = "cluster:"
"""Begins a label that names a whole site: `cluster:b200-dgxc`."""
_OTHER_WORDS: dict[str, str] = {"rtx6000pro": "rtxpro6000"}
"""Words of InferenceX for hardware that has another key here."""

_PYTEST_WORDS = frozenset({
    "and", "or", "not", "none", "true", "false", "skip", "skipif", "xfail", "parametrize",
    "usefixtures", "filterwarnings",
    "tryfirst", "trylast", "timeout", "flaky", "benchmark", "gpubench",
})  # fmt: skip


def hardware_of(label: str, runners: Mapping[str, str]) -> str | None:
    """The hardware key that a runner label means, None if none: what a file declares, else the
    label's own word: `b200`, `b200-dgxc` and `cluster:b200-dgxc` are machines with a B200."""
    if label in runners:
        return runners[label]
    word = label.removeprefix(_CLUSTER).split("-", 1)[0]
    word = _OTHER_WORDS.get(word, word)
    return word if word in HARDWARE else None


def runner_hint(label: str, runners: Mapping[str, str]) -> str:
    """What to do about a label that means nothing here."""
    known = [*runners, *HARDWARE, *_OTHER_WORDS]
    return did_you_mean(label, known) or (
        f"; declare it: `runners: {{{label}: {{hardware: ...}}}}` (hardware: "
        f"{', '.join(HARDWARE)}; for another NVIDIA GPU `gpubench gpus` prints the entry there)"
    )


def token_error(word: str) -> str | None:
    """Why a word cannot be part of an id and a mark, None if it can."""
    if not is_token(word):
        return f"'{word}' is not made of lower-case letters, digits and dots"
    if keyword.iskeyword(word) or word in _PYTEST_WORDS:
        return f"'{word}' has a meaning of its own in pytest's -k and -m"
    return None


def name_error(
    name: str, fields: Identity, labelled: Iterable[bool], *, agentic: bool = False
) -> tuple[str, str]:
    """Compare a recipe's name with its fields.

    Args:
        name: the key in the file.
        fields: identity from the fields, without spec and variant.
        labelled: per row, whether it has ``spec-decoding: mtp``.
        agentic: whether its rows are of traces; after that word the original orders the others
            freely, and not every drafted entry says so.

    Returns:
        What is wrong (empty if nothing), and the variant that the rest of the name spells.
    """
    words = name.split("-")
    rows = list(labelled)
    all_drafted = bool(rows) and all(rows)
    base = {
        "model-prefix": fields.model,
        "precision": fields.precision,
        "runner": fields.hardware,
        "framework": fields.framework,
    }
    wanted = replace(fields, spec=SPEC_WORD if all_drafted else "").label
    for index, (key, meant) in enumerate(base.items()):
        said = words[index : index + 1]
        if key == "runner":
            said = [_OTHER_WORDS.get(word, word) for word in said]
        if said != [meant]:
            says = f"says '{said[0]}'" if any(said) else "stops"
            mend = f"rename it to '{wanted}' or mend the field"
            return f"the name {says} where `{key}` means '{meant}'; {mend}", ""
    rest = words[len(base) :]
    if agentic and rest[:1] == [AGENTIC]:
        others = [word for word in rest[1:] if word != SPEC_WORD]
        rest = [SPEC_WORD, *others] if all_drafted or SPEC_WORD in rest else others
    named = rest[:1] == [SPEC_WORD]
    if named and not all(rows):
        lack = f"{sum(not row for row in rows)} of {len(rows)} rows lack `spec-decoding: mtp`"
        return f"the name says '{SPEC_WORD}' but {lack}; label them or rename it", ""
    if all_drafted and not named:
        lacks = f"no '{SPEC_WORD}' follows the framework in the name; rename it to '{wanted}'"
        return f"every row has `spec-decoding: mtp` but {lacks}", ""
    variant = rest[1:] if named else rest
    for word in variant:
        if word == SPEC_WORD:
            mend = f"rename it to '{wanted}-...'"
            return f"'{SPEC_WORD}' stands right after the framework; {mend}", ""
        wrong = token_error(word)
        if wrong:
            return f"a word of the name cannot be used in test ids: {wrong}; rename it", ""
    return "", "-".join(variant)


OUR_KEYS = frozenset({
    "extends", "serve", "speculative", "env", "when", "client", "gates", "requires", "plan-only",
    "source", "differs", "server-per", "command", "revision", "facts",
})  # fmt: skip
RESERVED = ("include", "host", "templates", "runners", "ratios")


def is_foreign(root: Node) -> bool:
    """Whether a file has none of our own keys."""
    if any(key in root.entries for key in RESERVED):
        return False
    return not any(OUR_KEYS & entry.node.entries.keys() for entry in root.entries.values())


def unsupported_reasons(entry: Node, runners: Mapping[str, str]) -> list[str]:
    """Why an InferenceX entry cannot be planned here at all; empty if it can."""
    reasons = []
    framework = _leaf(entry, "framework")
    if isinstance(framework, str) and framework not in frameworks():
        reasons.append(f"framework {framework} (supported: {', '.join(frameworks())})")
    if _leaf(entry, "multinode") is True:
        reasons.append(f"{_MULTINODE} (one server over several nodes is not supported)")
    runner = _leaf(entry, "runner")
    if isinstance(runner, str) and hardware_of(runner, runners) is None:
        reasons.append(
            f"runner label '{runner}' maps to no hardware (a file with `runners: "
            f"{{'{runner}': {{hardware: ...}}}}` maps it)"
        )
    rows = [
        row
        for scenario in ("fixed-seq-len", "agentic-coding")
        for space in entry.items_of("scenarios", scenario)
        for row in space.items_of("search-space")
    ]
    if "draft_model" in {_leaf(row, "spec-decoding") for row in rows}:
        reasons.append("spec-decoding: draft_model (its draft is named in a shell script only)")
    return reasons


_MULTINODE = "multi-node"
_OTHERS = "a name that contradicts its fields"


def unsupported_groups(entries: Iterable[Unsupported]) -> dict[str, list[str]]:
    """Names of entries that are not run, by what keeps them from it; the largest group first.

    An entry with several reasons is counted once: one that needs several nodes would need them
    whatever else it needs.
    """

    def group_of(entry: Unsupported) -> str:
        reasons = [reason.split(" (")[0] for reason in entry.reason.split("; ")]
        group = _MULTINODE if _MULTINODE in reasons else reasons[0]
        return _OTHERS if group.startswith("the name ") else group

    groups = sorted(grouped(entries, group_of).items(), key=lambda group: -len(group[1]))
    return {group: [entry.recipe for entry in own] for group, own in groups}


def _leaf(entry: Node, key: str) -> Any:
    node = entry.get(key)
    if node is None or isinstance(node.value, dict | list):
        return None
    return node.value
