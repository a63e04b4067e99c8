"""Command lines, and the words that every engine's are made of: pure, so that a plan prints exactly
what a launch runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import Frozen, FrozenMap, thaw
from pytest_gpubench.model.secrets import Secrets, shown_value
from pytest_gpubench.model.specs import ServerSpec

PORT = "{port}"
"""Stands for the port in a rendered command line; `CommandLine.filled` puts it in."""
KEY_FILE = "{key-file}"
"""Likewise for a file that holds the API key, where an engine takes it no other way."""
WEIGHTS, DRAFT_WEIGHTS = "{weights}", "{draft-weights}"
"""Likewise for files of weights on this machine, where an engine takes no repository."""

_RECORDED = (
    *("CUDA_", "NCCL_", "NVIDIA_", "XLA_"),
    *("AITER_", "AMDGCN_", "GPU_MAX_HW_QUEUES", "HIP_", "HSA_"),
    *("MIOPEN_", "RCCL_", "ROCM_", "ROCR_"),
    *("HF_", "TRANSFORMERS_", "TORCH", "PYTORCH_", "TRITON_", "FLASHINFER_"),
    *("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "LD_PRELOAD", "LD_LIBRARY_PATH"),
    *("SAFETENSORS_", "TOKENIZERS_"),
)


@dataclass(frozen=True, slots=True)
class HostVariable:
    """A value that is read from the host's environment when the server starts."""

    name: str
    default: str | None = None
    optional: bool = False
    """Where the host has no such value, the server gets none."""

    def __str__(self) -> str:
        return f"${{{self.name}}}" if self.default is None else f"${{{self.name}:-{self.default}}}"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What starts a server: argument list with literal ``{port}`` and its like, and how its
    environment differs from the host's.

    It never holds a secret: the API key is added at launch, through the environment or a file.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str | HostVariable], ...] = ()
    unset: tuple[str, ...] = ()

    def filled(self, places: Mapping[str, str]) -> tuple[str, ...]:
        """The argument list of one launch.

        Args:
            places: what stands for `PORT` and the other places.
        """
        return tuple(places.get(word, word) for word in self.argv)

    def printable_env(self) -> dict[str, str]:
        """The additions as a plan prints them: host variables unresolved, as ``${NAME:-default}``,
        without secrets."""
        return {name: _printable(name, value) for name, value in self.env}

    def resolve_env(self, host_env: Mapping[str, str]) -> dict[str, str]:
        """The additions with host variables read from ``host_env``.

        Raises:
            GpubenchError: if a host variable without a default is not set.
        """
        resolved: dict[str, str] = {}
        for name, value in self.env:
            if isinstance(value, str):
                resolved[name] = value
                continue
            given = host_env.get(value.name, value.default)
            if value.optional and not given:
                continue  # as `[ -n "$NAME" ]`: set and empty often means "none of them"
            if given is None:
                raise GpubenchError(
                    f"env.{name} reads {value.name} from the host, which is not set and has no "
                    f"default: set {value.name} or give the recipe `{name}: {{from: {value.name}, "
                    "default: ...}`, or `optional: true` where the server does without."
                )
            resolved[name] = given
        return resolved


def environment(
    spec: ServerSpec, ours: Mapping[str, str], cache_dir: str | None, offline: bool
) -> Iterator[tuple[str, str | HostVariable]]:
    """The additions to the host's environment: ours, where the recipe does not say otherwise, and
    the recipe's."""
    ours = dict(ours)
    if offline:
        ours |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if cache_dir is not None:
        ours["HF_HUB_CACHE"] = cache_dir
    yield from ((name, value) for name, value in ours.items() if name not in spec.env)
    for name, value in spec.env.items():
        if isinstance(value, FrozenMap):
            default = value.get("default")
            default = None if default is None else scalar(default)
            optional = value.get("optional") is True
            yield name, HostVariable(str(value["from"]), default, optional)
        elif value is not None:
            yield name, scalar(value)


def flag(
    name: str, value: Frozen, *, short: Mapping[str, str] | None = None, negation: str = "no-"
) -> list[str]:
    """One serve entry as words: true ``--flag``, false ``--no-flag``, map one JSON value, list
    ``--flag a b``, null nothing. A dotted name sets a key of a JSON value: its inner names keep
    their spelling, and it has a value always.

    Args:
        short: the engine's short names of options.
        negation: what turns a switch off, before its name; empty: nothing does.

    Raises:
        GpubenchError: for a list that holds maps or lists, and for false where the engine has no
            word for it.
    """
    head, dot, inner = name.partition(".")
    head = head.replace("_", "-")
    dashed = f"--{(short or {}).get(head, head)}{dot}{inner}"
    if value is None:
        return []
    if dot:
        plain = scalar(value)
        if isinstance(value, tuple | FrozenMap):
            plain = json_text(thaw(value))
        return [dashed, plain]
    if value is False and not negation:
        raise GpubenchError(
            f"serve.{name} is false, and this engine has no word for that: leave it out, or write "
            "the flag that turns it off."
        )
    if isinstance(value, bool):
        return [dashed if value else f"--{negation}{dashed[2:]}"]
    if isinstance(value, FrozenMap):
        return [dashed, json_text(plain_map(value))]
    if isinstance(value, tuple):
        if any(isinstance(item, tuple | FrozenMap) for item in value):
            raise GpubenchError(
                f"serve.{name} is a list of lists or maps, which no flag can take: use "
                "a map (one JSON value)."
            )
        return [dashed, *map(scalar, value)] if value else []
    return [dashed, scalar(value)]


def record_env(
    environment: Mapping[str, str], names: Sequence[str] = (), prefixes: Sequence[str] = ()
) -> dict[str, str]:
    """The part of a server's environment that belongs in a record: what steers engines and numeric
    libraries, ``names``, and what begins with one of the engine's ``prefixes``.

    Secrets of the environment are replaced by ``<removed>``, under whatever name they stand.
    """
    steering = (*_RECORDED, *prefixes)
    wanted = sorted(name for name in environment if name in names or name.startswith(steering))
    secrets = Secrets.of(environment)
    return {name: secrets.hide(shown_value(name, environment[name])) for name in wanted}


def _printable(name: str, value: str | HostVariable) -> str:
    if isinstance(value, str):
        return shown_value(name, value)
    if value.default is None:
        return str(value)
    default = shown_value(name, shown_value(value.name, value.default))
    return str(HostVariable(value.name, default))


def plain_map(value: FrozenMap) -> dict[str, object]:
    """A map of a recipe as plain data."""
    return {key: thaw(item) for key, item in value.items()}


def json_text(value: object) -> str:
    """A value as one JSON word."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def scalar(value: Frozen) -> str:
    """A scalar as a word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
