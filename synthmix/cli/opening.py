"""What commands begin with: a study and its store, a frozen plan, a console."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from synthmix.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from synthmix.study.cells import Plan
    from synthmix.study.store import Store


def open_study(options: argparse.Namespace) -> tuple[Plan, Store]:
    from synthmix.config import load_study
    from synthmix.study.cells import make_plan
    from synthmix.study.store import Store

    config = load_study(options.study, options.overrides)
    store = Store(config.store.root)
    return make_plan(config), store


def load_plan(path: Path) -> tuple[Plan, Store]:
    """The plan of a frozen study, unfolded again from its resolved settings; its store is the one that it lies in.

    Raises:
        UserError: the cells are no longer those that were frozen: other data, model files or code.
    """
    from synthmix.config import load_study
    from synthmix.study.cells import make_plan
    from synthmix.study.store import Store

    if not (path.is_file() and (path.parent / "study.yaml").is_file()):
        raise ConfigError([f"PLAN = {str(path)!r}: no such plan; 'synthmix plan STUDY' writes one"])
    try:
        frozen = [cell["hash"] for cell in json.loads(path.read_text())["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"PLAN = {str(path)!r}: not a plan ({error}); 'synthmix plan STUDY' writes one"]) from error
    root = next((folder for folder in path.resolve().parents if (folder / "store.json").is_file()), None)
    if root is None:
        raise ConfigError(
            [f"PLAN = {str(path)!r}: lies in no store (no store.json above it); expected the plan of a study"]
        )
    plan = make_plan(load_study(str(path.parent / "study.yaml")))
    if frozen != [cell.hash for cell in plan.cells]:
        raise UserError(
            f"{path}: the cells that were frozen are not those that its settings give here: the data (SYNTHMIX_DATA), a "
            "model file or the code differs; 'synthmix plan STUDY' freezes them anew"
        )
    return plan, Store(root)


def make_console() -> Console:
    from rich.console import Console

    return Console()
