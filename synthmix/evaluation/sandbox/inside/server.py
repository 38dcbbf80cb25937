"""The server of one worker: confines itself, then forks once for each program that arrives.

A line of JSON in (``program``, ``timeout_s``, ``memory_bytes``), a line of JSON out: why the program failed, or an
empty string. The server ends when its input does, at once, whatever runs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import types
from typing import Any

from . import program
from .folders import empty

#: What programs import most: loaded once, not by each of them.
_COMMON = (
    "bisect collections copy datetime decimal fractions functools hashlib heapq itertools math operator random re "
    "statistics string typing"
)
# The first compilation of a process sets up the syntax tree's classes, which takes as long as to fork
_WARM = "from typing import List\ndef f(x: List[int]) -> int:\n    return sum(x)\nassert f([1]) == 1\n"
_FILE_BYTES, _TMP_BYTES, _TMP_FILES = 2**20, 16 * 2**20, 1024
# More than what else the user starts meanwhile, less than what a machine bears
_SPARE_TASKS = 512


class Server:
    """State of a worker.

    Attributes:
        level: name of the level.
        private: whether each program gets a ``/tmp`` of its own; otherwise they use ``folder`` one after the other.
        tasks: limit on processes and threads, None for none.
        rules: descriptor of the Landlock rules, -1 for none.
        kernel: the module of that name, where the level needs it. It is no global: a program can reach those.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self.level: str = setup["level"]
        self.private = self.level in ("bubblewrap", "namespaces")
        self.folder = "" if self.private else str(setup["folder"])
        self.tasks = _SPARE_TASKS if self.private else _tasks_of_user()
        self.rules = -1
        if self.folder:
            os.mkdir(self.folder, 0o700)
        if self.level == "limits":
            return
        try:
            self._enter(setup)
        except BaseException:
            self.close()
            raise

    def _enter(self, setup: dict[str, Any]) -> None:
        """What is done once for all programs of the worker."""
        from . import kernel

        self.kernel = kernel
        if self.level == "namespaces":
            kernel.enter_namespaces()
            kernel.build_root(setup["paths"], setup["devices"])
        if self.level == "landlock":
            self.rules = kernel.landlock_rules(setup["paths"], setup["devices"], self.folder)
        kernel.filter_for(0)  # built once
        kernel.forget_ctypes()

    def judge(self, job: dict[str, Any]) -> str:
        """Runs one program; why it failed, or an empty string."""
        # In a box, which the forked process empties: a program can come to see the frames of its main thread
        secret = [os.urandom(16)]
        read, write = os.pipe()
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            self._become(job, write, secret, server)
        os.close(write)
        try:
            return _verdict(read, secret.pop(), job["timeout_s"])
        finally:
            os.close(read)
            _kill(pid)
            if not self.private:
                empty(self.folder)

    def close(self) -> None:
        """Removes the worker's folder."""
        if self.folder:
            os.rmdir(self.folder)

    def _become(self, job: dict[str, Any], report: int, secret: list[bytes], server: int) -> None:
        """The life of the forked process. Its frames keep neither the text, nor the token, nor the kernel's means."""
        try:
            self._confine(job, report, server)
            text, seconds = [job.pop("program")], job["timeout_s"] + 1
            vars(self).clear()
            program.run(text, secret, seconds)
        finally:
            os._exit(1)

    def _confine(self, job: dict[str, Any], report: int, server: int) -> None:
        if self.level == "limits":
            os.chdir(self.folder)
            program.detach(report)
            self._limit(job)
            return
        kernel = self.kernel
        if self.private:
            kernel.own_tmp(_TMP_BYTES, _TMP_FILES)
        else:
            os.chdir(self.folder)
        kernel.give_up_privileges()
        if self.rules >= 0:
            kernel.restrict_files(self.rules)
        program.detach(report)
        self._limit(job)
        kernel.die_with(server)
        kernel.restrict_calls()

    def _limit(self, job: dict[str, Any]) -> None:
        program.set_limits(int(job["timeout_s"]) + 2, job["memory_bytes"], _FILE_BYTES, self.tasks)


def _tasks_of_user() -> int | None:
    """The limit on tasks where it counts all that the user runs; None where those cannot be counted."""
    if not os.path.isdir("/proc/self/task"):
        return None
    count, uid = 0, os.getuid()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:  # it has ended
            continue
    return count + _SPARE_TASKS


def _verdict(read: int, token: bytes, timeout_s: float) -> str:
    """Waits for the program's report, its end or its time; leaves if nobody waits for the answer."""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    poll.register(0, 0)  # hang-up only
    events = dict(poll.poll(timeout_s * 1000))
    if 0 in events:
        raise SystemExit
    if not events:
        return "timed out"
    report = os.read(read, 256)
    if report.startswith(token):
        return ""
    if report == b"exit":
        return "exited before its tests ended"
    name = report[len(program.NAMED) :].decode("utf-8", "replace")
    return name if report.startswith(program.NAMED) and name.isidentifier() else "died"


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    os.waitpid(pid, 0)


def _prepare() -> None:
    """Makes this process what its programs shall find, warm and with no way from its modules to the server."""
    for name in _COMMON.split():
        importlib.import_module(name)
    exec(compile(_WARM, "<program>", "exec", 0, True), {})
    for name in [name for name in sys.modules if name.partition(".")[0] == "inside"]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv[:] = [""]
    del sys.path[0]
    os.environ.clear()
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serves until the input ends."""
    setup = json.loads(sys.argv[2])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(setup)
    try:
        _prepare()
        out.write('"ready"\n')
        out.flush()
        # Nothing that a program can see keeps what is read: no name in this frame, no buffer of sys.stdin
        for job in map(json.loads, os.fdopen(os.dup(0))):
            out.write(json.dumps(server.judge(job)) + "\n")
            out.flush()
    finally:
        server.close()
