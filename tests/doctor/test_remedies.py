"""What remedies tell a user to write is something that vLLM takes.

Against the shipped vocabulary of vLLM 0.32 always; against vLLM's own parser where there is a vLLM:
in this environment, or behind the interpreter that GPUBENCH_VLLM_PYTHON names.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from pytest_gpubench.dialects.command_line import PORT
from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.dialects.vllm.causes import CAUSES
from pytest_gpubench.doctor.known_vocabularies import known_vocabulary
from pytest_gpubench.doctor.rules import names
from pytest_gpubench.engines.interpreter import (
    Vocabulary,
    ask_vocabulary,
    default_command,
    probe_command,
)
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Topology
from pytest_gpubench.plugin.options import OPTIONS
from pytest_gpubench.recipes.schema import json_schema
from tests.doctor.test_doctor_rules import ILL, examined

FOUND = known_vocabulary(Version("0.32.0"))
NOT_NAMES = {
    *("all-reduce", "data-parallel", "demo-model", "flashinfer-jit-cache", "llama-like"),
    *("nvidia-smi", "python3-dev"),
    *("extra-args", "draft-tensor-parallel-size"),  # ours, below `serve` and `speculative`
    "shm-size",  # of a container
}
"""Words with a dash that are no flags, of English and of packages."""
VALUES: dict[str, Any] = {
    "flash_attn_version": 3,
    "use_trtllm_attention": True,
    "backend": "auto",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
"""What stands for `...` in a remedy."""
_SETTING = re.compile(
    r"(?<![\w.-])(?:serve\.)?([a-z0-9]+(?:-[a-z0-9]+)+(?:\.\w+)*): (\{.*?\}+|\"[^\"]*\"|[\w.]+\w)"
)
_PARSE = """
import json, sys
from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser
[serve] = cmd_init()
parser = FlexibleArgumentParser()
serve.subparser_init(parser.add_subparsers())
for words in json.load(sys.stdin):
    try:
        parser.parse_args(["serve", *words])
    except SystemExit:
        print("REFUSED", *words)
"""


def remedies() -> list[str]:
    """Every remedy of every rule and cause."""
    said = {one.remedy for ill in ILL for one in examined(ill)}
    written = {*names.REMOVED_FLAGS.values(), *names.REMOVED_VARIABLES.values()}
    return sorted({*said, *written, *(cause.remedy for cause in CAUSES)})


def constants() -> Iterator[str]:
    """Every text in the rules' source: also the remedies of servers that no test makes ill."""
    for path in sorted(Path(names.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def our_words() -> set[str]:
    """Keys of recipes and options of the plugin."""
    keys = {key for part in json_schema()["$defs"].values() for key in part.get("properties", {})}
    return keys | {f"gpubench-{option.name}" for option in OPTIONS}


def settings() -> Iterator[tuple[str, Any]]:
    """Flags with the values that remedies give them."""
    assert FOUND is not None
    for remedy in {**dict.fromkeys(remedies()), **dict.fromkeys(constants())}:
        for flag, text in _SETTING.findall(remedy):
            if flag not in our_words() - FOUND.flags:
                value = yaml.safe_load(re.sub(r"(\w+): \.\.\.", _filled, text))
                yield flag, value


def _filled(found: re.Match[str]) -> str:
    return f"{found[1]}: {json.dumps(VALUES[found[1]])}"


def named() -> tuple[set[str], set[str]]:
    """Flags and variables that remedies name."""
    text = "\n".join(remedies())
    words = {word.lower() for word in re.findall(r"[A-Za-z][\w]*(?:-[a-z0-9]+)+", text)}
    assert FOUND is not None
    flags = words - (our_words() - FOUND.flags) - NOT_NAMES  # some are keys and flags
    return flags, set(re.findall(r"(?<!Remove )\bVLLM_[A-Z0-9_]+", text))


def test_remedies_name_flags_and_variables_that_vllm_has() -> None:
    assert FOUND is not None
    flags, variables = named()
    assert len(flags) > 20
    assert {flag for flag in flags if flag not in FOUND.flags} == set()
    assert variables
    assert variables - FOUND.variables == set()


def test_values_that_remedies_give_are_among_the_choices() -> None:
    assert FOUND is not None
    given = dict(settings())
    assert len(given) > 5
    assert ("compilation-config.pass_config.fuse_allreduce_rms", False) in given.items()
    for flag, value in given.items():
        head = flag.partition(".")[0]
        assert head in FOUND.flags, flag
        assert str(value) in FOUND.choices.get(head, {str(value)}), (flag, value)


@pytest.fixture(scope="module")
def vllm() -> tuple[str, ...]:
    python = os.environ.get("GPUBENCH_VLLM_PYTHON")
    command = (
        (python, "-m", "vllm.entrypoints.cli.main", "serve") if python else default_command(VLLM)
    )
    if probe_command(command, VLLM) is None:
        pytest.skip("no vLLM here to ask: GPUBENCH_VLLM_PYTHON may name an interpreter with one")
    return command


def asked(command: tuple[str, ...], folder: Path) -> Vocabulary:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return ask_vocabulary(command, VLLM)[1]


def test_vllm_itself_has_them(vllm: tuple[str, ...], tmp_path: Path) -> None:
    own = asked(vllm, tmp_path)
    flags, variables = named()
    assert flags - own.flags == set()
    assert variables - own.variables == set()
    shipped = known_vocabulary(Version(own.version))
    if shipped is not None:
        assert (shipped.flags, shipped.variables) == (own.flags, own.variables)
        assert dict(shipped.choices) == dict(own.choices)


def test_vllms_parser_takes_what_a_remedy_says(vllm: tuple[str, ...]) -> None:
    engine = probe_command(vllm, VLLM)
    assert engine is not None
    lines = [_words(flag, value) for flag, value in settings()]
    refusable = _words("compilation-confug", 1)
    done = subprocess.run(
        [engine.interpreter, "-c", _PARSE],
        input=json.dumps([*lines, refusable]),
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert refused == [" ".join(["REFUSED", *refusable])], done.stderr[-2000:]


def _words(flag: str, value: Any) -> list[str]:
    """A recipe's setting as our command line has it, behind the model."""
    spec = ServerSpec("vllm", "model", "h100", Topology(), FrozenMap({flag: value}))
    return list(VLLM.render(spec, ("vllm", "serve"), served_name="name").filled({PORT: "8000"})[2:])
