"""Markdown for pull requests: short, closed, harmless."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.report.markdown import LONGEST_COMMENT, markdown, plain
from pytest_gpubench.report.read_results import load_results
from tests.report.synthetic import write_results


def test_counts_first_then_what_needs_a_person_then_the_rest_folded(tmp_path: Path) -> None:
    write_results(tmp_path, 60)
    text = markdown(load_results([tmp_path]), title="Sweep")
    assert text.startswith("### Sweep\n\n**1 FAIL, 1 INVALID, 1 INCONCLUSIVE, ")
    assert text.index("✕ FAIL") < text.index("<details>") < text.index("✓ PASS")
    assert text.count("<details>") == text.count("</details>") == 1
    assert "tok/s/GPU at" in text


def test_a_comment_has_its_length_and_ends_well(tmp_path: Path) -> None:
    write_results(tmp_path, 1000)
    loaded = load_results([tmp_path])
    for longest in (LONGEST_COMMENT, 5_000, 800):
        text = markdown(loaded, longest=longest)
        assert len(text) <= longest
        assert text.count("<details>") == text.count("</details>")
        assert "left out here" in text


def test_a_record_can_neither_mention_nor_mark_up(tmp_path: Path) -> None:
    write_results(tmp_path, 1)
    path = next(path for path in tmp_path.rglob("launch-1.json") if path.parent.name != "init")
    evil = (
        "<img src=x> @everyone [x](https://evil.example) | </details> `code` **bold** "
        "www.evil.example"
    )
    failure = {
        "cause": "c",
        "failure_class": "engine",
        "summary": evil + "\n\n# head",
        "evidence": [],
        "remedy": "",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"failure": failure}))
    text = markdown(load_results([tmp_path]))
    assert "<img" not in text
    assert "@everyone" not in text
    assert "https://" not in text
    assert "\n# head" not in text
    assert text.count("</details>") == text.count("<details>")


@given(st.text(max_size=400))
def test_plain_is_one_line_without_html(text: str) -> None:
    line = plain(text)
    assert "\n" not in line
    assert "<" not in line


def test_nothing_left_out_unsaid(tmp_path: Path) -> None:
    write_results(tmp_path, 2)
    (tmp_path / "20260901T120000Z-0001" / "broken.json").write_text("{")
    assert "Left out: 1 finding" in markdown(load_results([tmp_path]))
