"""Leases: one holder, dead holders are replaced, live ones never, and one that was taken for dead finds out."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from synthmix.study import holder, lease

HOLD = "import sys, time; from pathlib import Path; from synthmix.study import lease; lease.acquire(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def hold_in_another_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def hold_elsewhere(folder: Path) -> lease.Lease:
    """A lease of this process that looks like one of another machine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        held = lease.acquire(folder)
    assert held is not None
    return held


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first = lease.acquire(tmp_path / "cell")
    assert first is not None
    assert lease.acquire(tmp_path / "cell") is None
    held = lease.holder(tmp_path / "cell")
    assert held is not None and held["pid"] == os.getpid()
    first.release()
    assert lease.holder(tmp_path / "cell") is None
    with lease.acquire(tmp_path / "cell") or first:
        assert lease.holder(tmp_path / "cell") is not None


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_is_replaced_at_once_and_a_live_one_is_not(tmp_path: Path, reaped: bool) -> None:
    process = hold_in_another_process(tmp_path)
    assert lease.acquire(tmp_path) is None
    process.kill()
    # without being waited for it stays in the process table, as a zombie
    os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    taken = lease.acquire(tmp_path)
    assert taken is not None and names(tmp_path) == ["lease.1"]
    taken.release()
    assert not names(tmp_path)


@pytest.mark.parametrize("links", [True, False])
def test_of_many_takers_exactly_one_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    process = hold_in_another_process(tmp_path)
    process.kill()
    process.wait()

    def link(*paths: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", link)
    with ThreadPoolExecutor(16) as pool:
        taken = [one for one in pool.map(lambda _: lease.acquire(tmp_path), range(64)) if one is not None]
    assert len(taken) == 1 and names(tmp_path) == ["lease.1"]
    assert lease.holder(tmp_path) is not None and not taken[0].lost()
    taken[0].release()


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    for left in (".result.json.77.tmp", ".lease.abc.tmp"):
        (tmp_path / left).write_text('{"cut":')
    lease.clear(tmp_path)
    assert names(tmp_path) == ["result.json"]
    held = lease.acquire(tmp_path)
    assert held is not None
    (tmp_path / ".result.json.78.tmp").write_text("being written")
    lease.clear(tmp_path)
    assert names(tmp_path) == [".result.json.78.tmp", "lease.0", "result.json"]
    held.release()


def test_a_holder_that_was_taken_for_dead_finds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hold_elsewhere(tmp_path)
    assert lease.acquire(tmp_path) is None and not first.lost()
    lease.check(tmp_path, now=True)
    with monkeypatch.context() as patch:
        patch.setattr(holder, "STALE_S", 0.0)
        second = lease.acquire(tmp_path)
    assert second is not None and names(tmp_path) == ["lease.1"]
    assert first.lost() and not second.lost()
    with pytest.raises(lease.LeaseLost, match="another one runs the cell now"):
        first.check()
    lease.check(tmp_path, now=True)  # of this process's leases, the one that counts
    first.release()
    assert names(tmp_path) == ["lease.1"], "the loser leaves the cell alone"
    second.release()


def test_a_folder_that_comes_back_while_it_is_looked_for_does_not_lose_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = lease.acquire(tmp_path / "cell")
    assert held is not None
    away, is_dir = tmp_path / "away", Path.is_dir
    (tmp_path / "cell").rename(away)

    def comes_back(path: Path) -> bool:
        if is_dir(away):
            away.rename(tmp_path / "cell")
        return is_dir(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", comes_back)
        assert not held.lost()
    assert not held.lost() and names(tmp_path / "cell") == ["lease.0"]
    held.release()


def test_a_lease_is_lost_even_if_its_number_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hold_elsewhere(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(holder, "STALE_S", 0.0)
        (lease.acquire(tmp_path) or first).release()
    third = lease.acquire(tmp_path)
    assert third is not None and third.path == first.path
    first.release()
    assert first.lost() and not third.lost() and names(tmp_path) == ["lease.0"]
    third.release()


def test_the_beat_notices_a_loss_and_the_file_may_be_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TOUCH_S", 0.02)
    (tmp_path / "store").mkdir()
    held = lease.acquire(tmp_path / "store/cell")
    assert held is not None
    (tmp_path / "store").rename(tmp_path / "away")  # as a file system that is not mounted for a moment
    time.sleep(0.1)
    held.check()
    (tmp_path / "away").rename(tmp_path / "store")
    held.check(now=True)
    held.path.unlink()
    held._thread.join(10)
    with pytest.raises(lease.LeaseLost):
        lease.check(tmp_path / "store/cell")
    held.release()
    lease.check(tmp_path / "store/cell", now=True)  # this process holds nothing there any more: nothing to say


def test_a_taker_that_was_overtaken_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its lease another one took the cell, ended, and a third one holds it under a low number."""
    dead = hold_elsewhere(tmp_path)
    dead._stop.set()
    third: list[lease.Lease | None] = []
    create = lease._create

    def slowly(path: Path, content: bytes) -> bool:
        monkeypatch.setattr(lease, "_create", create)
        with lease.acquire(tmp_path) or dead:
            pass
        third.append(lease.acquire(tmp_path))
        return create(path, content)

    monkeypatch.setattr(holder, "STALE_S", 0.0)
    monkeypatch.setattr(lease, "_create", slowly)
    assert lease.acquire(tmp_path) is None
    assert third[0] is not None and not third[0].lost() and names(tmp_path) == ["lease.0"]
    third[0].release()


def test_a_request_that_a_file_system_carries_out_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(*paths: Path) -> None:
        link(*paths)
        link(*paths)

    monkeypatch.setattr(os, "link", twice)
    held = lease.acquire(tmp_path)
    assert held is not None and names(tmp_path) == ["lease.0"]
    held.release()
