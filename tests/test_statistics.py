"""Statistics against scipy, hand-made numbers and simulation."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from dgd import statistics
from dgd.statistics import VERDICTS, difference, holm, mean_interval, prediction_interval, verdict


def test_mean_interval_of_known_numbers():
    # sd of 1..5 is sqrt(2.5); t(0.975, 4) = 2.776445
    mean, sd, n, low, high = mean_interval([1, 2, 3, 4, 5])
    assert (mean, n) == (3, 5)
    assert sd == pytest.approx(1.58113883)
    assert (low, high) == pytest.approx((3 - 2.776445 * 0.70710678, 3 + 2.776445 * 0.70710678), abs=1e-5)


def test_mean_interval_is_scipys():
    values = np.random.default_rng(0).normal(90, 0.3, 7)
    ours = mean_interval(values, 0.9)
    assert ours[3:] == pytest.approx(stats.t.interval(0.9, 6, values.mean(), stats.sem(values)))


def test_one_value_has_no_interval_and_none_has_no_mean():
    one = mean_interval([91.5])
    assert (one.mean, one.n) == (91.5, 1)
    assert all(math.isnan(value) for value in (one.sd, one.low, one.high))
    none = mean_interval([])
    assert none.n == 0
    assert math.isnan(none.mean)
    assert all(math.isnan(value) for value in prediction_interval([91.5]))


@pytest.mark.parametrize("n", [3, 5])
def test_intervals_cover_what_they_promise(n):
    draws = np.random.default_rng(n).normal(0, 1, (2000, n + 1))
    mean = [mean_interval(row[:n]) for row in draws]
    future = [prediction_interval(row[:n]) for row in draws]
    assert np.mean([m.low <= 0 <= m.high for m in mean]) == pytest.approx(0.95, abs=0.015)
    assert np.mean([f[0] <= row[n] <= f[1] for f, row in zip(future, draws)]) == pytest.approx(0.95, abs=0.015)


def test_difference_is_scipys_welch():
    generator = np.random.default_rng(1)
    a, b = generator.normal(1, 1, 5), generator.normal(0, 3, 4)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.9)
    ours = difference(a, b, 0.9)
    assert ours == pytest.approx((a.mean() - b.mean(), interval.low, interval.high, theirs.pvalue))


def test_difference_changes_sign_with_its_sides():
    ab, ba = difference([1, 2, 4], [1, 1, 2, 0]), difference([1, 1, 2, 0], [1, 2, 4])
    assert ba == pytest.approx((-ab.difference, -ab.high, -ab.low, ab.p))


def test_difference_without_enough_values_or_without_spread():
    short = difference([1.0], [0.0, 1.0])
    assert short.difference == 0.5
    assert all(math.isnan(value) for value in short[1:])
    assert difference([2, 2], [1, 1, 1]) == (1, 1, 1, 0)
    assert difference([0.1] * 3, [0.1] * 3) == (0, 0, 0, 1)


@pytest.mark.parametrize("function", [mean_interval, prediction_interval, lambda v: difference(v, [1, 2])])
@pytest.mark.parametrize("values", [[1, math.nan], [1, math.inf], [[1, 2]]])
def test_bad_values_are_named(function, values):
    with pytest.raises(ValueError, match="flat list of finite numbers"):
        function(values)


def test_bad_confidence_is_named():
    with pytest.raises(ValueError, match=r"0\.95, not 95"):
        mean_interval([1, 2], 95)


def test_holm_of_known_numbers():
    # 4 hypotheses: 0.005*4, 0.01*3, 0.03*2, 0.04*1 made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


def test_holm_leaves_nan_out_of_the_count():
    assert holm([0.01, math.nan, 0.02]) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.5, 1.5])


def test_holm_holds_the_family_error():
    p = np.random.default_rng(2).uniform(size=(4000, 6))
    assert np.mean([(holm(row) <= 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    ("interval", "claimed", "expected"),
    [
        ((0.1, 1.0), 0.5, "reproduced"),
        ((0.1, 0.5), 0.5, "reproduced"),  # hi == g
        ((0.8, 1.5), 0.5, "reproduced"),  # more than was claimed
        ((0.1, 0.49), 0.5, "direction only"),
        ((0.0, 0.49), 0.5, "not reproduced"),  # lo == 0 is no gain
        ((-1.0, 0.49), 0.5, "not reproduced"),
        ((-1.0, -0.1), 0.5, "not reproduced"),
        ((0.0, 0.5), 0.5, "inconclusive"),
        ((-1.0, 2.0), 0.5, "inconclusive"),
        ((math.nan, math.nan), 0.5, "inconclusive"),
        ((math.nan, math.nan), None, "inconclusive"),
        ((0.1, 9.0), None, "direction only"),
        ((0.0, 9.0), None, "inconclusive"),
        ((-1.0, 0.0), None, "inconclusive"),
        ((-1.0, -0.1), None, "not reproduced"),
        ((-1.0, -0.1), -0.5, "reproduced"),  # a published loss, seen again
        ((-0.4, -0.1), -0.5, "direction only"),
        ((-0.4, 0.1), -0.5, "not reproduced"),
        ((0.1, 0.2), -0.5, "not reproduced"),
        ((-0.6, 0.1), -0.5, "inconclusive"),
        ((-0.1, 0.1), 0.0, "inconclusive"),
        ((0.1, 0.2), 0.0, "not reproduced"),
        ((-0.2, -0.1), 0.0, "not reproduced"),
    ],
)
def test_verdict(interval, claimed, expected):
    assert verdict(interval, claimed) == expected


def test_verdict_rejects_nonsense():
    with pytest.raises(ValueError, match="low <= high"):
        verdict((1, 0), 0.5)
    with pytest.raises(ValueError, match="finite number or None"):
        verdict((0, 1), math.nan)


def rates(seeds: int, gain: float, claimed: float, draws: int = 3000) -> dict[str, float]:
    """Return how often, in percent, each verdict is given on normal data with sd 1."""
    generator = np.random.default_rng([seeds, int(gain), int(claimed)])
    method, baseline = generator.normal(gain, 1, (draws, seeds)), generator.normal(0, 1, (draws, seeds))
    given = [verdict(difference(m, b)[1:3], claimed) for m, b in zip(method, baseline)]
    return {name: 100 * given.count(name) / draws for name in VERDICTS}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("gain", [0, 2])
def test_error_rates_are_those_of_the_docstring(seeds, gain):
    row = re.search(rf"\| {seeds} +\| {'0  ' if gain == 0 else '2 s'} +\|([\d. |]+)\|", statistics.verdict.__doc__)
    stated = [float(value) for value in row[1].split("|")]
    assert list(rates(seeds, gain, claimed=2).values()) == pytest.approx(stated, abs=3)
    if gain == 0:  # a false "better" is at most the 2.5 % of one side of the interval
        assert stated[0] + stated[1] <= 2.6


def test_false_reproduction_of_a_small_claim_is_bounded():
    found = rates(5, 0, claimed=1)
    assert found["reproduced"] + found["direction only"] < 3.5
