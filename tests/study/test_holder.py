"""Whether a holder lives: by the process table, by SLURM's list of jobs, by watching; never by a wall clock.

Here ``squeue`` and ``scontrol`` are scripts, for answers that a real SLURM cannot be made to give; tests/slurm has the
real ones.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from synthmix.study import holder, lease

Lister = Callable[..., Path]
JOB = {"job": "40_7", "cluster": "big", "restarts": 1, "user": os.getuid()}


def write(folder: Path, **changed: Any) -> Path:
    """A lease of a process on another machine."""
    path = folder / "lease.0"
    record = holder.me() | {"host": "elsewhere", "job": None, "cluster": None} | changed
    path.write_text(json.dumps(record))
    return path


class Clock:
    """This process's monotonic clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(holder, "time", SimpleNamespace(monotonic=lambda: self.now))

    def watch(self, path: Path, seconds: float, every: float = 10.0) -> bool:
        """Whether the holder lives, after so many seconds of looking at it."""
        for _ in range(round(seconds / every)):
            self.now += every
            known = holder.alive(path)
        return known


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# -- watching ---------------------------------------------------------------------------------------------------------


def test_a_holder_elsewhere_lives_until_its_file_was_seen_unchanged_for_long(tmp_path: Path, clock: Clock) -> None:
    path = write(tmp_path)
    assert holder.alive(path), "the first look knows nothing"
    assert clock.watch(path, holder.STALE_S - 10)
    os.utime(path)
    assert clock.watch(path, holder.STALE_S - 10)
    assert not clock.watch(path, 20)
    write(tmp_path, token="another holder")
    assert clock.watch(path, holder.STALE_S - 10)


@pytest.mark.parametrize("mtime", [0, 10**10])
def test_wall_clocks_say_nothing(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, mtime: int) -> None:
    """The file server's clock may be years off, and the one here may jump: neither ages a lease nor keeps it young."""
    path = write(tmp_path)
    os.utime(path, (mtime, mtime))
    assert holder.alive(path) and lease.acquire(tmp_path) is None
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert clock.watch(path, holder.STALE_S - 10)
    os.utime(path, (mtime - 7200, mtime - 7200))  # a touch, although the server's clock went back
    assert clock.watch(path, holder.STALE_S - 10)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert not clock.watch(path, 20)


def test_coarse_times_of_files(tmp_path: Path, clock: Clock) -> None:
    """Attributes that are kept for a minute and times in whole seconds: of three touches one is seen."""
    path = write(tmp_path)
    for seconds in range(0, 1200, 60):
        os.utime(path, (10**9 + seconds, 10**9 + seconds))
        assert clock.watch(path, 60, every=20)


def test_a_long_time_without_looks_is_not_watching(tmp_path: Path, clock: Clock) -> None:
    """A suspended machine: its processes have not touched their files, and this one has not looked."""
    path = write(tmp_path)
    assert holder.alive(path)
    assert clock.watch(path, 36000, every=36000)
    assert clock.watch(path, holder.STALE_S - holder.GAP_S - 10)
    assert not clock.watch(path, 10)


@pytest.mark.parametrize("content", ["", '{"host": "elsew', "[]", '{"host": "elsewhere"}'])
def test_a_lease_that_is_not_written_yet(tmp_path: Path, clock: Clock, content: str) -> None:
    """On a file system without links a lease is created, and then written."""
    path = tmp_path / "lease.0"
    path.write_text(content)
    assert holder.alive(path) and lease.holder(tmp_path) == {}
    assert not clock.watch(path, holder.TOUCH_S)
    path.unlink()
    assert not holder.alive(path)


# -- the process table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed,lives,watched",
    [
        ({}, True, True),
        ({"started": "not me"}, False, False),  # the process id was used again
        ({"pid": 2**22 + 1}, False, False),
        ({"boot": "another"}, False, False),  # the machine was started again
        ({"processes": "pid:[1]"}, True, False),  # a container: its process ids say nothing here
        ({"machine": "another"}, True, False),  # another machine of this name
        ({"started": holder.UNKNOWN}, True, False),  # no process table (macOS)
    ],
)
def test_on_this_machine_the_process_table_decides(
    tmp_path: Path, clock: Clock, changed: dict[str, Any], lives: bool, watched: bool
) -> None:
    path = write(tmp_path, host=holder.me()["host"], **changed)
    assert holder.alive(path) == lives
    assert clock.watch(path, holder.STALE_S) == watched


# -- SLURM ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lister(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lister:
    """Puts a ``squeue`` that prints ``lines`` on the path, and a ``scontrol`` of the cluster "big"; the file with the
    environment and words of each call."""
    monkeypatch.setattr(holder, "_queue", holder._Queue())
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def make(*lines: str, then: str = "", cluster: str = "big") -> Path:
        said = "\n".join(lines)
        (tools / "squeue").write_text(
            f"#!/bin/sh\necho \"$@ $(env)\" | tr '\\n' ' ' >> {calls}\necho >> {calls}\ncat <<'.'\n{said}\n.\n{then}\n"
        )
        (tools / "scontrol").write_text(f"#!/bin/sh\necho 'ClusterName             = {cluster}'\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        return calls

    return make  # fmt: skip


@pytest.mark.parametrize(
    "listed,lives",
    [
        ("51 40 7 RUNNING 1", True),
        ("51 40 7 SUSPENDED 1", True),
        ("51 40 7 COMPLETING 1", True),
        ("51 40 7 COMPLETING 2", True),  # being requeued: its processes may be there
        ("51 40 7 RUNNING 2", False),  # started again: the holder was the run before
        ("51 40 7 CONFIGURING 2", False),
        ("51 40 7 PENDING 2", False),
        ("51 40 7 REQUEUE_HOLD 2", False),
        ("51 40 7 CANCELLED 1", False),
        ("51 40 7 NODE_FAIL 1", False),
        ("51 40 8 RUNNING 1", False),  # another task: this one is unknown
        ("51 40 7 REVOKED 1", None),  # a federation's: it may run on another cluster
        ("51 40 7 OF_A_LATER_VERSION 1", None),
    ],
)
def test_a_job_holds_while_it_runs(
    tmp_path: Path, clock: Clock, lister: Lister, listed: str, lives: bool | None
) -> None:
    """None: SLURM does not say, and the file is watched, so that it is alive at first and dead after a while."""
    lister("40 40 N/A RUNNING 0", listed)
    path = write(tmp_path, **JOB)
    assert holder.alive(path) == (lives is not False)
    assert clock.watch(path, holder.STALE_S) == (lives is True)


@pytest.mark.parametrize(
    "what",
    [
        {"then": "exit 1"},
        {"then": "sleep 5"},
        {"then": "echo 'Invalid user: 4711' >&2"},  # with which squeue ends well, and lists nothing
        {"lines": ["Socket timed out on send/recv operation"]},
        {"cluster": "another"},
    ],
)
def test_where_slurm_says_nothing_the_file_is_watched(
    tmp_path: Path, clock: Clock, lister: Lister, monkeypatch: pytest.MonkeyPatch, what: dict[str, Any]
) -> None:
    monkeypatch.setattr(holder, "PATIENCE_S", 0.3)
    lister(*what.pop("lines", ["52 52 N/A RUNNING 0"]), **what)
    path = write(tmp_path, **JOB)
    assert holder.alive(path)
    if what.get("then") != "sleep 5":
        assert not clock.watch(path, holder.STALE_S)


def test_no_slurm_here(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "_queue", holder._Queue())
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write(tmp_path, **JOB)
    assert holder.alive(path)
    assert not clock.watch(path, holder.STALE_S)


def test_another_users_job_may_be_hidden(tmp_path: Path, lister: Lister) -> None:
    calls = lister("52 52 N/A RUNNING 0")
    assert holder.alive(write(tmp_path, **JOB | {"user": os.getuid() + 1}))
    assert not calls.exists()


def test_a_list_without_the_own_job_is_not_whole(
    tmp_path: Path, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    lister("52 52 N/A RUNNING 0")
    monkeypatch.setenv("SLURM_JOB_ID", "53")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "big")
    assert holder.alive(write(tmp_path, **JOB))
    monkeypatch.setenv("SLURM_JOB_ID", "52")
    monkeypatch.setattr(holder, "_queue", holder._Queue())
    assert not holder.alive(write(tmp_path, **JOB))


def test_the_own_job_started_again_needs_no_answer(
    tmp_path: Path, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = lister(then="exit 1")
    for name, value in {"ARRAY_JOB_ID": 40, "ARRAY_TASK_ID": 7, "JOB_ID": 51, "RESTART_COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "big")
    assert holder.me()["job"] == "40_7" and holder.me()["restarts"] == 2
    assert not holder.alive(write(tmp_path, **JOB))
    assert holder.alive(write(tmp_path, **JOB | {"job": "40_8"})) and calls.exists()


def test_slurm_is_asked_once_for_all_and_never_with_the_users_defaults(
    tmp_path: Path, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PD")
    monkeypatch.setenv("SLURM_CLUSTERS", "another")
    calls = lister(*(f"{100 + i} 40 {i} RUNNING 1" for i in range(0, 200, 2)))
    for i in range(200):
        (tmp_path / str(i)).mkdir()
        write(tmp_path / str(i), **JOB | {"job": f"40_{i}"})
    found = lease.holders(tmp_path / str(i) for i in range(200))
    assert {int(folder.name) for folder in found} == set(range(0, 200, 2))
    for _ in range(3):
        assert lease.holder(tmp_path / "2") and not lease.holder(tmp_path / "3")
    (call,) = calls.read_text().splitlines()
    assert "--states=all" in call and "SQUEUE_" not in call and "SLURM_CLUSTERS" not in call


def test_an_older_answer_does_not_bury_a_newer_job(tmp_path: Path, lister: Lister) -> None:
    calls = lister("51 40 7 RUNNING 1")
    assert holder.alive(write(tmp_path, **JOB))
    lister("51 40 7 RUNNING 1", "60 60 N/A RUNNING 0")
    assert holder.alive(write(tmp_path, **JOB | {"job": "60", "restarts": 0})), "the list was older than the lease"
    assert len(calls.read_text().splitlines()) == 2
