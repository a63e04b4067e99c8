"""Starter files for a repository of one's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pytest_gpubench.model.failures import GpubenchError

_FILES = {
    "recipes.yaml": "starter_recipes.yaml",
    "benchmarks/test_serving.py": "starter_test_serving.py",
}


def write_starter(root: Path) -> tuple[list[Path], list[Path]]:
    """Write what is missing of the starter files; returns the written and the kept paths.

    Raises:
        GpubenchError: if the folder does not exist or refuses a file.
    """
    if not root.is_dir():
        raise GpubenchError(f"{root} is not a folder; give the root of a repository")
    written: list[Path] = []
    kept: list[Path] = []
    for name, source in _FILES.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(
                    files("pytest_gpubench.report")
                    .joinpath("starter", source)
                    .read_text(encoding="utf-8")
                )
        except FileExistsError:
            kept.append(path)
        except OSError as error:
            raise GpubenchError(f"{path} could not be written: {error.strerror}") from error
        else:
            written.append(path)
    return written, kept
