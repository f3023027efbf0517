"""Draw a line for each method: the mean over its seeds, in a band from the lowest seed to the highest."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import zip_longest

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dgd.read.figures import style
from dgd.read.figures.style import RC

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


def _rule(grid: np.ndarray, count: int) -> None:
    """Draw the grid of axes that show no numbers as lines, and not as ticks, which take most of the time of a large figure.

    Args:
        grid: Axes (rows, `PANELS`) that share both scales.
        count: How many of them are used.
    """
    first = grid.flat[0]
    marks = [
        [mark for mark in axis.get_majorticklocs() if low <= mark <= high]
        for axis, (low, high) in ((first.xaxis, first.get_xlim()), (first.yaxis, first.get_ylim()))
    ]
    style_of = {"colors": RC["grid.color"], "linewidth": RC["grid.linewidth"], "zorder": 0.5}
    for place, axes in enumerate(grid.flat[:count]):
        if place + PANELS < count:
            axes.xaxis.set_visible(False)
            axes.vlines(marks[0], 0, 1, transform=axes.get_xaxis_transform(), **style_of)
        if place % PANELS:
            axes.yaxis.set_visible(False)
            axes.hlines(marks[1], 0, 1, transform=axes.get_yaxis_transform(), **style_of)


def figure(
    lines: Mapping[str, pd.DataFrame],
    methods: Mapping[str, Collection],
    finish: Callable,
    title: str,
    clip: Callable = np.asarray,
    part: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Figure:
    """Return a figure of a line a method, on one pair of axes or, of more than `TOLD_APART`, on a pair for each.

    Args:
        lines, methods, clip: As `draw` takes them.
        finish: Called with each pair of axes after its lines are drawn, to label and scale it.
        title: Printed above.
        part: Limits (x, y) of what is drawn again, enlarged, in a second panel; where each method has axes of its own, they
            show these heights alone.
    """
    if len(lines) <= TOLD_APART:

        def together(axes):
            whole, enlarged = axes if part else (axes, None)
            draw(whole, lines, methods, clip)
            finish(whole)
            if part:
                draw(enlarged, lines, methods, clip)
                finish(enlarged)
                enlarged.set(xlim=part[0], ylim=part[1], ylabel="")
                (left, right), (low, high) = part
                whole.add_patch(
                    Rectangle((left, low), right - left, high - low, fill=False, edgecolor="#666666", linewidth=0.8)
                )
                enlarged.set_title("the part in the frame", loc="left", fontsize=8)

        return style.figure(together, title, size=(9.0, 4.0), shape=(1, 2)) if part else style.figure(together, title)

    means = [table.mean(axis=1) for table in lines.values()]
    thinned = [mean.iloc[np.linspace(0, len(mean) - 1, min(len(mean), 100)).astype(int)] for mean in means]
    ends = [mean.reindex([*mean.index, np.nan]) for mean in thinned]  # a gap after each line
    others = np.concatenate([mean.index for mean in ends]), clip(np.concatenate(ends))
    dot = "." if max(map(len, lines.values())) == 1 else None  # a line of one point would be invisible

    def apart(grid):
        for place, (axes, method) in enumerate(zip_longest(grid.flat, lines)):
            if method is None:
                axes.set_visible(False)
                continue
            draw(axes, {method: lines[method]}, methods, clip)
            (own,) = axes.get_lines()
            letters = len(own.get_label())  # up to 30 have room; at a height that is given, matplotlib does not measure for one
            axes.set_title(own.get_label(), fontsize=min(8, 240 / letters), y=1.0)
            own.set_label("")
            axes.plot(*others, color="#d0d0d0", linewidth=0.6, zorder=1, marker=dot, markersize=2)
            finish(axes)
            for text in axes.texts:
                text.set_visible(place == 0)
            end = lines[method].iloc[-1].mean() if part else 0
            if part and not part[1][0] <= end <= part[1][1]:
                axes.annotate(f"ends at {end:.3g}", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=8)
            axes.figure.supylabel(axes.get_ylabel(), fontsize=9)
            last = place + PANELS >= len(lines)
            axes.set_xlabel(axes.get_xlabel() if last else "", fontsize=7.5)
            axes.set_ylabel("")
            axes.tick_params(labelbottom=last)
            axes.minorticks_off()
            if part:
                axes.set_ylim(part[1])
            if isinstance(axes.xaxis.get_major_locator(), matplotlib.ticker.MaxNLocator):
                axes.xaxis.get_major_locator().set_params(nbins=5)
        _rule(grid, len(lines))

    rows = -(-len(lines) // PANELS)
    note = "a method each, mean and range over n seeds; grey: the means of the others"
    note += (
        f"\nheights from {part[1][0]:.3g} to {part[1][1]:.3g}, where the methods end; the others are cut off" if part else ""
    )
    size, margins, apart_by = (8.0, 1.2 + 1.35 * rows), (0.75, 0.1, 0.85, 0.5), {"hspace": 0.25, "wspace": 0.1}
    return style.figure(apart, title, note, size, (rows, PANELS), margins, sharex=True, sharey=True, gridspec_kw=apart_by)
