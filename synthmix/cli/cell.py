"""``synthmix cell``, what a task of a cluster runs, and ``work``, what ``synthmix run`` has its workers run."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from synthmix import interrupts, ranks
from synthmix.cli.opening import load_plan, make_console
from synthmix.errors import ConfigError, UserError

if TYPE_CHECKING:
    from synthmix.study.cells import Cell, Plan
    from synthmix.study.store import Store

#: Seconds between two looks at what a cell waits for.
POLL_S = 2.0
_STAYS = "It stays so; --retry-failed tries again, from where it stands"


def cell(options: argparse.Namespace) -> int:
    """Exit status: 0 done (or queued again), 1 failed, 2 for what the user can put right, or if it was interrupted."""
    interrupts.install()  # before anything that takes time: until here SIGUSR1 is held back or kills
    _load_libraries()
    plan, store, chosen = _open(options)
    place = _join(plan, chosen)
    if place.world == 1:
        return _lead(options, plan, store, chosen)
    try:
        status = _one_of_several(options, plan, store, chosen)
    except BaseException:  # Ctrl-C too: the other ranks are ended by whoever started them
        traceback.print_exc()
        status = 1
    _leave(status)


def _load_libraries() -> None:
    """Imports what every cell needs; without the garbage collector, which finds nothing in it, a tenth faster."""
    gc.disable()
    try:
        import synthmix.study.runner  # noqa: F401
    finally:
        gc.enable()


def _open(options: argparse.Namespace) -> tuple[Plan, Store, Cell]:
    from synthmix.study import frozen

    name = options.name
    if options.cells is not None and options.index is None:
        raise ConfigError([f"--cells {str(options.cells)!r}: expected --index with it, the line of the cell"])
    if options.cells is not None:
        name = _line(options.cells, options.index)
    elif name is None:
        names = [cell.name for cell in frozen.read(options.plan).cells]
        if not 0 <= options.index < len(names):
            raise ConfigError([f"--index {options.index}: the plan has cells 0 to {len(names) - 1}"])
        name = names[options.index]
    plan, store = load_plan(options.plan, name)
    return plan, store, next(cell for cell in plan.cells if cell.name == name)


def _line(path: Path, index: int) -> str:
    """A line of a list of cells."""
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--cells {str(path)!r}: {error}; expected names of cells, one a line"]) from error
    if not 0 <= index < len(names):
        raise ConfigError([f"--index {index}: {path} has lines 0 to {len(names) - 1}"])
    return names[index]


def _join(plan: Plan, chosen: Cell) -> ranks.Place:
    from synthmix.config.strategies import check_installed
    from synthmix.generation.backends import check_backend
    from synthmix.study.capacity import check_capacity
    from synthmix.study.launch import processes

    profile = plan.hardware_of(chosen)
    check_installed(profile)
    check_backend(plan.config.generation.backend)
    check_capacity(plan, [chosen])
    place = ranks.find_place(processes(profile))
    ranks.join(place, profile.accelerator)
    return place


# -- rank 0 ---------------------------------------------------------------------------------------------------------


def _lead(options: argparse.Namespace, plan: Plan, store: Store, chosen: Cell) -> int:
    from synthmix.study.walk import forget_failures

    line = ranks.slurm_line()
    if line is not None:
        print(f"{line}: {chosen.name}", flush=True)
    if options.retry_failed:
        forget_failures(chosen, store)
    wait = ranks.slurm_job() is not None if options.wait is None else options.wait
    try:
        return _when_ready(chosen, plan, store, wait)
    except interrupts.Preempted as stopped:
        print(f"{chosen.name}: {stopped}; the cell goes on from here", flush=True)
        again = stopped.signal is interrupts.AGAIN and _requeue()
        return 0 if again else 2


def _when_ready(chosen: Cell, plan: Plan, store: Store, wait: bool) -> int:
    """Runs the cell once it can be run, or says why it cannot."""
    from synthmix.study.walk import may_try_again, set_aside

    while True:
        interrupts.check()
        state, failure = store.state(chosen, plan), store.failure(chosen)
        if state == "done":
            print(f"{chosen.name}: done", flush=True)
            return 0
        if state == "halted":
            raise UserError(f"{chosen.name}: halted; a critical alert ended its chain")
        if state == "blocked":
            raise UserError(f"{chosen.name}: blocked: {_culprit(chosen, plan, store)}")
        if failure is not None:
            if not may_try_again(failure):
                often = f" {failure['attempts']} times" if failure["attempts"] > 1 else ""
                print(f"{chosen.name}: failed{often}: {failure['error']}\n{_STAYS}", flush=True)
                return 1
            set_aside(chosen, store)
        elif state == "ready" and _attempt(chosen, plan, store):
            if (failed := store.failure(chosen)) is not None:
                return _failed(chosen, failed)
            if store.state(chosen, plan) == "done":
                return 0
        else:
            _check_wait(chosen, plan, store, wait)
            time.sleep(POLL_S)


def _attempt(chosen: Cell, plan: Plan, store: Store) -> bool:
    from synthmix.study.reporting import LogReporter, Reporter, TerminalReporter, make_progress
    from synthmix.study.walk import attempt, make_runner

    def run(reporter: Reporter) -> bool:
        runner = make_runner(plan, store, reporter, _threads(plan, chosen))
        return attempt(chosen, plan, store, runner.run, reporter)

    console = make_console()
    if not console.is_terminal:
        return run(LogReporter())
    with make_progress(console) as progress:
        return run(TerminalReporter(progress))


def _threads(plan: Plan, chosen: Cell) -> int:
    from synthmix.study.workers import cores

    return plan.hardware_of(chosen).threads or cores()


def _check_wait(chosen: Cell, plan: Plan, store: Store, wait: bool) -> None:
    """Raises UserError where there is nothing to wait for, or nobody wants to."""
    from synthmix.study import lease

    if lease.holder(store.folder(chosen)) is not None:
        if not wait:
            raise UserError(f"{chosen.name}: another process runs it (--wait waits for it)")
        return
    above = [one for one in plan.ancestors(chosen) if store.state(one, plan) != "done"]
    if not above:  # whoever had it has let go of it between two looks
        return
    if not (wait and any(lease.holder(store.folder(one)) for one in above)):
        how = "nobody runs it" if wait else "--wait waits for whoever runs it"
        raise UserError(f"{chosen.name}: waiting: {above[0].name} is not done; {how}")


def _culprit(chosen: Cell, plan: Plan, store: Store) -> str:
    for above in plan.ancestors(chosen):
        if (failure := store.failure(above)) is not None:
            return f"{above.name} failed: {failure['error']}"
    return "a cell above it failed"


def _failed(chosen: Cell, failure: dict[str, object]) -> int:
    """Exit status after a failure; on SLURM the job is queued again while there are attempts left, by the rank that failed.

    Whoever started the ranks may end rank 0 before it knows that another one failed.
    """
    from synthmix.study.walk import MAX_ATTEMPTS, may_try_again

    if failure["user_error"]:
        return UserError.exit_status
    if failure.get("final"):
        print(f"{chosen.name}: failed: {failure['error']}\n{_STAYS}", flush=True)
        return 1
    attempt = "" if failure.get("changed") else f"attempt {failure['attempts']} of {MAX_ATTEMPTS} failed: "
    said = f"{chosen.name}: {attempt}{failure['error']}"
    mine = failure["rank"] == ranks.here().rank
    again = mine and may_try_again(failure) and ranks.slurm_job() is not None
    print(said + ("; queued again" if again else ""), flush=True)
    return 0 if again and _requeue() else 1


def _requeue() -> bool:
    """Queues this process's job again; False outside SLURM, and where SLURM refuses, which is said."""
    if ranks.slurm_job() is None:
        return False
    from synthmix.cluster.queue import requeue

    try:
        requeue()
    except UserError as error:
        print(f"synthmix: {error}", file=sys.stderr, flush=True)
        return False
    return True


# -- several ranks --------------------------------------------------------------------------------------------------


def _one_of_several(options: argparse.Namespace, plan: Plan, store: Store, chosen: Cell) -> int:
    from synthmix.study import team
    from synthmix.study.walk import prepare_process, record

    if ranks.here().rank > 0:
        prepare_process(_threads(plan, chosen))
        hands = team.Hands(chosen, plan, store.folder(chosen))

        def failed(error: Exception) -> int:
            record(chosen, store, error)
            return _failed(chosen, store.failure(chosen) or {})

        return team.follow(hands, failed)
    try:
        status = _lead(options, plan, store, chosen)
    except UserError as error:
        print(f"synthmix: {error}", file=sys.stderr, flush=True)
        status = error.exit_status
    return status if team.end(status) else status or 1


def _leave(status: int) -> NoReturn:
    """Ends this rank at once: what is left of the group may wait for others that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# -- workers --------------------------------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> int:
    from synthmix.study.reporting import LogReporter
    from synthmix.study.walk import make_runner, walk
    from synthmix.study.workers import threads_per_worker, worker_reporter

    interrupts.install()
    reporter = worker_reporter() or LogReporter()
    plan, store = load_plan(options.plan)
    try:
        walk(plan, store, make_runner(plan, store, reporter, threads_per_worker(plan)).run, reporter)
    except interrupts.Preempted as stopped:
        reporter.line(f"{stopped}; its cell goes on from here")
        return 2
    return 0
