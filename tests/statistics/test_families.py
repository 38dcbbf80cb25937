"""Corrections against statsmodels and scipy, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from synthmix.statistics import benjamini_hochberg, bonferroni, holm

CORRECTIONS = {"bonferroni": bonferroni, "holm": holm, "fdr_bh": benjamini_hochberg}


def test_bonferroni_equals_statsmodels_and_leaves_out_what_was_not_tested() -> None:
    p = [0.001, 0.02, 0.4]
    assert bonferroni(p) == pytest.approx(list(multipletests(p, method="bonferroni")[1]))
    with_gap = bonferroni([0.001, math.nan, 0.02, 0.4])
    assert math.isnan(with_gap[1]) and with_gap[0] == pytest.approx(0.003)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_what_was_not_tested_counts_in_no_family(name: str) -> None:
    p = [0.03, 0.001, 0.02, 0.4]
    whole = CORRECTIONS[name](p)
    assert whole == pytest.approx(list(multipletests(p, method=name)[1]))
    with_gaps = CORRECTIONS[name]([math.nan, *p[:2], math.nan, *p[2:]])
    assert [value for value in with_gaps if not math.isnan(value)] == pytest.approx(whole)
    assert [math.isnan(value) for value in with_gaps] == [True, False, False, True, False, False]
    assert CORRECTIONS[name]([]) == [] and math.isnan(CORRECTIONS[name]([math.nan])[0])


def test_a_family_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert bonferroni(p) == pytest.approx([0.04, 0.16, 0.12, 0.02])
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])


@settings(max_examples=15, deadline=None)  # statsmodels collects garbage in each call of Holm's
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_benjamini_hochberg_is_scipys_and_the_three_are_ordered(p: list[float]) -> None:
    least, middle, most = benjamini_hochberg(p), holm(p), bonferroni(p)
    assert least == pytest.approx(list(stats.false_discovery_control(p)))
    assert np.all(np.array(p) <= np.array(least) + 1e-12)
    assert np.all(np.array(least) <= np.array(middle) + 1e-12) and np.all(np.array(middle) <= np.array(most) + 1e-12)
