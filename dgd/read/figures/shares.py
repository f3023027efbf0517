"""Draw the share that each convolution layer kept of itself at each exchange."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgd.read.figures import style
from dgd.read.figures.material import Material
from dgd.read.files import Traces


def kept_shares(traces: Mapping[str, Sequence[Traces]], title: str) -> Figure:
    """Draw the share that each conv layer kept of itself at each exchange, a map a method, means over seeds.

    Args:
        traces: {method: one a seed}; those without an exchange are left out. Only exchanges that all seeds of a method have
            are drawn.
        title: Printed above.

    Raises:
        ValueError: There is nothing to draw, or networks differ in their number of layers.
    """
    traces = {method: [t for t in seeds if len(t.exchanges)] for method, seeds in traces.items()}
    methods = list(style.ordered(traces))
    shapes = {t.share.shape[1] for method in methods for t in traces[method]}
    if len(shapes) > 1:
        raise ValueError(f"the methods differ in their number of layers: {sorted(shapes)}")
    (layers,) = shapes
    maps = []
    for method in methods:
        common = set.intersection(*(set(t.exchanges.tolist()) for t in traces[method]))
        frames = [pd.DataFrame(t.share.astype(float), index=t.exchanges).loc[sorted(common)] for t in traces[method]]
        maps.append(sum(frames) / len(frames))
    epochs = sorted(set().union(*(table.index for table in maps)))
    picture = np.concatenate([table.reindex(epochs).to_numpy().T for table in maps])  # (methods x layers, exchanges)
    reach = max(0.05, np.nanmax(np.abs(picture - 0.5), initial=0))

    def fill(axes):
        limits = {"vmin": 0.5 - reach, "vmax": 0.5 + reach}
        image = axes.imshow(picture, aspect="auto", cmap=style.colour_map("cividis"), interpolation="nearest", **limits)
        for k in range(1, len(methods)):
            axes.axhline(k * layers - 0.5, color="white", linewidth=3)
        ticks = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), 8)).round().astype(int))
        axes.set(xticks=ticks, xticklabels=[epochs[tick] for tick in ticks], xlabel="epoch after which they exchanged")
        names = [f"{method} (n={len(traces[method])})" for method in methods]
        axes.set(yticks=[(k + 0.5) * layers - 0.5 for k in range(len(methods))], yticklabels=names)
        axes.grid(visible=False)
        axes.figure.colorbar(image, ax=axes, fraction=0.05).set_label("share kept of itself")

    note = f"network 0, mean over n seeds; for each method {layers} conv layers, the first at the top"
    height = 1.3 + 1.1 * min(len(methods), 6) + 0.5 * max(0, len(methods) - 6)
    return style.figure(fill, title, note, (6.0, height))


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a student's cells; none without an exchange."""
    traces = {method: [t for t in seeds.values() if len(t.exchanges)] for method, seeds in material.traces.items()}
    return {"shares": kept_shares(traces, material.title)} if any(traces.values()) else {}
