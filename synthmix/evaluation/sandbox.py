"""Runs generated programs, each in a process of its own.

A small server process (isolated interpreter, scrubbed environment, empty directory) forks once for each program, sets
limits on CPU time, memory, file size and open files, and kills the program's process group afterwards. A program
passes only if it runs to its end: leaving early by any exit status, printing anything, or closing descriptors does not
count.

What this does *not* cover: it is no boundary against a determined attacker. The program shares the file system (with
the user's rights) and the network; the number of its processes is not limited, and one that leaves its group survives;
reading its own process's memory can find the token that reports success. Programs of models from outside are therefore
run only where ``evaluation.run_generated_code`` says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SERVER = r"""
import json, os, resource, select, signal, sys, time

def limits(cpu_s, memory_bytes):
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def child(program, report, token, timeout_s, memory_bytes):
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    limits(int(timeout_s) + 1, memory_bytes)
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
        verdict = token
    except SystemExit:
        verdict = b"exited before its tests ended"
    except BaseException as error:
        verdict = type(error).__name__.encode()
    os.write(report, verdict[:200])
    os._exit(0)

def run(program, timeout_s, memory_bytes):
    token = os.urandom(16)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        child(program, write, token, timeout_s, memory_bytes)
    os.close(write)
    ready, _, _ = select.select([read], [], [], timeout_s)
    verdict = os.read(read, 256) if ready else b"timed out"
    os.close(read)
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    os.waitpid(pid, 0)
    if verdict == token:
        return ""
    return verdict.decode("utf-8", "replace") or "died"

out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    job = json.loads(line)
    out.write(json.dumps(run(job["program"], job["timeout_s"], job["memory_bytes"])) + "\n")
    out.flush()
"""


@dataclass(frozen=True)
class Verdict:
    """``passed``, and otherwise why not: an exception's name, ``timed out``, ``exited before its tests ended``."""

    passed: bool
    why: str


def run_programs(programs: Sequence[str], timeout_s: float = 3.0, memory_bytes: int = 512 * 2**20) -> Iterator[Verdict]:
    """Runs each program and yields its verdict, in order.

    Args:
        programs: Python source; each ends normally if and only if its tests pass.
        timeout_s: wall-clock limit for a program; its CPU limit is one second more.
        memory_bytes: address space of a program.
    """
    if not programs:
        return
    with tempfile.TemporaryDirectory(prefix="synthmix-") as empty:
        server = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={},
            start_new_session=True,
            text=True,
        )
        assert server.stdin is not None and server.stdout is not None
        try:
            for program in programs:
                job = {"program": program, "timeout_s": timeout_s, "memory_bytes": memory_bytes}
                server.stdin.write(json.dumps(job) + "\n")
                server.stdin.flush()
                why = json.loads(server.stdout.readline())
                yield Verdict(not why, why)
        finally:
            server.stdin.close()
            server.kill()
            server.wait()
