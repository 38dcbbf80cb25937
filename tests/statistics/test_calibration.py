"""The debiased ECE against models whose error is known, and the permutation test against full enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from synthmix import keys
from synthmix.metrics import expected_calibration_error
from synthmix.statistics.calibration import Answers, debiased_ece, ece_rise

BINS = 10
Model = Callable[[np.ndarray], np.ndarray]
#: How confident a model is, and how often it is right at a confidence.
CONFIDENCES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "uniform": lambda rng, n: rng.random(n),
    "high": lambda rng, n: rng.beta(6, 2, n),
}
MODELS: dict[str, Model] = {
    "calibrated": lambda c: c,
    "overconfident": lambda c: c**1.3,
    "shifted": lambda c: np.clip(c - 0.1, 0, 1),
    "wavy": lambda c: np.clip(c + 0.08 * np.sin(12 * c), 0, 1),
}


def answers(rng: np.random.Generator, n: int, spread: str = "high", model: Model = MODELS["calibrated"]) -> Answers:
    confidence = CONFIDENCES[spread](rng, n)
    return confidence, (rng.random(n) < model(confidence)).astype(float)


def bins_of(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * BINS + 1e-12).astype(int), BINS - 1)


def by_bin(confidence: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight, mean gap and its standard error of every bin that holds items, item by item."""
    gaps, index = score - confidence, bins_of(confidence)
    inside = [gaps[index == m] for m in range(BINS) if (index == m).any()]
    squares = [((g - g.mean()) ** 2).sum() for g in inside]
    pooled = sum(squares) / max(1, len(gaps) - len(inside))
    errors = [np.sqrt((s + pooled) / len(g) / len(g)) for s, g in zip(squares, inside, strict=True)]
    return np.array([len(g) / len(gaps) for g in inside]), np.array([g.mean() for g in inside]), np.array(errors)


def folded(mean: np.ndarray, error: np.ndarray) -> np.ndarray:
    """E|N(mean, error^2)| by scipy's folded normal; a bin without noise is itself."""
    sure = np.maximum(error, 1e-9)
    with np.errstate(all="ignore"):  # scipy computes the higher moments as well
        return np.where(error > 1e-9, stats.foldnorm.mean(np.abs(mean) / sure, scale=sure), np.abs(mean))


def solved(confidence: np.ndarray, score: np.ndarray) -> float:
    """The definition of the debiased ECE, by a root finder."""
    weight, gap, error = by_bin(confidence, score)
    plain = float((weight * np.abs(gap)).sum())

    def excess(factor: float) -> float:
        return float((weight * folded(factor * gap, error)).sum()) - plain

    if excess(0.0) >= 0:
        return 0.0
    return plain * (1.0 if excess(1.0) <= 1e-12 else float(optimize.brentq(excess, 0.0, 1.0, xtol=1e-13)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 300), st.booleans())
def test_debiased_ece_solves_its_equation(seed: int, n: int, fractional: bool) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.beta(*rng.uniform(0.4, 6, 2), n)
    score = rng.choice([0.0, 0.25, 0.5, 1.0], n) if fractional else (rng.random(n) < confidence**1.5).astype(float)
    found = debiased_ece(confidence, score, BINS)
    assert found == pytest.approx(solved(confidence, score), abs=1e-6)
    assert 0 <= found <= expected_calibration_error(confidence, score, BINS) + 1e-12


def test_debiased_ece_by_hand() -> None:
    """One bin, gap 0.2, twenty items: the factor follows from the mean of the folded normal."""
    confidence, score = np.full(20, 0.5), np.repeat([1.0, 0.0], [14, 6])
    squares = 14 * 0.3**2 + 6 * 0.7**2
    error = np.sqrt((squares + squares / 19) / 20 / 20)
    factor = optimize.brentq(lambda k: stats.foldnorm.mean(k * 0.2 / error, scale=error) - 0.2, 0.01, 1)
    assert debiased_ece(confidence, score, 1) == pytest.approx(0.2 * factor, abs=1e-9)
    assert 0.15 < 0.2 * factor < 0.2


def test_debiased_ece_at_its_edges() -> None:
    assert debiased_ece([0.5], [1.0]) == 0.5  # no bin holds two items: noise cannot be seen
    assert debiased_ece([0.3] * 10, [1.0] * 3 + [0.0] * 7) == 0.0  # exactly calibrated
    assert debiased_ece([0.95] * 50, [1.0] * 50) == pytest.approx(0.05)  # no spread, no noise
    with pytest.raises(ValueError, match="undefined without items"):
        debiased_ece([], [])
    with pytest.raises(ValueError, match="`bins`"):
        debiased_ece([0.5], [1.0], 0)
    with pytest.raises(ValueError, match="lie in"):
        debiased_ece([1.5], [1.0])


# -- which estimator is nearest to the truth ------------------------------------------------------------------------


def plug_in(confidence: np.ndarray, score: np.ndarray) -> float:
    return expected_calibration_error(confidence, score, BINS)


def l2_debiased(confidence: np.ndarray, score: np.ndarray) -> float:
    """Kumar, Liang and Ma 2019 (arXiv 1909.10155): the squared l2 error less the variance of each bin's mean."""
    weight, gap, error = by_bin(confidence, score)
    return float(np.sqrt(max(0.0, (weight * (gap**2 - error**2)).sum())))


def constant_correction(confidence: np.ndarray, score: np.ndarray) -> float:
    """The bias at the observed gaps, taken off once."""
    weight, gap, error = by_bin(confidence, score)
    return max(0.0, float((weight * (2 * np.abs(gap) - folded(gap, error))).sum()))


def jackknife(confidence: np.ndarray, score: np.ndarray) -> float:
    n, index, gaps = len(score), bins_of(confidence), score - confidence
    sums = np.bincount(index, weights=gaps, minlength=BINS)
    total = np.abs(sums).sum()
    without = (total - np.abs(sums[index]) + np.abs(sums[index] - gaps)) / (n - 1)
    return max(0.0, total - (n - 1) * without.mean())


ESTIMATORS = {
    "plug-in": plug_in, "l2": l2_debiased, "constant": constant_correction, "jackknife": jackknife, "here": debiased_ece,
}  # fmt: skip


def true_error(spread: str, model: Model, norm: int) -> float:
    confidence = CONFIDENCES[spread](keys.generator("truth", spread), 400_000)
    gaps = np.bincount(bins_of(confidence), weights=model(confidence) - confidence, minlength=BINS)
    counts = np.bincount(bins_of(confidence), minlength=BINS)
    return float((counts / len(confidence) * np.abs(gaps / np.maximum(counts, 1)) ** norm).sum() ** (1 / norm))


def offsets(n: int, trials: int) -> dict[str, tuple[float, float]]:
    """Mean absolute bias and mean root mean squared error of each estimator over all models, against its own truth."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ESTIMATORS}
    for spread, (label, model) in itertools.product(CONFIDENCES, MODELS.items()):
        truth = {norm: true_error(spread, model, norm) for norm in (1, 2)}
        rng = keys.generator("offsets", n, spread, label)
        drawn = [answers(rng, n, spread, model) for _ in range(trials)]
        for name, estimate in ESTIMATORS.items():
            off = np.array([estimate(*pair) for pair in drawn]) - truth[2 if name == "l2" else 1]
            found[name].append((abs(off.mean()), np.sqrt((off**2).mean())))
    return {name: tuple(np.mean(values, axis=0)) for name, values in found.items()}


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_the_estimator_has_the_least_bias_of_those_compared(n: int) -> None:
    """The choice of :mod:`synthmix.statistics.calibration`, on fewer models than its table; and never a larger error than
    the plug-in's by more than noise."""
    found = offsets(n, 40)
    bias, error = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
    ours = bias.pop("here")
    assert ours < 0.6 * bias["plug-in"]
    # of the estimators of the same, l1, error; 0.003 is about two standard errors of these simulations
    assert ours < min(bias[name] for name in ("constant", "jackknife")) + 0.003
    assert error["here"] < error["plug-in"] * 1.05
    assert error["here"] < error["l2"] * 1.02


def test_a_calibrated_model_is_nearly_so_at_two_hundred_items() -> None:
    rng = keys.generator("calibrated")
    pairs = [answers(rng, 200) for _ in range(300)]
    plain, ours = (np.mean([f(*pair) for pair in pairs]) for f in (plug_in, debiased_ece))
    assert plain > 0.05
    assert ours < 0.45 * plain


# -- is a rise real -------------------------------------------------------------------------------------------------


def value(pair: Answers, statistic: str) -> float:
    return debiased_ece(*pair, BINS) if statistic == "debiased" else expected_calibration_error(*pair, BINS)


def swapped(first: Answers, second: Answers, swap: np.ndarray) -> tuple[Answers, Answers]:
    mixed = [(np.where(swap, b, a), np.where(swap, a, b)) for a, b in zip(first, second, strict=True)]
    return (mixed[0][0], mixed[1][0]), (mixed[0][1], mixed[1][1])


@pytest.mark.parametrize("statistic", ["ten-bin", "debiased"])
def test_permutation_test_against_every_permutation(statistic: str) -> None:
    """Nine items: 512 permutations, one by one; the sampled p-value is theirs to three standard errors."""
    rng = keys.generator("small", 3)
    first, second = answers(rng, 9), answers(rng, 9, "high", MODELS["shifted"])
    observed = value(second, statistic) - value(first, statistic)
    every = []
    for bits in itertools.product([False, True], repeat=9):
        before, after = swapped(first, second, np.array(bits))
        every.append(value(after, statistic) - value(before, statistic))
    greater = np.mean(np.array(every) >= observed - 1e-9)
    two_sided = np.mean(np.abs(every) >= abs(observed) - 1e-9)
    found = ece_rise([first], [second], "small", statistic=statistic, permutations=20_000)  # type: ignore[arg-type]
    assert found.estimate == pytest.approx(observed, abs=1e-12)
    assert found.p_greater == pytest.approx(greater, abs=3 * np.sqrt(greater * (1 - greater) / 20_000) + 1e-4)
    assert found.p_two_sided == pytest.approx(two_sided, abs=3 * np.sqrt(two_sided * (1 - two_sided) / 20_000) + 1e-4)
    assert 0.02 < greater < 0.98


def exchangeable(rng: np.random.Generator, n: int) -> tuple[Answers, Answers]:
    """Two models alike in calibration that share what is hard in an item."""
    common, noise = rng.normal(0, 1, n), rng.normal(0, 0.5, (2, n))
    confidence = 1 / (1 + np.exp(-(1 + common + noise)))
    luck = np.where(rng.random(n) < 0.5, rng.random(n), rng.random((2, n)))
    score = (luck < confidence**1.3).astype(float)
    return (confidence[0], score[0]), (confidence[1], score[1])


@pytest.mark.parametrize("statistic", ["ten-bin", "debiased"])
def test_size_under_exchangeability(statistic: str) -> None:
    rng, trials = keys.generator("size", statistic), 200
    pairs = [exchangeable(rng, 150) for _ in range(trials)]
    p = [ece_rise([a], [b], i, statistic=statistic, permutations=199) for i, (a, b) in enumerate(pairs)]  # type: ignore[arg-type]
    # 0.05 and 2.5 binomial standard errors
    assert np.mean([found.p_greater <= 0.05 for found in p]) < 0.09
    assert np.mean([found.p_two_sided <= 0.05 for found in p]) < 0.09


def test_two_calibrated_models_of_other_confidence_are_not_told_apart_by_the_debiased_statistic() -> None:
    """The later model's confidences lie in more bins, so its ten-bin ECE is the more biased one: that is no rise."""
    rng, trials, errors = keys.generator("moved"), 200, {"ten-bin": 0, "debiased": 0}
    for trial in range(trials):
        first = rng.beta(8, 3, 200)
        second = rng.beta(4, 6, 200)
        pair = [(c, (rng.random(200) < c).astype(float)) for c in (first, second)]
        for statistic in errors:
            found = ece_rise([pair[0]], [pair[1]], trial, statistic=statistic, permutations=199)  # type: ignore[arg-type]
            errors[statistic] += found.p_greater <= 0.05
    assert errors["debiased"] / trials < 0.085
    assert errors["debiased"] < errors["ten-bin"]


def test_a_real_rise_is_found_and_its_direction_told() -> None:
    rng = keys.generator("power")
    calm, worse = answers(rng, 1000), answers(rng, 1000, "high", MODELS["shifted"])
    rise, fall = ece_rise([calm], [worse], "rise"), ece_rise([worse], [calm], "fall")
    assert rise.estimate == pytest.approx(0.1, abs=0.04) and rise.p_greater == pytest.approx(1 / 1001)
    assert fall.estimate == -rise.estimate and fall.p_greater > 0.99
    assert fall.p_two_sided == pytest.approx(1 / 1001)


def test_seeds_that_share_items_are_swapped_together() -> None:
    """Three seeds that answer alike are one test set: the p-value must be that of one, not of three."""
    rng = keys.generator("pooled", 2)
    first, second = answers(rng, 120), answers(rng, 120, "high", lambda c: np.clip(c - 0.06, 0, 1))
    one = ece_rise([first], [second], "one", permutations=4000)
    shared = ece_rise([first] * 3, [second] * 3, "shared", permutations=4000)
    apart = ece_rise([first] * 3, [second] * 3, "apart", shared_items=False, permutations=4000)
    assert shared.estimate == pytest.approx(one.estimate) and shared.n_seeds == 3
    assert shared.p_greater == pytest.approx(one.p_greater, abs=0.025)
    assert apart.p_greater < 0.6 * shared.p_greater


def test_p_values_are_a_function_of_the_key_and_need_pairs() -> None:
    rng = keys.generator("key")
    first, second = answers(rng, 80), answers(rng, 80)
    assert ece_rise([first], [second], "a") == ece_rise([first], [second], "a")
    assert ece_rise([first], [second], "a").p_greater != ece_rise([first], [second], "b").p_greater
    same = ece_rise([first], [first], "same")
    assert (same.estimate, same.p_greater, same.p_two_sided) == (0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="pairs of answers"):
        ece_rise([first], [answers(rng, 79)])
    with pytest.raises(ValueError, match="pairs of answers"):
        ece_rise([], [])
    with pytest.raises(ValueError, match="same items in every seed"):
        ece_rise([first, answers(rng, 70)], [second, answers(rng, 70)])
    apart = ece_rise([first, answers(rng, 70)], [second, answers(rng, 70)], "apart", shared_items=False)
    assert apart.n_items == 70 and 0 < apart.p_greater <= 1


def test_many_items_are_permuted_in_parts_with_the_same_result_for_any_bins() -> None:
    """12,000 items: some hundred rows at a time."""
    rng = keys.generator("many")
    first, second = answers(rng, 12_000), answers(rng, 12_000, "uniform", MODELS["overconfident"])
    found = ece_rise([first], [second], "many", bins=15, permutations=400)
    assert found.p_greater == pytest.approx(1 / 401)
    assert found.estimate == pytest.approx(debiased_ece(*second, 15) - debiased_ece(*first, 15), abs=1e-12)
