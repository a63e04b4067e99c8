"""Handlers of signals stand for a while, and then those that stood before."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import pytest

from pytest_gpubench.host.own_processes import handled


def test_a_signal_goes_to_the_handler_and_later_to_the_one_before() -> None:
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.getsignal(signal.SIGUSR1)
    with handled({signal.SIGUSR1: hear}):
        os.kill(os.getpid(), signal.SIGUSR1)
        with handled({signal.SIGUSR1: signal.SIG_IGN}):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == [signal.SIGUSR1, signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_the_one_before_comes_back_after_an_exception() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(KeyError), handled({signal.SIGUSR1: signal.SIG_IGN}):
        raise KeyError
    assert signal.getsignal(signal.SIGUSR1) is before


def test_another_thread_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    seen: list[object] = []

    def work() -> None:
        with handled({signal.SIGUSR1: signal.SIG_IGN}):
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
