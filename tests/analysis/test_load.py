from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synthmix.analysis import load_study
from synthmix.analysis.load import StudyData
from synthmix.errors import UserError

Make = Callable[..., Path]


def test_cells_hold_the_plan_and_the_results(store: Path) -> None:
    study = load_study("sketch", root=store)
    assert len(study.cells) == 2 * 2 * (1 + 4 * 2) == 36
    assert set(study.cells.status) == {"done"}
    row = study.cells.iloc[-1]
    result = json.loads((study.folder(row["name"]) / "result.json").read_text())
    assert row.test_score == result["test"]["score"]
    assert row.validation_ece == result["validation"]["ece"]
    assert row.diversity_self_bleu == result["diversity"]["self_bleu"]
    assert (row.pool_kept, row.mixture_synthetic) == (200, result["mixture"]["synthetic"])
    assert row.versions_torch == "2.13.0" and row.alert_level == result["alert"]["level"]
    assert json.loads(row.pool_reasons) == {"no marker": 12}


def test_items_are_one_row_an_evaluated_item_with_their_cell(store: Path) -> None:
    study = load_study("sketch", root=store)
    assert len(study.items) == 36 * 2 * 200
    means = study.items[study.items.split == "test"].groupby("hash", observed=True).score.mean()
    expected = study.cells.set_index("hash").test_score
    assert (means - expected).abs().max() < 1e-12
    one = study.items[study.items.hash == study.cells.hash.iloc[5]]
    for column in ("model", "task", "mode", "proportion", "iteration", "seed", "parameters"):
        assert set(one[column]) == {study.cells[column].iloc[5]}


def test_reading_some_columns_of_one_split(store: Path) -> None:
    frame = load_study("sketch", root=store).read_items(["item", "score", "not_there"], split="test")
    assert "not_there" not in frame and "completion" not in frame and len(frame) == 36 * 200


def test_a_study_is_found_by_its_folder_too(store: Path) -> None:
    study = load_study(store / "studies" / "sketch")
    assert study.root == store.resolve() and study.config["tasks"] == ["nano-math", "nano-facts"]


def test_incomplete_studies_load_as_far_as_they_got(make_store: Make) -> None:
    root = make_store(failed=("nano-math.replace-50",), planned=("it2",), seeds=(0,))
    study = load_study("sketch", root=root)
    counts = study.cells.status.value_counts().to_dict()
    assert counts == {"done": 9, "planned": 7, "blocked": 1, "failed": 1}, "it2 of the failed chain is blocked"
    assert set(study.cells[study.cells.status == "failed"].error) == {"StoreError: <no space> left on the disk"}
    assert set(study.items.iteration) == {0, 1}


def test_cells_below_a_critical_alert_that_halts_are_halted(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), proportions=(0.0, 0.5), planned=("it2", "it3"), iterations=3)
    (path,) = root.glob("cells/*replace-50.it1*/result.json")
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"alert": {"level": "critical", "ece_rise": 1.4, "halted": True}}))
    cells = load_study("sketch", root=root).cells
    late = cells[cells.iteration > 1]
    assert dict(zip(late.proportion, late.status, strict=True)) == {0.0: "planned", 0.5: "halted"}
    assert (late.status == "halted").sum() == 2


def test_parameters_of_cells_to_come_are_those_of_the_plan(make_store: Make) -> None:
    root = make_store(planned=("nano",), seeds=(0,))
    path = root / "studies" / "sketch" / "plan.json"
    plan = json.loads(path.read_text())
    for cell in plan["cells"]:
        del cell["parameters"]
    path.write_text(json.dumps(plan | {"models": {"nano-0.9m": {"parameters": 900_000}}}))
    assert set(load_study("sketch", root=root).cells.parameters) == {900_000}


def test_a_folder_without_a_result_is_a_started_cell(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=0)
    (folder,) = (root / "cells").iterdir()
    (folder / "result.json").unlink()
    study = load_study("sketch", root=root)
    assert list(study.cells.status) == ["started"] and study.done.empty and study.items.empty


def test_an_unknown_study_names_a_near_match(store: Path) -> None:
    with pytest.raises(UserError, match=r"unknown study 'skecth'\. Did you mean 'sketch'\?"):
        load_study("skecth", root=store)


def test_a_torn_last_line_of_a_pool_is_not_read(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=0)
    study = load_study("sketch", root=root)
    name = study.cells["name"].iloc[0]
    with (study.folder(name) / "synthetic.jsonl").open("a") as file:
        file.write('{"text": "tor')
    assert study.pool_texts(name, 5) == ["Question: Cy?\nAnswer: 3"]


@pytest.mark.slow
def test_cells_of_a_large_study_open_without_their_items(make_store: Make) -> None:
    """2,000 finished cells: the table of cells looks at the ends of their item tables, and reads none."""
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=0)
    (template,) = (root / "cells").iterdir()
    result = json.loads((template / "result.json").read_text())
    plan = json.loads((root / "studies" / "sketch" / "plan.json").read_text())
    cells = [plan["cells"][0] | {"name": f"cell-{seed}", "hash": f"{seed:08x}", "seed": seed} for seed in range(2000)]
    for cell in cells:
        (root / "cells" / cell["name"]).mkdir()
        (root / "cells" / cell["name"] / "result.json").write_text(json.dumps(result | cell))
        os.link(template / "items.parquet", root / "cells" / cell["name"] / "items.parquet")
    (root / "studies" / "sketch" / "plan.json").write_text(json.dumps(plan | {"cells": cells}))
    study = load_study("sketch", root=root)
    assert len(study.done) == 2000 and list(study.done.seed) == list(range(2000))
    items = study.read_items(["item", "score"], split="test")
    assert len(items) == 2000 * 200 and list(items.seed[::200]) == list(range(2000))


def test_items_of_some_cells(store: Path) -> None:
    study = load_study("sketch", root=store)
    names = list(study.cells["name"])[3:5]
    frame = study.read_items(["item"], cells=names)
    assert set(frame["hash"]) == set(study.cells["hash"][3:5]) and len(frame) == 2 * 2 * 200
    assert study.read_items(cells=[]).empty


def test_columns_of_one_cell(make_store: Make) -> None:
    study = load_study("sketch", root=make_store(groups=True, seeds=(0,), iterations=0, items=20))
    name = study.cells["name"].iloc[0]
    assert {"split", "item", "score", "group_answerable"} <= set(study.item_columns(name))
    assert set(study.read_items(["split"], cells=[name]).split) == {"test", "validation", "hans"}


def test_a_column_that_only_some_cells_have_is_empty_in_the_others(make_store: Make) -> None:
    root = make_store(seeds=(0,), iterations=0, items=20)
    path = next(root.glob("cells/*nano-math*/items.parquet"))
    frame = pd.read_parquet(path)
    frame.assign(group_size="large", score_em=0.25, confidence_answer=0.5).to_parquet(path, index=False)
    items = load_study("sketch", root=root).items
    there = items.task == "nano-math"
    assert set(items.group_size[there]) == {"large"} and items.group_size[~there].isna().all()
    assert items.score_em.dtype == items.confidence_answer.dtype == np.float64
    assert (items.confidence_answer.notna() == there).all() and (items.score_em.notna() == there).all()


def test_every_row_belongs_to_its_cell_and_keeps_its_values(store: Path) -> None:
    """Against pandas' own reader, file by file."""
    study = load_study("sketch", root=store)
    for name, hash_ in list(zip(study.done["name"], study.done["hash"], strict=True))[::7]:
        expected = pd.read_parquet(study.folder(name) / "items.parquet")
        found = study.items[study.items["hash"] == hash_].reset_index(drop=True)
        for column in expected:
            assert found[column].astype(expected[column].dtype).equals(expected[column]), column


def test_logs_are_a_row_a_line(store: Path, tmp_path: Path) -> None:
    study = load_study("sketch", root=store)
    name = study.cells["name"].iloc[0]
    assert list(study.metrics(name).columns) == ["time", "phase", "iteration", "step"] and study.metrics(name).empty
    cell = tmp_path / "cells" / "one"
    cell.mkdir(parents=True)
    (cell / "metrics.jsonl").write_text('{"step": 9, "train/loss": 0.5}\n{"step": null, "eval/test_score": 1.0}\n')
    logged = StudyData("one", tmp_path, {"cells": []}, {}).metrics("one")
    assert logged["train/loss"].tolist()[0] == 0.5 and logged["eval/test_score"].tolist()[1] == 1.0


def test_a_sound_study_has_nothing_to_note(store: Path) -> None:
    study = load_study("sketch", root=store)
    assert study.verify() is study and study.notes == [] and len(study.done) == 36
