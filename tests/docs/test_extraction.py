"""Commands are found where a reader would find them, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from docs_reference import pages as reference
from tests.docs.commands import is_command, is_empty_folder, pages, parse_notes, read_blocks, split
from tests.docs.sandbox import ROOT, Sandbox

PAGE = """
Text with `pytest -k inline`.

<!-- docs: exit 1; expect: 2 failed -->

```console
$ pytest benchmarks \\
    -k tiny   # a comment
output
$ A=1 gpubench plan
```

- an item

    pytest inside an item

Then:

    gpubench doctor
      more: output

<!-- docs: file recipes.yaml -->

```yaml title="recipes.yaml"
pytest: no command
```

    pytest again
"""


def test_blocks_have_their_commands_and_notes() -> None:
    blocks = read_blocks("page.md", PAGE)
    assert [block.commands() for block in blocks] == [
        ["pytest benchmarks -k tiny   # a comment", "A=1 gpubench plan"],
        ["gpubench doctor"],
        [],
        ["pytest again"],
    ]
    assert [block.notes for block in blocks] == [
        {"exit": "1", "expect": "2 failed"},
        {},
        {"file": "recipes.yaml"},
        {},
    ]
    assert blocks[0].where == "page.md:7"


def test_a_command_is_split_as_a_shell_would() -> None:
    assert split("A=1 B='x y' pytest -k 'a and b' --opt=\"1 2\"  # why") == (
        {"A": "1", "B": "x y"},
        ["pytest", "-k", "a and b", "--opt=1 2"],
    )


@pytest.mark.parametrize("line", ["pytest", "X=1 gpubench plan", "tox run -e demo"])
def test_commands_are_known_by_their_program(line: str) -> None:
    assert is_command(line)


@pytest.mark.parametrize("line", ["", "pytestx", " pytest", "tests: pytest", "# pytest"])
def test_other_lines_are_none(line: str) -> None:
    assert not is_command(line)


@pytest.mark.parametrize("text", ["", "skip", "exit 1; maybe", "only parse: a GPU"])
def test_a_comment_that_says_nothing_known_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="says nothing that is known"):
        parse_notes(text)


def test_a_page_can_begin_without_recipes() -> None:
    assert is_empty_folder("x\n<!-- docs: empty folder -->\n")
    assert not is_empty_folder(PAGE)


@given(st.text(alphabet="`~ \n$-pytes1.<>!:#\\\"'", max_size=200))
def test_any_text_has_blocks_whose_lines_are_in_it(text: str) -> None:
    for block in read_blocks("any.md", text):
        assert all(line in text for line in block.lines)
        block.commands()


def test_what_installs_or_submits_is_never_run(tmp_path: Path) -> None:
    sandbox = Sandbox.create(tmp_path / "sandbox", empty=True)
    for program in ("pip", "tox", "sbatch", "python"):
        with pytest.raises(ValueError, match="is not run here"):
            sandbox.run([program, "install"])


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("pip install tox", None),
        ("pip install pytest-gpubench", None),
        ("pip install something-else", "not what the documentation should install"),
        ("pip install 'pytest-gpubench[nothing]'", "no extra"),
        ("pip uninstall tox", "only shown to install"),
        ("tox run -e demo", None),
        ("tox run -e nowhere", "no environment nowhere"),
        ("gpubench plan -k tiny", None),
        ("gpubench plan --nothing", "refused with exit code 4"),
        ("python experiments/faults/run.py --list", None),
        ("python experiments/faults/run.py --nothing-like-it", "has no --nothing-like-it"),
        ("python benchmarks/nowhere.py", "names no file"),
        ("squeue", "nobody knows how to check"),
    ],
)
def test_words_of_a_command_that_is_not_run(
    tmp_path: Path, command: str, wrong: str | None
) -> None:
    said = Sandbox(tmp_path, tmp_path).parse(command)
    assert (said is None) if wrong is None else (wrong in (said or ""))


def test_every_page_is_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed: list[str] = []

    def walk(entry: object) -> None:
        if isinstance(entry, str):
            listed.append(entry)
        elif isinstance(entry, dict):
            for inner in entry.values():
                walk(inner)
        elif isinstance(entry, list):
            for inner in entry:
                walk(inner)

    walk(site["nav"])
    written = {page.removeprefix("docs/") for page in pages(ROOT) if page.startswith("docs/")}
    assert sorted(listed) == sorted(written | set(reference()))


def test_the_site_needs_no_network() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["theme"]["font"] is False
    assert "extra_javascript" not in site
    assert "analytics" not in site.get("extra", {})
    assert "offline" not in site["plugins"], "it takes a script from a foreign host"
    assert site["strict"] is True
