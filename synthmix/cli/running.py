"""Commands that plan and run: plan, run, cell, status."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from synthmix.cli.opening import make_console, open_study
from synthmix.cli.reading import wandb_summary, write_study_report
from synthmix.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from synthmix.study.cells import Plan
    from synthmix.study.store import Store


def plan(options: argparse.Namespace) -> int:
    from synthmix.study.plan_view import estimate, print_plan

    plan, store = open_study(options)
    said = estimate(plan, store)
    frozen = None if options.dry_run else store.freeze(plan)
    if options.json:
        print(json.dumps(said.to_dict(), indent=1))
        return 0
    print_plan(plan, said, make_console())
    if frozen is not None:
        print(f"Plan frozen: {frozen}")
    return 0


def run(options: argparse.Namespace) -> int:
    from synthmix.study.capacity import check_capacity
    from synthmix.study.walk import MAX_ATTEMPTS, clear_failures

    plan, store = open_study(options)
    _check_weights(plan)
    warnings = check_capacity(plan)
    frozen = store.freeze(plan)
    again = clear_failures(plan, store, options.retry_failed)
    kept = [failure for cell in plan.cells if (failure := store.failure(cell)) is not None]
    often = "" if any(failure.get("final") for failure in kept) else f" {MAX_ATTEMPTS} times"
    console = make_console()
    for warning in warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    done = sum(map(store.is_done, plan.cells))
    console.print(
        f"study {plan.config.name}: {len(plan.cells)} cells, {done} done"
        + (f", {again} failed before and tried again" if again else "")
        + (f", {len(kept)} failed{often} and left alone (--retry-failed)" if kept else ""),
        highlight=False,
    )
    if any(store.needs(cell, plan) for cell in plan.cells):
        _run_cells(plan, store, frozen, console)
    return _finish(plan, store, console)


def _run_cells(plan: Plan, store: Store, frozen: Path, console: Console) -> None:
    from synthmix.study.reporting import LogReporter, TerminalReporter, make_progress
    from synthmix.study.walk import make_runner, walk
    from synthmix.study.workers import run_workers, threads_per_worker, worker_command

    if plan.config.workers > 1:
        status = run_workers(plan, store, worker_command(frozen), console)
        if status:
            log = store.study_folder(plan.config.name) / "workers.log"
            raise UserError(f"a worker ended with status {status}; its last words are in {log}:\n{_tail(log)}")
    elif console.is_terminal:
        with make_progress(console) as progress:
            reporter = TerminalReporter(progress)
            walk(plan, store, make_runner(plan, store, reporter, threads_per_worker(plan)).run, reporter)
    else:
        log_reporter = LogReporter()
        walk(plan, store, make_runner(plan, store, log_reporter, threads_per_worker(plan)).run, log_reporter)


def _tail(path: Path, lines: int = 5) -> str:
    return "\n".join(f"  {line}" for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _finish(plan: Plan, store: Store, console: Console) -> int:
    """Report, failures in words, exit status."""
    from synthmix.cluster.status import print_status

    written = write_study_report(plan, store)
    wandb_summary(plan, store, console)
    counted = print_status(plan, store, console)
    console.print(f"report: {written}", highlight=False, soft_wrap=True)
    failed = [failure for cell in plan.cells if (failure := store.failure(cell))]
    if any(failure["user_error"] for failure in failed):
        return UserError.exit_status
    return 1 if counted["failed"] else 0


def _check_weights(plan: Plan) -> None:
    """Weights that cannot be had, and machines that this is not, are found before anything is written."""
    from synthmix.config.strategies import check_installed
    from synthmix.study.launch import check_machine

    check_machine(plan)
    for profile in plan.hardware.values():
        check_installed(profile)
    if plan.config.generation.backend != "synthmix":  # else there is nothing to look for, and torch to load
        from synthmix.generation.backends import check_backend

        check_backend(plan.config.generation.backend)
    problems = []
    for name, model in plan.models.items():
        if model.source == "folder" and not (Path(model.id).expanduser() / "config.json").is_file():
            problems.append(
                f"models: {name}: id = {model.id!r}: no config.json there; expected a Hugging Face model folder"
            )
    problems += _device_problems(plan)
    if problems:
        raise ConfigError(problems)


def _device_problems(plan: Plan) -> list[str]:
    on_gpus = sorted({profile.name for profile in plan.hardware.values() if profile.accelerator == "gpu"})
    if not on_gpus:
        return []
    import torch

    if torch.cuda.is_available():
        return []
    return [
        f"hardware = {name}: needs a CUDA device, but torch finds none here; hardware=cpu needs none"
        for name in on_gpus
    ]
