"""The page: small, closed to the network, and safe whatever a record holds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import printable
from pytest_gpubench.report import html
from pytest_gpubench.report.html_markup import clip, tag
from pytest_gpubench.report.html_servers import servers
from pytest_gpubench.report.markdown import markdown
from pytest_gpubench.report.merge_runs import merge
from pytest_gpubench.report.read_results import load_results
from pytest_gpubench.report.views import case_views
from tests.report.synthetic import write_results

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"


class _Page(HTMLParser):
    """Elements and attributes as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.content: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        self.content.setdefault(self._inside, []).append(data)

    def named(self, name: str) -> list[dict[str, str]]:
        return [attributes for element, attributes in self.elements if element == name]


def _change(folder: Path, change: dict[str, Any], place: str = "case") -> Path:
    """Change the first record of a kind."""
    for path in sorted(folder.rglob("launch-1.json")):
        record = json.loads(path.read_text())
        if record["kind"] == place:
            path.write_text(json.dumps(record | change))
            return path
    raise AssertionError("no record")


def test_two_hundred_cases_stay_below_six_megabytes(tmp_path: Path) -> None:
    write_results(tmp_path, 200)
    page = html.render(load_results([tmp_path]))
    assert len(page.encode()) < 6_000_000
    assert page.count('class="case"') == 200
    assert "KV cache, %" in page
    assert "GPU power, W" in page


def test_the_policy_allows_the_shipped_style_and_script_and_nothing_else(tmp_path: Path) -> None:
    write_results(tmp_path, 10)
    text = html.render(load_results([tmp_path]))
    page = _Page(text)
    (policy,) = [
        meta["content"]
        for meta in page.named("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    for name in ("style", "script"):
        (found,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert "http:" not in policy
    for element, attributes in page.elements:
        assert element not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not [
            name
            for name in attributes
            if name.startswith("on") or name in ("src", "style", "srcset")
        ], element
        assert attributes.get("href", "#").startswith(("#", "https://recipes.vllm.ai/"))


@pytest.mark.parametrize("kind", ["case", "engine-init"])
def test_markup_in_a_record_stays_text(tmp_path: Path, kind: str) -> None:
    write_results(tmp_path, 4)
    clean = _Page(html.render(load_results([tmp_path])))
    failure = {
        "cause": "x",
        "failure_class": "engine",
        "summary": EVIL,
        "evidence": [EVIL],
        "remedy": EVIL,
    }
    evil: dict[str, Any] = {
        "failure": failure,
        "argv": [EVIL, "--a", EVIL],
        "env": {EVIL: EVIL},
        "commits": {EVIL: EVIL},
        "host": {"hostname": EVIL, "gpus": [{"name": EVIL}], "driver": EVIL},
        "git": {"commit": EVIL},
        "engine": {"version": EVIL, "attention_backend": EVIL},
        "versions": {"pytest-gpubench": EVIL},
    }
    if kind == "case":
        evil |= {
            "case": EVIL,
            "source": f"javascript:{EVIL}",
            "image": EVIL,
            "hardware": EVIL,
            "tags": [EVIL],
            "fingerprint": EVIL,
        }
    _change(tmp_path, evil, kind)
    text = html.render(load_results([tmp_path]), title=EVIL)
    page = _Page(text)
    assert len(page.named("script")) == 1
    assert {element for element, _ in page.elements} <= {
        element for element, _ in clean.elements
    } | {"p", "pre"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not attributes.get("href", "").startswith("javascript:")
    assert "&lt;img src=x onerror=alert(2)&gt;" in text


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    write_results(tmp_path, 6)
    paths = [path for path in sorted(tmp_path.rglob("launch-1.json")) if path.parent.name != "init"]
    record = json.loads(paths[0].read_text())
    record["metrics"]["ttft_p50"] = float("nan")
    record["failure"] = {
        "cause": "c",
        "failure_class": "engine",
        "summary": "s",
        "evidence": ["x" * 1_000_000],
        "remedy": "",
    }
    paths[0].write_text(json.dumps(record))
    paths[1].write_text(paths[1].read_text()[:300])
    paths[2].write_bytes(b"\xff\xfe")
    loaded = load_results([tmp_path])
    text = html.render(loaded)
    assert "Left out: 4 findings" in text
    assert "metrics.ttft_p50" in text
    assert "cut off" in text
    assert "not UTF-8" in text
    assert "x" * 30_000 not in text
    assert "characters left out" in text
    assert "NaN" not in text.replace("NaN in", "")


def test_every_text_can_be_written(tmp_path: Path) -> None:
    write_results(tmp_path, 2)
    odd = "null \x00 escape \x1b[31m turned \u202e surrogate \ud800 end"
    _change(
        tmp_path,
        {
            "failure": {
                "cause": "c",
                "failure_class": "engine",
                "summary": odd,
                "evidence": [],
                "remedy": "",
            }
        },
    )
    page = html.render(load_results([tmp_path]))
    html.write(tmp_path / "new" / "report.html", page)
    written = (tmp_path / "new" / "report.html").read_text()
    assert not set("\x00\x1b\u202e") & set(written)
    assert "surrogate \ufffd end" in written


def test_a_disk_that_refuses_the_report_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        GpubenchError,
        match=r"the report .*file/r\.html could not be written: .*; choose another file",
    ):
        html.write(tmp_path / "file" / "r.html", "")


def test_failing_cases_come_first_with_reasons_and_links(tmp_path: Path) -> None:
    write_results(tmp_path, 20)
    text = html.render(load_results([tmp_path]))
    assert (
        text.index("cases need attention")
        < text.index("Throughput against interactivity")
        < text.index("All cases")
    )
    first = re.search(
        r'<tr data-tags="[^"]*fail"><th scope="row"><a href="#(case-\d+)">([^<]+)</a>', text
    )
    assert first
    assert f'id="{first[1]}"' in text
    assert "fell by 9.8%" in text


def test_a_run_in_which_nothing_was_measured_has_a_page(tmp_path: Path) -> None:
    write_results(tmp_path, 1)
    failure = {
        "cause": "engine-died",
        "failure_class": "engine",
        "summary": "the engine died",
        "evidence": [],
        "remedy": "look",
    }
    _change(tmp_path, {"failure": failure, "metrics": None, "measurement": None, "verdict": None})
    text = html.render(load_results([tmp_path]))
    assert "1 case needs attention" in text
    assert "the engine died [engine-died, engine]" in text
    assert "Throughput against interactivity" not in text


def test_differences_to_another_run_name_what_moved_and_what_is_missing(tmp_path: Path) -> None:
    write_results(tmp_path / "now", 12, factor=0.9)
    write_results(tmp_path / "before", 10, run="20260801T000000Z-0000")
    _change(
        tmp_path / "before", {"argv": ["vllm", "serve", "m", "--block-size", "64"]}, "engine-init"
    )
    text = html.render(
        load_results([tmp_path / "now"]), load_results([tmp_path / "before"]), against_name="before"
    )
    assert "10 cases of this report against before" in text
    assert "2 cases only here" in text
    assert text.count("▼ -") >= 10
    assert "--block-size 64" in text


def test_an_invalid_measurement_is_no_part_of_a_frontier(tmp_path: Path) -> None:
    write_results(tmp_path, 1)
    _change(tmp_path, {"verdict": {"status": "INVALID", "reason": "r"}})
    text = html.render(load_results([tmp_path]))
    assert "Frontiers: ." in text
    assert "Highest throughput" not in text


def test_details_end_where_the_budget_ends_and_the_page_says_so(tmp_path: Path) -> None:
    write_results(tmp_path, 40)
    loaded = load_results([tmp_path])
    views = case_views(loaded.cases())
    whole = servers(views, list(loaded.inits()), {}, 10_000_000)
    small = servers(views, list(loaded.inits()), {}, 30_000)
    assert whole is not None
    assert small is not None
    assert "left out" not in whole
    assert re.search(
        r"To keep this file small, \d+ servers and the charts of \d+ cases are left out", small
    )
    assert len(small) < len(whole) / 3


def test_launches_of_a_case_are_one_row_with_their_mean(tmp_path: Path) -> None:
    write_results(tmp_path, 1)
    path = next(path for path in tmp_path.rglob("launch-1.json") if path.parent.name != "init")
    record = json.loads(path.read_text())
    record["metrics"]["output_tput_per_gpu"], second = 100.0, json.loads(path.read_text())
    second["metrics"]["output_tput_per_gpu"] = 400.0
    second["launch"]["index"] = 2
    path.write_text(json.dumps(record))
    path.with_name("launch-2.json").write_text(json.dumps(second))
    (view,) = case_views(load_results([tmp_path]).cases())
    assert view.metrics["output_tput_per_gpu"] == pytest.approx(200.0)
    assert len(view.launches) == 2


def test_a_trace_of_sessions_has_no_lengths_to_be_named_by(tmp_path: Path) -> None:
    write_results(tmp_path, 1)
    path = next(path for path in tmp_path.rglob("launch-1.json") if path.parent.name != "init")
    record = json.loads(path.read_text())
    record["workload"] |= {"isl": 0, "osl": 0, "dataset": "sessions"}
    names = {"model": "tiny", "precision": "bf16", "hardware": "h100", "framework": "vllm"}
    record["identity"] = names | {"variant": "agentic"}
    path.write_text(json.dumps(record))
    loaded = load_results([tmp_path])
    (view,) = case_views(loaded.cases())
    assert (view.shape, view.load) == ("agentic", f"c{record['workload']['conc']}")
    assert "agentic" not in view.model
    assert "1x1" not in markdown(loaded)
    assert " agentic: " in markdown(loaded)


def test_an_interrupted_attempt_does_not_count_beside_its_resumption(tmp_path: Path) -> None:
    write_results(tmp_path, 1, run="20260901T000000Z-0001")
    failure = {
        "cause": "interrupted",
        "failure_class": "client",
        "summary": "the run was interrupted",
        "evidence": [],
        "remedy": "",
    }
    first = _change(
        tmp_path, {"failure": failure, "metrics": None, "measurement": None, "verdict": None}
    )
    assert "? INCONCLUSIVE" in html.render(load_results([tmp_path])).replace(
        "</span> ", " "
    ).replace('<span aria-hidden="true">', "")
    write_results(tmp_path, 1, run="20260902T000000Z-0002")
    second = (
        tmp_path / "20260902T000000Z-0002" / first.relative_to(tmp_path / "20260901T000000Z-0001")
    )
    second.write_text(
        json.dumps(json.loads(second.read_text()) | {"finished": "2026-09-02T12:00:00+00:00"})
    )
    (view,) = case_views(load_results([tmp_path]).cases())
    assert [launch.run for launch in view.launches] == ["20260902T000000Z-0002"]
    text = html.render(load_results([tmp_path]))
    assert "Nothing needs attention" in text
    assert (
        "another attempt of launch-1 in run 20260901T000000Z-0001 does not count (the "
        "run was interrupted)"
    ) in text


def test_a_case_that_has_not_reported_is_in_page_and_comment(tmp_path: Path) -> None:
    write_results(tmp_path, 1)
    loaded = load_results([tmp_path])
    (case,) = (result.case for result in loaded.cases())
    ratio = {
        "name": "speed-up",
        "metric": "output_tput",
        "of": case,
        "over": case,
        "point": "1k1k-c1",
        "at_least": 1.2,
        "at_most": None,
    }
    include = [{"name": "job", "cases": [case, "absent-fp8-h100-vllm-tp8:1k1k-c1"]}]
    merged = merge(loaded, {"include": include, "ratios": [ratio]})
    for text in (html.render(loaded, merged=merged), markdown(loaded, merged=merged)):
        assert "absent-fp8-h100-vllm-tp8:1k1k-c1" in text
        assert "has not reported" in text
        assert "speed-up:1k1k-c1" in text
        assert "1 case did not run" in text


def test_tags_escape_and_clip() -> None:
    assert (
        tag("a", "<&>", title='"<', data_x=None, hidden=True)
        == '<a title="&quot;&lt;" hidden>&lt;&amp;&gt;</a>'
    )
    assert clip("abc", 2) == "ab… (1 characters left out)"
    assert printable("a\u2066b") == "a\ufffdb"
