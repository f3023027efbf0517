"""Say before any training in which conditions a benchmark's cells will depart from the published numbers beside them."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dgd.cell import Cell
from dgd.read.cells import baseline_of, collect, grouped, taught_by
from dgd.read.departures import PUBLISHED, of_cells, render
from dgd.read.matching import Published
from dgd.read.papers import ACCURACIES, read_papers, value_text

COLUMNS = ("paper", "table", "id", "dataset", "student", "teacher", "method", "metric", "value", "departs in")


def published_rows(cells: Sequence[Cell], papers: Iterable[str | Path]) -> pd.DataFrame:
    """Return the published numbers that stand beside a benchmark's cells, with the conditions in which these depart.

    Args:
        cells: The benchmark's, from `dgd.config.cells`.
        papers: Files of published numbers.

    Returns:
        Frame with `COLUMNS`, a row for each number and setting, as the papers' files have them; `method` is the benchmark's
        row.
    """
    published = read_papers(papers)
    numbers, metrics = Published(published), published["metric"].unique()
    first: dict[tuple, Cell] = {}
    for cell in cells:
        first.setdefault((cell.dataset, cell.model, cell.method, cell.student), cell)
    # As if they were trained: what is compared is in their configs.
    planned = collect(Path("nowhere"), list(first.values())).assign(status="finished")
    planned["teacher"] = planned["teacher"].fillna("")
    # A column without any value is compared as one that is not there, and takes time.
    planned = planned.loc[:, planned.notna().any() | (planned.columns == "exchange")]
    rows = []
    for _, part in planned.groupby("dataset", sort=False):
        alone = dict(list(part[part["teacher"] == ""].groupby(["student", "method"])))
        for (student, teacher, method), group in grouped(part):
            sides = (student, baseline_of(group)), (teacher, taught_by(group))
            base, taught = (alone.get(side, part.iloc[:0]) for side in sides)
            for metric in metrics:
                for one in numbers.of(group.iloc[0].to_dict(), metric)[0]:
                    found = of_cells(group, base, taught, one["conditions"], evidence=metric in ACCURACIES)
                    values = (one["paper"], one["table"], one["id"], one["dataset"], student, teacher, method, metric)
                    rows.append((*values, value_text(one), render(found)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def summary(rows: pd.DataFrame, width: int = 138) -> list[str]:
    """Return lines that say which published numbers are met as published, and what the others depart in.

    Args:
        rows: From `published_rows`.
        width: Letters of a line.
    """
    lines = []
    order = sorted(rows["departs in"].unique(), key=lambda text: text != PUBLISHED)
    for text in order:
        part = rows[rows["departs in"] == text]
        tables = [
            f"{paper}, {table}: {', '.join(of['method'].unique())} ({of['id'].nunique()})"
            for (paper, table), of in part.groupby(["paper", "table"], sort=False)
        ]
        head = text if text == PUBLISHED else f"departs in {text}"
        lines += textwrap.wrap(f"{head}: {'; '.join(tables)}", width, subsequent_indent="  ", break_on_hyphens=False)
    return lines or ["nothing was published of these cells"]
