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


class Rows(NamedTuple):
    """Rows of two cells beside each other."""

    headers: tuple[str, ...]
    rows: list[list]

    def __str__(self) -> str:
        return tabulate(self.rows, headers=self.headers, disable_numparse=True)

    @property
    def records(self) -> list[dict]:
        """The rows by their headers."""
        return [dict(zip(self.headers, row)) for row in self.rows]


class Comparison(NamedTuple):
    """Two finished cells beside each other.

    Attributes:
        fields: What they were asked for, where that differs.
        results: Results of their first networks.
        images: On which test images their first networks are right; None where their predictions cannot be compared.
        curves: Results over epochs that were evaluated in both.
        remark: Why the predictions are not compared.
    """

    fields: Rows
    results: Rows
    images: dict | None
    curves: Rows
    remark: str = ""

    def __str__(self) -> str:
        images = f"predictions: {self.remark}" if self.images is None else _images_text(self.images)
        curves = str(self.curves) if self.curves.rows else "curves: no epoch was evaluated in both"
        return "\n\n".join((str(self.fields), str(self.results), images, curves))


def compare(one: str | Path, other: str | Path) -> Comparison:
    """Return how two cells differ: their fields, their results, and the first networks' predictions.

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
    images, remark = _images(*found)
    return Comparison(_fields(*found), _results(*found, metric), images, _curves(*found, metric), remark)


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


def _fields(one: Finished, other: Finished) -> Rows:
    was, now = identity.fields(one.cell), identity.fields(other.cell)
    names = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
    rows = [["cell", one.cell.path, other.cell.path], *([name, was.get(name, ""), now.get(name, "")] for name in names)]
    return Rows(("asked for", "one", "other"), rows)


def _results(one: Finished, other: Finished, metric: Metric) -> Rows:
    rows = []
    for name, words in (
        ("last", "last epoch"),
        ("best_on_test", "best on test"),
        ("validation_selected", "selected on validation"),
    ):
        values = [(own.metrics["networks"][0].get(name) or {}).get(metric.name) for own in (one, other)]
        if None not in values:
            rows.append([words, *(f"{value:{metric.form}}" for value in values), f"{values[1] - values[0]:+{metric.form}}"])
    return Rows((metric.words, "one", "other", "difference"), rows)


def _images(one: Finished, other: Finished) -> tuple[dict | None, str]:
    """Return how often each is right on the test images, or why that cannot be said."""
    if one.cell.task != "classification":
        return None, "only those of classes are compared image by image"
    if not np.array_equal(one.labels, other.labels):
        return None, "the test images differ"
    first, second = (own.predictions == own.labels for own in (one, other))
    only, others = int((first & ~second).sum()), int((~first & second).sum())
    low, high = paired_interval(first, second)
    counts = {"images": len(first), "both_right": int((first & second).sum()), "only_one": only, "only_other": others}
    p = float(binomtest(only, only + others).pvalue) if only + others else 1.0
    return counts | {"both_wrong": int((~first & ~second).sum()), "p": p, "low": float(low), "high": float(high)}, ""


def _images_text(found: dict) -> str:
    return (
        "of {images} test images: both right {both_right}, only one {only_one}, only other {only_other}, both wrong "
        "{both_wrong}; McNemar's exact p = {p:.3g}\nother less one, 95 % interval on these images: [{low:+.2f}, {high:+.2f}] "
        "points; other seeds are not in it"
    ).format(**found)


def _curves(one: Finished, other: Finished, metric: Metric) -> Rows:
    column = f"test_{metric.name}_0"
    curves = [own.history.dropna(subset=[column]).set_index("epoch")[column] for own in (one, other)]
    shared = sorted(set(curves[0].index) & set(curves[1].index))
    chosen = [shared[round(k)] for k in np.linspace(0, len(shared) - 1, min(EPOCHS, len(shared)))]
    rows = [[epoch + 1, *(f"{curve[epoch]:{metric.form}}" for curve in curves)] for epoch in dict.fromkeys(chosen)]
    return Rows(("epoch", "one", "other"), rows)
