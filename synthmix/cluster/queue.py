"""SLURM's own commands: what is queued and running, what became of it, requeue, cancel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from synthmix import ranks
from synthmix.errors import UserError

#: A controller that is busy answers late; one that does not answer must not hold up a user for ever.
TIMEOUT_S = 60.0
#: States of a task that will still do something (squeue's long names).
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
         "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD")  # fmt: skip


class SlurmError(UserError):
    """A command of SLURM that is not there, or says no."""


@dataclass(frozen=True)
class Task:
    """One task of an array as the queue knows it.

    Attributes:
        job, index: array's job id and the task's place in it.
        state: SLURM's word, e.g. ``PENDING``, ``RUNNING``, ``OUT_OF_MEMORY``.
        reason: why it is pending, e.g. ``Dependency``; else empty.
        node: where it runs, or ran; else empty.
        left: time to its limit, as squeue prints it; else empty.
    """

    job: str
    index: int
    state: str
    reason: str = ""
    node: str = ""
    left: str = ""

    @property
    def name(self) -> str:
        return f"{self.job}_{self.index}"

    @property
    def is_alive(self) -> bool:
        return self.state in ALIVE


def command(words: Sequence[str], say: str | None = None) -> str:
    """What a command of SLURM prints.

    Args:
        say: how an error begins; by default the command's name.

    Raises:
        SlurmError: it is not on PATH, it does not answer, or it ends with another status than 0.
    """
    if shutil.which(words[0]) is None:
        raise SlurmError(
            f"{words[0]}: no such command on PATH; expected a machine that submits to SLURM. Without one: synthmix run STUDY"
        )
    try:
        # an option that the surrounding job was given (memory, tasks) is not meant for the ones that it starts
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]}: no answer from SLURM's controller within {TIMEOUT_S:g} s") from None
    if done.returncode:
        raise SlurmError(f"{say or words[0]}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def tasks(jobs: Iterable[str]) -> dict[tuple[str, int], Task]:
    """The tasks of arrays that SLURM still remembers, by (job, index): those queued, then what accounting has of the rest."""
    known = list(dict.fromkeys(jobs))
    if not known:
        return {}
    found: dict[tuple[str, int], Task] = {}
    for task in (*_accounted(known), *_queued(known)):  # the queue has the last word
        found[task.job, task.index] = task
    return found


def _queued(jobs: Sequence[str]) -> list[Task]:
    """What squeue knows; that it has forgotten all of them is an error to it, and none here."""
    words = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%F|%K|%T|%r|%N|%L",
        f"--jobs={','.join(jobs)}",
    ]
    try:
        listed = command(words)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return []
        raise
    found = []
    for line in listed.splitlines():
        job, index, state, reason, node, left = line.split("|")
        if index.isdigit():
            found.append(Task(job, int(index), state, "" if reason == "None" else reason, node, left))
    return found


def _accounted(jobs: Sequence[str]) -> list[Task]:
    if shutil.which("sacct") is None:
        return []
    try:
        listed = command(
            ["sacct", "--noheader", "--parsable2", "--allocations", "--jobs", ",".join(jobs),
             "--format=JobID,State,NodeList"]
        )  # fmt: skip
    except SlurmError:  # no accounting on this site: the queue alone
        return []
    found = []
    for line in listed.splitlines():
        name, state, node = line.split("|")
        if place := re.fullmatch(r"(\d+)_(\d+)", name):
            found.append(Task(place[1], int(place[2]), state.split()[0], node="" if node.startswith("None") else node))
    return found


def max_array_size() -> int:
    """Tasks that an array may have: SLURM's MaxArraySize bounds their indices."""
    said = re.search(r"^MaxArraySize\s*=\s*(\d+)", command(["scontrol", "show", "config"]), re.MULTILINE)
    return int(said[1]) if said else 1001


def cancel(jobs: Sequence[str]) -> None:
    """Ends arrays: their running tasks save (SIGTERM) and end, the others never start."""
    if jobs:
        command(["scancel", *jobs])


def requeue() -> None:
    """Puts the job of this process back into the queue; SLURM then ends what still runs of it.

    Raises:
        SlurmError: SLURM refuses.
    """
    job = ranks.slurm_job()
    assert job is not None, "called outside SLURM"
    command(["scontrol", "requeue", job], say=f"job {job} cannot be queued again")
