"""Submits a study: the plan frozen, an array for each level and kind of machine, each after what it starts from."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from synthmix.cluster import queue
from synthmix.cluster.arrays import (
    Array,
    environment_script,
    jobs_before,
    make_arrays,
    runnable,
    sbatch_options,
)
from synthmix.cluster.submissions import Place, Submission, jobs_with, new_submission, places, submissions
from synthmix.config import HardwareConfig
from synthmix.errors import UserError
from synthmix.files import write_atomic
from synthmix.study import frozen, lease
from synthmix.study.capacity import check_capacity
from synthmix.study.cells import Cell, Plan
from synthmix.study.store import Store
from synthmix.study.walk import clear_failures, may_try_again, states

#: How long a sweep waits for another one of the same store that is being submitted.
WAIT_S = 120.0


@dataclass(frozen=True)
class Sweep:
    """What a submission came to: ``submission`` is None where nothing was left to submit.

    Attributes:
        queued: the job of each cell that waits or runs in the queue already and is not queued again.
        never: cells that cannot run: they failed for good, or something above them did, or their chain was halted.
        warnings: models that may not fit on their profiles.
    """

    submission: Submission | None
    queued: dict[str, str]
    never: list[Cell]
    done: int
    warnings: list[str]


def cell_script() -> Path:
    """``slurm/cell.sh``: of the current folder, else of the project.

    Raises:
        UserError: there is none.
    """
    project = Path(__file__).resolve().parents[2]
    for folder in (Path.cwd(), project):
        if (path := folder / "slurm" / "cell.sh").is_file():
            return path
    raise UserError(
        f"slurm/cell.sh: in neither {Path.cwd()} nor {project}; expected a checkout of the project (pip install -e), or a "
        "copy of its slurm folder here"
    )


def submit(plan: Plan, store: Store, retry_failed: bool = False) -> Sweep:
    """Queues every cell of a plan that is neither done nor queued.

    A cell that another study of the store has in the queue is queued after that job: it then finds its result.

    Raises:
        SlurmError: no SLURM here, or it refuses an array; then nothing of this sweep stays queued.
        ConfigError: a model that does not fit on its profile.
        StoreError: the store holds the study with other settings, or cannot be written.
    """
    warnings = check_capacity(plan)
    largest, script = queue.max_array_size(), cell_script()
    store.freeze(plan)
    clear_failures(plan, store, everything=retry_failed)
    with _alone(store):
        run, never = runnable(plan, states(plan, store), _lost(plan, store))
        alive = _alive(store, {cell.name for cell in run})
        queued = {cell.name: alive[cell.name].array.job or "" for cell in run if _covers(alive.get(cell.name), plan)}
        wanted = [cell for cell in run if cell.name not in queued]
        job_of = {name: place.array.job or "" for name, place in alive.items()}
        sweep = None
        if wanted:
            sweep = new_submission(store, plan.config.name)
            frozen.write(sweep.folder, plan)
            sweep.arrays = make_arrays(wanted, plan, largest)
            _queue(sweep, plan, job_of, script)
        return Sweep(sweep, queued, never, len(plan.cells) - len(run) - len(never), warnings)


def _alive(store: Store, cells: Set[str]) -> dict[str, Place]:
    """Where cells, given by name, wait or run in the queue; for any study of the store."""
    earlier = list(submissions(store))
    found = places(earlier, queue.tasks(jobs_with(earlier, cells)))
    return {name: place for name, place in found.items() if place.is_alive}


def _covers(place: Place | None, plan: Plan) -> bool:
    """Whether a queued cell will be all that this plan needs of it.

    A plan with other cells may want less of it, a shorter pool or no model: then it is queued again, after that job,
    for what is missing.
    """
    if place is None:
        return False
    return {cell.hash for cell in place.submission.cells} == set(plan.by_hash)


def _lost(plan: Plan, store: Store) -> set[str]:
    failures = {cell.hash: store.failure(cell) for cell in plan.cells}
    return {name for name, failure in failures.items() if failure and not may_try_again(failure)}


def _queue(sweep: Submission, plan: Plan, job_of: dict[str, str], script: Path) -> None:
    """One ``sbatch`` an array; a refusal takes back those before it."""
    profiles = {profile.name: profile for profile in plan.hardware.values()}
    for name in {array.hardware for array in sweep.arrays}:
        _ask(sweep, next(a for a in sweep.arrays if a.hardware == name), profiles, script, "--test-only")
    try:
        for array in sweep.arrays:
            array.after = jobs_before(array, plan, job_of)
            write_atomic(sweep.folder / f"{array.name}.cells", "\n".join(array.cells) + "\n")
            write_atomic(sweep.folder / f"{array.name}.sh", environment_script(profiles[array.hardware]))
            array.job = _ask(sweep, array, profiles, script, "--parsable").strip().split(";")[0]
            job_of |= dict.fromkeys(array.cells, array.job)
            sweep.save()
    except BaseException:
        queue.cancel(sweep.jobs)
        sweep.save()
        raise


def _ask(sweep: Submission, array: Array, profiles: dict[str, HardwareConfig], script: Path, how: str) -> str:
    options = sbatch_options(array, profiles[array.hardware], sweep.study, sweep.folder)
    words = ["sbatch", how, *options, str(script), str(sweep.folder), array.name]
    return queue.command(
        words, say=f"sbatch refuses the cells of level {array.level} (configs/hardware/{array.hardware}.yaml)"
    )


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One sweep of a store is submitted at a time, so that no cell is queued twice."""
    folder, started = store.root / "submitting", time.monotonic()
    while (held := lease.acquire(folder)) is None:
        if time.monotonic() - started > WAIT_S:
            other = lease.holder(folder) or {}
            raise UserError(
                f"{folder}: another sweep has been under submission for {WAIT_S:.0f} s (process {other.get('pid')} on "
                f"{other.get('host')}); try again when it is through"
            )
        time.sleep(0.5)
    with held:
        yield


def preview(plan: Plan, store: Store, retry_failed: bool = False) -> Iterator[str]:
    """The ``sbatch`` commands of a sweep, as lines; nothing is written, and SLURM need not be there.

    Raises:
        ConfigError: a model that does not fit on its profile.
    """
    yield from (f"warning: {warning}" for warning in check_capacity(plan))
    run, never = runnable(plan, states(plan, store), set() if retry_failed else _lost(plan, store))
    profiles = {profile.name: profile for profile in plan.hardware.values()}
    folder = store.study_folder(plan.config.name) / "submissions" / "NNN"
    job_of: dict[str, str] = {}
    for number, array in enumerate(make_arrays(run, plan, 1001), start=1):
        array.after = jobs_before(array, plan, job_of)
        job_of |= dict.fromkeys(array.cells, str(number))
        options = sbatch_options(array, profiles[array.hardware], plan.config.name, folder)
        yield shlex.join(["sbatch", "--parsable", *options, "slurm/cell.sh", str(folder), array.name])
    yield f"{len(run)} cells; {len(never)} cannot run. Job ids stand for those that sbatch will give."


def cancel(study: str, store: Store) -> tuple[list[queue.Task], list[str]]:
    """Ends what of a study is queued or running; what the cells have done stays.

    Returns:
        the tasks that were ended, and other studies of the store whose cells waited for them.
    """
    earlier = list(submissions(store, study))
    jobs = [job for one in earlier for job in one.jobs]
    alive = [task for task in queue.tasks(jobs).values() if task.is_alive]
    ended = sorted({task.job for task in alive}, key=int)
    queue.cancel(ended)
    for one in earlier:
        if set(one.jobs) & set(ended):
            one.cancelled = True
            one.save()
    others = [one for one in submissions(store) if one.study != study]
    return alive, sorted({one.study for one in others for array in one.arrays if set(array.after) & set(ended)})
