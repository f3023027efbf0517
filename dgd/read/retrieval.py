"""Make the retrieval table: recall@1 between the test examples of a student's and of its teacher's input, both ways."""

from pathlib import Path
from typing import Any

import pandas as pd

from dgd.read.files import read_metrics
from dgd.read.statistics import mean_interval
from dgd.read.table import NOT_RUN, PAIR, Table, interval, number, pair

SPACES = ("features", "probabilities")
COLUMNS = (
    *("dataset", "student", "teacher", "method", "direction", "n"),
    *(f"{space}{end}" for space in SPACES for end in ("", "_sd", "_low", "_high")),
)
"""The columns of the table; recall@1 in percent."""


def retrieval_table(cells: pd.DataFrame, folder: str | Path) -> Table:
    """Return recall@1 of every method whose teacher takes another input, a row a direction, means over n finished seeds.

    A query is a test example of one input, and counts where the nearest test example of the other input has its class. The
    frame is empty where no finished cell has such a teacher.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV; network 0 of the finished cells counts.
        folder: `results/<benchmark>`; reads `<cell>/metrics.json` below it where there is one.
    """
    rows = []
    cells = cells[(cells["network"] == 0) & (cells["status"] == "finished")].assign(teacher=lambda f: f["teacher"].fillna(""))
    for key, group in cells.groupby(["dataset", "student", "teacher", "method"], sort=False):
        paths = [Path(folder) / name / "metrics.json" for name in group["folder"]]
        found = [read_metrics(path).get("retrieval") for path in paths if path.is_file()]
        measured = [one for one in found if one]
        for direction in measured[0] if measured else ():
            row: dict[str, Any] = dict(zip(COLUMNS, key)) | {"direction": direction, "n": len(measured)}
            for space in SPACES:
                told = mean_interval([value for one in measured if (value := one[direction][space]) is not None])
                row |= {space: told.mean, f"{space}_sd": told.sd, f"{space}_low": told.low, f"{space}_high": told.high}
            rows.append(row)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Table(frame, pd.DataFrame([_text(row) for row in frame.to_dict("records")]), FOOTNOTES)


def _text(row: dict[str, Any]) -> dict[str, str]:
    """Return the readable form of one row."""

    def recall(space: str) -> str:
        text = number(row[space], ".1f", NOT_RUN)
        text += "" if pd.isna(row[f"{space}_sd"]) else f" ± {row[f'{space}_sd']:.1f}"
        return text + interval(row[f"{space}_low"], row[f"{space}_high"], ".1f")

    query, gallery = row["direction"].split("->")
    return {
        "data set": row["dataset"],
        PAIR: pair(row["student"], row["teacher"]),
        "method": row["method"],
        "n": str(row["n"]),
        "query": query,
        "gallery": gallery,
        "recall@1 by features": recall("features"),
        "recall@1 by probabilities": recall("probabilities"),
    }


FOOTNOTES = (
    "Recall@1 in percent, mean ± standard deviation over n seeds with the 95 % t-interval of the mean: the share of the test "
    "examples of one input whose nearest test example of the other input, by cosine, has their class. Nothing else pairs the "
    "two; a guess has the share of a class.",
    "By features: the inputs of the classifiers of student and teacher, where they have one width. Only a method that compares "
    "the two gives them a space in common; of other methods the column says what they have in common by chance, such as equal "
    "initial weights. By probabilities: the softmax of both, whose space all methods share; it follows the two accuracies.",
)
