"""Spell the L1 thresholds of a valid filter, and take means over the valid and invalid filters of a network."""

import math
from collections.abc import Iterable

import numpy as np

THRESHOLDS = (1.0, 0.1)
"""L1 norms up to which a filter is invalid (arXiv 2004.12311, section 4.3), of which cells.csv has columns."""

SETS = (
    "baseline_valid",
    "baseline_invalid",
    "mean_l1_valid_rank",
    "mean_l1_invalid_rank",
    "mean_l1_valid_position",
    "mean_l1_invalid_position",
)
"""What `filter_sets` gives."""


def spelled(threshold: float) -> str:
    """Return a threshold as metrics.json and column names spell it: `1`, `0.1`."""
    return f"{threshold:g}"


def column(name: str, threshold: float) -> str:
    """Return the column of cells.csv that holds something for a threshold: `invalid_ratio_0.1`."""
    return f"{name}_{spelled(threshold)}"


FILTERS = tuple(column(name, threshold) for threshold in THRESHOLDS for name in ("invalid_ratio", *SETS))
"""The columns of cells.csv about valid and invalid filters."""


def filter_sets(l1: np.ndarray, baseline: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the mean L1 norm of the filters that the baseline calls valid and invalid, by both readings.

    A filter is valid if its L1 norm is above the threshold. "We identify a filter as valid or invalid by the baseline
    model ... the number of valid and invalid filters is fixed" (arXiv 2004.12311, section 4.3) can be read by rank (the
    invalid ones are the k smallest of this network, k being the baseline's count), which fits the published numbers, or by
    position (they are those at the baseline's own invalid positions).

    Args:
        l1: L1 norms of all conv filters of a network, (filters,).
        baseline: The same of its baseline, in the same order.
        threshold: Norm up to which a filter is invalid.

    Returns:
        baseline_valid and baseline_invalid (counts), and mean_l1_{valid,invalid}_{rank,position}, NaN for an empty set.

    Raises:
        ValueError: The two networks do not have the same number of filters.
    """
    if l1.shape != baseline.shape or l1.ndim != 1:
        raise ValueError(f"filters of shape {l1.shape} against {baseline.shape} of the baseline: not the same network")
    invalid = baseline <= threshold
    count = int(invalid.sum())
    ranked = np.sort(l1)
    means = [mean(values) for values in (ranked[count:], ranked[:count], l1[~invalid], l1[invalid])]
    return dict(zip(SETS, (len(l1) - count, count, *means), strict=True))


def mean(values: Iterable[float]) -> float:
    """Return the mean of the numbers that are there (float64), NaN if none is."""
    array = np.asarray(values, dtype=float)
    array = array[~np.isnan(array)]
    return float(array.mean()) if len(array) else math.nan
