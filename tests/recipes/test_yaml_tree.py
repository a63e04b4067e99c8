from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.recipes.problems import ProblemLog
from pytest_gpubench.recipes.yaml_tree import MAX_BYTES, Node, read_tree


def read(text: str | bytes) -> tuple[Node | None, list[str]]:
    log = ProblemLog(["f"])
    tree = read_tree("f", text if isinstance(text, bytes) else text.encode(), log)
    return tree, [str(problem) for problem in log.sorted()]


def test_every_key_and_value_has_its_place() -> None:
    tree, problems = read("a:\n  b: [1, {c: x}]\n")
    assert problems == []
    assert tree is not None
    a = tree.entries["a"]
    b = a.node.entries["b"]
    c = b.node.items[1].entries["c"]
    assert [
        (p.line, p.column)
        for p in (a.key_at, b.key_at, b.node.at, b.node.items[0].at, c.key_at, c.node.at)
    ] == [
        (1, 1),
        (2, 3),
        (2, 6),
        (2, 7),
        (2, 11),
        (2, 14),
    ]


def test_columns_count_characters_not_bytes() -> None:
    _, problems = read("ä: {ö: 1, ö: 2}\n")
    assert problems == ["f:1:11: ä.ö: duplicate key 'ö', first on line 1; remove one"]


def test_the_meaning_is_that_of_safe_load() -> None:
    text = (
        "base: &b {x: 1, y: 2}\n"
        "merged: {<<: *b, y: 3}\n"
        "two: {<<: [*b, {z: 4, x: 9}]}\n"
        "scalars: [yes, Off, 0x10, 010, 1_000, 1.5, 1e3, ~, null, '', 'a', !!str 5, !!int '7']\n"
        "block: |\n  a\n  b\n"
        "alias: *b\n"
    )
    tree, problems = read(text)
    assert problems == []
    assert tree is not None
    assert tree.plain() == yaml.safe_load(text)


def test_dates_stay_text() -> None:
    tree, _ = read("image: 2026-07-01\n")
    assert tree is not None
    assert tree.plain() == {"image": "2026-07-01"}


def test_duplicate_keys_are_all_reported() -> None:
    _, problems = read("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert problems == [
        "f:2:11: b.c: duplicate key 'c', first on line 2; remove one",
        "f:3:1: a: duplicate key 'a', first on line 1; remove one",
    ]


def test_keys_that_yaml_does_not_read_as_text() -> None:
    _, problems = read("on: 1\n8: 2\n")
    assert problems == [
        "f:1:1: the key on is not text for YAML; quote it: 'on'",
        "f:2:1: the key 8 is not text for YAML; quote it: '8'",
    ]


def test_billion_laughs_ends_early() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    tree, problems = read("\n".join(lines))
    assert tree is None
    assert len(problems) == 1
    assert "aliases expanded" in problems[0]


def test_depth_is_bounded_through_brackets_and_through_aliases() -> None:
    assert "nested deeper than" in read("[" * 5_000)[1][0]
    chain = "\n".join(["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{x: *a{i - 1}}}" for i in range(1, 200)])
    assert "nested deeper than" in read(chain)[1][0]


def test_an_alias_inside_its_own_value() -> None:
    assert read("a: &x [1, *x]")[1] == [
        "f:1:11: the alias *x stands inside the very value it names"
    ]


def test_syntax_error_has_its_place() -> None:
    assert read("a: 1\nb: [1, 2\nc: 3\n")[1][0].startswith("f:3:2: not valid YAML:")


def test_unquoted_expression_in_a_flow_map_gets_a_hint() -> None:
    for line in ("serve: {max-num-seqs: ${conc * 2}}", "when: [{if: conc in [1, 2], env: {}}]"):
        problem = read(line)[1][0]
        assert "inside {...} an expression must be quoted" in problem, problem


def test_bytes_that_are_not_text() -> None:
    assert read(b"a: 1\nb: \xff\xfe\n")[1] == ["f:2:4: not UTF-8 text; save the file as UTF-8"]
    assert read("a: 1\nbc: x\0y\n")[1] == [
        "f:2:6: the character '\\x00' is not allowed in YAML; remove it"
    ]


def test_tags_and_documents() -> None:
    assert "is not allowed" in read("a: !!python/object/apply:os.system [ls]")[1][0]
    assert "is not allowed" in read("a: !!set {x}")[1][0]
    assert read("a: 1\n---\nb: 2\n")[1] == [
        "f:2:1: a second YAML document begins here; a recipe file is one document"
    ]


def test_numbers_that_are_none() -> None:
    for number in (".nan", ".inf", "!!int x", "9" * 5000):
        assert "is not a finite number" in read(f"a: {number}")[1][0]


def test_a_huge_file_is_refused_unread() -> None:
    assert read(b"#" * (MAX_BYTES + 1))[1] == [
        f"f:1:1: the file has more than {MAX_BYTES} bytes; split it"
    ]


def test_byte_order_marks() -> None:
    for data in ("a: 1".encode("utf-8-sig"), "a: 1".encode("utf-16")):
        tree, problems = read(data)
        assert problems == []
        assert tree is not None
        assert tree.plain() == {"a": 1}


@settings(max_examples=150)
@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes) -> None:
    tree, problems = read(data)
    assert tree is None or isinstance(tree, Node)
    assert all(problem.startswith("f:") for problem in problems)


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
_TREES = st.recursive(
    _LEAVES,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(_TREES, st.booleans())
def test_round_trip_equals_safe_load(value: object, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    tree, problems = read(text)
    assert problems == []
    assert tree is not None
    assert tree.plain() == yaml.safe_load(text)
