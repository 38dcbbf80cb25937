"""Whether SLURM is here, answers, and would take a profile's jobs."""

from __future__ import annotations

import getpass
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from synthmix.cluster import queue
from synthmix.cluster.arrays import Array, sbatch_options
from synthmix.cluster.doctor.finding import Finding, missing, ok, unknown
from synthmix.config import HardwareConfig

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")


def examine_slurm(profiles: Mapping[str, HardwareConfig], study: str) -> Iterator[Finding]:
    """SLURM's commands and controller, then each profile's partition, account and whole request."""
    lacking = [name for name in COMMANDS if shutil.which(name) is None]
    if len(lacking) == len(COMMANDS):
        yield _absent(profiles)
        return
    if lacking:
        yield missing(f"SLURM: not on PATH: {', '.join(lacking)}")
    try:
        yield ok(f"SLURM: {queue.command(['sbatch', '--version']).strip()}; arrays of up to {queue.max_array_size()}")
        for name, profile in profiles.items():
            yield from _profile(name, profile, study)
    except queue.SlurmError as error:  # what does not answer once is not asked again
        yield missing(f"SLURM: {error}")


def _absent(profiles: Mapping[str, HardwareConfig]) -> Finding:
    several = [name for name, profile in profiles.items() if profile.nodes > 1]
    said = "SLURM: none here; 'synthmix run STUDY' needs none, slurm/sweep.sh does"
    return missing(f"{said}, and so does a cell on several nodes ({several[0]})") if several else unknown(said)


def _profile(name: str, profile: HardwareConfig, study: str) -> Iterator[Finding]:
    yield _partition(name, profile.slurm.partition)
    if profile.slurm.account:
        yield _account(name, profile.slurm.account)
    yield _request(name, profile, study)


def _partition(name: str, wanted: str | None) -> Finding:
    """Whether the partition exists and is up, and what its nodes are."""
    listed = queue.command(["sinfo", "--noheader", "--format=%P|%a|%D|%c|%m|%G|%l"])
    rows = [line.split("|") for line in listed.splitlines()]
    own = [row for row in rows if (row[0].rstrip("*") == wanted if wanted else row[0].endswith("*"))]
    key = f"configs/hardware/{name}.yaml: slurm.partition = {wanted or 'null'}"
    if not own:
        there = ", ".join(dict.fromkeys(row[0].rstrip("*") for row in rows))
        return missing(f"{key}: {'no such partition' if wanted else 'no default partition'}; there are: {there}")
    if all(row[1] != "up" for row in own):
        return missing(f"{key}: the partition is {own[0][1]}")
    kinds = "; ".join(f"{n} x {c} cores, {m} MB, {g if g != '(null)' else 'no GPU'}" for _, _, n, c, m, g, _ in own)
    return ok(f"{key}: {own[0][0].rstrip('*')} is up, limit {own[0][6]}: {kinds}")


def _account(name: str, account: str) -> Finding:
    key = f"configs/hardware/{name}.yaml: slurm.account = {account}"
    if shutil.which("sacctmgr") is None:
        return unknown(f"{key}: no sacctmgr here to ask")
    words = [
        "sacctmgr",
        "--noheader",
        "--parsable2",
        "show",
        "associations",
        f"user={getpass.getuser()}",
        "format=account",
    ]
    try:
        mine = sorted(set(queue.command(words).split()))
    except queue.SlurmError as error:
        return unknown(f"{key}: {error}")
    if not mine:
        return unknown(f"{key}: accounting knows no account of yours")
    return ok(key) if account in mine else missing(f"{key}: not yours; you have {', '.join(mine)}")


def _request(name: str, profile: HardwareConfig, study: str) -> Finding:
    """Asks sbatch whether it would take a cell of this profile, with the options that a sweep gives; nothing is queued."""
    options = sbatch_options(Array(name, 0, name, ["cell"]), profile, study, Path("."))
    said = f"configs/hardware/{name}.yaml: slurm"
    try:
        queue.command(["sbatch", "--test-only", *options, "--wrap=true"], say="sbatch")
    except queue.SlurmError as error:
        lines = [re.sub(r"^(sbatch: )*(error: )?", "", line) for line in str(error).splitlines()]
        return missing(f"{said}: sbatch would refuse its cells: {'; '.join(dict.fromkeys(lines))}")
    return ok(f"{said}: sbatch would take its cells")
