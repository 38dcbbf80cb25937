"""``slurm/sweep.sh`` against a real SLURM: arrays, dependencies, failures, cancel, holds, large plans."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from synthmix.cluster import queue
from synthmix.cluster.submissions import submissions
from synthmix.study.store import Store

if TYPE_CHECKING:
    from tests.slurm.conftest import Site


HELD = {"warn_s: 10": "warn_s: 10, sbatch: [--hold]"}


def test_two_levels_run_as_arrays_one_after_the_other(site: Site) -> None:
    said = site.sweep("tiny", "iterations=1", "seeds=[0,1]")
    jobs = re.findall(r"job (\d+): level (\d) on node, (\d+) cells(?:, after (\d+))?", said)
    (first, *_), (_, _, _, after) = jobs
    assert [(level, cells) for _, level, cells, _ in jobs] == [("0", "2"), ("1", "4")] and after == first
    assert set(site.settle().values()) == {"done"}
    plan, store = site.plan()
    finished = {cell.hash: store.result(cell)["finished"] for cell in plan.cells}
    starts = {one.level: [finished[c.hash] for c in plan.cells if c.level == one.level] for one in plan.cells}
    assert max(starts[0]) <= min(starts[1])
    assert not list(site.root.glob("runs/cells/*/lease.*"))
    assert "everything is done (6 of 6 cells done)" in site.sweep("tiny", "iterations=1", "seeds=[0,1]")


def test_the_sweep_itself_as_a_job(site: Site) -> None:
    """``sbatch slurm/sweep.sh``: the cells are submitted from a compute node, which has a copy of the script only."""
    said, _ = site.start("tiny", "iterations=0", by=("sbatch", "--parsable", "--mem=600M")).communicate()
    output = site.root / f"synthmix-sweep.{said.strip()}.out"
    site.wait_for(lambda: output.exists() and "1 cells submitted" in output.read_text())
    assert set(site.settle().values()) == {"done"}


def test_a_failed_cell_blocks_its_descendants_only(site: Site) -> None:
    """A folder of one seed's chain cannot be written: its child says by whom it is blocked; the other seed goes on."""
    words = ("tiny", "iterations=1", "seeds=[0,1]", "proportions=[0]")
    site.synthmix("plan", *words)
    plan, store = site.plan()
    broken = plan.cells[0]
    store.folder(broken).mkdir(parents=True)
    (store.folder(broken) / "metrics.jsonl").symlink_to("/dev/full")
    site.sweep(*words)
    states = site.settle()
    child = next(cell for cell in plan.cells if cell.parent == broken.hash)
    others = {name for name in states if name not in (broken.name, child.name)}
    assert (states[broken.name], states[child.name]) == ("failed", "blocked")
    assert {states[name] for name in others} == {"done"}
    about = {one.cell.name: one for one in site.states()}
    assert "no space left on the disk" in about[broken.name].about and about[broken.name].log
    assert about[child.name].about.startswith(f"by {broken.name}")
    assert f"blocked: {broken.name} failed" in site.log()


def test_two_sweeps_of_one_study_at_once(site: Site) -> None:
    """Both are submitted at the same moment; each cell is queued once, computed once."""
    both = [site.start("tiny", "iterations=1") for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert sum("cells submitted" in one for one in said) == 1
    assert sum("has 1 of the cells already" in one and "has 2 of the cells already" in one for one in said) == 1
    assert set(site.settle().values()) == {"done"}
    assert site.log().count("accuracy") == 3, "one line of results a cell"


def test_cells_of_another_study_are_waited_for_and_not_computed_again(site: Site) -> None:
    """The baseline of another study's queue: it is there once that job ends, but for the pool that only this one needs."""
    (site.root / "configs/study/other.yaml").write_text((site.root / "configs/study/tiny.yaml").read_text())
    site.sweep("tiny", "iterations=1", "proportions=[0]")
    said = site.sweep("other", "iterations=1")
    first, second = (job for one in submissions(Store(site.root / "runs"), "tiny") for job in one.jobs)
    assert f"level 0 on node, 1 cells, after {first}\n" in said
    assert re.search(rf"level 1 on node, 2 cells, after {second}, \d+\n", said)
    assert set(site.settle("other").values()) == {"done"}
    assert site.log().count("mixture: ") == 2, "trained for the study that was there first"
    plan, store = site.plan("other")
    shared = [cell for cell in plan.cells if cell.proportion == 0]
    assert all(f"{cell.name}: done" in site.log("other") or cell.level == 0 for cell in shared)
    assert len((store.folder(plan.cells[0]) / "synthetic.jsonl").read_text().splitlines()) >= 32
    assert json.loads((store.folder(plan.cells[0]) / "train.json").read_text())["resumed"] is False


def test_cancel(site: Site) -> None:
    site.sweep("tiny")
    site.wait_for(lambda: any(task.state == "RUNNING" for task in site.tasks()))
    assert "5 tasks cancelled" in site.synthmix("cancel", "tiny").stdout
    site.wait_for(lambda: not site.tasks())
    assert set(site.settle().values()) <= {"ready", "waiting"}
    assert not [path for path in site.root.glob("runs/cells/*/failure.json")], "being cancelled is no failure"
    assert "5 cells submitted" in site.sweep("tiny")


def test_held_jobs_are_queued_and_say_so(site: Site) -> None:
    site.profile(**HELD)
    site.sweep("tiny", "iterations=0")
    (one,) = site.states()
    assert one.state == "queued" and one.about.endswith("JobHeldUser")
    queue.command(["scontrol", "release", one.about.split()[1].rstrip(",")])
    assert set(site.settle().values()) == {"done"}


@pytest.mark.parametrize("cells", [1000, 1400])
def test_a_large_plan_is_split_and_counted(site: Site, cells: int) -> None:
    """1,000 cells in two levels; 1,400 in one, more than an array of this cluster may have (1,001)."""
    site.profile(**HELD)
    iterations, seeds = (1, 500) if cells == 1000 else (0, 1400)
    site.sweep("tiny", f"iterations={iterations}", "proportions=[0]", f"seeds={json.dumps(list(range(seeds)))}")
    tasks = site.tasks()
    (sweep,) = submissions(Store(site.root / "runs"), "tiny")
    assert len({task.name for task in tasks}) == cells
    assert [len(array.cells) for array in sweep.arrays] == ([500, 500] if iterations else [1001, 399])
    assert {one.state for one in site.states()} == {"queued"}


def test_a_wrong_partition(site: Site) -> None:
    site.profile(main="nowhere")
    said = site.sweep("tiny", status=2)
    assert "sbatch refuses the cells of level 0 (configs/hardware/node.yaml)" in said
    assert "invalid partition specified: nowhere" in said and "Traceback" not in said
    assert not site.tasks()


def test_a_profile_that_is_refused_leaves_nothing_queued(site: Site) -> None:
    (site.root / "configs/hardware/huge.yaml").write_text("slurm: {partition: main, memory: 99999G}\n")
    (site.root / "configs/model/tiny2.yaml").write_text((site.root / "configs/model/tiny.yaml").read_text())
    said = site.sweep("tiny", "models=[tiny, tiny2]", "hardware_of={tiny2: huge}", status=2)
    assert "configs/hardware/huge.yaml" in said
    assert not site.tasks()
