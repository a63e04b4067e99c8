from __future__ import annotations

from dataclasses import dataclass

import pytest

from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.idleness import HangWatch
from pytest_gpubench.model.failures import BenchmarkError, Failure


@dataclass
class Scene:
    """An engine whose counters and clock the test moves."""

    now: float = 0.0
    tokens: float | None = 0.0
    running: int = 1
    scrapes: int = 0

    def scrape(self) -> str:
        self.scrapes += 1
        if self.tokens is None:
            raise BenchmarkError(Failure("no-metrics", "engine", "no answer"))
        return (
            "# TYPE vllm:generation_tokens counter\n"
            f"vllm:generation_tokens_total {self.tokens}\n"
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running {self.running}\n"
            "# TYPE vllm:num_requests_waiting gauge\n"
            "vllm:num_requests_waiting 0\n"
        )

    def watch(self, *, open_loop: bool = False) -> HangWatch:
        return HangWatch(self.scrape, 100.0, COUNTERS, open_loop=open_loop, clock=lambda: self.now)

    def pass_time(
        self, watch: HangWatch, seconds: int, *, tokens: float = 0.0, done: bool = False
    ) -> Failure | None:
        """Ask once a second; tokens and ended requests per second."""
        for _ in range(seconds):
            self.now += 1.0
            if self.tokens is not None:
                self.tokens += tokens
            watch.note(int(self.now) if done else 0)
            failure = watch.check()
            if failure is not None:
                return failure
        return None


def test_a_hung_engine_is_named_soon_after_the_limit() -> None:
    scene = Scene()
    failure = scene.pass_time(scene.watch(), 1000)
    assert failure is not None
    assert (failure.cause, failure.failure_class) == ("silent-engine", "engine")
    assert 100 <= scene.now <= 155
    assert scene.scrapes <= 6


@pytest.mark.parametrize("silence", ["tokens", "requests"])
def test_any_sign_of_life_counts(silence: str) -> None:
    scene = Scene()
    watch = scene.watch()
    alive = {"tokens": 0.1} if silence == "requests" else {"done": True}
    assert scene.pass_time(watch, 1000, **alive) is None
    assert scene.scrapes <= (0 if silence == "tokens" else 40)
    assert scene.pass_time(watch, 200) is not None


def test_an_engine_that_does_not_answer_is_silent() -> None:
    scene = Scene(tokens=None)
    assert scene.pass_time(scene.watch(), 130) is not None


def test_nothing_is_expected_before_the_first_request_is_sent() -> None:
    scene = Scene()
    watch = scene.watch()
    for _ in range(1000):
        scene.now += 1.0
        watch.note(None)
        assert watch.check() is None
    assert scene.scrapes == 0


def test_an_open_loop_may_have_nothing_due() -> None:
    scene = Scene(running=0)
    watch = scene.watch(open_loop=True)
    assert scene.pass_time(watch, 1000) is None
    scene.running = 1
    assert scene.pass_time(watch, 200) is not None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_a_count_that_is_none_is_no_sign_of_life(value: str) -> None:
    clock = iter(float(second) for second in range(1000))
    page = f"# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total {value}\n"
    watch = HangWatch(lambda: page, 20.0, COUNTERS, clock=lambda: next(clock))
    watch.note(0)
    assert any(watch.check() is not None for _ in range(50))
