"""llama.cpp's HTTP server out of the package xllamacpp, under ``llama-server``'s own arguments.

    python -m pytest_gpubench.dialects.llamacpp.xllamacpp_server --model FILE --port 8080 ...

stands in for the binary ``llama-server`` where only the wheel is installed. It knows the arguments
below, spelled as llama.cpp spells them; any other is refused with exit code 2. The API key comes
from the environment variable ``LLAMA_API_KEY`` alone, and ``LLAMA_ARG_...`` are not read. SIGTERM
and SIGINT end it at once, with exit code 0; a server that does not start ends with 1, after
llama.cpp's own words about it.

The module imports nothing of pytest_gpubench: it also runs as a file, in an interpreter that has
xllamacpp and nothing else.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

KEY_VARIABLE = "LLAMA_API_KEY"
"""Environment variable with the API key, or several of them with commas between."""

# How xllamacpp calls a parameter, and the arguments that set it.
_INTEGERS = {
    "n_ctx": "-c --ctx-size",
    "n_predict": "-n --predict --n-predict",
    "n_batch": "-b --batch-size",
    "n_ubatch": "-ub --ubatch-size",
    "n_keep": "--keep",
    "n_parallel": "-np --parallel",
    "main_gpu": "-mg --main-gpu",
    "port": "--port",
    "n_threads_http": "--threads-http",
    "n_cache_reuse": "--cache-reuse",
    "cache_ram_mib": "-cram --cache-ram",
    "n_ctx_checkpoints": "-ctxcp --ctx-checkpoints --swa-checkpoints",
    "kv_unified_per_slot": "--kv-unified-per-slot",
    "fit_params_min_ctx": "-fitc --fit-ctx",
    "sse_ping_interval": "--sse-ping-interval",
    "verbosity": "-lv --verbosity --log-verbosity",
    "yarn_orig_ctx": "--yarn-orig-ctx",
    "sampling.seed": "-s --seed",
    "sampling.top_k": "--top-k",
    "speculative.draft.n_max": "--spec-draft-n-max",
    "speculative.draft.n_min": "--spec-draft-n-min",
    "speculative.ngram_mod.n_min": "--spec-ngram-mod-n-min",
    "speculative.ngram_mod.n_max": "--spec-ngram-mod-n-max",
    "speculative.ngram_mod.n_match": "--spec-ngram-mod-n-match",
    "speculative.ngram_simple.size_n": "--spec-ngram-simple-size-n",
    "speculative.ngram_simple.size_m": "--spec-ngram-simple-size-m",
    "speculative.ngram_simple.min_hits": "--spec-ngram-simple-min-hits",
    "speculative.ngram_map_k.size_n": "--spec-ngram-map-k-size-n",
    "speculative.ngram_map_k.size_m": "--spec-ngram-map-k-size-m",
    "speculative.ngram_map_k.min_hits": "--spec-ngram-map-k-min-hits",
    "speculative.ngram_map_k4v.size_n": "--spec-ngram-map-k4v-size-n",
    "speculative.ngram_map_k4v.size_m": "--spec-ngram-map-k4v-size-m",
    "speculative.ngram_map_k4v.min_hits": "--spec-ngram-map-k4v-min-hits",
}
_NUMBERS = {
    "rope_freq_base": "--rope-freq-base",
    "rope_freq_scale": "--rope-freq-scale",
    "slot_prompt_similarity": "-sps --slot-prompt-similarity",
    "sampling.temp": "--temp --temperature",
    "sampling.top_p": "--top-p",
    "sampling.min_p": "--min-p",
    "speculative.draft.p_min": "--spec-draft-p-min --draft-p-min",
    "speculative.draft.p_split": "--spec-draft-p-split --draft-p-split",
}
_TEXTS = {
    "model.path": "-m --model",
    "api_prefix": "--api-prefix",
    "chat_template": "--chat-template",
    "speculative.draft.mparams.path": "-md --spec-draft-model --model-draft",
}
# Off by default, and nothing switches them off.
_SET = {
    "endpoint_metrics": "--metrics",
    "endpoint_props": "--props",
    "swa_full": "--swa-full",
    "check_tensors": "--check-tensors",
    "offline": "--offline",
    "special": "-sp --special",
    "no_host": "--no-host",
    "reuse_port": "--reuse-port",
    "sampling.ignore_eos": "--ignore-eos",
}
# What switches on, then what switches off. A parameter called ``no_...`` is the other way around.
_SWITCHES = {
    "warmup": ("--warmup", "--no-warmup"),
    "cont_batching": ("-cb --cont-batching", "-nocb --no-cont-batching"),
    "cache_prompt": ("--cache-prompt", "--no-cache-prompt"),
    "cache_idle_slots": ("--cache-idle-slots", "--no-cache-idle-slots"),
    "kv_unified": ("-kvu --kv-unified", "-no-kvu --no-kv-unified"),
    "no_kv_offload": ("-kvo --kv-offload", "-nkvo --no-kv-offload"),
    "no_op_offload": ("--op-offload", "--no-op-offload"),
    "no_extra_bufts": ("--repack", "-nr --no-repack"),
    "ctx_shift": ("--context-shift", "--no-context-shift"),
    "endpoint_slots": ("--slots", "--no-slots"),
    "use_jinja": ("--jinja", "--no-jinja"),
    "prefill_assistant": ("--prefill-assistant", "--no-prefill-assistant"),
    "speculative.draft.backend_sampling": (
        "--spec-draft-backend-sampling",
        "--no-spec-draft-backend-sampling",
    ),
    "ui": ("--ui --webui", "--no-ui --no-webui"),
}
_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_DRAFTERS = (
    *("none", "draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark"),
    *("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"),
)
# Words that are members of an enumeration of xllamacpp: its name begins theirs.
_WORDS = {
    "cache_type_k": ("-ctk --cache-type-k", _KV_TYPES, "ggml_type"),
    "cache_type_v": ("-ctv --cache-type-v", _KV_TYPES, "ggml_type"),
    "split_mode": ("-sm --split-mode", ("none", "layer", "row", "tensor"), "llama_split_mode"),
    "load_mode": ("-lm --load-mode", ("auto", "none", "mmap", "mlock"), "llama_load_mode"),
    "numa": ("--numa", ("distribute", "isolate", "numactl"), "ggml_numa_strategy"),
    "rope_scaling_type": ("--rope-scaling", ("none", "linear", "yarn"), "llama_rope_scaling_type"),
    "flash_attn_type": ("-fa --flash-attn", ("on", "off", "auto"), "llama_flash_attn_type"),
}
_FLASH_ATTENTION = {"on": "enabled", "off": "disabled"}
_THREADS = (
    ("cpuparams", "-t --threads"),
    ("cpuparams_batch", "-tb --threads-batch"),
    ("speculative.draft.cpuparams", "-td --spec-draft-threads --threads-draft"),
    ("speculative.draft.cpuparams_batch", "-tbd --spec-draft-threads-batch --threads-batch-draft"),
)
_UNSET = -1
"""llama.cpp's own word for a number that nobody gave."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes.

    Args:
        arguments: those of ``llama-server``; None: the process's own.

    Returns:
        0 after SIGTERM or SIGINT, 1 where the server did not start.

    Raises:
        SystemExit: 2 for wrong arguments, 0 after ``--help`` and ``--version``.
    """
    given = vars(_parser().parse_args(arguments))
    try:
        xllamacpp = import_module("xllamacpp")
    except ImportError as error:
        print(
            f"error: {sys.executable} cannot import xllamacpp ({error}); "
            f"{sys.executable} -m pip install xllamacpp",
            file=sys.stderr,
        )
        return 1
    # Until the server is up, a signal ends the process as it ends llama-server.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(_params(xllamacpp, given))
    except (RuntimeError, ValueError, OverflowError, OSError) as error:
        print(f"error: the server did not start: {error}", file=sys.stderr, flush=True)
        return 1
    _serve(server)
    return 0


def _serve(server: Any) -> None:
    """Wait for a signal, then end the process.

    llama.cpp's own handlers end its thread and leave the process, so they are replaced. Its orderly
    end is not waited for either: with a stream under way it takes as long as the pings of the
    stream are apart, 30 s, and nothing of this process outlives it.
    """
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    for number in stop:
        signal.signal(number, signal.SIG_DFL)
    caught = signal.sigwait(stop)
    name = signal.Signals(caught).name
    print(f"{server.listening_address}: ended by {name}", file=sys.stderr, flush=True)
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xllamacpp_server",
        usage="%(prog)s --model FILE [ARGUMENT OF llama-server ...]",
        description="llama.cpp's HTTP server out of the package xllamacpp; "
        f"the arguments are llama-server's, the API key is ${KEY_VARIABLE}.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="what is served by, and exit")
    for table, kind in ((_INTEGERS, int), (_NUMBERS, float), (_TEXTS, str)):
        for name, flags in table.items():
            parser.add_argument(*flags.split(), dest=name, type=kind, metavar=kind.__name__)
    for name, flags in _SET.items():
        parser.add_argument(*flags.split(), dest=name, action="store_true")
    for name, both in _SWITCHES.items():
        inverted = name.startswith("no_")
        for flags, value in zip(both, (not inverted, inverted), strict=True):
            parser.add_argument(*flags.split(), dest=name, action="store_const", const=value)
    for name, (flags, words, _) in _WORDS.items():
        parser.add_argument(*flags.split(), dest=name, choices=words)
    for name, flags in _THREADS:
        parser.add_argument(*flags.split(), dest=f"{name}.n_threads", type=int, metavar="int")
    parser.add_argument("-ngl", "--gpu-layers", "--n-gpu-layers", dest="n_gpu_layers", type=_layers)
    parser.add_argument("--spec-type", dest="speculative.types", type=_drafters, metavar="WORD,...")
    parser.add_argument("-a", "--alias", dest="model_alias", type=_several, metavar="NAME,...")
    parser.add_argument("--host", dest="hostnames", type=_several, metavar="ADDRESS,...")
    parser.add_argument("-ts", "--tensor-split", dest="tensor_split", type=_shares, metavar="N,...")
    parser.add_argument("-fit", "--fit", dest="fit_params", choices=("on", "off"))
    parser.add_argument("-to", "--timeout", dest="timeout", type=int, metavar="SECONDS")
    parser.add_argument("--perf", dest="no_perf", action="store_const", const=False)
    parser.add_argument("--no-perf", dest="no_perf", action="store_const", const=True)
    parser.add_argument("--chat-template-file", dest="template_file", type=Path, metavar="FILE")
    parser.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=2**31 - 1)
    parser.add_argument("--api-key", action=_NoKey, help=argparse.SUPPRESS)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("xllamacpp")
        except PackageNotFoundError:
            parser.exit(1, f"error: {sys.executable} has no xllamacpp\n")
        print(f"xllamacpp {found}")
        parser.exit()


class _NoKey(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(
            "--api-key would show the key to everybody who lists processes; "
            f"put it into the environment variable {KEY_VARIABLE}"
        )


def _several(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _shares(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _layers(text: str) -> int:
    return {"auto": _UNSET, "all": -2}.get(text) or int(text)


def _drafters(text: str) -> list[str]:
    names = _several(text)
    for name in names:
        if name not in _DRAFTERS:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(_DRAFTERS)}")
    return names


def _params(xllamacpp: Any, given: dict[str, Any]) -> Any:
    """The arguments as llama.cpp's parameters.

    Args:
        xllamacpp: the package.
        given: parameter to value, only what was given.
    """
    params = xllamacpp.CommonParams()
    # What llama-server starts from where the package has other defaults.
    params.n_parallel = _UNSET
    params.port = 8080
    params.api_keys = _several(os.environ.get(KEY_VARIABLE, ""))
    for name, value in _resolved(xllamacpp, given).items():
        *way, last = name.split(".")
        target = params
        for part in way:
            target = getattr(target, part)
        setattr(target, last, value)
    return params


def _resolved(xllamacpp: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Parameter to value as the package takes it."""
    values = dict(given)
    for name in values.keys() & _WORDS.keys():
        *_, enumeration = _WORDS[name]
        word = _FLASH_ATTENTION.get(values[name], values[name])
        member = f"{enumeration}_{word}".upper()
        values[name] = getattr(getattr(xllamacpp, enumeration), member)
    if "speculative.types" in values:
        kinds = xllamacpp.common_speculative_type
        values["speculative.types"] = [
            getattr(kinds, "COMMON_SPECULATIVE_TYPE_" + word.replace("-", "_").upper())
            for word in values["speculative.types"]
        ]
    if "model_alias" in values:
        values["model_alias"] = set(values["model_alias"])
    if "fit_params" in values:
        values["fit_params"] = values["fit_params"] == "on"
    if "timeout" in values:
        values["timeout_read"] = values["timeout_write"] = values.pop("timeout")
    if "no_perf" in values:
        values["sampling.no_perf"] = values["no_perf"]
    if "template_file" in values:
        values["chat_template"] = values.pop("template_file").read_text(encoding="utf-8")
    if "tensor_split" in values:
        room = len(xllamacpp.CommonParams().tensor_split)
        values["tensor_split"] += [0.0] * (room - len(values["tensor_split"]))
    return _with_threads(values)


def _with_threads(values: dict[str, Any]) -> dict[str, Any]:
    """Thread counts as llama-server fills them up: nothing given, all cores that this process may
    use; batches take what single tokens take, a draft what its target takes."""
    single, batch, draft, draft_batch = (f"{name}.n_threads" for name, _ in _THREADS)
    values[single] = _given(values.get(single), len(os.sched_getaffinity(0)))
    for name, like in ((batch, single), (draft, single), (draft_batch, batch)):
        values[name] = _given(values.get(name), values[like])
    return values


def _given(count: int | None, otherwise: int) -> int:
    return count if count is not None and count > 0 else otherwise


if __name__ == "__main__":
    sys.exit(main())
