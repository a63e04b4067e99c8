"""``gpubench report``, and what else is made of result folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench.commands import FILE, FLAG, FOLDER, warn_of

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.report.exports_json import Exported
    from pytest_gpubench.report.merge_runs import Merged
    from pytest_gpubench.report.results import Loaded

_FOLDERS = {"agg": "--agg", "vllm_json": "--vllm-json"}


def add_commands(commands: Subparsers) -> None:
    report = commands.add_parser(
        "report", help="make one HTML file, tables or exports of result folders"
    )
    report.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="results folders or single runs, merged",
    )
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="one self-contained page"
    )
    report.add_argument(
        "--against-run", **FOLDER, help="show differences to these results in the page"
    )
    report.add_argument(
        "--title", default="Serving benchmarks", help="heading of page and Markdown"
    )
    report.add_argument("--csv", **FILE, help="one row per case and launch")
    report.add_argument("--markdown", **FILE, help="for a pull-request comment; - prints it")
    report.add_argument(
        "--agg", **FOLDER, help="InferenceX's agg_*.json, of cases with client profile inferencex"
    )
    report.add_argument("--vllm-json", **FOLDER, help="result JSON as 'vllm bench serve' writes it")
    report.add_argument(
        "--every-launch",
        **FLAG,
        help="JSON exports: a file per launch and attempt, not one per case",
    )
    report.add_argument(
        "--matrix",
        **FILE,
        help="a matrix of which every entry must report; the exit code is the merged one",
    )
    report.set_defaults(run=_report)


def _report(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.model.failures import GpubenchError
    from pytest_gpubench.report.matrix import read_matrix
    from pytest_gpubench.report.merge_runs import merge
    from pytest_gpubench.report.read_results import load_results

    given = vars(parsed)
    if not any(given[name] for name in ("matrix", "output", "csv", "markdown", *_FOLDERS)):
        raise GpubenchError(
            "report: say what to make of them: -o FILE.html, --csv, --markdown, --agg, "
            "--vllm-json or --matrix"
        )
    if parsed.against_run and not parsed.output:
        raise GpubenchError(
            "report: --against-run shows differences in the page: give -o FILE.html too"
        )
    for name, option in _FOLDERS.items():
        if given[name] and given[name].exists() and not given[name].is_dir():
            raise GpubenchError(f"report: {option} {given[name]} is a file; give a folder")
    loaded = load_results(parsed.results)
    warn_of("left out", loaded.left_out)
    if not parsed.matrix and not any(run.cases or run.inits or run.end for run in loaded.runs):
        raise GpubenchError(
            f"no result records in {', '.join(map(str, parsed.results))}; give a folder "
            "that a run has written"
        )
    merged = merge(loaded, read_matrix(parsed.matrix) if parsed.matrix else None)
    if parsed.output:
        _page(parsed, loaded, merged)
    if parsed.csv:
        from pytest_gpubench.report.exports_csv import csv_text

        _write(parsed.csv, csv_text(loaded.cases()))
    if parsed.markdown:
        from pytest_gpubench.report.markdown import markdown

        _write(parsed.markdown, markdown(loaded, merged=merged, title=parsed.title))
    if parsed.agg or parsed.vllm_json:
        from pytest_gpubench.report.exports_json import export_agg, export_vllm

        for folder, export in ((parsed.agg, export_agg), (parsed.vllm_json, export_vllm)):
            if folder:
                _told(folder, export(loaded.cases(), folder, every_launch=parsed.every_launch))
    if not parsed.matrix:
        return 0
    print("\n".join(merged.lines()))
    return merged.exit_code


def _page(parsed: argparse.Namespace, loaded: Loaded, merged: Merged) -> None:
    from pytest_gpubench.report import html
    from pytest_gpubench.report.read_results import load_results

    against = load_results([parsed.against_run]) if parsed.against_run else None
    name = parsed.against_run.name if parsed.against_run else ""
    html.write(
        parsed.output,
        html.render(loaded, against, merged=merged, title=parsed.title, against_name=name),
    )
    print(f"wrote {parsed.output}")


def _write(path: Path, text: str) -> None:
    from pytest_gpubench.report.html import write

    if str(path) == "-":
        sys.stdout.write(text)
        return
    write(path, text)
    print(f"wrote {path}")


def _told(folder: Path, exported: Exported) -> None:
    from pytest_gpubench.model.printing import counted

    print(f"wrote {counted(len(exported.written), 'file')} in {folder}")
    if exported.passed_over:
        others = counted(exported.passed_over, "result")
        print(
            f"{others} more of the same cases, other launches or attempts: "
            "--every-launch exports all",
            file=sys.stderr,
        )
    warn_of("not exported", exported.left_out)
