"""Statistics against scipy, hand-made numbers and simulation."""

import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dgd.read.statistics import (
    detectable_between,
    difference,
    holm,
    mean_interval,
    minimum_detectable_effect,
    pooled_gain,
    prediction_interval,
    seeds_for,
    upper_variance,
    verdict,
)


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


def test_no_value_and_two_values():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = mean_interval([])
        assert all(math.isnan(value) for value in (none.mean, none.sd, none.low, none.high, *prediction_interval([])))
    # sd of 1 and 3 is sqrt(2); t(0.975, 1) = 12.7062
    assert mean_interval([1, 3])[3:] == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    half = 12.7062 * math.sqrt(2) * math.sqrt(1.5)
    assert prediction_interval([1, 3]) == pytest.approx((2 - half, 2 + half), abs=1e-4)


def test_a_column_of_objects_holds_numbers():
    """A column of a frame that also has text is of Python objects; None in it is a number that is missing."""
    column = pd.Series([1, 2.5, 3], dtype=object)
    assert mean_interval(column) == mean_interval([1, 2.5, 3])
    assert holm(pd.Series([0.01, None, 0.02], dtype=object)) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)
    with pytest.raises(ValueError, match="flat list of finite numbers"):
        mean_interval(pd.Series([1, None], dtype=object))


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
    # Without any spread there is no test; the standard deviation of three 0.3 is a rounding above 0.
    for a, b, gain in (([2, 2], [1, 1, 1], 1), ([0.3] * 3, [0.3] * 3, 0), ([0.3] * 3, [0.1] * 3, 0.2)):
        flat = difference(a, b)
        assert flat.difference == pytest.approx(gain)
        assert all(math.isnan(value) for value in flat[1:])
        assert math.isnan(detectable_between(a, b))
    spread = difference([1, 2], [3, 5])  # the variances are 1 / 4 and 1
    assert spread.low < spread.difference == -2.5 < spread.high
    same = difference([1, 2], [4, 5])  # and here 1 / 4 both
    assert same.low < same.difference == -3 < same.high


@pytest.mark.parametrize("function", [mean_interval, prediction_interval, lambda v: difference(v, [1, 2])])
@pytest.mark.parametrize("values", [[1, math.nan], [1, math.inf], [[1, 2]]])
def test_bad_values_are_named(function, values):
    with pytest.raises(ValueError, match="flat list of finite numbers"):
        function(values)


@pytest.mark.parametrize("confidence", [95, 1.5, 1, 0, -0.5])
def test_bad_confidence_is_named(confidence):
    with pytest.raises(ValueError, match=r"0\.95, not 95"):
        mean_interval([1, 2], confidence)


def welch(a, b):
    """Low, high and p of many differences at once, a row each: the arithmetic of `difference` on arrays (..., seeds)."""
    parts = [values.var(-1, ddof=1) / values.shape[-1] for values in (a, b)]
    freedom = sum(parts) ** 2 / sum(part**2 / (values.shape[-1] - 1) for part, values in zip(parts, (a, b)))
    gain, error = a.mean(-1) - b.mean(-1), np.sqrt(sum(parts))
    half = stats.t.ppf(0.975, freedom) * error
    return gain - half, gain + half, 2 * stats.t.sf(abs(gain) / error, freedom)


def test_simulated_differences_are_ours():
    generator = np.random.default_rng(4)
    a, b = generator.normal(1, 1, (20, 3)), generator.normal(0, 3, (20, 5))
    for ours, *theirs in zip([difference(*row) for row in zip(a, b)], *welch(a, b)):
        assert ours[1:] == pytest.approx(theirs)


def test_minimum_detectable_effect_is_where_the_t_test_has_its_power():
    # 16 a side for 1 sd at 80 %: the textbooks' 2 x 17 for a two-sided t-test at 5 %
    assert minimum_detectable_effect(1, 16) > 1 > minimum_detectable_effect(1, 17)
    for n in (2, 3, 10):
        effect = minimum_detectable_effect(2.0, n, 0.9) / 2 / math.sqrt(2 / n)
        shown = stats.nct.sf(stats.t.ppf(0.975, 2 * n - 2), 2 * n - 2, effect)
        assert shown == pytest.approx(0.9)
    assert minimum_detectable_effect(1, (5, 3)) == pytest.approx(minimum_detectable_effect(1, (3, 5)))
    assert minimum_detectable_effect(1, 5) < minimum_detectable_effect(1, (5, 3)) < minimum_detectable_effect(1, 3)
    assert minimum_detectable_effect(0, 5) == 0


def test_minimum_detectable_effect_without_seeds_or_sense():
    assert math.isnan(minimum_detectable_effect(1, 1))
    assert math.isnan(minimum_detectable_effect(math.nan, 5))
    assert math.isnan(minimum_detectable_effect(1, (5, 1)))
    for arguments in ((-1, 5), (math.inf, 5)):
        with pytest.raises(ValueError, match="sd must be"):
            minimum_detectable_effect(*arguments)
    for arguments in (
        *((1, 5, 80), (1, 5, 1.5), (1, 5, 1), (1, 5, 0.01), (1, 5, 0.25, 0.75)),
        *((1, 5, 0.8, 95), (1, 5, 0.8, 1.5), (1, 5, 0.8, 1), (1, 5, 0.8, 0)),
    ):
        with pytest.raises(ValueError, match="power"):
            minimum_detectable_effect(*arguments)


def test_what_two_samples_would_have_shown_is_by_their_pooled_spread():
    # The variances are 2 and 9, with 1 and 2 degrees of freedom.
    assert detectable_between([0, 2], [0, 3, 6]) == pytest.approx(minimum_detectable_effect(math.sqrt(20 / 3), (2, 3)))
    assert detectable_between([0, 3, 6], [0, 2]) == pytest.approx(minimum_detectable_effect(math.sqrt(20 / 3), (3, 2)))
    assert detectable_between([0, 2], [10, 12]) == pytest.approx(minimum_detectable_effect(math.sqrt(2), 2))
    assert math.isnan(detectable_between([1], [1, 2, 3]))
    assert math.isnan(detectable_between([1, 2, 3], []))


def stated(function, pattern):
    """Numbers of a docstring, whose lines are joined."""
    found = re.search(pattern, " ".join(function.__doc__.split()))
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", found[1])]


@pytest.mark.parametrize(("ratio", "pattern"), [(1, r"in (70.*?) % of cases"), (3, r"in (62.*?) % where one")])
def test_minimum_detectable_effect_is_seen_as_often_as_stated(ratio, pattern):
    for n, expected in zip((3, 4, 5, 10), stated(minimum_detectable_effect, pattern)):
        generator = np.random.default_rng([n, ratio])
        gain = minimum_detectable_effect(math.sqrt((1 + ratio**2) / 2), n)
        low, _, _ = welch(generator.normal(gain, 1, (40000, n)), generator.normal(0, ratio, (40000, n)))
        assert 100 * (low > 0).mean() == pytest.approx(expected, abs=1)


def test_a_pooled_gain_by_hand():
    # Variances of the parts: (0.5 / 2)^2 and (1 / 2)^2; degrees of freedom by Satterthwaite.
    pooled = pooled_gain([(3.0, 0.5, 4.0), (1.0, 1.0, 6.0)])
    freedom = 0.3125**2 / (0.0625**2 / 4 + 0.25**2 / 6)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(0.3125)
    assert pooled == pytest.approx((2.0, 2.0 - half, 2.0 + half, 2))
    one = pooled_gain([(3.0, 0.5, 4.0)], 0.9)
    assert one[:3] == pytest.approx((3.0, *stats.t.interval(0.9, 4, 3.0, 0.5)))
    assert pooled_gain([])[3] == 0
    assert all(math.isnan(value) for value in pooled_gain([])[:3])
    with pytest.raises(ValueError, match="flat list of finite numbers"):
        pooled_gain([(math.nan, 1.0, 2.0)])


def test_seeds_for_a_half_width_are_the_fewest():
    for variance, half, of in ((1.0, 0.5, True), (4.0, 0.5, False), (0.01, 1.0, True)):
        seeds = seeds_for(variance, half, of)
        widths = [
            stats.t.ppf(0.975, (1.5 if of else 1) * (n - 1)) * math.sqrt(variance / n) for n in (seeds, seeds - 1) if n > 1
        ]
        assert widths[0] <= half
        assert all(width > half for width in widths[1:])
    with pytest.raises(ValueError, match="half_width must be above 0, got 0"):
        seeds_for(1.0, 0, True)
    with pytest.raises(ValueError, match="more than 10 seeds"):
        seeds_for(100.0, 0.5, True, most=10)


def test_an_upper_bound_of_a_variance_is_above_it_as_often_as_asked():
    draws = np.random.default_rng(3).normal(0, 2, (4000, 3)).var(1, ddof=1)
    bounds = [upper_variance(variance, 2, 0.9) for variance in draws]
    assert np.mean(np.array(bounds) >= 4) == pytest.approx(0.9, abs=0.015)


def test_holm_of_known_numbers():
    # 4 hypotheses: 0.005*4, 0.01*3, 0.03*2, 0.04*1 made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)
    assert holm([0, 1]) == pytest.approx([0, 1])
    assert holm([0.02, 0.02, 0.5]) == pytest.approx([0.06, 0.06, 0.5])  # equal ones stay equal


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
        ((math.nan, 9.0), None, "inconclusive"),
        ((0.1, math.nan), None, "inconclusive"),
        ((0.7, 0.7), 0.5, "reproduced"),  # without any spread
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
        ((0.0, 0.1), 0.0, "inconclusive"),
        ((-0.1, 0.0), 0.0, "inconclusive"),
    ],
)
def test_verdict(interval, claimed, expected):
    assert verdict(interval, claimed) == expected


def test_verdict_rejects_nonsense():
    with pytest.raises(ValueError, match="low <= high"):
        verdict((1, 0), 0.5)
    with pytest.raises(ValueError, match="finite number or None"):
        verdict((0, 1), math.nan)
