"""The primary analysis: blocks of seeds with a moderated variance, against hand-made numbers and simulation."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from dgd.read import statistics
from dgd.read.statistics import PRIOR, blocked, difference, typical_variance
from tests.simulated import blocks, interval, p_values

METHODS = 8


def test_without_a_typical_variance_it_is_the_paired_t_test():
    a, b = np.random.default_rng(0).normal(size=(2, 5))
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.9)
    assert blocked(a - b, confidence=0.9) == pytest.approx(((a - b).mean(), interval.low, interval.high, theirs.pvalue))


def test_the_typical_variance_counts_half_as_much():
    found = blocked([1.0, 2.0, 3.0], typical=4.0)  # variance 1, two degrees of freedom
    error = math.sqrt((1 + PRIOR * 4) / (1 + PRIOR) / 3)
    assert found.p == pytest.approx(2 * stats.t.sf(2 / error, 3))
    assert found.high == pytest.approx(2 + stats.t.ppf(0.975, 3) * error)


def test_the_same_training_twice_is_no_comparison():
    assert math.isnan(blocked([0.0, 0.0, 0.0], typical=1.0).p)
    assert blocked([0.2, 0.2], typical=1.0).p < 1  # two seeds that agree: the spread is the typical one
    assert math.isnan(blocked([0.2, 0.2]).p)  # and without one there is no test
    assert math.isnan(blocked([0.2], typical=1.0).low)


def test_the_typical_variance_is_unbiased_on_the_scale_of_its_logarithm():
    draws = np.random.default_rng(1).normal(0, 2.0, (4000, 3))
    assert typical_variance(draws) == pytest.approx(4.0, rel=0.05)
    assert math.isnan(typical_variance([[1.0, 2.0]]))  # one row has nothing to be moderated by
    assert math.isnan(typical_variance([[1.0, 2.0], [0.0, 0.0], [1.0]]))


def drawn(count: int, n: int, rho: float | str, spread: str) -> np.ndarray:
    """Return results of a baseline and `METHODS` methods without any gain: (count, rows, seeds)."""
    generator = np.random.default_rng(7)
    rows = METHODS + 1
    share = np.where(np.arange(rows) % 2 == 0, 0.95, 0.05) if rho == "mixed" else np.full(rows, float(rho))
    block, own = generator.normal(size=(count, 1, n)), generator.normal(size=(count, rows, n))
    scale = np.ones((count, rows, 1))
    if spread == "3 : 1":
        scale[:, 0] = 3
    if spread == "30 %":
        scale = np.exp(generator.normal(0, 0.3, scale.shape))
    return (np.sqrt(share)[:, None] * block + np.sqrt(1 - share)[:, None] * own) * scale


def halves(y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return gains over row 0, the half widths of our interval, the paired and Welch's, and our p: (count, methods) each."""
    n = y.shape[2]
    f, parts = n - 1, y.var(2, ddof=1) / n
    base, theirs = parts[:, :1], parts[:, 1:]
    gain, error, freedom = blocks(y[:, 1:], y[:, 0])
    ours = interval(0, error, freedom)[1]
    paired = stats.t.ppf(0.975, f) * np.sqrt((y[:, 1:] - y[:, :1]).var(2, ddof=1) / n)
    welch = stats.t.ppf(0.975, (base + theirs) ** 2 / ((base**2 + theirs**2) / f)) * np.sqrt(base + theirs)
    return gain, ours, paired, welch, p_values(gain, error, freedom)


def test_simulated_comparisons_are_ours():
    y = drawn(1, 4, 0.5, "30 %")
    gain, ours, _, welch, p = halves(y)
    typical = typical_variance([row - y[0, 0] for row in y[0, 1:]])
    for k, row in enumerate(y[0, 1:]):
        found = blocked(row - y[0, 0], typical)
        assert found == pytest.approx((gain[0, k], gain[0, k] - ours[0, k], gain[0, k] + ours[0, k], p[0, k]))
        assert difference(row, y[0, 0]).high == pytest.approx(gain[0, k] + welch[0, k])


TABLE = re.findall(
    r"\| (equal|3 : 1|30 %) +\| (\S+) +\| (\S+) +\| (\S+) +\| (\S+) \((\S+)\) \| (\S+) +\| (\S+) +\| (\S+) \((\S+)\) \|",
    blocked.__doc__,
)


@pytest.mark.parametrize("row", TABLE, ids=" ".join)
def test_the_error_rates_are_those_of_the_docstring(row):
    spread, rho, *said = row
    for n, (coverage, any_p, width, over_welch) in ((3, said[:4]), (5, said[4:])):
        gain, ours, paired, welch, p = halves(drawn(4000, n, rho if rho == "mixed" else float(rho), spread))
        assert 100 * (abs(gain) < ours).mean() == pytest.approx(float(coverage), abs=0.8)
        assert 100 * (p.min(1) * METHODS <= 0.05).mean() == pytest.approx(float(any_p), abs=1.0)
        assert np.median(ours) / np.median(paired) == pytest.approx(float(width), abs=0.03)
        assert np.median(ours) / np.median(welch) == pytest.approx(float(over_welch), abs=0.03)


def test_the_table_is_whole_and_holds_what_is_promised():
    assert len(TABLE) == 12
    assert all(float(row[place]) >= 93 for row in TABLE for place in (2, 6))  # coverage
    assert all(float(row[place]) <= 5.5 for row in TABLE for place in (3, 7))  # tables with an adjusted p of at most 0.05
    assert statistics.PRIOR == 0.5  # measured with this one
