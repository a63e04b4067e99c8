"""Official recipes are fetched from an address into the cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_gpubench.host.source_files import LARGEST, fetch_source, source_folder
from pytest_gpubench.model.failures import GpubenchError

FILES = {"/tree/models/o/m.yaml": b"model: {}\n", "/tree/large.yaml": b"x" * (LARGEST + 1)}
MOVED = {"/tree/here.yaml": "/tree/models/o/m.yaml", "/tree/away.yaml": "http://example.invalid/x"}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path in MOVED:
            self.send_response(302)
            self.send_header("Location", MOVED[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = FILES.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/tree/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_takes_the_place_of_an_older_one(
    origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old = source_folder() / "models" / "o" / "m.yaml"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    path = fetch_source("models/o/m.yaml", origin)
    assert path == old
    assert path.read_bytes() == b"model: {}\n"
    assert [one.name for one in path.parent.iterdir()] == ["m.yaml"]
    assert fetch_source("here.yaml", origin).read_bytes() == b"model: {}\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.yaml", "answered 404"),
        ("large.yaml", "more than 4 MiB"),
        ("away.yaml", "http://example.invalid/x is no https address"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(
    origin: str, tmp_path: Path, name: str, says: str
) -> None:
    with pytest.raises(GpubenchError, match=says):
        fetch_source(name, origin, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ("http://example.invalid", "is no https address"),
        ("file:///etc", "is no https address"),
        ("http://127.0.0.1:1", "could not be fetched"),
        ("https://", "is no https address"),
    ],
)
def test_an_address_that_is_none(origin: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(GpubenchError, match=says):
        fetch_source("x.yaml", origin, tmp_path)


def test_a_cache_that_cannot_be_written(origin: str, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(GpubenchError, match="set XDG_CACHE_HOME"):
        fetch_source("models/o/m.yaml", origin, tmp_path)
