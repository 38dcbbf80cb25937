"""A process's place among others, from SLURM or torchrun, and what the ranks say to each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from synthmix import ranks
from synthmix.errors import UserError
from synthmix.ranks import Place, find_place, slurm_job, slurm_line

SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "GROUP_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "processes", "expected"),
    [
        (SRUN, 8, Place(5, 8, 1, 1)),
        (TORCHRUN, 8, Place(3, 8, 3, 0)),
        (SRUN | TORCHRUN, 8, Place(3, 8, 3, 0)),  # torchrun within a job
        (SRUN, 1, Place()),  # a cell of one device runs alone, whatever the job around it has
        ({}, 1, Place()),
    ],
)
def test_the_place_of_a_process(environment: dict[str, str], processes: int, expected: Place) -> None:
    assert find_place(processes, environment) == expected


@pytest.mark.parametrize(("environment", "said"), [({}, "1 of 1"), (SRUN, "1 of 8"), (TORCHRUN, "1 of 8")])
def test_a_process_that_is_not_one_of_so_many(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=f"asks for 4 processes, one a device, but this one is {said}"):
        find_place(4, environment)


def test_alone_everything_is_one_s_own() -> None:
    assert ranks.broadcast("word") == "word" and ranks.gather(3) == [3] and ranks.highest(7) == 7
    ranks.barrier()
    assert ranks.here() == Place()


@pytest.mark.parametrize(
    ("environment", "job", "line"),
    [
        ({}, None, None),
        ({"SLURM_JOB_ID": "12"}, "12", "SLURM job 12"),
        (
            {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0", "SLURMD_NODENAME": "n1",
             "SLURM_RESTART_COUNT": "1"},
            "12_0",
            "SLURM job 12_0 (14), node n1, restart 1",
        ),
    ],
)  # fmt: skip
def test_the_job_around(environment: dict[str, str], job: str | None, line: str | None) -> None:
    assert slurm_job(environment) == job and slurm_line(environment) == line


SCRIPT = """
import datetime, sys, time
import torch.distributed
from synthmix import ranks
ranks.STEP_TIMEOUT = datetime.timedelta(seconds=10)
print("ready", flush=True)
sys.stdin.readline()
place = ranks.find_place(2)
ranks.join(place, "cpu")
assert ranks.here() == place
if place.rank == 0:
    time.sleep(11)  # a word is waited for longer than a step
word = ranks.broadcast({"of": "rank 0"} if place.rank == 0 else None)
found = ranks.gather(("rank", place.rank))
assert ranks.highest(10 - place.rank) == 10
ranks.barrier()
print(place.rank, word, found, flush=True)
if place.rank == 0:
    try:
        ranks.highest(1)  # rank 1 stands still
    except RuntimeError as error:
        print("waited for" if "10000ms" in str(error) else error, flush=True)
if place.rank == 1:
    sys.stdin.readline()
    ranks.leave()
    raise SystemExit
sys.stdin.readline()
try:
    ranks.gather(None)
except RuntimeError:
    print("rank 1 is gone", flush=True)
import os
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes(tmp_path: object) -> None:
    """As srun starts them: each knows its number, and where rank 0 is. One that leaves, or stands still, is not waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2"} for rank in (0, 1)]
    shared = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    shared |= {"MASTER_PORT": port, "SLURM_JOB_NODELIST": "localhost"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=shared | place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:  # at once: they wait for each other no longer than within a step
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert processes[0].stdout is not None
    first = "".join(processes[0].stdout.readline() for _ in range(2))
    last, _ = processes[1].communicate("\n", timeout=120)
    first += processes[0].communicate("\n", timeout=60)[0]
    assert [process.returncode for process in processes] == [0, 0]
    assert last == "1 {'of': 'rank 0'} []\n"
    assert first == "0 {'of': 'rank 0'} [('rank', 0), ('rank', 1)]\nwaited for\nrank 1 is gone\n"
