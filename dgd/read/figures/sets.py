"""Draw the mean L1 norm of valid and invalid filters by epoch."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgd.read.figures import lines, style
from dgd.read.figures.material import Material
from dgd.read.files import Traces
from dgd.read.thresholds import SETS, THRESHOLDS, filter_sets


def sets_over_epochs(traces: Traces, baseline: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return the mean L1 norm of the valid and invalid filters by epoch, by rank and by position; see `filter_sets`.

    Args:
        traces: Of the network that is measured.
        baseline: L1 norms (filters,) of the finished baseline, whose counts and positions hold in every epoch.
        threshold: Norm up to which a filter of the baseline is invalid.

    Returns:
        Indexed by epoch, with the columns mean_l1_{valid,invalid}_{rank,position}; NaN for an empty set.
    """
    rows = [filter_sets(norms.astype(float), baseline, threshold) for norms in traces.l1]
    names = [name for name in SETS if name.startswith("mean")]
    columns = {name: [row[name] for row in rows] for name in names}
    return pd.DataFrame(columns, index=pd.Index(traces.epochs, name="epoch"))


def sets_by_epoch(sets: Mapping[float, Mapping[str, Sequence[pd.DataFrame]]], title: str) -> Figure:
    """Draw the mean L1 norm of valid and invalid filters by epoch, by rank and by position.

    Args:
        sets: {threshold: {method: one frame of `sets_over_epochs` a seed}}. A threshold at which no baseline has an invalid
            filter is named and not drawn, unless there is no other.
        title: Printed above.

    Raises:
        ValueError: There is nothing to draw.
    """
    panels, note = [], ""
    for threshold, frames in sets.items():
        kept = {method: [f for f in seeds if f.notna().to_numpy().all()] for method, seeds in frames.items()}
        if any(kept.values()):
            panels += [(threshold, kept, reading) for reading in ("rank", "position")]
        else:
            note += f"\nthreshold {threshold:g}: n/a, no filter of a baseline is invalid"
    if not panels:
        panels = [(*next(iter(sets.items())), "rank")]  # all filters are valid

    def fill(grid):
        for row, (threshold, frames, reading) in zip(np.atleast_2d(grid), panels):
            for axes, kind in zip(row, ("valid", "invalid")):
                axes.set_title(f"{kind}, threshold {threshold:g}, by {reading}", loc="left", fontsize=8)
                column = f"mean_l1_{kind}_{reading}"
                seeds = {method: [f[column] for f in own if f[column].notna().all()] for method, own in frames.items()}
                if any(seeds.values()):
                    lines.draw(axes, {method: lines.joined(seeds[method]) for method in style.ordered(seeds)}, seeds)
                    axes.set_ylim(bottom=0)
                else:
                    axes.annotate("n/a", (0.5, 0.5), xycoords="axes fraction", ha="center")
            row[0].set_ylabel("mean L1 norm")
        for axes in row:
            axes.set_xlabel("epoch")
            style.whole_ticks(axes.xaxis)

    note = (
        "mean and range over n seeds; how many filters are invalid (by rank: that many smallest)\nand which (by position) is "
        f"fixed by the same seed's finished baseline, at its last epoch{note}"
    )
    return style.figure(fill, title, note, (6.0, 1.3 + 1.7 * len(panels)), (len(panels), 2), sharex=True)


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a student's cells; none without traces and the baseline of the same seed."""
    sets: dict = {threshold: {method: [] for method in material.traces} for threshold in THRESHOLDS}
    for threshold in THRESHOLDS:
        for method, traced in material.traces.items():
            for seed, traces in traced.items():
                baseline = material.baselines(method).get(seed)
                if baseline is not None:
                    sets[threshold][method].append(sets_over_epochs(traces, baseline, threshold))
    return {"sets": sets_by_epoch(sets, material.title)} if any(sets[THRESHOLDS[0]].values()) else {}
