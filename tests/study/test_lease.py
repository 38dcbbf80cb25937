"""Leases: one holder, dead holders are replaced, live ones never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from synthmix.study import lease

HOLD = "import sys, time; from pathlib import Path; from synthmix.study import lease; lease.acquire(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def hold_in_another_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


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


def test_a_killed_holder_is_replaced_at_once_and_a_live_one_is_not(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    assert lease.acquire(tmp_path) is None
    process.kill()
    process.wait()
    taken = lease.acquire(tmp_path)
    assert taken is not None and taken.path.name == "lease.1"
    taken.release()
    assert not list(tmp_path.glob("lease.*"))


def test_of_many_takers_exactly_one_succeeds(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    process.kill()
    process.wait()
    with ThreadPoolExecutor(16) as pool:
        taken = [one for one in pool.map(lambda _: lease.acquire(tmp_path), range(64)) if one is not None]
    assert len(taken) == 1
    taken[0].release()


def foreign(folder: Path, age_s: float) -> None:
    path = folder / "lease.0"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "job": "7"}))
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_holder_on_another_machine_lives_while_its_file_is_touched(tmp_path: Path) -> None:
    foreign(tmp_path, age_s=lease.STALE_S / 2)
    assert lease.acquire(tmp_path) is None
    foreign(tmp_path, age_s=lease.STALE_S + 5)
    taken = lease.acquire(tmp_path)
    assert taken is not None
    taken.release()


def test_a_reused_process_id_is_not_the_holder(tmp_path: Path) -> None:
    held = {"host": __import__("socket").gethostname(), "pid": os.getpid(), "started": "not me", "job": None}
    (tmp_path / "lease.0").write_text(json.dumps(held))
    taken = lease.acquire(tmp_path)
    assert taken is not None
    taken.release()


def test_without_a_process_table_a_lease_lives_by_being_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no /proc: what is known of a holder is when it last touched its file."""
    monkeypatch.setattr(lease, "_started", lambda pid: lease.UNKNOWN)
    held = lease.acquire(tmp_path)
    assert held is not None and lease.acquire(tmp_path) is None
    held._stop.set()
    old = time.time() - lease.STALE_S - 1
    os.utime(held.path, (old, old))
    assert lease.acquire(tmp_path) is not None
