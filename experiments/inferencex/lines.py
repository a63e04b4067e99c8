"""Lines of InferenceX's scripts and master entries, and of our recipes for them, without comments and
blank lines: ``python experiments/inferencex/lines.py TREE`` (TREE: see ``capture.py``)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))

import capture

ROOT = Path(__file__).parents[2]
_ROWS = re.compile(r"\s*(scenarios:|fixed-seq-len:|- isl:|osl:|search-space:|- \{tp:)")


def code(text: str) -> list[str]:
    """The lines that say something."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def sections(text: str, indent: str = "") -> dict[str, str]:
    """Top-level keys of a file with the text below them."""
    parts = re.split(rf"^{indent}(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return {part.split(":", 1)[0]: part for part in parts[1:]}


def ours(engine: str) -> list[str]:
    """Lines of the recipes and templates of an engine, the demo's aside."""
    found = []
    for file in (ROOT / "recipes.yaml", *sorted((ROOT / "recipes.d").glob("*.yaml"))):
        parts = sections(file.read_text())
        entries = parts | sections(parts.pop("templates", ""), "  ")
        for name, text in entries.items():
            is_theirs = ("sglang" in name) == (engine == "sglang")
            if is_theirs and name not in ("include", "host", "templates") and "tiny" not in name:
                found += code(text)
    return found


def main() -> int:
    tree = Path(sys.argv[1]).absolute()
    for engine in ("vllm", "sglang"):
        points = capture.points(tree, engine)
        scripts = {capture.script_of(tree, point) for point in points}
        keys = {(point["file"], point["key"]) for point in points}
        entries = 0
        for name in {name for name, _ in keys}:
            text = (tree / name).read_text()
            known = yaml.safe_load(text)
            for key, part in sections(text).items():
                entries += len(code(part)) if key in known and (name, key) in keys else 0
        lines = ours(engine)
        rows = [line for line in lines if _ROWS.match(line)]
        count = sum(len(code(script.read_text())) for script in scripts)
        print(f"{engine}: {len(scripts)} scripts, {count} lines; their entries {entries} lines;")
        print(f"  recipes {len(lines)} lines, {len(rows)} of them rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
