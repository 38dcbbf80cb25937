"""Early warning: signals and outcomes against the files themselves, planted skill, and studies that cannot tell."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from synthmix import keys
from synthmix.analysis import Analysis, load_study
from synthmix.analysis.section import Section
from synthmix.analysis.warning.calibration_rise import calibration_rise_table
from synthmix.analysis.warning.forecasts import Forecasts
from synthmix.analysis.warning.section import (
    auroc_figure,
    auroc_table,
    lead_table,
    learned_table,
    paper_table,
    warning_section,
)
from synthmix.analysis.warning.sentences import sentences
from synthmix.analysis.warning.signals import COLUMNS, RIVAL, SIGNALS, estimators_of, loss_test, signal_table
from synthmix.metrics import equal_mass_calibration_error, expected_calibration_error
from synthmix.statistics import Interval
from synthmix.statistics.calibration import debiased_ece, ece_rise

Make = Callable[..., Path]
NAMES = [signal.name for signal in SIGNALS]


def analysis_of(root: Path, **changes: Any) -> Analysis:
    return Analysis(load_study("sketch", root), resamples=100, **changes)


@pytest.fixture(scope="module")
def chains(make_store: Make) -> Path:
    """Two tasks, three iterations, three seeds, an effect that some forecasts lose to: 78 cells."""
    return make_store(iterations=3, seeds=(0, 1, 2), proportions=(0.0, 0.2, 0.3, 0.4), effect=0.08)


@pytest.fixture(scope="module")
def section(chains: Path) -> Section:
    return section_of(chains)


@pytest.fixture(scope="module")
def table(chains: Path) -> pd.DataFrame:
    return signal_table(analysis_of(chains))


def folder(root: Path, row: pd.Series, **other: Any) -> Path:
    """The folder of the cell that a row is about, or of another iteration, mode or share."""
    names = ("model", "task", "mode", "proportion", "seed", "iteration")
    wanted = {name: row[name] for name in names if name in row} | other
    cells = json.loads((root / "studies" / "sketch" / "plan.json").read_text())["cells"]
    found = [cell for cell in cells if all(cell[name] == value for name, value in wanted.items())]
    assert len(found) == 1
    return root / "cells" / found[0]["name"]


def items(path: Path, split: str) -> pd.DataFrame:
    frame = pd.read_parquet(path / "items.parquet")
    return frame[frame.split == split].sort_values("item")


# -- one row a forecast ---------------------------------------------------------------------------------------------


def test_rows_are_the_cells_whose_chain_goes_on(table: pd.DataFrame) -> None:
    assert list(table.columns) == [*COLUMNS, *NAMES]
    assert len(table) == 2 * 3 * 3 * 2  # tasks, seeds, shares, t = 1 and 2
    assert set(table.iteration) == {1, 2} and (table.proportion > 0).all()
    assert table.chain.nunique() == 18 and table.baseline.nunique() == 6
    assert set(table.loss) == set(table.lost) == {0.0, 1.0}


@pytest.mark.parametrize("position", [0, 13, 35])
def test_signals_are_changes_of_validation_items_and_pools_since_phase_0(
    chains: Path, table: pd.DataFrame, position: int
) -> None:
    row = table.iloc[position]
    start = folder(chains, row, iteration=0, mode="baseline", proportion=0.0)
    now, before = (items(path, "validation") for path in (folder(chains, row), start))

    def rise(measure: Callable[..., float], column: str = "confidence") -> float:
        return measure(now[column], now.score, 10) / measure(before[column], before.score, 10) - 1

    assert row.ece == pytest.approx(rise(expected_calibration_error))
    assert row.ece_sum == pytest.approx(rise(expected_calibration_error, "confidence_sum"))
    assert row.ece_debiased == pytest.approx(rise(debiased_ece))
    assert row.ece_equal_mass == pytest.approx(rise(equal_mass_calibration_error))
    assert row.score == pytest.approx(before.score.mean() - now.score.mean())
    gaps = [(frame.confidence - frame.score) for frame in (now, before)]
    assert row.overconfidence == pytest.approx(gaps[0].mean() - gaps[1].mean())
    assert row.brier == pytest.approx((gaps[0] ** 2).mean() - (gaps[1] ** 2).mean())
    assert row.diversity == pytest.approx(0.2 * row.proportion * row.iteration)
    assert row.distinct == pytest.approx(0.1 * row.proportion * row.iteration)
    assert row.share == row.proportion
    assert math.isnan(row.ece_answer) and math.isnan(row.ece_p_true)  # the one is empty, the other is not there


@pytest.mark.parametrize("task", ["nano-math", "nano-facts"])
def test_a_loss_is_a_lower_score_than_the_controls_on_the_same_test_items(
    chains: Path, table: pd.DataFrame, task: str
) -> None:
    for _, row in table[table.task == task].head(6).iterrows():
        for step, outcome in ((0, row.lost), (1, row.loss)):
            ours = items(folder(chains, row, iteration=row.iteration + step), "test").score.to_numpy()
            control = folder(chains, row, iteration=row.iteration + step, proportion=0.0)
            theirs = items(control, "test").score.to_numpy()
            if task == "nano-math":
                lost, gained = int(((ours == 0) & (theirs == 1)).sum()), int(((ours == 1) & (theirs == 0)).sum())
                p = stats.binomtest(lost, lost + gained, alternative="greater").pvalue
            else:
                p = stats.ttest_rel(ours, theirs, alternative="less").pvalue
            assert outcome == float(p < 0.05)
        assert row.change == pytest.approx(ours.mean() - theirs.mean()) and row.p_loss == pytest.approx(p)


def test_against_phase_0_the_same_chain_is_compared_with_its_own_baseline(chains: Path) -> None:
    analysis = analysis_of(chains, control="baseline")
    row = signal_table(analysis).iloc[5]
    ahead = folder(chains, row, iteration=row.iteration + 1)
    start = folder(chains, row, iteration=0, mode="baseline", proportion=0.0)
    ours, theirs = (items(path, "test").score.to_numpy() for path in (ahead, start))
    assert row.change == pytest.approx(ours.mean() - theirs.mean())
    small = planted(2, ece=noisy(0.4))
    assert "against the chain's own phase 0" in sentences(Forecasts(small, 50, analysis.control))[0]


def test_signals_never_read_the_test_set_and_outcomes_nothing_else(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,))
    before = signal_table(analysis_of(root))
    original = {path: pd.read_parquet(path) for path in root.glob("cells/*/items.parquet")}
    for part, kept in (("test", NAMES), ("validation", ["lost", "loss", "change", "p_loss"])):
        for path, frame in original.items():
            hit = (frame.split == part).to_numpy()
            other = frame.assign(score=np.where(hit, 1 - frame.score, frame.score))
            other.loc[hit, ["confidence", "confidence_mean"]] /= 2
            other.to_parquet(path, index=False)
        after = signal_table(analysis_of(root))
        pd.testing.assert_frame_equal(after[kept], before[kept])
        assert not after.equals(before)


def test_loss_test_at_its_edges() -> None:
    ones, zeros = np.ones(8), np.zeros(8)
    assert loss_test(zeros, ones) == (-1.0, pytest.approx(0.5**8))
    assert loss_test(ones, zeros) == (1.0, 1.0)
    assert loss_test(ones, ones) == (0.0, 1.0)
    assert loss_test(np.array([0.2]), np.array([0.9]))[1] == 1.0
    assert loss_test(np.full(5, 0.25), np.full(5, 0.5)) == (-0.25, 0.0)
    assert math.isnan(loss_test(np.array([]), np.array([]))[0])


def test_a_rise_over_a_baseline_of_zero_exceeds_every_threshold(make_store: Make) -> None:
    """A debiased ECE of 0 at phase 0: the rule (now > 1.5 times before) is met by any later value above 0."""
    root = make_store(tasks=("nano-math",), seeds=(0,), proportions=(0.0, 0.3))
    start = next(root.glob("cells/*baseline*"))
    frame = pd.read_parquet(start / "items.parquet")
    hit = (frame.split == "validation").to_numpy()
    frame.loc[hit, "confidence"] = frame.loc[hit, "score"].mean()
    frame.to_parquet(start / "items.parquet", index=False)
    row = signal_table(analysis_of(root)).iloc[0]
    assert row.ece_debiased == math.inf and row.ece > 1e6


# -- planted skill --------------------------------------------------------------------------------------------------


def planted(seeds: int = 8, **signals: Callable[[np.random.Generator, np.ndarray], np.ndarray]) -> pd.DataFrame:
    """Forecasts of one task, three shares and two iterations a seed; losses by chance, signals as functions of them."""
    rng = keys.generator("planted", seeds)
    place = [(s, p, t) for s in range(seeds) for p in (0.2, 0.3, 0.4) for t in (1, 2)]
    frame = pd.DataFrame(place, columns=["seed", "proportion", "iteration"])
    frame = frame.assign(model="m", task="a", mode="replace", hash="", change=0.0, p_loss=0.5, lost=0.0)
    frame["loss"] = (rng.random(len(frame)) < 0.5).astype(float)
    frame["chain"] = frame.groupby(["seed", "proportion"]).ngroup()
    frame["baseline"] = frame.seed
    for name in NAMES:
        frame[name] = signals[name](rng, frame.loss.to_numpy()) if name in signals else math.nan
    return frame


def noisy(size: float) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    return lambda rng, loss: loss + size * rng.normal(size=len(loss))


def found(forecasts: Forecasts, name: str) -> Any:
    return next(judged for judged in forecasts.areas if judged.signal.name == name)


def test_planted_skill_is_found_and_noise_is_not() -> None:
    skilled = planted(ece=noisy(0.2), score=noisy(3.0), brier=lambda rng, loss: rng.normal(size=len(loss)))
    forecasts = Forecasts(skilled, 300)
    assert found(forecasts, "ece").area.low > 0.7 and found(forecasts, "ece").p < 1e-3
    assert found(forecasts, "brier").area.low < 0.5 < found(forecasts, "brier").area.high
    assert found(forecasts, "ece").gain.low > 0
    said = " ".join(sentences(forecasts))
    assert "1 of 3 signals rank what is lost above what is not beyond chance" in said
    assert "Better than it: ECE (1.00)" in said
    learned = {a.signal.name: a for a in forecasts.learned}
    assert learned["ece"].skill.f1.estimate > 0.95 and learned["ece"].skill.lift.low > 0.1
    assert learned["brier"].skill.lift.low < 0.1
    assert "1 of 3 signals have a precision above the base rate beyond its interval (ECE)" in said


def test_the_papers_thresholds_are_judged_as_they_are() -> None:
    table = planted(ece=lambda rng, loss: np.where(loss == 1, 0.8, 0.2))
    warning, critical = Forecasts(table, 200).paper
    assert warning.rule == "+50 %" and critical.rule == "+100 %"
    assert warning.skill.precision.estimate == warning.skill.recall.estimate == 1.0
    assert warning.skill.precision.low < 1.0  # eight baselines are not certainty
    assert critical.skill.alerts == 0
    frame = paper_table(Forecasts(table, 200)).frame.set_index("signal")
    assert frame.loc["ECE, as published (6.9B)", "precision"] == 0.91
    assert math.isnan(frame.loc["ECE, as published (6.9B)", "base_rate"])
    assert frame.loc["always on", "precision"] == pytest.approx(table.loss.mean())


def test_lead_times_stand_beside_the_chains_that_have_none() -> None:
    """Alerts at t = 1 in every chain; losses at t = 2 (in time), at t = 1 (with it), and never, by share."""
    table = planted(2, ece=lambda rng, loss: np.full(len(loss), 0.7))
    table["lost"] = ((table.proportion == 0.3) | ((table.proportion == 0.2) & (table.iteration == 2))).astype(float)
    table["loss"] = (table.proportion < 0.4).astype(float)
    frame = lead_table(Forecasts(table, 50)).frame.set_index("rule")
    row = frame.loc["+50 %"]
    assert (row.early, row.late, row.missed, row.unmatched, row.quiet) == (2, 2, 0, 2, 0)
    assert row.lead == 0.5 and frame.loc["+100 %", "missed"] == 4 and math.isnan(frame.loc["+100 %", "lead"])


def test_estimators_that_disagree_are_said_to() -> None:
    table = planted(ece=noisy(0.3), ece_sum=lambda rng, loss: -loss + 0.3 * rng.normal(size=len(loss)))
    said = " ".join(sentences(Forecasts(table, 200)))
    assert "ECE under 2 estimators and binnings" in said
    assert "point in opposite directions beyond their intervals" in said
    agreed = " ".join(sentences(Forecasts(table.assign(ece_sum=table.ece + 0.01 * table.loss), 200)))
    assert "opposite directions" not in agreed


def test_an_estimator_that_is_the_headlines_counts_once(table: pd.DataFrame) -> None:
    judged, same = estimators_of(table)
    assert [signal.name for signal in same] == ["ece_mean"]
    assert "ece_mean" not in [signal.name for signal in judged] and "ece_sum" in [signal.name for signal in judged]


def test_losses_that_had_begun_are_told_from_new_ones() -> None:
    table = planted(ece=noisy(0.2))
    begun = Forecasts(table.assign(lost=table.loss), 200)
    assert any("had shown at t already" in s and "one followed in 0 of" in s for s in sentences(begun))
    assert not isinstance(found(begun, "ece").fresh, Interval)
    assert found(Forecasts(table, 200), "ece").fresh.low > 0.7


def test_a_signal_of_tasks_is_no_skill_within_them() -> None:
    """Task b loses more often and has the larger signal: the pooled AUROC is high, that within tasks is not."""
    a, b = planted(10, ece=lambda rng, loss: rng.normal(size=len(loss))), planted(11)
    rng = keys.generator("b")
    b = b.assign(task="b", loss=(rng.random(len(b)) < 0.95).astype(float), ece=5 + rng.normal(size=len(b)))
    b["baseline"], b["chain"] = b.baseline + 100, b.chain + 1000
    a["loss"] = (rng.random(len(a)) < 0.1).astype(float)
    judged = found(Forecasts(pd.concat([a, b], ignore_index=True), 300), "ece")
    assert judged.area.low > 0.6 and judged.within.low < 0.5 < judged.within.high


def test_thresholds_learned_on_seeds_or_else_on_tasks() -> None:
    forecasts = Forecasts(planted(ece=noisy(0.2)), 100)
    assert forecasts.held_out == ("seed",)
    one = planted(1, ece=noisy(0.2))
    alone = Forecasts(one, 100)
    assert alone.held_out == () and alone.learned == []
    assert any("nothing to learn a threshold from" in s for s in sentences(alone))
    two = pd.concat([one, one.assign(task="b", baseline=1, chain=one.chain + 10)], ignore_index=True)
    assert Forecasts(two, 100).held_out == ("model", "task")
    assert any("the task and model that they have not seen" in s for s in sentences(Forecasts(two, 100)))


# -- the section ----------------------------------------------------------------------------------------------------


def section_of(root: Path, **changes: Any) -> Section:
    found = warning_section(analysis_of(root, **changes))
    assert found is not None
    return found


def test_the_section_of_a_study_with_losses_says_what_it_rests_on(section: Section) -> None:
    said = " ".join(section.sentences)
    assert section.sentences[0].startswith("36 forecasts") and "18 chains on 6 baselines" in said
    assert "the paper reports 91 % and 87 %, without a base rate" in said
    assert "with 6 baselines" in said and "the luck of training" in said
    names = ["warning_paper", "warning_auroc", "warning_learned", "warning_lead", "calibration_rise"]
    assert [printed.name for printed in section.tables] == names
    for printed in section.tables:
        assert not re.search(r"\bnan\b|None|inf", printed.markdown()) and printed.note
    auroc = section.tables[1]
    assert "Not measured: ECE, answer; ECE, agreement" in auroc.note
    assert "gold perplexity: the signal is the same in every forecast" in auroc.note
    assert [c.header for c in auroc.columns].count("AUROC") == 1
    (figure,) = section.figures
    assert figure.panels[0].svg.count("<svg") == 1 and "dashed: a validation score" in figure.caption
    assert RIVAL in NAMES and "validation score, drop" in figure.panels[0].svg


def test_every_table_is_written_with_its_sizes(section: Section, tmp_path: Path) -> None:
    for printed in section.tables[:3]:
        frame = pd.read_csv(printed.write_csv(tmp_path))
        assert {"n", "losses"} <= set(frame.columns) and len(frame) == len(printed.frame)


def test_the_study_itself_decides_the_numbers_not_the_order_of_its_cells(table: pd.DataFrame) -> None:
    one, other = Forecasts(table, 100), Forecasts(table.iloc[::-1].reset_index(drop=True), 100)
    assert auroc_table(one).frame.equals(auroc_table(other).frame)
    assert learned_table(one).frame.equals(learned_table(other).frame)


def test_phase_0_alone_has_no_section(make_store: Make) -> None:
    assert warning_section(analysis_of(make_store(iterations=0))) is None


def test_a_chain_that_does_not_go_on_is_not_judged_but_its_calibration_is(make_store: Make) -> None:
    section = section_of(make_store(iterations=1))
    assert len(section.sentences) == 1 and "two iterations in a row" in section.sentences[0]
    assert [t.name for t in section.tables] == ["calibration_rise"] and not section.figures


def test_without_a_control_a_loss_cannot_be_said(make_store: Make) -> None:
    root = make_store(proportions=(0.3,))
    assert "0 % chain of its seed" in section_of(root).sentences[0]
    assert section_of(root, control="baseline").sentences[0].startswith("4 forecasts")


def test_without_a_loss_nothing_is_ranked(make_store: Make) -> None:
    section = section_of(make_store(effect=-0.3, tasks=("nano-math",)))
    said = " ".join(section.sentences)
    assert "followed in 0 of them (base rate 0 % [0, " in said and "no loss there is nothing to foretell" in said
    assert not section.figures and "beyond chance" not in said
    assert "ECE: there is no loss" in next(t for t in section.tables if t.name == "warning_auroc").note
    assert not any(t.name == "warning_learned" for t in section.tables)


def test_with_a_loss_everywhere_any_alert_is_right(make_store: Make) -> None:
    said = " ".join(section_of(make_store(effect=1.5, tasks=("nano-math",))).sentences)
    assert "any alert is right" in said and "beyond chance" not in said


def test_one_seed_of_one_task_has_no_intervals(make_store: Make) -> None:
    section = section_of(make_store(tasks=("nano-math",), seeds=(0,), effect=0.1, proportions=(0.0, 0.1, 0.3, 0.5)))
    said = " ".join(section.sentences)
    assert "With one baseline there are no intervals" in said and "nothing to learn a threshold from" in said
    assert "[" not in section.tables[0].markdown()
    for figure in section.figures:
        assert "without intervals" in figure.caption


def test_a_study_without_confidences_judges_what_is_left(chains: Path, table: pd.DataFrame) -> None:
    bare = table.assign(**{signal.name: math.nan for signal in SIGNALS if signal.is_ece})
    forecasts = Forecasts(bare, 100)
    assert any("No confidence was recorded" in s for s in sentences(forecasts))
    assert paper_table(forecasts).frame.empty and auroc_figure(forecasts) is not None
    nothing = Forecasts(bare.assign(**dict.fromkeys(NAMES, math.nan)), 100)
    assert auroc_figure(nothing) is None and sentences(nothing)


def test_alerts_that_changed_the_chain_are_no_forecasts(make_store: Make) -> None:
    analysis = analysis_of(make_store(tasks=("nano-math",), seeds=(0,), proportions=(0.0, 0.3)))
    config = analysis.study.config | {"monitoring": {"action": "reduce"}}
    section = warning_section(replace(analysis, study=replace(analysis.study, config=config)))
    assert section is not None and "monitoring.action = reduce" in section.sentences[-1]


# -- is the rise real -----------------------------------------------------------------------------------------------


def test_the_rise_is_tested_against_phase_0_and_the_control(chains: Path) -> None:
    analysis = analysis_of(chains)
    printed = calibration_rise_table(analysis)
    frame = printed.frame
    assert len(frame) == 2 * 3 and set(frame.proportion) == {0.4} and set(frame.n_seeds) == {3}
    row = frame[(frame.task == "nano-math") & (frame.iteration == 3)].iloc[0]
    sides = []
    for iteration, mode, share in ((0, "baseline", 0.0), (3, "replace", 0.4), (3, "replace", 0.0)):
        cells = [folder(chains, row, seed=s, iteration=iteration, mode=mode, proportion=share) for s in (0, 1, 2)]
        tested = [items(cell, "test") for cell in cells]
        sides.append([(t.confidence.to_numpy(), t.score.to_numpy()) for t in tested])
    start, top, control = sides
    assert row.ten_bin == pytest.approx(np.mean([expected_calibration_error(*pair) for pair in top]))
    assert row.debiased_start == pytest.approx(np.mean([debiased_ece(*pair) for pair in start]))
    assert row.equal_mass == pytest.approx(np.mean([equal_mass_calibration_error(*pair) for pair in top]))
    rise, beside = ece_rise(start, top, "other", "key"), ece_rise(control, top, "other", "key")
    assert (row.rise, row.rise_control) == pytest.approx((rise.estimate, beside.estimate))
    assert (row.p, row.p_control) == pytest.approx((rise.p_greater, beside.p_greater), abs=0.04)
    assert row.p < 0.01 and row.p_bonferroni == min(1.0, 6 * row.p)


def test_only_items_that_both_answered_are_exchanged(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), proportions=(0.0, 0.5), iterations=1)
    path = next(root.glob("cells/*baseline*")) / "items.parquet"
    frame = pd.read_parquet(path)
    frame[frame.item.astype(int) < 150].to_parquet(path, index=False)
    row = calibration_rise_table(analysis_of(root)).frame.iloc[0]
    assert row.n_items == 150 and 0 < row.p <= 1


# -- speed ----------------------------------------------------------------------------------------------------------
