"""``gpubench baseline show, history, waivers, accept, prune``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gpubench.commands import FILE, FOLDER, MANY, NUMBER, say, warn
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import listed

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.gate.baselines import Baseline
    from pytest_gpubench.gate.histories import MetricHistory

DEFAULT_FOLDER = Path("benchmarks/baselines")
_RECENT = 20


def add_commands(commands: Subparsers) -> None:
    baseline = commands.add_parser(
        "baseline", help="look at recorded baselines, accept a new level, prune"
    )
    actions = baseline.add_subparsers(dest="action", required=True, metavar="ACTION")

    show = actions.add_parser(
        "show", help="per case: level, spread, and what one and three launches would find"
    )
    show.add_argument(
        "cases",
        nargs="*",
        metavar="CASE",
        help="case ids, for instance SERVER:1k1k-c64 (default: all)",
    )
    show.set_defaults(run=_show)

    history = actions.add_parser(
        "history", help="every recorded launch of a case, and where its level moved"
    )
    history.add_argument("case", metavar="CASE", help="case id, as show prints it, or a glob")
    history.add_argument(
        "metric",
        nargs="?",
        metavar="METRIC",
        help="for instance tpot_p50 (default: where the level of those gated by default moved)",
    )
    history.add_argument("--html", **FILE, help="write a page with a chart for each metric")
    history.add_argument(
        "--otava-csv",
        **FILE,
        help="write the case's newest series as the CSV that Apache Otava reads; stdout is an "
        "otava.yaml for it",
    )
    history.set_defaults(run=_history)

    waivers = actions.add_parser(
        "waivers", help="known bugs: what is waived, what it covers, and when it ends"
    )
    waivers.add_argument(
        "recipes",
        nargs="*",
        type=Path,
        help="recipe files whose cases are covered (default: recipes.yaml, where it exists)",
    )
    waivers.set_defaults(run=_waivers)

    accept = actions.add_parser(
        "accept", help="take a case's launches of a run as the new level, a worse one included"
    )
    accept.add_argument("case", metavar="CASE", help="case id")
    accept.add_argument(
        "run_folder", type=Path, metavar="RUN", help="results/RUN, as the run's last line names it"
    )
    accept.add_argument(
        "--metric",
        **MANY,
        metavar="NAME",
        help="begin the anchor of this metric anew (default: what failed)",
    )
    accept.add_argument("--note", default="", help="why, for the history")
    accept.set_defaults(run=_accept)

    prune = actions.add_parser("prune", help="drop launches that no verdict needs any more")
    prune.add_argument("cases", nargs="*", metavar="CASE", help="case ids (default: all)")
    prune.add_argument(
        "--keep",
        **NUMBER,
        default=_RECENT,
        help=f"newest launches of each key that stay (default: {_RECENT})",
    )
    prune.set_defaults(run=_prune)

    for action in (show, history, waivers, accept, prune):
        action.add_argument(
            "--baselines", **FOLDER, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}"
        )


def _show(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.gate.histories import show_lines

    for path, case in _chosen(parsed.baselines, parsed.cases):
        say(*show_lines(_read(path, case)))
    return 0


def _history(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.gate.histories import change_lines, history_lines, metric_histories

    found = {case: _read(path, case) for path, case in _matching(parsed.baselines, parsed.case)}
    metric = parsed.metric
    having = {case: one for case, one in found.items() if _has(one, metric)}
    found = having or found  # what none has is an error, what some lack is not
    launches = {case: list(history_lines(one, metric)) for case, one in found.items() if metric}
    histories = {
        case: metric_histories(one, [metric] if metric else []) for case, one in found.items()
    }
    if parsed.html:
        _write_page(parsed.html, [one for own in histories.values() for one in own])
    if parsed.otava_csv:  # its configuration is all that is printed
        _write_otava(parsed.otava_csv, list(found.values()), metric)
        return 0
    for case, own in histories.items():
        if len(found) > 1:
            say(f"{case}:")
        lines = [] if parsed.html else launches.get(case, [])
        say(*lines, *(line for one in own for line in change_lines(one)))
    return 0


def _matching(folder: Path, pattern: str) -> list[tuple[Path, str]]:
    """Files and cases of a case id or a glob.

    Raises:
        GpubenchError: for a folder without baselines, or where none matches.
    """
    found = _chosen(folder, [])
    matching = [(path, case) for path, case in found if fnmatchcase(case, pattern)]
    return matching or _chosen(folder, [pattern])


def _has(baseline: Baseline, metric: str | None) -> bool:
    return metric is None or any(metric in entry.metrics for entry in baseline.launches)


def _write_page(target: Path, histories: list[MetricHistory]) -> None:
    from pytest_gpubench.host.files import write_text
    from pytest_gpubench.report.html_history import history_page

    write_text(target, history_page(histories), what="the page", remedy="choose another file")
    warn(f"page: {target}")


def _write_otava(target: Path, baselines: list[Baseline], metric: str | None) -> None:
    from pytest_gpubench.gate.histories import metric_histories
    from pytest_gpubench.host.files import write_text
    from pytest_gpubench.model.metrics import METRICS
    from pytest_gpubench.report.exports_csv import otava_config, otava_csv

    if len(baselines) > 1:
        raise GpubenchError(
            f"--otava-csv takes one case, and {len(baselines)} match: "
            f"{listed([one.case for one in baselines], 3)}; name one of them"
        )
    (baseline,) = baselines
    found = metric_histories(baseline, [metric] if metric else list(METRICS))
    if not found:
        raise GpubenchError(f"the baseline of {baseline.case} has no launches: there is no series")
    newest = [one for one in found if one.key == found[-1].key]
    text, metrics, left_out = otava_csv(newest)
    write_text(target, text, what="the CSV", remedy="choose another file")
    warn(f"CSV: {target}; stdout is an otava.yaml for it")
    say(*otava_config(baseline.case, str(target), metrics))
    if left_out:
        warn(f"left out, since some run lacks it: {', '.join(left_out)}")


def _waivers(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.gate.waiver_file import FILE as WAIVERS
    from pytest_gpubench.gate.waiver_file import read_waivers
    from pytest_gpubench.gate.waivers import waiver_lines

    waivers = read_waivers(parsed.baselines)
    if not waivers.entries:
        print(f"no waivers: {parsed.baselines / WAIVERS} has none")
        return 0
    say(*waiver_lines(waivers, _subjects(parsed.recipes, parsed.baselines)))
    return 0


def _subjects(recipes: list[Path], folder: Path) -> list[str]:
    """Every case and start of a server: of the recipes, else those that have a baseline."""
    from pytest_gpubench.model.specs import init_subject
    from pytest_gpubench.recipes.loading import load_recipes
    from pytest_gpubench.recipes.problems import problem_text

    paths = recipes or [path for path in (Path("recipes.yaml"),) if path.exists()]
    if not paths:
        return [case for _, case in _files(folder)]
    book = load_recipes(paths)
    if book.problems:
        raise GpubenchError(problem_text(book))
    return [case.id for case in book.cases] + [init_subject(key) for key, _ in book.servers]


def _accept(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.gate.baseline_files import baseline_path, update_baseline
    from pytest_gpubench.gate.baselines import append
    from pytest_gpubench.gate.recording import accepted_entries
    from pytest_gpubench.report.records import records_of

    records = records_of(parsed.run_folder, parsed.case)
    case, key, entries = accepted_entries(
        parsed.run_folder.name, records, parsed.metric, parsed.note
    )
    path = baseline_path(parsed.baselines, str(key["hardware"]), case)
    before = _count(path, case)
    after = update_baseline(path, case, lambda baseline: append(baseline, key, entries))
    added = len(after.launches) - before
    print(
        f"{path}: {added} of {len(entries)} launches added"
        + ("" if added else "; they were there already")
    )
    return 0


def _prune(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.gate.baseline_files import update_baseline
    from pytest_gpubench.gate.baselines import prune

    if parsed.keep < 0:
        raise GpubenchError(
            f"--keep {parsed.keep}: write 0 or more; what verdicts need stays in any case"
        )
    for path, case in _chosen(parsed.baselines, parsed.cases):
        before = _count(path, case)
        after = update_baseline(path, case, lambda baseline: prune(baseline, parsed.keep))
        print(f"{case}: {before - len(after.launches)} of {before} launches dropped")
    return 0


def _chosen(folder: Path, cases: list[str]) -> list[tuple[Path, str]]:
    """Files and cases; all of the folder where none is named.

    Raises:
        GpubenchError: for a folder without baselines, or a case without one.
    """
    found = {case: path for path, case in _files(folder)}
    if not found:
        raise GpubenchError(
            f"no baselines in {folder}: record some with --gpubench-update-baselines, "
            "or name a folder with --baselines"
        )
    missing = [case for case in cases if case not in found]
    if missing:
        raise GpubenchError(
            f"no baseline of {missing[0]} in {folder}; 'gpubench baseline show' lists what there is"
        )
    return [(found[case], case) for case in cases or found]


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.glob("*/*/*.json")):
        yield path, f"{path.parent.name}:{path.stem}"


def _read(path: Path, case: str) -> Any:
    from pytest_gpubench.gate.baseline_files import read_baseline

    baseline = read_baseline(path, case)
    if baseline is None:
        raise GpubenchError(f"the baseline {path} has gone; run the command again")
    return baseline


def _count(path: Path, case: str) -> int:
    from pytest_gpubench.gate.baseline_files import read_baseline

    baseline = read_baseline(path, case)
    return len(baseline.launches) if baseline else 0
