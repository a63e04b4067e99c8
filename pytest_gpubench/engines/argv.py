"""A server spec rendered to a command line: pure, so that a plan prints exactly what a launch
runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import Frozen, FrozenMap, thaw
from pytest_gpubench.model.secrets import Secrets, shown_value
from pytest_gpubench.model.specs import ServerSpec, Topology
from pytest_gpubench.recipes.server_keys import our_flag, words_error

PORT = "{port}"
"""Stands for the port in a rendered command line; `CommandLine.with_port` fills it in."""

_RECORDED = (
    *(
        "VLLM_",
        "CUDA_",
        "NCCL_",
        "NVIDIA_",
        "HF_",
        "TRANSFORMERS_",
        "TORCH",
        "PYTORCH_",
        "TRITON_",
        "FLASHINFER_",
        "ROCR_",
        "XLA_",
    ),
    *(
        "OMP_",
        "MKL_",
        "OPENBLAS_",
        "KMP_",
        "GOMP_",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "SAFETENSORS_",
        "TOKENIZERS_",
    ),
)
_SHORT = {
    "cc": "compilation-config",
    "sc": "speculative-config",
    "ac": "attention-config",
}
"""vLLM's short options for JSON values, which a single dash begins."""
_OURS_ENV: tuple[tuple[str, str], ...] = (
    ("PYTHONUNBUFFERED", "1"),
    ("VLLM_LOGGING_COLOR", "0"),
    ("VLLM_LOGGING_LEVEL", "INFO"),
    ("VLLM_NO_USAGE_STATS", "1"),
)


@dataclass(frozen=True, slots=True)
class HostVariable:
    """A value that is read from the host's environment when the server starts."""

    name: str
    default: str | None = None

    def __str__(self) -> str:
        return f"${{{self.name}}}" if self.default is None else f"${{{self.name}:-{self.default}}}"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What starts a server: argument list with a literal ``{port}``, and how its environment
    differs from the host's.

    It never holds a secret: the API key is added at launch, through ``VLLM_API_KEY``.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str | HostVariable], ...] = ()
    unset: tuple[str, ...] = ()

    def with_port(self, port: int) -> tuple[str, ...]:
        """The argument list for one port."""
        return tuple(str(port) if word == PORT else word for word in self.argv)

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
            if given is None:
                raise GpubenchError(
                    f"env.{name} reads {value.name} from the host, which is not set and has no "
                    "default: "
                    f"set {value.name} or give the recipe `{name}: {{from: {value.name}, default: "
                    "...}`."
                )
            resolved[name] = given
        return resolved


def render(
    spec: ServerSpec,
    command: Sequence[str],
    *,
    served_name: str,
    cache_dir: str | None = None,
    offline: bool = True,
) -> CommandLine:
    """Render a spec for an engine's command.

    ``command`` is the prefix (``vllm serve``, or ``python -m vllm.entrypoints.openai.api_server``);
    where its last word is ``serve`` the model is positional, else it follows ``--model``.
    ``spec.command`` is not looked at: the caller has chosen. ``cache_dir`` is the Hugging Face hub
    cache that the server reads; ``offline`` keeps it from the network, since weights are fetched
    beforehand.

    Raises:
        GpubenchError: if the recipe sets one of `recipes.server_keys.OUR_FLAGS`, or a value that no
            command line can express.
    """
    _reject_ours(spec)
    words = list(command)
    if words[-1] != "serve":
        words.append("--model")
    words.append(spec.model)
    if spec.revision is not None:
        words += ["--revision", spec.revision]
    words += _parallel(spec.topology)
    for name, value in spec.serve.items():
        words += flag(name, value)
    if spec.speculative is not None:
        words += [
            "--speculative-config",
            _json(spec.speculative.vllm_config() | _plain_map(spec.speculative.options)),
        ]
    words += ["--host", "127.0.0.1", "--port", PORT, "--served-model-name", served_name]
    words += spec.extra_args
    return CommandLine(tuple(words), tuple(_environment(spec, cache_dir, offline)), _unset(spec))


def flag(name: str, value: Frozen) -> list[str]:
    """One serve entry as words: true ``--flag``, false ``--no-flag``, map one JSON value, list
    ``--flag a b``, null nothing. A dotted name sets a key of a JSON value: its inner names keep
    their spelling, and it has a value always.

    Raises:
        GpubenchError: for a list that holds maps or lists.
    """
    head, dot, inner = name.partition(".")
    head = head.replace("_", "-")
    dashed = f"--{_SHORT.get(head, head)}{dot}{inner}"
    if value is None:
        return []
    if dot:
        plain = _scalar(value) if not isinstance(value, tuple | FrozenMap) else _json(thaw(value))
        return [dashed, plain]
    if isinstance(value, bool):
        return [dashed if value else f"--no-{dashed[2:]}"]
    if isinstance(value, FrozenMap):
        return [dashed, _json(_plain_map(value))]
    if isinstance(value, tuple):
        if any(isinstance(item, tuple | FrozenMap) for item in value):
            raise GpubenchError(
                f"serve.{name} is a list of lists or maps, which no flag can take: use "
                "a map (one JSON value)."
            )
        return [dashed, *map(_scalar, value)] if value else []
    return [dashed, _scalar(value)]


def record_env(environment: Mapping[str, str], names: Sequence[str] = ()) -> dict[str, str]:
    """The part of a server's environment that belongs in a record: what steers engines and numeric
    libraries, and ``names``.

    Secrets of the environment are replaced by ``<removed>``, under whatever name they stand.
    """
    wanted = sorted(name for name in environment if name in names or name.startswith(_RECORDED))
    secrets = Secrets.of(environment)
    return {name: secrets.hide(shown_value(name, environment[name])) for name in wanted}


def _parallel(topology: Topology) -> Iterator[str]:
    sizes = (
        ("--tensor-parallel-size", topology.tensor_parallel_size, True),
        ("--data-parallel-size", topology.dp, topology.dp > 1),
        ("--pipeline-parallel-size", topology.pp, topology.pp > 1),
        ("--prefill-context-parallel-size", topology.pcp, topology.pcp > 1),
        ("--decode-context-parallel-size", topology.dcp, topology.dcp > 1),
    )
    for name, size, shown in sizes:
        if shown:
            yield from (name, str(size))
    if topology.expert_parallel:
        yield "--enable-expert-parallel"


def _environment(
    spec: ServerSpec, cache_dir: str | None, offline: bool
) -> Iterator[tuple[str, str | HostVariable]]:
    ours = dict(_OURS_ENV)
    if offline:
        ours |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if cache_dir is not None:
        ours["HF_HUB_CACHE"] = cache_dir
    yield from ((name, value) for name, value in ours.items() if name not in spec.env)
    for name, value in spec.env.items():
        if isinstance(value, FrozenMap):
            default = value.get("default")
            yield (
                name,
                HostVariable(str(value["from"]), None if default is None else _scalar(default)),
            )
        elif value is not None:
            yield name, _scalar(value)


def _printable(name: str, value: str | HostVariable) -> str:
    if isinstance(value, str):
        return shown_value(name, value)
    if value.default is None:
        return str(value)
    default = shown_value(name, shown_value(value.name, value.default))
    return str(HostVariable(value.name, default))


def _unset(spec: ServerSpec) -> tuple[str, ...]:
    return tuple(name for name, value in spec.env.items() if value is None)


def _reject_ours(spec: ServerSpec) -> None:
    """The last line of defence: a recipe file with one of these is refused when it is read."""
    for name in spec.serve:
        if ours := our_flag(name):
            raise GpubenchError(f"serve.{name} is not a recipe's to set: {ours[1]}")
    wrong = words_error(spec.extra_args)
    if wrong:
        raise GpubenchError(f"serve.extra-args {wrong}")
    if "VLLM_API_KEY" in spec.env:
        raise GpubenchError(
            "env.VLLM_API_KEY is set by gpubench itself, a new one for every launch: "
            "remove it from the recipe."
        )


def _plain_map(value: FrozenMap) -> dict[str, object]:
    return {key: thaw(item) for key, item in value.items()}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _scalar(value: Frozen) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
