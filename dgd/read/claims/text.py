"""Show judged claims: as a table, as a list for a terminal, and row by row for the report."""

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from dgd.read.claims.judge import COLUMNS
from dgd.read.comparisons import CONDITIONAL, SAME, beside, footnote, own_network
from dgd.read.table import NOT_RUN, Table, gain, number, pair

LISTED = 1000
"""Rows that a table for readers still holds; the CSV has all of them."""

HEADERS = (
    *("claim", "source", "all settings", "compared", "where", "scale", "ours", "difference", "published", "verdict", "seeds"),
)


def table(judged: pd.DataFrame, size: int = 0) -> Table:
    """Return judged claims as a table: the rows of `shown`, and one for each claim that has none of them.

    Args:
        judged: From `evaluate`, or its CSV as `typed` returns it.
        size: How many distinct comparisons the family has, where that is known.
    """
    rows = []
    measured = dict(list(_by_claim(shown(judged))))
    for name, group in _by_claim(judged):
        # Where there is none, the first row is a published setting that was not run.
        for place, row in enumerate(measured.get(name, group.iloc[:1]).to_dict("records")):
            first = {
                "claim": f"{row['claim']}: {row['sentence']}",
                "source": f"{row['paper']}, {row['source']}",
                "all settings": beside(row["overall"], row["welch_overall"]),
            }
            rows.append((first if place == 0 else dict.fromkeys(first, "")) | row_text(row))
    return Table(judged[list(COLUMNS)], pd.DataFrame(rows, columns=list(HEADERS)), tuple(_footnotes(judged, size)))


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """Return one row a claim, in order, with what is the same in all rows of it."""
    columns = ["paper", "claim", "sentence", "source", "reproduced_if", "note", "overall", "welch_overall"]
    return judged[columns].drop_duplicates("claim").reset_index(drop=True)


def shown(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the measured rows that a reader sees: all, or of more than `LISTED` those that the claims' verdicts rest on."""
    measured = judged[judged["verdict"] != NOT_RUN]
    return measured if len(measured) <= LISTED else measured[measured["counts"] == "yes"]


def row_text(row: Mapping) -> dict[str, str]:
    """Return one measured row as a reader sees it; a row that is not run is empty but for its verdict."""
    if row["verdict"] == NOT_RUN:
        return dict.fromkeys(HEADERS[3:], "") | {"verdict": NOT_RUN}
    form = row["form"]

    def side(prefix: str) -> str:
        mean, sd = float(row[f"{prefix}mean"]), float(row[f"{prefix}sd"])
        return "–" if math.isnan(mean) else number(mean, form) + ("" if math.isnan(sd) else f" ± {sd:{form}}")

    return {
        "compared": f"{_compared(row)}: {row['metric']}, {row['better']}",
        "where": f"{row['dataset']}, {pair(row['student'], row['teacher'])} ({row['benchmark']})",
        "scale": row["scale"],
        "ours": f"{side('')} over {side('over_')}",
        "difference": own_network(row["over_row"])
        if row["analysis"] == SAME
        else gain(row["difference"], row["low"], row["high"], form),
        "published": number(row["published"], f"+{form}"),
        "verdict": beside(row["verdict"], row["welch_verdict"]) + (f" ({row['remark']})" if row["remark"] else ""),
        "seeds": f"{int(row['n'])}, {int(row['over_n'])}",
    }


def _compared(row: Mapping) -> str:
    """Return the two methods as the paper's file calls them, and as the benchmark does where it has other names."""

    def named(method: str, own: str) -> str:
        return method if method.partition("@")[0] == own else f"{method} (here {own})"

    return f"{named(row['method'], row['row'])} over {named(row['over'], row['over_row'])}"


def _footnotes(judged: pd.DataFrame, size: int) -> Iterable[str]:
    hidden = (judged["verdict"] != NOT_RUN).sum() - len(shown(judged))
    if hidden:
        yield f"{hidden:,} rows that no claim's verdict rests on are only in claims.csv."
    yield (
        "Network 0, the one that the papers report. Ours: mean ± standard deviation over seeds, of the method and of what it "
        "is held against. Difference: with its 95 % interval. Seeds: of each side."
    )
    yield footnote(size)
    yield CONDITIONAL
    yield (
        "Verdict, as published: as in the results table, with g the published difference (where less is claimed, after "
        "changing all signs). At another scale no size is claimed: direction only if the interval lies on the claimed side of "
        "0, not reproduced if on the other, inconclusive otherwise. Verdicts of single rows are not corrected for their "
        "number."
    )
    yield (
        "All settings: reproduced if all published settings were run and each is reproduced; direction only if some are so in "
        "direction only; not reproduced if one is not, by its interval at 1 - 5 % / (settings run); inconclusive otherwise."
    )


def listing(judged: pd.DataFrame) -> str:
    """Return the claims as `dgd-bench claims` prints them: verdict, what would reproduce it, and the measured rows of each."""
    lines = []
    for _, group in _by_claim(judged):
        row = group.iloc[0]
        lines += [
            f"{row['claim']} ({row['paper']}, {row['source']}): {beside(row['overall'], row['welch_overall'])}",
            f"    {row['sentence']}",
        ]
        lines.append(f"    reproduced if {row['reproduced_if']}")
        lines += [f"    note: {row['note']}"] if row["note"] else []
        for row in group[group["verdict"] != NOT_RUN].to_dict("records"):
            text = row_text(row)
            published = f" (published {text['published']})" if text["published"] else ""
            lines.append(f"  - {text['compared']}; {text['where']}; {text['scale']}")
            lines.append(f"      {text['ours']}: {text['difference']}{published}, seeds {text['seeds']}: {text['verdict']}")
        lines.append("")
    done = judged[judged["verdict"] != NOT_RUN]["claim"].nunique()
    return "\n".join([*lines, f"{judged['claim'].nunique()} claims, {done} with cells"])


def _by_claim(judged: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return judged.groupby("claim", sort=False)
