"""The sandbox: right verdicts, and nothing that ends early passes."""

from __future__ import annotations

import time

import pytest

from synthmix.evaluation.sandbox import run_programs
from synthmix.tasks import get_task


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
    (verdict,) = run_programs([program], timeout_s=0.7)
    assert (verdict.passed, verdict.why) == (not why, why)


def test_a_bad_program_does_not_touch_the_next(tmp_path) -> None:  # type: ignore[no-untyped-def]
    programs = [
        "import os; os.setsid() if False else os._exit(3)",
        "assert True",
        "import builtins; builtins.len = None",
        "assert len([1]) == 1",
    ]
    assert [v.passed for v in run_programs(programs)] == [False, True, True, True]


def test_child_processes_do_not_stay(tmp_path) -> None:  # type: ignore[no-untyped-def]
    mark = tmp_path / "mark"
    program = f"import os, time\nif os.fork() == 0:\n    time.sleep(1)\n    open({str(mark)!r}, 'w')\n"
    list(run_programs([program]))
    time.sleep(1.5)
    assert not mark.exists()


def test_the_environment_is_empty() -> None:
    (verdict,) = run_programs(["import os; assert not {k for k in os.environ if k != 'LC_CTYPE'}, os.environ"])
    assert verdict.passed, verdict.why


def test_reference_solutions_of_nano_code_pass_and_wrong_ones_fail() -> None:
    task = get_task("nano-code")
    records = [e.record for e in task.generate_split("test", 40, 0, 0.5)]
    right = [task.program(task.gold(record), record) for record in records]
    wrong = [task.program("    return None", record) for record in records]
    assert all(v.passed for v in run_programs(right))
    assert not any(v.passed for v in run_programs(wrong))
