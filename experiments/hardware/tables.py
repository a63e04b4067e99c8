"""Tables of a results folder, as Markdown.

python experiments/hardware/tables.py RESULTS > README.md
"""

from __future__ import annotations

import functools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

GATED = (
    *("output_tput", "ttft_p50", "ttft_p90", "tpot_p50", "e2e_p50", "itl_p50", "icl_p50"),
    *("interactivity", "acceptance_length", "energy_per_output_token", "gpu_power"),
)

_TOLD = ("gpu", "foreign", "measured-again")
"""Beginnings of the flags that a table tells."""


def main() -> None:
    """Print the tables of every step that has results."""
    folder = Path(sys.argv[1])
    for name, make in (
        ("host", _host),
        ("doomed", _doomed),
        ("topologies", _topologies),
        ("client", _client),
        ("m3mini", functools.partial(_pytest, "m3mini")),
        ("aa", _spread),
        ("sharing", _sharing),
        ("faults", _faults),
        ("parallel", _parallel),
        ("several", functools.partial(_pytest, "several")),
    ):
        path = folder / f"{name}.json"
        if path.is_file():
            print("\n".join(make(json.loads(path.read_text("utf-8")), folder)), end="\n\n")


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield (
            "| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in row) + " |"
        )


def _host(found: Mapping[str, Any], _: Path) -> Iterator[str]:
    yield "## Host"
    yield ""
    host = found["host"]
    yield (
        f"{host['cpu']['threads']} x {host['cpu']['model']}, {host['os']}, kernel "
        f"{host['kernel']}, driver {host['driver']}."
    )
    yield ""
    keys = (
        "name",
        "power_limit",
        "sm_clock_max",
        "memory_clock_max",
        "ecc",
        "pcie_generation",
        "nvlinks",
        "nvlink_version",
    )
    yield from _table(keys, [[gpu[key] for key in keys] for gpu in found["gpus"]])


def _doomed(rows: Mapping[str, Mapping[str, Any]], _: Path) -> Iterator[str]:
    yield "## Doomed servers: the doctor's word before, the engine's outcome after"
    yield ""
    table = []
    for row in rows.values():
        rules = (
            ", ".join(dict.fromkeys(f"`{finding['rule']}`" for finding in row["findings"]))
            or "nothing"
        )
        failure = row.get("failure") or {}
        said = (
            (failure.get("evidence") or [failure.get("summary", "")])[0][:110]
            if failure
            else "ready"
        )
        cause = f"dies: `{failure['cause']}`" if failure else "starts"
        table.append(
            (row["what"], f"{row['prognosis']}: {rules}", cause, said, row.get("seconds", ""))
        )
    yield from _table(("server", "doctor", "engine", "its words", "s"), table)


def _topologies(found: Mapping[str, Any], _: Path) -> Iterator[str]:
    yield "## Topologies on several GPUs"
    yield ""
    table = []
    for name, row in found["servers"].items():
        facts, failure = row.get("facts") or {}, row.get("failure") or {}
        checks = row.get("checks") or {}
        kernels = ", ".join(
            f"{key} {value}" for key, value in (facts.get("other_backends") or {}).items()
        )
        state = f"dies: `{failure['cause']}`" if failure else "starts"
        deviations = "; ".join(checks.get("deviations", [])) or "none"
        table.append(
            (name, state, row["seconds"], kernels, facts.get("draft_attention_backend"), deviations)
        )
    yield from _table(("server", "outcome", "s", "kernels", "draft", "deviations"), table)
    yield ""
    failed = [
        {"problems": [f"`{row['failure']['cause']}`"]} if row.get("failure") else {}
        for row in found["measured"]
    ]
    yield from _metrics(
        (f"{row['case']} {row.get('label', '')}", row.get("measurement") or why)
        for row, why in zip(found["measured"], failed, strict=True)
    )


def _metrics(rows: Any) -> Iterator[str]:
    table = []
    for name, measurement in rows:
        metrics = measurement.get("metrics") or {}
        notes = [*measurement.get("problems", ()), *measurement.get("invalid", ())]
        notes += [
            code
            for code in (flag["code"] for flag in measurement.get("flags", ()))
            if code.startswith(_TOLD)
        ]
        table.append(
            (
                name,
                *(
                    _number(metrics, "output_tput", 1, ".0f"),
                    _number(metrics, "ttft_p50", 1e3, ".1f"),
                ),
                *(
                    _number(metrics, "tpot_p50", 1e3, ".3f"),
                    _number(metrics, "gpu_power", 1, ".0f"),
                ),
                *(_number(metrics, "energy_per_output_token", 1e3, ".1f"), "; ".join(notes) or "-"),
            )
        )
    heads = ("case", "output tok/s", "TTFT p50 ms", "TPOT p50 ms", "power W", "mJ/tok", "notes")
    yield from _table(heads, table)


def _number(metrics: Mapping[str, float], name: str, factor: float, form: str) -> str:
    return format(metrics[name] * factor, form) if name in metrics else "-"


def _client(rows: Any, _: Path) -> Iterator[str]:
    yield "## Client against `vllm bench serve` and the engine's own clock"
    yield ""
    if isinstance(rows, dict):
        yield f"not measured: {rows['failure']['summary']}"
        return
    table = []
    for row in rows:
        metrics, engine = row.get("metrics") or {}, row["engine"]
        ttft, tpot = metrics.get("ttft_mean"), metrics.get("tpot_mean")
        own_ttft, own_tpot = engine.get("ttft"), engine.get("tpot")
        table.append(
            (
                *(
                    row["conc"],
                    row["tool"],
                    row["requests"],
                    _number(metrics, "output_tput", 1, ",.0f"),
                ),
                *(
                    _number(metrics, "ttft_mean", 1e3, ".2f"),
                    _number(engine, "ttft", 1e3, ".2f"),
                    _gap(ttft, own_ttft),
                ),
                *(
                    _number(metrics, "tpot_mean", 1e3, ".4f"),
                    _number(engine, "tpot", 1e3, ".4f"),
                    _gap(tpot, own_tpot),
                ),
                "; ".join(row.get("invalid", ())) or row.get("failure", "")[:80] or "-",
            )
        )
    heads = (
        "c",
        "tool",
        "requests",
        "tok/s",
        "TTFT ms",
        "engine's",
        "gap ms",
        "TPOT ms",
        "engine's",
        "gap ms",
        "INVALID because",
    )
    yield from _table(heads, table)


def _gap(value: float | None, own: float | None) -> str:
    return "-" if value is None or own is None else f"{(value - own) * 1e3:+.3f}"


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("launch-*.json")):
        record = json.loads(path.read_text("utf-8"))
        if record["kind"] == "case":
            yield record


def _pytest(step: str, found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    yield f'## `pytest benchmarks -k "{found["arguments"][1]}"`'
    yield ""
    yield f"Exit code {found['code']} after {found['seconds']} s."
    yield ""
    records = sorted(
        _records(folder / step), key=lambda record: (record["server"], record["workload"]["conc"])
    )
    yield from _metrics((record["case"], record.get("measurement") or {}) for record in records)


def _spread(found: Mapping[str, Any], _: Path) -> Iterator[str]:
    yield f"## A/A: {len(found['starts'])} launches of {found['case']}"
    yield ""
    seconds = sorted(start["seconds"] for start in found["starts"])
    yield (
        f"Started side by side, ready after {seconds[0]} to {seconds[-1]} s, measured one "
        "at a time, twice each."
    )
    yield ""
    spread = found.get("spread") or {}
    table = [
        (
            name,
            f"{row['mean']:.5g}",
            *(_percent(row.get(key)) for key in ("launch_sd", "repeat_sd", "range")),
            _r(row),
        )
        for name in GATED
        if (row := spread.get(name))
    ]
    heads = (
        "metric",
        "mean",
        "launch spread",
        "repeat spread",
        "largest - least",
        "autocorrelation in a run",
    )
    yield from _table(heads, table)
    yield ""
    yield (
        "Spreads are standard deviations as parts of the mean: between launches, and "
        "between two measurements of one launch."
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _r(row: Mapping[str, float | None]) -> str:
    value = row.get("autocorrelation")
    return "-" if value is None else f"{value:.2f}"


def _sharing(found: Mapping[str, Any], _: Path) -> Iterator[str]:
    yield "## Sharing a server"
    yield ""
    walls = found.get("wall") or {}
    yield from _table(
        ("server per", "servers", "measuring the six points, s"),
        [(policy, row["servers"], f"{row['measuring_s']:.1f}") for policy, row in walls.items()],
    )
    yield ""
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in found.get("differences") or []:
        cells[row["policy"], row["point"]][row["metric"]] = (
            f"{row['difference']:+.1%} ± {row['half_width']:.1%}"
        )
    metrics = ("output_tput", "ttft_p50", "tpot_p50", "e2e_p50")
    rows = [(*key, *(mine.get(metric, "-") for metric in metrics)) for key, mine in cells.items()]
    yield from _table(("server per", "point", *metrics), rows)
    yield ""
    yield "Against one server per point, with 95% intervals over paired rounds of one launch each."


def _faults(found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    yield "## Faults"
    yield ""
    rows: list[tuple[object, ...]] = []
    spread = folder / "aa.json"
    for killed in (
        json.loads(spread.read_text("utf-8")).get("killed", []) if spread.is_file() else []
    ):
        told = (killed["failure"] or {}).get("cause", "not noticed")
        memory = f"{killed['memory_before_gib']} to {killed['memory_after_gib']} GiB"
        rows.append(
            (
                f"SIGKILL of the {killed['killed']}",
                f"`{told}` after {killed['noticed_s']} s",
                memory,
            )
        )
    own = found.get("pytest") or {}
    if own:
        memory = own["memory_gib"]
        what = (
            f"{own['processes']} processes gone after {own['processes_gone_s']} s, left: "
            f"{own['left'] or 'none'}"
        )
        told = (
            f"{memory['before']:.2f}, {memory['measuring']:.2f} while measuring, "
            f"{memory['after']:.2f} GiB"
        )
        rows.append(("SIGKILL of pytest", what, f"{told}, back after {own['memory_back_s']} s"))
    capture = found.get("capture") or {}
    if capture:
        told = (capture.get("failure") or {}).get("cause", "none: it started")
        rows.append(
            ("no memory left at capture", f"`{told}`", f"{capture['taken']} taken meanwhile")
        )
    yield from _table(("fault", "what was seen", "GPU memory"), rows)


def _parallel(found: Mapping[str, Any], _: Path) -> Iterator[str]:
    yield "## Servers side by side, and one that waits for them"
    yield ""
    run = found["run"]
    yield f"Exit codes {run['code']} and {run['second']['code']}, {run['second']['seconds']} s."
    yield ""
    rows = [
        (
            *(s["server"], s["visible"], (s["times"] or {}).get("lease"), s["finished"]),
            "failed" if s["failure"] else "ok",
        )
        for s in found["servers"]
    ]
    yield from _table(
        ("server", "CUDA_VISIBLE_DEVICES", "waited for GPUs, s", "ready at", ""), rows
    )


if __name__ == "__main__":
    main()
