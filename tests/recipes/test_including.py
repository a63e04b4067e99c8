"""`include`: several files that are one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.including import MAX_DEPTH, MAX_FILES, included_by
from pytest_gpubench.recipes.loading import load_recipes


def write(folder: Path, **texts: str) -> Path:
    """Files by name, `__` for a slash; the first one is returned."""
    paths = []
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths[0]


def said(book: RecipeBook, folder: Path) -> list[str]:
    return [str(problem).replace(f"{folder}/", "") for problem in book.problems]


def test_files_share_names_and_problems_stand_where_they_are(tmp_path: Path, whole: str) -> None:
    other = whole.replace("m-fp8", "n-fp8").replace("model-prefix: m", "model-prefix: n")
    first = write(
        tmp_path,
        a="include: [families/b.yaml, families/c.yaml]\ntemplates: {base: {requires: {vllm: '>1'}}}\n",
        families__b=whole + "  extends: base\n",
        families__c=other + "  extends: [base]\n",
    )
    book = load_recipes([first])
    assert said(book, tmp_path) == []
    assert book.files == (str(first),)
    assert [spec.requires["vllm"] for _, spec in book.servers] == [">1", ">1"]
    assert {Path(case.position.file).name for case in book.cases} == {"b.yaml", "c.yaml"}
    write(tmp_path, families__c=other.replace("block-size: 128", "block_size: 128"))
    assert said(load_recipes([first]), tmp_path) == [
        "families/c.yaml:13:11: n-fp8-h100-vllm.serve.block_size: flags are written with dashes; "
        "write 'block-size'"
    ]
    write(tmp_path, families__c=whole)
    assert said(load_recipes([first]), tmp_path) == [
        "families/c.yaml:1:1: m-fp8-h100-vllm: the name is taken by families/b.yaml:1:1; rename one"
    ]


def test_a_file_is_read_once_however_often_it_is_included(tmp_path: Path, whole: str) -> None:
    first = write(
        tmp_path,
        a="include: [b.yaml, c.yaml, ./c.yaml]\n",
        b="include: c.yaml\n",
        c=whole,
    )
    assert len(load_recipes([first]).cases) == 2
    assert len(load_recipes([first, tmp_path / "c.yaml", first]).cases) == 2


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("include: [nowhere.yaml]", "a.yaml:1:11: include[0]", "no such file or directory"),
        ("include: [x: 1]", "a.yaml:1:11: include[0]", "must be the path of a recipe file"),
        ("include: {}", "a.yaml:1:10: include[0]", "must be the path of a recipe file"),
        ("include: ['']", "a.yaml:1:11: include[0]", "must be the path of a recipe file"),
        ("include: [/etc/passwd]", "a.yaml:1:11: include[0]", "from this file's own folder"),
        ("include: [sub]", "a.yaml:1:11: include[0]", "is a directory; check the path"),
        ("include: [sub/text.yaml]", "sub/text.yaml:1:1: ", "is a map from recipe names"),
        ("include: [sub/empty.yaml]", "sub/empty.yaml:1:1: ", "the file is empty"),
        ("include: [sub/bad.yaml]", "sub/bad.yaml:2:1: ", "not valid YAML"),
        ("include: [a.yaml]", "a.yaml:1:11: include[0]", "a.yaml -> a.yaml; remove one of these"),
        (
            "include: [sub/back.yaml]",
            "sub/back.yaml:1:10: include[0]",
            "includes itself: a.yaml -> sub/back.yaml -> ../a.yaml; remove one of these links",
        ),
    ],
)
def test_what_cannot_be_included(tmp_path: Path, text: str, place: str, words: str) -> None:
    first = write(
        tmp_path,
        a=text,
        sub__text="hello",
        sub__empty="",
        sub__bad="a: [\n",
        sub__back="include: ../a.yaml",
    )
    found = said(load_recipes([first]), tmp_path)
    assert len(found) == 1, found
    assert found[0].startswith(place)
    assert words in found[0]


def test_so_many_files(tmp_path: Path) -> None:
    names = [f"f{index}" for index in range(MAX_FILES + 3)]
    listed = ", ".join(f"{name}.yaml" for name in names)
    first = write(tmp_path, a=f"include: [{listed}]", **dict.fromkeys(names, "templates: {}"))
    found = said(load_recipes([first]), tmp_path)
    assert found[0].endswith(f"more than {MAX_FILES} recipe files; join some of them")


def test_so_deep(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        **{f"f{index}": f"include: f{index + 1}.yaml" for index in range(MAX_DEPTH)},
        **{f"f{MAX_DEPTH}": "templates: {}"},
    )
    (found,) = said(load_recipes([first]), tmp_path)
    place = f"f{MAX_DEPTH - 1}.yaml:1:10: include[0]: "
    assert found == f"{place}more than {MAX_DEPTH} files inside each other; join some"
    assert load_recipes([tmp_path / "f1.yaml"]).problems == ()


@given(st.text(max_size=40) | st.lists(st.text(max_size=10), max_size=3))
@settings(deadline=None, max_examples=60)
def test_no_name_of_a_file_raises(name: object) -> None:
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(json.dumps({"include": name}), encoding="utf-8")
        book = load_recipes([path])
        assert book.problems or name == []
        included_by(path)
