"""Two finished cells beside each other: what they were asked for, what came out, and on which test images they differ."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from tabulate import tabulate

from dgd import identity
from dgd.cell import Cell
from dgd.measured import read_metrics
from dgd.metrics import METRICS, Metric
from dgd.read.files import read_arrays, read_config, read_history
from dgd.read.statistics import paired_interval

EPOCHS = 8
"""Epochs of the curves that are shown."""


class Finished(NamedTuple):
    """What is read of a finished cell."""

    cell: Cell
    metrics: dict
    history: pd.DataFrame
    labels: np.ndarray
    predictions: np.ndarray


def compare(one: str | Path, other: str | Path) -> str:
    """Return in readable form how two cells differ: their fields, their results, and the first networks' predictions.

    On the same test images two classifiers are compared by McNemar's exact test, and by the 95 % interval of the difference of
    their accuracies. One training of each says nothing of other seeds.

    Args:
        one: A cell's folder.
        other: Another one's.

    Raises:
        ValueError: One of them is no finished cell, or they predict other things.
    """
    found = [_read(Path(folder)) for folder in (one, other)]
    tasks = {own.cell.task for own in found}
    if len(tasks) > 1:
        raise ValueError(f"{one} and {other} have other tasks, {' and '.join(sorted(tasks))}; compare cells of one")
    metric = METRICS[found[0].cell.task]
    return "\n\n".join(part for part in (_fields(*found), _results(*found, metric), _images(*found), _curves(*found, metric)))


def _read(folder: Path) -> Finished:
    path = folder / "metrics.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no finished cell in it; give the folder of a trained cell")
    metrics, cell = read_metrics(path), read_config(folder / "config.yaml")
    if metrics["status"] != "finished":
        raise ValueError(f"{folder}: {metrics['status']}: {metrics.get('error', '')}; there is nothing to compare")
    arrays = read_arrays(folder / "predictions.npz", "labels", "predictions")
    history = read_history(folder / "history.csv", METRICS[cell.task])
    return Finished(cell, metrics, history, arrays["labels"], arrays["predictions"][0])


def _fields(one: Finished, other: Finished) -> str:
    was, now = identity.fields(one.cell), identity.fields(other.cell)
    names = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
    rows = [["cell", one.cell.path, other.cell.path], *([name, was.get(name, ""), now.get(name, "")] for name in names)]
    return tabulate(rows, headers=["asked for", "one", "other"], disable_numparse=True)


def _results(one: Finished, other: Finished, metric: Metric) -> str:
    rows = []
    for name, words in (
        ("last", "last epoch"),
        ("best_on_test", "best on test"),
        ("validation_selected", "selected on validation"),
    ):
        values = [(own.metrics["networks"][0].get(name) or {}).get(metric.name) for own in (one, other)]
        if None not in values:
            rows.append([words, *(f"{value:{metric.form}}" for value in values), f"{values[1] - values[0]:+{metric.form}}"])
    return tabulate(rows, headers=[metric.words, "one", "other", "difference"], disable_numparse=True)


def _images(one: Finished, other: Finished) -> str:
    if one.cell.task != "classification":
        return "predictions: only those of classes are compared image by image"
    if not np.array_equal(one.labels, other.labels):
        return "predictions: the test images differ"
    first, second = (own.predictions == own.labels for own in (one, other))
    only, others = int((first & ~second).sum()), int((~first & second).sum())
    low, high = paired_interval(first, second)
    p = binomtest(only, only + others).pvalue if only + others else 1.0
    right, wrong = int((first & second).sum()), int((~first & ~second).sum())
    return (
        f"of {len(first)} test images: both right {right}, only one {only}, only other {others}, both wrong {wrong}; McNemar's "
        f"exact p = {p:.3g}\nother less one, 95 % interval on these images: "
        f"[{low:+.2f}, {high:+.2f}] points; other seeds are not in it"
    )


def _curves(one: Finished, other: Finished, metric: Metric) -> str:
    column = f"test_{metric.name}_0"
    curves = [own.history.dropna(subset=[column]).set_index("epoch")[column] for own in (one, other)]
    shared = sorted(set(curves[0].index) & set(curves[1].index))
    if not shared:
        return "curves: no epoch was evaluated in both"
    chosen = [shared[round(k)] for k in np.linspace(0, len(shared) - 1, min(EPOCHS, len(shared)))]
    rows = [[epoch + 1, *(f"{curve[epoch]:{metric.form}}" for curve in curves)] for epoch in dict.fromkeys(chosen)]
    return tabulate(rows, headers=["epoch", "one", "other"], disable_numparse=True)
