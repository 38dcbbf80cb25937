"""Sections on shapes: what they say of studies with a known effect, and of studies that cannot support a statement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synthmix import keys
from synthmix.analysis import Analysis, StudyData, load_study
from synthmix.analysis.section import Section
from synthmix.analysis.shapes.chains import iteration_chains, share_chains
from synthmix.analysis.shapes.sections import curve_section, decay_section, scale_section
from synthmix.statistics import Array
from synthmix.statistics.safe_proportion import safe_proportion

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SIZES = {"small": 1e6, "middle": 1e7, "large": 1e8}


@dataclass(frozen=True)
class Cells:
    """A study in memory: ``truth(model, share, iteration)`` is the true score of every condition."""

    truth: Callable[[str, float, int], float]
    shares: Sequence[float] = SHARES
    iterations: int = 1
    seeds: int = 3
    items: int = 400
    models: Sequence[str] = ("small",)
    modes: Sequence[str] = ("replace",)

    def table(self) -> pd.DataFrame:
        """The table of cells."""
        rows = []
        for model in self.models:
            for seed in range(self.seeds):
                rows.append((model, "baseline", 0.0, 0, seed))
                rows += [
                    (model, mode, share, t, seed)
                    for t in range(1, self.iterations + 1)
                    for mode in self.modes
                    for share in self.shares
                    if share > 0 or mode == "replace"
                ]
        frame = pd.DataFrame(rows, columns=["model", "mode", "proportion", "iteration", "seed"])
        names = frame.astype(str).agg(" ".join, axis=1)
        frame = frame.assign(name=names, hash=names, task="sums", parameters=frame.model.map(SIZES), status="done")
        return frame.assign(metric="accuracy", family="Math", parent=None, level=frame.iteration)

    def scores(self, cell: pd.Series) -> Array:
        """Items with an ease of their own; every run has some noise of its own."""
        truth = self.truth(str(cell.model), float(cell.proportion), int(cell.iteration))
        ease = keys.generator("ease").random(self.items)
        noise = keys.generator("noise", cell["hash"])
        mixed = 0.8 * ease + 0.2 * noise.random(self.items) + 0.005 * noise.normal()
        return (mixed < np.quantile(0.8 * ease + 0.2 * keys.generator("n").random(self.items), truth)).astype(float)

    def analysis(self, change: Callable[[pd.DataFrame, dict[str, pd.DataFrame]], None] | None = None) -> Analysis:
        """The analysis of the study, after ``change(cells, items)``."""
        cells, ids = self.table(), [f"{i:04d}" for i in range(self.items)]
        items = {
            str(cell["hash"]): pd.DataFrame({"item": ids, "score": self.scores(cell), "confidence": 0.5})
            for _, cell in cells.iterrows()
        }
        if change is not None:
            change(cells, items)
        study = StudyData("sketch", Path("nowhere"), {"cells": []}, {})
        study.__dict__["cells"] = cells
        analysis = Analysis(study, resamples=200, estimators=())
        analysis.__dict__["items"] = {name: frame for name, frame in items.items() if name in set(cells["hash"])}
        return analysis


def broken(model: str, share: float, iteration: int) -> float:
    """Flat up to 20 %, then a point and a half a point."""
    return 0.7 if iteration == 0 else 0.7 - 1.5 * max(0.0, share - 0.2)


def falling(model: str, share: float, iteration: int) -> float:
    """Falls with share and iteration; larger models lose less."""
    slope = {"small": 0.4, "middle": 0.3, "large": 0.2}[model]
    return 0.7 - slope * share * iteration


def text(section: Section | None) -> str:
    assert section is not None
    return "\n".join(section.sentences)


# -- curves ---------------------------------------------------------------------------------------------------------


def test_a_known_break_and_safe_proportion_are_found() -> None:
    section = curve_section(Cells(broken).analysis())
    assert section is not None
    (table,) = section.tables
    row = table.frame.iloc[0]
    assert row.safe_low <= 0.2 + 0.07 / 1.5 <= row.safe_high and row.safe == pytest.approx(0.247, abs=0.03)
    assert row.break_low <= 0.2 <= row.break_high and row["break"] == pytest.approx(0.2, abs=0.03)
    assert row.slope == pytest.approx(-1.5, abs=0.2) and (row.points, row.n_seeds, row.n_items) == (6, 3, 400)
    assert "AICc prefers a break (flat then line) at" in text(section)
    assert "1 curve it lies within the measured shares on 1" in text(section)


def test_printed_proportions_never_come_without_an_interval() -> None:
    section = curve_section(Cells(falling, iterations=3).analysis())
    assert section is not None
    cells = section.tables[0].frame.safe_text
    assert len(cells) == 3 and all("[" in cell for cell in cells)
    assert all("[" in sentence for sentence in section.sentences if "the safe proportion is " in sentence)


def test_the_csv_has_the_numbers_behind_the_words(tmp_path: Path) -> None:
    section = curve_section(Cells(broken).analysis())
    assert section is not None
    written = pd.read_csv(section.tables[0].write_csv(tmp_path))
    assert written.safe.iloc[0] == pytest.approx(section.tables[0].frame.safe.iloc[0])
    assert {"safe_low", "break_high", "aicc_quadratic", "aicc_flat_then_line"} <= set(written)


def test_a_loss_that_is_not_reached_is_above_and_not_extrapolated() -> None:
    section = curve_section(Cells(lambda m, p, t: 0.7 - 0.02 * p).analysis())
    assert "safe proportion is above 50 %" in text(section) and "–]" in text(section)
    row = section.tables[0].frame.iloc[0]  # type: ignore[union-attr]
    assert math.isinf(row.safe) and math.isinf(row.safe_high) and row.safe_low <= 0.5


def test_a_loss_at_the_first_share_is_below_it() -> None:
    section = curve_section(Cells(lambda m, p, t: 0.7 if p == 0 else 0.4).analysis())
    assert "safe proportion is below 10 % [0" in text(section)


def test_one_share_and_one_missing_control_are_sentences_and_not_numbers() -> None:
    section = curve_section(Cells(falling, shares=(0.0, 0.3)).analysis())
    assert section is not None and not section.figures and not section.tables
    assert "there are 2 shares (three are needed)" in text(section)
    section = curve_section(Cells(falling, shares=(0.1, 0.3, 0.5)).analysis())
    assert section is not None and not section.tables and "no finished 0 % control" in text(section)
    assert curve_section(Cells(falling, shares=(0.0,)).analysis()) is None


def test_one_seed_says_what_its_intervals_do_not_cover() -> None:
    section = curve_section(Cells(falling, seeds=1).analysis())
    assert "one training run a share" in text(section) and "not variation between runs" in text(section)
    assert "do not cover variation between training runs" in section.figures[0].caption  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_outcomes_show_nothing(value: float) -> None:
    def constant(_: pd.DataFrame, items: dict[str, pd.DataFrame]) -> None:
        for frame in items.values():
            frame["score"] = value

    section = curve_section(Cells(falling).analysis(constant))
    assert section is not None
    assert "every item of every cell has the same score" in text(section)
    row = section.tables[0].frame.iloc[0]
    assert row.safe_text == "" and math.isnan(row.safe) and row.break_text == "none"


def test_a_control_of_0_has_no_safe_proportion() -> None:
    section = curve_section(Cells(lambda m, p, t: 0.5 if p else 0.0).analysis())
    assert section is not None and "the control scores 0" in text(section)
    assert section.tables[0].frame.safe_text.iloc[0] == "" and not section.figures


def test_four_shares_cannot_test_a_break() -> None:
    section = curve_section(Cells(broken, shares=(0.0, 0.1, 0.3, 0.5)).analysis())
    assert section is not None and section.tables[0].frame.break_text.iloc[0] == "not testable"
    assert "No evidence of a break: 4 points are too few" in text(section)


def test_other_modes_have_the_same_control() -> None:
    chains = share_chains(Cells(falling, modes=("replace", "augment")).analysis())
    assert [chain.about["mode"] for chain in chains] == ["augment", "replace"]
    ours, theirs = (chain.curve for chain in chains)
    assert ours is not None and theirs is not None
    assert ours.means[0] == theirs.means[0] and len(ours.x) == len(theirs.x) == 6


def test_the_axis_is_the_realised_share_where_it_differs() -> None:
    def accumulate(cells: pd.DataFrame, _: dict[str, pd.DataFrame]) -> None:
        cells["mixture_proportion_realised"] = cells.proportion.where(cells.proportion < 0.4, cells.proportion + 0.08)

    (chain,) = share_chains(Cells(falling).analysis(accumulate))
    assert chain.curve is not None and chain.points == SHARES
    assert chain.curve.x == pytest.approx([0, 0.1, 0.2, 0.3, 0.48, 0.58])


def test_realised_shares_that_fall_are_no_axis() -> None:
    def capped(cells: pd.DataFrame, _: dict[str, pd.DataFrame]) -> None:
        cells["mixture_proportion_realised"] = cells.proportion.clip(upper=0.3)

    assert "realised shares that do not rise" in text(curve_section(Cells(falling).analysis(capped)))


def test_an_unfinished_cell_takes_its_seed_or_its_share_out_and_says_so() -> None:
    def drop(*gone: str) -> Callable[[pd.DataFrame, dict[str, pd.DataFrame]], None]:
        def change(cells: pd.DataFrame, _: dict[str, pd.DataFrame]) -> None:
            cells.loc[cells["hash"].isin(gone), "status"] = "failed"

        return change

    analysis = Cells(falling).analysis(drop("small replace 0.5 1 2"))
    (chain,) = share_chains(analysis)
    assert chain.curve is not None and (chain.curve.n_seeds, len(chain.curve.x)) == (3, 5)
    assert "share 50 % is left out" in text(curve_section(analysis))
    gone = [f"small replace {p} 1 2" for p in SHARES[1:5]]
    analysis = Cells(falling).analysis(drop(*gone))
    (chain,) = share_chains(analysis)
    assert chain.curve is not None and (chain.curve.n_seeds, len(chain.curve.x)) == (2, 6)
    assert "seed 2 not finished everywhere" in text(curve_section(analysis))


def test_only_items_that_all_cells_answered_count() -> None:
    def fewer(_: pd.DataFrame, items: dict[str, pd.DataFrame]) -> None:
        items["small replace 0.3 1 1"] = items["small replace 0.3 1 1"].iloc[50:].reset_index(drop=True)

    analysis = Cells(falling).analysis(fewer)
    (chain,) = share_chains(analysis)
    assert chain.curve is not None and chain.curve.n_items == 350
    assert "only the 350 of 400 items that all its cells answered" in text(curve_section(analysis))


def test_seeds_with_other_items_are_not_paired_between_them() -> None:
    def apart(cells: pd.DataFrame, items: dict[str, pd.DataFrame]) -> None:
        for _, cell in cells.iterrows():
            frame = items[cell["hash"]]
            frame["item"] = [f"{cell.seed}-{item}" for item in frame.item]

    analysis = Cells(falling).analysis(apart)
    (chain,) = share_chains(analysis)
    assert chain.curve is not None and chain.left_out == "seeds answered other items"

    def strangers(cells: pd.DataFrame, items: dict[str, pd.DataFrame]) -> None:
        for name, frame in items.items():
            frame["item"] = [f"{name}-{item}" for item in frame.item]

    assert "no two items that all cells answered" in text(curve_section(Cells(falling).analysis(strangers)))


def test_figures_have_a_panel_a_task_and_captions_that_say_what_they_do_not_show(store: Path) -> None:
    section = curve_section(Analysis(load_study("sketch", store), resamples=100))
    assert section is not None
    (figure,) = section.figures
    assert [panel.title for panel in figure.panels] == ["nano-facts", "nano-math"]
    assert "does not show" in figure.caption and [name for name, _ in figure.legend] == ["iteration 1", "iteration 2"]
    assert all(panel.svg.startswith("<svg") for panel in figure.panels)


# -- scale ----------------------------------------------------------------------------------------------------------


def test_three_sizes_are_fitted_with_their_degrees_of_freedom() -> None:
    analysis = Cells(falling, models=tuple(SIZES), items=1000).analysis()
    section = scale_section(analysis)
    assert section is not None
    laws = section.tables[-1].frame
    power = laws[(laws["name"] == "relative loss") & (laws.law == "a N^α") & (laws.proportion == 0.5)].iloc[0]
    assert power.slope == pytest.approx(-0.15, abs=0.06) and (power.sizes, power.freedom) == (3, 1)
    assert power.slope_low < power.slope < power.slope_high
    safe = laws[laws["name"] == "safe proportion"].iloc[0]
    chains = [safe_proportion(c.curve).interval.estimate for c in share_chains(analysis) if c.curve is not None]
    expected = np.polyfit(np.log10([1e-3, 1e-2, 1e-1]), chains, 1)
    assert (safe.slope, safe.at_billion) == pytest.approx(tuple(expected))
    assert "log10(N / 1e9)" in text(section) and "1 degree of freedom" in text(section)
    assert [table.name for table in section.tables] == ["scale", "scale_safe", "scale_laws"]
    assert [figure.name for figure in section.figures] == ["scale", "scale-safe"]


def test_two_sizes_are_shown_and_no_law_is_claimed() -> None:
    section = scale_section(Cells(falling, models=("small", "large")).analysis())
    assert section is not None
    assert "no law is fitted" in text(section) and "R²" not in text(section)
    assert [table.name for table in section.tables] == ["scale", "scale_safe"]
    rows = section.tables[0].frame
    assert list(rows[rows.proportion == 0.5].parameters) == [1e6, 1e8]
    assert "% at 1M and" in text(section) and "% at 100M." in text(section)


def test_one_size_has_no_section() -> None:
    assert scale_section(Cells(falling).analysis()) is None


def test_no_law_rests_on_proportions_outside_the_measured_shares() -> None:
    def slight(model: str, share: float, iteration: int) -> float:
        return 0.7 - {"small": 0.6, "middle": 0.4, "large": 0.02}[model] * share

    section = scale_section(Cells(slight, models=tuple(SIZES)).analysis())
    assert "1 of 3 safe proportions lie outside the measured shares" in text(section)
    assert section is not None and "safe proportion" not in set(section.tables[-1].frame.get("name", ()))


def test_a_gain_leaves_no_power_law_of_the_loss() -> None:
    def gaining(model: str, share: float, iteration: int) -> float:
        return 0.6 + (0.2 if model == "large" else -0.2) * share

    section = scale_section(Cells(gaining, models=tuple(SIZES)).analysis())
    assert section is not None
    laws = section.tables[-1].frame
    assert not ((laws["name"] == "relative loss") & (laws.law == "a N^α") & (laws.proportion == 0.5)).any()
    assert ((laws["name"] == "relative loss") & (laws.law == "a + b log10 N") & (laws.proportion == 0.5)).any()


def test_a_control_that_is_missing_leaves_no_section() -> None:
    assert scale_section(Cells(falling, models=("small", "large"), shares=(0.3, 0.5)).analysis()) is None


# -- decay ----------------------------------------------------------------------------------------------------------


def test_a_decay_over_iterations_is_described() -> None:
    section = decay_section(Cells(falling, shares=(0.0, 0.5), iterations=3).analysis())
    assert section is not None
    frame = section.tables[0].frame.set_index("proportion")
    assert frame.change[0.5] == pytest.approx(-0.6, abs=0.05)
    assert frame.change_high[0.5] < 0 < frame.change_high[0.0] and frame.points[0.5] == 4
    assert frame.half_life_text[0.5] != "" and frame.half_life_text[0.0] == ""
    assert "Of 2 chains over iterations, 1 fell" in text(section) and "No half-life" in text(section)


def test_two_points_have_no_shape() -> None:
    section = decay_section(Cells(falling, iterations=1).analysis())
    assert section is not None and not section.tables and not section.figures
    assert "No shape for 6 chains: 2 iterations, phase 0 included; three are needed." in section.sentences


def test_three_points_are_not_judged_by_aicc() -> None:
    section = decay_section(Cells(falling, shares=(0.0, 0.5), iterations=2).analysis())
    assert section is not None and set(section.tables[0].frame.criterion) == {"misfit"}
    assert "AICc is not defined" in text(section)


def test_a_chain_without_phase_0_has_no_shape() -> None:
    def without(cells: pd.DataFrame, _: dict[str, pd.DataFrame]) -> None:
        cells.loc[cells.iteration == 0, "status"] = "failed"

    assert "no finished phase 0" in text(decay_section(Cells(falling, iterations=3).analysis(without)))


def test_constant_chains_have_no_shape() -> None:
    def constant(_: pd.DataFrame, items: dict[str, pd.DataFrame]) -> None:
        for frame in items.values():
            frame["score"] = 1.0

    section = decay_section(Cells(falling, shares=(0.0, 0.5), iterations=3).analysis(constant))
    assert section is not None and "there is no shape" in text(section)
    assert set(section.tables[0].frame.best) == {""} and set(section.tables[0].frame.half_life_text) == {""}


def test_one_seed_is_said_of_chains_too() -> None:
    section = decay_section(Cells(falling, seeds=1, iterations=3).analysis())
    assert "Chains of one seed" in text(section)


def test_nothing_but_phase_0_has_no_section() -> None:
    analysis = Cells(falling, iterations=0).analysis()
    assert curve_section(analysis) is None and decay_section(analysis) is None and scale_section(analysis) is None


def test_a_study_without_a_finished_cell_has_no_section() -> None:
    def none(cells: pd.DataFrame, _: dict[str, pd.DataFrame]) -> None:
        cells["status"] = "planned"

    analysis = Cells(falling).analysis(none)
    assert curve_section(analysis) is None and decay_section(analysis) is None and scale_section(analysis) is None


def test_iterations_share_their_baseline() -> None:
    chains = iteration_chains(Cells(falling, shares=(0.0, 0.3), iterations=2).analysis())
    assert [chain.about["proportion"] for chain in chains] == [0.0, 0.3]
    first = [chain.curve.means[0] for chain in chains if chain.curve is not None]
    assert first[0] == first[1] and all(chain.points == (0.0, 1.0, 2.0) for chain in chains)


def test_the_same_study_gives_the_same_sentences() -> None:
    study = Cells(falling, shares=(0.0, 0.3, 0.5), iterations=2, items=100)
    for make in (curve_section, decay_section):
        assert text(make(study.analysis())) == text(make(study.analysis()))
