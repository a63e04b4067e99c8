"""``waivers.yaml``: what may stand there, and a sentence for everything else."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.gate.waiver_file import FILE, read_waivers
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap

TODAY = date(2026, 11, 28)
WHOLE = """\
# known bugs
- case: 'm-*:1k1k-*'
  metric: tpot_p50
  bug: https://example.org/issues/7
  reason: the new scheduler
  until: 2027-01-31
  until-version: {vllm: '0.33', llamacpp: b6868}
  strict: true
- {case: m:init, bug: 'https://example.org/8', until: 2027-02-28, metric: null}
"""
GOOD = "case: m, bug: 'https://example.org/8', until: 2027-01-31"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text, encoding="utf-8")


def test_a_whole_file(folder: Path) -> None:
    write(folder, WHOLE)
    first, second = read_waivers(folder, TODAY).entries
    assert (first.place, first.case, first.metric) == (f"{FILE}:2", "m-*:1k1k-*", "tpot_p50")
    assert first.until == date(2027, 1, 31)
    assert first.until_version == FrozenMap({"vllm": "0.33", "llamacpp": "b6868"})
    assert first.strict
    assert first.until_words == "2027-01-31 or vllm 0.33 or llamacpp b6868"
    assert (second.place, second.metric, second.strict) == (f"{FILE}:9", "", False)


def test_no_file_and_no_folder_are_no_waivers(folder: Path) -> None:
    assert read_waivers(folder).entries == ()
    assert read_waivers(folder / "nowhere").entries == ()


def test_a_folder_elsewhere_is_not_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, WHOLE)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert read_waivers(folder, TODAY).entries[0].place == f"{FILE}:2"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", f"{FILE}:1:1: the file is empty; write a list of known bugs"),
        ("[]: [", f"{FILE}:1:"),
        ("a: 1\n", f"{FILE}:1:1: must be a list of known bugs, each with `case`, `bug` and"),
        ("- m\n", "waivers[0]: must be a map with `case`, `bug` and `until`, not 'm'"),
        ("- [m]\n", "waivers[0]: must be a map with `case`, `bug` and `until`, not a list"),
        ("- {case: m}\n", f"{FILE}:1:3: waivers[0].bug: missing key 'bug'; add it"),
        (f"- {{{GOOD}, untill: 1}}\n", "waivers[0].untill: unknown key 'untill'; did you mean"),
        (f"- {{{GOOD}, metric: tpot}}\n", "waivers[0].metric: no metric is named 'tpot'"),
        (f"- {{{GOOD}, metric: 5}}\n", "must be text of 1 to 500 characters, not 5"),
        (f"- {{{GOOD}, strict: maybe}}\n", "waivers[0].strict: must be true or false, not"),
        (f"- {{{GOOD}, until-version: 0.33}}\n", "must be a map from an engine to a version"),
        (f"- {{{GOOD}, until-version: {{vllm: 0.33}}}}\n", "text such as '0.33', not 0.33"),
        (f"- {{{GOOD}, until-version: {{vllm: new}}}}\n", "text such as '0.33', not 'new'"),
        (f"- {{{GOOD}, until-version: {{vlm: '1'}}}}\n", "no engine is named 'vlm'; write 'vllm'"),
        ("- {case: m, bug: 'JIRA-7', until: 2027-01-31}\n", "must be the address of the bug"),
        ("- {case: m, bug: 'http:// x', until: 2027-01-31}\n", "must be the address of the bug"),
        ("- {case: m, bug: 'http://[x', until: 2027-01-31}\n", "must be the address of the bug"),
        ("- {case: m, bug: 'http://a:pw@x/1', until: 2027-01-31}\n", "has a user or password"),
        ("- {case: m, bug: 'http://x/1', until: soon}\n", "must be a day such as 2027-01-31"),
        ("- {case: m, bug: 'http://x/1', until: 2027-02-30}\n", "must be a day such as"),
        ("- {case: m, bug: 'http://x/1', until: 20270131}\n", "must be a day such as"),
        ("- {case: m, case: n}\n", "duplicate key 'case'"),
    ],
)
def test_what_is_wrong_is_a_sentence(folder: Path, text: str, sentence: str) -> None:
    write(folder, text)
    with pytest.raises(GpubenchError) as caught:
        read_waivers(folder, TODAY)
    assert sentence in str(caught.value)
    assert FILE in str(caught.value)


def test_every_problem_is_told_at_once(folder: Path) -> None:
    write(folder, "- {case: m}\n- {case: n, bug: x}\n")
    with pytest.raises(GpubenchError, match=rf"^4 problems in {FILE}:\n") as caught:
        read_waivers(folder, TODAY)
    assert len(str(caught.value).splitlines()) == 5


def test_what_is_no_file_is_a_sentence(folder: Path) -> None:
    os.mkfifo(folder / FILE)
    with pytest.raises(GpubenchError, match="cannot be read: it is no plain file; restore"):
        read_waivers(folder, TODAY)
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    with pytest.raises(GpubenchError, match="cannot be read: it is no file"):
        read_waivers(folder, TODAY)


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.text(), st.binary()))
def test_no_text_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    (folder / FILE).write_bytes(data)
    said = FILE
    try:
        read_waivers(folder, TODAY)
    except GpubenchError as error:
        said = str(error)
    assert FILE in said
    assert "\x1b" not in said


def test_a_file_that_nobody_would_read_is_refused(folder: Path) -> None:
    (folder / "waivers.yml").write_text(WHOLE, encoding="utf-8")
    with pytest.raises(GpubenchError, match=r"nobody reads .*waivers\.yml: call it waivers\.yaml"):
        read_waivers(folder)
