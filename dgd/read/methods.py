"""Make the methods table: every method of a benchmark, alone and with grafting, its cost, and how it stands to its source.

A row is a method; its combination with grafting (`dgd.methods.grafted`) stands in the same row and has none of its own. Gains
are over the baseline of the same student, and of the combination over its method.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from dgd.methods import grafted
from dgd.metrics import Metric, metric_named
from dgd.read.cells import baseline_of, is_baseline, metric_of, outcomes, reported
from dgd.read.comparisons import CONDITIONAL, NONE, SAME, Comparison, Draft, Settings, by_seed, footnote, own_network
from dgd.read.results import metrics_in, whose_words
from dgd.read.statistics import mean_interval
from dgd.read.table import PAIR, Table, gain, interval, number, p_value, pair

SIDE = ("networks", "seeds", "n", "mean", "sd", "low", "high", "gain", "gain_low", "gain_high", "gain_p", "gain_p_holm")
SIDE += ("gain_welch_low", "gain_welch_high", "gain_welch_p", "gain_analysis", "gain_over", "cost", "images")
"""What stands of a method, and with `grafted_` before it of its combination with grafting."""

COLUMNS = (
    *("dataset", "student", "teacher", "role", "method", "status", "teachers", "metric", "report", *SIDE),
    *("group_mean", "group_best", "group_best_by", "ensemble"),
    *("grafted", *(f"grafted_{name}" for name in SIDE), "deviations"),
)
"""The columns of the table: results and gains in the metric's unit, cost and images in multiples of the baseline's."""

ABOUT = ("method_status", "deviations")


def methods_table(cells: pd.DataFrame, report: str = "first") -> Table:
    """Return the table of `methods`, its p-values adjusted over its own comparisons."""
    return methods(cells, report).table()


def methods(cells: pd.DataFrame, report: str = "first", settings: Settings | None = None) -> Draft:
    """Set every method beside its combination with grafting, one row a data set, student, teacher and method.

    Methods come in the order of the cells. A combination without its method is a row like any other. `grafted` names the
    combination, empty where the benchmark has none. Numbers that need missing cells are NaN: gain and cost without a baseline,
    intervals with fewer than two seeds.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV.
        report: Which network of a group is the headline; see `dgd.read.cells.reported`.
        settings: Those of the cells, where other tables use them too.

    Raises:
        ValueError: Another `report`.
    """
    rows, gains, grafted_gains = [], [], []
    settings = settings or Settings(cells, report)
    cells = cells.assign(**{name: cells[name].fillna("") for name in ("teacher", *ABOUT)})
    students = set(cells.loc[~is_baseline(cells), "student"])
    for (dataset, student), part in cells.groupby(["dataset", "student"], sort=False):
        metric = metric_of(part)
        groups = dict(list(part.groupby(["teacher", "method"], sort=False)))
        combinations = {(teacher, grafted(method)) for teacher, method in groups}
        for (teacher, method), own in groups.items():
            if (teacher, method) in combinations:
                continue
            role = "teacher" if student in set(cells["teacher"]) - students else "student"
            row: dict[str, Any] = {"dataset": dataset, "student": student, "teacher": teacher, "role": role, "method": method}
            row |= {"teachers": int(own.iloc[0]["teachers"]), "metric": metric.name, "report": reported(own, report)[1]}
            base = part[part["method"] == baseline_of(own)]
            side, one = _side(own, base if method != baseline_of(own) else None, base, report, settings)
            row |= side | _group(own)
            gains.append(one)
            both = groups.get((teacher, grafted(method)))
            if both is not None:
                row["grafted"] = grafted(method)
                side, one = _side(both, own, base, report, settings)
                row |= {f"grafted_{name}": value for name, value in side.items()}
            grafted_gains.append(NONE if both is None else one)
            rows.append(row | _about(own, both))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    texts = ("grafted", "grafted_seeds", "group_best_by")
    texts += tuple(f"{start}gain_{end}" for start in ("", "grafted_") for end in ("analysis", "over"))
    frame = frame.assign(**{name: frame[name].fillna("") for name in texts})
    return Draft(frame, {"gain_p_holm": gains, "grafted_gain_p_holm": grafted_gains}, _table)


def _table(frame: pd.DataFrame, size: int) -> Table:
    text = pd.DataFrame([_text(row) for row in frame.to_dict("records")], columns=HEADERS)
    return Table(frame, text, tuple(_footnotes(frame, size)))


def _side(
    rows: pd.DataFrame, over: pd.DataFrame | None, base: pd.DataFrame, report: str, settings: Settings
) -> tuple[dict[str, Any], Comparison]:
    """Return one method's results, its gain `over` another one (None: it has none), and what it costs; and that gain."""
    values = by_seed(reported(rows, report)[0])
    first, one = rows.iloc[0], NONE
    side = {"seeds": outcomes(rows)} | mean_interval(list(values.values()))._asdict()
    if over is not None:
        one = settings.of(first["dataset"], first["student"]).of(values, by_seed(reported(over, report)[0]))
        side |= one.columns("gain") | {"gain_over": over.iloc[0]["method"] if len(over) else ""}
    side["networks"] = int(first["networks"])
    side["cost"] = _work(rows) / _work(base)
    side["images"] = first["networks"] * first["epochs"] / base.iloc[0]["epochs"] if len(base) else math.nan
    return side, one


def _values(rows: pd.DataFrame, report: str, column: str = "last") -> list[float]:
    """Return one result a finished seed that has it."""
    return reported(rows, report)[0][column].dropna().astype(float).tolist()


def _work(rows: pd.DataFrame) -> float:
    """Return seconds of training for each image of the training part, the median over seeds; NaN if none was measured."""
    first = reported(rows)[0]
    # Of a group, images/s counts every network's.
    seconds = first["networks"] * first["epochs"] / first["images_per_second"].astype(float)
    return float(np.median(seconds.dropna())) if seconds.notna().any() else math.nan


def _group(rows: pd.DataFrame) -> dict[str, Any]:
    """Return means over seeds of a group's mean, its best network and its ensemble; nothing for one network."""
    by = reported(rows, "best")[1]
    if by == "first":
        return {}
    found = {"group_mean": _values(rows, "mean"), "group_best": _values(rows, "best")}
    found["ensemble"] = _values(rows, "first", "ensemble")
    return {name: float(np.mean(values)) for name, values in found.items() if values} | {"group_best_by": by}


def _about(own: pd.DataFrame, both: pd.DataFrame | None) -> dict[str, str]:
    """Return a method's status and its deviations, with those that only its combination has."""

    def texts(rows: pd.DataFrame, column: str) -> list[str]:
        return [text for text in rows[column].unique() if text]

    found = texts(own, "deviations")
    more = [] if both is None else [text for text in texts(both, "deviations") if text not in found]
    found += [f"with grafting: {text}" for text in more]
    return {"status": ", ".join(texts(own, "method_status")), "deviations": "; ".join(found)}


# -------------------------------------------------------------------------------------------------------------- text

HEADERS = ["data set", PAIR, "method", "status", "networks", "last epoch", "gain", "p (Holm)"]
HEADERS += ["group: mean / best / ensemble", "with grafting", "grafting's gain", "its p (Holm)", "cost", "images", "deviations"]


def _text(row: dict[str, Any]) -> dict[str, str]:
    """Return the readable form of one row."""
    form = metric_named(row["metric"]).coarse

    def result(prefix: str) -> str:
        mean, sd, n, seeds = (row[prefix + name] for name in ("mean", "sd", "n", "seeds"))
        if not seeds:
            return ""
        text = number(mean, form, "–") + ("" if pd.isna(sd) else f" ± {sd:{form}}")
        text += f" ({n:.0f})" if ":" not in seeds else f" ({seeds})"
        return text + interval(row[f"{prefix}low"], row[f"{prefix}high"], form)

    def gained(prefix: str) -> str:
        if row[f"{prefix}gain_analysis"] == SAME:
            return own_network(row[f"{prefix}gain_over"])
        return gain(*(row[f"{prefix}gain{end}"] for end in ("", "_low", "_high")), form)

    def both(name: str, form: str) -> str:
        return number(row[name], form, "–") + (f" / {number(row[f'grafted_{name}'], form, '–')}" if row["grafted"] else "")

    teachers = {0: "", 1: " + teacher"}.get(row["teachers"], f" + {row['teachers']} teachers")
    group = " / ".join(number(row[name], form, "–") for name in ("group_mean", "group_best", "ensemble"))
    values = (
        *(row["dataset"], pair(row["student"], row["teacher"], row["role"]), row["method"], row["status"]),
        *(f"{row['networks']}{teachers}", result(""), gained(""), p_value(row["gain_p_holm"])),
        *(group if row["group_best_by"] else "", result("grafted_"), gained("grafted_"), p_value(row["grafted_gain_p_holm"])),
        *(both("cost", ".2f"), both("images", "g"), row["deviations"]),
    )
    return dict(zip(HEADERS, values, strict=True))


def _best(frame: pd.DataFrame, metric: Metric) -> list[str]:
    """Say how the best networks of groups were chosen."""
    label = metric.label.rpartition(" ")[2]
    words = {
        "best by validation": f"by validation {label} at the last epoch",
        "best by test": f"by test {label} itself, which inflates it",
    }
    return [text for by, text in words.items() if (frame["group_best_by"] == by).any()]


def _footnotes(frame: pd.DataFrame, size: int) -> list[str]:
    """Return the footnotes of the table, of a family of so many comparisons."""
    parts = [(metric, frame[frame["metric"] == metric.name]) for metric in metrics_in(frame)]
    found = [
        f"Last epoch: {metric.label} on the test split{metric.words.removeprefix(metric.label)}, "
        f"{whose_words(part, metric.label)}: mean ± standard deviation (seeds) and the 95 % t-interval of the mean. Networks: "
        "those that learn together."
        for metric, part in parts
    ]
    found += [
        "Gain: over the baseline of the same student, positive where the method is better. Grafting's gain: of the method with "
        "grafting over the method. Both with their 95 % interval. No interval is corrected for their number; p is.",
        footnote(size),
        CONDITIONAL,
        "With grafting: the same terms in a group of at least two networks that are grafted. It is called grafting for "
        "baseline, dgd for kd, and else has +graft after the name; it has no row of its own.",
    ]
    best = dict.fromkeys(text for metric, part in parts for text in _best(part, metric))
    if best:
        found.append(
            f"Group: means over seeds of the mean of its networks, of the best one, chosen {' or '.join(best)}, and of their "
            "ensemble, which takes all of them at inference."
        )
    own = "; own: a user's, held to no source" if frame["status"].str.contains("own").any() else ""
    return [
        *found,
        "Cost: seconds of training, method / with grafting, in those of the baseline; medians over seeds, without evaluation "
        "and the teachers' own training. Measured in this run on a shared machine: only large differences count. Images: "
        "training images that all networks saw, in those of the baseline; images / cost is what the method sees in the "
        "baseline's time.",
        "Status: faithful: as its source says; deviates: in what the last column says; proxy: something else in the method's "
        "place, as the last column says; reconstruction: our own equations, since the details are not public: not to be read "
        f"as the paper's result{own}. Empty: no cell finished, or cells are of a version that did not record it.",
    ]
