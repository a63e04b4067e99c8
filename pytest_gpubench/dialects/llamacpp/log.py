"""How llama.cpp's server writes its log, and what it dies of.

``0.00.004.617 E srv    load_model: text``: time since the start, a letter for the level, the part.
The prefix may be switched off; then the text stands alone.
"""

from __future__ import annotations

import contextlib
import re

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.engine_log import (
    CRASHES,
    MAX_LINE,
    Cause,
    EngineLog,
    LogLine,
    cause,
    count_of,
)
from pytest_gpubench.dialects.shared_causes import SHARED_CAUSES
from pytest_gpubench.model.frozen import FrozenMap

_LINE = re.compile(r"(?P<clock>\d+\.\d\d\.\d{3}\.\d{3}) (?P<level>[DIWE]) ")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVELS = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR"}


def parse_line(raw: str) -> LogLine:
    """Take a raw line apart; never fails."""
    line = _COLOUR.sub("", raw[:MAX_LINE].rstrip("\r\n"))
    head = _LINE.match(line)
    if head is None:
        return LogLine("", None, "", "", line)
    return LogLine("", None, _LEVELS[head["level"]], "", line[head.end() :])


CAUSES: tuple[Cause, ...] = (
    cause("port-in-use", "infrastructure", r"couldn't bind HTTP server socket",
        "The port that was free a moment ago was taken by another process.",
        "Run again; a server that stays on a fixed port has to be stopped first.",
        retried=True),
    cause("missing-snapshot", "infrastructure", r"failed to open GGUF file",
        "The model is not, or not completely, on this machine.",
        "Run `gpubench fetch` where there is a network, or correct the model's name, path or "
        "revision."),
    cause("corrupt-snapshot", "infrastructure",
        r"invalid magic characters|model is corrupted or incomplete|failed to read (?:tensor|key)",
        "The file of weights is no GGUF file, or not a whole one.",
        "Remove it from the cache and run `gpubench fetch` again."),
    cause("unsupported-architecture", "recipe",
        r"unknown model architecture|unknown pre-tokenizer type|wrong number of tensors"
        r"|missing tensor '",
        "This engine does not know the model's architecture.",
        "Use a newer llama.cpp, or weights that this one knows."),
    cause("kv-cache-too-small", "recipe",
        r"failed to allocate (?:buffer for (?:kv|rs) cache|compute (?:pp|tg) buffers)",
        "The KV cache does not fit beside the weights.",
        "Lower ctx-size or parallel, or use a smaller cache-type-k and cache-type-v."),
    cause("out-of-memory-host", "infrastructure", r"unable to allocate (?:CPU|\w+_Host)\S* buffer",
        "The host ran out of memory.",
        "Free memory on the host, raise the job's memory limit, or use smaller weights."),
    cause("out-of-memory-weights", "recipe",
        r"unable to allocate \S+ buffer|ErrorOutOfDeviceMemory",
        "The GPU ran out of memory while the weights were loaded.",
        "Lower n-gpu-layers, use a smaller quantization or more GPUs."),
    cause("draft-weights", "recipe",
        r"draft model vocab type must match|draft vocabs are not compatible"
        r"|draft model is not compatible",
        "The draft's vocabulary is not that of the model.",
        "Use the draft that was made for this model."),
    cause("invalid-configuration", "recipe", r"requires? (?:Flash Attention|flash_attn)",
        "The engine rejects what the recipe asks for.",
        "Correct the value that the message names in the recipe."),
    cause("wrong-argument", "recipe",
        r"error: (?:unrecognized arguments|argument |invalid argument|unknown argument"
        r"|unknown value)|error while handling (?:argument|environment)",
        "The engine does not accept an argument of the recipe.",
        "Correct the flag under `serve` (or in extra-args), or require an engine that knows it."),
    *SHARED_CAUSES,
)  # fmt: skip

_LOADED = re.compile(r"n_slots = (\d+), n_ctx_slot = (\d+)")
_THREADS = re.compile(r"threadpool init, n_threads = (\d+)")


class LogReader:
    """Collects what is said before the server answers; ``/props`` says the rest."""

    def __init__(self) -> None:
        self._cache: dict[str, object] = {}
        self._length: int | None = None

    def feed(self, raw: str) -> LogLine:
        """Read one line and return it taken apart."""
        line = parse_line(raw)
        with contextlib.suppress(ValueError):  # no number that anybody could have meant
            if found := _LOADED.search(line.text):
                self._cache["slots"] = str(count_of(found[1]))
                self._length = count_of(found[2])
            elif found := _THREADS.search(line.text):
                self._cache["threads"] = str(count_of(found[1]))
        return line

    def facts(self) -> EngineFacts:
        """What is known so far."""
        return EngineFacts(
            max_model_len=self._length,
            cache_config=FrozenMap(self._cache),
        )


LOG = EngineLog(
    parse=parse_line,
    reader=LogReader,
    causes=CAUSES,
    fatal=re.compile(rf"GGML_ASSERT|ggml_abort|{CRASHES}"),
    # The prefix with the level may be switched off, and older ones have none.
    last_words=re.compile(
        r"^error(?: while handling \w+)?[: ]|error loading model|invalid magic characters"
        r"|failed to (?:initialize the context|initialize CUDA|open GGUF)|couldn't bind"
        r"|chat template parsing error|parser for this template|draft model (?:vocab|is not)"
        r"|draft vocabs are not|requires? (?:Flash Attention|flash_attn)"
    ),
    worth_reading=re.compile(rb"GGML_ASSERT|Fatal Python error|CUDA error| E "),
)
