"""A cell that trains on several devices of this machine: ``synthmix cell`` in as many processes, by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from synthmix.config import HardwareConfig
from synthmix.errors import ConfigError, UserError
from synthmix.study import lease
from synthmix.study.cells import Cell, Plan
from synthmix.study.reporting import Reporter
from synthmix.study.store import Store
from synthmix.study.workers import cores


def processes(hardware: HardwareConfig) -> int:
    """One a device."""
    return hardware.devices * hardware.nodes


def check_machine(plan: Plan) -> None:
    """Refuses what ``synthmix run`` cannot start from one machine.

    Raises:
        ConfigError: a profile with several nodes, or several workers beside cells that take several devices.
    """
    problems = []
    for profile in {profile.name: profile for profile in plan.hardware.values()}.values():
        if profile.nodes > 1:
            problems.append(
                f"hardware = {profile.name}: takes {profile.nodes} nodes, and this is one; expected SLURM to start it: "
                f"slurm/sweep.sh {plan.config.name}"
            )
        elif profile.devices > 1 and plan.config.workers > 1:
            problems.append(
                f"workers = {plan.config.workers}: a cell of hardware {profile.name} takes {profile.devices} devices "
                "itself; expected 1"
            )
    if problems:
        raise ConfigError(problems)


def launch(cell: Cell, plan: Plan, store: Store, reporter: Reporter) -> bool:
    """Runs a cell of a frozen study in processes of its own; False if somebody else runs it.

    Where they ended because memory ran out, and the next attempt takes less at once, they are started again.

    Raises:
        UserError: the processes ended without a result and without saying why in the cell's folder.
    """
    if lease.holder(store.folder(cell)) is not None:
        return False
    while True:
        status = _run_ranks(cell, plan, store, reporter)
        failure = store.failure(cell)
        if status and failure is None:
            log = store.study_folder(plan.config.name) / "ranks.log"
            raise UserError(f"{cell.name}: ended with status {status}; its last words:\n{_tail(log)}")
        if not (failure and failure.get("changed")):
            return True


def _run_ranks(cell: Cell, plan: Plan, store: Store, reporter: Reporter) -> int:
    """Starts the processes and passes on what they say; their exit status."""
    profile, study = plan.hardware_of(cell), store.study_folder(plan.config.name)
    module = ["torch.distributed.run", "--standalone", f"--nproc-per-node={profile.devices}", "-m", "synthmix.cli"]
    command = [sys.executable, "-m", *module, "cell", str(study / "plan.json"), "--name", cell.name, "--wait"]
    threads = profile.threads or max(1, cores() // profile.devices)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment.pop("SYNTHMIX_WORKER", None)
    with (study / "ranks.log").open("ab") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            for line in process.stdout or ():
                reporter.line(line.rstrip())
        finally:
            if sys.exc_info()[0] is not None:
                process.terminate()
            status = process.wait()
    return status


def _tail(path: Path, lines: int = 12) -> str:
    return "\n".join(f"  {line}" for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
