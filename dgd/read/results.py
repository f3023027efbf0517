"""Make the results table: our results beside the published ones, with gains over the baseline and verdicts."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from dgd.benchmark import BASELINE
from dgd.metrics import Metric, metric_named
from dgd.read.cells import baseline_of, grouped, is_baseline, members, metric_of, outcomes, precisions, reported, taught_by
from dgd.read.comparisons import (
    BLOCKED,
    CONDITIONAL,
    NONE,
    SAME,
    Comparison,
    Draft,
    Setting,
    Settings,
    beside,
    by_seed,
    footnote,
    own_network,
)
from dgd.read.departures import PUBLISHED, of_cells, render, size_counts
from dgd.read.matching import Published
from dgd.read.matching import is_baseline as is_published_baseline
from dgd.read.papers import BEST, LAST, read_papers, source_text, value_text
from dgd.read.statistics import Pooled, mean_interval, pooled_gain, prediction_interval, verdict
from dgd.read.table import PAIR, Table, gain, interval, number, p_value, pair
from dgd.read.thresholds import mean

AS_REPORTED = {LAST: "last", BEST: "best_on_test"}
"""Which epoch a published number is of -> the column of cells.csv that has the same of ours."""

COLUMNS = (
    *("dataset", "student", "teacher", "method", "role", "networks", "teachers", "epochs", "protocol", "metric", "report"),
    *("paper", "paper_mean", "paper_sd", "paper_n", "paper_source", "paper_others"),
    *("mean", "sd", "n", "low", "high", "predict_low", "predict_high", "paper_within"),
    *("gain", "gain_low", "gain_high", "gain_p", "gain_p_holm"),
    *("gain_welch_low", "gain_welch_high", "gain_welch_p", "gain_analysis", "minimum_detectable_effect"),
    *("paper_reported", "paper_gain", "held_gain", "held_low", "held_high", "held_welch_low", "held_welch_high"),
    *("paper_baseline", "verdict", "welch_verdict"),
    *("pooled_gain", "pooled_low", "pooled_high", "pooled_settings"),
    *("best_on_test", "validation_selected", "mean_of_networks", "status", "precision", "scale"),
)

OVER = "over"
"""The column that follows where a gain is over another row than `baseline`: which one, or the method itself, which has none."""

TEXT = (
    *("dataset", "student", "teacher", "method", "role", "protocol", "metric", "report", "paper", "paper_source"),
    *("paper_others", "paper_within", "paper_reported", "paper_baseline", "gain_analysis", "verdict", "welch_verdict"),
    *("status", "precision", "scale", "over"),
)
"""The columns that hold text; all others hold numbers."""


def results_table(cells: pd.DataFrame, papers: pd.DataFrame | Iterable, report: str = "first") -> Table:
    """Return the table of `results`, its p-values adjusted over its own comparisons."""
    return results(cells, papers, report).table()


def results(
    cells: pd.DataFrame, papers: pd.DataFrame | Iterable, report: str = "first", settings: Settings | None = None
) -> Draft:
    """Set our results beside the published ones, with gains and verdicts.

    One row a dataset, student, teacher and method, the teachers' own baselines included (`role`). The mean, its 95 %
    t-interval, `gain` and `verdict` are those of the reported network at the last epoch (the column `report` says which it
    is); `mean_of_networks` averages the whole group. `gain` is over the baseline of the same dataset and student, positive
    where the method is better, by the primary analysis (`dgd.read.comparisons`), of which `gain_analysis` says which it is,
    with Welch's beside it; `gain_p_holm` is adjusted over the family, the verdicts are not. `minimum_detectable_effect` is the
    true gain that the seeds would have shown in 80 % of cases. `pooled_gain` and its interval are the method's gain averaged
    over the table's settings (dataset and student, all its teachers together, as these share a baseline) that have an
    interval; NaN with fewer than two of them. `paper_gain` is over the baseline of the same published table, or the paper's
    first one where that table has none (`paper_baseline` says which). Only a row that is as published has it, or one that
    departs in nothing but what was shown to be immaterial to such a gain, and can be reproduced; `scale` says in which
    conditions it departs. Where the published numbers are of each run's best epoch on the test set (`paper_reported`), what
    they are held against is our gain of the same (`held_gain` and its interval). `paper_within` says, of such a row, if the
    published value lies in the 95 % prediction interval of one further run of ours, of the same epoch.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV.
        papers: From `read_papers`, or what that takes. A cell's first value is the `paper` column, the others `paper_others`.
        report: Which network of a group is the headline: "first", "mean" or "best"; see `dgd.read.cells.reported`.
        settings: Those of the cells, where other tables use them too.

    Raises:
        ValueError: Finished seeds of one row were trained for different numbers of epochs or by different protocols, or
            `report` is none of the three.
    """
    rows, compared = [], []
    settings = settings or Settings(cells, report)
    published = Published(papers if isinstance(papers, pd.DataFrame) else read_papers(papers))
    cells = cells.assign(teacher=cells["teacher"].fillna(""))
    teachers = set(cells["teacher"]) - {""}
    students = set(cells.loc[~is_baseline(cells), "student"])
    for dataset in cells["dataset"].unique():
        part = cells[cells["dataset"] == dataset]
        alone = dict(list(part[part["teacher"] == ""].groupby(["student", "method"])))
        for (student, teacher, method), group in grouped(part):
            sides = (student, baseline_of(group)), (teacher, taught_by(group))
            base, taught = (alone.get(side, part.iloc[:0]) for side in sides)
            roles = [name for name, among in (("teacher", teachers), ("student", students)) if student in among]
            role = " and ".join(roles) if method == baseline_of(group) and roles else "student"
            row = {"dataset": dataset, "student": student, "teacher": teacher, "method": method, "role": role}
            theirs = _theirs(group, base, taught, published)
            ours, one = _ours(group, base, report, theirs.get("paper_reported"), settings)
            rows.append(row | ours | theirs)
            compared.append(one)
    pooled = _pooled(cells, report, settings)
    for row in rows:
        if row["method"] in pooled.get(row["metric"], {}):
            found = pooled[row["metric"]][row["method"]]
            row |= {f"pooled_{name}": value for name, value in found._asdict().items()}
    frame = _judged(_with_types(pd.DataFrame(rows, columns=[*COLUMNS, OVER])))
    frame = frame.drop(columns=OVER) if (frame[OVER] == BASELINE).all() else frame
    return Draft(frame, {"gain_p_holm": compared}, _table)


def _table(frame: pd.DataFrame, size: int) -> Table:
    return Table(frame, pd.DataFrame([_text(row) for row in frame.itertuples()]), tuple(_footnotes(frame, size)))


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in what is judged: verdicts, and what a further run could be."""
    inside = (frame["predict_low"] <= frame["paper_mean"]) & (frame["paper_mean"] <= frame["predict_high"])
    frame["paper_within"] = inside.map({True: "yes", False: "no"})
    frame.loc[frame[["predict_low", "paper_mean"]].isna().any(axis=1) | (frame["scale"] != PUBLISHED), "paper_within"] = ""
    for start in ("", "welch_"):
        of = [frame[f"{kind}_{start}{end}"] for kind in ("gain", "held") for end in ("low", "high")]
        frame[f"{start}verdict"] = [
            ""
            if over == method or analysis == SAME
            else verdict((low, high), None)
            if pd.isna(paper)
            else verdict((held_low, held_high), float(paper))
            for over, method, analysis, paper, low, high, held_low, held_high in zip(
                frame["over"], frame["method"], frame["gain_analysis"], frame["paper_gain"], *of, strict=True
            )
        ]
    return frame


def _with_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with "" for missing text and NaN for missing numbers."""
    columns = {name: frame[name].astype(object).fillna("") if name in TEXT else frame[name].astype(float) for name in frame}
    return pd.DataFrame(columns, columns=frame.columns)


def with_gain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a results table that can have a gain: not those that others' gains are over."""
    return frame[frame["method"] != frame.get(OVER, BASELINE)]


def _pooled(cells: pd.DataFrame, report: str, settings: Settings) -> dict[str, dict[str, Pooled]]:
    """Return the gain of each method over all its settings of one metric, where there are two or more: metric -> method."""
    parts: dict[str, dict[str, list]] = {}
    if cells.groupby("method")[["dataset", "student"]].nunique().max(axis=None) < 2:
        return {}
    for (dataset, student), part in cells.groupby(["dataset", "student"], sort=False):
        metric, setting = metric_of(part), settings.of(dataset, student)
        groups = part.groupby("method", sort=False)
        values = {method: by_seed(reported(group, report)[0]) for method, group in groups}
        over = {method: baseline_of(group) for method, group in groups}
        for method, ours in values.items():
            one = setting.of(ours, values.get(over[method], {})) if over[method] != method else NONE
            variance, freedom = one.moments
            if one.analysis == BLOCKED:
                found = one.primary.difference, (variance / len(one.differences)) ** 0.5, freedom
                parts.setdefault(metric.name, {}).setdefault(method, []).append(found)
    return {
        metric: {method: pooled_gain(several) for method, several in found.items() if len(several) > 1}
        for metric, found in parts.items()
    }


def _ours(
    group: pd.DataFrame, base: pd.DataFrame, report: str, epoch: str | None, settings: Settings
) -> tuple[dict[str, Any], Comparison]:
    """Return our side of a row, and its gain.

    `epoch` says which one the published numbers are of, see `dgd.read.papers.REPORTED`.
    """
    (first, how), (base, _) = reported(group, report), reported(base, report)
    name = " ".join(group.iloc[0][["dataset", "model", "method"]])
    metric = metric_of(group)
    row: dict[str, Any] = {"report": how, "metric": metric.name}
    for column in ("networks", "teachers", "epochs", "protocol"):
        values = list(dict.fromkeys((first if len(first) else group)[column].dropna()))
        if len(values) > 1:
            raise ValueError(f"{name}: seeds differ in {column} ({values}); delete the results of the older config")
        row[column] = values[0] if values else None
    last = first["last"].astype(float)
    row |= mean_interval(last)._asdict()
    column = AS_REPORTED.get(epoch, "last")
    same = first[column].dropna().astype(float)
    row["predict_low"], row["predict_high"] = prediction_interval(same)
    row["precision"], row["over"] = precisions(group), baseline_of(group)
    one = NONE
    if group.iloc[0]["method"] != row["over"]:
        setting = settings.of(*group.iloc[0][["dataset", "student"]])
        one = setting.of(by_seed(first), by_seed(base))
        row |= one.columns("gain") | {"minimum_detectable_effect": one.minimum_detectable_effect}
        held = one if column == "last" else _of_column(settings, group, first, base, column)
        row |= {"held_gain": held.primary.difference, "held_low": held.primary.low, "held_high": held.primary.high}
        row |= {"held_welch_low": held.welch.low, "held_welch_high": held.welch.high}
    row["best_on_test"] = mean(first["best_on_test"])
    row["validation_selected"] = mean(first["validation_selected"])
    row["mean_of_networks"] = mean(members(group).loc[group["status"] == "finished", "last"])
    row["status"] = outcomes(group)
    return row, one


def _of_column(settings: Settings, group: pd.DataFrame, first: pd.DataFrame, base: pd.DataFrame, column: str) -> Comparison:
    setting: Setting = settings.of(*group.iloc[0][["dataset", "student"]], column)
    return setting.of(by_seed(first, column), by_seed(base, column))


def _theirs(group: pd.DataFrame, base: pd.DataFrame, taught: pd.DataFrame, published: Published) -> dict[str, Any]:
    """Return the paper's side of a row, and in which conditions ours departs from it."""
    metric = metric_of(group)
    found, variants = published.of(group.iloc[0].to_dict(), metric.name)
    others = [f"{value_text(row)} ({source_text(row)})" for row in found[1:]]
    others += [f"{row['method']} {value_text(row)} ({source_text(row)})" for row in variants]
    row: dict[str, Any] = {"paper": "", "paper_others": "; ".join(others)}
    if not found:
        return row
    best = found[0]
    departed = of_cells(group, base, taught, best["conditions"], evidence=True)
    row |= {"paper": value_text(best), "paper_source": source_text(best), "scale": render(departed)}
    row["paper_reported"] = best["reported"] or ""
    row |= {"paper_mean": best["value"], "paper_sd": best["sd"], "paper_n": best["n"]}
    other = published.baseline(best)
    if other and not is_published_baseline(best):
        row["paper_baseline"] = f"{value_text(other)} ({source_text(other)})"
        size = metric.sign * (best["value"] - other["value"])
        if size_counts(departed, size):
            row["paper_gain"] = size
    return row


# -------------------------------------------------------------------------------------------------------------- text


def _text(row: Any) -> dict[str, str]:
    """Return the readable form of one row."""
    metric = metric_named(row.metric)
    ours = "" if not row.n else number(row.mean, metric.form)
    ours += f" ± {row.sd:{metric.form}}" if row.n > 1 else ""
    ours += f" (n={int(row.n)}){interval(row.low, row.high, metric.coarse)}" if row.n else ""
    return {
        "data set": row.dataset,
        PAIR: pair(row.student, row.teacher, row.role),
        "method": row.method,
        "paper": row.paper,
        "ours, last epoch": ours,
        "gain": own_network(getattr(row, OVER, BASELINE))
        if row.gain_analysis == SAME
        else gain(row.gain, row.gain_low, row.gain_high, metric.form),
        "minimum detectable effect": number(row.minimum_detectable_effect, metric.form),
        "paper gain": number(row.paper_gain, f"+{metric.form}"),
        "departs in": row.scale,
        "precision": row.precision,
        "p (Holm)": p_value(row.gain_p_holm),
        "verdict": beside(row.verdict, row.welch_verdict),
        "validation-selected": number(row.validation_selected, metric.form),
        "best on test": number(row.best_on_test, metric.form),
        "seeds": row.status,
    }


def whose_words(frame: pd.DataFrame, label: str) -> str:
    """Say whose results a table reports.

    Args:
        frame: A table with the column `report`.
        label: The metric's.
    """
    words = {
        "mean": "the mean over the networks of the group",
        "best by validation": f"of the network of the group with the best validation {label} at the last epoch",
        "best by test": f"of the network of the group with the best test {label} at the last epoch (a choice made on the test "
        "split itself)",
    }
    found = [how for how in words if (frame["report"] == how).any()]
    if len(found) < 2:
        return words[found[0]] if found else "of the first network of the group"
    return " or, where there is no validation split, ".join(words[how] for how in found)


def metrics_in(frame: pd.DataFrame) -> list[Metric]:
    """Return the metrics of a table's rows, in order."""
    return [metric_named(name) for name in frame["metric"].unique()]


def _names(rows: pd.DataFrame) -> str:
    return ", ".join(dict.fromkeys(f"{pair(row.student, row.teacher)} {row.method}" for row in rows.itertuples()))


def _footnotes(frame: pd.DataFrame, size: int) -> Iterable[str]:
    """Yield the footnotes of the table, of a family of so many comparisons."""
    for metric in metrics_in(frame):
        part = frame[frame["metric"] == metric.name]
        best = "maximum" if metric.higher else "minimum"
        words = f"{metric.label[:1].upper()}{metric.label[1:]} on the test split{metric.words.removeprefix(metric.label)}"
        yield (
            f"{words}, {whose_words(part, metric.label)}, at the last epoch: mean ± "
            "standard deviation over n seeds, and the 95 % t-interval of the mean. Best on test "
            f"(the {best} over epochs, chosen on the test split itself) stands beside it for comparison with code that reports "
            "it, never instead."
        )
    yield (
        "Gain: over the baseline of the same student, positive where the method is better, with its 95 % interval. Minimum "
        "detectable effect: the smallest true gain that so many seeds with such a spread would have shown in 80 % of cases, by "
        "the same analysis. Paper gain: over the baseline of the same published table, where there is one."
    )
    yield footnote(size)
    yield CONDITIONAL
    yield (
        "Verdict, with [lo, hi] the interval of the gain and g the published gain: reproduced if lo > 0 and hi ≥ g; "
        "direction only if lo > 0 and hi < g, or if lo > 0 and no gain was published for this cell; not reproduced if "
        "lo ≤ 0 and hi < g, or if hi < 0; inconclusive otherwise, and always with fewer than two seeds or without any "
        "spread, where there is no test. Verdicts are not corrected for their number."
    )
    if OVER in frame:
        own = frame[(frame[OVER] != BASELINE) & (frame[OVER] != frame["method"])]
        for over, rows in own.groupby(OVER, sort=False):
            yield f"Gains over {over} instead of {BASELINE}: {', '.join(rows['method'].unique())}."
    recipes = frame[["protocol", "epochs"]].dropna().drop_duplicates()
    yield "Ours: " + "; ".join(f"protocol {row.protocol}, {int(row.epochs)} epochs" for row in recipes.itertuples()) + "."
    yield from _pooled_footnotes(frame)
    yield from _published_footnotes(frame)


def _pooled_footnotes(frame: pd.DataFrame) -> Iterable[str]:
    """Yield what is said of gains over all settings of a metric."""
    for metric in metrics_in(frame):
        pooled = frame[(frame["pooled_settings"] > 1) & (frame["metric"] == metric.name)].drop_duplicates("method")
        if len(pooled):
            gains = "; ".join(
                f"{row.method} {gain(row.pooled_gain, row.pooled_low, row.pooled_high, metric.form)} over "
                f"{int(row.pooled_settings)} settings"
                for row in pooled.itertuples()
            )
            yield (
                f"Gain averaged over settings (data set and student, each counted once): {gains}. The interval is "
                "Satterthwaite's, by each setting's own variance; it says nothing about other settings."
            )


def _published_footnotes(frame: pd.DataFrame) -> Iterable[str]:
    """Yield what is said of published numbers: in which conditions ours depart from them, and what else was published."""
    kept = frame[~frame["scale"].isin(("", PUBLISHED)) & frame["paper_gain"].notna()]
    if len(kept):
        yield (
            "Departs in nothing but what was shown to be immaterial to a gain of the published size, which is held against "
            f"ours: {_names(kept)}. The evidence is in the folder that is named, the rule in papers/evidence/immaterial.yaml."
        )
    for scale, rows in frame[~frame["scale"].isin(("", PUBLISHED)) & frame["paper_gain"].isna()].groupby("scale", sort=False):
        yield (
            f"Not as published ({scale}): {_names(rows)}. What the paper has stands beside it for orientation; its gain is not "
            "held against ours, and a verdict is on the direction alone."
        )
    rows = frame[frame["paper_gain"].notna() & (frame["paper_reported"] == BEST)]
    if len(rows):
        gains = "; ".join(
            f"{pair(row.student, row.teacher)} {row.method} ({row.dataset}) "
            + gain(row.held_gain, row.held_low, row.held_high, metric_named(row.metric).form)
            for row in rows.itertuples()
        )
        yield (
            "Published of each run's best epoch on the test set, and so held against the gain of our best epochs, which counts "
            f"for the verdict: {gains}."
        )
    for word, text in (("yes", "would be"), ("no", "would not be")):
        rows = frame[frame["paper_within"] == word]
        if len(rows):
            names = ", ".join(f"{pair(row.student, row.teacher)} {row.method} ({row.dataset})" for row in rows.itertuples())
            yield (
                f"The published value {text} plausible as one more run of ours (it lies "
                f"{'in' if word == 'yes' else 'outside'} the 95 % prediction interval): {names}."
            )
    for row in frame[frame["paper_others"] != ""].itertuples():
        yield f"Also published for {row.dataset}, {pair(row.student, row.teacher)}, {row.method}: {row.paper_others}."
