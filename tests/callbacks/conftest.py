"""A cell's folder as the study room leaves it, and servers that stand in for Weights & Biases."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from synthmix import keys
from synthmix.callbacks import JsonlLogger

HASH = "3fa9c1d2" * 4
NAME = "nano-0.9m.nano-math.replace-30.it2.s1-3fa9c1d2"
CELL = {
    "name": NAME, "hash": HASH, "model": "nano-0.9m", "task": "nano-math", "mode": "replace", "proportion": 0.3,
    "iteration": 2, "seed": 1, "parent": "b" * 32, "baseline": "c" * 32, "parameters": 900_000, "index": 4, "level": 2,
}  # fmt: skip
STUDY = {
    "name": "sketch", "seeds": [0, 1], "training": {"epochs": 3}, "evaluation": {"bins": 10},
    "data": {"root": "/somewhere/data", "difficulty": 0.5}, "store": {"root": "/somewhere/runs"}, "wandb": {"mode": "auto"},
}  # fmt: skip


def write_items(folder: Path, n: int = 60) -> None:
    """An item table with two splits; the estimator ``answer`` exists for half of the items, ``agreement`` for none."""
    frames = []
    for split in ("test", "validation"):
        confidence = keys.generator("confidence", split).uniform(size=n)
        score = (keys.generator("score", split).uniform(size=n) < 0.6).astype(float)
        answer = [c if i % 2 else None for i, c in enumerate(confidence)]
        frames.append(
            pd.DataFrame(
                {
                    "split": split, "score": score, "confidence": confidence, "confidence_mean": confidence,
                    "confidence_sum": confidence**3, "confidence_answer": answer, "confidence_agreement": None,
                }
            )
        )  # fmt: skip
    pd.concat(frames).to_parquet(folder / "items.parquet", index=False)


def write_pool(folder: Path, n: int = 30) -> None:
    lines = []
    for i in range(n):
        why, dropped = ("no marker" if i % 3 == 0 else ""), ("duplicate question" if i % 5 == 1 else "")
        sample = {"index": i, "text": f"Question {i}: à < b?", "stop": "eos", "tokens": 9, "logprob_mean": -0.1 * i}
        lines.append(sample | {"why": why, "dropped": dropped, "kept": not why and not dropped})
    (folder / "synthetic.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_metrics(folder: Path) -> None:
    """Training in which one step was logged by two loggers, and once more after a resume; then the other phases."""
    log = JsonlLogger(folder / "metrics.jsonl", iteration=2)
    for step in range(1, 21):
        log.log_metrics({"train|device/items_per_sec": 8.0 / step, "train/samples": 32.0 * step}, step=step)
        log.log_metrics({"train/loss": 9.0}, step=step)
        log.log_metrics({"train/loss": 1 / 3 + step}, step=step)
    log.write(
        "evaluate", {"eval/test_score": 0.1 + 0.2, "eval/test_score[kind=a b]": 0.5, "calibration/test_ece": 1e-9}
    )
    log.write("evaluate", {"monitoring/ece_rise": float("nan"), "monitoring/alert": 1.0})
    log.write("generate", {"diversity/self_bleu": 0.25, "pool/tries": 30.0, "pool/tokens_per_kept": float("inf")})


@pytest.fixture
def cell_folder(tmp_path: Path) -> Path:
    """The folder of a finished cell of the study ``sketch``."""
    folder = tmp_path / "runs" / "cells" / NAME
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"cell": CELL, "model": {"context": 256}, "study": STUDY}))
    result = {"family": "Math", "metric": "accuracy", "versions": {"torch": "2"}, "finished": "2026-01-02T03:04:05"}
    (folder / "result.json").write_text(json.dumps(CELL | result))
    write_metrics(folder)
    write_items(folder)
    write_pool(folder)
    return folder


@pytest.fixture
def read_run() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads the records of a run's file with W&B's own reader (``wandb leet inspect``)."""

    def read(run: Path) -> list[dict[str, Any]]:
        (file,) = run.glob("run-*.wandb")
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=run)
        return [json.loads(line) for line in said.stdout.splitlines()]

    return read


@dataclass
class Service:
    """As much of W&B's server as ``wandb sync`` needs; keeps what was sent."""

    status: int = 200  #: what every request is answered with
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        self.bodies.append(body)
        if path == "/graphql":
            asked = json.loads(body)
            return {"data": self._graphql(asked.get("operationName"), asked.get("variables") or {})}
        if path.endswith("/file_stream"):
            for name, part in (json.loads(body).get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    rows = self.history.setdefault(path.split("/")[-2], [])
                    rows[part["offset"] :] = [json.loads(line) for line in part["content"]]
            return {}
        self.files[path.removeprefix("/upload/")] = body
        return {}

    def _graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            known = self.runs.setdefault(given["name"], {})  # later requests say what changed
            known.update({key: value for key, value in given.items() if value is not None})
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "somebody"}}
            bucket = {"id": "b", "name": given["name"], "displayName": given["displayName"], "config": "{}"}
            return {"upsertBucket": {"bucket": bucket | {"project": project, "historyLineCount": 0}, "inserted": True}}
        if operation == "CreateArtifact":
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {"serverInfo": {"features": []}} if operation == "ServerFeaturesQuery" else {}


def handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply = json.dumps(service.answer(self.path, body) if service.status == 200 else {}).encode()
            self.send_response(service.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_PUT = do_POST

        def log_message(self, format: str, *values: object) -> None:
            pass

    return Handler


@contextmanager
def serve(service: Service, port: int = 0) -> Iterator[Service]:
    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, address: object) -> None:
            pass  # a client that was killed

    with Quiet(("127.0.0.1", port), handler(service)) as server:
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield service
        finally:
            server.shutdown()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that looks like one."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def service(key: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A server that takes every run."""
    with serve(Service()) as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running


@pytest.fixture
def silent_server(key: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A server that takes connections and never answers; the fixture counts them."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:  # closed: the test is over
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield lambda: len(taken)
    for connection in taken:
        connection.close()
