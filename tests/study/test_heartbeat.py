"""What a running cell says of itself."""

from __future__ import annotations

import io
import json
import signal
import time
from pathlib import Path

import pytest

from synthmix.interrupts import Preempted
from synthmix.study import heartbeat, lease
from synthmix.study.heartbeat import beating
from synthmix.study.reporting import LogReporter


def told(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "progress.json").read_text())
    return content


def test_progress_is_there_while_the_work_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.0)
    with beating(
        LogReporter(io.StringIO()), tmp_path, "cell s0 test", "evaluate", "evaluation of test", 100, "items"
    ) as done:
        first = told(tmp_path)
        assert {k: v for k, v in first.items() if k != "updated"} == {
            "phase": "evaluate", "done": 0, "total": 100, "unit": "items", "left_s": None
        }  # fmt: skip
        done(40)  # of an earlier attempt: nothing is known of the speed yet
        assert told(tmp_path)["done"] == 40 and told(tmp_path)["left_s"] is None
        time.sleep(0.2)
        done(60)
        left = told(tmp_path)["left_s"]
        assert isinstance(left, float) and left >= 0.3, "40 items are left, and 20 took 0.2 s at least"
    assert not list(tmp_path.iterdir())


def test_progress_is_not_written_at_every_step(tmp_path: Path) -> None:
    with beating(LogReporter(io.StringIO()), tmp_path, "cell", "train", "training", 100, "steps") as done:
        for step in range(50):
            done(step)
        assert told(tmp_path)["done"] == 1, "after the first, five seconds have not passed"


def test_a_request_to_stop_says_how_far_the_work_had_come(tmp_path: Path) -> None:
    reporter = LogReporter(io.StringIO())
    with pytest.raises(Preempted, match="preempted by SIGTERM in generation at 7 of 9 samples"):
        with beating(reporter, tmp_path, "cell", "generate", "generation", 9, "samples") as done:
            done(7)
            raise Preempted(signal.SIGTERM)
    with pytest.raises(Preempted, match="in training at step 3 of 9$"):
        with beating(reporter, tmp_path, "cell", "train", "training", 9, "steps"):
            raise Preempted(signal.SIGTERM, "training at step 3 of 9")
    assert not list(tmp_path.iterdir())


def test_who_lost_the_cell_finds_out_here(tmp_path: Path) -> None:
    with beating(LogReporter(io.StringIO()), tmp_path, "cell", "train", "training", 9, "steps") as done:
        with lease.acquire(tmp_path) as held:  # type: ignore[union-attr]
            done(1)
            held.path.unlink()
            assert held.lost(now=True)
            with pytest.raises(lease.LeaseLost):
                done(2)
