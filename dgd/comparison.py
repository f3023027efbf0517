"""Every method of a benchmark in one table: its accuracy, alone and with grafting, its cost, and how it stands to its source.

A row is a method; its combination with grafting (`dgd.methods.grafted`) stands in the same row and has none of its own. Gains
are over the baseline of the same student, and of the combination over its method, each with Welch's interval, for which seeds
are not paired; p-values are corrected by Holm over all gains of the table. Nothing here needs torch.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from dgd import tables
from dgd.methods import grafted
from dgd.statistics import difference, holm, mean_interval

SIDE = ("networks", "seeds", "n", "mean", "sd", "low", "high", "gain", "gain_low", "gain_high", "gain_p", "gain_p_holm")
SIDE += ("cost", "images")
"""What stands of a method, and with `grafted_` before it of its combination with grafting."""

COLUMNS = (
    *("dataset", "student", "teacher", "role", "method", "status", "teachers", "report", *SIDE),
    *("group_mean", "group_best", "group_best_by", "ensemble"),
    *("grafted", *(f"grafted_{name}" for name in SIDE), "deviations"),
)
"""The columns of the table: accuracies in percent, gains in points, cost and images in multiples of the baseline's."""


def methods_table(cells: pd.DataFrame, report: str = "first") -> pd.DataFrame:
    """Set every method beside its combination with grafting, one row a data set, student, teacher and method.

    Args:
        cells: From `dgd.tables.collect`, or its CSV, also one of an older version.
        report: Which network of a group is the headline; see `dgd.tables.reported`.

    Returns:
        Frame with `COLUMNS`, methods in the order of the cells. A combination without its method is a row like any other.
        `grafted` names the combination, empty where the benchmark has none. Numbers that need missing cells are NaN: gain and
        cost without a baseline, intervals with fewer than two seeds.

    Raises:
        ValueError: Another `report`.
    """
    rows = []
    cells = cells.assign(**{name: cells[name].fillna("") if name in cells else "" for name in ("teacher", *ABOUT)})
    students = set(cells.loc[cells["method"] != "baseline", "student"])
    for (dataset, student), part in cells.groupby(["dataset", "student"], sort=False):
        base = part[part["method"] == "baseline"]
        groups = dict(list(part.groupby(["teacher", "method"], sort=False)))
        combinations = {(teacher, grafted(method)) for teacher, method in groups}
        for (teacher, method), own in groups.items():
            if (teacher, method) in combinations:
                continue
            role = "teacher" if student in set(cells["teacher"]) - students else "student"
            row = {"dataset": dataset, "student": student, "teacher": teacher, "role": role, "method": method}
            row |= {"teachers": int(own.iloc[0]["teachers"]), "report": tables.reported(own, report)[1]}
            row |= _side(own, base if method != "baseline" else None, base, report) | _group(own)
            both = groups.get((teacher, grafted(method)))
            if both is not None:
                row["grafted"] = grafted(method)
                row |= {f"grafted_{name}": value for name, value in _side(both, own, base, report).items()}
            rows.append(row | _about(own, both))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    p = ["gain_p", "grafted_gain_p"]
    table[[f"{name}_holm" for name in p]] = holm(table[p].astype(float).to_numpy().ravel()).reshape(-1, 2)
    texts = {name: table[name].fillna("") for name in ("grafted", "grafted_seeds", "group_best_by")}
    return table.assign(**texts)


ABOUT = ("method_status", "deviations")


def _side(rows: pd.DataFrame, over: pd.DataFrame | None, base: pd.DataFrame, report: str) -> dict:
    """The numbers of one row of methods: its accuracy, its gain `over` another one (None: it has none), and what it costs."""
    values = _values(rows, report)
    first, side = rows.iloc[0], {"seeds": tables.outcomes(rows)} | mean_interval(values)._asdict()
    if over is not None:
        side |= dict(zip(("gain", "gain_low", "gain_high", "gain_p"), difference(values, _values(over, report))))
    side["networks"] = int(first["networks"])
    side["cost"] = _work(rows) / _work(base)
    side["images"] = first["networks"] * first["epochs"] / base.iloc[0]["epochs"] if len(base) else math.nan
    return side


def _values(rows: pd.DataFrame, report: str, column: str = "top1_last") -> list[float]:
    """One accuracy a finished seed that has it."""
    found = tables.reported(rows, report)[0]
    return found[column].dropna().astype(float).tolist() if column in found else []


def _work(rows: pd.DataFrame) -> float:
    """Seconds of training, the median over seeds, for each image of the training part; NaN where none was measured."""
    first = tables.reported(rows)[0]
    # Of a group, images/s counts every network's.
    seconds = first["networks"] * first["epochs"] / first["images_per_second"].astype(float)
    return float(np.median(seconds.dropna())) if seconds.notna().any() else math.nan


def _group(rows: pd.DataFrame) -> dict:
    """The group's networks together, means over seeds: their mean, the best one and their ensemble. Nothing of one network."""
    by = tables.reported(rows, "best")[1]
    if by == "first":
        return {}
    found = {"group_mean": _values(rows, "mean"), "group_best": _values(rows, "best")}
    found["ensemble"] = _values(rows, "first", "ensemble_top1")
    return {name: float(np.mean(values)) for name, values in found.items() if values} | {"group_best_by": by}


def _about(own: pd.DataFrame, both: pd.DataFrame | None) -> dict[str, str]:
    """A method's status, and its deviations, with those that only its combination has."""

    def texts(rows: pd.DataFrame, column: str) -> list[str]:
        return [text for text in rows[column].unique() if text]

    found = texts(own, "deviations")
    more = [] if both is None else [text for text in texts(both, "deviations") if text not in found]
    found += [f"with grafting: {text}" for text in more]
    return {"status": ", ".join(texts(own, "method_status")), "deviations": "; ".join(found)}


# ---------------------------------------------------------------------------------------------------------- text


def to_text(table: pd.DataFrame) -> pd.DataFrame:
    """The readable form of the table."""
    columns = ["data set", "student ← teacher", "method", "status", "networks", "last epoch", "gain", "p (Holm)"]
    columns += ["group: mean / best / ensemble", "with grafting", "grafting's gain", "its p (Holm)", "cost", "images"]
    return pd.DataFrame([_text(row) for row in table.to_dict("records")], columns=[*columns, "deviations"])


def _text(row: dict) -> dict[str, str]:
    def number(value: float, form: str = ".1f") -> str:
        return "–" if pd.isna(value) else f"{value:{form}}"

    def accuracy(prefix: str) -> str:
        mean, sd, n, seeds = (row[prefix + name] for name in ("mean", "sd", "n", "seeds"))
        if not seeds:
            return ""
        text = number(mean) + ("" if pd.isna(sd) else f" ± {sd:.1f}")
        text += f" ({n:.0f})" if ":" not in seeds else f" ({seeds})"
        low, high = row[f"{prefix}low"], row[f"{prefix}high"]
        return text + ("" if pd.isna(low) else f" [{low:.1f}, {high:.1f}]")

    def gain(prefix: str) -> str:
        value, low, high = (row[f"{prefix}gain{end}"] for end in ("", "_low", "_high"))
        text = "" if pd.isna(value) else f"{value:+.1f}"
        return text + ("" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]")

    def p(value: float) -> str:
        return "" if pd.isna(value) else "<0.001" if value < 0.001 else f"{value:.3f}"

    def both(name: str, form: str) -> str:
        return number(row[name], form) + (f" / {number(row[f'grafted_{name}'], form)}" if row["grafted"] else "")

    teachers = {0: "", 1: " + teacher"}.get(row["teachers"], f" + {row['teachers']} teachers")
    group = " / ".join(number(row[name]) for name in ("group_mean", "group_best", "ensemble"))
    return {
        "data set": row["dataset"],
        "student ← teacher": f"{row['student']} ← {row['teacher']}"
        if row["teacher"]
        else row["student"] + " (teacher)" * (row["role"] == "teacher"),
        "method": row["method"],
        "status": row["status"],
        "networks": f"{row['networks']}{teachers}",
        "last epoch": accuracy(""),
        "gain": gain(""),
        "p (Holm)": p(row["gain_p_holm"]),
        "group: mean / best / ensemble": group if row["group_best_by"] else "",
        "with grafting": accuracy("grafted_"),
        "grafting's gain": gain("grafted_"),
        "its p (Holm)": p(row["grafted_gain_p_holm"]),
        "cost": both("cost", ".2f"),
        "images": both("images", "g"),
        "deviations": row["deviations"],
    }


BEST = {
    "best by validation": "by validation accuracy at the last epoch",
    "best by test": "by test accuracy itself, which inflates it",
}


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader needs under the table."""
    best = [words for by, words in BEST.items() if (table["group_best_by"] == by).any()]
    found = [
        f"Last epoch: top-1 on the test split in percent, {tables._whose(table)}: mean ± standard deviation (seeds) and the "
        "95 % t-interval of the mean. Networks: those that learn together.",
        "Gain: over the baseline of the same student. Grafting's gain: of the method with grafting over the method. Both with "
        "Welch's 95 % interval. No interval is corrected for their number; p is, by Holm over all gains of this table.",
        "With grafting: the same terms in a group of at least two networks that are grafted. It is called grafting for "
        "baseline, dgd for kd, and else has +graft after the name; it has no row of its own.",
        f"Group: means over seeds of the mean of its networks, of the best one, chosen {' or '.join(best)}, and of their "
        "ensemble, which takes all of them at inference.",
        "Cost: seconds of training, method / with grafting, in those of the baseline; medians over seeds, without evaluation "
        "and the teachers' own training. Measured in this run on a shared machine: only large differences count. Images: "
        "training images that all networks saw, in those of the baseline; images / cost is what the method sees in the "
        "baseline's time.",
        "Status: faithful: as its source says; deviates: in what the last column says; proxy: something else in the method's "
        "place, as the last column says; reconstruction: our own equations, since the details are not public: not to be read "
        "as the paper's result. Empty: no cell finished, or cells are of a version that did not record it.",
    ]
    return [note for note in found if best or not note.startswith("Group")]


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, with its notes."""
    return tables.markdown(table, to_text(table), notes(table))


def write(table: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write the table as CSV, Markdown and LaTeX; see `dgd.tables.write`."""
    return tables.write(table, stem, to_text(table), notes(table))
