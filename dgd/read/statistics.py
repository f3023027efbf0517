"""Few-seed statistics: t-intervals, differences in blocks of seeds, Holm's correction, and the verdict on a published gain.

Three to five seeds a cell are usual here. At that size a percentile bootstrap of the mean covers about 80 % instead of 95 %,
and the smallest p that a permutation test of two samples can give is 0.1 at three seeds, 0.03 at four and 0.008 at five
(paired: 0.25, 0.125 and 0.0625), so everything below rests on Student's t.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

VERDICTS = ("reproduced", "direction only", "not reproduced", "inconclusive")
"""What `verdict` can say, best first."""


class Mean(NamedTuple):
    """A mean with its spread; see `mean_interval`."""

    mean: float
    sd: float
    n: int
    low: float
    high: float


class Difference(NamedTuple):
    """A difference of two means with its interval and two-sided p-value; see `difference`."""

    difference: float
    low: float
    high: float
    p: float


class Pooled(NamedTuple):
    """A gain averaged over settings with its interval; see `pooled_gain`."""

    gain: float
    low: float
    high: float
    settings: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """Return the mean, the sample standard deviation and the t-interval of the mean.

    Args:
        values: One number a seed, any unit. The results have the same unit.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        (mean, sd, n, low, high). With one value sd and interval are NaN; with none the mean is NaN too.

    Raises:
        ValueError: `values` is not a flat list of finite numbers, or `confidence` is not between 0 and 1.
    """
    values = _checked(values, confidence)
    mean, sd, n = _moments(values)
    half = _quantile(confidence, n - 1) * sd / math.sqrt(n) if n > 1 else math.nan
    return Mean(mean, sd, n, mean - half, mean + half)


def paired_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies on the same images, in percentage points.

    Wald's with a pseudo-count of a half for each outcome (Bonett and Price 2012), which keeps its coverage where few differ.

    Args:
        first: bool (images,), right or wrong.
        second: bool (images,).
    """
    lost, won, n = (first & ~second).sum() + 1, (~first & second).sum() + 1, len(first) + 2
    middle = (won - lost) / n
    half = 1.96 * math.sqrt(won + lost - n * middle**2) / n
    return 100 * (middle - half), 100 * (middle + half)


def prediction_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the t-interval in which one further run falls with probability `confidence`.

    A published number mostly stands on one run or a few, so it is this interval that it should lie in, not the
    (narrower) interval of our mean.

    Args:
        values: One number a seed.
        confidence: Coverage, between 0 and 1.

    Returns:
        (low, high), NaN with fewer than two values.

    Raises:
        ValueError: As `mean_interval`.
    """
    values = _checked(values, confidence)
    mean, sd, n = _moments(values)
    half = _quantile(confidence, n - 1) * sd * math.sqrt(1 + 1 / n) if n > 1 else math.nan
    return mean - half, mean + half


def difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Difference:
    """Return mean(a) - mean(b) with Welch's interval and two-sided p-value, as of two samples that share nothing.

    It assumes least, and is the check beside `blocked`; the only test where two rows share no seeds.

    Args:
        a: One number a seed of the method.
        b: One number a seed of the baseline; may differ in length.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        (difference, low, high, p). Interval and p are NaN if either side has fewer than two values, or if neither side
        varies at all: without a spread there is no test.

    Raises:
        ValueError: As `mean_interval`.
    """
    a, b = _checked(a, confidence), _checked(b, confidence)
    (mean_a, sd_a, n_a), (mean_b, sd_b, n_b) = _moments(a), _moments(b)
    gain = mean_a - mean_b
    if min(n_a, n_b) < 2:
        return Difference(gain, math.nan, math.nan, math.nan)
    if np.ptp(a) == np.ptp(b) == 0:  # a standard deviation of equal values may be a rounding above 0
        return Difference(gain, math.nan, math.nan, math.nan)
    part_a, part_b = sd_a**2 / n_a, sd_b**2 / n_b
    error = math.sqrt(part_a + part_b)
    freedom = (part_a + part_b) ** 2 / (part_a**2 / (n_a - 1) + part_b**2 / (n_b - 1))
    half = _quantile(confidence, freedom) * error
    return Difference(gain, gain - half, gain + half, float(2 * stats.t.sf(abs(gain) / error, freedom)))


PRIOR = 0.5
"""What the typical variance of a setting counts, in `blocked`, for each degree of freedom of a comparison's own."""


def typical_variance(samples: Sequence[Sequence[float]]) -> float:
    """Return the variance that is typical of samples of normal data: the geometric mean, without the bias of its logarithm.

    Args:
        samples: Differences by seed, one list for each row of a setting over the same other row. Those with fewer than two
            values, and those without any spread, say nothing.

    Returns:
        NaN of fewer than two samples.

    Raises:
        ValueError: As `mean_interval`.
    """
    logs = []
    for sample in samples:
        values = _checked(sample)
        if len(values) > 1 and np.ptp(values) > 0:
            half = (len(values) - 1) / 2
            logs.append(math.log(_moments(values)[1] ** 2) - special.digamma(half) + math.log(half))
    return math.exp(np.mean(logs)) if len(logs) > 1 else math.nan


def blocked(differences: Sequence[float], typical: float = math.nan, confidence: float = 0.95) -> Difference:
    """Return a mean difference of two rows by the seeds that both have: the primary analysis of all tables.

    Seeds are blocks: network 0 of each row starts from the same weights, and sees the same images in the same order. How much
    of a run's result that decides differs by method: in controls-small the correlation with the baseline is 0.99 for a longer
    baseline, 0.94 for KD, and -0.13 between grafted rows. So each comparison is a paired one. With two or four degrees of
    freedom its variance is hardly known; it is moderated by the typical one of the setting (`typical_variance` of all rows over
    the same other row), which counts as `PRIOR` degrees of freedom for each of its own:

        variance = (s^2 + PRIOR typical) / (1 + PRIOR),    degrees of freedom = (1 + PRIOR) (seeds - 1)

    The weight is fixed. An empirical Bayes estimate of it (as in limma, G. K. Smyth 2004) is more precise where the rows'
    variances are alike, and is not valid here: all differences of a setting share the noise of the row they are held against,
    so that they look alike although none is known. Measured by tests/test_blocked.py on normal data of 8 methods without any
    gain: coverage of the 95 % interval, and share of tables with an adjusted p (`holm`) of at most 0.05, in %; the width is
    over that of the plain paired interval and, in brackets, of Welch's. rho is the correlation that a shared seed gives each
    pair of rows; mixed: 0.95 between half of them, 0.05 for the others. Spread: all equal, the baseline's three times that of
    the methods (3 : 1), or lognormal with 30 % between rows.

    | spread  | rho   | 3 seeds: coverage | any p | width       | 5 seeds: coverage | any p | width       |
    |---------|-------|-------------------|-------|-------------|-------------------|-------|-------------|
    | equal   | 0     | 97.2              | 0.5   | 0.81 (1.00) | 95.9              | 1.9   | 0.92 (1.02) |
    | equal   | 0.5   | 97.0              | 0.5   | 0.81 (0.73) | 95.8              | 2.0   | 0.92 (0.73) |
    | equal   | 0.95  | 97.1              | 0.4   | 0.81 (0.27) | 95.9              | 2.1   | 0.92 (0.24) |
    | equal   | mixed | 96.3              | 2.3   | 0.92 (0.48) | 95.6              | 5.1   | 1.03 (0.45) |
    | 3 : 1   | 0     | 94.4              | 2.1   | 0.82 (0.96) | 94.4              | 2.8   | 0.92 (0.98) |
    | 3 : 1   | 0.5   | 94.1              | 2.2   | 0.82 (0.81) | 94.4              | 2.4   | 0.92 (0.82) |
    | 3 : 1   | 0.95  | 93.3              | 2.5   | 0.83 (0.64) | 93.9              | 1.8   | 0.93 (0.65) |
    | 3 : 1   | mixed | 94.0              | 2.7   | 0.83 (0.76) | 94.3              | 2.8   | 0.94 (0.77) |
    | 30 %    | 0     | 96.9              | 0.7   | 0.81 (1.00) | 95.8              | 2.5   | 0.92 (1.02) |
    | 30 %    | 0.5   | 97.1              | 0.7   | 0.81 (0.75) | 95.9              | 2.3   | 0.92 (0.75) |
    | 30 %    | 0.95  | 96.3              | 1.3   | 0.83 (0.36) | 95.6              | 2.7   | 0.93 (0.33) |
    | 30 %    | mixed | 96.3              | 2.0   | 0.86 (0.59) | 95.5              | 4.4   | 0.94 (0.58) |

    Of one method whose spread is three times that of all others the interval covers 89 to 93 %: moderation takes its spread for
    an accident. Welch's covers 95 to 98 % there.

    Args:
        differences: Method less other, one number for each seed that both have.
        typical: `typical_variance` of the setting; NaN moderates nothing.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        (difference, low, high, p). Interval and p are NaN with fewer than two seeds, and if the two rows are the same in every
        seed: then they are one training, and there is nothing to compare.

    Raises:
        ValueError: As `mean_interval`.
    """
    values = _checked(differences, confidence)
    mean, sd, n = _moments(values)
    if n < 2 or not values.any():
        return Difference(mean, math.nan, math.nan, math.nan)
    variance, freedom = moderated(sd**2 if np.ptp(values) else 0.0, n, typical)
    if not variance:
        return Difference(mean, math.nan, math.nan, math.nan)
    error = math.sqrt(variance / n)
    half = _quantile(confidence, freedom) * error
    return Difference(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def moderated(variance: float, n: int, typical: float) -> tuple[float, float]:
    """Return the variance of differences over n seeds, moderated by the typical one, and its degrees of freedom."""
    if math.isnan(typical):
        return variance, n - 1
    return (variance + PRIOR * typical) / (1 + PRIOR), (1 + PRIOR) * (n - 1)


def minimum_detectable_effect(sd: float, n: int | tuple[int, int], power: float = 0.8, confidence: float = 0.95) -> float:
    """Return the smallest true difference of two means that so many seeds would have shown with probability `power`.

    Of two samples that share nothing, by a t-test with a pooled standard deviation; tables have that of their own analysis
    (`detectable`). Shown: the difference's interval excludes 0 on the right side. From the noncentral t distribution, for equal
    spreads. Welch's test has to estimate its degrees of freedom, and shows such a difference less often: at a power of 80 % in
    70, 76, 78 and 80 % of cases with 3, 4, 5 and 10 seeds a side, in 62, 68, 72 and 77 % where one spread is three times the
    other (as tests/test_statistics.py measures). `sd` from as few seeds is itself uncertain.

    Args:
        sd: Standard deviation of one run, the pooled one of the two sides.
        n: Seeds a side, or those of the two sides.
        power: Probability of seeing the difference, between 1 - `confidence` and 1.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        A difference in the unit of `sd`; NaN if that is NaN or a side has fewer than two seeds.

    Raises:
        ValueError: `sd` is negative or infinite, or `power` or `confidence` out of range.
    """
    n_a, n_b = n if isinstance(n, tuple) else (n, n)
    if not 0 < confidence < 1 or not 1 - confidence < power < 1:
        raise ValueError(f"confidence must lie in (0, 1) and power in (1 - confidence, 1), got {confidence} and {power}")
    if sd < 0 or math.isinf(sd):
        raise ValueError(f"sd must be a finite number of at least 0, got {sd}")
    if math.isnan(sd) or min(n_a, n_b) < 2:
        return math.nan
    freedom = (1 / n_a + 1 / n_b) ** 2 / (1 / n_a**2 / (n_a - 1) + 1 / n_b**2 / (n_b - 1))
    return detectable(sd * math.sqrt(1 / n_a + 1 / n_b), freedom, power, confidence)


def detectable_between(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the `minimum_detectable_effect` of two samples, by their pooled standard deviation.

    It is NaN with fewer than two values on a side, or without any spread.
    """
    (_, sd_a, n_a, *_), (_, sd_b, n_b, *_) = mean_interval(a), mean_interval(b)
    if min(n_a, n_b) < 2 or np.ptp(a) == np.ptp(b) == 0:
        return math.nan
    pooled = math.sqrt(((n_a - 1) * sd_a**2 + (n_b - 1) * sd_b**2) / (n_a + n_b - 2))
    return minimum_detectable_effect(pooled, (n_a, n_b))


def detectable(error: float, freedom: float, power: float = 0.8, confidence: float = 0.95) -> float:
    """Return the smallest true difference that a t-test would have shown with probability `power`.

    From the noncentral t distribution. With the moderated variance and degrees of freedom of `blocked` such a difference is
    shown in 78, 79, 79 and 80 % of cases with 3, 4, 5 and 10 seeds, in 75, 76, 77 and 79 % where the baseline's spread is
    three times the methods' (as tests/test_error_rates.py measures). An error from as few seeds is itself uncertain.

    Args:
        error: Standard error of the difference, as estimated.
        freedom: Degrees of freedom of that estimate.
        power: Probability of seeing the difference, between 1 - `confidence` and 1.
        confidence: Coverage of the interval that has to exclude 0, between 0 and 1.
    """
    return float(error * _standard_errors(float(freedom), power, confidence))


@cache
def _standard_errors(freedom: float, power: float, confidence: float) -> float:
    """Return the smallest difference in standard errors."""
    critical = _quantile(confidence, freedom)

    def missing(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect)) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return optimize.brentq(missing, 0, high)


def seeds_for(variance: float, half_width: float, moderated_too: bool, confidence: float = 0.95, most: int = 100_000) -> int:
    """Return the fewest seeds whose interval of a paired difference is at most `half_width` to either side.

    Args:
        variance: Of the differences by seed.
        half_width: In the unit of the differences, above 0.
        moderated_too: The variance will be moderated, so that its degrees of freedom are (1 + `PRIOR`) (seeds - 1).
        confidence: Coverage of the interval.
        most: Where the search ends.

    Raises:
        ValueError: `half_width` is not above 0, or more than `most` seeds would be needed.
    """
    if not half_width > 0:
        raise ValueError(f"half_width must be above 0, got {half_width}")
    share = 1 + PRIOR if moderated_too else 1

    def wide(n: int) -> bool:
        return _quantile(confidence, share * (n - 1)) * math.sqrt(variance / n) > half_width

    if wide(most):
        raise ValueError(f"more than {most:,} seeds would be needed for {half_width:g} to either side; ask for less")
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wide(middle) else (low, middle)
    return high


def upper_variance(variance: float, freedom: float, confidence: float = 0.9) -> float:
    """Return a one-sided upper confidence bound of a variance of normal data, from an estimate with degrees of freedom."""
    return float(variance * freedom / stats.chi2.ppf(1 - confidence, freedom))


def pooled_gain(parts: Sequence[tuple[float, float, float]], confidence: float = 0.95) -> Pooled:
    """Return the gain averaged over settings, each counted once, with Satterthwaite's t-interval.

    Each setting has a variance and degrees of freedom of its own; those of the mean follow from them. The settings are fixed:
    the interval is that of their own mean gain, and says nothing about others. On normal data of 8 methods in each setting,
    compared by `blocked`, a 95 % interval covered, in % (as tests/test_error_rates.py measures). Unequal spread: that of the
    baseline three times the methods', that of every other setting ten times the others', or both:

    | spread          | seeds | 2 settings | 4 settings | 8 settings |
    |-----------------|-------|------------|------------|------------|
    | equal           | 3     | 96.7       | 96.5       | 96.2       |
    | equal           | 5     | 95.6       | 95.6       | 95.6       |
    | of the baseline | 3     | 96.1       | 96.9       | 97.0       |
    | of the baseline | 5     | 95.1       | 95.6       | 95.9       |
    | of the settings | 3     | 96.6       | 96.7       | 96.5       |
    | of the settings | 5     | 95.7       | 95.9       | 95.5       |
    | both            | 3     | 94.1       | 95.9       | 96.6       |
    | both            | 5     | 94.3       | 95.4       | 95.6       |

    Args:
        parts: (gain, its standard error, degrees of freedom) of each setting; no sample may stand in two settings.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        (gain, low, high, settings). All but the last are NaN without a setting.

    Raises:
        ValueError: A part is not finite, or `confidence` is not between 0 and 1.
    """
    if not parts:
        return Pooled(math.nan, math.nan, math.nan, 0)
    gains, errors, freedoms = (_checked(column, confidence) for column in zip(*parts, strict=True))
    variances = (errors / len(parts)) ** 2
    gain, variance = float(gains.mean()), float(variances.sum())
    freedom = variance**2 / float((variances**2 / freedoms).sum()) if variance else math.inf
    half = _quantile(confidence, freedom) * math.sqrt(variance)
    return Pooled(gain, gain - half, gain + half, len(parts))


def holm(pvalues: Sequence[float]) -> np.ndarray:
    """Return Holm's step-down adjusted p-values, in the order given.

    Of tables with 8 methods of no true gain, each against one baseline by `blocked`, 0.4, 2.1 and 3.3 % have an adjusted p of
    at most 0.05 at 3, 5 and 10 seeds, and 1.9, 2.5 and 2.4 % where the baseline's spread is three times the methods' (as
    tests/test_error_rates.py measures): the promised 5 % or less.

    Args:
        pvalues: Raw p-values. NaN marks a comparison that could not be made; it stays NaN and is not counted.

    Returns:
        Array of the same length: each p-value times the number of hypotheses left at its step, made monotone, at most 1.

    Raises:
        ValueError: A p-value is outside [0, 1].
    """
    p = np.asarray(pvalues, dtype=float)
    tested = np.flatnonzero(~np.isnan(p))
    if ((p[tested] < 0) | (p[tested] > 1)).any():
        raise ValueError(f"p-values must lie in [0, 1] or be NaN, got {p.tolist()}")
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def verdict(gain_interval: tuple[float, float], claimed_gain: float | None) -> str:
    """Say what our runs mean for a published gain.

    Let [lo, hi] be the 95 % interval of (method - baseline) and g > 0 the published gain:

    | lo > 0, hi >= g            | reproduced: better than the baseline, and a gain as large as claimed is not excluded |
    | lo > 0, hi < g             | direction only: better, but by less than claimed                                     |
    | lo <= 0, hi < g; or hi < 0 | not reproduced: a gain as large as claimed is excluded, and no gain is shown         |
    | lo <= 0 <= hi, hi >= g     | inconclusive: both no gain and the claimed gain fit                                  |

    A NaN interval (fewer than two seeds, or no spread) is inconclusive. Without a published number for
    the cell (None) only the direction is claimed: lo > 0 is "direction only", hi < 0 "not reproduced", anything else
    inconclusive. A published loss (g < 0) is judged after changing the sign of everything, so "reproduced" then means that the
    loss was. A published gain of exactly 0 has no margin to hold it to: an interval without 0 is "not reproduced", any other
    inconclusive.

    The published gain is taken as an exact number, although it rests on few runs itself.

    Error rates of the primary analysis, `blocked`, as measured by tests/test_error_rates.py on normal data of 8 methods that
    share nothing by their seeds, with a claimed gain of 2 s, s the root mean square of the two sides' sd (method : baseline;
    reproduced / direction only / not reproduced / inconclusive, in %; one unadjusted verdict). Where seeds share something, the
    same gain is seen more often:

    | sd    | seeds | true gain | reproduced | direction only | not reproduced | inconclusive |
    |-------|-------|-----------|------------|----------------|----------------|--------------|
    | equal | 3     | 0         | 1.3        | 0.1            | 36.7           | 61.9         |
    | equal | 3     | 2 s       | 36.2       | 0.1            | 1.3            | 62.4         |
    | equal | 5     | 0         | 1.7        | 0.5            | 73.4           | 24.5         |
    | equal | 5     | 2 s       | 74.1       | 0.4            | 1.6            | 23.8         |
    | equal | 10    | 0         | 0.6        | 1.9            | 96.6           | 0.8          |
    | equal | 10    | 2 s       | 96.8       | 1.7            | 0.6            | 0.9          |
    | 1 : 3 | 3     | 0         | 1.7        | 0.9            | 36.9           | 60.4         |
    | 1 : 3 | 3     | 2 s       | 37.2       | 0.9            | 1.7            | 60.3         |
    | 1 : 3 | 5     | 0         | 1.6        | 1.4            | 71.0           | 26.0         |
    | 1 : 3 | 5     | 2 s       | 70.9       | 1.2            | 1.6            | 26.3         |
    | 1 : 3 | 10    | 0         | 0.5        | 2.0            | 96.1           | 1.4          |
    | 1 : 3 | 10    | 2 s       | 96.3       | 2.0            | 0.6            | 1.1          |

    So a gain that is not there is called one (reproduced or direction only) in at most 3.0 % of rows, and a gain that is there
    as large as claimed is called not reproduced in at most 1.7 %. Over a whole table these add up: 8 methods without any gain
    against one baseline have at least one that is called better in 7.4, 10.7 and 11.8 % of tables at 3, 5 and 10 seeds. Holm's
    p, which is beside each verdict in the tables, keeps that under 5 %; see `holm`.

    Args:
        gain_interval: (lo, hi), in the unit of `claimed_gain`.
        claimed_gain: The published gain, or None if this cell was not published.

    Returns:
        One of `VERDICTS`.

    Raises:
        ValueError: lo > hi, or the claimed gain is NaN or infinite.
    """
    low, high = gain_interval
    if claimed_gain is not None and not math.isfinite(claimed_gain):
        raise ValueError(f"claimed_gain must be a finite number or None, got {claimed_gain}")
    if math.isnan(low) or math.isnan(high):
        return "inconclusive"
    if low > high:
        raise ValueError(f"gain_interval must be (low, high) with low <= high, got ({low}, {high})")
    if claimed_gain is not None and claimed_gain < 0:
        low, high, claimed_gain = -high, -low, -claimed_gain
    if claimed_gain is None:
        return "direction only" if low > 0 else "not reproduced" if high < 0 else "inconclusive"
    if claimed_gain == 0:
        return "inconclusive" if low <= 0 <= high else "not reproduced"
    if low > 0:
        return "reproduced" if high >= claimed_gain else "direction only"
    return "not reproduced" if high < claimed_gain else "inconclusive"


def _checked(values: Sequence[float], confidence: float = 0.95) -> np.ndarray:
    """Return `values` as a float array (n,), or say what is wrong with them."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"values must be a flat list of finite numbers, got {array.tolist()}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1 (0.95, not 95), got {confidence}")
    return array


def _moments(values: np.ndarray) -> tuple[float, float, int]:
    """Return mean, sample standard deviation (n - 1) and n; NaN where undefined."""
    n = len(values)
    if n and (values == values[0]).all():  # the mean of equal floats may round, and a spread of 1e-16 is none
        return float(values[0]), 0.0 if n > 1 else math.nan, n
    return (float(values.mean()), float(values.std(ddof=1)), n) if n else (math.nan, math.nan, 0)


@lru_cache(1024)
def _quantile(confidence: float, freedom: float) -> float:
    """Return the two-sided critical value of Student's t."""
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))
