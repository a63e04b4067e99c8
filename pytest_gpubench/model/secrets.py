"""What must not be shown: values whose name says so, passwords in addresses, tokens by their shape,
and copies of these.

Pure: the environment and the data are passed in. Applied where something leaves the process:
    records, plans, logs, the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

HIDDEN = "<removed>"
SHORTEST = 6
"""Characters of a value that is hidden wherever it stands; a shorter one would take too much with
it."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORD = re.compile(
    r"(.*(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY)"
    r"|.*(SECRET|PASSWORD|PASSWD|CREDENTIAL).*|KEYS|SECRETS|PASS|PWD|PAT|O?AUTH|AUTHORIZATION|CREDS?|BEARER|COOKIES?)"
)
_PLACE = frozenset({"PATH", "FILE", "DIR", "DIRECTORY", "FOLDER", "SOCK", "SOCKET", "FD"})
"""A name that ends so says where a secret is, not what it is."""
_WORKING_FOLDER = frozenset({"PWD", "OLDPWD"})
_TEXT_TOKEN = frozenset({
    "BOS", "EOS", "PAD", "UNK", "SEP", "CLS", "MASK", "STOP", "START", "END", "IMAGE", "VIDEO",
    "AUDIO", "SPECIAL", "PER",
})  # fmt: skip
"""Before TOKEN: a token of text."""
_TRIVIAL = re.compile(r"|true|false|yes|no|on|off|none|auto|-?\d{1,4}(\.\d+)?", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/\s?#\"'<>]*(?=@)")
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bglpat-[A-Za-z0-9_-]{16,}|(?<=\bBearer "
    r")[A-Za-z0-9._~+/=-]{8,}|(?<=\bBasic )[A-Za-z0-9+/=]{8,}"
)
_ASSIGNED = re.compile(
    r"""(?<!\w)(?<!\w-)(?P<name>[A-Za-z][\w-]{0,63})"""
    r"""(?:=['"]?([^\s&'",;}\])]+)"""
    r"""|"\s{0,4}:\s{0,4}"((?:[^"\\]|\\.)+)|\\"\s{0,4}:\s{0,4}\\"([^"\\]+)|'\s{0,4}:\s{0,4}'([^'\\]+))"""
)
"""``NAME=value`` of a command line or an address, ``"name": "value"`` of JSON, its quotes escaped
or not, and of Python."""
_LAST_WORD = re.compile(
    r"(key|token|passw(or)?d|passphrase|secret|credentials?|pat|pwd)$", re.IGNORECASE
)
_NAMED = frozenset({"env", "serve", "options", "spec"})
"""Keys of a record below which names are a user's own."""


def is_secret_name(name: str) -> bool:
    """Whether a name says that its value is a secret: ``HF_TOKEN``, ``GITHUB_PAT``, ``apiKey``,
    ``db-password``."""
    if name in _WORKING_FOLDER:
        return False
    words = [word.upper() for word in _WORDS.findall(name)]
    if not words or words[-1] in _PLACE:
        return False
    for before, word in zip(["", *words], words, strict=False):
        if _SECRET_WORD.fullmatch(word) and not (word == "TOKEN" and before in _TEXT_TOKEN):
            return True
    return False


def is_secret(name: str, value: str) -> bool:
    """Whether a named value is a secret; a switch or a small number is none, whatever its name."""
    return is_secret_name(name) and not _TRIVIAL.fullmatch(value.strip())


def without_shapes(text: str) -> str:
    """A text without user and password in addresses, without what looks like a token, and without
    the values of names in it that say so."""
    text = _SHAPES.sub(HIDDEN, _USERINFO.sub(HIDDEN, text))
    return _ASSIGNED.sub(
        lambda found: found[0].removesuffix(_told(found)) + HIDDEN if _told(found) else found[0],
        text,
    )


def secret_inside(text: str) -> str:
    """The first name in a command line or a piece of JSON that has a secret for its value; empty:
    none."""
    return next((found["name"] for found in _ASSIGNED.finditer(text) if _told(found)), "")


def _told(found: re.Match[str]) -> str:
    """The value if it is a secret, else nothing: the name ends as one, ``num_key_value_heads`` does
    not."""
    name, value = found["name"], found[found.lastindex or 0]
    told = bool(_LAST_WORD.search(name)) and is_secret(name, value) and len(value) >= SHORTEST
    return value if told and value != HIDDEN and not value.startswith("${") else ""


def shown_value(name: str, value: str) -> str:
    """A named value as it may be shown."""
    return HIDDEN if is_secret(name, value) else without_shapes(value)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Values that are hidden wherever they stand."""

    values: tuple[str, ...] = ()
    """Longest first."""

    @classmethod
    def of(cls, environment: Mapping[str, str], more: Iterable[str] = ()) -> Secrets:
        """The secrets of an environment, passwords of its addresses included, and more values."""
        values = {value for value in more if value}
        for name, value in environment.items():
            values.update([value] if is_secret(name, value) else _passwords(value))
        long_enough = (value for value in values if len(value) >= SHORTEST)
        return cls(tuple(sorted(long_enough, key=lambda value: (-len(value), value))))

    def hide(self, text: str) -> str:
        """A text without any of the values, nor what looks like a secret."""
        for value in self.values:
            if value in text:
                text = text.replace(value, HIDDEN)
        return without_shapes(text)


def hide_in(data: Any, environment: Mapping[str, str]) -> Any:
    """Plain JSON data without secrets: those of the environment, and those that its own names and
    addresses tell.

    Args:
        data: dicts, lists and scalars.
        environment: of this host, from which a recipe's ``{from: NAME}`` takes values.
    """
    secrets = Secrets.of(environment, _named_values(data, environment, named=False))
    return _hidden(data, secrets, named=False)


def hide_named(name: str, data: Any) -> Any:
    """One named value as plain JSON data, without what its name, names inside it and addresses
    tell."""
    return hide_in({"env": {name: data}}, {})["env"][name]


def _passwords(text: str) -> Iterator[str]:
    """Passwords of the addresses in a text."""
    for userinfo in _USERINFO.findall(text) if "://" in text else ():
        user, colon, password = userinfo.partition(":")
        yield password if colon else user


def _named_values(data: Any, environment: Mapping[str, str], *, named: bool) -> Iterator[str]:
    if isinstance(data, str):
        yield from _passwords(data)
        yield from filter(None, map(_told, _ASSIGNED.finditer(data)))
    elif isinstance(data, list):
        for item in data:
            yield from _named_values(item, environment, named=named)
    elif isinstance(data, dict):
        for key, value in data.items():
            secret = named and is_secret_name(key)
            if secret and isinstance(value, str) and is_secret(key, value):
                yield value
            elif secret and isinstance(value, dict) and isinstance(value.get("from"), str):
                yield from filter(None, [environment.get(value["from"]), value.get("default")])
            else:
                yield from _named_values(value, environment, named=named or key in _NAMED)


def _hidden(data: Any, secrets: Secrets, *, named: bool) -> Any:
    if isinstance(data, str):
        return secrets.hide(data)
    if isinstance(data, list):
        return [_hidden(item, secrets, named=named) for item in data]
    if isinstance(data, dict):
        return {key: _hidden_entry(key, value, secrets, named) for key, value in data.items()}
    return data


def _hidden_entry(key: str, value: Any, secrets: Secrets, named: bool) -> Any:
    if named and isinstance(value, str) and is_secret(key, value) and not value.startswith("${"):
        return HIDDEN
    return _hidden(value, secrets, named=named or key in _NAMED)
