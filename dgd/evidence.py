"""Filter-level evidence, read from finished cells: traces of filter norms, overlap of invalid filters, knowledge density.

*Knowledge density* is the title of arXiv 2004.12311 v1. v2 dropped the word and compares mean L1 norms of valid and invalid
filters instead; only F. Meng's thesis defines it, as the amount of knowledge over the number of parameters. Here knowledge
is top-1 accuracy on the test split, in points, and its density is given in two ways:

* per parameter: top-1 over millions of parameters. Methods that train the same student differ in it only as they differ in
  accuracy, so it compares students.
* per effective filter: top-1 over the filters that are left after pruning the k smallest (by L1 norm, over the whole network),
  k being the largest number that can go, with every smaller one that was tried, while top-1 falls by at most `FALL` points.
  Only the shares that were tried can be found, so k is a lower bound, as coarse as their grid.

If grafting makes a network denser, as the papers argue, more of its filters are effective: its accuracy falls earlier as the
smallest are removed. Accuracy per effective filter then need not rise; the two are read together, and beside what as many
random filters cost. `dgd.pruning` makes the curves. Nothing here needs torch.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dgd.statistics import mean_interval
from dgd.tables import filter_sets

PRUNING = ("share", "removed", "filters_left", "parameters_left", "top1", "top1_random")
"""The columns of pruning.csv, as `dgd.pruning.pruning_curve` explains them."""

TOLERANCE = 0.5
"""Points of top-1 by which pruning.csv and metrics.json may differ; as in `dgd.pruning`, which needs torch."""

FALL = 1.0
"""Points of top-1 that pruning may cost while what is left counts as effective."""

NOT_RUN = "not run"


class Traces(NamedTuple):
    """What one network of a cell was like over its epochs, which count from 0.

    Attributes:
        epochs: int (T,), epochs after which norms were recorded; the last epoch is among them.
        l1: float (T, filters), in the order of filters.npz.
        entropy: float (T, layers), nats.
        exchanges: int (E,), epochs after which the networks exchanged; empty without an exchange.
        share: float (E, layers), what each convolution layer kept of itself (its filters' mean).
    """

    epochs: np.ndarray
    l1: np.ndarray
    entropy: np.ndarray
    exchanges: np.ndarray
    share: np.ndarray


def read_traces(path: str | Path, network: int = 0) -> Traces | None:
    """Read the traces of filters.npz; None where there are none (a cell of older code, a network without filters).

    Raises:
        ValueError: The file is damaged, or its arrays do not fit together.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())

            def array(name: str) -> np.ndarray | None:
                if f"{name}.npy" not in there:
                    return None
                return np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")))

            l1, entropy, share = (array(f"trace/{kind}/{network}") for kind in ("l1", "entropy", "share"))
            epochs, exchanges = array("epochs"), array("exchanges")
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path}: {error}; delete the cell's folder and train it again") from error
    if l1 is None or not l1.size:
        return None
    if exchanges is None or share is None:
        exchanges, share = np.zeros(0, int), np.zeros((0, entropy.shape[1]))
    if not len(epochs) == len(l1) == len(entropy) or share.shape != (len(exchanges), entropy.shape[1]):
        raise ValueError(
            f"{path}: traces of {len(epochs)} epochs and {len(exchanges)} exchanges do not fit arrays of shape "
            f"{l1.shape}, {entropy.shape}, {share.shape}; delete the cell's folder and train it again"
        )
    return Traces(epochs, l1, entropy, exchanges, share)


def invalid_ratios(l1: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of filters whose L1 norm is not above each threshold (2001.05868 figure 1): (filters,), (K,) -> (K,)."""
    return np.searchsorted(np.sort(l1), thresholds, side="right") / len(l1)


def sets_over_epochs(traces: Traces, baseline: np.ndarray, threshold: float) -> pd.DataFrame:
    """Mean L1 norm of the valid and invalid filters by epoch, by rank and by position; see `dgd.tables.filter_sets`.

    Args:
        traces: Of the network that is measured.
        baseline: L1 norms (filters,) of the finished baseline, whose counts and positions hold in every epoch.
        threshold: Norm up to which a filter of the baseline is invalid.

    Returns:
        Indexed by epoch, with the columns mean_l1_{valid,invalid}_{rank,position}; NaN for an empty set.
    """
    rows = [filter_sets(norms.astype(float), baseline, threshold) for norms in traces.l1]
    frame = pd.DataFrame(rows, index=pd.Index(traces.epochs, name="epoch"))
    return frame.drop(columns=["baseline_valid", "baseline_invalid"])


def overlap(l1: np.ndarray, threshold: float) -> np.ndarray:
    """How far the invalid filters of networks of one architecture stand at the same positions.

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


def read_pruning(path: str | Path, top1: float | None = None) -> pd.DataFrame | None:
    """Read pruning.csv.

    Args:
        path: The file.
        top1: What metrics.json says of the whole network.

    Returns:
        Frame with the columns of `PRUNING`, by share; None where there is no file, or one without rows.

    Raises:
        ValueError: It lacks a column, has no row for the whole network, or is of other weights than metrics.json.
    """
    if not Path(path).is_file():
        return None
    curve = pd.read_csv(path)
    missing = [name for name in PRUNING if name not in curve]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; delete it and run `dgd-bench prune` on its folder")
    if curve.empty:
        return None
    curve = curve.sort_values("share", ignore_index=True)
    if curve["removed"].iloc[0] != 0:
        raise ValueError(f"{path}: no row with 0 filters removed; delete it and run `dgd-bench prune` on its folder")
    found = curve["top1"].iloc[0]
    if top1 is not None and not abs(found - top1) <= TOLERANCE:
        raise ValueError(
            f"{path}: the whole network has {found:.2f} % and metrics.json says {top1:.2f} %: it is of other weights; "
            "delete it and run `dgd-bench prune` on its folder"
        )
    return curve


def effective(curve: pd.DataFrame, fall: float = FALL) -> pd.Series:
    """The last row of a pruning curve up to which top-1 fell by at most so much: what is left there is effective.

    Args:
        curve: Of `read_pruning`.
        fall: Points of top-1.
    """
    kept = curve["top1"].iloc[0] - curve["top1"] <= fall + 1e-9  # a fall of exactly so much is none too many
    return curve.loc[kept.cummin()].iloc[-1]


DENSITY = (
    *("dataset", "student", "teacher", "method", "n", "parameters", "filters", "top1", "top1_per_million_parameters"),
    *("pruned", "effective_share", "effective_share_sd", "effective_filters", "effective_parameters"),
    *("top1_per_1000_effective_filters", "removed_random_top1"),
)


def density_table(cells: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """Knowledge density of every method: accuracy per parameter and, where there are pruning curves, per effective filter.

    Args:
        cells: From `dgd.tables.collect`; network 0 of the finished cells counts.
        folder: `results/<benchmark>`; reads `<cell>/pruning.csv` below it where there is one.

    Returns:
        One row a dataset, student, teacher and method, means over n finished seeds. `pruned` of them have a curve; from
        these: effective_share, its standard deviation, effective_filters, effective_parameters,
        top1_per_1000_effective_filters, and removed_random_top1, the points lost where as many random filters are
        removed. NaN without a curve.
    """
    rows = []
    cells = cells[cells["network"] == 0].assign(teacher=lambda frame: frame["teacher"].fillna(""))
    for key, group in cells.groupby(["dataset", "student", "teacher", "method"], sort=False):
        group = group[group["status"] == "finished"]
        row = dict(zip(DENSITY[:4], key)) | {"n": len(group), "pruned": 0}
        rows.append(row)
        if group.empty:
            continue
        row |= {"parameters": group["parameters"].iloc[0], "filters": group["conv_filters"].iloc[0]}
        row["top1"] = group["top1_last"].mean()
        row["top1_per_million_parameters"] = row["top1"] / (row["parameters"] / 1e6)
        curves = [read_pruning(Path(folder) / cell.folder / "pruning.csv", cell.top1_last) for cell in group.itertuples()]
        curves = [curve for curve in curves if curve is not None]
        if not curves:
            continue
        ends = pd.DataFrame([effective(curve) for curve in curves])
        whole = np.array([curve["top1"].iloc[0] for curve in curves])
        share = mean_interval(1 - ends["share"])
        row |= {
            "pruned": len(curves),
            "effective_share": share.mean,
            "effective_share_sd": share.sd,
            "effective_filters": ends["filters_left"].mean(),
            "effective_parameters": ends["parameters_left"].mean(),
            "top1_per_1000_effective_filters": (1000 * whole / ends["filters_left"]).mean(),
            "removed_random_top1": (whole - ends["top1_random"]).mean(),
        }
    return pd.DataFrame(rows, columns=list(DENSITY))


def density_text(table: pd.DataFrame) -> pd.DataFrame:
    """The readable form of `density_table`; 'not run' where there is no result or no curve."""

    def number(value: float, form: str) -> str:
        return NOT_RUN if pd.isna(value) else format(value, form)

    rows = []
    for row in table.itertuples():
        share = number(row.effective_share, ".3f")
        share += f" ± {row.effective_share_sd:.3f}" if row.pruned > 1 else ""
        share += f" (n={int(row.pruned)})" if row.pruned else ""
        rows.append(
            {
                "data set": row.dataset,
                "student ← teacher": f"{row.student} ← {row.teacher}" if row.teacher else row.student,
                "method": row.method,
                "parameters": number(row.parameters, ",.0f"),
                "top-1": number(row.top1, ".2f") + (f" (n={int(row.n)})" if row.n else ""),
                "top-1 per million parameters": number(row.top1_per_million_parameters, ".2f"),
                "effective share of filters": share,
                "effective filters": number(row.effective_filters, ",.0f"),
                "top-1 per 1,000 effective filters": number(row.top1_per_1000_effective_filters, ".2f"),
                "points lost with as many random filters": number(row.removed_random_top1, ".1f"),
            }
        )
    return pd.DataFrame(rows)


DENSITY_NOTES = (
    "First network of the group at the last epoch, means over n seeds. Knowledge density, accuracy per million parameters: "
    "the same student has the same parameters under every method, so this column compares students.",
    "Effective filters: those left after removing the largest number of smallest filters, by L1 norm over the whole network, "
    f"that costs at most {FALL:g} point of top-1 on the test split, as does every smaller number that was tried. Only the "
    "shares of the pruning curve were tried, so the effective share is an upper bound. Beside it, what removing as many "
    f"random filters costs. '{NOT_RUN}': no cell, or no pruning curve; `pruning: [shares]` in the config makes them, "
    "`dgd-bench prune <cell>` makes one.",
)
"""What stands under the density table."""
