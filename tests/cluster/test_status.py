"""What ``synthmix status`` says of each cell, from the files that a store has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from synthmix.cluster.arrays import Array
from synthmix.cluster.queue import Task
from synthmix.cluster.status import render, study_state
from synthmix.cluster.submissions import Submission, new_submission, places, submissions
from synthmix.study import frozen, lease
from synthmix.study.cells import Plan
from synthmix.study.store import Store

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def planned(in_process: Run, workplace: Path) -> tuple[Plan, Store]:
    in_process("plan", "tiny")
    store = Store(workplace / "runs")
    return frozen.read(store.study_folder("tiny") / "plan.json"), store


def test_a_running_cell_says_who_where_and_how_far(planned: tuple[Plan, Store]) -> None:
    plan, store = planned
    folder = store.folder(plan.cells[0])
    held = lease.acquire(folder)
    assert held is not None
    told = {"phase": "evaluate", "done": 40, "total": 120, "unit": "items", "left_s": 61.4, "updated": "now"}
    (folder / "progress.json").write_text(json.dumps(told))
    with held:
        first, *others = study_state(plan, store)
    assert first.state == "running" and "evaluate 40/120 items, 0:01:01 left of it" in first.about
    assert f"process {os.getpid()} on " in first.about
    assert {one.state for one in others} == {"waiting"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phase": "train"}'])
def test_progress_that_cannot_be_read_is_passed_over(planned: tuple[Plan, Store], text: str) -> None:
    plan, store = planned
    held = lease.acquire(store.folder(plan.cells[0]))
    assert held is not None
    (store.folder(plan.cells[0]) / "progress.json").write_text(text)
    with held:
        assert study_state(plan, store)[0].state == "running"


def test_a_failure_shows_its_reason_and_the_end_of_its_log(planned: tuple[Plan, Store], tmp_path: Path) -> None:
    plan, store = planned
    log = tmp_path / "cell.out"
    log.write_text("".join(f"line {i}\n" for i in range(5000)) + "\nthe last words\n")
    failure = {"error": "no such thing", "user_error": True, "attempts": 2, "log": str(log), "job": "7_0"}
    folder = store.folder(plan.cells[0])
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps(failure))
    first, *others = study_state(plan, store)
    assert first.state == "failed" and first.about == "attempt 2: no such thing"
    assert first.log == ("line 4998", "line 4999", "the last words")
    assert all(one.state == "blocked" and one.about == f"by {plan.cells[0].name}: no such thing" for one in others)


def test_long_lists_are_cut_and_say_so(planned: tuple[Plan, Store]) -> None:
    plan, store = planned
    folder = store.folder(plan.cells[0])
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps({"error": "no", "user_error": True}))
    parts = render(plan, study_state(plan, store), limit=2)
    said = "\n".join(str(part) for part in parts[1:])
    assert said.count("blocked  tiny.") == 2 and "… and 2 more (--all shows them)" in said
    assert "more" not in "\n".join(str(part) for part in render(plan, study_state(plan, store), limit=None)[1:])


def test_submissions_are_numbered_and_read_back(planned: tuple[Plan, Store]) -> None:
    plan, store = planned
    for n in range(3):
        one = new_submission(store, "tiny")
        assert one.folder.name == f"{n + 1:03d}"
        one.arrays = [Array("l0.cpu", 0, "cpu", [plan.cells[0].name], job=str(10 + n), after=["9"])]
        one.save()
    assert [one.jobs for one in submissions(store, "tiny")] == [["10"], ["11"], ["12"]]
    assert [one.arrays for one in submissions(store)][2][0] == one.arrays[0]


def test_a_live_task_goes_before_later_ones_that_ended() -> None:
    def sweep(job: str) -> Submission:
        return Submission(Path("/s"), "tiny", [Array("l0.cpu", 0, "cpu", ["a", "b"], job=job)])

    known = {
        ("1", 0): Task("1", 0, "RUNNING"), ("2", 0): Task("2", 0, "CANCELLED"),
        ("1", 1): Task("1", 1, "FAILED"), ("2", 1): Task("2", 1, "PENDING"),
    }  # fmt: skip
    found = places([sweep("1"), sweep("2")], known)
    assert [found[name].task for name in ("a", "b")] == [known["1", 0], known["2", 1]]
    assert found["b"].log == Path("/s/logs/tiny.l0.cpu.2_1.out")
