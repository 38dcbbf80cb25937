"""A record: small, without the store, and with the same numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synthmix import keys
from synthmix.analysis import Analysis, load_study, write_report
from synthmix.analysis.blindspots import blind_spots
from synthmix.analysis.load import StudyData
from synthmix.analysis.record import TEXT, narrow, write_record
from synthmix.errors import UserError

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def study(make_store: Make) -> StudyData:
    """Two tasks with groups and a probe, one cell failed; confidences under every estimator."""
    root = make_store(
        proportions=(0.0, 0.5), iterations=1, items=120, groups=True, failed=("nano-facts.replace-50.it1.s1",)
    )
    for path in root.glob("cells/*/items.parquet"):
        frame = pd.read_parquet(path)
        rng = keys.generator("more", path.parent.name)
        frame["confidence_agreement"] = rng.integers(0, 11, size=len(frame)) / 10  # on the edges of the bins
        frame["confidence_p_true"] = rng.uniform(size=len(frame))
        frame["confidence_answer"] = np.where(frame.score > 0, frame.confidence_mean**0.5, np.nan)
        frame.to_parquet(path, index=False)
    return load_study("sketch", root=root)


@pytest.fixture(scope="module")
def record(study: StudyData, tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    return load_study(write_record(study, tmp_path_factory.mktemp("lab") / "record"))


def test_the_table_of_cells_is_the_same(study: StudyData, record: StudyData) -> None:
    pd.testing.assert_frame_equal(record.cells, study.cells)
    pd.testing.assert_frame_equal(record.done, study.done)
    assert record.name == "sketch" and record.plan == study.plan and record.config == study.config


def test_items_are_the_same_but_for_rounding(study: StudyData, record: StudyData) -> None:
    """``narrow`` columns to 6e-8, all others to the last bit; texts that a model wrote are not there."""
    ours, theirs = record.items, study.items
    assert "completion" not in ours and "prediction_flexible" not in ours and "logprob" not in ours
    for column in ours:
        if ours[column].dtype == np.float64:
            np.testing.assert_allclose(ours[column], theirs[column], rtol=6.1e-8, atol=0)
        else:
            assert list(ours[column].astype(object).fillna("")) == list(theirs[column].astype(object).fillna("")), (
                column
            )
    for exact in ("score", "score_flexible", "confidence_agreement"):
        assert ours[exact].equals(theirs[exact]), exact


@pytest.mark.slow
def test_statistics_are_the_same_to_a_millionth(study: StudyData, record: StudyData) -> None:
    for split, group in (("test", None), ("validation", None), ("hans", ("answerable", "no"))):
        ours, theirs = (Analysis(s, 200, split, group).conditions for s in (record, study))
        assert len(ours) == 6, "two tasks: a baseline, 0 % and 50 %"
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6, atol=1e-9)
        assert ours.confidence_agreement_ece.notna().all()


def test_rows_of_one_split_and_some_columns(study: StudyData, record: StudyData) -> None:
    for columns, split in ((["item", "score"], "hans"), (None, "validation"), (["confidence"], None)):
        ours, theirs = (s.read_items(columns, split) for s in (record, study))
        assert len(ours) == len(theirs) and set(ours) <= set(theirs)
        assert np.allclose(
            ours[columns[-1] if columns else "confidence"], theirs[columns[-1] if columns else "confidence"]
        )
    name = record.done["name"].iloc[0]
    assert set(record.item_columns(name)) <= set(study.item_columns(name))


def test_texts_come_with_it(study: StudyData, record: StudyData) -> None:
    for name in study.done["name"]:
        kept = [t for t in study.examples(name) if t["source"] == "external"][:3]
        kept += [t for t in study.examples(name) if t["source"] == "synthetic"][:3]
        assert record.examples(name) == kept and len(kept) in (3, 6)
        assert record.pool_texts(name, 5) == study.pool_texts(name, 5)
    failed = study.cells[study.cells.status == "failed"]["name"].iloc[0]
    assert record.examples(failed) == [] and record.pool_texts(failed, 3) == []


def test_long_texts_are_cut(make_store: Make, tmp_path: Path) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=0, items=20)
    (folder,) = root.glob("cells/*")
    (folder / "examples.json").write_text(json.dumps([{"source": "external", "text": "x" * 5000}]))
    found = load_study(write_record(load_study("sketch", root=root), tmp_path / "record"))
    (text,) = found.examples(folder.name)
    assert text["text"] == "x" * TEXT + " […]"


@given(arrays(np.float64, 50, elements=st.floats(0, 1) | st.integers(0, 20).map(lambda k: k / 20)), st.integers(2, 40))
def test_narrow_values_stay_in_their_bin(values: np.ndarray, bins: int) -> None:
    found = narrow(values, {10, bins})
    assert found.dtype == np.float32
    for n in (10, bins):
        edges = np.arange(1, n) / n
        before, after = (np.searchsorted(edges, v, side="right") for v in (values, found.astype(np.float64)))
        assert np.array_equal(before, after)
    np.testing.assert_allclose(found, values, rtol=1.2e-7, atol=1e-44)


def test_plain_rounding_would_move_values_to_another_bin() -> None:
    """What ``narrow`` is for: 0.7 as a 32-bit float is below 0.7."""
    edges = np.arange(1, 10) / 10
    assert np.searchsorted(edges, np.float64(np.float32(0.7)), side="right") != np.searchsorted(
        edges, 0.7, side="right"
    )


def labelled(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Items of natural language inference: three labels in the test set, two in HANS."""
    rng = keys.generator("labels", name)
    gold = keys.generator("gold").choice(["entailment", "neutral", "contradiction"], size=len(frame))
    gold = np.where((frame.split == "hans") & (gold != "entailment"), "non-entailment", gold)
    right = rng.uniform(size=len(frame)) < 0.7
    other = np.where(frame.split == "hans", "non-entailment", "neutral")
    part = np.where(frame.split == "hans", "subsequence", None)
    return frame.assign(
        gold=gold, prediction=np.where(right, gold, other), score=np.where(right, 1.0, (gold == other) * 1.0),
        group_label=gold, group_heuristic=part, group_subcase=part,
    )  # fmt: skip


def test_blind_spots_are_the_same(make_store: Make, tmp_path: Path) -> None:
    root = make_store(tasks=("nano-math",), proportions=(0.0, 0.5), iterations=1, items=60, groups=True)
    for path in root.glob("cells/*/items.parquet"):
        labelled(pd.read_parquet(path), path.parent.name).to_parquet(path, index=False)
    before = blind_spots(load_study("sketch", root=root))
    after = blind_spots(load_study(write_record(load_study("sketch", root=root), tmp_path / "record")))
    assert len(before) and before.gap_two_way.notna().all()
    pd.testing.assert_frame_equal(after, before)


@pytest.mark.slow
def test_the_report_of_a_record_is_that_of_its_store(make_store: Make, tmp_path: Path) -> None:
    root = make_store(tasks=("nano-math",), proportions=(0.0, 0.5), iterations=1, items=60, groups=True)
    for path in root.glob("cells/*/items.parquet"):
        labelled(pd.read_parquet(path), path.parent.name).to_parquet(path, index=False)
    study = load_study("sketch", root=root)
    record = load_study(write_record(study, tmp_path / "record"))
    pages = [write_report(s, tmp_path / str(i)).with_suffix(".md").read_text() for i, s in enumerate((study, record))]
    assert pages[0] == pages[1]
    drawn = [{p.name: p.read_text() for p in (tmp_path / str(i)).glob("figures/*.svg")} for i in (0, 1)]
    assert drawn[0].keys() == drawn[1].keys() and len(drawn[0]) > 5


def test_it_is_small(make_store: Make, tmp_path: Path) -> None:
    """5 MB for 190 cells of 1,200 items under four estimators; here twelve cells of 1,200 (600 and 600)."""
    root = make_store(tasks=("nano-math",), iterations=1, proportions=(0.0, 0.1, 0.2, 0.3, 0.5), items=600)
    for path in root.glob("cells/*/items.parquet"):
        frame = pd.read_parquet(path)
        frame["confidence_p_true"] = keys.generator("p", path.parent.name).uniform(size=len(frame))
        frame["confidence_answer"] = frame.confidence_mean**0.5
        frame.to_parquet(path, index=False)
    folder = write_record(load_study("sketch", root=root), tmp_path / "record")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6 * 12 / 190


def test_the_same_study_makes_the_same_bytes(study: StudyData, tmp_path: Path) -> None:
    first, second = (write_record(load_study(study.name, root=study.root), tmp_path / n) for n in ("a", "b"))
    assert [p.name for p in sorted(first.iterdir())] == [
        "cells.parquet", "items.parquet", "plan.json", "record.json", "study.yaml", "texts.json"]  # fmt: skip
    assert all((second / path.name).read_bytes() == path.read_bytes() for path in first.iterdir())


def test_it_tells_nothing_of_the_machine(make_store: Make, tmp_path: Path) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=1, proportions=(0.0,), items=20)
    settings = root / "studies" / "sketch" / "study.yaml"
    config = yaml.safe_load(settings.read_text()) | {"data": {"root": str(root / "data")}, "store": {"root": "~/runs"}}
    settings.write_text(yaml.safe_dump(config))
    for path in root.glob("cells/*it1*/result.json"):
        (path.parent / "failure.json").write_text(
            json.dumps({"error": f"DataError: {root}/data/train.jsonl: cut / torn"})
        )
        path.unlink()
    (log,) = (path.parent / "metrics.jsonl" for path in root.glob("cells/*/result.json"))
    log.write_text('{"step": 1')
    record = load_study(write_record(load_study("sketch", root=root), tmp_path / "record"))
    assert record.config["data"] == {"root": "data"} and record.config["store"] == {"root": "runs"}
    assert list(record.cells.error) == ["", "DataError: train.jsonl: cut / torn"]
    assert len(record.notes) == 1 and "ends in the middle of a line" in record.notes[0]
    kept = [path.read_text() for path in (tmp_path / "record").iterdir() if path.suffix != ".parquet"]
    assert not any(str(tmp_path.parent) in text or str(root) in text for text in [*kept, record.cells.to_csv()])


def test_a_damaged_cell_stays_one(make_store: Make, tmp_path: Path) -> None:
    root = make_store(tasks=("nano-math",), iterations=0, items=20)
    path = next(root.glob("cells/*s1*/items.parquet"))
    path.write_bytes(path.read_bytes()[:500])
    study = load_study("sketch", root=root)
    record = load_study(write_record(study, tmp_path / "record"))
    assert list(record.cells.status) == ["done", "damaged"] and len(record.items) == 40
    assert record.notes == study.notes and len(record.notes) == 1


def test_a_study_without_a_finished_cell_has_a_record(make_store: Make, tmp_path: Path) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=0, planned=("nano",))
    record = load_study(write_record(load_study("sketch", root=root), tmp_path / "record"))
    assert list(record.cells.status) == ["planned"] and record.items.empty and record.done.empty


def test_only_its_own_files_are_written_over(study: StudyData, tmp_path: Path) -> None:
    folder = write_record(load_study(study.name, root=study.root), tmp_path / "record")
    (folder / "README.md").write_text("what was found")
    write_record(load_study(study.name, root=study.root), folder)
    assert (folder / "README.md").read_text() == "what was found" and len(load_study(folder).done) == 11
    with pytest.raises(UserError, match="is the folder of a study in a store"):
        write_record(study, study.root / "studies" / study.name)


def test_what_a_record_does_not_hold_is_said(record: StudyData, tmp_path: Path) -> None:
    name = record.cells["name"].iloc[0]
    with pytest.raises(UserError, match="a record has no folder of cell nano-0.9m"):
        record.folder(name)
    with pytest.raises(UserError, match=r"a record has no metrics\.jsonl of cell"):
        record.metrics(name)
    with pytest.raises(UserError, match="is a record already; copy the folder"):
        write_record(record, tmp_path / "again")


def test_a_damaged_record_is_named(record: StudyData, tmp_path: Path) -> None:
    """Not set aside cell by cell: its items are one file."""
    folder = Path(shutil.copytree(record.root, tmp_path / "copy"))
    items = (folder / "items.parquet").read_bytes()
    (folder / "items.parquet").write_bytes(items[: len(items) // 2])
    with pytest.raises(UserError, match=r"copy/items\.parquet: cannot be read"):
        load_study(folder).items  # noqa: B018 - reading is what fails
    (folder / "items.parquet").write_bytes(items)
    about: dict[str, Any] = json.loads((folder / "record.json").read_text())
    about["rows"][0][1] += 1
    (folder / "record.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"items\.parquet: 3960 rows; record\.json says 3961"):
        load_study(folder).verify()
    (folder / "record.json").write_text(json.dumps(about | {"format": 7}))
    with pytest.raises(UserError, match=r"record\.json: format 7; this synthmix reads 1"):
        load_study(folder)
