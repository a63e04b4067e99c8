"""The doctor against reality: eight servers that were really started, judged beforehand."""

from __future__ import annotations

import pytest

from pytest_gpubench.doctor.findings import Finding, prognosis
from pytest_gpubench.doctor.rules import examine
from tests.doctor.doctor_support import LOGS, served


def judged(name: str) -> tuple[Finding, ...]:
    seen = served(name)
    return examine(
        seen.spec,
        hardware=seen.hardware,
        target=seen.target,
        draft=seen.draft,
        node=seen.node,
        chat_template=True,
    )


@pytest.mark.parametrize(
    "name",
    [
        "tiny-eagle3-ready",
        "m3mini-ready",
        "m3mini-eagle3-flash-attn-ready",
        "m3mini-mxfp8-eagle3-flash-attn-ready",
        "m3mini-mxfp8-eagle3-dep2-h200-ready",
    ],
)
def test_servers_that_got_ready_are_foretold_to_start(name: str) -> None:
    findings = judged(name)
    assert "Application startup complete" in served(name).log
    assert prognosis(findings) == "starts"
    assert not [finding for finding in findings if finding.severity != "note"]


@pytest.mark.parametrize(
    ("name", "rule", "sentence"),
    [
        ("m3mini-eagle3-flashinfer-died", "common-block-size", "No common block size for 128"),
        (
            "m3mini-mxfp8-tep4-h200-died-vision-heads",
            "vision-heads-by-tp",
            "AssertionError: 2 is not divisible by 4",
        ),
    ],
)
def test_deaths_are_foretold_with_the_engines_own_sentence(
    name: str, rule: str, sentence: str
) -> None:
    findings = judged(name)
    errors = [finding for finding in findings if finding.severity == "error"]
    assert prognosis(findings) == "dies"
    assert [error.rule for error in errors] == [rule]
    assert sentence in errors[0].engine_says
    assert sentence in served(name).log
    assert errors[0].evidence_class == "seen on a GPU"


def test_a_death_that_the_engines_version_decides_is_unknown() -> None:
    name = "m3mini-mxfp8-tp2-h200-died-illegal-memory"
    findings = judged(name)
    assert prognosis(findings) == "unknown"
    (warning,) = [finding for finding in findings if finding.severity != "note"]
    assert (warning.rule, warning.severity) == ("all-reduce-multicast", "warning")
    assert "illegal memory access" in warning.engine_says
    assert "illegal memory access" in served(name).log


def test_every_log_is_judged() -> None:
    assert len(list(LOGS.glob("*.log"))) == 8
