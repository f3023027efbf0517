"""Draw the test metric by epoch."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgd.metrics import Metric
from dgd.read.figures import lines, style
from dgd.read.figures.material import Material


def curves(histories: Mapping[str, Sequence[pd.DataFrame]], metric: Metric, title: str) -> Figure:
    """Draw the metric on the test split by epoch.

    Args:
        histories: {method: one history.csv a seed}, with the columns `epoch` and `test_<metric>_0`. Only epochs that all
            seeds of a method have are drawn.
        metric: What the task is measured by.
        title: Printed above.

    Raises:
        ValueError: There is nothing to draw, or a history lacks a column.
    """
    column, drawn = f"test_{metric.name}_0", {}
    for method in style.ordered(histories):
        for history in histories[method]:
            missing = {"epoch", column} - set(history.columns)
            if missing:
                raise ValueError(f"a history of {method!r} has no column {sorted(missing)[0]!r}")
        # An epoch without an evaluation has an empty cell.
        drawn[method] = lines.joined(history.set_index("epoch")[column].dropna() for history in histories[method])

    def finish(axes):
        axes.margins(x=0.01)
        axes.set(xlabel="epoch", ylabel=f"test {style.label(metric)}")
        style.whole_ticks(axes.xaxis)

    return lines.figure(drawn, histories, finish, title, part=ending(drawn, metric))


def ending(drawn: Mapping[str, pd.DataFrame], metric: Metric) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the limits (epochs, values) of the part in which several methods end next to each other, too near to tell apart.

    They are those whose last means lie within a tenth of what the axis spans from the best, and the part is the last quarter
    of the epochs.

    Args:
        drawn: {method: frame (epochs, seeds)}.
        metric: What the task is measured by.

    Returns:
        None where fewer than two end so, or their seeds take up a quarter of the axis anyway.
    """
    values = np.concatenate([table.to_numpy().ravel() for table in drawn.values()])
    span = np.ptp(values) if len(values) else 0.0
    last = {method: metric.sign * table.iloc[-1].mean() for method, table in drawn.items() if len(table)}
    near = [drawn[method] for method in last if last[method] >= max(last.values()) - span / 10]
    if len(near) < 2:
        return None
    first, ends = min(table.index[0] for table in near), [table.index[-1] for table in near]
    left = min(ends) - (min(ends) - first) / 4  # the last quarter of the shortest
    shown = [table.loc[left:].to_numpy() for table in near]
    low, high = min(map(np.min, shown)), max(map(np.max, shown))
    if min(ends) - first < 8 or not 0 < high - low <= span / 4:
        return None
    room = 0.05 * (high - low)
    return (left, max(ends)), (low - room, high + room)


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a student's cells; none without a history."""
    if not any(material.histories.values()):
        return {}
    return {"curves": curves(material.histories, material.metric, material.title)}
