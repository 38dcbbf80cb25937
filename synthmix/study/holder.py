"""Whether the holder of a lease still lives.

Asked in this order, and the first that knows decides: the process table, if the holder is on this machine; SLURM, if it
holds the cell in a job; and otherwise its file, which it touches and which is watched here. No clock of another machine
and no wall clock takes part: what is compared is compared for being the same, and time is this process's own.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmix import keys

#: A holder touches its file so often.
TOUCH_S = 20.0
#: A file that did not change while it was watched for so long has no holder any more. Clients of a network file system
#: keep attributes for up to a minute (NFS: acregmax), so a touch is seen here within 80 s, and eleven may get lost.
STALE_S = 300.0
#: Two looks count for no more than this, however far apart: if everything stood still in between (a suspended machine,
#: a file server that was away), the holder must be given time to touch its file again.
GAP_S = 60.0
#: An answer of SLURM's serves for so long, and is waited for so long.
ANSWER_S, PATIENCE_S = 20.0, 5.0
#: Start of a process where the system does not tell (no /proc): its lease lives by being touched.
UNKNOWN = "unknown"

#: States of a job whose processes may be there. One that completes may be one that is being requeued: its count of
#: restarts is already the next one's.
_RUNS = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT", "CONFIGURING"}
_ENDS = {"COMPLETING"}
#: States of a job that has none. Not here: REVOKED, which another cluster of a federation may run.
_RUNS_NOT = {
    "PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "BOOT_FAIL", "CANCELLED",
    "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL",
    "TIMEOUT",
}  # fmt: skip

Record = dict[str, Any]


def me() -> Record:
    """What a lease says of the process that holds it; ``job`` is ``ARRAY_TASK`` in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "boot": _boot(),
        "processes": _process_table(),
        "pid": pid,
        "started": _started(pid),
        "user": os.getuid(),
        "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
        "job": f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID"),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "token": uuid.uuid4().hex,
    }


def look(path: Path) -> Sighting | None:
    """What is seen of a lease now, and how long it has been so; None where there is no such file."""
    return _sightings.look(path)


def alive(path: Path) -> bool:
    """Whether the holder of a lease file lives. The first look at a holder that nothing else is known of says so."""
    seen = look(path)
    if seen is None:
        return False
    if seen.record is None:  # created and not yet written (no links on this file system), or cut by a full disk
        return seen.unchanged_s < TOUCH_S
    told = _by_process(seen.record)
    if told is None:
        told = _by_slurm(seen.record, seen.first)
    return seen.unchanged_s < STALE_S if told is None else told


# -- the process table ------------------------------------------------------------------------------------------------


def _by_process(held: Record) -> bool | None:
    mine = me()
    if any(held.get(name) != mine[name] for name in ("host", "machine")):
        return None
    if held.get("boot") != mine["boot"]:  # this machine was started again since
        return False
    if held.get("processes") != mine["processes"] or held["started"] == UNKNOWN:
        return None
    return _started(held["pid"]) == held["started"]


@functools.cache
def _machine() -> str:
    """Tells machines apart that have the same name; its source is not to be shown (machine-id(5))."""
    return keys.digest("machine", _text("/etc/machine-id"), length=16)


@functools.cache
def _process_table() -> str | None:
    """Containers on one machine may have process ids of their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


@functools.cache
def _boot() -> str | None:
    return _text("/proc/sys/kernel/random/boot_id")


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's own clock: tells a live holder from a reused process id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc").is_dir() else UNKNOWN
    state, *rest = stat.rpartition(")")[2].split()
    # a killed process whose first thread is a zombie may have others that still finish a write
    threads, started = int(rest[16]), rest[18]
    return None if state in "ZX" and threads <= 1 else started


# -- SLURM ------------------------------------------------------------------------------------------------------------


def _by_slurm(held: Record, seen: float) -> bool | None:
    """A job that runs holds its cells even while it is silent: it may be suspended, or its file system slow."""
    job, mine = held.get("job"), me()
    if not job or not held.get("cluster"):
        return None
    if (job, held["cluster"]) == (mine["job"], mine["cluster"]) and _restarts(held) < mine["restarts"]:
        return False  # this very job, started again
    return _queue.says(held, seen)


def _restarts(held: Record) -> int:
    return int(held.get("restarts") or 0)


class _Queue:
    """This user's jobs as SLURM lists them, in one call for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = -float("inf")
        self._jobs: dict[str, tuple[str, int]] | None = None
        self._cluster: str | None = None

    def says(self, held: Record, seen: float) -> bool | None:
        """Whether a holder's job runs; None if SLURM cannot tell.

        That it does not must be learnt after the lease was first ``seen``: the job of a newer one would be missing.
        """
        if held.get("user") != os.getuid():  # other users' jobs may be hidden
            return None
        with self._lock:
            if time.monotonic() - self._asked > ANSWER_S:
                self._ask()
            told = self._judge(held)
            if told is False and self._asked < seen:
                self._ask()
                told = self._judge(held)
            return told

    def _judge(self, held: Record) -> bool | None:
        if self._jobs is None or held["cluster"] != self._cluster:
            return None
        state, restarts = self._jobs.get(held["job"], ("COMPLETED", 0))
        if state in _RUNS:
            return restarts <= _restarts(held)
        return True if state in _ENDS else False if state in _RUNS_NOT else None

    def _ask(self) -> None:
        self._asked = time.monotonic()
        if self._cluster is None:
            shown = _output("scontrol", "show", "config") or ""
            names = [line.partition("=")[2].strip() for line in shown.splitlines() if line.startswith("ClusterName")]
            self._cluster = names[0] if names else None
        self._jobs = None if self._cluster is None else self._list()

    def _list(self) -> dict[str, tuple[str, int]] | None:
        fields = "JobID:24,ArrayJobID:24,ArrayTaskID:24,State:24,RestartCnt:12"
        which = ("--noheader", "--all", "--array", "--local", "--states=all", f"--user={os.getuid()}")
        said = _output("squeue", *which, f"--Format={fields}")
        if said is None:
            return None
        jobs: dict[str, tuple[str, int]] = {}
        for line in said.splitlines():
            try:
                job, array, task, state, restarts = line.split()
                jobs[job] = jobs[f"{array}_{task}"] = (state, int(restarts))
            except ValueError:  # not what it was asked for
                return None
        mine = me()
        if mine["job"] and mine["cluster"] == self._cluster and mine["job"] not in jobs:
            return None  # a list without this process's own job is not a list of all
        return jobs


def _output(*command: str) -> str | None:
    """What a command prints; None if it is missing, fails, complains or takes too long."""
    # a user's own defaults (SQUEUE_STATES, ...) would hide jobs
    hiding = ("SQUEUE_", "SLURM_CLUSTERS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hiding)}
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if run.returncode or run.stderr.strip() else run.stdout


# -- watching ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sighting:
    """A lease file as last seen. ``first`` and ``last`` are this process's monotonic clock.

    ``record`` is None where the file cannot be read as one.
    """

    content: bytes
    stamp: tuple[int, int, int]
    first: float
    last: float
    unchanged_s: float

    @property
    def record(self) -> Record | None:
        try:
            held = json.loads(self.content)
        except ValueError:
            return None
        return held if isinstance(held, dict) and {"host", "pid", "started"} <= set(held) else None


class _Sightings:
    """What this process has seen of leases, by path."""

    def __init__(self) -> None:
        self._seen: dict[Path, Sighting] = {}

    def look(self, path: Path) -> Sighting | None:
        try:
            with path.open("rb") as file:  # opening makes a network file system ask for the file's attributes anew
                content, stat = file.read(), os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            self._seen.pop(path, None)
            return None
        now, stamp = time.monotonic(), (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        before = self._seen.get(path)
        if before is None or before.content != content:
            seen = Sighting(content, stamp, now, now, 0.0)
        elif before.stamp != stamp:
            seen = dataclasses.replace(before, stamp=stamp, last=now, unchanged_s=0.0)
        else:
            watched = before.unchanged_s + min(now - before.last, GAP_S)
            seen = dataclasses.replace(before, last=now, unchanged_s=watched)
        self._seen[path] = seen
        return seen


_queue = _Queue()
_sightings = _Sightings()
