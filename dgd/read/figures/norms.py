"""Draw the L1 norms of convolution filters: sorted, and as the share that a threshold calls invalid."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgd.read.figures import lines, style
from dgd.read.figures.material import Material
from dgd.read.thresholds import THRESHOLDS

FLOOR = 1e-4
"""Norms below this are drawn at it: collapsed filters reach zero, which a log axis has not."""


def filter_norms(norms: Mapping[str, Sequence[np.ndarray]], title: str) -> Figure:
    """Draw the L1 norms of conv filters, sorted; a mean over seeds is that of each rank.

    The vertical axis is logarithmic; norms below `FLOOR` are drawn at it. `THRESHOLDS` are marked: what lies at or below
    one is invalid.

    Args:
        norms: {method: one array (filters,) a seed}; the arrays of a method are equally long.
        title: Printed above.

    Raises:
        ValueError: There is nothing to draw, or the arrays of a method differ in length.
    """
    drawn = {}
    for method, table in lines.stacked(norms).items():
        share = 100 * np.arange(1, table.shape[1] + 1) / table.shape[1]
        drawn[method] = pd.DataFrame(np.sort(table, axis=1).T, index=share)  # (filters, seeds)

    def finish(axes):
        top = max(2.0, max(float(table.to_numpy().max()) for table in drawn.values()) * 1.5)
        lowest = min(float(table.to_numpy().min()) for table in drawn.values())
        bottom = max(FLOOR, min(0.05, lowest / 1.5))
        axes.set(yscale="log", ylim=(bottom * 0.9, top), xlim=(0, 100))
        notes = {threshold: f"threshold {threshold:g}" for threshold in THRESHOLDS[::-1]}
        for threshold in notes:
            axes.axhline(threshold, color="#999999", linewidth=0.9, zorder=1)
        if lowest < FLOOR:
            notes[FLOOR * 1.7] = f"norms below {FLOOR:g} are drawn at it"
        for height, text in notes.items():  # at the right, under the line: the curves pass above
            place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -2), "textcoords": "offset points"}
            axes.annotate(text, (0.99, height), **place, ha="right", va="top", color="#666666", fontsize=7.5)
        axes.set(xlabel="conv filters, sorted by norm (%)", ylabel="L1 norm of a filter")
        style.plain_ticks(axes.yaxis)

    return lines.figure(drawn, norms, finish, title, lambda value: np.maximum(value, FLOOR))


def shares_invalid(l1: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the share of filters whose L1 norm is not above each threshold: (filters,), (K,) -> (K,)."""
    return np.searchsorted(np.sort(l1), thresholds, side="right") / len(l1)


def invalid_ratios(norms: Mapping[str, Sequence[np.ndarray]], title: str) -> Figure:
    """Draw the share of filters whose L1 norm is not above a threshold, over thresholds (arXiv 2001.05868, figure 1).

    Args and errors as `filter_norms`.
    """
    thresholds = np.geomspace(1e-4, 10, 101)
    drawn = {
        method: pd.DataFrame({i: shares_invalid(l1, thresholds) for i, l1 in enumerate(table)}, index=thresholds)
        for method, table in lines.stacked(norms).items()
    }

    def finish(axes):
        for threshold in THRESHOLDS:
            axes.axvline(threshold, color="#999999", linewidth=0.9, zorder=1)
        axes.set(xscale="log", xlim=(1e-4, 10), ylim=(-0.02, 1.02))
        axes.set(xlabel="threshold of the L1 norm", ylabel="invalid filters (share of all)")
        style.plain_ticks(axes.xaxis)

    return lines.figure(drawn, norms, finish, title)


def draw(material: Material) -> dict[str, Figure]:
    """Return the figures of a student's cells: none without filters, a third one where it has projection filters."""
    found, title = {}, material.title
    if any(material.norms.values()):
        norms = {method: [*seeds.values()] for method, seeds in material.norms.items()}
        found |= {"filters": filter_norms(norms, title), "invalid": invalid_ratios(norms, title)}
    if any(material.projections.values()):
        norms = {method: [*seeds.values()] for method, seeds in material.projections.items()}
        found["filters-conv3"] = filter_norms(norms, f"{title}, conv3 filters")
    return found
