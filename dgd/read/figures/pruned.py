"""Draw the test metric as filters are removed."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from dgd.metrics import Metric
from dgd.read.figures import lines, style
from dgd.read.figures.material import Material


def pruning(pruned: Mapping[str, Sequence[pd.DataFrame]], metric: Metric, title: str) -> Figure:
    """Draw the metric as filters are removed: at the left the smallest ones, at the right as many random ones.

    Args:
        pruned: {method: one frame of `read_pruning` a seed}; only numbers of filters that all seeds of a method have are
            drawn.
        metric: What the task is measured by.
        title: Printed above.

    Raises:
        ValueError: There is nothing to draw.
    """

    def fill(grid):
        for axes, column, what in zip(grid, (metric.name, f"{metric.name}_random"), ("smallest", "random")):
            drawn = {}
            for method in style.ordered(pruned):
                drawn[method] = lines.joined(f.set_index(100 * f["share"])[column] for f in pruned[method])
            lines.draw(axes, drawn, pruned)
            axes.set(xlabel=f"{what} filters removed (%)", ylabel=f"test {style.label(metric)}")
            axes.label_outer()

    note = "mean and range over n seeds; smallest by L1 norm over the whole network; random: mean of three draws"
    return style.figure(fill, title, note, (6.0, 3.4), (1, 2), sharey=True)


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a student's cells; none without a pruning curve."""
    if not any(material.pruned.values()):
        return {}
    return {"pruning": pruning(material.pruned, material.metric, material.title)}
