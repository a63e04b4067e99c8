"""Nothing in a file makes loading raise, and nothing out of range gets through.

``GPUBENCH_FUZZ=50000`` sets the number of mutated files per test; the default keeps the suite
quick.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.recipes.schema import json_schema

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("GPUBENCH_FUZZ", "1000"))
SHIPPED = (Path(__file__).parents[2] / "recipes.yaml").read_text()
LINES = SHIPPED.splitlines(keepends=True)
HEAD = "".join(LINES[: next(i for i, line in enumerate(LINES) if "Blackwell" in line)])
"""Templates of the small pair and of Hopper: enough to break, quick to load."""
START = "".join(
    line
    for line in LINES[
        next(i for i, line in enumerate(LINES) if line.startswith("tiny-bf16-cpu-vllm:")) :
    ][:48]
)

_SCRAPS = st.sampled_from(
    ["-8", "0", "'8'", "null", "true", "[]", "{}", "{a: 1}", "[1, 2]", "99999999999999999999", "1e400", ".nan", "${conc}",
     '"${conc *"', "*x", "&x y", "!!python/name:os", "|", ">", "- ", "? ", ": ", "#", "\t", "'", '"', "{", "}", "[", "]", "\u2028",
     "mtp",     "conc-list: [1]", "extends: tiny", "<<: {tp: 1}"]
)  # fmt: skip


def mutate(text: str, edits: list[tuple[int, int, str]]) -> str:
    for where, length, scrap in edits:
        at = where % (len(text) + 1)
        text = text[:at] + scrap + text[at + length :]
    return text


def plausible(book: RecipeBook) -> None:
    servers = dict(book.servers)
    assert len({case.id for case in book.cases}) == len(book.cases)
    for case in book.cases:
        it, load = case.topology, case.workload
        assert 1 <= it.tp <= 1024
        assert it.ep in (1, it.tp)
        length = case.max_model_len
        assert min(load.isl, load.osl, load.conc, load.num_prompts, length or 1) >= 1
        assert load.num_warmups >= 0
        assert 0 < load.range_ratio <= 1
        spec = servers[case.server]
        assert spec.topology == it
        assert 0 < float(str(spec.serve.get("gpu-memory-utilization", 0.9))) <= 1
        flag = dialect_of(spec.framework).flags.length
        assert (
            int(str(spec.serve.get(flag, length))) >= length if length else flag not in spec.serve
        )
        assert spec.speculative is None or (
            spec.speculative.num_speculative_tokens >= 1 and case.identity.spec == "mtp"
        )


_EDITS = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(0, 12), _SCRAPS | st.text(max_size=4)),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_EDITS)
def test_mutated_files_never_raise(tmp_path: Path, edits: list[tuple[int, int, str]]) -> None:
    path = tmp_path / "mutated.yaml"
    path.write_bytes(mutate(HEAD + START, edits).encode("utf-8", "surrogatepass"))
    book = load_recipes([path])
    plausible(book)
    for problem in book.problems:
        assert problem.message
        assert problem.position.line >= 1
        assert problem.position.column >= 1
        assert "Traceback" not in str(problem)


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.integers(0, 40),
    st.sampled_from(
        [-8, 0, "8", "fp3", None, True, 1.5, [], {}, "${", "x" * 600, 10**30, ["a", 1], {"b": None}]
    ),
)
def test_any_value_replaced_never_raises(tmp_path: Path, which: int, value: object) -> None:
    row = {"tp": 8, "ep": 8, "conc-list": [1], "spec-decoding": "mtp"}
    document = {
        "templates": {"t": {"env": {"A": "1", "B": {"from": "C", "default": 1}}, "requires": {"vllm": ">=0.2"}}},
        "runners": {"lab": {"hardware": "h100"}},
        "ratios": [{"name": "r", "metric": "output_tput", "of": "a", "over": "b", "at-least": 1.5}],
        "m-fp8-h100-vllm-mtp": {
            "extends": ["t"], "model": "o/m", "model-prefix": "m", "precision": "fp8", "framework": "vllm", "runner": "lab",
            "scenarios": {"fixed-seq-len": [{"isl": 8, "osl": 8, "search-space": [row]}]},
            "serve": {"a": "${conc}", "j": {"k": [1]}, "extra-args": ["x"]}, "command": "vllm serve",
            "speculative": {"method": "eagle3", "model": "d", "num-speculative-tokens": "${tp}"},
            "when": [{"if": "conc > 1", "serve": {"a": None}}], "client": {"prompts-per-conc": 1, "api": "chat"},
            "gates": {"ttft_p50": "5%", "acceptance_length": {"at-least": 2.0}}, "server-per": "shape",
        },
    }  # fmt: skip
    places: list[tuple[object, object]] = []

    def collect(node: object) -> None:
        for key, below in list(
            node.items()
            if isinstance(node, dict)
            else enumerate(node)
            if isinstance(node, list)
            else ()
        ):
            places.append((node, key))
            collect(below)

    collect(document)
    node, key = places[which % len(places)]
    node[key] = value  # type: ignore[index]
    path = tmp_path / "replaced.yaml"
    path.write_text(json.dumps(document))
    plausible(load_recipes([path]))


def test_unreadable_paths_are_problems(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    unreadable = [
        tmp_path / "missing.yaml",
        tmp_path,
        Path("nul\0byte.yaml"),
        pipe,
        Path("/dev/zero"),
    ]
    book = load_recipes(unreadable)
    assert [problem.message.split(":")[0] for problem in book.problems] == [
        "cannot read the file"
    ] * 5
    assert "no such file or directory" in book.problems[0].message


def test_the_number_of_cases_is_bounded(load: Callable[..., RecipeBook], whole: str) -> None:
    many = "conc-list: [" + ", ".join(str(i) for i in range(1, 1001)) + "]"
    rows = "\n".join(f"      - {{tp: {tp}, {many}}}" for tp in range(1, 61))
    book = load(whole.replace("      - {tp: 8, conc-list: [4, 16]}", rows))
    assert "more than 50000 cases" in book.problems[0].message


def test_the_cost_of_loading_grows_with_the_cases_and_not_with_their_square(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    def cost(number: int) -> float:
        many = "conc-list: [" + ", ".join(str(i) for i in range(1, number + 1)) + "]"
        rows = "\n".join(f"      - {{tp: {tp}, {many}}}" for tp in (1, 2, 4, 8, 16))
        start = time.process_time()
        book = load(
            whole.replace("      - {tp: 8, conc-list: [4, 16]}", rows).replace(
                "128}", "128, max-num-seqs: '${conc}'}"
            )
        )
        assert len(book.cases) == 5 * number
        assert len(book.servers) == 5
        return time.process_time() - start

    cost(10)  # what is paid once
    assert cost(1000) < 4 * 10 * cost(100), (
        "ten times the cases; their square would be a hundred times the cost"
    )


def test_json_schema_names_every_key() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert {"include", "host", "templates", "runners", "ratios"} == set(schema["properties"])
    recipe = schema["$defs"]["Recipe"]
    assert schema["additionalProperties"] == {"$ref": "#/$defs/Recipe"}
    assert {
        "extends",
        "serve",
        "speculative",
        "env",
        "when",
        "client",
        "gates",
        "requires",
        "server-per",
        "image",
    } <= set(recipe["properties"])
    assert recipe["additionalProperties"] is False
    assert "conc-start" in schema["$defs"]["Row"]["properties"]
    references = {part.split('"')[0] for part in json.dumps(schema).split("#/$defs/")[1:]}
    assert references <= set(schema["$defs"])


@pytest.mark.parametrize("module", ["pydantic", "yaml"])
def test_the_room_is_lazy(module: str) -> None:
    loaded = f"{module!r} in sys.modules"
    code = (
        f"import sys, pytest_gpubench.recipes; before = {loaded}; "
        f"import pytest_gpubench.recipes.loading; print(before, {loaded})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    before, after = done.stdout.split()
    assert (before, after) == ("False", "True")
