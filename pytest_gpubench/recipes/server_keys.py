"""What a recipe may set of a server: its flags, their ranges, its environment and its command.

Flags that are not a recipe's to set are known in every spelling that the engine's parser takes: one
table, used where a file is read (with file and line) and where a command line is rendered. The
parser is argparse's with vLLM's additions: ``--flag=value``, any prefix of a flag, underscores for
dashes, ``--flag.key`` for a key of a JSON value.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from pytest_gpubench.model.frozen import spelled
from pytest_gpubench.model.secrets import secret_inside
from pytest_gpubench.recipes.fields import (
    MAX_CONCURRENCY,
    MAX_TOKENS,
    TEXTS_SCHEMA,
    Number,
    fail,
    texts,
)
from pytest_gpubench.recipes.problems import shown

_ROW = "the parallelism comes from the row of the search space; write `{}` there"
_SECRET = "a command line can be read by every user of the host and is kept in records"
_TCP = "the plugin talks plain HTTP to 127.0.0.1"
OUR_FLAGS: dict[str, str] = {
    "tensor-parallel-size": _ROW.format("tp"),
    "pipeline-parallel-size": _ROW.format("pp"),
    "prefill-context-parallel-size": _ROW.format("pcp-size"),
    "decode-context-parallel-size": _ROW.format("dcp-size"),
    "data-parallel-size": _ROW.format("dp-attn"),
    "enable-expert-parallel": _ROW.format("ep"),
    "speculative-config": "write `speculative` instead",
    "model": "write it as the recipe's `model`",
    "revision": "write it as the recipe's `revision`",
    "host": "the plugin chooses it",
    "port": "the plugin chooses it",
    "uds": _TCP,
    "fd": _TCP,
    "ssl-keyfile": _TCP,
    "ssl-certfile": _TCP,
    "ssl-ca-certs": _TCP,
    "ssl-cert-reqs": _TCP,
    "ssl-keyfile-password": _SECRET,
    "enable-ssl-refresh": _TCP,
    "api-key": "the plugin makes one per server",
    "hf-token": f"{_SECRET}; set HF_TOKEN where gpubench runs",
    "served-model-name": "the plugin sets it to prove the server's identity",
    "config": "write the file's flags under `serve`: what they are belongs in the record",
}
"""Flag to the reason, with what to write instead.

They follow from a recipe's own fields or from the launch (two sources for one value could
contradict each other), or they would show a secret.
"""
_OUR_ENV = {
    "VLLM_API_KEY": "the plugin makes one per server",
    "CUDA_VISIBLE_DEVICES": "the plugin leases the GPUs",
}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9-]*(\.[A-Za-z0-9_.-]+)?")
_SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-pcp": "prefill-context-parallel-size",
    "-dcp": "decode-context-parallel-size",
    "-dp": "data-parallel-size",
    "-ep": "enable-expert-parallel",
    "-sc": "speculative-config",
}
_SECRET_FLAG = re.compile(r"(^|-)(api-?key|token|passw(or)?d|passphrase|secret|credentials?)$")
_NUMBER = re.compile(r"-\.?\d")


def our_flag(name: str) -> tuple[str, str] | None:
    """The flag that a name without dashes means, and why it is not a recipe's to set; None for any
    other."""
    head = re.split(r"[.+]", name, maxsplit=1)[0].replace("_", "-")
    for plain in (head, head.removeprefix("no-")):
        if plain in OUR_FLAGS:
            return plain, OUR_FLAGS[plain]
        # One letter begins many flags of an engine, and its parser refuses that by itself.
        if len(plain) > 1 and (ours := [flag for flag in OUR_FLAGS if flag.startswith(plain)]):
            return ours[0], f"the engine reads it as --{ours[0]}: {OUR_FLAGS[ours[0]]}"
    return (head, _SECRET) if _SECRET_FLAG.search(head) else None


def our_word(word: str) -> tuple[str, str] | None:
    """As `our_flag` for a word of a command line; None also for a word that is no flag."""
    head = word.split("=", 1)[0]
    if head.startswith("--"):
        return our_flag(head[2:]) if len(head) > 2 else None
    if not head.startswith("-") or len(head) < 2 or _NUMBER.match(head):
        return None
    ours = [flag for short, flag in _SHORT.items() if short.startswith(head.split(".", 1)[0])]
    return (ours[0], OUR_FLAGS[ours[0]]) if ours else None


def words_error(words: Sequence[str], *, short: bool = True) -> str | None:
    """What is wrong with words that go onto a command line as they are, None if nothing.

    Args:
        short: whether flags with one dash are the engine's (before the engine's name they are an
            interpreter's).
    """
    for word in words:
        if (short or word.startswith("--")) and (ours := our_word(word)):
            return f"holds {word.split('=', 1)[0]}, which is not a recipe's to set: {ours[1]}"
        if name := secret_inside(word):
            return (
                f"holds a value of {name}: {_SECRET}; set it in the recipe's `env` as "
                "{from: NAME}"
            )
        if "\0" in word:
            return "holds a NUL character, which no command line can hold; remove it"
    return None


def check_flag(name: str, value: Any) -> str | None:
    """What is wrong with one server flag of ``serve``, None if nothing; ``value`` may hold
    expressions."""
    if ours := our_flag(name):
        return f"this flag is not a recipe's to set: {ours[1]}"
    if name.startswith("-"):
        return f"flags are written without dashes; write '{name.lstrip('-')}'"
    if name.startswith("no-"):
        return f"write '{name[3:]}: false' for --{name}"
    if "_" in name.split(".")[0]:
        return f"flags are written with dashes; write '{name.replace('_', '-')}'"
    if not _FLAG.fullmatch(name):
        return "this is not the name of a flag"
    if isinstance(value, list) and any(
        isinstance(item, dict | list) or item is None for item in value
    ):
        return "a list holds words and numbers only (--flag a b)"
    if isinstance(value, list) and (wrong := words_error([str(item) for item in value])):
        return wrong
    return _range_error(name, value)


_RANGES: dict[str, Number] = {
    "gpu-memory-utilization": Number("number", 0.01, 1),
    "max-model-len": Number("integer", 1, MAX_TOKENS),
    "max-num-batched-tokens": Number("integer", 1, MAX_TOKENS),
    "max-num-seqs": Number("integer", 1, MAX_CONCURRENCY),
    "max-cudagraph-capture-size": Number("integer", 0, 65_536),
    "block-size": Number("integer", 1, 65_536),
    "stream-interval": Number("integer", 1, 100_000),
    "swap-space": Number("number", 0, 100_000),
    "cpu-offload-gb": Number("number", 0, 100_000),
}


def _range_error(name: str, value: Any) -> str | None:
    if name not in _RANGES:
        return None
    try:
        _RANGES[name].check(value)
    except PydanticCustomError as error:
        return error.message()
    return None


def check_env(name: str, value: Any) -> str | None:
    """What is wrong with one environment variable, None if nothing."""
    if not _ENV_NAME.fullmatch(name):
        return "this is not the name of an environment variable"
    if name in _OUR_ENV:
        return f"this variable is not a recipe's to set: {_OUR_ENV[name]}"
    if isinstance(value, dict):
        unknown = set(value) - {"from", "default"}
        if (
            unknown
            or not isinstance(value.get("from"), str)
            or not _ENV_NAME.fullmatch(value["from"])
        ):
            return "a map must be {from: NAME, default: TEXT}, NAME being a variable of the host"
        value = value.get("default")
        if value is None:
            return None
    if (
        value is None
        or (isinstance(value, str) and "\0" not in value)
        or (isinstance(value, int) and not isinstance(value, bool))
    ):
        return None
    return f"must be text or an integer, not {shown(value)}; quote it: '{spelled(value)}'"


def _command(value: Any) -> Any:
    texts(value)
    words = value
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise fail(f"is not a command line: {str(error).lower()}") from None
    wrong = words_error(words, short=False)
    if wrong:
        raise fail(wrong)
    return value


Command: TypeAlias = Annotated[Any, BeforeValidator(_command), TEXTS_SCHEMA]
"""A command line, or its words."""
