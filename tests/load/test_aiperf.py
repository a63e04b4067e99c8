"""AIPerf's command line, process and output, with a stand-in that writes what 0.13.0 writes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.load.aiperf.output import (
    LOG,
    SUMMARY,
    AiperfOutput,
    promised_hits,
    read_output,
)
from pytest_gpubench.load.aiperf.running import (
    RECORDS,
    AiperfPlan,
    AiperfRun,
    aiperf_words,
    last_words,
    run_aiperf,
    tokenizer_cache,
)
from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.model.client_tools import Tool
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.workload import AGENTIC, Workload
from tests.fake_aiperf import CAPTURED, make_environment
from tests.fake_aiperf.aiperf.cli import FAULTS

LOAD = Workload(128, 4, 2, 4, 1, range_ratio=1.0, tool=Tool("aiperf"))
PLAN = AiperfPlan("http://127.0.0.1", "served", LOAD, "org/model", "/results", seed=7)
KEY = "sk-of-the-server-0123456789"


def test_a_row_becomes_flags() -> None:
    assert aiperf_words(PLAN) == (
        "profile",
        "--no-gpu-telemetry",
        "--no-server-metrics",
        "--url=http://127.0.0.1",
        "--model=served",
        "--endpoint-type=chat",
        "--streaming",
        "--use-server-token-count",
        "--output-artifact-dir=/results",
        "--ui-type=none",
        "--random-seed=7",
        "--tokenizer=org/model",
        "--concurrency=2",
        "--osl=4",
        "--isl=128",
        "--request-count=4",
        "--warmup-request-count=1",
        '--extra-inputs={"ignore_eos": true, "temperature": 0.0}',
    )


def test_arguments_are_added_and_take_the_place_of_defaults() -> None:
    arguments: dict[str, Any] = {
        "random-seed": 42,
        "tokenizer": "org/other",
        "server-metrics": True,
        "prefill-concurrency": 3,
        "goodput-of": ["a", "b"],
        "extra-inputs": {"top_p": 0.5, "ignore_eos": False},
    }
    load = replace(
        LOAD,
        tool=Tool("aiperf", "", FrozenMap(arguments)),
        slo=FrozenMap({"ttft": 0.25, "tpot": 0.01}),
        chat_template_kwargs=FrozenMap({"thinking": False}),
        duration=60.0,
    )
    words = aiperf_words(replace(PLAN, workload=load, revision="abc", trust_remote_code=True))
    assert set(words) >= {
        "--random-seed=42",
        "--tokenizer=org/other",
        "--server-metrics",
        "--prefill-concurrency=3",
        "--goodput-of=a",
        "--goodput-of=b",
        "--goodput=time_to_first_token:250 inter_token_latency:10",
        "--benchmark-duration=60.0",
        "--tokenizer-trust-remote-code",
        '--extra-inputs={"ignore_eos": false, "temperature": 0.0, "chat_template_kwargs": '
        '{"thinking": false}, "top_p": 0.5}',
    }
    assert not any(word.startswith("--tokenizer-revision") for word in words)
    assert "--tokenizer-revision=abc" in aiperf_words(replace(PLAN, revision="abc"))


def test_a_trace_has_lengths_and_counts_of_its_own() -> None:
    tool = Tool("aiperf", "agentx", FrozenMap({"public-dataset": "traces"}))
    load = Workload(0, 0, 8, 8, 0, dataset=AGENTIC, duration=900.0, tool=tool)
    words = aiperf_words(replace(PLAN, workload=load))
    assert {"--scenario=agentx", "--public-dataset=traces", "--concurrency=8"} <= set(words)
    told = {word.partition("=")[0] for word in words}
    assert not told & {"--isl", "--osl", "--request-count", "--warmup-request-count"}


def test_an_open_loop_has_a_rate_and_no_concurrency() -> None:
    load = replace(LOAD, arrival="gamma", request_rate=2.5, burstiness=0.5)
    words = aiperf_words(replace(PLAN, workload=load))
    assert {"--request-rate=2.5", "--arrival-pattern=gamma", "--arrival-smoothness=0.5"} <= set(
        words
    )
    assert not any(word.startswith("--concurrency") for word in words)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z-]{0,8}[a-z]", fullmatch=True).map("x".__add__),
        st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=4)),
        max_size=4,
    )
)
def test_no_value_passes_for_a_flag(arguments: dict[str, Any]) -> None:
    load = replace(LOAD, tool=Tool("aiperf", "", FrozenMap(arguments)))
    first, *words = aiperf_words(replace(PLAN, workload=load))
    assert first == "profile"
    known = {word.partition("=")[0] for word in aiperf_words(PLAN)[1:]}
    ours = {f"--{name}" for name in arguments} | {f"--no-{name}" for name in arguments}
    assert {word.partition("=")[0] for word in words} <= known | ours


# ------------------------------------------------------------------------------------ the process


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_environment(tmp_path_factory.mktemp("tool") / "env").parent / "python")


@pytest.fixture
def run(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AiperfRun]:
    def start(fault: str = "", **more: Any) -> AiperfRun:
        assert not fault or fault in FAULTS
        monkeypatch.setenv("GPUBENCH_FAKE_AIPERF", fault)
        log = LogSink(tmp_path / "out" / "aiperf.out", dialect_of("vllm").log, [KEY])
        plan = replace(PLAN, folder=str(tmp_path / "out"))
        return run_aiperf(plan, python, log, api_key=KEY, **more)

    return start


def test_a_run(run: Callable[..., AiperfRun], tmp_path: Path) -> None:
    seen: list[Progress] = []
    it = run(on_progress=seen.append)
    assert it.argv[:2] == ("aiperf", "profile")
    assert not any(KEY in word for word in it.argv)
    assert seen[0] == Progress("prompts", 0, 0)
    output = read_output(tmp_path / "out", it.log, 0, 4)
    assert [record.phase for record in output.records] == ["warmup", *["measured"] * 4]
    assert output.version == "0.13.0"


def test_the_key_is_in_no_command_line_and_nothing_outlives_a_stalled_tool(
    run: Callable[..., AiperfRun],
) -> None:
    lines: list[str] = []
    tree: set[psutil.Process] = set()

    def look(_progress: Progress) -> None:
        for child in psutil.Process().children():
            if any(word.endswith("launcher.py") for word in child.cmdline()):
                tree.update([child, *child.children(recursive=True)])
        for process in tree:
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                lines.append(" ".join(process.cmdline()))

    with pytest.raises(BenchmarkError) as caught:
        run("stall", stall=2.0, on_progress=look)
    failure = caught.value.failure
    assert failure.cause == "aiperf-stalled"
    assert "after 2 measured and 1 warm-up requests" in failure.summary
    assert any("launcher.py profile" in line for line in lines)
    assert any("time.sleep(600)" in line for line in lines)  # a child of the tool
    assert not any(KEY in line for line in lines)
    psutil.wait_procs(tree, timeout=10)
    assert not any(process.is_running() for process in tree)


def test_what_the_engine_counts_is_a_sign_of_life(run: Callable[..., AiperfRun]) -> None:
    counted = iter(range(10**6))
    with pytest.raises(BenchmarkError) as caught:
        run("stall", stall=0.4, limit=1.5, engine_counts=lambda: next(counted))
    failure = caught.value.failure
    assert failure.cause == "aiperf-too-long"
    assert failure.summary.startswith("AIPerf was not finished after 2 s: ")


def test_a_server_that_fails_ends_it(run: Callable[..., AiperfRun]) -> None:
    dead = Failure("engine-died", "engine", "The engine died.")
    with pytest.raises(BenchmarkError, match="The engine died"):
        run("stall", check=lambda: dead)


@pytest.mark.parametrize(
    ("fault", "words", "kind"),
    [
        ("refuse", "ended with exit code 1: Unknown option: --no-such-flag. Did", "recipe"),
        ("tokenizer", "exit code 1: Failed to load tokenizer 'no/such'", "client"),
        ("killed", "AIPerf was killed by signal 9: it said nothing", "client"),
    ],
)
def test_its_last_words_are_the_reason(
    run: Callable[..., AiperfRun], fault: str, words: str, kind: str
) -> None:
    with pytest.raises(BenchmarkError) as caught:
        run(fault, well=lambda: True)
    failure = caught.value.failure
    assert (failure.cause, failure.failure_class) == ("aiperf-failed", kind)
    assert words in failure.summary
    assert ("(`tokenizer` under client.arguments)" in failure.remedy) == (fault == "tokenizer")


def test_last_words_of_the_real_one() -> None:
    box = """
01:08:15.946 ERROR    Failed for SystemController (id=system_controller): no (mixin.py:354)

╭─ AIPerf System Exit Errors ──────────────────────────────────────────────────╮
│ • Service: dataset_manager                                                   │
│    Operation: Configure Profiling                                            │
│    Error: CommandError                                                       │
│    Reason: Failed to load tokenizer 'no/such': OSError: Tokenizer            │
│            'no/such' is not present in the HuggingFace cache.                │
│                                                                              │
│ • Service: system_controller                                                 │
│    Reason: HookError("SystemController._start_services")                     │
╰──────────────────────────────────────────────────────────────────────────────╯
Log File: /somewhere/logs/aiperf.log
"""
    words, evidence = last_words(box.splitlines())
    assert words == (
        "Failed to load tokenizer 'no/such': OSError: Tokenizer 'no/such' is not present in the "
        "HuggingFace cache."
    )
    assert len(evidence) == 1
    assert last_words(["a", "it broke", ""]) == ("it broke", ())


def test_its_environment_is_offline_and_its_own(
    run: Callable[..., AiperfRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIPERF_SERVICE_X", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere")
    found: dict[str, str] = {}

    def look(_progress: Progress) -> None:
        for process in psutil.Process().children(recursive=True):
            if any("launcher.py" in word for word in process.cmdline()[:2]):
                found.update(process.environ())

    run(on_progress=look, cache_dir="/cache")
    assert found["HF_HUB_OFFLINE"] == found["HF_DATASETS_OFFLINE"] == "1"
    assert found["HF_HUB_CACHE"] == "/cache"
    assert not {"AIPERF_SERVICE_X", "HTTPS_PROXY", "PYTHONPATH"} & found.keys()
    assert not Path(found["TMPDIR"]).exists()


def test_a_model_in_a_folder_brings_its_tokenizer(tmp_path: Path) -> None:
    cache, model = tmp_path / "cache", tmp_path / "model"
    (cache / "models--org--other").mkdir(parents=True)
    model.mkdir()
    (model / "tokenizer.json").write_text("{}")
    hub = tokenizer_cache(str(model), str(cache), tmp_path / "hub")
    assert (hub / "models--org--other").is_dir()
    assert [path.parent.parent.name for path in hub.rglob("refs/main")] == [
        "models--gpubench--model-in-a-folder"
    ]
    (commit,) = (one.read_text() for one in hub.rglob("refs/main"))
    snapshot = hub / "models--gpubench--model-in-a-folder" / "snapshots" / commit
    assert (snapshot / "tokenizer.json").is_file()
    assert not list(cache.rglob("*gpubench*"))


# ------------------------------------------------------------------------------------- the output


def captured(folder: Path) -> Path:
    (folder / "logs").mkdir()
    for name, target in ((SUMMARY, SUMMARY), (RECORDS, RECORDS), ("aiperf.log", LOG)):
        (folder / target).write_text((CAPTURED / name).read_text())
    return folder


def test_what_0_13_wrote(tmp_path: Path) -> None:
    output = read_output(captured(tmp_path), (), 1_000, 0)
    assert (output.version, output.sessions, output.finished) == ("0.13.0", 2, 2)
    assert (output.cancelled, output.timed_out, output.late, output.loops) == (0, False, (), 1)
    turns = [(one.record.phase, one.session, one.record.turn) for one in output.requests]
    assert sorted(turns[1:]) == [("measured", s, t) for s in ("s0", "s1") for t in (0, 1)]
    line = json.loads((CAPTURED / RECORDS).read_text().splitlines()[-1])
    record = max(output.records, key=lambda record: record.end_ns or 0)
    assert record.end_ns == line["metadata"]["request_end_ns"] - 1_000
    assert record.send_ns == line["metadata"]["request_start_ns"] - 1_000
    assert record.due_ns <= (record.send_ns or 0)
    assert record.completion_tokens == len(record.chunk_ns) == 4
    assert record.chunk_ns[0] == record.first_token_ns
    assert abs(record.chunk_ns[-1] - (record.last_token_ns or 0)) < 1_000
    assert record.ok
    # What the second turns repeat: the prompts of the first ones.
    first = [it.record.prompt_tokens or 0 for it in output.requests if it.record.turn == 0]
    repeated = sum(first) - (output.records[0].prompt_tokens or 0)
    assert promised_hits(output.requests, 1) == repeated > 30
    assert promised_hits(output.requests, 4) == repeated - 2 * 3
    assert promised_hits(output.requests, 512) == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no-summary", f"{SUMMARY} cannot be read: No such file"),
        ("not-json", f"{SUMMARY} is no JSON"),
        ("cut-summary", f"{SUMMARY} is no JSON"),
        ("cut-records", f"{RECORDS}, line 5 of 5, is no JSON"),
        ("lost-record", f"{RECORDS} holds 3 measured requests, {SUMMARY} counts 4"),
        ("other-record", f"{RECORDS}, line 2, lacks 'turn_index'"),
    ],
)
def test_output_that_is_not_as_known_is_named(
    run: Callable[..., AiperfRun], tmp_path: Path, fault: str, words: str
) -> None:
    it = run(fault)
    with pytest.raises(BenchmarkError) as caught:
        read_output(tmp_path / "out", it.log, 0, 4)
    failure = caught.value.failure
    assert failure.cause == "aiperf-output"
    assert failure.summary.startswith("AIPerf's output is not as 0.13 writes it: ")
    assert words in failure.summary


@pytest.mark.parametrize("count", ["NaN", "-Infinity", "1e999", "1" + "0" * 400, "true"])
def test_a_count_that_is_no_number(tmp_path: Path, count: str) -> None:
    folder = captured(tmp_path)
    (folder / SUMMARY).write_text(f'{{"request_count": {{"avg": {count}}}}}')
    with pytest.raises(BenchmarkError) as caught:
        read_output(folder, (), 0, 0)
    assert f"{SUMMARY} has no number for 'request_count.avg'" in caught.value.failure.summary


@pytest.mark.parametrize("value", ["Infinity", "1" + "0" * 400])
def test_a_time_that_is_too_long_to_be_one(tmp_path: Path, value: str) -> None:
    folder = captured(tmp_path)
    line = json.loads((folder / RECORDS).read_text().splitlines()[0])
    line["metrics"]["request_latency"]["value"] = "VALUE"
    (folder / RECORDS).write_text(json.dumps(line).replace('"VALUE"', value))
    with pytest.raises(BenchmarkError) as caught:
        read_output(folder, (), 0, 0)
    assert f"{RECORDS}, line 1, is not as known" in caught.value.failure.summary


def test_names_may_hold_other_line_separators(tmp_path: Path) -> None:
    folder = captured(tmp_path)
    whole = (folder / RECORDS).read_text()
    name = json.loads(whole.splitlines()[0])["metadata"]["conversation_id"]
    odd = "a\u2028b\x85c"
    (folder / RECORDS).write_text(whole.replace(name, odd), encoding="utf-8")
    assert odd in {request.session for request in read_output(folder, (), 0, 0).requests}


def test_no_request_at_all(run: Callable[..., AiperfRun], tmp_path: Path) -> None:
    it = run("nothing")
    with pytest.raises(BenchmarkError) as caught:
        read_output(tmp_path / "out", it.log, 0, 4)
    assert caught.value.failure.summary == (
        "AIPerf measured no request; 1 were sent in its warm-up"
    )


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 12_000))
def test_broken_records_end_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    folder = captured(tmp_path_factory.mktemp("noise"))
    whole = (folder / RECORDS).read_bytes()
    (folder / RECORDS).write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        output: AiperfOutput | None = read_output(folder, (), 0, 0)
    except BenchmarkError as error:
        assert error.failure.cause in ("aiperf-output", "aiperf-nothing")  # noqa: PT017
    else:
        assert output


def test_requests_that_were_cut_off_and_sessions_that_ended_early(
    run: Callable[..., AiperfRun], tmp_path: Path
) -> None:
    it = run("cut-off")
    output = read_output(tmp_path / "out", it.log, 0, 4)
    assert (output.cancelled, output.timed_out) == (2, True)
    it = run("ends-early")
    output = read_output(tmp_path / "out", it.log, 0, 4)
    assert (output.sessions, output.finished, output.timed_out) == (4, 3, False)


def test_a_context_that_is_too_short_is_named(
    run: Callable[..., AiperfRun], tmp_path: Path
) -> None:
    output = read_output(tmp_path / "out", run("overflow").log, 0, 4)
    (over,) = [one for one in output.requests if one.overflowed]
    assert over.record.turn == 29
    assert "maximum context length is 2048" in over.record.error
    assert over.session == "session_000001"
