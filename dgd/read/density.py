"""Make the density table: how much a method's network knows for each parameter, and for each filter that is effective.

*Knowledge density* is the title of arXiv 2004.12311 v1. v2 dropped the word and compares mean L1 norms of valid and invalid
filters instead; only F. Meng's thesis defines it, as the amount of knowledge over the number of parameters. Here knowledge
is the metric on the test split, and its density is given in two ways:

* per parameter: the metric over millions of parameters. Methods that train the same student differ in it only as they differ
  in their results, so it compares students.
* per effective filter: the metric over the filters that are left after pruning the k smallest (by L1 norm, over the whole
  network), k being the largest number that can go, with every smaller one that was tried, while the metric becomes worse by at
  most `FALL`. Only the shares that were tried can be found, so k is a lower bound, as coarse as their grid.

If grafting makes a network denser, as the papers argue, more of its filters are effective: its accuracy falls earlier as the
smallest are removed. Accuracy per effective filter then need not rise; the two are read together, and beside what as many
random filters cost. `dgd.pruning` makes the curves. A metric of which lower is better is no amount of knowledge and has no
density; its effective filters are found as those of any other.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgd.metrics import METRICS, Metric, metric_named
from dgd.read.cells import metric_of
from dgd.read.files import read_pruning
from dgd.read.results import metrics_in
from dgd.read.statistics import mean_interval
from dgd.read.table import NOT_RUN, PAIR, Table, number, pair

FALL = 1.0
"""By how much the metric may become worse through pruning, in its unit, while what is left counts as effective."""

COLUMNS = (
    *("dataset", "student", "teacher", "method", "metric", "n", "parameters", "filters", "last", "per_million_parameters"),
    *("pruned", "effective_share", "effective_share_sd", "effective_filters", "effective_parameters"),
    *("per_1000_effective_filters", "lost_with_random"),
)


def effective(curve: pd.DataFrame, metric: Metric = METRICS["classification"], fall: float = FALL) -> pd.Series:
    """Return the last row of a pruning curve up to which the metric became worse by at most so much.

    What is left there is effective.

    Args:
        curve: Of `dgd.read.files.read_pruning`.
        metric: Its metric.
        fall: How much worse, in the metric's unit.
    """
    lost = metric.sign * (curve[metric.name].iloc[0] - curve[metric.name])
    kept = lost <= fall + 1e-9  # exactly so much is not too much
    return curve.loc[kept.cummin()].iloc[-1]


def density_table(cells: pd.DataFrame, folder: str | Path) -> Table:
    """Return the knowledge density of every method, per parameter and, where there are pruning curves, per effective filter.

    One row a dataset, student, teacher and method, means over n finished seeds. `pruned` of them have a curve; from these:
    effective_share, its standard deviation, effective_filters, effective_parameters, per_1000_effective_filters, and
    lost_with_random, how much worse the metric is where as many random filters are removed. NaN without a curve.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV; network 0 of the finished cells counts.
        folder: `results/<benchmark>`; reads `<cell>/pruning.csv` below it where there is one.
    """
    rows = []
    cells = cells[cells["network"] == 0].assign(teacher=lambda frame: frame["teacher"].fillna(""))
    for key, group in cells.groupby(["dataset", "student", "teacher", "method"], sort=False):
        metric = metric_of(group)
        group = group[group["status"] == "finished"]
        row: dict[str, Any] = dict(zip(COLUMNS[:4], key, strict=True)) | {"metric": metric.name, "n": len(group), "pruned": 0}
        rows.append(row | _density(group, metric, Path(folder)) if len(group) else row)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    metrics = metrics_in(frame)
    text = pd.DataFrame([_text(row, metrics) for row in frame.itertuples()])
    return Table(frame, text, tuple(_footnotes(metrics)))


def _density(group: pd.DataFrame, metric: Metric, folder: Path) -> dict[str, Any]:
    """Return the numbers of one row with finished cells."""
    row: dict[str, Any] = {"parameters": group["parameters"].iloc[0], "filters": group["conv_filters"].iloc[0]}
    row["last"] = group["last"].mean()
    row["per_million_parameters"] = row["last"] / (row["parameters"] / 1e6) if metric.higher else math.nan
    read = [read_pruning(folder / cell.folder / "pruning.csv", metric, cell.last) for cell in group.itertuples()]
    curves = [curve for curve in read if curve is not None]
    if not curves:
        return row
    ends = pd.DataFrame([effective(curve, metric) for curve in curves])
    whole = np.array([curve[metric.name].iloc[0] for curve in curves])
    share = mean_interval(1 - ends["share"])
    return row | {
        "pruned": len(curves),
        "effective_share": share.mean,
        "effective_share_sd": share.sd,
        "effective_filters": ends["filters_left"].mean(),
        "effective_parameters": ends["parameters_left"].mean(),
        "per_1000_effective_filters": (1000 * whole / ends["filters_left"]).mean() if metric.higher else math.nan,
        "lost_with_random": (metric.sign * (whole - ends[f"{metric.name}_random"])).mean(),
    }


def _text(row: Any, metrics: list[Metric]) -> dict[str, str]:
    """Return the readable form of one row; 'not run' where there is no result or no curve."""
    metric = metric_named(row.metric)
    # The header names the metric where the table has one only.
    name = metric.label.removesuffix(" accuracy") if len(metrics) == 1 else "metric"
    share = number(row.effective_share, ".3f", NOT_RUN)
    share += f" ± {row.effective_share_sd:.3f}" if row.pruned > 1 else ""
    share += f" (n={int(row.pruned)})" if row.pruned else ""
    return {
        "data set": row.dataset,
        PAIR: pair(row.student, row.teacher),
        "method": row.method,
        "parameters": number(row.parameters, ",.0f", NOT_RUN),
        name: number(row.last, metric.form, NOT_RUN) + (f" (n={int(row.n)})" if row.n else ""),
        f"{name} per million parameters": number(row.per_million_parameters, metric.form, NOT_RUN),
        "effective share of filters": share,
        "effective filters": number(row.effective_filters, ",.0f", NOT_RUN),
        f"{name} per 1,000 effective filters": number(row.per_1000_effective_filters, metric.form, NOT_RUN),
        "lost with as many random filters": number(row.lost_with_random, metric.coarse, NOT_RUN),
    }


def _footnotes(metrics: list[Metric]) -> list[str]:
    """Return the footnotes of the table."""
    labels = " or ".join(metric.words for metric in metrics)
    units = " or ".join("point" if metric.unit == "%" else metric.unit for metric in metrics).strip()
    return [
        f"First network of the group at the last epoch, means over n seeds: {labels}. Knowledge density, per million "
        "parameters: the same student has the same parameters under every method, so this column compares students.",
        "Effective filters: those left after removing the largest number of smallest filters, by L1 norm over the whole "
        f"network, that costs at most {f'{FALL:g} {units}'.strip()} on the test split, as does every smaller number that was "
        "tried. Only the shares of the pruning curve were tried, so the effective share is an upper bound. Beside it, what "
        f"removing as many random filters costs. '{NOT_RUN}': no cell, or no pruning curve; `pruning: [shares]` in the config "
        "makes them, `dgd-bench prune <cell>` makes one.",
    ]
