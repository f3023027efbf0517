"""From cells to tables: collect finished cells into one tidy frame and set it beside published numbers.

Accuracies are top-1 on the test split in percent. The headline is the last epoch of the reported network, which is the first
of its group (network 0) unless `report` says otherwise; the best epoch on the test split stands beside it and never replaces
it.
"""

import io
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from tabulate import tabulate

from dgd.config import slug
from dgd.statistics import (
    Pooled,
    difference,
    holm,
    mean_interval,
    prediction_interval,
    smallest_difference_between,
    stratified_bootstrap,
    verdict,
)

THRESHOLDS = ("1", "0.1")
"""L1 thresholds of a valid filter (arXiv 2004.12311, section 4.3), spelled as in metrics.json and column names."""

CELL = ("benchmark", "dataset", "model", "student", "teacher", "method", "seed")
FILTERS = tuple(
    f"{name}_{threshold}"
    for threshold in THRESHOLDS
    for name in (
        "invalid_ratio",
        "baseline_valid",
        "baseline_invalid",
        "mean_l1_valid_rank",
        "mean_l1_invalid_rank",
        "mean_l1_valid_position",
        "mean_l1_invalid_position",
    )
)
RECIPE = (
    *("batch_size", "lr", "schedule", "step_epochs", "milestones", "gamma", "weight_decay", "momentum", "nesterov"),
    *("weight_average", "train_images"),
)
"""What of a cell's recipe and data its row has; empty where older cells do not say. No number of images is all of them.

`milestones` are text such as 150/180/210; where there are some, `step_epochs` does not count.
"""

PUBLISHED = "as published"

COLUMNS = (
    *CELL,
    "network",
    "status",
    "networks",
    "teachers",
    "epochs",
    "protocol",
    *RECIPE,
    "top1_last",
    "validation_top1_last",
    "top1_best_on_test",
    "epoch_best_on_test",
    "top1_validation_selected",
    "epoch_validation_selected",
    "ensemble_top1",
    "parameters",
    "conv_filters",
    *FILTERS,
    "mean_l1",
    "entropy_sum",
    "seconds",
    "images_per_second",
    "peak_memory_mib",
    "method_status",
    "deviations",
    "folder",
)
"""The columns of cells.csv, in order. The method's status and deviations from its sources are empty for older cells."""

REPORTS = ("first", "mean", "best")
"""Which network of a group the results table can report; see `reported`."""

METHODS = ("baseline", "kd", "grafting", "dgd")
"""The order of the paper's four methods; others follow as they come."""

PAPER_ROW = {
    "id": str,
    "table": str,
    "dataset": str,
    "model": str,
    "teacher": str,
    "method": str,
    "networks": int,
    "teachers": int,
    "metric": str,
    "threshold": float,
    "epoch": int,
    "value": float,
    "sd": float,
    "n": int,
    "who": str,
    "source": str,
    "note": str,
}
"""Fields of a published number and their types."""

PAPER_OPTIONAL = ("teacher", "threshold", "epoch", "sd", "n", "who", "note")

NOTHING = pd.DataFrame(columns=["paper", *PAPER_ROW, "family"])
"""Published numbers of a cell that has none."""


# ---------------------------------------------------------------------------------------------------------- reading


def read_papers(papers: Iterable[str | Path | dict], section: str = "results") -> pd.DataFrame:
    """Read published numbers, most authoritative first.

    Args:
        papers: Paths of `papers/*.yaml`, or what was loaded from them; an earlier file wins over a later one.
        section: "results", or "reruns" for what others published about the paper.

    Returns:
        One row a number with the fields of `PAPER_ROW`, `paper`, and `recipe` (what the paper trained that data set with, see
        `departures`), sorted by file, then by the file's `headline` list of tables. Absent fields are None or NaN.

    Raises:
        ValueError: A file lacks a key, a row has an unknown or missing field or one of the wrong type, or an id is
            there twice.
    """
    rows, seen = [], {}
    for paper in papers:
        document = paper if isinstance(paper, dict) else yaml.safe_load(Path(paper).read_text(encoding="utf-8"))
        path = document.get("paper", "a paper") if document is paper else paper
        for key in ("paper", "headline", "results"):
            if key not in (document or {}):
                raise ValueError(f"{path}: no key {key!r}; see papers/dgd.yaml for the form")
        order = {table: place for place, table in enumerate(document["headline"])}
        recipes = document.get("recipe") or {}
        found = [_paper_row(path, row) | {"paper": document["paper"]} for row in document.get(section) or []]
        found = [row | {"recipe": recipes.get(row["dataset"], {})} for row in found]
        for row in found:
            if row["id"] in seen:
                raise ValueError(f"{path}: id {row['id']!r} is already used in {seen[row['id']]}")
            seen[row["id"]] = path
        rows += sorted(found, key=lambda row: order.get(row["table"], len(order)))
    return pd.DataFrame(rows, columns=["paper", *PAPER_ROW, "recipe"])


def departures(cell: Mapping, recipe: Mapping) -> list[str]:
    """How a cell was trained otherwise than a paper says, in words; nothing if it was trained so.

    Args:
        cell: A row of cells.csv: its method, its epochs, and `RECIPE`. `milestones` may be a list too.
        recipe: Of a paper's file: epochs, lr, batch_size (those that text and code give), schedule, and `diverse`, the schedule
            of methods with `-dlr` in their name; step_epochs or milestones (a list), gamma, weight_decay, momentum, nesterov,
            weight_average. A key that is not there is not compared. No images may be left out or kept for validation.
    """
    own = {key: None if pd.isna(cell.get(key)) else cell[key] for key in ("epochs", "train_images", *WORDS)}
    # Older cells say neither of these two, and had neither.
    own["milestones"] = _milestones(cell.get("milestones"))
    own["nesterov"] = not pd.isna(cell.get("nesterov")) and bool(cell["nesterov"])
    wanted = {**recipe, "schedule": recipe.get("diverse" if DIVERSE.search(cell["method"]) else "schedule")}
    if wanted["schedule"] in ("dlr", "cosine"):  # has no steps
        wanted = {key: value for key, value in wanted.items() if key not in ("step_epochs", "milestones", "gamma")}
    elif own["milestones"] or wanted.get("milestones"):
        own, wanted = _by_milestones(own), _by_milestones(wanted)
    parts, of = [], wanted.get("epochs")
    if own["epochs"] != of:
        parts.append(f"{own['epochs']:.0f}" + (f" of {of}" if of and own["epochs"] < of else "") + " epochs")
    if own["train_images"] is not None:
        parts.append(f"{own['train_images']:,.0f} images")
    if any(not pd.isna(cell.get(key)) for key in ("top1_validation_selected", "validation_top1_last")):
        parts.append("some kept for validation")
    compared = [key for key in (*WORDS, *LATER) if wanted.get(key) is not None]
    for key in compared:
        value, published = own[key], wanted[key]
        if value is not None and value not in (published if isinstance(published, list) else [published]):
            parts.append(_said(key, value))
    if any(own[key] is None for key in compared):
        parts.append("recipe not recorded")
    return parts


DIVERSE = re.compile(r"-dlr(-|$)")
LATER = ("milestones", "nesterov")
WORDS = {key: key.replace("_", " ") for key in RECIPE if key not in ("train_images", *LATER)} | {"batch_size": "batch"}


def _by_milestones(recipe: Mapping) -> dict:
    """A recipe with the epochs at which its learning rate drops in place of `step_epochs`; None where it does not say."""
    step, epochs, milestones = recipe.get("step_epochs"), recipe.get("epochs"), _milestones(recipe.get("milestones"))
    if not milestones:
        milestones = tuple(range(int(step), int(epochs), int(step))) if step and epochs else None
    return {**recipe, "milestones": milestones, "step_epochs": None}


def _milestones(value) -> tuple[int, ...]:
    """Epochs of a list, or of cells.csv's text, of which pandas makes a number where all cells name one epoch."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return () if value == "" or pd.isna(value) else tuple(int(float(epoch)) for epoch in str(value).split("/"))


def _said(key: str, value) -> str:
    """A value of a recipe in words."""
    if key == "nesterov":
        return f"{'with' if value else 'without'} Nesterov momentum"
    if key == "milestones":
        return "milestones " + ("/".join(map(str, value)) or "none")
    return f"{WORDS[key]} {value:g}" if isinstance(value, int | float) else f"{WORDS[key]} {value}"


def read_cells(folder: str | Path) -> Iterator[tuple[Path, dict]]:
    """Yield (cell folder, metrics) of every cell under a benchmark's results, sorted by path.

    Args:
        folder: `results/<benchmark>`.

    Raises:
        ValueError: A metrics.json is not JSON, or has no `status` or no complete `cell`.
    """
    for path in sorted(Path(folder).glob("*/*/*/seed*/metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}); delete the cell's folder and train it again") from error
        missing = [key for key in ("status", "cell") if key not in metrics]
        missing += [f"cell.{key}" for key in CELL if key not in metrics.get("cell", {})]
        if missing:
            raise ValueError(f"{path}: missing {', '.join(missing)}")
        yield path.parent, metrics


def read_filters(path: str | Path) -> dict[int, dict[str, np.ndarray]]:
    """Read the L1 norms of filters.npz.

    Args:
        path: The file; its keys are `l1/<network>/<layer>`, each (filters,), in layer order.

    Returns:
        {network: {layer: L1 norms (filters,)}}, in the order of the file.

    Raises:
        ValueError: The file is damaged, or holds something else.
    """
    norms: dict[int, dict[str, np.ndarray]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith("l1/"):
                    _, network, layer = name.removesuffix(".npy").split("/", 2)
                    norms.setdefault(int(network), {})[layer] = _vector(archive.read(name))
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path}: {error}; delete the cell's folder and train it again") from error
    return norms


def _vector(npy: bytes) -> np.ndarray:
    """Return the array (n,) of a .npy file; `np.load` takes as long again to parse a header that thousands of layers share."""
    start = 10 + int.from_bytes(npy[8:10], "little")
    return np.frombuffer(npy, _dtype(npy[:start]), offset=start)


@cache
def _dtype(header: bytes) -> np.dtype:
    """Return the number type of a .npy header, which must be that of an array (n,)."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not a .npy array of format 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if len(shape) != 1:
        raise ValueError(f"an array of shape {shape}; L1 norms of a layer are (filters,)")
    return dtype


# ------------------------------------------------------------------------------------------------------- collecting


def collect(folder: str | Path, expected: Sequence[dict] | None = None) -> pd.DataFrame:
    """Collect the cells of a benchmark, one row a cell and network; this is cells.csv.

    Reads metrics.json and filters.npz, nothing else. The valid and invalid filters of a network are counted by the
    baseline cell of the same dataset, student and seed (its network 0); see `filter_sets`. Without such a baseline, or for
    an empty set, the columns are NaN.

    Args:
        folder: `results/<benchmark>`.
        expected: Cells that the benchmark consists of, as from `dgd.config.cells`. The frame then holds exactly
            these, in this order: a cell without a result has the status "missing", and a result that is not expected (of
            an older config) is left out. None takes whatever is there.

    Returns:
        Frame with `COLUMNS`. A cell that did not finish has one row, network 0, with its status and no numbers.

    Raises:
        ValueError: A file is damaged, a finished cell lacks a number, or a network has other layers than its baseline.
    """
    folder = Path(folder)
    found = {_key(metrics["cell"]): (path, metrics) for path, metrics in read_cells(folder)}
    if expected is None:
        wanted = {key: metrics["cell"] for key, (_, metrics) in found.items()}
    else:
        wanted = {_key(cell): cell for cell in expected}

    def norms(key: tuple) -> dict[int, dict[str, np.ndarray]]:
        path, metrics = found.get(key, (None, {}))
        there = key in wanted and metrics.get("status") == "finished" and (path / "filters.npz").exists()
        return read_filters(path / "filters.npz") if there else {}

    baselines = cache(lambda key: norms(key).get(0))  # read once each; the norms of all cells would fill the memory
    rows = []
    for key, cell in wanted.items():
        path, metrics = found.get(key, (None, {"status": "missing", "cell": cell}))
        cell = metrics["cell"]
        baseline = baselines((slug(cell["dataset"]), cell["student"], "baseline", cell["seed"]))
        networks = norms(key)
        for network, row in enumerate(_rows(path, metrics)):
            row["folder"] = path.relative_to(folder).as_posix() if path else ""
            own = networks.get(network)
            if own is not None and baseline is not None:
                try:
                    row |= _filter_columns(own, baseline)
                except ValueError as error:
                    raise ValueError(f"{path / 'filters.npz'}: {error}") from error
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def filter_sets(l1: np.ndarray, baseline: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the mean L1 norm of the filters that the baseline calls valid and invalid, by both readings.

    A filter is valid if its L1 norm is above the threshold. "We identify a filter as valid or invalid by the baseline
    model ... the number of valid and invalid filters is fixed" (arXiv 2004.12311, section 4.3) can be read by rank (the
    invalid ones are the k smallest of this network, k being the baseline's count), which fits the published numbers, or by
    position (they are those at the baseline's own invalid positions).

    Args:
        l1: L1 norms of all conv filters of a network, (filters,).
        baseline: The same of its baseline, in the same order.
        threshold: Norm up to which a filter is invalid.

    Returns:
        baseline_valid and baseline_invalid (counts), and mean_l1_{valid,invalid}_{rank,position}, NaN for an empty set.

    Raises:
        ValueError: The two networks do not have the same number of filters.
    """
    if l1.shape != baseline.shape or l1.ndim != 1:
        raise ValueError(f"filters of shape {l1.shape} against {baseline.shape} of the baseline: not the same network")
    invalid = baseline <= threshold
    count = int(invalid.sum())
    ranked = np.sort(l1)
    return {
        "baseline_valid": len(l1) - count,
        "baseline_invalid": count,
        "mean_l1_valid_rank": _mean(ranked[count:]),
        "mean_l1_invalid_rank": _mean(ranked[:count]),
        "mean_l1_valid_position": _mean(l1[~invalid]),
        "mean_l1_invalid_position": _mean(l1[invalid]),
    }


# ----------------------------------------------------------------------------------------------------------- tables


def reported(cells: pd.DataFrame, report: str = "first") -> tuple[pd.DataFrame, str]:
    """Reduce the groups of networks to what is reported of them.

    Args:
        cells: Rows of `collect`, of one method or several.
        report: "first": network 0, as the papers do. "mean": the accuracies' mean over the group. "best": the network with
            the highest top-1 on the validation split at the last epoch if all have one, else on the test split, which is a
            choice by the test; the first of equals.

    Returns:
        One row for each finished cell, in the order given, and how it was chosen: "first" (also where no group has more than
        one network), "mean", "best by validation" or "best by test".

    Raises:
        ValueError: Another `report`.
    """
    if report not in REPORTS:
        raise ValueError(f"report must be one of {', '.join(REPORTS)}, not {report!r}")
    finished = cells[cells["status"] == "finished"].reset_index(drop=True)
    first = finished[finished["network"] == 0]
    if report == "first" or not (finished["network"] > 0).any():
        return first, "first"
    cell = [finished[name] for name in ("dataset", "model", "method", "seed")]
    if report == "mean":
        accuracies = ["top1_last", "top1_best_on_test", "top1_validation_selected"]
        means = finished[accuracies].astype(float).groupby(cell).transform("mean")
        return first.assign(**means.loc[first.index]), "mean"
    validated = "validation_top1_last" in finished and finished["validation_top1_last"].notna().all()
    ranking = finished["validation_top1_last" if validated else "top1_last"].astype(float)
    best = finished.loc[ranking.groupby(cell, sort=False).idxmax()]
    return best, "best by validation" if validated else "best by test"


def outcomes(cells: pd.DataFrame) -> str:
    """How many seeds of a method finished, and how the others ended: "2 of 3: 1 diverged"."""
    statuses = cells.loc[cells["network"] == 0, "status"]
    others = statuses[statuses != "finished"].value_counts(sort=False)
    text = f"{(statuses == 'finished').sum()} of {len(statuses)}"
    return text + (": " + ", ".join(f"{count} {status}" for status, count in others.items()) if len(others) else "")


def results_table(cells: pd.DataFrame, papers: pd.DataFrame | Iterable, report: str = "first") -> pd.DataFrame:
    """Set our accuracies beside the published ones, with gains and verdicts.

    One row a dataset, student, teacher and method, the teachers' own baselines included (`role`). The mean, its 95 %
    t-interval, `gain` and `verdict` are those of the reported network at the last epoch (the column `report` says which it
    is); `top1_last_mean_of_networks` averages the whole group. `gain` is over the baseline of the same dataset and student,
    with Welch's interval; `gain_p_holm` is corrected over the rows of the table, the verdicts are not. `smallest_difference`
    is the true gain that the two sides' seeds would have shown in 80 % of cases, by their pooled standard deviation.
    `pooled_gain` and its interval are the method's gain averaged over the table's settings (dataset and student, all its
    teachers together, as these share a baseline) that have two seeds on both sides; NaN with fewer than two of them.
    `paper_gain` is over the baseline of the same published table, or the paper's first one where that table has none
    (`paper_baseline` says which). Only a row that was trained as published has it, and can be reproduced; `scale` says what
    differs, see `departures`. `paper_within` says, of such a row, if the published value lies in the 95 % prediction interval
    of one further run of ours.

    Args:
        cells: From `collect`.
        papers: From `read_papers`, or what that takes. A cell's first value is the `paper` column, the others `paper_others`.
        report: Which network of a group is the headline: "first", "mean" or "best"; see `reported`.

    Returns:
        Frame with numbers as numbers; `write` turns it into text.

    Raises:
        ValueError: Finished seeds of one row were trained for different numbers of epochs or by different protocols, or
            `report` is none of the three.
    """
    rows = []
    papers = papers if isinstance(papers, pd.DataFrame) else read_papers(papers)
    published = _by_cell(papers)
    cells = cells.assign(teacher=cells["teacher"].fillna(""))
    teachers = set(cells["teacher"]) - {""}
    students = set(cells.loc[cells["method"] != "baseline", "student"])
    for dataset in cells["dataset"].unique():
        part = cells[cells["dataset"] == dataset]
        for (student, teacher, method), group in _ordered(part):
            base = part[(part["student"] == student) & (part["method"] == "baseline")]
            roles = [name for name, among in (("teacher", teachers), ("student", students)) if student in among]
            role = " and ".join(roles) if method == "baseline" and roles else "student"
            rows.append({"dataset": dataset, "student": student, "teacher": teacher, "method": method, "role": role})
            rows[-1] |= _ours(group, base, report) | _published(group.iloc[0], papers, published)
            recipe = rows[-1].pop("recipe", None)
            if recipe is not None:
                taught = part[(part["student"] == teacher) & (part["method"] == "baseline")]
                rows[-1]["scale"] = _scale(group, base, taught, recipe)
                if rows[-1]["scale"] != PUBLISHED:
                    rows[-1].pop("paper_gain", None)
    pooled = _pooled(cells, report)
    for row in rows:
        if row["method"] in pooled:
            row |= {f"pooled_{name}": value for name, value in pooled[row["method"]]._asdict().items()}
    table = _typed(pd.DataFrame(rows, columns=list(RESULTS)))
    inside = (table["predict_low"] <= table["paper_mean"]) & (table["paper_mean"] <= table["predict_high"])
    table["paper_within"] = inside.map({True: "yes", False: "no"})
    table.loc[table[["predict_low", "paper_mean"]].isna().any(axis=1) | (table["scale"] != PUBLISHED), "paper_within"] = ""
    table["gain_p_holm"] = holm(table["gain_p"])
    table["verdict"] = [
        "" if row.method == "baseline" else verdict((row.gain_low, row.gain_high), _or_none(row.paper_gain))
        for row in table.itertuples()
    ]
    return table


RESULTS = (
    *("dataset", "student", "teacher", "method", "role", "networks", "teachers", "epochs", "protocol", "report"),
    *("paper", "paper_mean", "paper_sd", "paper_n", "paper_source", "paper_others"),
    *("mean", "sd", "n", "low", "high", "predict_low", "predict_high", "paper_within"),
    *("gain", "gain_low", "gain_high", "gain_p", "gain_p_holm", "smallest_difference"),
    *("paper_gain", "paper_baseline", "verdict", "pooled_gain", "pooled_low", "pooled_high", "pooled_settings"),
    *("best_on_test", "validation_selected", "top1_last_mean_of_networks", "status", "scale"),
)


TEXT = (
    *("dataset", "student", "teacher", "method", "role", "protocol", "report", "paper", "paper_source", "paper_others"),
    *("paper_within", "paper_baseline", "verdict", "status", "scale"),
)
"""The columns of our tables that hold text; all others hold numbers."""


def filters_table(cells: pd.DataFrame, papers: pd.DataFrame | Iterable) -> pd.DataFrame:
    """Set our valid and invalid filters beside the published ones (arXiv 2004.12311, Tables 7 and 9).

    One row a dataset, student, teacher, method and threshold, network 0, means over the finished seeds. `filter_sets`
    explains the sets. The baseline's rows hold its own sets, for which both readings agree.

    Args:
        cells: From `collect`.
        papers: From `read_papers`, or what that takes.

    Returns:
        Frame with numbers as numbers; `write` turns it into text. The paper's columns are NaN where it has no number.
    """
    rows = []
    papers = papers if isinstance(papers, pd.DataFrame) else read_papers(papers)
    published = _by_cell(papers)
    cells = cells.assign(teacher=cells["teacher"].fillna(""))
    names = [name.removesuffix("_1") for name in FILTERS if name.endswith("_1")]
    for dataset in cells["dataset"].unique():
        for (student, teacher, method), group in _ordered(cells[cells["dataset"] == dataset]):
            first, cell = reported(group)[0], group.iloc[0]
            for threshold in THRESHOLDS:
                row = {"dataset": dataset, "student": student, "teacher": teacher, "method": method}
                row |= {"threshold": float(threshold), "n": len(first), "filters": _mean(first["conv_filters"])}
                row |= {name: _mean(first[f"{name}_{threshold}"]) for name in names}
                row["invalid_ratio_sd"] = mean_interval(first[f"invalid_ratio_{threshold}"].dropna()).sd
                for metric in ("invalid_ratio", "valid_count", "invalid_count", "mean_l1_valid", "mean_l1_invalid"):
                    match = _matching(cell, published, metric)
                    match = match[match["threshold"] == float(threshold)]
                    row[f"paper_{metric}"] = match["value"].iloc[0] if len(match) else math.nan
                    if len(match) and not row.get("paper_source"):
                        row["paper_source"] = _source(match.iloc[0])
                rows.append(row)
    columns = ["dataset", "student", "teacher", "method", "threshold", "n", "filters", *names[:1], "invalid_ratio_sd"]
    columns += [*names[1:], "paper_invalid_ratio", "paper_valid_count", "paper_invalid_count"]
    columns += ["paper_mean_l1_valid", "paper_mean_l1_invalid", "paper_source"]
    return _typed(pd.DataFrame(rows, columns=columns))


# ---------------------------------------------------------------------------------------------------------- writing


def write(
    frame: pd.DataFrame, stem: str | Path, text: pd.DataFrame | None = None, notes: Sequence[str] | None = None
) -> list[Path]:
    """Write a table as CSV (numbers), Markdown and LaTeX (text), each atomically.

    Args:
        frame: Of `results_table`, `filters_table`, or any other (which is then written as it is).
        stem: Path without a suffix; the folder is made.
        text: Readable form of another table; None: `to_text` makes it.
        notes: What stands under another table.

    Returns:
        The three paths: .csv, .md, .tex. The LaTeX is a booktabs tabular to `\\input`.
    """
    text, notes = to_text(frame) if text is None else text, _notes(frame) if notes is None else notes
    rows, headers = text.astype(str).to_numpy().tolist(), list(text.columns)
    latex = tabulate(rows, headers, tablefmt="latex_booktabs", disable_numparse=True)
    for sign, command in {"±": r"$\pm$", "←": r"$\leftarrow$", "–": "--"}.items():
        latex = latex.replace(sign, command)
    latex = "".join(f"% {note}\n" for note in notes) + latex + "\n"
    paths = [Path(f"{stem}.{suffix}") for suffix in ("csv", "md", "tex")]
    for path, content in zip(paths, (frame.to_csv(index=False, float_format="%.8g"), markdown(frame, text, notes), latex)):
        replace_file(path, content.encode())
    return paths


def markdown(frame: pd.DataFrame, text: pd.DataFrame | None = None, notes: Sequence[str] | None = None) -> str:
    """Return a table as Markdown, with the notes that it needs under it; arguments as those of `write`."""
    text, notes = to_text(frame) if text is None else text, _notes(frame) if notes is None else notes
    rows = [[cell.replace("|", "\\|") for cell in row] for row in text.astype(str).to_numpy().tolist()]
    table = tabulate(rows, list(text.columns), tablefmt="pipe", disable_numparse=True)
    return table + "\n" + ("\n" + "\n".join(f"- {note}" for note in notes) + "\n" if notes else "")


def to_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the readable form of a table: fewer columns, "mean ± sd (n) [interval]" in one."""
    for mark, form in (("verdict", _results_text), ("threshold", _filters_text)):
        if mark in frame:
            return pd.DataFrame([form(row) for row in _typed(frame).itertuples()])
    return frame.astype(object).where(frame.notna(), "")


def replace_file(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` so that readers see the old file or the new one, never a part; make its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# --------------------------------------------------------------------------------------------------------- in detail


def _paper_row(path: str | Path, row: dict) -> dict:
    """Check one published number and return it with all fields of `PAPER_ROW`."""
    name = f"{path}: row {row.get('id', row)!r}"
    unknown, missing = set(row) - set(PAPER_ROW), set(PAPER_ROW) - set(PAPER_OPTIONAL) - set(row)
    if unknown or missing:
        raise ValueError(f"{name}: unknown fields {sorted(unknown)}, missing fields {sorted(missing)}")
    for field, kind in PAPER_ROW.items():
        value = row.get(field)
        nullable = field in PAPER_OPTIONAL or field == "dataset"
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits and not (value is None and nullable):
            raise ValueError(f"{name}: {field} must be {kind.__name__}, got {value!r}")
    return {field: row.get(field) for field in PAPER_ROW}


def _key(cell: dict) -> tuple:
    """Return what identifies a cell inside a benchmark."""
    return slug(cell["dataset"]), cell["model"], cell["method"], cell["seed"]


def _rows(path: Path | None, metrics: dict) -> list[dict]:
    """Return the rows of one cell, a network each, without the baseline-dependent filter columns."""
    cell = metrics["cell"]
    if "recipe" in cell:  # of dgd.config, which lists teachers and keeps the rest where a config has it
        cell = {**cell, **cell["recipe"], "teachers": len(cell["teachers"]), "train_images": cell["data"]["train_images"]}
    row = {name: cell.get(name) for name in (*CELL, "networks", "teachers", "epochs", "protocol", *RECIPE)}
    row["teacher"] = row["teacher"] if row["teachers"] else None
    row["milestones"] = "/".join(map(str, _milestones(row["milestones"]))) or None
    row |= {"dataset": slug(cell["dataset"]), "status": metrics["status"], "network": 0}
    if metrics["status"] != "finished":
        return [row]
    try:
        timings = metrics["timings"]
        row |= {name: timings.get(name) for name in ("seconds", "images_per_second", "peak_memory_mib")}
        row |= {name: metrics[name] for name in ("parameters", "conv_filters")}
        row["ensemble_top1"] = (metrics.get("ensemble") or {}).get("top1")
        about = metrics.get("method") or {}
        row["method_status"] = about.get("status")
        row["deviations"] = "; ".join(text.rstrip(".") for text in about.get("deviations", ())) or None
        rows = []
        for network, result in enumerate(metrics["networks"]):
            selected, filters = result["validation_selected"] or {}, result["filters"]
            rows.append(
                row
                | {
                    "network": network,
                    "top1_last": result["last"]["top1"],
                    "validation_top1_last": result["last"].get("validation_top1"),
                    "top1_best_on_test": result["best_on_test"]["top1"],
                    "epoch_best_on_test": result["best_on_test"]["epoch"],
                    "top1_validation_selected": selected.get("top1"),
                    "epoch_validation_selected": selected.get("epoch"),
                    "mean_l1": filters["mean_l1"],
                    "entropy_sum": filters["entropy_sum"],
                }
                | {f"invalid_ratio_{key}": filters["invalid_ratio"].get(key) for key in THRESHOLDS}
            )
    except KeyError as error:
        raise ValueError(f"{path / 'metrics.json'}: finished, but without {error}") from error
    if not rows or not all(isinstance(r["top1_last"], int | float) and math.isfinite(r["top1_last"]) for r in rows):
        raise ValueError(f"{path / 'metrics.json'}: finished, but last.top1 is not a number for every network")
    return rows


def _filter_columns(own: dict[str, np.ndarray], baseline: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the baseline-dependent filter columns of one network."""
    if list(own) != list(baseline):
        other = sorted(set(own) ^ set(baseline)) or ["in another order"]
        raise ValueError(f"the conv layers are not those of the baseline cell ({', '.join(other[:3])})")
    own_l1, baseline_l1 = np.concatenate([*own.values()]), np.concatenate([*baseline.values()])
    return {
        f"{name}_{threshold}": value
        for threshold in THRESHOLDS
        for name, value in filter_sets(own_l1, baseline_l1, float(threshold)).items()
    }


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with "" for missing text and NaN for missing numbers, also where it comes from a CSV."""
    columns = {name: table[name].astype(object).fillna("") if name in TEXT else table[name].astype(float) for name in table}
    return pd.DataFrame(columns, columns=table.columns)


def _mean(values: Iterable[float]) -> float:
    """Return the mean of the numbers that are there (float64), NaN if none is."""
    array = np.asarray(values, dtype=float)
    array = array[~np.isnan(array)]
    return float(array.mean()) if len(array) else math.nan


def _or_none(value: float) -> float | None:
    """Return None for NaN."""
    return None if pd.isna(value) else float(value)


def _pooled(cells: pd.DataFrame, report: str) -> dict[str, Pooled]:
    """Return the gain of each method over all its settings, where there are two or more; see `results_table`."""
    settings: dict[str, list] = {}
    for _, part in cells.groupby(["dataset", "student"], sort=False):
        groups = part.groupby("method", sort=False)
        values = {method: reported(group, report)[0]["top1_last"].astype(float) for method, group in groups}
        base = values.pop("baseline", ())
        for method, ours in values.items():
            if min(len(ours), len(base)) > 1:
                settings.setdefault(method, []).append((ours, base))
    return {method: stratified_bootstrap(found) for method, found in settings.items() if len(found) > 1}


def _ordered(part: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Group the rows of one dataset by (student, teacher, method) as a reader expects them.

    Pairs come as they stand; in a pair first the teacher's baseline, then the student's methods in the order of `METHODS`.
    """
    groups = {key: group for key, group in part.groupby(["student", "teacher", "method"], sort=False)}
    methods = [*METHODS, *(name for name in part["method"].unique() if name not in METHODS)]
    pupils = list(dict.fromkeys(student for student, _, method in groups if method != "baseline"))
    order = []
    for student in [*pupils, *part["student"].unique()]:
        own = [key for key in groups if key[0] == student]
        order += [(teacher, "", "baseline") for _, teacher, _ in own if teacher]
        order += sorted(own, key=lambda key: methods.index(key[2]))
    return [(key, groups[key]) for key in dict.fromkeys(order) if key in groups]


def _ours(group: pd.DataFrame, base: pd.DataFrame, report: str) -> dict:
    """Return our side of a row of the results table."""
    (first, how), (base, _) = reported(group, report), reported(base, report)
    name = " ".join(group.iloc[0][["dataset", "model", "method"]])
    row = {"report": how}
    for column in ("networks", "teachers", "epochs", "protocol"):
        values = list(dict.fromkeys((first if len(first) else group)[column].dropna()))
        if len(values) > 1:
            raise ValueError(f"{name}: seeds differ in {column} ({values}); delete the results of the older config")
        row[column] = values[0] if values else None
    last = first["top1_last"].astype(float)
    row |= mean_interval(last)._asdict()
    row["predict_low"], row["predict_high"] = prediction_interval(last)
    if group.iloc[0]["method"] != "baseline":
        others = base["top1_last"].astype(float)
        gain = difference(last, others)
        row |= {"gain": gain.difference, "gain_low": gain.low, "gain_high": gain.high, "gain_p": gain.p}
        row["smallest_difference"] = smallest_difference_between(last, others)
    row["best_on_test"] = _mean(first["top1_best_on_test"])
    row["validation_selected"] = _mean(first["top1_validation_selected"])
    row["top1_last_mean_of_networks"] = _mean(group.loc[group["status"] == "finished", "top1_last"])
    row["status"] = outcomes(group)
    return row


def _published(cell: pd.Series, papers: pd.DataFrame, published: dict) -> dict:
    """Return the paper's side of a row of the results table."""
    found = _matching(cell, published, "top1")
    variants = _matching(cell, published, "top1", variants=True)
    others = [f"{_value(row)} ({_source(row)})" for _, row in found.iloc[1:].iterrows()]
    others += [f"{row['method']} {_value(row)} ({_source(row)})" for _, row in variants.iterrows()]
    row = {"paper": "", "paper_others": "; ".join(others)}
    if len(found):
        best = found.iloc[0]
        row |= {"paper": _value(best), "paper_source": _source(best)}
        row |= {"paper_mean": best["value"], "paper_sd": best["sd"], "paper_n": best["n"], "recipe": best["recipe"]}
        baselines = papers[
            (papers["paper"] == best["paper"])
            & (papers["dataset"] == best["dataset"])
            & (papers["model"] == best["model"])
            & (papers["method"] == "baseline")
            & (papers["metric"] == "top1")
        ]
        same = baselines[baselines["table"] == best["table"]]
        baselines = same if len(same) else baselines
        if best["method"] != "baseline" and len(baselines):
            base = baselines.iloc[0]
            row |= {"paper_gain": best["value"] - base["value"], "paper_baseline": f"{_value(base)} ({_source(base)})"}
    return row


def _scale(own: pd.DataFrame, base: pd.DataFrame, teachers: pd.DataFrame, recipe: Mapping) -> str:
    """`PUBLISHED`, or how the cells of a row, of its baseline or of its teacher were trained otherwise.

    A paper's file without a recipe says nothing to hold them to.
    """
    if not recipe:
        return PUBLISHED

    def found(cells: pd.DataFrame) -> list[str]:
        first = cells[(cells["status"] == "finished") & (cells["network"] == 0)]
        return [part for cell in first.to_dict("records") for part in departures(cell, recipe)]

    parts: list[str] = []
    for whose, cells in (("", own), ("baseline: ", base), ("teacher: ", teachers)):
        parts += [whose + part for part in found(cells) if part not in parts]
    return ", ".join(dict.fromkeys(parts)) or PUBLISHED


def _by_cell(papers: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """Return the published numbers by all that must agree with a cell but its method, in their order."""
    keys = ["metric", "dataset", "model", "teacher", "networks", "teachers"]
    papers = papers.assign(teacher=papers["teacher"].fillna(""), family=papers["method"].map(_family))
    return dict(iter(papers.groupby(keys, sort=False)))


def _matching(cell: pd.Series, published: dict[tuple, pd.DataFrame], metric: str, variants: bool = False) -> pd.DataFrame:
    """Return the published numbers of one of our cells, best first.

    Dataset, model, teacher, method and the numbers of networks and teachers must agree. A method's name is compared
    without its counts ("dgd-1t4s" is dgd). `variants` asks for the same method by another recipe ("grafting-dlr").
    """
    dataset = cell["dataset"].removeprefix("imagefolder-").lower()
    key = metric, dataset, cell["student"], cell["teacher"], cell["networks"], cell["teachers"]
    found = published.get(key)
    if found is None:
        return NOTHING
    method = _family(cell["method"])
    return found[found["family"].str.startswith(f"{method}-") if variants else found["family"] == method]


def _family(method: str) -> str:
    """Return a method's name without the numbers of teachers and students: "dgd-1t4s" and "grafting-4" lose their end."""
    return re.sub(r"-(\d+t\d+s|\d+)$", "", method)


def _value(row: pd.Series) -> str:
    """Return a published value as "mean ± sd (n=5)", as far as given."""
    text = f"{row['value']:.2f}"
    text += f" ± {row['sd']:.2f}" if pd.notna(row["sd"]) else ""
    return text + (f" (n={int(row['n'])})" if pd.notna(row["n"]) else "")


def _source(row: pd.Series) -> str:
    """Return where a published value stands."""
    return f"{row['paper']}, {row['table']}"


def _pair(row: tuple) -> str:
    """Return "student ← teacher", or the student alone."""
    return f"{row.student} ← {row.teacher}" if row.teacher else row.student


def _results_text(row: tuple) -> dict[str, str]:
    """Return the readable form of one row of the results table."""
    ours = "" if not row.n else f"{row.mean:.2f}" + (f" ± {row.sd:.2f}" if row.n > 1 else "") + f" (n={int(row.n)})"
    ours += f" [{row.low:.1f}, {row.high:.1f}]" if row.n > 1 else ""
    gain = "" if pd.isna(row.gain) else f"{row.gain:+.2f}"
    gain += "" if pd.isna(row.gain_low) else f" [{row.gain_low:+.2f}, {row.gain_high:+.2f}]"
    return {
        "data set": row.dataset,
        "student ← teacher": _pair(row) + (" (teacher)" if row.role == "teacher" else ""),
        "method": row.method,
        "paper": row.paper,
        "ours, last epoch": ours,
        "gain": gain,
        "could have seen": _number(row.smallest_difference),
        "paper gain": _number(row.paper_gain, "+.2f"),
        "p (Holm)": "<0.001" if row.gain_p_holm < 0.001 else _number(row.gain_p_holm, ".3f"),
        "verdict": row.verdict,
        "validation-selected": _number(row.validation_selected),
        "best on test": _number(row.best_on_test),
        "seeds": row.status,
    }


def _filters_text(row: tuple) -> dict[str, str]:
    """Return the readable form of one row of the filters table."""

    def both(valid: float, invalid: float, form: str = ".3f") -> str:
        return "" if pd.isna(valid) and pd.isna(invalid) else f"{_number(valid, form, '–')} / {_number(invalid, form, '–')}"

    spread = "" if pd.isna(row.invalid_ratio_sd) else f" ± {row.invalid_ratio_sd:.3f}"
    paper_sets = both(row.paper_mean_l1_valid, row.paper_mean_l1_invalid)
    if pd.notna(row.paper_valid_count):
        paper_sets += f" ({int(row.paper_valid_count)} / {int(row.paper_invalid_count)})"
    return {
        "data set": row.dataset,
        "student ← teacher": _pair(row),
        "method": row.method,
        "threshold": f"{row.threshold:g}",
        "invalid ratio": "" if pd.isna(row.invalid_ratio) else _number(row.invalid_ratio, ".3f") + spread,
        "baseline's valid / invalid": both(row.baseline_valid, row.baseline_invalid, ".5g"),
        "mean L1 valid / invalid, by rank": both(row.mean_l1_valid_rank, row.mean_l1_invalid_rank),
        "by position": both(row.mean_l1_valid_position, row.mean_l1_invalid_position),
        "paper, mean L1 (counts)": paper_sets,
        "paper, invalid ratio": _number(row.paper_invalid_ratio, ".3f"),
        "n": str(int(row.n)),
    }


def _number(value: float, form: str = ".2f", empty: str = "") -> str:
    """Return a number in its form, `empty` for NaN."""
    return empty if pd.isna(value) else format(value, form)


def _whose(frame: pd.DataFrame) -> str:
    """Return whose accuracy a results table reports, in words."""
    words = {
        "mean": "the mean over the networks of the group",
        "best by validation": "of the network of the group with the highest validation top-1 at the last epoch",
        "best by test": "of the network of the group with the highest test top-1 at the last epoch (a choice made on the test "
        "split itself)",
    }
    found = [how for how in words if (frame["report"] == how).any()]
    if len(found) < 2:
        return words[found[0]] if found else "of the first network of the group"
    return " or, where there is no validation split, ".join(words[how] for how in found)


def _notes(frame: pd.DataFrame) -> list[str]:
    """Return the notes that a reader needs under a table."""
    if "verdict" in frame:
        frame = _typed(frame)
        recipes = frame[["protocol", "epochs"]].dropna().drop_duplicates()
        notes = [
            f"Top-1 accuracy on the test split in percent, {_whose(frame)}, at the last epoch: mean ± "
            "standard deviation over n seeds, and the 95 % t-interval of the mean. Best on test (the maximum over epochs, "
            "chosen on the test split itself) stands beside it for comparison with code that reports it, never instead.",
            "Gain: over the baseline of the same student, with Welch's 95 % interval; p: Welch's test, Holm-corrected over "
            "the rows of this table. Could have seen: the smallest true gain that so many seeds with such a spread (the two "
            "sides' pooled) would have shown in 80 % of cases, by a t-test at 5 %; Welch's shows it in 70 % at three seeds a "
            "side. Paper gain: over the baseline of the same published table, where there is one.",
            "Verdict, with [lo, hi] the interval of the gain and g the published gain: reproduced if lo > 0 and hi ≥ g; "
            "direction only if lo > 0 and hi < g, or if lo > 0 and no gain was published for this cell; not reproduced if "
            "lo ≤ 0 and hi < g, or if hi < 0; inconclusive otherwise, and always with fewer than two seeds. Verdicts are "
            "not corrected for their number.",
            "Ours: " + "; ".join(f"protocol {row.protocol}, {int(row.epochs)} epochs" for row in recipes.itertuples()) + ".",
        ]
        pooled = frame[frame["pooled_settings"] > 1].drop_duplicates("method")
        if len(pooled):
            gains = "; ".join(
                f"{row.method} {row.pooled_gain:+.2f} [{row.pooled_low:+.2f}, {row.pooled_high:+.2f}] over "
                f"{int(row.pooled_settings)} settings"
                for row in pooled.itertuples()
            )
            notes.append(
                f"Gain averaged over settings (data set and student, each counted once): {gains}. The interval is a stratified "
                "bootstrap's, nominally 95 %, about 91 % for two settings of three seeds; it says nothing about other settings."
            )
        for scale, rows in frame[~frame["scale"].isin(("", PUBLISHED))].groupby("scale", sort=False):
            names = ", ".join(dict.fromkeys(f"{_pair(row)} {row.method}" for row in rows.itertuples()))
            notes.append(
                f"Not trained as published ({scale}): {names}. What the paper has stands beside it for orientation; its "
                "gain is not held against ours, and a verdict is on the direction alone."
            )
        for word, text in (("yes", "would be"), ("no", "would not be")):
            rows = frame[frame["paper_within"] == word]
            if len(rows):
                names = ", ".join(f"{_pair(row)} {row.method} ({row.dataset})" for row in rows.itertuples())
                notes.append(
                    f"The published value {text} plausible as one more run of ours (it lies "
                    f"{'in' if word == 'yes' else 'outside'} the 95 % prediction interval): {names}."
                )
        others = frame[frame["paper_others"] != ""]
        return notes + [
            f"Also published for {row.dataset}, {_pair(row)}, {row.method}: {row.paper_others}." for row in others.itertuples()
        ]
    if "threshold" in frame:
        return [
            "First network of the group at the last epoch, means over n seeds. A filter is invalid if its L1 norm is not "
            "above the threshold; the invalid ratio counts the network's own filters.",
            "Mean L1 norms: how many filters are valid and invalid is fixed by the baseline of the same student and seed. "
            "By rank: its number of invalid filters, the smallest of this network. By position: the filters at the "
            "baseline's own invalid positions. A dash is an empty set.",
        ]
    return []
