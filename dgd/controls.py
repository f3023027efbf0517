"""Which gain is left after each control: a method held against what could explain its gain over the baseline.

A config's `controls` names the readings of each method: `<row of methods>`, or `<row>@<how>` with how one of

* last (the default): the reported network at the last epoch;
* best-on-test: its best epoch on the test split. The method is then read so too: both sides choose with the same eye;
* mean, best: the mean of the group's networks, or the best of them (`report: best`), at the last epoch;
* ensemble: the mean of the group's probabilities, at the last epoch.

The rule, with [lo, hi] the 95 % Welch interval of method less control, and g > 0 the gain over the baseline, which must itself
have an interval above 0 (else there is nothing to explain, and it is inconclusive):

| lo > 0           | left: better than the control                                                   |
| hi < 0           | reversed: worse than the control                                                |
| lo <= 0, hi < g  | explained: no gain over the control is shown, and one as large as g is excluded |
| lo <= 0, hi >= g | inconclusive: both no gain and all of g fit                                     |

'explained' is more than an interval that holds 0: a wide one holds g too, and then the control may explain nothing. It does not
say that all of the gain is explained; the share that is left stands beside it. How often each word is said, as measured by
tests/test_controls.py on normal data with equal sd s (left / explained / reversed / inconclusive, in %):

| seeds | gain | the control explains | left | explained | reversed | inconclusive |
|-------|------|----------------------|------|-----------|----------|--------------|
| 5     | 2 s  | nothing              | 64.0 | 0.7       | 0.0      | 35.4         |
| 5     | 2 s  | half                 | 24.9 | 18.5      | 0.0      | 56.6         |
| 5     | 2 s  | all                  | 2.3  | 62.4      | 1.1      | 34.3         |
| 5     | 4 s  | nothing              | 100  | 0.0       | 0.0      | 0.0          |
| 5     | 4 s  | half                 | 77.4 | 17.6      | 0.0      | 5.0          |
| 5     | 4 s  | all                  | 2.5  | 95.1      | 2.4      | 0.1          |

Nothing here needs torch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dgd.statistics import Difference, difference, holm, smallest_difference_between
from dgd.tables import markdown as table_markdown
from dgd.tables import reported
from dgd.tables import write as write_table

WORDS = ("left", "explained", "reversed", "inconclusive", "not run")
"""What `word` can say, and 'not run' for a reading that has no finished cell."""

TUNED = "baseline-lr"
"""How the names of the rows begin that tune the baseline's learning rate."""

COLUMNS = (
    *("dataset", "student", "teacher", "method", "control", "what", "tuned_from", "tuned_by"),
    *("n", "mean", "control_n", "control_mean", "baseline_gain", "baseline_low", "baseline_high"),
    *("gain", "low", "high", "p", "p_holm", "smallest_seen", "share_left"),
    *("compute", "teachers", "control_compute", "control_teachers"),
)
"""The columns of the table: accuracies and gains in points of top-1, compute in trainings of the baseline."""


def parse(reading: str) -> tuple[str, str]:
    """The row and the how of a reading: 'independent@best' is ('independent', 'best')."""
    name, _, how = reading.partition("@")
    return name, how or "last"


def word(gain: Difference, over_baseline: Difference) -> str:
    """Say in a word what a control leaves of a gain; the module's text has the rule.

    Args:
        gain: Method less control.
        over_baseline: Method less baseline.

    Returns:
        One of `WORDS` but 'not run'. Where an interval is missing (fewer than two seeds) it is 'inconclusive'.
    """
    if math.isnan(gain.low) or not over_baseline.low > 0:
        return "inconclusive"
    if gain.low > 0:
        return "left"
    if gain.high < 0:
        return "reversed"
    return "explained" if gain.high < over_baseline.difference else "inconclusive"


def controls_table(cells: pd.DataFrame, controls: Mapping[str, Sequence[str]], report: str = "first") -> pd.DataFrame:
    """Hold each method's gain against its controls.

    One row a data set, student, teacher, method and reading. A method that is held against `baseline-lr...` rows gets one row
    more, against the best of them and the baseline itself: by validation accuracy at the last epoch where all of them have
    one, else by test accuracy, which flatters the control and so is conservative for the method.

    Args:
        cells: From `dgd.tables.collect` with the benchmark's cells: what has no result has a row that says so.
        controls: Method -> readings.
        report: The config's `report`: which network of a group is read ('first', 'mean' or 'best').

    Returns:
        Frame with `COLUMNS`. Gains and intervals are NaN where cells are missing; p is Welch's, p_holm corrected over all rows.
        Compute is networks x epochs in units of the baseline's; teachers come on top.
    """
    rows = []
    cells = cells.assign(teacher=cells["teacher"].fillna(""))
    for (dataset, student), part in cells.groupby(["dataset", "student"], sort=False):
        for method, readings in controls.items():
            for teacher, own in part[part["method"] == method].groupby("teacher", sort=False):
                # A control learns from the method's teacher or from none.
                near = part[part["teacher"].isin(["", teacher])]
                base = near[near["method"] == "baseline"]
                where = {"dataset": dataset, "student": student, "teacher": teacher, "method": method}
                for control, found, more in _controls(near, readings, report):
                    rows.append(where | {"control": control} | _row(own, base, found, parse(control)[1], report) | more)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["p_holm"] = holm(table["p"].astype(float))
    return table


def _controls(near: pd.DataFrame, readings: Iterable[str], report: str) -> list[tuple[str, pd.DataFrame, dict]]:
    """Each reading with its cells, and the tuned baseline after the rows that it is chosen from."""
    found = [(reading, near[near["method"] == parse(reading)[0]], {}) for reading in readings]
    tried = [reading for reading in readings if reading.startswith(TUNED) and parse(reading)[1] == "last"]
    if tried:
        candidates = {name: near[near["method"] == parse(name)[0]] for name in dict.fromkeys(["baseline", *tried])}
        run = {name: rows for name, rows in candidates.items() if len(_values(rows, "last", report))}
        more = {"tuned_from": f"{len(run)} of {len(candidates)}"}
        best = near.iloc[:0]
        if run:
            by = {name: _values(rows, "validation", report) for name, rows in run.items()}
            seen = all(len(values) for values in by.values())
            by = by if seen else {name: _values(rows, "last", report) for name, rows in run.items()}
            chosen = max(by, key=lambda name: np.mean(by[name]))
            best, more = run[chosen], more | {"tuned_by": "validation" if seen else "test"}
            more["control"] = f"tuned baseline: {chosen}"
        found.insert(readings.index(tried[-1]) + 1, ("tuned baseline", best, more))
    return found


def _row(own: pd.DataFrame, base: pd.DataFrame, control: pd.DataFrame, how: str, report: str) -> dict:
    """The numbers of one method against one control."""
    ours = _values(own, how if how == "best-on-test" else "last", report)
    theirs = _values(control, how, report)
    gain = difference(ours, theirs)
    over_baseline = difference(_values(own, "last", report), _values(base, "last", report))
    row = {"n": len(ours), "mean": _mean(ours), "control_n": len(theirs), "control_mean": _mean(theirs)}
    row |= dict(zip(("baseline_gain", "baseline_low", "baseline_high"), over_baseline))
    row |= dict(zip(("gain", "low", "high", "p"), gain))
    row["smallest_seen"] = smallest_difference_between(ours, theirs)
    row["share_left"] = gain.difference / over_baseline.difference if over_baseline.low > 0 else math.nan
    row["compute"], row["teachers"] = _compute(own, base)
    row["control_compute"], row["control_teachers"] = _compute(control, base)
    row["what"] = word(gain, over_baseline) if len(ours) and len(theirs) else "not run"
    return row


def _values(rows: pd.DataFrame, how: str, report: str) -> list[float]:
    """One accuracy a finished seed; how as in a reading, or 'validation': at the last epoch, of the reported network."""
    columns = {"best-on-test": "top1_best_on_test", "ensemble": "ensemble_top1", "validation": "validation_top1_last"}
    column = columns.get(how, "top1_last")
    which = {"mean": "mean", "best": "best", "ensemble": "first"}.get(how, report)
    found = reported(rows, which)[0]
    return found[column].dropna().astype(float).tolist() if column in found else []


def _compute(rows: pd.DataFrame, base: pd.DataFrame) -> tuple[float, float]:
    """Networks x epochs in units of the baseline's, and the number of teachers; NaN for cells that are not there."""
    if not len(rows) or not len(base):
        return math.nan, math.nan
    first = rows.iloc[0]
    return float(first["networks"] * first["epochs"] / base.iloc[0]["epochs"]), float(first["teachers"])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


# ---------------------------------------------------------------------------------------------------------- text


def to_text(table: pd.DataFrame) -> pd.DataFrame:
    """The readable form of the table."""
    columns = ["data set", "student ← teacher", "method", "held against", "gain over baseline", "gain over control"]
    columns += ["gain left", "share left", "p (Holm)", "smallest seen", "compute", "n"]
    return pd.DataFrame([_text(row) for row in table.itertuples()], columns=columns)


def _text(row: tuple) -> dict[str, str]:
    def interval(value: float, low: float, high: float) -> str:
        text = "" if pd.isna(value) else f"{value:+.2f}"
        return text + ("" if pd.isna(low) else f" [{low:+.2f}, {high:+.2f}]")

    def cost(units: float, teachers: float) -> str:
        if pd.isna(units):
            return "–"
        return f"{units:g}" + ("" if not teachers else " + teacher" if teachers == 1 else f" + {teachers:g} teachers")

    tuned = "" if pd.isna(row.tuned_from) else f" (best of {row.tuned_from} rates"
    tuned += f", by {row.tuned_by})" if tuned and pd.notna(row.tuned_by) else ")" if tuned else ""
    return {
        "data set": row.dataset,
        "student ← teacher": f"{row.student} ← {row.teacher}" if row.teacher else row.student,
        "method": row.method,
        "held against": row.control + tuned,
        "gain over baseline": interval(row.baseline_gain, row.baseline_low, row.baseline_high),
        "gain over control": interval(row.gain, row.low, row.high),
        "gain left": row.what,
        "share left": "" if pd.isna(row.share_left) else f"{100 * row.share_left:.0f} %",
        "p (Holm)": "" if pd.isna(row.p_holm) else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}",
        "smallest seen": "" if pd.isna(row.smallest_seen) else f"{row.smallest_seen:.2f}",
        "compute": f"{cost(row.compute, row.teachers)} / {cost(row.control_compute, row.control_teachers)}",
        "n": f"{row.n} / {row.control_n}",
    }


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader needs under the table."""
    if not len(table):
        return ["This benchmark names no controls; its config's key `controls` would (config/README.md)."]
    return [
        "Gains in points of top-1 on the test split, with Welch's 95 % interval. The gain over the baseline is that of "
        "the reported network at the last epoch. A control is read at its last epoch, its reported network, unless @ says "
        "otherwise: best, mean or ensemble of its networks, while the method is one network still; or its best epoch on "
        "the test split, as is the method then. @best is chosen by validation accuracy, or by test accuracy where there "
        "is none, which flatters the control.",
        "Gain left, with [lo, hi] the interval of the gain over the control and g the gain over the baseline: left if lo "
        "> 0; reversed if hi < 0; explained if lo ≤ 0 and hi < g; inconclusive otherwise, always with fewer than two "
        "seeds, and always where the gain over the baseline has no interval above 0: then there is nothing to explain. "
        "Not run: no finished cell on a side. These words are not corrected for their number; p is, by Holm over the rows "
        "of this table.",
        "Share left: gain over the control / gain over the baseline. Smallest seen: the smallest true difference that so "
        "many seeds, spread like these, show in four of five repetitions. Compute: method / control, in trainings of the "
        "baseline (networks × epochs), teachers not counted; an ensemble also takes all its networks at inference.",
        "Tuned baseline: the best of the baseline's learning rates that were run, its own included. Where it is chosen by "
        "test accuracy it is flattered, which is conservative for the method.",
    ]


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, with its notes."""
    return table_markdown(table, to_text(table), notes(table))


def write(table: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write the table as CSV, Markdown and LaTeX; see `dgd.tables.write`."""
    return write_table(table, stem, to_text(table), notes(table))
