"""Collect finished cells into one tidy frame, cells.csv, and reduce groups of networks to what is reported of them.

The headline is the last epoch of the reported network, which is the first of its group (network 0) unless `report` says
otherwise; the best epoch on the test split stands beside it and never replaces it.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from dgd import json_files, keys
from dgd.benchmark import BASELINE
from dgd.cell import PROTOCOL_NAMES, Augment, Cell, Data, Recipe
from dgd.measured import STATUSES
from dgd.metrics import MAKERS, METRICS, Metric, metric_named
from dgd.read.files import AGAIN, LABELS, has, numbers, read_cells, read_columns, read_config, read_filters
from dgd.read.thresholds import FILTERS, THRESHOLDS, column, filter_sets, spelled
from dgd.seals import MOVED, misplaced, root_of

CONDITIONS = {
    name: (kind, spec.attribute)
    for kind in (Cell, Data, Recipe)
    for name, spec in keys.specs(kind).items()
    if spec.key.condition and name not in (*LABELS, "networks")
}
"""Every condition of a published number that a row has besides its labels: column -> where it is defined."""

OWN = ("baseline", "taught_by", "normalise", "augment")
"""The columns that follow in a benchmark of which a cell has something of its own: without them, and where they are empty, a
gain is over `baseline`, teachers are cells of `baseline`, and images are normalised and augmented as the data set's own.

`normalise` and `augment` are JSON.
"""

VALUES = ("last", "validation_last", "best_on_test", "epoch_best_on_test", "validation_selected", "epoch_validation_selected")
"""The columns of one network's results, in the unit of the row's `metric`; epochs count from 0."""

COLUMNS = (
    *LABELS,
    *("network", "status", "standing", "networks", "teachers"),
    *(name for name in CONDITIONS if name not in OWN),
    *("protocol", "metric"),
    *VALUES,
    *("ensemble", "parameters", "conv_filters"),
    *FILTERS,
    *("mean_l1", "entropy_sum", "seconds", "images_per_second", "peak_memory_mib", "method_status", "deviations", "folder"),
)
"""The columns of cells.csv, in order.

`standing` is fresh, frozen, or stale and why; empty where that was not asked. `objective`, `exchange` and `generated` are JSON,
and `milestones` is text such as 150/180/210.
"""

SUBNETS = ("subnet", "multiply_adds", "latency_ms", "latency_of")
"""The columns that follow in a benchmark whose networks have sub-nets.

`subnet` names the sub-net that a row is of, and is empty for the members of the group, whose rows come first. The latency is
that of one image, measured when the training had ended; `latency_of` says on what.
"""

METHODS = ("baseline", "kd", "grafting", "dgd")
"""The order of the paper's four methods in tables and figures; others follow as they come."""

REPORTS = ("first", "mean", "best")
"""Which network of a group the tables can report; see `reported`."""


def collect(
    folder: str | Path, expected: Sequence[Cell] | None = None, standing: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Collect the cells of a benchmark, one row a cell and network; this is cells.csv.

    Reads metrics.json, config.yaml and filters.npz, nothing else. The valid and invalid filters of a network are counted by
    the baseline cell of the same dataset, student and seed (its network 0); see `dgd.read.thresholds.filter_sets`. Without
    such a baseline, or for an empty set, the columns are NaN.

    Args:
        folder: `results/<benchmark>`.
        expected: Cells that the benchmark consists of. The frame then holds exactly these, in this order: a cell without a
            result has the status "missing", and a result that is not expected (of an older config) is left out. None takes
            whatever is there.
        standing: Path of a cell -> whether its result is the one that is asked for, see `dgd.frozen.standing`.

    Returns:
        Frame with `COLUMNS`, those of `OWN` that some cell has, and `SUBNETS` where a cell has sub-nets. A cell that did not
        finish has one row, network 0, with its status and no numbers.

    Raises:
        ValueError: A file is damaged or was changed, a folder holds another cell than its path says, a cell is there twice, a
            finished cell lacks a number, or a network has other layers than its baseline.
    """
    folder = Path(folder)
    found = {path.relative_to(folder).as_posix(): (path, metrics) for path, metrics in read_cells(folder)}
    wanted = {name: None for name in found} if expected is None else {_folder(cell): cell for cell in expected}

    def norms(name: str) -> dict[int, dict[str, np.ndarray]]:
        path, metrics = found.get(name, (None, {}))
        there = name in wanted and metrics.get("status") == "finished" and has(path / "filters.npz")
        return read_filters(path / "filters.npz") if there else {}

    _refuse_copies(found)
    baselines = cache(lambda name: norms(name).get(0))  # read once each; the norms of all cells would fill the memory
    rows = []
    for name, asked in wanted.items():
        path, metrics = found.get(name, (None, {"status": "missing"}))
        cell = read_config(path / "config.yaml") if path else asked
        over = (asked or cell).baseline  # a label: a cell is not trained again where another row becomes its baseline
        if path:
            root_of(path / "config.yaml", cell.path, renamed=True)
            if cell.path != (asked or cell).path or cell.benchmark != metrics["cell"]["benchmark"]:
                raise misplaced(path / "config.yaml", cell.path, AGAIN)
        networks = norms(name)
        for network, row in enumerate(_rows(path, metrics, cell)):
            row["folder"] = name if path else ""
            row["baseline"] = None if over == BASELINE else over
            row["standing"] = (standing or {}).get(cell.path) if path else None
            own = networks.get(network)
            _check_norms(path, metrics, networks, network)
            model = row.get("subnet") or cell.student
            baseline = baselines(f"{cell.slug}/{model}/{over}/seed{cell.seed}")
            if own is not None and baseline is not None:
                try:
                    row |= _filter_columns(own, baseline)
                except ValueError as error:
                    raise ValueError(f"{path / 'filters.npz'}: {error}") from error
            rows.append(row)
    more = [name for name in OWN if any(row[name] is not None for row in rows)]
    nested = SUBNETS if any("subnet" in row for row in rows) else ()
    return pd.DataFrame(rows, columns=[*COLUMNS, *more, *nested])


def read_collected(path: str | Path) -> pd.DataFrame:
    """Read a cells.csv, the frame of `collect`, also one of an older version.

    Raises:
        ValueError: It is not there, is no table, lacks a column, or has a value that cannot be; the message names the column.
    """
    columns = read_columns(path, COLLECT_AGAIN)
    for name in COLUMNS:
        if name not in columns and name not in LATER:
            raise ValueError(f"{path}: no column {name!r}; {COLLECT_AGAIN}")
    for name, form in FORMS.items():
        hint, least, most = form
        if name in columns and hint in (int, float):
            values = numbers(columns, name, path, COLLECT_AGAIN, least, most)
            if hint is int and any(value % 1 for value in values if not math.isnan(value)):
                raise ValueError(f"{path}: {name} is not a whole number in every row; {COLLECT_AGAIN}")
        elif name in columns and (odd := set(columns[name]) - set(hint)):
            raise ValueError(f"{path}: {name} is {min(odd)[:60]!r}; it must be one of {', '.join(hint)}; {COLLECT_AGAIN}")
    for row, (status, metric) in enumerate(zip(columns["status"], columns["metric"])):
        known, values = metric_named(metric), {name: columns[name][row] for name in OF_METRIC}
        if (status == "finished") != bool(values["last"]):
            said = f"{status}, with {values['last'][:60] or 'nothing'} as last"
            raise ValueError(f"{path}: row {row + 1} is {said}; {COLLECT_AGAIN}")
        for name, text in values.items():
            if text and not known.least <= float(text) <= known.most:
                raise ValueError(f"{path}: {name} of row {row + 1} is {text[:60]}, which is no {known.label}; {COLLECT_AGAIN}")
    for name in (*(label for label in LABELS if label != "teacher"), "network", "networks", "teachers", "objective"):
        if "" in columns[name]:
            raise ValueError(f"{path}: {name} of row {columns[name].index('') + 1} is empty; {COLLECT_AGAIN}")
    for name in ("objective", "exchange", "generated", "normalise", "augment"):
        for text in set(columns.get(name, ())) - {""}:
            json_files.parse_mapping(text, f"{path}: {name}", COLLECT_AGAIN)
    return pd.read_csv(path)


COLLECT_AGAIN = "collect the cells again: delete it, and Snakemake makes it anew"
OF_METRIC = (*(name for name in VALUES if not name.startswith("epoch")), "ensemble")
"""Columns of cells.csv in the unit of the row's metric."""
LATER = ("generated", "standing")
"""Columns that cells.csv of older versions lack."""


def _forms() -> dict[str, tuple]:
    """Return what is known of columns of cells.csv: a type with bounds, or the texts that a column can have."""
    found: dict[str, tuple] = {}
    for name, (kind, _) in CONDITIONS.items():
        spec = keys.specs(kind)[name]
        hints = [hint for hint in (get_args(spec.hint) or (spec.hint,)) if hint is not type(None)]
        if hints in ([int], [float]):
            bounds = (spec.key.least, -math.inf), (spec.key.most, math.inf)
            found[name] = hints[0], *(default if bound is None else bound for bound, default in bounds)
        elif hints == [bool]:
            found[name] = (("True", "False", ""), None, None)
        elif hints == [str] and spec.key.choices:
            found[name] = ((*spec.key.choices, ""), None, None)
    counts = ("seed", "network", "networks", "teachers", "parameters", "conv_filters", "multiply_adds")
    counts += ("epoch_best_on_test", "epoch_validation_selected")
    found |= dict.fromkeys((*VALUES, "ensemble"), (float, -math.inf, math.inf)) | dict.fromkeys(counts, (int, 0, math.inf))
    amounts = ("mean_l1", "entropy_sum", "seconds", "images_per_second", "peak_memory_mib", "latency_ms")
    found |= dict.fromkeys((*FILTERS, *amounts), (float, 0, math.inf))
    found |= {name: (float, 0, 1) for name in FILTERS if name.startswith("invalid_ratio")}
    statuses, names = (*STATUSES, "missing"), tuple(metric.name for metric in METRICS.values())
    return found | {
        "status": (statuses, None, None),
        "metric": (names, None, None),
        "protocol": ((*PROTOCOL_NAMES, ""), None, None),
    }


FORMS = _forms()


def refuse_twice(frames: Sequence[tuple[pd.DataFrame, str | Path]]) -> None:
    """Raise ValueError where the cells of several folders, each collected, have one in common; it names both folders."""
    there: dict[tuple, str | Path] = {}
    for frame, folder in frames:
        for cell in frame[["benchmark", "folder"]].drop_duplicates().itertuples(index=False):
            if cell in there:
                raise ValueError(f"{folder}: the cell {'/'.join(cell)} is in {there[cell]} too; give one of these folders")
            there[cell] = folder


def _refuse_copies(found: Mapping[str, tuple[Path, Mapping]]) -> None:
    """Raise ValueError where two seeds of a method have one history: a cell was copied, and given another seed."""
    there: dict[tuple[str, bytes], Path] = {}
    for name, (path, metrics) in found.items():
        history = path / "history.csv"
        if metrics["status"] == "finished" and has(history):
            key = name.rpartition("/")[0], hashlib.sha256(history.read_bytes()).digest()
            if key in there:
                raise ValueError(f"{history} is that of {there[key]} too, which has another seed; {MOVED}")
            there[key] = path


def conditions(cell: Cell) -> dict:
    """Return the columns of cells.csv that say what a cell is made of, as far as published numbers depend on it."""
    parts = {Cell: cell, Data: cell.data, Recipe: cell.recipe}
    found = {name: getattr(parts[kind], attribute) for name, (kind, attribute) in CONDITIONS.items()}
    found["objective"] = json.dumps(keys.plain(cell.objective), sort_keys=True)
    exchanged = cell.exchange and {"name": cell.exchange.name, **keys.plain(cell.exchange)}
    found["exchange"] = json.dumps(exchanged, sort_keys=True) if exchanged else None
    found["generated"] = json.dumps(keys.plain(cell.generated), sort_keys=True) if cell.generated else None
    for name, absent in (("normalise", None), ("augment", Augment())):
        given = getattr(cell.recipe, name)
        found[name] = None if given == absent else json.dumps(keys.plain(given), sort_keys=True)
    found["milestones"] = "/".join(map(str, cell.recipe.milestones)) or None
    return found


def _folder(cell: Cell) -> str:
    """Return a cell's folder below that of its benchmark."""
    return cell.path.partition("/")[2]


def _rows(path: Path | None, metrics: Mapping, cell: Cell) -> list[dict]:
    """Return the rows of one cell, a network each, without the baseline-dependent filter columns."""
    metric = METRICS[cell.task]
    row = {name: getattr(cell, name) for name in LABELS} | {"dataset": cell.slug}
    row |= {"teacher": cell.teacher if cell.taught else None, "status": metrics["status"], "network": 0}
    row |= {"networks": cell.networks, "teachers": cell.taught} | conditions(cell)
    rows_of_teachers = [path.split("/")[3] for path in cell.teachers if path.count("/") == 4]  # of `Cell.path`
    row["taught_by"] = next((name for name in rows_of_teachers[:1] if name != BASELINE), None)
    row |= {"protocol": cell.protocol, "metric": metric.name} | ({"subnet": None} if cell.subnets else {})
    if metrics["status"] != "finished":
        return [row]
    try:
        timings = metrics["timings"]
        row |= {name: timings.get(name) for name in ("seconds", "images_per_second", "peak_memory_mib")}
        row |= {name: metrics[name] for name in ("parameters", "conv_filters")}
        row["ensemble"] = (metrics.get("ensemble") or {}).get(metric.name)
        about = metrics.get("method") or {}
        row["method_status"] = about.get("status")
        row["deviations"] = "; ".join(text.rstrip(".") for text in about.get("deviations", ())) or None
        rows = [row | {"network": number} | _network(result, metric) for number, result in enumerate(metrics["networks"])]
        if cell.subnets:
            rows = [own | _nested(own, result, timings["latency"]) for own, result in zip(rows, metrics["networks"])]
    except KeyError as error:
        raise ValueError(f"{path / 'metrics.json'}: finished, but without {error}") from error
    for line in _strange(cell, rows):
        raise ValueError(f"{path / 'metrics.json'}: {line}: the file was changed, or config.yaml was; {AGAIN}")
    return rows


def _strange(cell: Cell, rows: Sequence[Mapping]) -> Iterator[str]:
    """Say in a line each what the networks of a finished cell cannot have by its config.yaml."""
    networks, epochs = cell.evaluated * (1 + len(cell.subnets)), cell.recipe.epochs
    if len(rows) != networks:
        yield f"{len(rows)} networks, and the cell has {networks}"
    for number, row in enumerate(rows):
        for name in ("epoch_best_on_test", "epoch_validation_selected"):
            if row[name] is not None and row[name] >= epochs:
                yield f"{name} of network {number} is {row[name]}, and the cell has {epochs} epochs"


def _network(result: Mapping, metric: Metric) -> dict:
    """Return the columns of one network of a finished cell."""
    last, best, selected = result["last"], result["best_on_test"], result["validation_selected"] or {}
    values = (last[metric.name], last.get(f"validation_{metric.name}"), best[metric.name], best["epoch"])
    row = dict(zip(VALUES, (*values, selected.get(metric.name), selected.get("epoch")), strict=True))
    filters = result["filters"]
    row |= {name: filters[name] for name in ("mean_l1", "entropy_sum")}
    return row | {column("invalid_ratio", t): filters["invalid_ratio"].get(spelled(t)) for t in THRESHOLDS}


def _nested(row: Mapping, result: Mapping, latency: Mapping) -> dict:
    """Return the columns of a network that has sub-nets or is one: the members of the group come first."""
    threads = f"{latency['threads']} thread" + "s" * (latency["threads"] > 1)
    found = {
        "parameters": result["parameters"],
        "conv_filters": result["filters"]["count"],
        "multiply_adds": result["multiply_adds"],
        "latency_ms": latency["milliseconds"][result["model"]],
        "latency_of": f"{latency['device']}, {threads}, {latency['precision']}, batch {latency['batch']}",
    }
    return found | ({"subnet": result["model"], "ensemble": None} if row["network"] >= row["networks"] else {})


def _check_norms(path: Path | None, metrics: Mapping, networks: Mapping[int, Mapping[str, np.ndarray]], network: int) -> None:
    """Raise ValueError where filters.npz, if it is there, has not the filters of a network that metrics.json counts."""
    if path and metrics["status"] == "finished" and has(path / "filters.npz"):
        counted = metrics["networks"][network]["filters"]["count"]
        found = sum(map(len, networks.get(network, {}).values()))
        if found != counted:
            raise ValueError(
                f"{path / 'filters.npz'}: {found} filters of network {network}, and metrics.json has {counted}; {AGAIN}"
            )


def _filter_columns(own: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the baseline-dependent filter columns of one network."""
    if list(own) != list(baseline):
        other = sorted(set(own) ^ set(baseline)) or ["in another order"]
        raise ValueError(f"the conv layers are not those of the baseline cell ({', '.join(other[:3])})")
    own_l1, baseline_l1 = np.concatenate([*own.values()]), np.concatenate([*baseline.values()])
    return {
        column(name, threshold): value
        for threshold in THRESHOLDS
        for name, value in filter_sets(own_l1, baseline_l1, threshold).items()
    }


# ---------------------------------------------------------------------------------------------------------- reducing


def baseline_of(cells: pd.DataFrame) -> str:
    """Return the row that the gain of a method's cells is over; the method itself where it has none."""
    return _own(cells, "baseline").iloc[0]


def taught_by(cells: pd.DataFrame) -> str:
    """Return the row that the teachers of a method's cells are cells of."""
    return _own(cells, "taught_by").iloc[0]


def is_baseline(cells: pd.DataFrame) -> pd.Series:
    """Return of each cell whether others' gains are over it, and it has none."""
    return _own(cells, "baseline") == cells["method"]


def _own(cells: pd.DataFrame, name: str) -> pd.Series:
    return cells[name].fillna(BASELINE) if name in cells else pd.Series(BASELINE, cells.index)


def grouped(part: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Group the rows of one data set by (student, teacher, method) as a reader expects them.

    Pairs come as they stand; in a pair first the teacher's baseline, then the student's methods in the order of `METHODS`.

    Args:
        part: Rows of `collect`, of one data set; `teacher` is "" without one.
    """
    groups = {key: group for key, group in part.groupby(["student", "teacher", "method"], sort=False)}
    methods = [*METHODS, *(name for name in part["method"].unique() if name not in METHODS)]
    pupils = list(dict.fromkeys(part["student"][~is_baseline(part)]))
    order = []
    for student in [*pupils, *part["student"].unique()]:
        own = [key for key in groups if key[0] == student]
        order += [(key[1], "", taught_by(groups[key])) for key in own if key[1]]
        order += sorted(own, key=lambda key: methods.index(key[2]))
    return [(key, groups[key]) for key in dict.fromkeys(order) if key in groups]


def predicting(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of cells that predict labels: not those that make training images for others."""
    return cells[~cells["metric"].isin([METRICS[task].name for task in MAKERS])]


def precisions(rows: pd.DataFrame) -> str:
    """Return the precision that a row's cells were trained in: `fp32`, or several as `bf16/fp32`."""
    return "/".join(sorted(rows["precision"].dropna().unique()))


def metric_of(cells: pd.DataFrame) -> Metric:
    """Return the metric of cells that have one task."""
    (name,) = cells["metric"].unique()
    return metric_named(name)


def members(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the networks that learn together as a group, without those of their sub-nets."""
    return cells[cells["subnet"].isna()] if "subnet" in cells else cells


def reported(cells: pd.DataFrame, report: str = "first") -> tuple[pd.DataFrame, str]:
    """Reduce the groups of networks to what is reported of them.

    Args:
        cells: Rows of `collect`, of one method or several.
        report: "first": network 0, as the papers do. "mean": the results' mean over the group. "best": the best network on
            the validation split at the last epoch if all have such a result, else on the test split, which is a choice by the
            test; the first of equals.

    Returns:
        One row for each finished cell, in the order given, and how it was chosen: "first" (also where no group has more than
        one network), "mean", "best by validation" or "best by test".

    Raises:
        ValueError: Another `report`.
    """
    if report not in REPORTS:
        raise ValueError(f"report must be one of {', '.join(REPORTS)}, not {report!r}")
    cells = members(cells)
    finished = cells[cells["status"] == "finished"].reset_index(drop=True)
    first = finished[finished["network"] == 0]
    if report == "first" or not (finished["network"] > 0).any():
        return first, "first"
    cell = [finished[name] for name in ("dataset", "model", "method", "seed")]
    if report == "mean":
        means = finished[["last", "best_on_test", "validation_selected"]].astype(float).groupby(cell).transform("mean")
        return first.assign(**means.loc[first.index]), "mean"
    validated = finished["validation_last"].notna().all()
    sign = finished["metric"].map(lambda name: metric_named(name).sign)
    ranking = sign * finished["validation_last" if validated else "last"].astype(float)
    best = finished.loc[ranking.groupby(cell, sort=False).idxmax()]
    return best, "best by validation" if validated else "best by test"


def outcomes(cells: pd.DataFrame) -> str:
    """Say how many seeds of a method finished, and how the others ended: "2 of 3: 1 diverged"."""
    statuses = cells.loc[cells["network"] == 0, "status"]
    others = statuses[statuses != "finished"].value_counts(sort=False)
    text = f"{(statuses == 'finished').sum()} of {len(statuses)}"
    return text + (": " + ", ".join(f"{count} {status}" for status, count in others.items()) if len(others) else "")
