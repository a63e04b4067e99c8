"""What a launch is warmed up with."""

from __future__ import annotations

from dataclasses import replace

from pytest_gpubench.load.composer import staggered
from pytest_gpubench.load.load_run import waves_of
from pytest_gpubench.load.prompts import Prompt
from pytest_gpubench.model.workload import Workload, contradictions

SHORT = Workload(isl=1024, osl=1024, conc=64, num_prompts=640, num_warmups=128)


def test_every_rank_is_reached_alone_and_busy() -> None:
    alone, busy = waves_of([SHORT], ranks=4)
    assert (alone.conc, alone.num_prompts) == (4, 8)
    assert (busy.conc, busy.num_prompts) == (64, 64)
    assert {alone.osl, busy.osl} == {12}
    assert not alone.num_warmups


def test_every_input_length_is_sent_with_the_load_of_its_busiest_case() -> None:
    cases = [replace(SHORT, conc=conc, isl=isl) for isl in (8192, 1024) for conc in (1, 256, 4)]
    waves = waves_of(cases, ranks=1)
    assert [(one.isl, one.conc) for one in waves] == [(1024, 1), (1024, 16), (8192, 1), (8192, 16)]


def test_a_case_of_one_request_is_not_flooded() -> None:
    assert [one.conc for one in waves_of([replace(SHORT, conc=1)], ranks=1)] == [1, 1]


def test_whatever_the_case_is_its_warm_up_can_be_run() -> None:
    odd = replace(
        SHORT,
        dataset="trace",
        dataset_file="t.jsonl",
        arrival="trace",
        time_scale=0.5,
        workers=4,
        interval=0.02,
    )
    chat = replace(SHORT, turns=3, think_time=1.0, dataset="text", prefix_tokens=10)
    rated = replace(SHORT, arrival="gamma", request_rate=3.0, burstiness=0.5, handover="continue")
    sessions = replace(
        SHORT, dataset="sessions", dataset_file="s.jsonl", handover="drain", sessions=64,
        idle_cap=5.0, block_tokens=16,
    )  # fmt: skip
    for one in (odd, chat, rated, sessions):
        assert [contradictions(wave) for wave in waves_of([one], 2)] == [(), ()]


def test_slots_are_handed_over_one_after_another() -> None:
    handed = replace(SHORT, handover="continue", osl=128)
    lengths = [
        staggered(Prompt(index, "warmup", "x", 1024, 128), handed).osl for index in range(128)
    ]
    assert lengths[:64] == [2 * (index + 1) for index in range(64)]
    assert set(lengths[64:]) == {128}
    one = replace(handed, conc=1, num_warmups=2)
    assert staggered(Prompt(0, "warmup", "x", 1024, 128), one).osl == 128
    assert staggered(Prompt(0, "warmup", "x", 1024, 1), handed).osl == 1


def test_what_is_not_handed_over_is_not_staggered() -> None:
    prompt = Prompt(0, "warmup", "x", 1024, 128)
    handed = replace(SHORT, handover="continue")
    for other in (
        SHORT,
        replace(handed, turns=2),
        replace(handed, num_warmups=8),
        replace(handed, arrival="poisson", request_rate=2.0),
    ):
        assert staggered(prompt, other) == prompt
