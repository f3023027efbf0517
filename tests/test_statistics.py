"""Statistics against scipy, hand-made numbers and simulation."""

import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dgd.read.statistics import (
    VERDICTS,
    detectable_between,
    difference,
    holm,
    mean_interval,
    minimum_detectable_effect,
    prediction_interval,
    stratified_bootstrap,
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


def test_bootstrap_of_a_pooled_gain():
    settings = [([3.0, 4.0, 5.0], [1.0, 1.0]), ([10.0, 10.0], [8.0, 9.0, 10.0, 9.0])]
    pooled = stratified_bootstrap(settings)
    assert (pooled.gain, pooled.settings) == ((3 + 1) / 2, 2)  # each setting counts once, however many seeds it has
    assert pooled == stratified_bootstrap(settings)
    # The spread is that of the mean itself: (1 / 3 + 0 + 0 + (2 / 3) / 4) / 4
    wide = stratified_bootstrap(settings, confidence=0.6827)
    assert (wide.high - wide.low) / 2 == pytest.approx(math.sqrt((1 / 3 + 1 / 6) / 4), rel=0.1)
    assert stratified_bootstrap([([2, 2], [1, 1])] * 2) == (1, 1, 1, 2)
    assert stratified_bootstrap([])[3] == 0
    assert all(math.isnan(value) for value in stratified_bootstrap([])[:3])


def test_bootstrap_is_by_setting_and_side():
    """Settings far apart in level add nothing to the interval: nothing is drawn across them."""
    generator = np.random.default_rng(5)
    values = generator.normal(0, 1, (3, 2, 5))
    near = stratified_bootstrap([(a + 1, b) for a, b in values])
    far = stratified_bootstrap([(a + 1 + 50 * i, b + 50 * i) for i, (a, b) in enumerate(values)])
    assert far == pytest.approx(near)
    assert stratified_bootstrap([(a + 1, b) for a, b in values], seed=1) != near
    assert stratified_bootstrap([(a + 1, b) for a, b in values], 0.95, draws=10_000, seed=0) == near


def test_bootstrap_refuses_what_has_no_spread():
    with pytest.raises(
        ValueError, match="^each side of each setting must have at least two values; leave a setting with fewer out$"
    ):
        stratified_bootstrap([([1, 2], [1, 2]), ([1], [1, 2])])
    with pytest.raises(ValueError, match="flat list of finite numbers"):
        stratified_bootstrap([([1, math.nan], [1, 2])])


@pytest.mark.parametrize("seeds", [3, 5])
def test_bootstrap_covers_what_its_docstring_says(seeds):
    row = re.search(rf"\| {seeds} +\|([\d. |]+)\|", stratified_bootstrap.__doc__)
    for count, expected in zip((2, 4, 8), map(float, row[1].split("|"))):
        draws = np.random.default_rng([seeds, count]).normal(0, 1, (1000, count, 2, seeds))
        found = [stratified_bootstrap([(a, b) for a, b in settings], draws=400) for settings in draws]
        assert 100 * np.mean([pooled.low <= 0 <= pooled.high for pooled in found]) == pytest.approx(expected, abs=2.5)


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


SIMULATED = 40000


def rates(seeds: int, gain: float, claimed: float, ratio: float = 1) -> dict[str, float]:
    """Return how often, in percent, each verdict is given on normal data: sd 1 against `ratio`; gains in their mean square."""
    generator = np.random.default_rng([seeds, int(gain), int(claimed), int(ratio)])
    scale = math.sqrt((1 + ratio**2) / 2)
    method = generator.normal(gain * scale, 1, (SIMULATED, seeds))
    low, high, _ = welch(method, generator.normal(0, ratio, (SIMULATED, seeds)))
    given = [verdict(interval, claimed * scale) for interval in zip(low.tolist(), high.tolist())]
    return {name: 100 * given.count(name) / SIMULATED for name in VERDICTS}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("gain", [0, 2])
@pytest.mark.parametrize(("ratio", "spread"), [(1, "equal"), (3, "1 : 3")])
def test_error_rates_are_those_of_the_docstring(seeds, gain, ratio, spread):
    true = "0  " if gain == 0 else "2 s"
    row = re.search(rf"\| {spread} \| {seeds} +\| {true} +\|([\d. |]+)\|", verdict.__doc__)
    expected = [float(value) for value in row[1].split("|")]
    found = list(rates(seeds, gain, 2, ratio).values())
    assert found == pytest.approx(expected, abs=0.9)
    assert sum(expected) == pytest.approx(100, abs=0.2)
    if gain == 0:  # a false "better" is at most the 2.5 % of one side of the interval, and Welch's error at unequal spread
        assert found[0] + found[1] < 3
    else:
        assert found[2] < 2.1


@pytest.mark.parametrize("ratio", [1, 3])
def test_false_reproduction_of_a_small_claim_is_bounded(ratio):
    found = rates(5, 0, claimed=1, ratio=ratio)
    assert found["reproduced"] + found["direction only"] < 2.9


def test_a_family_of_eight_has_the_stated_error_rates():
    """Eight methods without a gain against one baseline: how often any is called better, by Holm's p and by verdict."""
    by_holm, by_verdict = stated(holm, r"no true gain.*?, (2\.2.*?) % have"), stated(verdict, r"called better in (.*?) % of")
    for seeds, family, single in zip((3, 5, 10), by_holm, by_verdict):
        generator = np.random.default_rng(seeds)
        low, high, p = welch(generator.normal(0, 1, (10000, 8, seeds)), generator.normal(0, 1, (10000, 1, seeds)))
        assert (np.array([holm(row) for row in p[:200]]).min(1) <= 0.05).tolist() == (8 * p[:200].min(1) <= 0.05).tolist()
        assert 100 * (8 * p.min(1) <= 0.05).mean() == pytest.approx(family, abs=0.7)
        assert family <= 5
        assert 100 * (low > 0).any(1).mean() == pytest.approx(single, abs=1.2)
        better = [any(verdict(row, None) == "direction only" for row in zip(*ends)) for ends in zip(low[:200], high[:200])]
        assert better == (low[:200] > 0).any(1).tolist()
