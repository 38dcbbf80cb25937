"""The store: one folder a cell, one a study.

    runs/store.json                 format of the store
    runs/cells/<cell>/              config.yaml  mixture.json  checkpoints/  model/  items.parquet
                                    synthetic.jsonl  pool.json  metrics.jsonl  result.json
    runs/studies/<study>/           study.yaml  plan.json  report/

``result.json`` is written last, by rename: its presence means done. Nothing else is state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from synthmix.errors import StoreError
from synthmix.files import write_json
from synthmix.study import frozen, lease
from synthmix.study.cells import Cell, Plan

FORMAT = 1
State = Literal["done", "ready", "running", "waiting", "failed", "blocked", "halted"]


@dataclass(frozen=True)
class Needs:
    """What is missing of a cell: its own result, a longer pool, or a model that a child starts from."""

    result: bool
    pool: int
    model: bool

    def __bool__(self) -> bool:
        return self.result or self.pool > 0 or self.model


@dataclass
class Known:
    """What one look at a plan has found out already, by hash; see :meth:`Store.state`.

    ``held`` are the folders of cells that somebody runs, if all were looked at.
    """

    needs: dict[str, Needs] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    held: set[Path] | None = None


class Store:
    """Reads and writes cell folders under ``root``.

    Raises:
        StoreError: ``root`` holds a store of another format, or is not a folder.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"store.root = {str(root)!r}: expected a folder, but it is a file")
        self._check_format()
        self._halted: dict[str, bool] = {}

    def _check_format(self) -> None:
        marker = self.root / "store.json"
        if not marker.exists():
            return
        try:
            found = json.loads(marker.read_text())["format"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StoreError(
                f"{marker}: not a store's description ({error}); expected {{'format': {FORMAT}}}"
            ) from error
        if found != FORMAT:
            raise StoreError(
                f"{marker}: the store has format {found}, this synthmix writes {FORMAT}; use another store.root"
            )

    def create(self) -> None:
        """Makes the root, once something is to be written."""
        if not (self.root / "store.json").exists():
            write_json(self.root / "store.json", {"format": FORMAT})

    # -- cells ------------------------------------------------------------------------------------------------------

    def folder(self, cell: Cell) -> Path:
        return self.root / "cells" / cell.name

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell has its result.

        Raises:
            StoreError: it has one that cannot be read; it is not computed again without a word.
        """
        if cell.hash not in self._halted:
            if not (self.folder(cell) / "result.json").exists():
                return False
            self._halted[cell.hash] = bool(self.result(cell).get("alert", {}).get("halted", False))
        return True

    def result(self, cell: Cell) -> dict[str, Any]:
        remedy = "Delete it to finish the cell again; what else is in its folder is kept and used"
        return _read(self.folder(cell) / "result.json", remedy, alert=dict)

    def failure(self, cell: Cell) -> dict[str, Any] | None:
        path = self.folder(cell) / "failure.json"
        return _read(path, "Delete it to try the cell again", error=str) if path.exists() else None

    def pool_size(self, cell: Cell) -> int:
        pool = self._pool(cell)
        return 0 if pool is None else int(pool["kept"])

    def _pool(self, cell: Cell) -> dict[str, Any] | None:
        path = self.folder(cell) / "pool.json"
        remedy = "Delete it to have the pool counted again; the samples in synthetic.jsonl are kept"
        return _read(path, remedy, kept=int) if path.exists() else None

    def needs(self, cell: Cell, plan: Plan, known: Known | None = None) -> Needs:
        """What must still be computed for this cell and for those of its children that are not done."""
        known = Known() if known is None else known
        if cell.hash not in known.needs:
            known.needs[cell.hash] = self._needs(cell, plan, known)
        return known.needs[cell.hash]

    def _needs(self, cell: Cell, plan: Plan, known: Known) -> Needs:
        waiting = [child for child in plan.children(cell) if not self.is_done(child)]
        share = max((plan.pool_share(child) for child in waiting), default=0)
        wanted = self._model_is_wanted(cell, plan, known)
        if not self.is_done(cell):
            return Needs(True, share, wanted)
        short = share if not self._pool_suffices(cell, share) else 0
        has_model = (self.folder(cell) / "model" / "config.json").exists()
        return Needs(False, short, not has_model and (wanted or short > 0))

    def _model_is_wanted(self, cell: Cell, plan: Plan, known: Known) -> bool:
        """Whether a cell that must still be trained (also: once more, its model is gone) starts from this one's."""
        init_from = plan.config.mixing.init_from
        if init_from == "base":
            return False
        if init_from == "phase0":
            users = plan.descendants(cell) if cell.parent is None else []
        else:
            users = plan.children(cell)
        return any(not self.is_done(user) or self.needs(user, plan, known).model for user in users)

    def _pool_suffices(self, cell: Cell, share: int) -> bool:
        """Whether the pool holds ``share`` examples, or its filter and the cap on attempts allow no more."""
        pool = self._pool(cell)
        if pool is None:
            return share == 0
        return bool(pool["kept"] >= share or (pool.get("capped") and pool.get("wanted", 0) >= share))

    def state(self, cell: Cell, plan: Plan, known: Known | None = None) -> State:
        """Where a cell stands; ``blocked`` and ``halted`` say that an ancestor failed or ended the chain.

        What is found out on the way is kept in ``known``, for other cells of the plan; it holds until a cell is run.
        """
        known = Known() if known is None else known
        if cell.hash not in known.states:
            known.states[cell.hash] = self._state(cell, plan, known)
        return known.states[cell.hash]

    def states(self, plan: Plan, cells: Iterable[Cell] | None = None) -> dict[str, State]:
        """State of each cell, by hash, as of now. Every file is read once, and SLURM is asked once at most."""
        known, asked = Known(), plan.cells if cells is None else tuple(cells)
        for cell in reversed(plan.cells):  # children first, so that no chain is too long for recursion
            self.needs(cell, plan, known)
        known.held = set(lease.holders(self.folder(cell) for cell in asked if known.needs[cell.hash]))
        for cell in plan.cells:
            self.state(cell, plan, known)
        return {cell.hash: known.states[cell.hash] for cell in asked}

    def _state(self, cell: Cell, plan: Plan, known: Known) -> State:
        if not self.needs(cell, plan, known):
            return "done"
        if self.failure(cell) is not None:
            return "failed"
        for above in self._upstream(cell, plan):
            upstream = self.state(above, plan, known)
            if upstream in ("failed", "blocked"):
                return "blocked"
            if upstream == "halted" or (self.is_done(above) and self._halted[above.hash]):
                return "halted"
            if upstream != "done":
                return "running" if self._is_held(cell, known) else "waiting"
        return "running" if self._is_held(cell, known) else "ready"

    def _is_held(self, cell: Cell, known: Known) -> bool:
        folder = self.folder(cell)
        return lease.holder(folder) is not None if known.held is None else folder in known.held

    @staticmethod
    def _upstream(cell: Cell, plan: Plan) -> list[Cell]:
        """The cells that must be there before this one: its parent, and the one whose weights it starts from."""
        if cell.parent is None:
            return []
        names = [cell.parent, *([cell.baseline] if plan.config.mixing.init_from == "phase0" else [])]
        return [plan.by_hash[name] for name in dict.fromkeys(names)]

    def tidy(self, cell: Cell, plan: Plan) -> None:
        """Removes what no cell of the study needs any more: checkpoints, and models by ``store.keep``.

        Baselines stay unless ``keep`` is ``none``: other studies start from them.
        """
        keep = plan.config.store.keep
        for hash_ in {cell.hash, cell.parent or cell.hash, cell.baseline}:
            one = plan.by_hash[hash_]
            if not self.is_done(one):
                continue
            shutil.rmtree(self.folder(one) / "checkpoints", ignore_errors=True)
            inner = bool(plan.children(one)) and one.parent is not None
            if keep == "none" or (keep == "leaves" and inner):
                # A child that is not done may still ask for a longer pool, which this model would write.
                waiting = not all(map(self.is_done, plan.children(one)))
                if not waiting and not self._model_is_wanted(one, plan, Known()):
                    shutil.rmtree(self.folder(one) / "model", ignore_errors=True)

    def sweep(self, plan: Plan) -> None:
        """Removes the leases and half-written files of processes that were killed; those of live ones stay."""
        for cell in plan.cells:
            lease.clear(self.folder(cell))

    # -- studies ----------------------------------------------------------------------------------------------------

    def study_folder(self, name: str) -> Path:
        return self.root / "studies" / name

    def freeze(self, plan: Plan) -> Path:
        """Writes the plan of a study; its path is what ``synthmix cell`` takes.

        Raises:
            StoreError: the store holds a study of this name with other settings. Naming more cells is no change.
        """
        folder = self.study_folder(plan.config.name)
        resolved = frozen.to_plain(plan.config)
        self._check_settings(folder, resolved, plan)
        self.create()
        frozen.write(folder, plan)
        return folder / "plan.json"

    def _check_settings(self, folder: Path, resolved: dict[str, Any], plan: Plan) -> None:
        if not (folder / "plan.json").exists():
            return
        before = {cell["hash"] for cell in json.loads((folder / "plan.json").read_text())["cells"]}
        if before <= set(plan.by_hash):
            return
        old = yaml.safe_load((folder / "study.yaml").read_text())
        changed = [f"{key}: {was} -> {now}" for key, was, now in _differences(old, resolved)]
        raise StoreError(
            f"{folder}: the store holds study '{plan.config.name}' with other settings:\n  "
            + "\n  ".join(changed or ["the data or the code changed"])
            + "\nIts cells are kept. Give this one another name (name=...) or another store (store.root=...)."
        )


def _read(path: Path, remedy: str, **expected: type) -> dict[str, Any]:
    """A JSON object that has the ``expected`` names, with values of their types.

    Raises:
        StoreError: it is cut, cannot be read, or holds something else; says ``remedy``.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). {remedy}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: holds {type(value).__name__}, expected an object. {remedy}")
    for name, kind in expected.items():
        if not isinstance(value.get(name), kind):
            raise StoreError(f"{path}: {name} = {value.get(name)!r}, expected {kind.__name__}. {remedy}")
    return value


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [(prefix[:-1], old, new)]
