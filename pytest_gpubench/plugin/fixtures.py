"""The fixtures. Bodies import what they need: declaring them costs nothing in a run without
recipes.

Our own code uses only the ``_gpubench_*`` names; the public ones are aliases, so that a user's
fixture named ``engine`` or ``case`` stays the user's and breaks nothing of ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gpubench.plugin.items import CASE, EVALUATION, LAUNCH, RATIO, USES_US, note_on

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from pytest_gpubench.engines.engine import Engine, EngineCheck
    from pytest_gpubench.gate.ratios import RatioPoint
    from pytest_gpubench.measure.measurement import Measurement
    from pytest_gpubench.model.cases import Case
    from pytest_gpubench.model.specs import Launch
    from pytest_gpubench.model.verdicts import Verdict
    from pytest_gpubench.plugin.session import BenchmarkSession


SESSION: pytest.StashKey[BenchmarkSession] = pytest.StashKey()
"""In ``config.stash``, where recipes are loaded: the state of the run."""
_CLOSE_TIMEOUT_S = 10.0
_NO_KEY = "none"
"""The OpenAI client insists on a key, which a server without one does not look at."""


def session_of(config: pytest.Config) -> BenchmarkSession:
    """The run's state, for fixtures that exist only with it."""
    return config.stash[SESSION]


@contextlib.contextmanager
def _as_outcomes() -> Iterator[None]:
    """Endings of a run's parts become pytest's outcomes, without a traceback."""
    from pytest_gpubench.runs.endings import Ending, Failed, Interrupted, Skipped

    try:
        yield
    except Ending as ending:
        outcome: BaseException = pytest.xfail.Exception(str(ending))
        if isinstance(ending, Failed):
            outcome = pytest.fail.Exception(str(ending), pytrace=False)
        elif isinstance(ending, Skipped):
            outcome = pytest.skip.Exception(str(ending))
        elif isinstance(ending, Interrupted):
            outcome = pytest.exit.Exception(str(ending), pytest.ExitCode.INTERRUPTED)
        raise outcome from None


@pytest.fixture(scope="session")
def _gpubench_launch(request: pytest.FixtureRequest) -> Launch:
    launch: Launch = _parameter(request, "server")
    return launch


@pytest.fixture(scope="session")
def _gpubench_case(request: pytest.FixtureRequest) -> Case:
    case: Case = _parameter(request, "case")
    return case


@pytest.fixture(scope="session")
def _gpubench_evaluation(request: pytest.FixtureRequest) -> Case:
    case: Case = _parameter(request, "evaluation")
    return case


def _parameter(request: pytest.FixtureRequest, what: str) -> Any:
    """What the test was parametrized with: pytest does so only for fixtures that are arguments."""
    if not hasattr(request, "param"):
        pytest.fail(
            f"this test asks for its {what} with request.getfixturevalue(), or is a method of a "
            "unittest.TestCase: pytest had to know before. Name the fixture as an argument, as in "
            "def test_own(engine): ..., in a function or a plain class",
            pytrace=False,
        )
    return request.param


@pytest.fixture(scope="session")
def _gpubench_engine(pytestconfig: pytest.Config, _gpubench_launch: Launch) -> Iterator[Engine]:
    with _as_outcomes(), session_of(pytestconfig).servers.running(_gpubench_launch) as running:
        yield running


@pytest.fixture
def _gpubench_engine_check(
    pytestconfig: pytest.Config, _gpubench_launch: Launch, _gpubench_engine: Engine
) -> EngineCheck:
    return session_of(pytestconfig).servers.check(_gpubench_launch)


@pytest.fixture
def _gpubench_measure(
    request: pytest.FixtureRequest, _gpubench_launch: Launch, _gpubench_case: Case
) -> Callable[[], Measurement]:
    runner, note = session_of(request.config).runner, note_on(request.node)

    @_as_outcomes()
    def measure() -> Measurement:
        return runner.measure(
            note,
            _gpubench_launch,
            _gpubench_case,
            lambda: request.getfixturevalue("_gpubench_engine"),
        )

    return measure


@pytest.fixture
def _gpubench_gate(
    request: pytest.FixtureRequest, _gpubench_launch: Launch, _gpubench_case: Case
) -> Callable[[Measurement], Verdict]:
    runner, note = session_of(request.config).runner, note_on(request.node)

    @_as_outcomes()
    def gate(measurement: Measurement) -> Verdict:
        return runner.judge(note, _gpubench_launch, _gpubench_case, measurement)

    return gate


@pytest.fixture
def _gpubench_accuracy(
    request: pytest.FixtureRequest, _gpubench_launch: Launch, _gpubench_evaluation: Case
) -> Callable[[], Verdict]:
    runner, note = session_of(request.config).runner, note_on(request.node)
    launch, case = _gpubench_launch, _gpubench_evaluation

    @_as_outcomes()
    def evaluate() -> Verdict:
        measured = runner.measure(
            note, launch, case, lambda: request.getfixturevalue("_gpubench_engine")
        )
        return runner.judge(note, launch, case, measured)

    return evaluate


@pytest.fixture
def _gpubench_init_gate(
    request: pytest.FixtureRequest, _gpubench_launch: Launch, _gpubench_engine: Engine
) -> Callable[[], Verdict]:
    runner, note = session_of(request.config).runner, note_on(request.node)
    return _as_outcomes()(lambda: runner.judge_init(note, _gpubench_launch, _gpubench_engine))


@pytest.fixture(scope="session")
def _gpubench_ratio(request: pytest.FixtureRequest) -> RatioPoint:
    point: RatioPoint = _parameter(request, "ratio")
    return point


@pytest.fixture
def _gpubench_ratio_gate(
    request: pytest.FixtureRequest, _gpubench_ratio: RatioPoint
) -> Callable[[], Verdict]:
    from pytest_gpubench.plugin.ratio_items import judge_item

    benchmark = session_of(request.config)
    return _as_outcomes()(lambda: judge_item(benchmark, request.node, _gpubench_ratio))


@pytest.fixture(scope="session")
def engine(_gpubench_engine: Engine) -> Engine:
    """The running server of this test, with its facts (URL, version, backends, KV cache size,
    start-up phases)."""
    return _gpubench_engine


@pytest.fixture(scope="session")
def case(_gpubench_case: Case) -> Case:
    """The case: recipe, topology and workload."""
    return _gpubench_case


@pytest.fixture
def measure(_gpubench_measure: Callable[[], Measurement]) -> Callable[[], Measurement]:
    """``measure()`` runs the case once on this launch, writes its record and returns the
    measurement."""
    return _gpubench_measure


@pytest.fixture
def gate(_gpubench_gate: Callable[[Measurement], Verdict]) -> Callable[[Measurement], Verdict]:
    """``gate(measurement)`` judges it: FAIL fails the test, INCONCLUSIVE and INVALID are reported
    as skipped with the reason."""
    return _gpubench_gate


@pytest.fixture(scope="session")
def client(_gpubench_engine: Engine) -> Iterator[OpenAI]:
    """A plain OpenAI client of the engine, without retries. It goes as the load does: through no
    proxy, and following no redirect, which would take prompts and key along."""
    import openai

    http = openai.DefaultHttpxClient(**_as_the_load())
    url, key = _gpubench_engine.base_url, _gpubench_engine.api_key or _NO_KEY
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, http_client=http) as plain:
        yield plain


def _as_the_load() -> dict[str, Any]:
    import ssl

    # The default context knows SSL_CERT_FILE, which trust_env=False would take away.
    return {"follow_redirects": False, "trust_env": False, "verify": ssl.create_default_context()}


@pytest.fixture
def async_client(_gpubench_engine: Engine) -> Iterator[AsyncOpenAI]:
    """As ``client``, asynchronous. It is closed after the test where the event loop that used it is
    still there (as with pytest-asyncio); in an ``asyncio.run`` of your own close it yourself."""
    import asyncio

    import openai

    used: list[asyncio.AbstractEventLoop] = []

    async def note_loop(_request: object) -> None:
        with contextlib.suppress(RuntimeError):  # of another library than asyncio
            used[:] = [asyncio.get_running_loop()]

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [note_loop]}, **_as_the_load())
    url, key = _gpubench_engine.base_url, _gpubench_engine.api_key or _NO_KEY
    plain = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=http)
    yield plain
    for loop in used:
        if loop.is_running():  # in another thread: fixtures end outside of loops
            asyncio.run_coroutine_threadsafe(plain.close(), loop).result(_CLOSE_TIMEOUT_S)
        elif not loop.is_closed():
            loop.run_until_complete(plain.close())


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Give a test its launches and cases: both, launches only, or cases only; or the ratios between
    cases."""
    metafunc.config.stash[USES_US] = True
    asked = (LAUNCH, CASE, EVALUATION)
    names = tuple(name for name in asked if name in metafunc.fixturenames) or (RATIO,)
    session = metafunc.config.stash.get(SESSION, None)
    if session is None:
        metafunc.config.pluginmanager.unregister(name="gpubench-no-recipes")
        metafunc.config.pluginmanager.register(_NoRecipes(), name="gpubench-no-recipes")
        metafunc.parametrize(names, [], indirect=True, scope="session")
        return
    from pytest_gpubench.plugin import gc_pause

    with gc_pause.paused():
        sets = session.parameters.of(names)
        # without ratios the test is one item, which is taken out again
        if sets or names != (RATIO,):
            metafunc.parametrize(names, sets, indirect=True, scope="session")


class _NoRecipes:
    """Ends a run whose tests ask for servers while no recipe file exists."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config) -> None:
        raise pytest.UsageError(
            f"no recipes.yaml in {config.rootpath}: write one with 'gpubench init', or "
            "name a file with --gpubench-recipes FILE"
        )
