"""Measure by how much test images as a random factor beside the seeds would widen the interval of a gain."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from dgd.metrics import METRICS
from dgd.read.cells import baseline_of
from dgd.read.comparisons import BLOCKED, Settings, by_seed
from dgd.read.files import has, read_arrays

CLASSES = METRICS["classification"].name


def factor(own: np.ndarray, other: np.ndarray, variance: float) -> float:
    """Return by what an interval of seeds alone is multiplied where images are drawn too, crossed with the seeds.

    The variance of a mean over S seeds and N images is that of the seeds, as `variance / S` estimates it with the noise of
    single predictions, and that of the images: of the mean over seeds by image, over N, less the same noise, which is in both.

    Args:
        own: bool (seeds, images), where a method is right.
        other: Of the baseline, the same seeds and images.
        variance: Of the gains by seed, in squared percentage points, as the interval has it.
    """
    difference = 100.0 * (own.astype(float) - other)
    seeds, images = difference.shape
    by_image = difference.mean(0)
    rest = difference - by_image - difference.mean(1, keepdims=True) + difference.mean()
    noise = (rest**2).sum() / ((seeds - 1) * (images - 1))
    more = max(by_image.var(ddof=1) - noise / seeds, 0.0) / images
    return math.sqrt(1 + more / (variance / seeds))


def factors(cells: pd.DataFrame, folder: str | Path) -> pd.Series:
    """Return the factor of each gain over a baseline of a benchmark: (dataset, student, teacher, method) -> `factor`.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV.
        folder: The benchmark's results, with the cells' predictions.
    """
    first = cells[(cells["status"] == "finished") & (cells["network"] == 0) & (cells["metric"] == CLASSES)]
    first = first.assign(teacher=first["teacher"].fillna(""))
    settings, found, right = Settings(first), {}, {}

    def of(rows: Iterable) -> np.ndarray:
        for row in rows:
            if row.folder not in right:
                arrays = read_arrays(Path(folder) / row.folder / "predictions.npz", "labels", "predictions")
                right[row.folder] = arrays["predictions"][0] == arrays["labels"]
        return np.stack([right[row.folder] for row in rows])

    for (dataset, student, teacher, method), group in first.groupby(["dataset", "student", "teacher", "method"], sort=False):
        near = first[(first["dataset"] == dataset) & (first["student"] == student) & (first["teacher"] == "")]
        base = near[near["method"] == baseline_of(group)]
        seeds = sorted(set(group["seed"]) & set(base["seed"]))
        one = settings.of(dataset, student).of(by_seed(group), by_seed(base))
        there = all(has(Path(folder) / name / "predictions.npz") for name in (*group["folder"], *base["folder"]))
        if method != baseline_of(group) and one.analysis == BLOCKED and there:
            sides = [list(rows.set_index("seed").loc[seeds].itertuples()) for rows in (group, base)]
            found[dataset, student, teacher, method] = factor(*map(of, sides), one.moments[0])
    return pd.Series(found, dtype=float)
