"""Flags of a server that are not a recipe's to set, in every spelling that the engine's parser takes.

One table, used where a file is read (with file and line) and where a command line is rendered. The parser is argparse's with
vLLM's additions: ``--flag=value``, any prefix of a flag, underscores for dashes, ``--flag.key`` for a key of a JSON value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_gpubench.domain.secrets import secret_inside

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

They follow from a recipe's own fields or from the launch (two sources for one value could contradict each other), or they would
show a secret.
"""
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
    """The flag that a name without dashes means, and why it is not a recipe's to set; None for any other."""
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
        short: whether flags with one dash are the engine's (before the engine's name they are an interpreter's).
    """
    for word in words:
        found = our_word(word) if short or word.startswith("--") else None
        if found:
            shown = word.split("=", 1)[0]
            return f"holds {shown}, which is not a recipe's to set: {found[1]}"
        if name := secret_inside(word):
            return f"holds a value of {name}: {_SECRET}; set it in the recipe's `env` as {{from: NAME}}"
        if "\0" in word:
            return "holds a NUL character, which no command line can hold; remove it"
    return None
