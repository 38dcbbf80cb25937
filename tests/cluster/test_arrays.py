"""Arrays from plans: every cell once, parents' jobs first, options as sbatch takes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmix.cluster.arrays import Array, environment_script, jobs_before, make_arrays, runnable, sbatch_options
from synthmix.config import HardwareConfig, SlurmConfig, load_study
from synthmix.study.cells import Plan, make_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Two models on two profiles, two iterations."""
    config = load_study(
        "quickstart",
        ["models=[nano-0.3m, nano-0.9m]", "tasks=[nano-math]", "iterations=2", "seeds=[0, 1]", "proportions=[0, 0.5]",
         "hardware_of={nano-0.9m: cpu-bf16}"],
    )  # fmt: skip
    return make_plan(config)


def test_a_model_goes_to_its_own_profile(plan: Plan) -> None:
    by_model = {cell.model: plan.hardware_of(cell).name for cell in plan.cells}
    assert by_model == {"nano-0.3m": "cpu", "nano-0.9m": "cpu-bf16"}


def test_a_profile_of_its_own_changes_a_cell_only_by_its_precision(plan: Plan) -> None:
    alone = make_plan(dataclasses.replace(plan.config, hardware_of={}))
    same = {cell.hash for cell in plan.cells} & {cell.hash for cell in alone.cells}
    assert same == {cell.hash for cell in plan.cells if cell.model == "nano-0.3m"}


@given(largest=st.integers(1, 30))
def test_every_cell_stands_in_one_array_and_no_array_is_too_large(plan: Plan, largest: int) -> None:
    arrays = make_arrays(plan.cells, plan, largest)
    named = [name for array in arrays for name in array.cells]
    assert sorted(named) == sorted(cell.name for cell in plan.cells)
    assert max(len(array.cells) for array in arrays) <= largest
    assert len({array.name for array in arrays}) == len(arrays)
    by_name = {cell.name: cell for cell in plan.cells}
    for array in arrays:
        kinds = {(by_name[name].level, plan.hardware_of(by_name[name]).name) for name in array.cells}
        assert kinds == {(array.level, array.hardware)}


def test_each_array_waits_for_the_jobs_of_its_chains_only(plan: Plan) -> None:
    job_of: dict[str, str] = {}
    after = {}
    for number, array in enumerate(make_arrays(plan.cells, plan, 1000), start=10):
        after[array.name] = (str(number), jobs_before(array, plan, job_of))
        job_of |= dict.fromkeys(array.cells, str(number))
    for profile in ("cpu", "cpu-bf16"):
        jobs = [after[f"l{level}.{profile}"] for level in range(3)]
        assert [waits for _, waits in jobs] == [[], [jobs[0][0]], [jobs[0][0], jobs[1][0]]]


def test_what_failed_too_often_takes_its_descendants_with_it(plan: Plan) -> None:
    states = {cell.hash: "waiting" for cell in plan.cells}
    done, lost = plan.cells[0], next(cell for cell in plan.cells if cell.level == 1)
    states[done.hash] = "done"
    run, never = runnable(plan, states, {lost.hash})
    below = [cell for cell in plan.cells if lost in plan.ancestors(cell)]
    assert below and never == [lost, *below]
    assert [cell.hash for cell in run] == [c.hash for c in plan.cells if c not in (done, *never)]


def test_options_of_a_profile() -> None:
    asked = SlurmConfig(
        partition="gpu", account="lab", qos="long", gpus="gpu:a100:4", cpus_per_task=8, memory="200G", time="1-00:00:00",
        warn_s=300, max_tasks=16, sbatch=["--exclusive"],
    )  # fmt: skip
    profile = HardwareConfig(name="big", accelerator="gpu", devices=4, nodes=2, slurm=asked)
    array = Array("l1.big", 1, "big", ["a", "b", "c"], after=["12", "13"])
    assert sbatch_options(array, profile, "mine", Path("/s/001")) == [
        "--requeue", "--job-name=mine.l1.big", "--array=0-2%16", "--output=/s/001/logs/%x.%A_%a.out", "--open-mode=append",
        "--signal=USR1@300", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=8", "--partition=gpu", "--account=lab",
        "--qos=long", "--gres=gpu:a100:4", "--mem=200G", "--time=1-00:00:00", "--dependency=afterany:12:13", "--exclusive",
    ]  # fmt: skip


def test_what_is_not_asked_for_is_left_to_the_site() -> None:
    words = sbatch_options(Array("l0.cpu", 0, "cpu", ["a"]), HardwareConfig(), "mine", Path("/s/001"))
    named = {word.split("=")[0] for word in words}
    assert not named & {"--partition", "--account", "--qos", "--gres", "--mem", "--time", "--dependency"}
    assert "--array=0-0" in words


def test_the_environment_of_a_cell() -> None:
    asked = SlurmConfig(
        modules=["cuda/12.4"], setup=["export A=1"], container="apptainer exec x.sif", srun=["--mpi=none"]
    )
    lines = environment_script(HardwareConfig(name="big", slurm=asked)).splitlines()
    assert lines[1:] == [
        "module load cuda/12.4", "export A=1", "SRUN=(--mpi=none)", "CONTAINER=(apptainer exec x.sif)", "PYTHON=python3",
    ]  # fmt: skip
