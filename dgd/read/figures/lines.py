"""Draw a line for each method: the mean over its seeds, in a band from the lowest seed to the highest."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import zip_longest

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgd.read.figures import style

TOLD_APART = 12
"""Methods up to which their lines share axes."""

PANELS = 4
"""Axes side by side, where each method has axes of its own."""


def joined(seeds: Iterable[pd.Series]) -> pd.DataFrame:
    """Return one column a seed, with the rows that all seeds have."""
    return pd.concat(list(seeds), axis=1, join="inner").sort_index()


def stacked(norms: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the norms of each method that has some as one array (seeds, filters).

    Raises:
        ValueError: The arrays of a method differ in length, or no method has any.
    """
    for method in norms:
        shapes = [np.shape(array) for array in norms[method]]
        if len(set(shapes)) > 1:
            raise ValueError(f"the seeds of {method!r} differ in their number of filters: {shapes}")
    return {method: np.asarray(norms[method], dtype=float) for method in style.ordered(norms)}


def draw(axes, lines: Mapping[str, pd.DataFrame], methods: Mapping[str, Collection], clip: Callable = np.asarray) -> None:
    """Draw a line and a band for each method, named with its number of seeds.

    Args:
        axes: Where to draw.
        lines: {method: frame (x, seeds)}.
        methods: All methods of the benchmark, which decide how each looks; see `style.ordered`.
        clip: Applied to the heights, such as a floor for a log axis.
    """
    places = style.ordered(methods)
    few = max(len(table) for table in lines.values()) <= 3  # a line of one point would be invisible
    for method, table in lines.items():
        x, y = table.index.to_numpy(), table.to_numpy(dtype=float)
        look = {"markersize": 4} | style.look(method, places[method]) | ({"marker": "o", "markevery": None} if few else {})
        axes.plot(x, clip(y.mean(1)), label=f"{method} (n={y.shape[1]})", **look)
        if y.shape[1] > 1:
            axes.fill_between(x, clip(y.min(1)), clip(y.max(1)), color=look["color"], alpha=0.15, linewidth=0)


def figure(
    lines: Mapping[str, pd.DataFrame],
    methods: Mapping[str, Collection],
    finish: Callable,
    title: str,
    clip: Callable = np.asarray,
) -> Figure:
    """Return a figure of a line a method, on one pair of axes or, of more than `TOLD_APART`, on a pair for each.

    Args:
        lines, methods, clip: As `draw` takes them.
        finish: Called with each pair of axes after its lines are drawn, to label and scale it.
        title: Printed above.
    """
    if len(lines) <= TOLD_APART:

        def together(axes):
            draw(axes, lines, methods, clip)
            finish(axes)

        return style.figure(together, title)

    ends = [table.mean(axis=1).reindex([*table.index, np.nan]) for table in lines.values()]  # a gap after each line
    others = np.concatenate([mean.index for mean in ends]), clip(np.concatenate(ends))
    dot = "." if max(map(len, lines.values())) == 1 else None  # a line of one point would be invisible

    def apart(grid):
        for place, (axes, method) in enumerate(zip_longest(grid.flat, lines)):
            if method is None:
                axes.set_visible(False)
                continue
            draw(axes, {method: lines[method]}, methods, clip)
            (own,) = axes.get_lines()
            axes.set_title(own.get_label(), fontsize=min(8, 240 / len(own.get_label())))  # up to 30 letters have room
            own.set_label("")
            axes.plot(*others, color="#d0d0d0", linewidth=0.6, zorder=1, marker=dot, markersize=2)
            finish(axes)
            for text in axes.texts:
                text.set_visible(place == 0)
            axes.figure.supylabel(axes.get_ylabel(), fontsize=9)
            last = place + PANELS >= len(lines)
            axes.set_xlabel(axes.get_xlabel() if last else "", fontsize=7.5)
            axes.set_ylabel("")
            axes.tick_params(labelbottom=last)
            axes.minorticks_off()
            if isinstance(axes.xaxis.get_major_locator(), matplotlib.ticker.MaxNLocator):
                axes.xaxis.get_major_locator().set_params(nbins=5)

    rows = -(-len(lines) // PANELS)
    note = "a method each, mean and range over n seeds; grey: the means of the others"
    return style.figure(apart, title, note, (8.0, 1.0 + 1.35 * rows), (rows, PANELS), sharex=True, sharey=True)
