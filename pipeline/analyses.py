"""List what rests on the choice of analysis: `python -m pipeline.analyses results/*`.

Of benchmarks' results it prints two tables in Markdown: verdicts and words that Welch's intervals would make other ones, and
what is concluded of each claim by either analysis. `--into docs/reading-tables.md` writes them into that page.
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from dgd import config, files, shipped
from dgd.benchmark import BASELINE
from dgd.metrics import metric_named
from dgd.read import asked, claims
from dgd.read.comparisons import Draft
from dgd.read.table import gain, number, pair
from dgd.read.tables import asked_drafts
from pipeline import script

MARKERS = "<!-- analyses -->", "<!-- end of analyses -->"
HEADERS = ("benchmark", "table", "row", "by blocks of seeds", "so", "by Welch", "so")
CLAIM_HEADERS = ("claim", "cells", "difference", "by blocks of seeds", "by Welch")


def changed(name: str, made: dict[str, Draft]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a benchmark's tables whose verdict or word depends on the analysis, as texts."""
    for table, kind in (("results", "verdict"), ("controls", "what"), ("claims", "verdict")):
        (compared,) = made[table].compared.values()
        for row, one in zip(made[table].frame.to_dict("records"), compared, strict=True):
            if row[kind] != row[f"welch_{kind}"]:
                own, over, form = _sides(table, row)
                plain = one.turned() if table == "claims" and one.sign < 0 else one
                what = f"{row['dataset']}, {pair(row['student'], row['teacher'])}: {own} over {over}"
                what += f", {row['metric']}" if table == "claims" else ""
                primary, welch = (gain(*found[:3], form) for found in (plain.primary, plain.welch))
                yield (name, table, what, primary, row[kind], welch, row[f"welch_{kind}"])


def _sides(table: str, row: dict) -> tuple[str, str, str]:
    """Return which row of a table is over which, and the form of its numbers."""
    if table == "claims":
        return row["row"], row["over_row"], row["form"]
    over = row["control"] if table == "controls" else row.get("over", BASELINE)
    return row["method"], over, metric_named(row["metric"]).form


def concluded(judged: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield a row for each claim that has cells: which, what they differ by, and what is concluded by either analysis."""
    for _, rows in judged[judged["n"] > 0].groupby("claim", sort=False):
        first, of = rows.iloc[0], rows["difference"]
        folders = {f"{row.benchmark}/{one}" for row in rows.itertuples() for one in f"{row.folders} {row.over_folders}".split()}
        span = number(of.min(), f"+{first['form']}") + ("" if len(of) == 1 else f" to {of.max():+{first['form']}}")
        cells = f"{len(folders)} of {', '.join(rows['benchmark'].unique())}"
        yield (
            f"{first['sentence']} ({first['paper']}, {first['source']})",
            cells,
            span,
            first["overall"],
            first["welch_overall"],
        )


def listed(folders: Sequence[str | Path]) -> str:
    """Return the two tables of benchmarks' results."""
    rows, benchmarks = [], []
    for folder in sorted(map(Path, folders)):
        if not (folder / config.ASKED).is_file():
            continue
        there = asked.results(folder)
        cells = there.frame(standing=False)
        rows += changed(folder.name, asked_drafts(there, cells))
        benchmarks.append((cells, folder))
    judged = claims.evaluate(claims.read(shipped.papers()), benchmarks)
    return f"{_markdown(HEADERS, rows)}\n\n{_markdown(CLAIM_HEADERS, concluded(judged))}\n"


def _markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    texts = [[text.replace("|", "\\|") for text in row] for row in rows]
    return tabulate(texts, list(headers), tablefmt="pipe", disable_numparse=True)


def main(argv=None):
    """Print, or write into a page, what rests on the choice of analysis."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="benchmarks' results, such as results/*")
    parser.add_argument("--into", type=Path, help="the page that has the markers")
    args = parser.parse_args(argv)
    text = listed(args.folders)
    if not args.into:
        print(text, end="")
        return
    page = args.into.read_text(encoding="utf-8")
    start, end = MARKERS
    if page.count(start) != 1 or page.count(end) != 1:
        raise ValueError(f"{args.into}: it must have {start} and {end} once each")
    pattern = re.compile(re.escape(start) + ".*" + re.escape(end), re.DOTALL)
    files.write_text(args.into, pattern.sub(lambda _: f"{start}\n\n{text}\n{end}", page))


if __name__ == "__main__":
    script.run(main)
