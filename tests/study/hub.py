"""A Hub for tests: a real HTTP server with the few endpoints that huggingface_hub and datasets ask for.

It serves repositories out of memory, keeps a list of what was asked, and can break off a body in the middle.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """One revision's files; ``large`` are those that Git LFS keeps, which are named by their SHA-256."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    large: tuple[str, ...] = (".safetensors", ".bin", ".parquet")
    gated: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(b"".join(map(git_digest_bytes, self.files.values()))).hexdigest()

    def is_large(self, name: str) -> bool:
        return name.endswith(self.large)

    def etag(self, name: str) -> str:
        content = self.files[name]
        return hashlib.sha256(content).hexdigest() if self.is_large(name) else git_digest(content)

    def describe(self, name: str, key: str) -> dict[str, Any]:
        told: dict[str, Any] = {key: name, "size": len(self.files[name])}
        told["oid" if key == "path" else "blobId"] = git_digest(self.files[name])
        if self.is_large(name):
            pointer = {"size": told["size"], "pointerSize": 134}
            told["lfs"] = pointer | {"oid" if key == "path" else "sha256": self.etag(name)}
        return told


def git_digest_bytes(content: bytes) -> bytes:
    return git_digest(content).encode()


@dataclass
class Hub:
    """What is served (``models/REPO`` and ``datasets/REPO``), and what was asked.

    Attributes:
        asked: (method, path) of every request.
        bodies: names of the files whose content was sent, whole or in part, with the first byte sent.
        cuts: file name -> bytes after which its next body is broken off, once.
        garbled: files that are sent with one byte changed.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[tuple[str, int]] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    garbled: set[str] = field(default_factory=set)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.asked.append((self.command, self.path))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if parts[0] == "api" and len(parts) > 3 and parts[1] in ("models", "datasets"):
            self._api(f"{parts[1]}/{parts[2]}/{parts[3]}", parts[4:], body)
            return
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        if len(parts) > 4 and parts[2] == "resolve":
            self._file(f"{kind}/{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))
            return
        self._refuse(404, "EntryNotFound")

    # -- the API --------------------------------------------------------------------------------------------------

    def _api(self, key: str, rest: list[str], body: bytes) -> None:
        verb, revision = rest[0] if rest else "revision", rest[1] if len(rest) > 1 else "main"
        repository = self._find(key, revision)
        if repository is None:
            return
        listed = [repository.describe(name, "path") | {"type": "file"} for name in repository.files]
        if verb == "tree":
            below = "/".join(rest[2:])
            self._json([entry for entry in listed if entry["path"].startswith(f"{below}/" if below else "")])
        elif verb == "paths-info":
            wanted = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            folders = {name.rsplit("/", 1)[0] for name in repository.files if "/" in name}
            found = [{"type": "directory", "path": path, "oid": "0" * 40} for path in wanted if path in folders]
            self._json([entry for entry in listed if entry["path"] in wanted] + found)
        elif verb == "revision":
            siblings = [repository.describe(name, "rfilename") for name in repository.files]
            told = {"id": key.partition("/")[2], "sha": repository.commit, "private": False, "gated": False}
            self._json(told | {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings})
        else:
            self._refuse(404, "EntryNotFound")

    def _find(self, key: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(key)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.gated:
            self._refuse(403, "GatedRepo")
        elif revision not in (*repository.revisions, repository.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    # -- files ----------------------------------------------------------------------------------------------------

    def _file(self, key: str, revision: str, name: str) -> None:
        repository = self._find(key, revision)
        if repository is None:
            return
        content = repository.files.get(name)
        if content is None:
            self._refuse(404, "EntryNotFound", repository.commit)
            return
        if name in self.hub.garbled:
            content = bytes([content[0] ^ 1]) + content[1:]
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("ETag", f'"{repository.etag(name)}"')
        self.send_header("X-Linked-Etag", f'"{repository.etag(name)}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.hub.bodies.append((name, start))
        cut = self.hub.cuts.pop(name, None)
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(status, b"", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Serves ``repositories`` at ``hub.url`` until the block ends."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
