"""Commands around a cluster: submit, status, cancel."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import TYPE_CHECKING

from synthmix.cli.opening import make_console, open_frozen, open_study

if TYPE_CHECKING:
    from synthmix.cluster.submit import Sweep
    from synthmix.study.cells import Plan

#: Seconds between two looks of ``status --watch``.
WATCH_S = 5.0


def submit(options: argparse.Namespace) -> int:
    from synthmix.cluster.submit import preview, submit

    plan, store = open_study(options)
    if options.dry_run:
        for line in preview(plan, store, options.retry_failed):
            print(line)
        return 0
    _print_sweep(plan, submit(plan, store, options.retry_failed))
    return 0


def _print_sweep(plan: Plan, sweep: Sweep) -> None:
    for warning in sweep.warnings:
        print(f"warning: {warning}")
    if sweep.submission is None:
        nothing = "everything is done" if sweep.done == len(plan.cells) else "nothing to submit"
        print(f"study {plan.config.name}: {nothing} ({sweep.done} of {len(plan.cells)} cells done)")
    else:
        cells = sum(len(array.cells) for array in sweep.submission.arrays)
        print(f"study {plan.config.name}: {cells} cells submitted, {sweep.done} done ({sweep.submission.folder})")
        for array in sweep.submission.arrays:
            after = f", after {', '.join(array.after)}" if array.after else ""
            print(f"  job {array.job}: level {array.level} on {array.hardware}, {len(array.cells)} cells{after}")
    for job, n in Counter(sweep.queued.values()).items():
        print(f"  job {job}: has {n} of the cells already")
    for cell in sweep.never[:20]:
        print(f"  not submitted: {cell.name} (it, or one above it, failed for good or was halted; --retry-failed)")
    if len(sweep.never) > 20:
        print(f"  not submitted: {len(sweep.never) - 20} more")


def status(options: argparse.Namespace) -> int:
    from rich.console import Group
    from rich.live import Live

    from synthmix.cluster.status import print_status, render, study_state

    plan, store = open_frozen(options)
    console = make_console()
    limit = None if options.all else 20
    if options.watch:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            found = study_state(plan, store)
            while any(one.state in ("running", "queued") for one in found):
                live.update(Group(*render(plan, found, limit)), refresh=True)
                time.sleep(WATCH_S)
                found = study_state(plan, store)
    print_status(plan, store, console, limit)
    return 0


def cancel(options: argparse.Namespace) -> int:
    from synthmix.cluster.submit import cancel

    plan, store = open_frozen(options)
    ended, others = cancel(plan.config.name, store)
    if not ended:
        print(f"study {plan.config.name}: no job of it is queued")
        return 0
    print(
        f"study {plan.config.name}: {len(ended)} tasks cancelled; what they had done stays, and a new sweep goes on from it"
    )
    for study in others:
        print(f"  study {study} waits for some of these cells: submit it again (slurm/sweep.sh {study})")
    return 0
