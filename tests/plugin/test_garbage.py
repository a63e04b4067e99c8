from __future__ import annotations

import gc

import pytest

from pytest_gpubench.plugin import gc_pause


def _fail_in_a_pause() -> None:
    with gc_pause.paused():
        assert not gc.isenabled()
        raise ZeroDivisionError


@pytest.mark.parametrize("enabled", [True, False])
def test_a_pause_leaves_the_collector_as_it_was_even_after_an_error(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ZeroDivisionError):
            _fail_in_a_pause()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize(("frozen", "calls"), [(0, 1), (7, 0)])
def test_a_second_run_in_one_process_keeps_no_garbage(
    monkeypatch: pytest.MonkeyPatch, frozen: int, calls: int
) -> None:
    done: list[None] = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    monkeypatch.setattr(gc, "freeze", lambda: done.append(None))
    gc_pause.spare_what_stays()
    assert len(done) == calls
