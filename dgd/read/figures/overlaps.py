"""Draw how far methods' invalid filters stand at the same positions."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from dgd.read.figures import style
from dgd.read.figures.material import Material
from dgd.read.thresholds import THRESHOLDS

MOST = 8
"""Methods up to which a matrix holds numbers; above, colours only."""


def overlap(l1: np.ndarray, threshold: float) -> np.ndarray:
    """Return how far the invalid filters of networks of one architecture stand at the same positions.

    Args:
        l1: L1 norms (networks, filters), all in the same order.
        threshold: Norm up to which a filter is invalid.

    Returns:
        (networks, networks): the share of the row's invalid positions that are invalid in the column's network too; NaN
        where the row has no invalid filter. Where two networks' have nothing to do with each other, the column's invalid
        ratio is expected.
    """
    invalid = (l1 <= threshold).astype(np.float32)  # counts of filters are exact in it
    count = invalid.sum(1)
    return np.divide(invalid @ invalid.T, count[:, None], out=np.full([len(l1)] * 2, np.nan), where=count[:, None] > 0)


def overlaps(norms: Mapping[str, Mapping[int, np.ndarray]], title: str) -> Figure:
    """Draw how far methods' invalid filters stand at the same positions, a matrix a threshold; see `overlap`.

    The diagonal holds a method's own invalid ratio: what its column would hold if positions had nothing to do with each other.

    Args:
        norms: {method: {seed: (filters,)}}; two methods are compared on the seeds that both have.
        title: Printed above.

    Raises:
        ValueError: There is nothing to draw, or networks differ in their number of filters.
    """
    methods = list(style.ordered(norms))
    shapes = {np.shape(l1): method for method in methods for l1 in norms[method].values()}
    if len(shapes) > 1:
        raise ValueError(f"the methods differ in their number of filters: {shapes}")
    seeds = sorted({seed for method in methods for seed in norms[method]})
    size = len(methods)
    matrices, ratios = [], []
    for threshold in THRESHOLDS:
        found, ratio = np.full((len(seeds), size, size), np.nan), np.full((len(seeds), size), np.nan)
        for k, seed in enumerate(seeds):
            there = [i for i, method in enumerate(methods) if seed in norms[method]]
            l1 = np.stack([norms[methods[i]][seed] for i in there])
            found[k][np.ix_(there, there)] = overlap(l1, threshold)
            ratio[k, there] = (l1 <= threshold).mean(1)
        matrices.append(np.ma.masked_invalid(found).mean(0).filled(np.nan))  # NaN where no seed has a number
        ratios.append(np.nanmean(ratio, axis=0))

    def fill(grid):
        for axes, threshold, matrix, ratio in zip(grid, THRESHOLDS, matrices, ratios):
            shown = np.where(np.eye(size, dtype=bool), np.nan, matrix)
            axes.imshow(shown, aspect="auto", cmap=style.colour_map("Blues"), vmin=0, vmax=1)
            for i in range(size if size <= MOST else 0):
                for j in range(size):
                    value = ratio[i] if i == j else shown[i, j]
                    text = "n/a" if np.isnan(value) else f"({value:.1%})" if i == j else f"{value:.2f}"
                    colour = "white" if i != j and value > 0.6 else "black"
                    axes.annotate(text, (j, i), ha="center", va="center", color=colour, fontsize=7)
            axes.set_title(f"threshold {threshold:g}", loc="left", fontsize=8)
            axes.set(xticks=range(size), xticklabels=methods, yticks=range(size), yticklabels=methods)
            axes.tick_params(axis="x", rotation=90)
            axes.grid(visible=False)
            axes.label_outer()

    diagonal = "(diagonal): the method's own invalid ratio, what its column would hold by chance"
    note = (
        "share of the row's invalid positions that are invalid in the column's method too, mean over seeds\n"
        f"{diagonal if size <= MOST else 'white 0, dark 1'}; grey n/a: no filter is invalid"
    )
    side = max(2.0, (0.42 if size <= MOST else 0.17) * size)
    return style.figure(fill, title, note, (2 * side + 2.0, side + 2.1), (1, 2))


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a student's cells; none of fewer than two methods with filters."""
    if sum(map(bool, material.norms.values())) < 2:
        return {}
    return {"overlap": overlaps(material.norms, material.title)}
