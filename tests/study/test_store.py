"""The store: files that cannot be read are named, and a look at a thousand cells reads each file once."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from synthmix.config import load_study
from synthmix.errors import StoreError
from synthmix.study.cells import Cell, Plan, make_plan
from synthmix.study.store import Store


def plan_of(*words: str) -> Plan:
    fixed = ("tasks=[nano-math]", "grids=[]", "iterations=2", "proportions=[0,.5]", "seeds=[0]")
    return make_plan(load_study("quickstart", [*fixed, *words]))


def finish(store: Store, cell: Cell, kept: int = 10**6, halted: bool = False, model: bool = True) -> None:
    """Leaves what a finished cell leaves."""
    folder = store.folder(cell)
    (folder / "model").mkdir(parents=True)
    (folder / "pool.json").write_text(json.dumps({"kept": kept, "wanted": kept, "capped": False}))
    (folder / "result.json").write_text(json.dumps({"alert": {"halted": halted}}))
    if model:
        (folder / "model/config.json").write_text("{}")


@pytest.mark.parametrize(
    "name,content,told",
    [
        ("result.json", '{"alert": {"hal', "Delete it to finish the cell again"),
        ("result.json", "", "cannot be read"),
        ("result.json", "[]", "holds list, expected an object"),
        ("result.json", "{}", "alert = None, expected dict"),
        ("result.json", b"\xff\xfe{}", "cannot be read"),
        ("pool.json", '{"kept": 1', "Delete it to have the pool counted again"),
        ("pool.json", '{"kept": "many"}', "kept = 'many', expected int"),
        ("failure.json", '{"error"', "Delete it to try the cell again"),
        ("failure.json", "{}", "error = None, expected str"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    """And never computed again without a word: a result is not "not there" because a disk is bad."""
    store, plan = Store(tmp_path), plan_of()
    baseline, child = plan.cells[0], plan.children(plan.cells[0])[-1]
    finish(store, baseline)
    path = store.folder(baseline if name != "failure.json" else child) / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for ask in (lambda: store.state(child, plan), lambda: store.states(plan)):
        with pytest.raises(StoreError) as error:
            ask()
        assert str(error.value).startswith(f"{path}: ") and told in str(error.value)
    path.unlink()
    expected = {"result.json": "waiting", "pool.json": "waiting", "failure.json": "ready"}[name]
    assert Store(tmp_path).state(child, plan) == expected


def test_the_commands_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from synthmix.cli import main

    monkeypatch.chdir(tmp_path)
    words = ("quickstart", "tasks=[nano-math]", "grids=[]", "iterations=0", "seeds=[0]")
    store, (cell,) = Store("runs"), plan_of("iterations=0").cells
    finish(store, cell)
    (store.folder(cell) / "result.json").write_text('{"alert"')
    assert main(["status", *words]) == 2
    said = capsys.readouterr()
    assert f"runs/cells/{cell.name}/result.json: cannot be read" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("init_from", ["base", "phase0", "previous"])
def test_a_look_at_all_cells_says_what_looks_at_each_say(tmp_path: Path, init_from: str) -> None:
    """On stores at random stages, with failures, halted chains, short pools and models that are gone."""
    plan = plan_of("iterations=4", "proportions=[0,.2,.5]", "seeds=[0,1]", f"mixing.init_from={init_from}")
    seen = set()
    for stage in range(25):
        store, choose = Store(tmp_path / str(stage)), random.Random(stage)
        for cell in plan.cells:
            upstream = cell.parent is None or store.is_done(plan.by_hash[cell.parent])
            if upstream and choose.random() < 0.8:
                finish(
                    store, cell, choose.choice((0, 10**6)), halted=choose.random() < 0.2, model=choose.random() < 0.7
                )
            elif choose.random() < 0.2:
                store.folder(cell).mkdir(parents=True)
                (store.folder(cell) / "failure.json").write_text('{"error": "no luck"}')
        found = Store(store.root).states(plan)
        assert found == {cell.hash: Store(store.root).state(cell, plan) for cell in plan.cells}
        some = plan.cells[::3]
        assert store.states(plan, some) == {cell.hash: found[cell.hash] for cell in some}
        seen |= set(found.values())
    assert seen >= {"done", "ready", "waiting", "failed", "blocked", "halted"}


def test_a_look_reads_every_file_once_however_long_the_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of 500 iterations that begin from each other; each cell asks the ones after it."""
    plan = plan_of("iterations=500", "proportions=[0,.5]", "mixing.init_from=previous")
    store = Store(tmp_path)
    for cell in plan.cells[:900]:
        finish(store, cell)
    read: dict[str, int] = {}
    read_text = Path.read_text

    def counted(path: Path, encoding: str | None = None) -> str:
        read[str(path)] = read.get(str(path), 0) + 1
        return read_text(path, encoding)

    monkeypatch.setattr(Path, "read_text", counted)
    states = Store(tmp_path).states(plan)
    assert list(states.values()).count("done") == 900 and list(states.values()).count("ready") == 2
    assert len(read) >= 900 and set(read.values()) == {1}
