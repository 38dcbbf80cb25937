"""The store: one folder a cell, one a study.

    runs/store.json                 format of the store
    runs/cells/<cell>/              config.yaml  mixture.json  checkpoints/  model/  items.parquet
                                    synthetic.jsonl  pool.json  metrics.jsonl  result.json
    runs/studies/<study>/           study.yaml  plan.json  report/

``result.json`` is written last, by rename: its presence means done. Nothing else is state.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from synthmix.config import StudyConfig
from synthmix.errors import StoreError
from synthmix.files import disk_errors, write_atomic, write_json
from synthmix.study import lease
from synthmix.study.cells import CODE_VERSION, Cell, Plan

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
        self._done: set[str] = set()

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
        if cell.hash in self._done:
            return True
        if (self.folder(cell) / "result.json").exists():
            self._done.add(cell.hash)
            return True
        return False

    def result(self, cell: Cell) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder(cell) / "result.json").read_text())
        return loaded

    def failure(self, cell: Cell) -> dict[str, Any] | None:
        path = self.folder(cell) / "failure.json"
        return json.loads(path.read_text()) if path.exists() else None

    def pool_size(self, cell: Cell) -> int:
        path = self.folder(cell) / "pool.json"
        return int(json.loads(path.read_text())["kept"]) if path.exists() else 0

    def needs(self, cell: Cell, plan: Plan) -> Needs:
        """What must still be computed for this cell and for those of its children that are not done."""
        waiting = [child for child in plan.children(cell) if not self.is_done(child)]
        share = max((plan.pool_share(child) for child in waiting), default=0)
        wanted = self._model_is_wanted(cell, plan)
        if not self.is_done(cell):
            return Needs(True, share, wanted)
        short = share if not self._pool_suffices(cell, share) else 0
        has_model = (self.folder(cell) / "model" / "config.json").exists()
        return Needs(False, short, not has_model and (wanted or short > 0))

    def _model_is_wanted(self, cell: Cell, plan: Plan) -> bool:
        """Whether a cell that must still be trained (also: once more, its model is gone) starts from this one's."""
        init_from = plan.config.mixing.init_from
        if init_from == "base":
            return False
        if init_from == "phase0":
            users = plan.descendants(cell) if cell.parent is None else []
        else:
            users = plan.children(cell)
        return any(not self.is_done(user) or self.needs(user, plan).model for user in users)

    def _pool_suffices(self, cell: Cell, share: int) -> bool:
        """Whether the pool holds ``share`` examples, or its filter and the cap on attempts allow no more."""
        path = self.folder(cell) / "pool.json"
        if not path.exists():
            return share == 0
        pool = json.loads(path.read_text())
        return bool(pool["kept"] >= share or (pool["capped"] and pool["wanted"] >= share))

    def state(self, cell: Cell, plan: Plan) -> State:
        """Where a cell stands; ``blocked`` and ``halted`` say that an ancestor failed or ended the chain."""
        if not self.needs(cell, plan):
            return "done"
        if self.failure(cell) is not None:
            return "failed"
        for above in self._upstream(cell, plan):
            upstream = self.state(above, plan)
            if upstream in ("failed", "blocked"):
                return "blocked"
            if upstream == "halted" or (self.is_done(above) and self.result(above)["alert"]["halted"]):
                return "halted"
            if upstream != "done":
                return "running" if lease.holder(self.folder(cell)) else "waiting"
        return "running" if lease.holder(self.folder(cell)) else "ready"

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
                if not waiting and not self._model_is_wanted(one, plan):
                    shutil.rmtree(self.folder(one) / "model", ignore_errors=True)

    # -- studies ----------------------------------------------------------------------------------------------------

    def study_folder(self, name: str) -> Path:
        return self.root / "studies" / name

    def freeze(self, plan: Plan) -> Path:
        """Writes the plan of a study; its path is what ``synthmix cell`` takes.

        Raises:
            StoreError: the store holds a study of this name with other settings. Naming more cells is no change.
        """
        folder = self.study_folder(plan.config.name)
        resolved = to_plain(plan.config)
        self._check_settings(folder, resolved, plan)
        self.create()
        write_atomic(folder / "study.yaml", yaml.safe_dump(resolved, sort_keys=False))
        content = {
            "study": plan.config.name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "code": CODE_VERSION,
            "sizes": plan.sizes,
            "models": {name: dataclasses.asdict(model) for name, model in plan.models.items()},
            "cells": [cell.to_dict() for cell in plan.cells],
        }
        with disk_errors(folder):
            write_atomic(folder / "plan.json", json.dumps(content))
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


def to_plain(config: StudyConfig) -> dict[str, Any]:
    """A configuration as plain YAML values."""
    return dataclasses.asdict(config)


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [(prefix[:-1], old, new)]
