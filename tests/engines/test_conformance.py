"""Every dialect keeps every promise: by stubs, and by the real engine where it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gpubench.demo.models import DEMO_TARGET_GGUF, write_demo_models
from pytest_gpubench.dialects.command_line import WEIGHTS
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.lifecycle import start_engine
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

from . import conformance
from .conformance import Subject

pytestmark = pytest.mark.slow

_TESTS = Path(__file__).parents[1]


def _spec(framework: str, serve: dict[str, object], **more: object) -> ServerSpec:
    return ServerSpec(
        framework,
        "org/model",
        "cpu",
        Topology(),
        FrozenMap(serve),
        **more,  # type: ignore[arg-type]
    )


_STUBS = {
    "vllm": Subject(
        _spec("vllm", {"max-model-len": 2304, "enable-prefix-caching": False}),
        (sys.executable, str(_TESTS / "stub_engine.py"), "serve"),
        lies=(("max-model-len", 512), ("enable-prefix-caching", True)),
    ),
    "sglang": Subject(
        _spec("sglang", {"context-length": 2304, "disable-radix-cache": True}),
        (sys.executable, str(_TESTS / "stub_dialects.py"), "sglang"),
        lies=(("context-length", 512), ("attention-backend", "triton")),
    ),
    "llamacpp": Subject(
        _spec("llamacpp", {"ctx-size": 9216, "parallel": 4, "cache-prompt": False}),
        (sys.executable, str(_TESTS / "stub_dialects.py"), "llamacpp"),
        weights={WEIGHTS: "model.gguf"},
        lies=(("ctx-size", 512), ("parallel", 8)),
    ),
}


@pytest.fixture(scope="module")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("demo-cache")
    write_demo_models(cache)
    return cache


def _real_llamacpp(cache: Path) -> Subject:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install xllamacpp")
    snapshot = find_snapshot(DEMO_TARGET_GGUF, None, cache)
    assert isinstance(snapshot, Snapshot)
    (file,) = snapshot.path.glob("*.gguf")
    spec = _spec("llamacpp", {"ctx-size": 2048, "parallel": 4, "threads": 1, "cache-prompt": False})
    return Subject(
        dataclasses.replace(spec, model=DEMO_TARGET_GGUF),
        spec_command("xllamacpp_server"),
        weights={WEIGHTS: str(file)},
        lies=(("ctx-size", 8192), ("parallel", 8)),
    )


def spec_command(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"pytest_gpubench.dialects.llamacpp.{module}")


@pytest.fixture(scope="module", params=[*_STUBS, "llamacpp itself", "llamacpp itself, n-gram"])
def subject(request: pytest.FixtureRequest, demo_cache: Path) -> Subject:
    name = str(request.param)
    if name in _STUBS:
        return _STUBS[name]
    real = _real_llamacpp(demo_cache)
    if name.endswith("n-gram"):
        draft = Speculative("ngram", 4, options=FrozenMap({"prompt_lookup_max": 2}))
        spec = dataclasses.replace(real.spec, speculative=draft)
        return dataclasses.replace(real, spec=spec, osl=96)
    return real


@pytest.fixture(scope="module")
def started(
    subject: Subject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Path]]:
    log = tmp_path_factory.mktemp("engine") / "server.log"
    with conformance.running(subject, log) as engine:
        yield engine, log


def test_tells_what_it_is(subject: Subject, started: tuple[Engine, Path]) -> None:
    conformance.tells_what_it_is(subject, started[0])


def test_keeps_its_key(started: tuple[Engine, Path]) -> None:
    conformance.keeps_its_key(*started)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_measures(subject: Subject, started: tuple[Engine, Path], api: str) -> None:
    template = {"chat": "server", "completions": "none"}[api]
    found = conformance.measures(subject, started[0], api=api, chat_template=template)
    if subject.spec.speculative is not None:
        assert found.drafting is not None
        assert found.metrics["acceptance_length"] >= 1


def test_can_be_attached_to(subject: Subject, started: tuple[Engine, Path]) -> None:
    conformance.can_be_attached_to(subject, started[0])


def test_leaves_nothing(subject: Subject, tmp_path: Path) -> None:
    with conformance.running(subject, tmp_path / "server.log") as engine:
        conformance.leaves_nothing(engine)


def test_names_a_killed_process(subject: Subject, tmp_path: Path) -> None:
    with conformance.running(subject, tmp_path / "server.log") as engine:
        failure = conformance.names_a_killed_process(engine)
    assert failure.cause in ("killed", "engine-died")


def test_names_a_taken_port(subject: Subject, tmp_path: Path) -> None:
    conformance.names_a_taken_port(subject, tmp_path / "server.log")


def test_refuses_a_wrong_flag(subject: Subject, tmp_path: Path) -> None:
    conformance.refuses_a_wrong_flag(subject, tmp_path / "server.log")


ONLY_STUBS = pytest.mark.parametrize("subject", [*_STUBS], indirect=True)


@ONLY_STUBS
def test_tells_no_key_even_if_the_engine_prints_it(subject: Subject, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with conformance.running(subject, log, "tell-key") as engine:
        assert engine.api_key not in log.read_text()
        assert "my key is" in log.read_text()


@pytest.mark.parametrize("subject", ["sglang", "llamacpp"], indirect=True)
class TestDeaths:
    """The faults of the stub whose words are not vLLM's; vLLM's are in ``test_lifecycle.py``."""

    @pytest.fixture
    def death(self, subject: Subject, tmp_path: Path) -> Callable[[str], str]:
        return lambda fault: conformance.death_of(subject, tmp_path / "x.log", fault).cause

    def test_an_exception_at_the_start(self, death: Callable[[str], str]) -> None:
        assert death("exception-at-load") == "illegal-memory-access"

    def test_no_word_at_the_start(self, death: Callable[[str], str]) -> None:
        assert death("quiet-at-load") == "engine-died"

    def test_silence_at_the_start(self, subject: Subject, tmp_path: Path) -> None:
        settings = dataclasses.replace(subject.settings(tmp_path / "x.log", "hang-at-load"))
        short = dataclasses.replace(settings, stall_timeout=2.0)
        with pytest.raises(BenchmarkError) as caught:
            start_engine(subject.spec, short)
        assert caught.value.failure.cause == "stalled"

    @pytest.mark.parametrize(
        ("fault", "cause"),
        [
            ("exception-serving", "illegal-memory-access"),
            ("worker-killed-serving", "killed"),
            ("killed-serving", "killed"),
        ],
    )
    def test_while_it_serves(
        self, subject: Subject, tmp_path: Path, fault: str, cause: str
    ) -> None:
        with (
            conformance.running(subject, tmp_path / "x.log", fault) as engine,
            pytest.raises(BenchmarkError) as caught,
        ):
            conformance.measures(subject, engine)
        assert caught.value.failure.cause in (cause, "engine-died")

    def test_it_ignores_the_signal(self, subject: Subject, tmp_path: Path) -> None:
        with conformance.running(subject, tmp_path / "x.log", "ignore-sigterm") as engine:
            conformance.leaves_nothing(engine)
