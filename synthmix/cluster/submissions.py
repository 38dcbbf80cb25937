"""What was submitted: a folder a sweep, under the study's.

runs/studies/STUDY/submissions/003/
  study.yaml  plan.json       frozen: a study that grows later renumbers nothing here
  l1.gpu1.cells               names of cells, one a line: task I of the array runs line I
  l1.gpu1.sh                  modules, setup and Python of the profile
  submission.json             arrays with their job ids, written after each of them is submitted
  logs/                       one file a task, over all of its restarts
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from synthmix.cluster.arrays import Array
from synthmix.cluster.queue import Task
from synthmix.errors import StoreError
from synthmix.files import write_json
from synthmix.study import frozen
from synthmix.study.cells import Cell
from synthmix.study.store import Store


@dataclass
class Submission:
    """One sweep; ``cancelled`` ones have tasks that are ending, at most."""

    folder: Path
    study: str
    arrays: list[Array] = field(default_factory=list)
    cancelled: bool = False

    @property
    def jobs(self) -> list[str]:
        return [array.job for array in self.arrays if array.job is not None]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Of the plan that was frozen with it."""
        return frozen.read(self.folder / "plan.json").cells

    def save(self) -> None:
        arrays = [dataclasses.asdict(array) for array in self.arrays]
        told = {"study": self.study, "arrays": arrays, "cancelled": self.cancelled}
        write_json(self.folder / "submission.json", told)

    def log(self, array: Array, index: int) -> Path:
        """Where a task's output goes; as ``--output`` says it."""
        return self.folder / "logs" / f"{self.study}.{array.name}.{array.job}_{index}.out"


@dataclass(frozen=True)
class Place:
    """Where a cell is, or was, in the queue."""

    submission: Submission
    array: Array
    index: int
    task: Task | None

    @property
    def is_alive(self) -> bool:
        """Whether its task will still do something for the cell. One that was cancelled saves, and does not come back."""
        return self.task is not None and self.task.is_alive and not self.submission.cancelled

    @property
    def log(self) -> Path:
        return self.submission.log(self.array, self.index)


def new_submission(store: Store, study: str) -> Submission:
    """The next numbered folder of a study."""
    parent = store.study_folder(study) / "submissions"
    numbers = [int(path.name) for path in parent.glob("[0-9]*") if path.name.isdigit()]
    folder = parent / f"{max(numbers, default=0) + 1:03d}"
    (folder / "logs").mkdir(parents=True)
    return Submission(folder.resolve(), study)


def submissions(store: Store, study: str = "*") -> Iterator[Submission]:
    """A study's submissions, oldest first; of all studies of the store without a name.

    Raises:
        StoreError: a record that cannot be read.
    """
    for path in sorted(store.root.glob(f"studies/{study}/submissions/*/submission.json")):
        try:
            told: dict[str, Any] = json.loads(path.read_text())
            arrays = [Array(**array) for array in told["arrays"]]
            yield Submission(path.parent.resolve(), told["study"], arrays, told.get("cancelled", False))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: not a submission's record ({type(error).__name__}: {error}); if none of its jobs is queued any "
                f"more (squeue --me), delete {path.parent}"
            ) from error


def jobs_with(found: Iterable[Submission], cells: Set[str]) -> list[str]:
    """The jobs of arrays that hold any of some cells, given by name."""
    return [array.job for one in found for array in one.arrays if array.job is not None and cells & set(array.cells)]


def places(found: Iterable[Submission], known: dict[tuple[str, int], Task]) -> dict[str, Place]:
    """Where each cell was queued last, by its name; a task that still lives goes before one that does not."""
    latest: dict[str, Place] = {}
    for submission in found:
        for array in submission.arrays:
            for index, cell in enumerate(array.cells if array.job is not None else ()):
                place = Place(submission, array, index, known.get((array.job or "", index)))
                before = latest.get(cell)
                if before is None or not before.is_alive or place.is_alive:
                    latest[cell] = place
    return latest
