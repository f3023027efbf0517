"""Make the controls table: which gain of a method is left when it is held against what could explain it.

A config's `controls` names the readings of each method: `<row of methods>`, or `<row>@<how>`, see `dgd.read.readings`. With
`best-on-test` the method is read at its best epoch on the test split too: both sides choose with the same eye.

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
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dgd.metrics import Metric, metric_named
from dgd.read.cells import CONDITIONS, baseline_of, metric_of, reported
from dgd.read.readings import Reading
from dgd.read.results import gain_over
from dgd.read.statistics import Difference, detectable_between, holm
from dgd.read.table import NOT_RUN, PAIR, Table, gain, number, p_value, pair

WORDS = ("left", "explained", "reversed", "inconclusive", NOT_RUN)
"""What `word` can say, and 'not run' for a reading that has no finished cell."""

COLUMNS = (
    *("dataset", "student", "teacher", "method", "control", "what", "tuned_from", "tuned_by", "metric"),
    *("n", "mean", "control_n", "control_mean", "baseline_gain", "baseline_low", "baseline_high"),
    *("gain", "low", "high", "p", "p_holm", "minimum_detectable_effect", "share_left"),
    *("compute", "teachers", "control_compute", "control_teachers"),
)
"""The columns of the table: results and gains in the metric's unit, compute in trainings of the baseline."""


def word(gain: Difference, over_baseline: Difference) -> str:
    """Say in a word what a control leaves of a gain; the module's docstring has the rule.

    Args:
        gain: Method less control.
        over_baseline: Method less baseline.

    Returns:
        One of `WORDS` but 'not run'. Where an interval is missing (fewer than two seeds, or no spread) it is 'inconclusive'.
    """
    if math.isnan(gain.low) or not over_baseline.low > 0:
        return "inconclusive"
    if gain.low > 0:
        return "left"
    if gain.high < 0:
        return "reversed"
    return "explained" if gain.high < over_baseline.difference else "inconclusive"


def controls_table(cells: pd.DataFrame, controls: Mapping[str, Sequence[str]], report: str = "first") -> Table:
    """Hold each method's gain against its controls.

    One row a data set, student, teacher, method and reading. A method that is held against rows which differ from the baseline
    by their learning rate alone gets one row more, against the best of them and the baseline itself: by validation results at
    the last epoch where all of them have one, else by test results, which flatters the control and so is conservative for the
    method.

    Gains and intervals are NaN where cells are missing; p is Welch's, p_holm corrected over all rows. Compute is networks x
    epochs in units of the baseline's; teachers come on top.

    Args:
        cells: From `dgd.read.cells.collect` with the benchmark's cells: what has no result has a row that says so.
        controls: Method -> readings.
        report: The config's `report`: which network of a group is read ('first', 'mean' or 'best').
    """
    rows = []
    cells = cells.assign(teacher=cells["teacher"].fillna(""))
    for (dataset, student), part in cells.groupby(["dataset", "student"], sort=False):
        for method, readings in controls.items():
            for teacher, own in part[part["method"] == method].groupby("teacher", sort=False):
                # A control learns from the method's teacher or from none.
                near = part[part["teacher"].isin(["", teacher])]
                base = near[near["method"] == baseline_of(own)]
                where = {"dataset": dataset, "student": student, "teacher": teacher, "method": method}
                where["metric"] = metric_of(part).name
                for control, how, found, more in _controls(near, base, list(map(Reading.parse, readings)), report):
                    rows.append(where | {"control": control} | _row(own, base, found, how, report) | more)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["p_holm"] = holm(frame["p"].astype(float))
    return Table(frame, pd.DataFrame([_text(row) for row in frame.itertuples()], columns=HEADERS), _footnotes(frame))


def _controls(
    near: pd.DataFrame, base: pd.DataFrame, readings: Sequence[Reading], report: str
) -> list[tuple[str, str, pd.DataFrame, dict]]:
    """Return each reading with its cells, and the tuned baseline after the rows that it is chosen from."""
    found = [(str(reading), reading.how, near[near["method"] == reading.method], {}) for reading in readings]
    tried = [reading for reading in readings if reading.how == "last" and _another_rate(near, reading.method, base)]
    if tried:
        names = dict.fromkeys([base.iloc[0]["method"], *(reading.method for reading in tried)])
        candidates = {name: near[near["method"] == name] for name in names}
        run = {name: rows for name, rows in candidates.items() if len(_values(rows, "last", report))}
        more: dict[str, Any] = {"tuned_from": f"{len(run)} of {len(candidates)}"}
        best = near.iloc[:0]
        if run:
            by = {name: _values(rows, "validation", report) for name, rows in run.items()}
            seen = all(len(values) for values in by.values())
            by = by if seen else {name: _values(rows, "last", report) for name, rows in run.items()}
            sign = metric_of(near).sign
            chosen = max(by, key=lambda name: sign * np.mean(by[name]))
            best, more = run[chosen], more | {"tuned_by": "validation" if seen else "test"}
            more["control"] = f"tuned baseline: {chosen}"
        found.insert(readings.index(tried[-1]) + 1, ("tuned baseline", "last", best, more))
    return found


def _another_rate(near: pd.DataFrame, method: str, base: pd.DataFrame) -> bool:
    """Return whether a method is the baseline with another learning rate, and differs in nothing else."""
    rows = near[near["method"] == method]
    if rows.empty or base.empty:
        return False

    def made_of(row: pd.Series) -> list:
        values = row.reindex(["networks", "teachers", *CONDITIONS]).drop("lr")
        return values.astype(object).where(values.notna(), None).tolist()

    return rows.iloc[0]["lr"] != base.iloc[0]["lr"] and made_of(rows.iloc[0]) == made_of(base.iloc[0])


def _row(own: pd.DataFrame, base: pd.DataFrame, control: pd.DataFrame, how: str, report: str) -> dict[str, Any]:
    """Return the numbers of one method against one control."""
    metric = metric_of(own)
    ours = _values(own, how if how == "best-on-test" else "last", report)
    theirs = _values(control, how, report)
    left = gain_over(ours, theirs, metric)
    over_baseline = gain_over(_values(own, "last", report), _values(base, "last", report), metric)
    row: dict[str, Any] = {"n": len(ours), "mean": _mean(ours), "control_n": len(theirs), "control_mean": _mean(theirs)}
    row |= dict(zip(("baseline_gain", "baseline_low", "baseline_high"), over_baseline[:3], strict=True))
    row |= dict(zip(("gain", "low", "high", "p"), left, strict=True))
    row["minimum_detectable_effect"] = detectable_between(ours, theirs)
    row["share_left"] = left.difference / over_baseline.difference if over_baseline.low > 0 else math.nan
    row["compute"], row["teachers"] = _compute(own, base)
    row["control_compute"], row["control_teachers"] = _compute(control, base)
    row["what"] = word(left, over_baseline) if len(ours) and len(theirs) else NOT_RUN
    return row


def _values(rows: pd.DataFrame, how: str, report: str) -> list[float]:
    """Return one result a finished seed; how as in a `Reading`, or 'validation': at the last epoch, of the reported network."""
    columns = {"best-on-test": "best_on_test", "ensemble": "ensemble", "validation": "validation_last"}
    which = {"mean": "mean", "best": "best", "ensemble": "first"}.get(how, report)
    return reported(rows, which)[0][columns.get(how, "last")].dropna().astype(float).tolist()


def _compute(rows: pd.DataFrame, base: pd.DataFrame) -> tuple[float, float]:
    """Return networks x epochs in units of the baseline's, and the number of teachers; NaN for cells that are not there."""
    if not len(rows) or not len(base):
        return math.nan, math.nan
    first = rows.iloc[0]
    return float(first["networks"] * first["epochs"] / base.iloc[0]["epochs"]), float(first["teachers"])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


# -------------------------------------------------------------------------------------------------------------- text

HEADERS = ["data set", PAIR, "method", "held against", "gain over baseline", "gain over control"]
HEADERS += ["gain left", "share left", "p (Holm)", "minimum detectable effect", "compute", "n"]


def _text(row: Any) -> dict[str, str]:
    """Return the readable form of one row."""
    form = metric_named(row.metric).form

    def cost(units: float, teachers: float) -> str:
        if pd.isna(units):
            return "–"
        return f"{units:g}" + ("" if not teachers else " + teacher" if teachers == 1 else f" + {teachers:g} teachers")

    tuned = "" if pd.isna(row.tuned_from) else f" (best of {row.tuned_from} rates"
    tuned += f", by {row.tuned_by})" if tuned and pd.notna(row.tuned_by) else ")" if tuned else ""
    values = (
        *(row.dataset, pair(row.student, row.teacher), row.method, row.control + tuned),
        gain(row.baseline_gain, row.baseline_low, row.baseline_high, form),
        gain(row.gain, row.low, row.high, form),
        row.what,
        "" if pd.isna(row.share_left) else f"{100 * row.share_left:.0f} %",
        p_value(row.p_holm),
        number(row.minimum_detectable_effect, form),
        f"{cost(row.compute, row.teachers)} / {cost(row.control_compute, row.control_teachers)}",
        f"{row.n} / {row.control_n}",
    )
    return dict(zip(HEADERS, values, strict=True))


def _gains_in(metric: Metric) -> str:
    """Return in what gains of a metric are given."""
    return f"{'points' if metric.unit == '%' else 'units'} of {metric.label}"


def _footnotes(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the footnotes of the table."""
    if not len(frame):
        return ("This benchmark names no controls; its config's key `controls` would (config/README.md).",)
    units = " and ".join(_gains_in(metric_named(name)) for name in frame["metric"].unique())
    return (
        f"Gains in {units} on the test split, positive where the method is better, with Welch's 95 % interval. The gain over "
        "the baseline is that of the reported network at the last epoch. A control is read at its last epoch, its reported "
        "network, unless @ says otherwise: best, mean or ensemble of its networks, while the method is one network still; or "
        "its best epoch on the test split, as is the method then. @best is chosen by validation results, or by test results "
        "where there are none, which flatters the control.",
        "Gain left, with [lo, hi] the interval of the gain over the control and g the gain over the baseline: left if lo "
        "> 0; reversed if hi < 0; explained if lo ≤ 0 and hi < g; inconclusive otherwise, always with fewer than two "
        "seeds, and always where the gain over the baseline has no interval above 0: then there is nothing to explain. "
        "Not run: no finished cell on a side. These words are not corrected for their number; p is, by Holm over the rows "
        "of this table.",
        "Share left: gain over the control / gain over the baseline. Minimum detectable effect: the smallest true difference "
        "that so many seeds, spread like these, show in four of five repetitions. Compute: method / control, in trainings of "
        "the baseline (networks × epochs), teachers not counted; an ensemble also takes all its networks at inference.",
        "Tuned baseline: the best of the baseline's learning rates that were run, its own included. Where it is chosen by "
        "test results it is flattered, which is conservative for the method.",
    )
