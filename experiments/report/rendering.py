"""What a big report costs: made-up result files are written, loaded, merged and rendered; prints
seconds, peak memory and sizes.

python experiments/report/rendering.py [FILES]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pytest_gpubench.report import html
from pytest_gpubench.report.exports_csv import csv_text
from pytest_gpubench.report.markdown import markdown
from pytest_gpubench.report.read_results import load_results
from tests.report.synthetic import write_results

_PER_FOLDER = 250


def main(files: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = 0
        while written < files:
            number = written // _PER_FOLDER
            run = f"20260901T{number // 60:02d}{number % 60:02d}00Z-{number:04x}"
            written += write_results(
                folder / f"job-{number}",
                min(_PER_FOLDER, files - written),
                run=run,
                seed=number,
                first=written,
            )
        size = sum(path.stat().st_size for path in folder.rglob("*.json"))
        before = _peak()
        start = time.perf_counter()
        loaded = load_results([folder])
        read = time.perf_counter()
        page = html.render(loaded)
        rendered = time.perf_counter()
        texts = [markdown(loaded), csv_text(loaded.cases())]
        end = time.perf_counter()
        print(
            f"{written} files, {size / 2**20:.0f} MiB, {len(loaded.runs)} runs, "
            f"{len(loaded.left_out)} left out"
        )
        print(
            f"load {read - start:.1f} s, HTML {rendered - read:.1f} s, Markdown and CSV "
            f"{end - rendered:.1f} s"
        )
        print(
            f"together {end - start:.1f} s; peak memory {_peak():.0f} MiB ({before:.0f} MiB before)"
        )
        print(
            f"HTML {len(page.encode()) / 1e6:.2f} MB, Markdown {len(texts[0])} "
            f"characters, CSV {len(texts[1]) / 1e6:.2f} MB"
        )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
