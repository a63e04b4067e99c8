"""Baselines as data: keys, windows, anchors, recording, pruning."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.gate.baseline_key import (
    comparison_key,
    differences,
    key_digest,
    measurement_axis,
)
from pytest_gpubench.gate.baselines import (
    ANCHOR,
    WINDOW,
    Baseline,
    LaunchEntry,
    append,
    mark,
    prune,
)
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.recording import entries_of, recording, tree_refusal
from pytest_gpubench.model.cases import Case, Identity, SourcePosition
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology
from pytest_gpubench.model.verdicts import Change, MetricVerdict, Status, Verdict
from pytest_gpubench.model.workload import Workload

KEY = FrozenMap({"device": "H100"})
METRIC = "tpot_p50"


def entry(
    index: int, value: float = 0.05, metric: str = METRIC, anchors: dict[str, str] | None = None
) -> LaunchEntry:
    date = f"2026-{index // 28 + 1:02}-{index % 28 + 1:02}T00:00:00Z"
    return LaunchEntry(
        f"run{index:03}",
        "launch-1",
        date,
        "",
        FrozenMap({metric: value}),
        640,
        anchors=FrozenMap(anchors or {}),
    )


def series(count: int, marks: dict[int, dict[str, str]] | None = None) -> Baseline:
    return append(
        Baseline("s:w"),
        KEY,
        [entry(i, 0.05 + i / 1000, anchors=(marks or {}).get(i)) for i in range(count)],
    )


def test_window_and_anchor() -> None:
    short = series(ANCHOR).history(KEY, METRIC)
    assert (len(short.window), short.anchor, short.days) == (ANCHOR, (), ANCHOR)
    long = series(30).history(KEY, METRIC)
    assert (len(long.window), len(long.anchor)) == (WINDOW, ANCHOR)
    assert long.anchor[0] == 0.05
    assert long.window[-1] == pytest.approx(0.079)


def test_an_accepted_change_begins_a_new_anchor_and_lends_the_old_spread() -> None:
    history = series(12, {10: {METRIC: "accepted"}}).history(KEY, METRIC)
    assert history.window == pytest.approx((0.060, 0.061))
    assert len(history.earlier) == 10
    assert history.enough
    assert not series(3).history(KEY, METRIC).enough


def test_another_metric_keeps_its_anchor() -> None:
    baseline = series(12, {10: {"output_tput": "improved"}})
    assert len(baseline.history(KEY, METRIC).window) == 12


def test_appending_twice_changes_nothing() -> None:
    baseline = series(3)
    assert append(baseline, KEY, [entry(0, 0.9), entry(1, 0.9)]) == baseline
    assert len(append(baseline, KEY, [entry(7)]).launches) == 4


def test_another_key_is_another_series_in_the_same_file() -> None:
    other = FrozenMap({"device": "H200"})
    baseline = append(series(3), other, [entry(9)])
    assert baseline.mismatch(KEY) == ()
    assert len(baseline.comparable(KEY)) == 3
    assert len(baseline.comparable(other)) == 1
    assert baseline.mismatch(FrozenMap({"device": "B200"})) == ("device: H200 before, B200 now",)


@settings(max_examples=60)
@given(
    st.integers(1, 70),
    st.dictionaries(st.integers(0, 69), st.sampled_from([METRIC, "ttft_p50"]), max_size=4),
)
def test_pruning_changes_no_verdict(count: int, marks: dict[int, str]) -> None:
    baseline = series(count, {index: {metric: "accepted"} for index, metric in marks.items()})
    pruned = prune(baseline)
    assert pruned.history(KEY, METRIC) == baseline.history(KEY, METRIC)
    assert prune(pruned) == pruned
    assert len(pruned.launches) <= WINDOW * 2 + ANCHOR


def test_pruning_forgets_keys_that_nothing_uses() -> None:
    baseline = Baseline(
        "s:w", FrozenMap({key_digest(KEY): KEY, "unused": FrozenMap()}), series(2).launches
    )
    assert list(prune(baseline).keys) == [key_digest(KEY)]


def case_and_spec(osl: int = 1024, tokens: int = 3, block: int = 128) -> tuple[Case, ServerSpec]:
    topology = Topology(tp=8)
    spec = ServerSpec(
        "vllm",
        "org/model",
        "h100",
        topology,
        FrozenMap({"block-size": block}),
        speculative=Speculative("eagle3", tokens, "org/draft"),
        env=FrozenMap({"A": "1", "B": {"from": "B", "default": 2}}),
        image="vllm:1",
    )
    load = Workload(1024, osl, 64, 640, 128)
    identity = Identity("m", "fp8", "h100", "vllm", "mtp")
    case = Case(
        "s:w",
        "r",
        identity,
        "org/model",
        "h100",
        topology,
        load,
        4096,
        "s",
        (),
        SourcePosition("f", 1, 1),
    )
    return case, spec


def key(case: Case | None, spec: ServerSpec, device: str = "NVIDIA H100") -> FrozenMap:
    return comparison_key(
        case,
        spec,
        device=device,
        commits={"org/model": "abc"},
        measurement_version=1,
        policy="point",
    )


def test_the_key_holds_what_must_match_and_not_what_is_under_test() -> None:
    base = key(*case_and_spec())
    assert key(*case_and_spec(block=64)) == base
    assert differences(base, key(*case_and_spec(osl=512))) == (
        "workload.osl: 1024 before, 512 now",
    )
    assert differences(base, key(*case_and_spec(), device="NVIDIA H200")) == (
        "device: NVIDIA H100 before, NVIDIA H200 now",
    )
    assert [field.split(":")[0] for field in differences(base, key(*case_and_spec(tokens=2)))] == [
        "speculative"
    ]
    assert "workload.osl" not in key(None, case_and_spec()[1])


def test_the_axis_names_engine_flags_and_host() -> None:
    record = {
        "engine": {"version": "0.25.0", "attention_backend": None},
        "host": {"hostname": "n1", "driver": "580", "kernel": "6"},
        "git": None,
        "versions": {"openai": "3.0"},
        "measurement": {"client": {"priority": "real-time"}},
    }
    axis = measurement_axis(case_and_spec()[1], record)
    assert (axis["engine"], axis["serve.block-size"], axis["env.B"]) == (
        "0.25.0",
        "128",
        '{"default":2,"from":"B"}',
    )
    assert axis["client.priority"] == "real-time"
    assert "commit" not in axis
    assert "client.priority" not in measurement_axis(
        case_and_spec()[1], record | {"measurement": None}
    )


def verdict(
    status: Status,
    code: str,
    *,
    estimate: float = 0.0,
    metric: str = METRIC,
    improved: bool = False,
    changed: bool = True,
    remedy: str = "",
) -> Verdict:
    change = (
        Change(0.05, 0.05, estimate, estimate - 0.02, estimate + 0.02, 0.01, 8, 1, 0.08)
        if changed
        else None
    )
    one = MetricVerdict(
        metric,
        status,
        code,
        f"{metric} {code}",
        remedy,
        change=change,
        tolerance=0.05,
        improved=improved,
    )
    return Verdict(status, one.reason, metrics=(one,))


@pytest.mark.parametrize(
    ("given_verdict", "accept", "allowed", "anchors"),
    [
        (verdict(Status.PASS, "held"), False, True, {}),
        (verdict(Status.PASS, "improved", improved=True), False, True, {METRIC: "improved"}),
        (verdict(Status.UNGATED, "no-baseline", changed=False), False, True, {}),
        (verdict(Status.FAIL, "no-baseline", changed=False), False, True, {}),
        (verdict(Status.INCONCLUSIVE, "short-baseline", changed=False), False, True, {}),
        (verdict(Status.INCONCLUSIVE, "straddles", estimate=0.04), False, True, {}),
        (verdict(Status.INCONCLUSIVE, "straddles", estimate=0.06), False, False, {}),
        (
            verdict(Status.INCONCLUSIVE, "straddles", estimate=-0.06, metric="output_tput"),
            False,
            False,
            {},
        ),
        (
            verdict(Status.INCONCLUSIVE, "straddles", estimate=0.06, metric="output_tput"),
            False,
            True,
            {},
        ),
        (verdict(Status.INCONCLUSIVE, "straddles", estimate=0.06), True, False, {}),
        (verdict(Status.FAIL, "regressed", estimate=0.2), False, False, {}),
        (
            verdict(Status.FAIL, "regressed", estimate=0.2),
            True,
            True,
            {METRIC: "accepted"},
        ),
        (
            verdict(Status.FAIL, "drifted", estimate=0.2),
            True,
            True,
            {METRIC: "accepted"},
        ),
        (verdict(Status.FAIL, "limit-broken", changed=False), True, False, {}),
        (Verdict(Status.INVALID, "the client was measured"), True, False, {}),
    ],
)
def test_what_may_be_recorded(
    given_verdict: Verdict, accept: bool, allowed: bool, anchors: dict[str, str]
) -> None:
    found = recording(given_verdict, accept_regression=accept)
    assert (found.allowed, dict(found.anchors)) == (allowed, anchors)
    assert bool(found.reason) is not allowed


def test_refusals_say_what_to_do() -> None:
    for code in ("regressed", "drifted"):
        refused = recording(verdict(Status.FAIL, code))
        assert refused.reason.endswith(f"{METRIC} {code}; --gpubench-accept-regression accepts it")
    assert "uncommitted" in tree_refusal({"commit": "a", "dirty": True})
    assert "not a git working tree" in tree_refusal(None)
    assert tree_refusal({"commit": "a", "dirty": False}) == ""


def several(*verdicts: Verdict) -> Verdict:
    """One verdict on the metrics of all."""
    return replace(verdicts[0], metrics=tuple(one for each in verdicts for one in each.metrics))


def test_a_refusal_says_of_each_metric_which_option_helps() -> None:
    worse = verdict(Status.FAIL, "regressed", estimate=0.2, metric="ttft_p50")
    drifted = verdict(Status.FAIL, "drifted", estimate=0.2, metric="icl_p50")
    noisy = verdict(Status.INCONCLUSIVE, "straddles", estimate=0.06, remedy="launch it again")
    broken = verdict(Status.FAIL, "limit-broken", metric="ttft_p99", changed=False)
    option = "--gpubench-accept-regression accepts"
    undecided = f"{METRIC} straddles, which no option accepts; launch it again"
    for order in itertools.permutations([worse, noisy]):
        assert (
            recording(several(*order)).reason
            == f"not recorded: {undecided}; ttft_p50 regressed; {option} it"
        )
    assert (
        recording(several(worse, noisy), accept_regression=True).reason
        == f"not recorded: {undecided}"
    )
    assert (
        recording(several(worse, drifted)).reason
        == f"not recorded: ttft_p50 regressed; icl_p50 drifted; {option} them"
    )
    assert (
        recording(several(worse, broken)).reason == "not recorded: ttft_p99 limit-broken, "
        f"which no option accepts; ttft_p50 regressed; {option} it"
    )


def test_entries_leave_out_what_does_not_count() -> None:
    good = LaunchEvidence(
        "launch-1", {METRIC: 0.05, "ttft_p99": 1.0, "icl_p50": 0.0}, 640, frozenset({"ttft_p99"})
    )
    bad = LaunchEvidence("launch-2", {METRIC: 0.05}, 640, invalid=("client",))
    entries = entries_of(
        "run1",
        [(good, "2026-01-01T00:00:00Z"), (bad, "2026-01-01T00:01:00Z")],
        FrozenMap(),
        {METRIC: "improved"},
    )
    assert [one.launch for one in entries] == ["launch-1"]
    assert dict(entries[0].metrics) == {METRIC: 0.05}
    assert dict(entries[0].anchors) == {METRIC: "improved"}


def test_marks_only_the_first_launch_of_a_run() -> None:
    marked = mark([entry(1), entry(2)], {METRIC: "accepted"})
    assert [bool(one.anchors) for one in marked] == [True, False]
    assert mark([], {METRIC: "accepted"}) == ()


def test_a_baseline_read_in_any_order_is_the_same() -> None:
    entries = [entry(i) for i in range(4)]
    assert (
        len({append(Baseline("s:w"), KEY, order) for order in itertools.permutations(entries)}) == 1
    )
