"""Draw a line for each method: the mean over its seeds, in a band from the lowest seed to the highest."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Transform

from dgd.read.figures import style
from dgd.read.figures.panels import Panels

TOLD_APART = 12
"""Methods up to which their lines share axes."""

POINTS = 200
"""Points of a line in a panel of its own."""


def joined(seeds: Iterable[pd.Series]) -> pd.DataFrame:
    """Return one column a seed, with the rows that all seeds have."""
    seeds = list(seeds)
    index = seeds[0].index
    if index.is_monotonic_increasing and all(one.index.equals(index) for one in seeds):
        return pd.DataFrame(np.column_stack(seeds), index=index)  # a tenth of the time of what follows
    return pd.concat(seeds, axis=1, join="inner").sort_index()


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


def draw(
    axes,
    lines: Mapping[str, pd.DataFrame],
    methods: Mapping[str, Collection],
    clip: Callable = np.asarray,
    transform: Transform | None = None,
) -> list[Artist]:
    """Draw a line and a band for each method, named with its number of seeds, and return them.

    Args:
        axes: Where to draw.
        lines: {method: frame (x, seeds)}.
        methods: All methods of the benchmark, which decide how each looks; see `style.ordered`.
        clip: Applied to the heights, such as a floor for a log axis.
        transform: Of what is drawn; None is that of the axes' data.
    """
    drawn, where = [], transform or axes.transData
    places = style.ordered(methods)
    few = max(len(table) for table in lines.values()) <= 3  # a line of one point would be invisible
    for method, table in lines.items():
        x, y = table.index.to_numpy(), table.to_numpy(dtype=float)
        look = {"markersize": 4} | style.look(method, places[method]) | ({"marker": "o", "markevery": None} if few else {})
        drawn += axes.plot(x, clip(y.mean(1)), label=f"{method} (n={y.shape[1]})", transform=where, **look)
        if y.shape[1] > 1:
            low, high = clip(y.min(1)), clip(y.max(1))
            band = FillBetweenPolyCollection("x", x, low, high, color=look["color"], alpha=0.15, linewidth=0, transform=where)
            drawn.append(axes.add_collection(band, autolim=transform is None))
    return drawn


def figure(
    lines: Mapping[str, pd.DataFrame],
    methods: Mapping[str, Collection],
    finish: Callable,
    title: str,
    clip: Callable = np.asarray,
    part: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Figure:
    """Return a figure of a line a method, on one pair of axes or, of more than `TOLD_APART`, in a panel for each.

    Args:
        lines, methods, clip: As `draw` takes them.
        finish: Called with each pair of axes after its lines are drawn, to label and scale it.
        title: Printed above.
        part: Limits (x, y) of what is drawn again, enlarged, in a second panel; where each method has a panel, it shows
            these heights alone.
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

    shown = {method: _thinned(table) for method, table in lines.items()}
    means = [table.mean(axis=1) for table in shown.values()]
    gaps = [mean.reindex([*mean.index, np.nan]) for mean in means]
    x, y = np.concatenate([mean.index for mean in gaps]), clip(np.concatenate(gaps))
    panels = Panels(len(lines))

    def apart(axes):
        panels.place(axes)
        axes.plot(x, y, color="#d0d0d0", linewidth=0.6)
        for table in shown.values():
            for ends in (table.min(axis=1), table.max(axis=1)):
                axes.update_datalim(np.column_stack([table.index, clip(ends)]))
        finish(axes)
        axes.autoscale_view()
        if part:
            axes.set_ylim(part[1])
        if isinstance(axes.xaxis.get_major_locator(), matplotlib.ticker.MaxNLocator):
            axes.xaxis.get_major_locator().set_params(nbins=5)
        axes.autoscale(False)
        panels.spread(axes)
        for place, (method, table) in enumerate(shown.items()):
            (line, *band) = draw(axes, {method: table}, methods, clip, axes.transData + panels.moved(axes, place))
            panels.clip(axes, place, (line, *band))
            panels.title(axes, place, line.get_label())
            line.set_label("")
            end = lines[method].iloc[-1].mean()
            if part and not part[1][0] <= end <= part[1][1]:
                panels.say(axes, place, f"ends at {end:.3g}")

    note = "a method each, mean and range over n seeds; grey: the means of the others"
    note += (
        f"\nheights from {part[1][0]:.3g} to {part[1][1]:.3g}, where the methods end; the others are cut off" if part else ""
    )
    return style.figure(apart, title, note, panels.size, margins=panels.margins)


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Return no more rows of a table than a panel shows apart."""
    return table.iloc[np.linspace(0, len(table) - 1, min(len(table), POINTS)).round().astype(int)]
