"""Make the filters table: our valid and invalid filters beside the published ones."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from dgd.read.cells import baseline_of, grouped, precisions, reported, taught_by
from dgd.read.departures import of_cells, render
from dgd.read.matching import Published
from dgd.read.papers import read_papers, source_text
from dgd.read.statistics import mean_interval
from dgd.read.table import PAIR, Table, number, pair
from dgd.read.thresholds import SETS, THRESHOLDS, column, mean

PUBLISHED = ("invalid_ratio", "valid_count", "invalid_count", "mean_l1_valid", "mean_l1_invalid")
"""What the papers have of filters, by the names of their metrics."""

COLUMNS = (
    *("dataset", "student", "teacher", "method", "threshold", "n", "filters", "invalid_ratio", "invalid_ratio_sd"),
    *SETS,
    *(f"paper_{metric}" for metric in PUBLISHED),
    *("paper_source", "precision", "scale"),
)

FOOTNOTES = (
    "First network of the group at the last epoch, means over n seeds. A filter is invalid if its L1 norm is not "
    "above the threshold; the invalid ratio counts the network's own filters.",
    "Mean L1 norms: how many filters are valid and invalid is fixed by the baseline of the same student and seed. "
    "By rank: its number of invalid filters, the smallest of this network. By position: the filters at the "
    "baseline's own invalid positions. A dash is an empty set.",
    "Departs in: the conditions in which our cells, those of their baseline and of their teacher differ from what the "
    "published numbers beside them were measured under.",
)


def filters_table(cells: pd.DataFrame, papers: pd.DataFrame | Iterable) -> Table:
    """Set our valid and invalid filters beside the published ones (arXiv 2004.12311, Tables 7 and 9).

    One row a dataset, student, teacher, method and threshold, network 0, means over the finished seeds;
    `dgd.read.thresholds.filter_sets` explains the sets. The baseline's rows hold its own sets, for which both readings agree.
    A published number that counts some layers' filters only stands in a footnote, since the columns count all filters. `scale`
    says in which conditions the row departs from the published numbers beside it.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV.
        papers: From `read_papers`, or what that takes. The paper's columns are NaN where it has no number.
    """
    rows, partial = [], []
    published = Published(papers if isinstance(papers, pd.DataFrame) else read_papers(papers))
    cells = cells.assign(teacher=cells["teacher"].fillna(""))
    for dataset in cells["dataset"].unique():
        part = cells[cells["dataset"] == dataset]
        alone = dict(list(part[part["teacher"] == ""].groupby(["student", "method"])))
        for (student, teacher, method), group in grouped(part):
            sides = (student, baseline_of(group)), (teacher, taught_by(group))
            base, taught = (alone.get(side, part.iloc[:0]) for side in sides)
            first, cell = reported(group)[0], group.iloc[0].to_dict()
            found = {metric: published.of(cell, metric)[0] for metric in PUBLISHED}
            for threshold in THRESHOLDS:
                row: dict[str, Any] = {"dataset": dataset, "student": student, "teacher": teacher, "method": method}
                row |= {"threshold": threshold, "n": len(first), "filters": mean(first["conv_filters"])}
                row["precision"] = precisions(group)
                row |= {name: mean(first[column(name, threshold)]) for name in ("invalid_ratio", *SETS)}
                row["invalid_ratio_sd"] = mean_interval(first[column("invalid_ratio", threshold)].dropna()).sd
                for metric, numbers in found.items():
                    own = [one for one in numbers if one["threshold"] == threshold]
                    whole = [one for one in own if not one["counts"]]
                    row[f"paper_{metric}"] = whole[0]["value"] if whole else math.nan
                    if whole and not row.get("paper_source"):
                        row["paper_source"] = source_text(whole[0])
                        row["scale"] = render(of_cells(group, base, taught, whole[0]["conditions"]))
                    partial += [
                        _partial(row, one, render(of_cells(group, base, taught, one["conditions"])))
                        for one in own
                        if one["counts"]
                    ]
                rows.append(row)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    labels = ("dataset", "student", "teacher", "method", "paper_source", "precision", "scale")
    frame = frame.assign(**{name: frame[name].fillna("") if name in labels else frame[name].astype(float) for name in COLUMNS})
    return Table(frame, pd.DataFrame([_text(row) for row in frame.itertuples()]), (*FOOTNOTES, *dict.fromkeys(partial)))


def _partial(row: dict, published: dict, scale: str) -> str:
    """Return the footnote about a published number that counts some layers' filters only, and in what else ours departs."""
    form = "g" if published["metric"].endswith("count") else ".3f"
    return (
        f"Published for {row['dataset']}, {pair(row['student'], row['teacher'])}, {row['method']} at threshold "
        f"{row['threshold']:g}, counting {published['counts']} filters only: {published['metric'].replace('_', ' ')} "
        f"{published['value']:{form}} ({source_text(published)}). Ours: {scale}."
    )


def _text(row: Any) -> dict[str, str]:
    """Return the readable form of one row."""

    def both(valid: float, invalid: float, form: str = ".3f") -> str:
        return "" if pd.isna(valid) and pd.isna(invalid) else f"{number(valid, form, '–')} / {number(invalid, form, '–')}"

    spread = "" if pd.isna(row.invalid_ratio_sd) else f" ± {row.invalid_ratio_sd:.3f}"
    paper_sets = both(row.paper_mean_l1_valid, row.paper_mean_l1_invalid)
    if pd.notna(row.paper_valid_count):
        paper_sets += f" ({int(row.paper_valid_count)} / {int(row.paper_invalid_count)})"
    return {
        "data set": row.dataset,
        PAIR: pair(row.student, row.teacher),
        "method": row.method,
        "threshold": f"{row.threshold:g}",
        "invalid ratio": "" if pd.isna(row.invalid_ratio) else number(row.invalid_ratio, ".3f") + spread,
        "baseline's valid / invalid": both(row.baseline_valid, row.baseline_invalid, ".5g"),
        "mean L1 valid / invalid, by rank": both(row.mean_l1_valid_rank, row.mean_l1_invalid_rank),
        "by position": both(row.mean_l1_valid_position, row.mean_l1_invalid_position),
        "paper, mean L1 (counts)": paper_sets,
        "paper, invalid ratio": number(row.paper_invalid_ratio, ".3f"),
        "departs in": row.scale,
        "precision": row.precision,
        "n": str(int(row.n)),
    }
