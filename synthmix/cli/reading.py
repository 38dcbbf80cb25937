"""Commands that look at what is there: report, wandb-sync, budget, task check."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmix.cli.opening import make_console, open_study
from synthmix.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from synthmix.study.cells import Plan
    from synthmix.study.store import Store


def report(options: argparse.Namespace) -> int:
    from synthmix.analysis.load import load_study as load_results
    from synthmix.analysis.record import write_record

    if options.resamples < 100:
        raise ConfigError([f"--resamples {options.resamples}: expected at least 100"])
    plan, store = open_study(options)
    if not (store.study_folder(plan.config.name) / "plan.json").exists():
        raise UserError(f"{store.root}: holds no study '{plan.config.name}'; 'synthmix run {options.study}' makes it")
    chosen = {"control": options.control, "margin": options.margin / 100, "resamples": options.resamples}
    print(write_study_report(plan, store, **chosen))
    if options.record is not None:
        print(write_record(load_results(plan.config.name, store.root), options.record))
    return 0


def wandb_sync(options: argparse.Namespace) -> int:
    from synthmix.study.wandb_sync import sync_study

    plan, store = open_study(options)
    sync_study(plan, store, print, lambda: _write_summary(plan, store))
    return 0


def _write_summary(plan: Plan, store: Store) -> Path:
    """The W&B run of the whole study: its cells, its conditions, and the report where there is one."""
    from synthmix.analysis.conditions import Analysis
    from synthmix.analysis.load import load_study as load_results
    from synthmix.callbacks.wandb_run import write_summary_run

    name, folder = plan.config.name, store.study_folder(plan.config.name)
    study = load_results(name, store.root)
    tables = {"cells": study.cells, "conditions": Analysis(study).conditions}
    pages = {path.stem: path for path in folder.glob("report/report.html")}
    counts = {"cells/planned": len(study.cells), "cells/done": len(study.done)}
    return write_summary_run(plan.config.wandb, name, tables, pages, counts, folder)


def budget(options: argparse.Namespace) -> int:
    from synthmix.analysis.budget.advice import advise

    advice = advise(options.model, options.task, options.study, options.margin)
    print(advice.as_json() if options.json else advice.text())
    return 0


def write_study_report(plan: Plan, store: Store, **options: Any) -> Path:
    from synthmix.analysis.load import load_study as load_results
    from synthmix.analysis.report import write_report

    folder = store.study_folder(plan.config.name)
    return write_report(load_results(plan.config.name, store.root), folder / "report", **options)


def wandb_summary(plan: Plan, store: Store, console: Console) -> None:
    """The study's own W&B run, where cells have theirs; a service that fails costs a line."""
    from synthmix.callbacks.wandb import resolve_mode

    if resolve_mode(plan.config.wandb.mode) == "disabled":
        return
    try:
        _write_summary(plan, store)
    except Exception as error:  # wandb raises many kinds, and none of them is about the study
        said = str(error).splitlines()
        console.print(f"W&B summary: {said[0] if said else type(error).__name__}", highlight=False, markup=False)


def task_check(options: argparse.Namespace) -> int:
    from synthmix.config import load_model
    from synthmix.study.task_check import check_task, print_check
    from synthmix.tasks import get_task

    print_check(check_task(get_task(options.task), load_model(options.model)), make_console())
    return 0
