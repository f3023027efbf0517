"""Comparisons of simulated results, thousands at once: the arithmetic of `blocked`, `pooled_gain` and Welch's on arrays."""

import math

import numpy as np
from scipy import special, stats

from dgd.read.statistics import PRIOR


def blocks(rows: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return gains of rows over another one, their moderated standard errors, and the degrees of freedom.

    Args:
        rows: Results, (..., rows, seeds); their variances over the other one make the typical one.
        other: That of the other row, (..., seeds).
    """
    differences = rows - other[..., None, :]
    seeds = rows.shape[-1]
    half, own = (seeds - 1) / 2, differences.var(-1, ddof=1)
    typical = np.exp(np.log(own).mean(-1) - special.digamma(half) + math.log(half))[..., None]
    return differences.mean(-1), np.sqrt((own + PRIOR * typical) / (1 + PRIOR) / seeds), (1 + PRIOR) * (seeds - 1)


def interval(gain: np.ndarray, error: np.ndarray, freedom, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of t-intervals."""
    half = stats.t.ppf(0.5 + confidence / 2, freedom) * error
    return gain - half, gain + half


def p_values(gain: np.ndarray, error: np.ndarray, freedom) -> np.ndarray:
    """Return two-sided p-values."""
    return 2 * stats.t.sf(abs(gain) / error, freedom)


def benchmark(count: int, seeds: int, gains, baseline: float = 1.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return results of a baseline and 8 methods on normal data, (count, 9, seeds); the baseline comes first.

    Args:
        count: Benchmarks.
        seeds: Of each row.
        gains: True gains of the first methods, in root mean squares of the standard deviations of method and baseline.
        baseline: Standard deviation of the baseline, in those of the methods.
        scale: Standard deviation of the methods.
        seed: Of the generator.
    """
    deviations = np.ones(9)
    deviations[0] = baseline
    means = np.zeros(9)
    means[1 : 1 + len(gains)] = np.array(gains) * math.sqrt((1 + baseline**2) / 2)
    generator = np.random.default_rng([seed, seeds, count, int(10 * baseline)])
    return scale * (means[:, None] + deviations[:, None] * generator.normal(size=(count, 9, seeds)))
