"""Hold what the papers claim, as data in `papers/*.yaml`, against our cells: one row a claim, setting and benchmark.

A claim compares a method over another one by a measure, in the settings (data set, student, teacher) that were published.
`evaluate` looks for cells of both methods in every benchmark it is given; a cell is a method's by its objective, exchange,
networks, teachers and what the method overrides of the recipe, never by its label. A row is

* **as published** if data set, student and teacher are those of the paper and no condition of its published numbers differs,
  for the teacher too. It is judged by `dgd.read.statistics.verdict` against the published difference;
* at **another scale** otherwise, whatever student it is. Then no published size applies: it can be 'direction only', 'not
  reproduced' (the difference goes the other way) or 'inconclusive', never 'reproduced'. Its `scale` says what differs.

A setting without cells is a row that reads 'not run'. `overall` puts a claim's settings together and says how often that errs.

All numbers are those of network 0, which is the one the papers report ("always the first network's performance"), whatever
`report` a config sets for its tables. Differences are method less the other; where less is claimed (`better: lower`) only the
judgement turns the sign. Nothing here needs torch.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dgd.read.claims.judge import COLUMNS, judged, overall, typed
from dgd.read.claims.schema import Claim, read
from dgd.read.claims.text import listing, row_text, shown, summary, table
from dgd.read.comparisons import Draft, Family

__all__ = [
    "COLUMNS",
    "Claim",
    "draft",
    "evaluate",
    "listing",
    "overall",
    "read",
    "row_text",
    "shown",
    "summary",
    "table",
    "typed",
]


def draft(claims: Sequence[Claim], benchmarks: Iterable[tuple[pd.DataFrame, str | Path | None]]) -> Draft:
    """Return the table of claims held against the cells of benchmarks; see `dgd.read.claims.judge.judged`."""
    frame, compared = judged(claims, benchmarks)
    return Draft(frame, {"p_holm": compared}, table)


def evaluate(
    claims: Sequence[Claim], benchmarks: Iterable[tuple[pd.DataFrame, str | Path | None]], others: Iterable[Draft] = ()
) -> pd.DataFrame:
    """Return the numbers of that table, its p-values adjusted over one family with the benchmarks' other tables."""
    found = draft(claims, benchmarks)
    return found.table(Family([found, *others])).frame
