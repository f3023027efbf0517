"""Make the controls table: which gain of a method is left when it is held against what could explain it.

A config's `controls` names the readings of each method: `<row of methods>`, or `<row>@<how>`, see `dgd.read.readings`. With
`best-on-test` the method is read at its best epoch on the test split too: both sides choose with the same eye.

The rule, with [lo, hi] the 95 % interval of method less control. The gain over the baseline must itself have an interval above
0, else there is nothing to explain, and it is inconclusive:

| lo > 0    | left: better than the control                                                              |
| hi < 0    | reversed: worse than the control                                                           |
| lo <= 0   | explained: no gain over the control is shown, and what it explains has an interval above 0 |
| otherwise | inconclusive: no gain over the control is shown, and none of the control                   |

What a control explains is the method's gain over the baseline less the one over the control, seed by seed: that is the
control's own gain over the baseline, and of `@best-on-test`, where both sides are read at their best epochs, how much smaller
the gain is there. 'explained' does not say that all of the gain is explained; the share that is left stands beside it. How
often each word is said, as measured by tests/test_error_rates.py on normal data of 8 methods by the primary analysis, with s
the root mean square of the sd of method and baseline, equal or 1 : 3 (left / explained / reversed / inconclusive, in %; in
brackets, explained of those whose gain over the baseline is shown):

| sd    | seeds | gain | the control explains | left | explained   | reversed | inconclusive |
|-------|-------|------|----------------------|------|-------------|----------|--------------|
| equal | 3     | 2 s  | nothing              | 18.0 | 0.9 (2.4)   | 0.0      | 81.1         |
| equal | 3     | 2 s  | half                 | 6.8  | 6.9 (19.3)  | 0.0      | 86.3         |
| equal | 3     | 2 s  | all                  | 1.0  | 19.6 (54.9) | 0.3      | 79.1         |
| equal | 3     | 4 s  | nothing              | 78.1 | 0.2 (0.2)   | 0.0      | 21.8         |
| equal | 3     | 4 s  | half                 | 33.4 | 23.1 (26.4) | 0.0      | 43.5         |
| equal | 3     | 4 s  | all                  | 1.2  | 77.9 (89.1) | 1.2      | 19.6         |
| equal | 5     | 2 s  | nothing              | 59.8 | 1.0 (1.4)   | 0.0      | 39.2         |
| equal | 5     | 2 s  | half                 | 22.3 | 19.8 (26.6) | 0.0      | 57.9         |
| equal | 5     | 2 s  | all                  | 1.9  | 59.5 (80.0) | 0.9      | 37.7         |
| equal | 5     | 4 s  | nothing              | 99.8 | 0.0 (0.0)   | 0.0      | 0.2          |
| equal | 5     | 4 s  | half                 | 73.9 | 21.4 (21.4) | 0.0      | 4.7          |
| equal | 5     | 4 s  | all                  | 1.9  | 95.9 (96.0) | 2.1      | 0.2          |
| 1 : 3 | 3     | 2 s  | nothing              | 35.7 | 0.2 (0.5)   | 0.0      | 64.1         |
| 1 : 3 | 3     | 2 s  | half                 | 17.6 | 8.7 (23.0)  | 0.0      | 73.7         |
| 1 : 3 | 3     | 2 s  | all                  | 0.6  | 30.9 (81.5) | 0.3      | 68.2         |
| 1 : 3 | 3     | 4 s  | nothing              | 82.6 | 0.0 (0.0)   | 0.0      | 17.4         |
| 1 : 3 | 3     | 4 s  | half                 | 76.7 | 2.8 (3.4)   | 0.0      | 20.5         |
| 1 : 3 | 3     | 4 s  | all                  | 1.1  | 77.4 (93.7) | 0.8      | 20.7         |
| 1 : 3 | 5     | 2 s  | nothing              | 72.0 | 0.0 (0.0)   | 0.0      | 28.0         |
| 1 : 3 | 5     | 2 s  | half                 | 60.2 | 5.9 (8.2)   | 0.0      | 33.9         |
| 1 : 3 | 5     | 2 s  | all                  | 1.4  | 64.4 (89.4) | 1.0      | 33.2         |
| 1 : 3 | 5     | 4 s  | nothing              | 99.8 | 0.0 (0.0)   | 0.0      | 0.2          |
| 1 : 3 | 5     | 4 s  | half                 | 99.8 | 0.0 (0.0)   | 0.0      | 0.2          |
| 1 : 3 | 5     | 4 s  | all                  | 1.7  | 96.4 (96.6) | 1.6      | 0.3          |
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dgd.metrics import Metric, metric_named
from dgd.read.cells import CONDITIONS, baseline_of, metric_of, reported
from dgd.read.comparisons import (
    CONDITIONAL,
    SAME,
    Comparison,
    Draft,
    Sample,
    Settings,
    beside,
    by_seed,
    footnote,
    own_network,
)
from dgd.read.readings import Reading
from dgd.read.statistics import Difference
from dgd.read.table import NOT_RUN, PAIR, Table, gain, number, p_value, pair

WORDS = ("left", "explained", "reversed", "inconclusive", NOT_RUN)
"""What `word` can say, and 'not run' for a reading that has no finished cell."""

COLUMNS = (
    *("dataset", "student", "teacher", "method", "control", "what", "tuned_from", "tuned_by", "metric"),
    *("n", "mean", "control_n", "control_mean", "baseline_gain", "baseline_low", "baseline_high"),
    *("gain", "low", "high", "p", "p_holm", "welch_low", "welch_high", "welch_p", "analysis", "welch_what"),
    *("explained", "explained_low", "explained_high", "minimum_detectable_effect", "share_left"),
    *("compute", "teachers", "control_compute", "control_teachers"),
)
"""The columns of the table: results and gains in the metric's unit, compute in trainings of the baseline."""


def word(gain: Difference, over_baseline: Difference, explained: Difference) -> str:
    """Say in a word what a control leaves of a gain; the module's docstring has the rule.

    Args:
        gain: Method less control.
        over_baseline: Method less baseline.
        explained: What the control explains: control less baseline.

    Returns:
        One of `WORDS` but 'not run'. Where an interval is missing (fewer than two seeds, or no spread) it is 'inconclusive'.
    """
    if math.isnan(gain.low) or not over_baseline.low > 0:
        return "inconclusive"
    if gain.low > 0:
        return "left"
    if gain.high < 0:
        return "reversed"
    return "explained" if explained.low > 0 else "inconclusive"


def controls_table(cells: pd.DataFrame, controls: Mapping[str, Sequence[str]], report: str = "first") -> Table:
    """Return the table of `held`, its p-values adjusted over its own comparisons."""
    return held(cells, controls, report).table()


def held(
    cells: pd.DataFrame, controls: Mapping[str, Sequence[str]], report: str = "first", settings: Settings | None = None
) -> Draft:
    """Hold each method's gain against its controls.

    One row a data set, student, teacher, method and reading. A method that is held against rows which differ from the baseline
    by their learning rate alone gets one row more, against the best of them and the baseline itself: by validation results at
    the last epoch where all of them have one, else by test results, which flatters the control and so is conservative for the
    method.

    Gains and intervals are NaN where cells are missing; p_holm is adjusted over the family. Compute is networks x epochs in
    units of the baseline's; teachers come on top.

    Args:
        cells: From `dgd.read.cells.collect` with the benchmark's cells: what has no result has a row that says so.
        controls: Method -> readings.
        report: The config's `report`: which network of a group is read ('first', 'mean' or 'best').
        settings: Those of the cells, where other tables use them too.
    """
    rows, compared = [], []
    settings = settings or Settings(cells, report)
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
                    row, one = _row(own, base, found, how, report, settings)
                    rows.append(where | {"control": control} | row | more)
                    compared.append(one)
    return Draft(pd.DataFrame(rows, columns=list(COLUMNS)), {"p_holm": compared}, _table)


def _table(frame: pd.DataFrame, size: int) -> Table:
    text = pd.DataFrame([_text(row) for row in frame.itertuples()], columns=HEADERS)
    return Table(frame, text, _footnotes(frame, size))


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


class _Held(NamedTuple):
    """A method against one control: its gain over it, that over the baseline, and what the control explains."""

    gain: Comparison
    over_baseline: Comparison
    explained: Comparison


def _held(
    own: pd.DataFrame, base: pd.DataFrame, control: pd.DataFrame, how: str, report: str, settings: Settings
) -> tuple[_Held, Sample, Sample]:
    """Return a method against one control, and the results that are compared."""
    where = tuple(own.iloc[0][["dataset", "student"]])
    setting, best = settings.of(*where), how == "best-on-test"
    ours, theirs = _sample(own, how if best else "last", report), _sample(control, how, report)
    last, start = _sample(own, "last", report), _sample(base, "last", report)
    row = tuple(control.iloc[0][["teacher", "method"]]) if len(control) else None
    gain = (settings.of(*where, "best_on_test") if best else setting).of(ours, theirs, row)
    # At best epochs the control stands as far below the method's last one as it does there.
    explaining = {seed: last[seed] - (ours[seed] - theirs[seed]) for seed in last if seed in theirs} if best else theirs
    return _Held(gain, setting.of(last, start), setting.of(explaining, start)), ours, theirs


def _row(
    own: pd.DataFrame, base: pd.DataFrame, control: pd.DataFrame, how: str, report: str, settings: Settings
) -> tuple[dict[str, Any], Comparison]:
    """Return the numbers of one method against one control, and their comparison."""
    found, ours, theirs = _held(own, base, control, how, report, settings)
    row: dict[str, Any] = {"n": len(ours), "mean": _mean(ours), "control_n": len(theirs), "control_mean": _mean(theirs)}
    over, explained = found.over_baseline.primary, found.explained.primary
    row |= dict(zip(("baseline_gain", "baseline_low", "baseline_high"), over[:3], strict=True))
    row |= dict(zip(("explained", "explained_low", "explained_high"), explained[:3], strict=True))
    row |= found.gain.columns("gain", bare=True) | {"minimum_detectable_effect": found.gain.minimum_detectable_effect}
    row["share_left"] = found.gain.primary.difference / over.difference if over.low > 0 else math.nan
    row["compute"], row["teachers"] = _compute(own, base)
    row["control_compute"], row["control_teachers"] = _compute(control, base)
    there = len(ours) and len(theirs)
    row["what"] = word(*(one.primary for one in found)) if there else NOT_RUN
    row["welch_what"] = word(*(one.welch for one in found)) if there else NOT_RUN
    return row, found.gain


def _sample(rows: pd.DataFrame, how: str, report: str) -> Sample:
    """Return the results by seed that a reading means; 'validation': at the last epoch, of the reported network."""
    columns = {"best-on-test": "best_on_test", "ensemble": "ensemble", "validation": "validation_last"}
    which = {"mean": "mean", "best": "best", "ensemble": "first"}.get(how, report)
    return by_seed(reported(rows, which)[0], columns.get(how, "last"))


def _values(rows: pd.DataFrame, how: str, report: str) -> list[float]:
    return list(_sample(rows, how, report).values())


def _compute(rows: pd.DataFrame, base: pd.DataFrame) -> tuple[float, float]:
    """Return networks x epochs in units of the baseline's, and the number of teachers; NaN for cells that are not there."""
    if not len(rows) or not len(base):
        return math.nan, math.nan
    first = rows.iloc[0]
    return float(first["networks"] * first["epochs"] / base.iloc[0]["epochs"]), float(first["teachers"])


def _mean(values: Sample) -> float:
    return float(np.mean(list(values.values()))) if values else math.nan


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
        own_network(row.control) if row.analysis == SAME else gain(row.gain, row.low, row.high, form),
        beside(row.what, row.welch_what),
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


def _footnotes(frame: pd.DataFrame, size: int) -> tuple[str, ...]:
    """Return the footnotes of the table, of a family of so many comparisons."""
    if not len(frame):
        return ("This benchmark names no controls; its config's key `controls` would (config/README.md).",)
    units = " and ".join(_gains_in(metric_named(name)) for name in frame["metric"].unique())
    return (
        f"Gains in {units} on the test split, positive where the method is better, with its 95 % interval. The gain over "
        "the baseline is that of the reported network at the last epoch. A control is read at its last epoch, its reported "
        "network, unless @ says otherwise: best, mean or ensemble of its networks, while the method is one network still; or "
        "its best epoch on the test split, as is the method then. @best is chosen by validation results, or by test results "
        "where there are none, which flatters the control.",
        "Gain left, with [lo, hi] the interval of the gain over the control: left if lo > 0; reversed if hi < 0; explained "
        "if lo ≤ 0 and the control's own gain over the baseline has an interval above 0 (of @best-on-test: if the gain is "
        "smaller there, with such an interval); inconclusive otherwise, always with fewer than two seeds, and always where "
        "the gain over the baseline has no interval above 0: then there is nothing to explain. Not run: no finished cell on "
        "a side. These words are not corrected for their number; p is.",
        footnote(size),
        CONDITIONAL,
        "Share left: gain over the control / gain over the baseline. Minimum detectable effect: the smallest true difference "
        "that so many seeds, spread like these, show in four of five repetitions. Compute: method / control, in trainings of "
        "the baseline (networks × epochs), teachers not counted; an ensemble also takes all its networks at inference.",
        "Tuned baseline: the best of the baseline's learning rates that were run, its own included. Where it is chosen by "
        "test results it is flattered, which is conservative for the method.",
    )
