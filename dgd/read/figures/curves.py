"""Draw the test metric by epoch."""

from collections.abc import Mapping, Sequence

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

    return lines.figure(drawn, histories, finish, title)


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a student's cells; none without a history."""
    if not any(material.histories.values()):
        return {}
    return {"curves": curves(material.histories, material.metric, material.title)}
