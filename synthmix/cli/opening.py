"""What commands begin with: a study and its store, a frozen plan, a console."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from synthmix.errors import ConfigError

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


def open_frozen(options: argparse.Namespace) -> tuple[Plan, Store]:
    """As :func:`open_study`, from the frozen plan where there is one with these settings: much faster, without data."""
    from synthmix.config import load_study
    from synthmix.study import frozen
    from synthmix.study.store import Store

    config = load_study(options.study, options.overrides)
    store = Store(config.store.root)
    path = store.study_folder(config.name) / "plan.json"
    if path.is_file() and (plan := frozen.read(path)).config == config:
        return plan, store
    return open_study(options)


def load_plan(path: Path, cell: str | None = None) -> tuple[Plan, Store]:
    """The plan of a frozen study, unfolded again from its resolved settings; its store is the one that it lies in.

    Args:
        cell: name of a cell; then only its family is unfolded, see :func:`synthmix.study.frozen.reopen`.

    Raises:
        UserError: the cells are no longer those that were frozen: other data, model files or code.
    """
    from synthmix.study import frozen
    from synthmix.study.store import Store

    root = next((folder for folder in path.resolve().parents if (folder / "store.json").is_file()), None)
    plan = frozen.reopen(path, cell)
    if root is None:
        raise ConfigError([f"PLAN = {str(path)!r}: lies in no store (no store.json above it); expected a study's plan"])
    return plan, Store(root)


def make_console() -> Console:
    from rich.console import Console

    return Console()
