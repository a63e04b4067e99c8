from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects.vllm.log import LOG
from pytest_gpubench.engines.log_sink import MAX_HEAD, MAX_TAIL, LogSink

KEY = "s3cret-key-of-this-launch"


def test_no_secret_reaches_file_or_memory(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "server.log", LOG, [KEY])
    sink.feed(f"my key is {KEY[:5]}".encode())
    sink.feed(f"{KEY[5:]} and hf_{'a' * 20}\n".encode())
    sink.close()
    assert (tmp_path / "server.log").read_text() == "my key is <removed> and <removed>\n"
    assert sink.lines() == ["my key is <removed> and <removed>"]


def test_kernels_that_are_compiled_while_serving_are_kept_with_their_time(tmp_path: Path) -> None:
    """Lines of vLLM 0.26.0 on an H100."""
    sink = LogSink(tmp_path / "server.log", LOG)
    begin = time.monotonic_ns()
    for text in (
        "INFO 11-25 17:35:54 [jit_monitor.py:79] Kernel JIT monitor activated; monitored JIT "
        "compilations during inference will "
        "use mode=warn.",
        "WARNING 11-25 17:36:31 [jit_monitor.py:135] Triton kernel JIT compilation during "
        "inference: fused_moe_kernel. This causes "
        "a latency spike; consider extending warmup to cover this shape/config.",
        "WARNING 11-25 17:36:48 [jit_monitor.py:135] CuTeDSL compilation during "
        "inference: _gqa_decode (M=1). This causes",
    ):
        sink.feed(f"(EngineCore pid=1927) {text}\n".encode())
    sink.close()
    assert [name for _, name in sink.compiled] == ["fused_moe_kernel", "_gqa_decode"]
    assert all(begin <= moment <= time.monotonic_ns() for moment, _ in sink.compiled)


@given(
    chunks=st.lists(st.integers(1, 60_000), min_size=3, max_size=8),
    position=st.integers(0, 200_000),
)
def test_a_secret_in_an_endless_line_is_removed_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[int], position: int
) -> None:
    path = tmp_path_factory.mktemp("sink") / "server.log"
    data = b"y" * position + KEY.encode() + b"z" * 100_000
    sink = LogSink(path, LOG, [KEY])
    start = 0
    for size in [*chunks, len(data)]:
        sink.feed(data[start : start + size])
        start += size
    sink.close()
    written = path.read_bytes()
    assert KEY.encode() not in written
    assert KEY not in "".join(sink.lines())
    assert written.count(b"z") == 100_000


def test_the_file_is_bounded_and_ends_with_the_end(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "server.log", LOG, max_file=1000)
    for number in range(1000):
        sink.feed(f"line {number:05d}\n".encode())
    sink.close()
    text = (tmp_path / "server.log").read_text()
    assert len(text) < 2000
    assert text.startswith("line 00000\n")
    assert "bytes of output are left out here" in text


def test_the_memory_is_bounded_and_keeps_both_ends(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "server.log", LOG)
    block = b"".join(b"noise %06d %s\n" % (number, b"x" * 200) for number in range(300))
    while sink.bytes_seen < 3 * (MAX_HEAD + MAX_TAIL):
        sink.feed(block)
    sink.feed(
        b"(EngineCore pid=1) ERROR 11-22 08:00:00 [core.py:1] EngineCore encountered a fatal error.\n"
    )
    lines = sink.lines()
    assert sum(map(len, lines)) < MAX_HEAD + 2 * MAX_TAIL
    assert lines[0].startswith("noise 000000")
    assert lines[-1].endswith("EngineCore encountered a fatal error.")
    assert sink.fatal == "EngineCore encountered a fatal error."
    sink.close()


def test_a_disk_that_cannot_be_written_does_not_stop_the_reading(tmp_path: Path) -> None:
    sink = LogSink(Path("/dev/full"), LOG)
    sink.feed(b"(EngineCore pid=1) ERROR 11-22 08:00:00 [core.py:1] EngineCore failed to start.\n")
    assert sink.write_error is not None
    assert "space" in sink.write_error
    assert sink.fatal is not None
    sink.close()
    (tmp_path / "a-file").touch()
    assert LogSink(tmp_path / "a-file" / "x.log", LOG).write_error is not None


def test_nothing_is_fatal_once_a_stop_was_requested(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "server.log", LOG)
    sink.stop_requested()
    sink.feed(
        b"(EngineCore pid=1) ERROR 11-22 08:00:00 [core.py:1] EngineCore encountered a fatal error.\n"
    )
    sink.close()
    assert sink.fatal is None
    assert sink.lines() == []
    assert "fatal error" in (tmp_path / "server.log").read_text()


def test_the_newest_line_is_the_newest_that_tells_something(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "server.log", LOG)
    assert sink.newest == ""
    engine = "(EngineCore pid=7) INFO 11-29 04:25:39"
    for line, newest in (
        ("a library says this", "a library says this"),
        (f"{engine} [x.py:1] Using flashinfer", "Using flashinfer"),
        (f"{engine} [y.py:2] No available shared memory broadcast block", "Using flashinfer"),
        ('INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 503', "Using flashinfer"),
        (
            f"{engine} [x.py:1] Loading weights took 0.03 seconds",
            "Loading weights took 0.03 seconds",
        ),
    ):
        sink.feed(f"{line}\n".encode())
        assert sink.newest == newest
    sink.close()


def test_heartbeats_are_no_progress(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "server.log", LOG)
    sink.feed(
        b"(EngineCore pid=1) INFO 11-22 08:00:00 [x.py:1] No available shared memory broadcast block found in 60 seconds.\n"
    )
    assert sink.progress == 0
    sink.feed(b"(EngineCore pid=1) INFO 11-22 08:00:00 [x.py:1] Loading\n")
    assert sink.progress == 1
    sink.close()


@pytest.mark.parametrize(
    "line",
    [
        f"(A pid={'9' * 4400}) INFO 11-28 03:00:00 [x.py:1] hi",
        f"(A pid=1) INFO 11-28 03:00:00 [x.py:1] GPU KV cache size: {'9' * 400} tokens, Maximum",
        f"(A pid=1) INFO 11-28 03:00:00 [x.py:1] GPU KV cache size: {'9' * 5000} tokens, Maximum",
        "(A pid=1) INFO 11-28 03:00:00 [x.py:1] GPU KV cache size: ,,, tokens, Maximum",
        f"(A pid=1) INFO 11-28 03:00:00 [x.py:1] Model loading took {'9' * 400} GiB and "
        "1.0 seconds",
        "(A pid=1) INFO 11-28 03:00:00 [x.py:1] Model loading took 1.2.3 GiB and ... seconds",
        f"(A pid=1) INFO 11-28 03:00:00 [x.py:1] Setting kv cache block size to {'9' * 5000}",
        f"(A pid=1) INFO 11-28 03:00:00 [x.py:1] torch.compile took {'9' * 400} s in total",
        f"(A pid=1) INFO 11-28 03:00:00 [x.py:1] init engine (x) took {'9' * 400} s "
        "(compilation: . s)",
        "(A pid=1) INFO 11-28 03:00:00 [x.py:1] Initializing a V1 LLM engine (v1) with config: "
        f"max_seq_len={'9' * 5000}, "
        f"'cudagraph_capture_sizes': [{'9' * 5000}]",
    ],
)
def test_a_number_that_is_none_is_not_read_and_its_line_is_kept(tmp_path: Path, line: str) -> None:
    sink = LogSink(tmp_path / "server.log", LOG)
    sink.feed(
        f"{line}\n(A pid=1) INFO 11-28 03:00:01 [x.py:1] Resolved architecture: Stub\n".encode()
    )
    sink.close()
    assert (tmp_path / "server.log").read_text().startswith(line)
    facts = sink.facts()
    assert facts.architectures == ("Stub",)
    assert (facts.kv_cache_tokens, facts.weights_gib, facts.block_size, facts.max_model_len) == (
        None,
        None,
        None,
        None,
    )
    assert all(value < 1e6 for value in facts.phases.values() if isinstance(value, int | float))


def test_a_reader_that_stumbles_does_not_end_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = LogSink(tmp_path / "server.log", LOG)

    def stumble(_line: str) -> None:
        raise RuntimeError("never seen before")

    monkeypatch.setattr(sink._reader, "feed", stumble)
    sink.feed(b"one\ntwo\n")
    sink.close()
    assert sink.lines() == ["one", "two"]


@given(st.binary(max_size=300))
def test_no_output_is_too_strange(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    sink = LogSink(tmp_path_factory.mktemp("sink") / "server.log", LOG)
    sink.feed(b"(A pid=1) INFO 11-28 03:00:00 [x.py:1] " + data + b"\n" + data)
    sink.close()
    sink.facts()
