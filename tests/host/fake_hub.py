"""A local Hugging Face hub: the few routes that a download uses, with faults to order."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_RESOLVE = re.compile(
    r"/(?:datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
)
_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match, as often as ``times`` says."""

    path: str
    kind: str
    """``truncate`` (the body stops and the connection closes), ``short`` (whole, but shorter),
    ``status``, ``drop``, ``stall``."""
    method: str = "GET"
    times: int = 1
    status: int = 500
    error_code: str = ""


@dataclass
class FakeHub:
    """Repositories by name: commit to files; the last commit is ``main``."""

    endpoint: str
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    stated_sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that listings state against the truth (a repository too large for the disk)."""
    downloads: Counter[str] = field(default_factory=Counter)
    """GET requests for files, by ``repo/name``."""
    requests: list[str] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Push a commit; returns its hash."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        commit = digest.hexdigest()
        self.repositories.setdefault(repo, {})[commit] = files
        return commit

    def commit(self, repo: str, revision: str | None) -> str | None:
        commits = self.repositories[repo]
        if revision in (None, "main"):
            return list(commits)[-1]
        return revision if revision in commits else None

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{method} {path}")
            self.hub.authorizations.add(self.headers.get("Authorization", ""))
        fault = self.hub.fault(method, path)
        if fault is not None and fault.kind == "drop":
            self.close_connection = True
            return
        if fault is not None and fault.kind == "stall":
            self.hub.stop.wait(30)
            self.close_connection = True
            return
        if fault is not None and fault.kind == "status":
            self._send(
                fault.status, b"{}", {"X-Error-Code": fault.error_code} if fault.error_code else {}
            )
            return
        for pattern, answer in ((_RESOLVE, self._file), (_TREE, self._tree), (_INFO, self._info)):
            if match := pattern.fullmatch(path):
                self._repository(match, method, fault, answer)
                return
        self._send(404, b"{}", {})

    def _repository(
        self, match: re.Match[str], method: str, fault: Fault | None, answer: Any
    ) -> None:
        repo = match["repo"]
        if repo not in self.hub.repositories:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        commit = self.hub.commit(repo, match.groupdict().get("revision"))
        if commit is None:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        answer(repo, commit, match.groupdict().get("name"), method, fault)

    def _listing(self, repo: str, commit: str) -> list[dict[str, Any]]:
        files = self.hub.repositories[repo][commit]
        return [
            {
                "type": "file",
                "path": name,
                "oid": _etag(content),
                "size": self.hub.stated_sizes.get(name, len(content)),
            }
            for name, content in files.items()
        ]

    def _info(self, repo: str, commit: str, *_: Any) -> None:
        siblings = [
            {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
            for entry in self._listing(repo, commit)
        ]
        self._send(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode(), {})

    def _tree(self, repo: str, commit: str, *_: Any) -> None:
        self._send(200, json.dumps(self._listing(repo, commit)).encode(), {})

    def _file(self, repo: str, commit: str, name: str, method: str, fault: Fault | None) -> None:
        content = self.hub.repositories[repo][commit].get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if method == "GET":
            with self.hub.lock:
                self.hub.downloads[f"{repo}/{name}"] += 1
        status = 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked:
            status, start = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        if fault is not None and fault.kind == "short":
            content = content[: len(content) // 2]
        self._send(status, content, headers, cut=fault is not None and fault.kind == "truncate")

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub on a free port of this host until the block ends."""
    hub = FakeHub("")
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield hub
    finally:
        hub.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def model_files(size: int = 4000) -> dict[str, bytes]:
    """A small complete model: config, tokenizer, two shards with their index."""
    shards = {
        f"model-{number:05d}-of-00002.safetensors": shard(f"w{number}", size) for number in (1, 2)
    }
    index = {
        "metadata": {"total_size": 2 * size},
        "weight_map": dict(zip(("w1", "w2"), shards, strict=True)),
    }
    return {
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"]}).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        **shards,
    }


def shard(name: str, size: int) -> bytes:
    """A safetensors file with one tensor of so many bytes."""
    header = json.dumps(
        {name: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(index % 251 for index in range(size))


def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
