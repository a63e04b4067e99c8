"""Starting an engine and proving that the one that answers is the one we started."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pytest_gpubench.dialects.command_line import KEY_FILE, PORT, CommandLine, record_env
from pytest_gpubench.dialects.dialect import Answers, Dialect
from pytest_gpubench.dialects.engine_facts import EngineFacts, some_names
from pytest_gpubench.dialects.registry import dialect_of, every_dialect
from pytest_gpubench.engines import http_probe
from pytest_gpubench.engines.diagnosis import Ending, classify
from pytest_gpubench.engines.engine import Engine, failure_of, no_metrics
from pytest_gpubench.engines.http_probe import base_url_error
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.engines.process import LaunchProgress, ServerProcess
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.secrets import Secrets
from pytest_gpubench.model.specs import ServerSpec

DEFAULT_START_TIMEOUT = 3600.0
DEFAULT_STALL_TIMEOUT = 600.0
_ATTEMPTS = 3
_POLL = 0.2
_PROBE = 2.0
"""Seconds for one look at a server that starts."""
_ASK = 10.0
"""Seconds for each question to a server that is ready; all together stay below the start
timeout."""
_CPU_IS_PROGRESS = 0.5
_CPU_SHARE = 0.01
_NOT_FOR_SERVERS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY")
_MOST_NAMES = 100
"""Served names that are kept, the one that is used first."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How one launch of a server differs from its spec: everything of this run and this machine."""

    command: tuple[str, ...]
    """Beginning of the command line; a spec's own ``command`` goes before it."""
    log_path: Path
    label: str = "engine"
    """Start of the served name; six random hex digits follow, so that every launch has its own."""
    cache_dir: str | None = None
    """Hugging Face hub cache for the server."""
    offline: bool = True
    """Keep the server from the network: weights are fetched beforehand."""
    host_env: Mapping[str, str] | None = None
    """The environment to start from; the process's own by default."""
    extra_env: Mapping[str, str] = field(default_factory=dict)
    """Of the launch: ``CUDA_VISIBLE_DEVICES``, a cache root. Wins over the recipe."""
    inherit_fds: tuple[int, ...] = ()
    """Descriptors (leases) that the whole tree keeps open."""
    start_timeout: float = DEFAULT_START_TIMEOUT
    """Seconds from process start to ready."""
    stall_timeout: float = DEFAULT_STALL_TIMEOUT
    """Seconds without a new log line and without CPU time."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Files of weights by their place on the command line, for an engine that takes files."""
    folder: Path | None = None
    """Where the server is started; None: where we were."""
    port: int | None = None
    """A fixed port; by default a free one is chosen, and another one if it is taken in between."""


def start_engine(
    spec: ServerSpec, settings: EngineSettings, note: Callable[[LaunchProgress], None] | None = None
) -> Engine:
    """Start a server and return when it is ready: process alive, healthy, our name listed under our
    key.

    Blocks for as long as the server needs. Whatever goes wrong, and on Ctrl-C, the whole process
    tree is stopped first.

    Args:
        note: is told once a second how far the start is.

    Raises:
        BenchmarkError: with the named cause, if the server does not become ready.
        GpubenchError: if the spec cannot be rendered.
    """
    failure: Failure | None = None
    attempts = _ATTEMPTS if settings.port is None else 1
    for attempt in range(attempts):
        try:
            return _attempt(spec, settings, note, append=attempt > 0)
        except BenchmarkError as error:
            failure = error.failure
            if failure.cause not in _retried(spec.framework):
                raise
    if failure is None:
        raise GpubenchError("no attempt was made to start the engine")
    raise BenchmarkError(failure)


def _retried(framework: str) -> frozenset[str]:
    """Causes after which a start is made once more: a port that somebody else took, or whose server
    answers; another port may be free."""
    causes = dialect_of(framework).log.causes
    return frozenset({"foreign-server", *(cause.name for cause in causes if cause.retried)})


def attach(
    base_url: str,
    dialect: Dialect,
    *,
    api_key: str = "",
    model: str | None = None,
    timeout: float = 10.0,
) -> Engine:
    """Use a server that somebody else runs: nothing is started or stopped, its identity is checked.

    ``base_url`` may end in ``/v1``. ``model`` is the served name to use; it may be left out if the
    server serves only one.

    Raises:
        BenchmarkError: if nothing healthy answers there, the key is refused, or the name is not
            served.
    """
    wrong = base_url_error(base_url)
    if wrong:
        raise GpubenchError(f"--gpubench-base-url {wrong}")
    url = urlunsplit(urlsplit(base_url)).rstrip("/").removesuffix("/v1")
    health = http_probe.get(f"{url}/health", api_key or None, timeout)
    if health.redirected:
        raise _redirected(f"{url}/health", health)
    if health.status in (401, 403):
        raise _key_refused(f"{url}/health")
    if health.status != 200:
        remedy = "Start the server, or correct --gpubench-base-url."
        if health.status == 404:
            remedy = (
                "--gpubench-base-url is the address of an engine itself, with or without /v1: "
                "gateways have no /health of it."
            )
        elif "certificate" in health.fault:
            remedy = "Name the file of its authority in SSL_CERT_FILE."
        raise _attach_error("engine-not-healthy", f"{url}/health gave {health}.", remedy)
    listed = http_probe.models(url, api_key or None, timeout)
    if listed.answer.redirected:
        raise _redirected(f"{url}/v1/models", listed.answer)
    if listed.answer.status in (401, 403):
        raise _key_refused(f"{url}/v1/models")
    if not listed.entries:
        raise _attach_error(
            "no-models",
            f"{url}/v1/models gave no list of models: {listed}.",
            "Is it an OpenAI-compatible server?",
        )
    name = _chosen(url, listed.entries, model)
    facts = _complete(EngineFacts(), dialect, url, api_key, name)
    return Engine(url, api_key, name, facts, attached=True)


def _chosen(url: str, served: Mapping[str, Mapping[str, Any]], model: str | None) -> str:
    """The served name that is meant: the one asked for, else the only one that is no adapter of
    another."""
    names = list(served)
    # LoRA adapters are listed as models with a parent.
    bases = [name for name, entry in served.items() if not entry.get("parent")] or names
    if model is not None and model not in served:
        raise _attach_error(
            "wrong-model",
            f"The server at {url} serves {some_names(names)}, not {model}.",
            "Correct --gpubench-model, --gpubench-base-url or the recipe.",
        )
    if model is None and len(bases) > 1:
        raise _attach_error(
            "wrong-model",
            f"The server at {url} serves several models: {some_names(bases)}.",
            "Say which one is meant: --gpubench-model NAME.",
        )
    return model or bases[0]


def free_port() -> int:
    """A TCP port on the loopback interface that is free at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _attempt(
    spec: ServerSpec,
    settings: EngineSettings,
    note: Callable[[LaunchProgress], None] | None,
    *,
    append: bool,
) -> Engine:
    served_name = f"{settings.label}-{secrets.token_hex(3)}"
    api_key = secrets.token_urlsafe(24)
    dialect = dialect_of(spec.framework)
    command = dialect.render(
        spec,
        spec.command or settings.command,
        served_name=served_name,
        cache_dir=settings.cache_dir,
        offline=settings.offline,
    )
    host_env = dict(os.environ if settings.host_env is None else settings.host_env)
    env, ours = _environment(command, dialect, settings, host_env)
    key = dialect.key(api_key)
    env |= key.env
    port = settings.port or free_port()
    hidden = [api_key, *Secrets.of(host_env).values, *Secrets.of(env).values]
    log = LogSink(settings.log_path, dialect.log, hidden, append=append)
    url = f"http://127.0.0.1:{port}"
    with _key_file(key.file) as key_path:
        argv = command.filled({PORT: str(port), KEY_FILE: key_path, **settings.weights})
        process = ServerProcess.start(
            argv, env, log, inherit_fds=settings.inherit_fds, cwd=settings.folder
        )
        try:
            _await_ready(process, url, api_key, served_name, settings, note)
            ready = time.monotonic() - process.started
            process.calm()
            deadline = process.started + settings.start_timeout
            seen = _with_marks(log, process, ready)
            facts = _complete(seen, dialect, url, api_key, served_name, deadline)
        except BenchmarkError as error:
            process.stop()
            raise BenchmarkError(_with_log(error.failure, log)) from None
        except BaseException:
            process.stop()
            raise
    return Engine(
        url,
        api_key,
        served_name,
        facts,
        argv=argv,
        env=record_env(env, ours, dialect.recorded_env),
        log_path=settings.log_path,
        process=process,
    )


@contextlib.contextmanager
def _key_file(text: str) -> Iterator[str]:
    """The path of a file with this text that nobody else can read, until the start has ended; an
    empty path where there is no text."""
    if not text:
        yield ""
        return
    with tempfile.NamedTemporaryFile("w", prefix="gpubench-", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        yield file.name


def _environment(
    command: CommandLine, dialect: Dialect, settings: EngineSettings, host_env: dict[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The server's environment, and the names that we or the recipe put there."""
    keys = {other.key_variable for other in every_dialect()}
    kept = {
        name: value
        for name, value in host_env.items()
        if name not in _NOT_FOR_SERVERS and name not in keys and not name.startswith("PYTEST_")
    }
    added = command.resolve_env(host_env) | dict(settings.extra_env)
    for name, value in dialect.launch_env(settings.start_timeout).items():
        added.setdefault(name, host_env.get(name, value))
    env = kept | added
    for name in command.unset:
        env.pop(name, None)
    return env, tuple(added)


def _await_ready(
    process: ServerProcess,
    url: str,
    api_key: str,
    served_name: str,
    settings: EngineSettings,
    note: Callable[[LaunchProgress], None] | None,
) -> None:
    progress = process.log.progress
    cpu = 0.0
    moved = checked = process.started
    deadline = process.started + settings.start_timeout
    foreign = 0
    while True:
        failure = failure_of(process, serving=False)
        if failure is not None:
            if failure.cause != "port-in-use" and foreign:
                failure = _named(process, Ending("foreign-server"))
            raise BenchmarkError(failure)
        identity = http_probe.identity(
            url, api_key, served_name, min(_PROBE, max(0.1, deadline - time.monotonic()))
        )
        if identity.who == "ready":
            return
        foreign += 1
        if identity.who not in ("foreign", "wrong"):
            foreign = 0
        now = time.monotonic()
        if foreign > 2:
            if identity.who == "wrong" and process.listens(urlsplit(url).port or 0):
                raise BenchmarkError(_wrong_answer(identity))
            raise BenchmarkError(_named(process, Ending("foreign-server")))
        if now - checked > 1.0:
            checked, used = now, process.cpu_seconds()
            # Idle event loops use a little, too.
            if process.log.progress != progress or used - cpu > _CPU_IS_PROGRESS + _CPU_SHARE * (
                now - moved
            ):
                progress, cpu, moved = process.log.progress, used, now
            if note is not None:
                note(process.progress("starting", process.started))
        ending: Ending | None = None
        answering = identity.who == "unhealthy"
        if now > deadline:
            compilers = process.compilers()
            ending = Ending(
                "timeout", seconds=settings.start_timeout, answering=answering, compilers=compilers
            )
        elif now - moved > settings.stall_timeout:
            ending = Ending("stalled", seconds=settings.stall_timeout, answering=answering)
        if ending is not None:
            raise BenchmarkError(_with_answer(_named(process, ending), identity))
        time.sleep(_POLL)


def _named(process: ServerProcess, ending: Ending) -> Failure:
    return classify(process.log.lines(), ending, process.log.format)


def _with_answer(failure: Failure, identity: http_probe.Identity) -> Failure:
    """With what the server's HTTP side said last, where it said anything."""
    if not identity.said:
        return failure
    return dataclasses.replace(failure, evidence=(identity.said, *failure.evidence))


def _wrong_answer(identity: http_probe.Identity) -> Failure:
    """Our own server has the port, and does not answer as an OpenAI-compatible server does."""
    return Failure(
        "wrong-answer",
        "engine",
        f"The engine answers, but not as an OpenAI-compatible server: {identity.said}.",
        remedy=(
            "Requests need its list of models (/v1/models): use an engine and a version "
            "that has it."
        ),
    )


def _with_marks(log: LogSink, process: ServerProcess, ready: float) -> EngineFacts:
    """Facts of the log with the phases that only the clock on our side can tell."""
    facts = log.facts()
    marks: dict[str, float] = {}
    for name, moment in (("process_start", log.first_output), ("imports", log.first_engine_line)):
        if moment is not None:
            marks[name] = round(moment - process.started, 3)
    return dataclasses.replace(
        facts, phases=FrozenMap({**marks, **facts.phases, "ready": round(ready, 3)})
    )


def _complete(
    facts: EngineFacts,
    dialect: Dialect,
    url: str,
    api_key: str,
    served_name: str,
    deadline: float = math.inf,
) -> EngineFacts:
    """Facts completed by what the server answers; a question without an answer leaves its fact as
    it is.

    Args:
        deadline: of the start, as ``time.monotonic``; each question has `_ASK` seconds at most,
            too.

    Raises:
        BenchmarkError: if the answer of ``/metrics`` does not end: no case could be measured.
    """

    def left() -> float:
        return min(_ASK, max(1.0, deadline - time.monotonic()))

    def ask(path: str) -> Any:
        return http_probe.get_json(f"{url}{path}", api_key, left())[1]

    served = http_probe.models(url, api_key, left()).entries
    entry = served.get(served_name, {})
    names = tuple(sorted(served, key=lambda name: name != served_name))[:_MOST_NAMES]
    said: dict[str, str] = {
        fact: entry[key]
        for key, fact in (("owned_by", "owned_by"), ("root", "served_root"))
        if isinstance(entry.get(key), str)
    }
    metrics = http_probe.get(f"{url}/metrics", api_key, left())
    if metrics.status is None:
        raise BenchmarkError(no_metrics(url, metrics))
    page = metrics.body.decode("utf-8", "replace") if metrics.status == 200 else ""
    facts = dataclasses.replace(facts, dialect=dialect.name, served_names=names, **said)  # type: ignore[arg-type]
    return dialect.complete(facts, Answers(entry, page, ask))


def _with_log(failure: Failure, log: LogSink) -> Failure:
    where = f"Whole log: {log.path}"
    if log.write_error is not None:
        where = f"The log could not be written: {log.write_error}"
    return dataclasses.replace(failure, remedy="\n".join(filter(None, (failure.remedy, where))))


def _key_refused(address: str) -> BenchmarkError:
    return _attach_error(
        "key-refused",
        f"The server refuses the API key at {address}.",
        "Set OPENAI_API_KEY to the server's key.",
    )


def _redirected(address: str, answer: http_probe.Answer) -> BenchmarkError:
    remedy = (
        "Give the address to which it leads as --gpubench-base-url, if that is the server "
        "that is meant."
    )
    return _attach_error(
        "redirected", f"{address} gave {answer}, since the API key would go there.", remedy
    )


def _attach_error(cause: str, summary: str, remedy: str) -> BenchmarkError:
    return BenchmarkError(
        Failure(
            cause,
            "infrastructure" if cause == "engine-not-healthy" else "client",
            summary,
            remedy=remedy,
        )
    )
