"""What the floor plan of a checkout amounts to, in numbers.

    python experiments/floor_plan/figures.py [CHECKOUT] [--loaded] [--since REVISION]

Modules, lines, circles of imports (those under ``TYPE_CHECKING`` included), modules with a single
importer, density of the text. ``--loaded`` runs one case on the stub engine and counts what it
imports. ``--since`` tells what of it a revision had already: git finds the predecessor of a module
by its content, and formatting the old lines to 100 columns makes them comparable.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "pytest_gpubench"


@dataclass(frozen=True, slots=True)
class Module:
    """One source file of the package."""

    name: str
    text: str
    tree: ast.Module
    imports: frozenset[str]
    """Modules of the package that it imports, at run time or for types."""


def read_modules(root: Path) -> dict[str, Module]:
    """All modules of the package below ``root``, by dotted name."""
    files = {
        _dotted(path.relative_to(root)): path for path in sorted((root / PACKAGE).rglob("*.py"))
    }
    modules = {}
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        modules[name] = Module(name, text, tree, frozenset(_imports(tree, files)) - {name})
    return modules


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in inner if name in files]
            yield from found
            if len(found) < len(inner) and node.module in files:
                yield node.module


def circles(modules: Mapping[str, Module]) -> list[list[str]]:
    """Strongly connected components of more than one module, the largest first (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in modules[name].imports:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            place = stack.index(name)
            component = stack[place:]
            del stack[place:]
            if len(component) > 1:
                found.append(sorted(component))

    for name in modules:
        if name not in index:
            visit(name)
    return sorted(found, key=len, reverse=True)


def nested_conditionals(tree: ast.Module) -> tuple[int, int]:
    """Conditional expressions, and those that hold another one."""
    all_of_them = [node for node in ast.walk(tree) if isinstance(node, ast.IfExp)]
    nested = [
        node
        for node in all_of_them
        if any(
            isinstance(inner, ast.IfExp)
            for part in ast.iter_child_nodes(node)
            for inner in ast.walk(part)
        )
    ]
    return len(all_of_them), len(nested)


def comment_lines(text: str) -> int:
    """Lines that hold nothing but a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(
        token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
        for token in tokens
    )


def public_names(modules: Mapping[str, Module]) -> int:
    """Functions, classes and constants at the top of modules, without a leading underscore."""
    count = 0
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                count += not node.name.startswith("_")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                count += any(
                    isinstance(one, ast.Name) and not one.id.startswith("_") for one in targets
                )
    return count


def measure(root: Path) -> dict[str, float | str]:
    """The figures of one checkout."""
    modules = read_modules(root)
    lines = [line for module in modules.values() for line in module.text.splitlines()]
    importers: defaultdict[str, set[str]] = defaultdict(set)
    for module in modules.values():
        for imported in module.imports:
            importers[imported].add(module.name)
    short = [name for name, module in modules.items() if module.text.count("\n") < 130]
    found = circles(modules)
    conditionals, nested = map(
        sum, zip(*(nested_conditionals(m.tree) for m in modules.values()), strict=True)
    )
    names = [name.rpartition(".")[2] for name in modules]
    tests = sum(
        path.read_text(encoding="utf-8").count("\n") for path in (root / "tests").rglob("*.py")
    )
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    return {
        "modules": len(modules),
        "lines": len(lines),
        "longest module": max(module.text.count("\n") for module in modules.values()),
        "files in plugin/": sum(name.startswith(f"{PACKAGE}.plugin") for name in modules),
        "circles": len(found),
        "modules in the largest circle": len(found[0]) if found else 0,
        "modules below 130 lines with one importer": sum(
            len(importers[name]) == 1 for name in short
        ),
        "file names in several rooms": sum(names.count(name) > 1 for name in set(names)),
        "conditional expressions per 1,000 lines": round(1000 * conditionals / len(lines), 1),
        "nested ones": nested,
        "lines over 100 columns": sum(len(line) > 100 for line in lines),
        "comment lines, %": round(
            100 * sum(comment_lines(m.text) for m in modules.values()) / len(lines), 1
        ),
        "public names": public_names(modules),
        "lines of tests": tests,
        "words of README and docs": sum(
            len(re.findall(r"\S+", page.read_text(encoding="utf-8"))) for page in pages
        ),
    }


def since(root: Path, revision: str) -> dict[str, object]:
    """What became of the modules and the tests that a revision had.

    Args:
        root: of a git checkout.
        revision: with which its commit is compared.
    """
    changes = _git(
        root, "-c", "diff.renameLimit=9999", "diff", "-M25%", "--name-status", revision, "HEAD"
    ).splitlines()
    added = {path for kind, path in (line.split("\t")[:2] for line in changes) if kind == "A"}
    modules = _git(root, "ls-files", f"{PACKAGE}/*.py").split()
    lines = {path: (root / path).read_text("utf-8").count("\n") for path in modules}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision, PACKAGE, "tests"],
            cwd=root,
            capture_output=True,
            check=True,
        )
        subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
        old = Path(folder)
        before = sorted((old / PACKAGE).rglob("*.py"))
        had = _tests(old)
        words = ["ruff", "format", "-q", "--isolated", "--line-length=100", str(old / PACKAGE)]
        subprocess.run(words, check=True)
        formatted = sum(path.read_text("utf-8").count("\n") for path in before)
    return {
        "modules then": len(before),
        "lines then, as the formatter has them today": formatted,
        "modules now that have a predecessor": sum(path not in added for path in modules),
        "lines in them": sum(lines[path] for path in modules if path not in added),
        "modules that came since": sum(path in added for path in modules),
        "lines in those": sum(lines[path] for path in modules if path in added),
        "names of tests then and now": [len(had), len(_tests(root))],
        "names of tests that are gone": sorted(had - _tests(root)),
    }


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=root, capture_output=True, text=True, check=True
    ).stdout


def _tests(root: Path) -> set[str]:
    return {
        name
        for path in (root / "tests").rglob("*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.M)
    }


def loaded(root: Path) -> int:
    """Modules of the package that a pytest run of one case on the stub engine imports."""
    count = "import atexit, sys\n" + (
        f"atexit.register(lambda: print('LOADED', sum(name.split('.')[0] == '{PACKAGE}' "
        "for name in sys.modules)))\n"
    )
    stub = next((root / "tests").rglob("stub_engine.py"))
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "benchmarks").mkdir()
        suite = "from pytest_gpubench.suite import test_engine_init, test_throughput\n"
        (project / "benchmarks" / "test_serving.py").write_text(suite)
        (project / "conftest.py").write_text(count)
        (project / "recipes.yaml").write_text(_RECIPE)
        words = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-s", "-p", "no:cacheprovider"]
        words += [f"--gpubench-vllm-command={sys.executable} {stub} serve"]
        env = {
            **os.environ,
            "PYTHONPATH": str(root),
            "GPUBENCH_LEASE_DIR": f"{folder}/leases",
            "HF_HOME": f"{folder}/hf",
        }
        done = subprocess.run(
            words, cwd=project, env=env, capture_output=True, text=True, check=False
        )
        found = re.search(r"LOADED (\d+)", done.stdout)
        if found is None:
            raise SystemExit(f"the case did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return int(found[1])


_RECIPE = """
tiny-bf16-cpu-vllm:
  {model: pytest-gpubench/tiny-llama, model-prefix: tiny, precision: bf16, framework: vllm, multinode: false, runner: cpu,
   serve: {max-model-len: 256, block-size: 128, enable-prefix-caching: false}, client: {prompts-per-conc: 2},
   scenarios: {fixed-seq-len: [{isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1]}]}]}}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", nargs="?", type=Path, default=Path())
    parser.add_argument(
        "--loaded", action="store_true", help="also run one case and count what it imports"
    )
    parser.add_argument("--since", metavar="REVISION", help="also what became of its modules")
    parser.add_argument("--circles", action="store_true", help="name the modules of each circle")
    parsed = parser.parse_args(arguments)
    root = parsed.checkout.resolve()
    figures: dict[str, object] = dict(measure(root))
    if parsed.loaded:
        figures["modules loaded for one case"] = loaded(root)
    if parsed.since:
        figures[f"since {parsed.since}"] = since(root, parsed.since)
    print(json.dumps(figures, indent=1))
    if parsed.circles:
        for circle in circles(read_modules(root)):
            print(*circle, sep="\n  ")


if __name__ == "__main__":
    main()
