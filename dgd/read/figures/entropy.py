"""Draw the sum over layers of the entropy of their weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from dgd.read.figures import style
from dgd.read.figures.material import Material
from dgd.read.statistics import mean_interval


def entropy_sums(sums: Mapping[str, Sequence[float]], networks: Mapping[str, int], layers: int, title: str) -> Figure:
    """Draw the sum over layers of the entropy of their weights, a bar a method (arXiv 2001.05868, figure `entropy_compare`).

    Args:
        sums: {method: nats, one number a seed}.
        networks: {method: networks of a group}; written beside the names if they differ.
        layers: Convolution layers; with 10 bins the sum is at most `layers * ln(10)`.
        title: Printed above.

    Raises:
        ValueError: There is nothing to draw.
    """
    methods = style.ordered(sums)
    differ = len({networks[method] for method in methods}) > 1
    names = [f"{m} ({networks[m]} network{'s' * (networks[m] > 1)})" if differ else m for m in methods]

    def fill(axes):
        for row, (method, place) in enumerate(methods.items()):
            interval = mean_interval(sums[method])
            colour = style.look(method, place)["color"]
            axes.barh(row, interval.mean, height=0.65, color=colour, alpha=0.35, edgecolor=colour)
            text = f" {interval.mean:.2f}"
            if interval.n > 1:
                axes.plot([interval.low, interval.high], [row, row], color="black", marker="|", markersize=7, linewidth=1)
                text += f" [{interval.low:.2f}, {interval.high:.2f}]"
            end = interval.high if interval.n > 1 else interval.mean
            axes.annotate(f"{text} (n={interval.n})", (end, row), va="center", fontsize=7.5)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axes.set(xlabel=f"sum of the entropy of {layers} conv layers (nats; at most {layers * np.log(10):.1f})")
        axes.set_xlim(0, axes.get_xlim()[1] * 1.5)
        axes.grid(visible=False, axis="y")

    return style.figure(fill, title, "mean and 95 % t-interval over n seeds", (6.0, 1.4 + 0.3 * len(names)))


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a student's cells; none of fewer than two methods with convolution layers."""
    if sum(map(bool, material.entropy_sums.values())) < 2:
        return {}
    return {"entropy": entropy_sums(material.entropy_sums, material.networks, material.layers, material.title)}
