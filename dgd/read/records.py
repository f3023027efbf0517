"""Hold the numbers of a finished cell's metrics.json to the files that they follow from.

What is computed again here does not come from the code that wrote it. An ensemble's metric, times and latencies follow from no
other file: a cell's seal and the manifest hold them.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dgd.cell import Cell
from dgd.metrics import METRICS, Metric, best
from dgd.seals import RECORD

ROUNDING = 1e-5
"""Relative difference that another order of summation in float32 may make."""
NOT_EVALUATED = ""
"""What history.csv has in an epoch without an evaluation."""


def fault(path: Path | str, what: str, found: Any, expected: Any, by: str = "") -> str:
    """Return the line of a fault: the file, what is wrong in it, the value found and the value expected."""
    return f"{path}: {what} is {short(found)}, and must be {short(expected)}" + (f" by {by}" if by else "")


def short(value: Any) -> str:
    """Return a value in at most 80 characters."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | dict | list | bool | None) else str(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def faults(folder: Path, cell: Cell, metrics: Mapping) -> Iterator[str]:
    """Yield what in a cell's files does not follow from the others, a line each.

    Args:
        folder: The cell's folder.
        cell: The cell of its config.yaml.
        metrics: What its metrics.json holds.
    """
    yield from _about(folder, cell, metrics)
    if metrics["status"] != "finished":
        return
    metric, path = METRICS[cell.task], folder / "metrics.json"
    rows = list(csv.DictReader(io.StringIO((folder / "history.csv").read_text(encoding="utf-8"))))
    networks = metrics["networks"]
    expected = cell.evaluated * (1 + len(cell.subnets))
    if len(networks) != expected:
        yield fault(path, "the number of networks", len(networks), expected, "config.yaml")
        return
    yield from _epochs(folder / "history.csv", rows, cell)
    for i, network in enumerate(networks):
        for part, wanted in _summary(rows, i, metric).items():
            yield from _same(path, f"networks[{i}].{part}", network[part], wanted, "history.csv")
    for part in ("last", "best_on_test", "validation_selected"):
        if metric.name in metrics:
            wanted = networks[0][part] and networks[0][part][metric.name]
            if part in metrics[metric.name] and metrics[metric.name][part] != wanted:
                yield fault(path, f"{metric.name}.{part}", metrics[metric.name][part], wanted, "networks[0]")
    yield from _predictions(folder / "predictions.npz", path, networks, metric)
    yield from _filters(folder / "filters.npz", path, metrics, cell)


def _about(folder: Path, cell: Cell, metrics: Mapping) -> Iterator[str]:
    """Yield where metrics.json and provenance.json are not of the cell of config.yaml."""
    own = {name: getattr(cell, name) for name in ("benchmark", "dataset", "model", "method", "seed", "student", "teacher")}
    own |= {"teachers": cell.taught, "networks": cell.networks, "protocol": cell.protocol, "task": cell.task}
    for name, said in metrics["cell"].items():
        place = own if name in own else vars(cell.recipe) if hasattr(cell.recipe, name) else vars(cell.data)
        wanted = place.get(name, said)
        wanted = list(wanted) if isinstance(wanted, tuple) else wanted
        if said != wanted:
            yield fault(folder / "metrics.json", f"cell.{name}", said, wanted, "config.yaml")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for name, wanted in (("cell", cell.path), ("seed", cell.seed)):
        if record.get(name, wanted) != wanted:
            yield fault(folder / RECORD, name, record[name], wanted, "config.yaml")


def _epochs(path: Path, rows: list[dict], cell: Cell) -> Iterator[str]:
    """Yield where history.csv has not one row for each epoch, or evaluations in other epochs than the config says."""
    epochs, recipe, name = [row["epoch"] for row in rows], cell.recipe, METRICS[cell.task].name
    if epochs != list(map(str, range(recipe.epochs))):
        odd = next((k for k, epoch in enumerate(epochs) if epoch != str(k)), len(epochs))
        yield fault(path, f"row {odd}", epochs[odd] if odd < len(epochs) else "not there", f"epoch {odd} of {recipe.epochs}")
        return
    for k, row in enumerate(rows):
        due = (k + 1) % recipe.evaluate_every == 0 or k == recipe.epochs - 1
        if (row[f"test_{name}_0"] != NOT_EVALUATED) != due:
            found = row[f"test_{name}_0"] or "empty"
            wanted = "a number" if due else "empty"
            yield fault(path, f"test_{name}_0 of epoch {k}", found, wanted, f"recipe.evaluate_every {recipe.evaluate_every}")


def _summary(rows: list[dict], i: int, metric: Metric) -> dict[str, Any]:
    """Return the last epoch, the best on test and the one selected on validation of network i, by history.csv."""
    test, validation = f"test_{metric.name}_{i}", f"validation_{metric.name}_{i}"
    tested = [row for row in rows if row[test] != NOT_EVALUATED]
    values = [float(row[test]) for row in tested]
    validated = [float(row[validation]) for row in tested if row[validation] != NOT_EVALUATED]
    last, peak = tested[-1], tested[best(values, metric)]
    chosen = tested[best(validated, metric)] if validated else None
    return {
        "last": {
            metric.name: values[-1],
            f"validation_{metric.name}": validated[-1] if validated else None,
            "loss": float(last[f"test_loss_{i}"]),
            "epoch": int(last["epoch"]),
        },
        "best_on_test": {metric.name: float(peak[test]), "epoch": int(peak["epoch"])},
        "validation_selected": chosen and {metric.name: float(chosen[test]), "epoch": int(chosen["epoch"])},
    }


def _same(path: Path, what: str, found: Mapping | None, wanted: Mapping | None, by: str) -> Iterator[str]:
    """Yield where one part of a record, a mapping or None, is not what it must be."""
    if found is None or wanted is None:
        if found != wanted:
            yield fault(path, what, found, wanted, by)
        return
    for name, value in wanted.items():
        if name in found and found[name] != value:
            yield fault(path, f"{what}.{name}", found[name], value, by)


def _predictions(path: Path, record: Path, networks: list, metric: Metric) -> Iterator[str]:
    """Yield where the metric of the last epoch does not follow from predictions.npz, which generators' images are not."""
    with np.load(path) as found:
        labels, predictions = found["labels"], found["predictions"]
    if len(predictions) != len(networks):
        yield fault(path, "the number of networks", len(predictions), len(networks), "metrics.json")
        return
    for i, (own, network) in enumerate(zip(predictions, networks, strict=True)):
        said = network["last"][metric.name]
        if metric.name == "top1":
            value = 100 * int((own == labels).sum()) / len(labels)
        elif metric.name == "rmse":
            value = math.sqrt(np.square(own.astype(np.float64) - labels).mean())
        elif metric.name == "ratio_loss":
            real, fake = own.astype(np.float64).T
            value = float(((fake / (1 + np.exp(-fake))) - np.logaddexp(0, fake) - 1 / (1 + np.exp(-real))).mean())
        else:
            return
        exact = metric.name == "top1"
        if said != value if exact else not math.isclose(said, value, rel_tol=ROUNDING):
            yield fault(record, f"networks[{i}].last.{metric.name}", said, value, path.name)


def _filters(path: Path, record: Path, metrics: Mapping, cell: Cell) -> Iterator[str]:
    """Yield where the statistics of the filters do not follow from filters.npz, or its trace does not end in its norms."""
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    for i, network in enumerate(metrics["networks"]):
        said = network["filters"]
        layers = [array for name, array in arrays.items() if name.startswith(f"l1/{i}/")]
        norms = np.concatenate(layers) if layers else np.zeros(0, np.float32)
        wanted: dict[str, Any] = {"count": len(norms), "mean_l1": None, "entropy_sum": None, "invalid_ratio": {}}
        if len(norms):
            wanted["mean_l1"] = float(norms.astype(np.float64).mean())
            wanted["entropy_sum"] = float(arrays[f"entropy/{i}"].astype(np.float64).sum())
            wanted["invalid_ratio"] = {text: float((norms <= np.float32(text)).mean()) for text in said["invalid_ratio"]}
        for name, value in wanted.items():
            close = isinstance(value, float) and isinstance(said[name], float) and math.isclose(said[name], value, rel_tol=1e-9)
            if said[name] != value and not close:
                yield fault(record, f"networks[{i}].filters.{name}", said[name], value, path.name)
        trace = arrays.get(f"trace/l1/{i}")
        if trace is not None and trace.size and not np.array_equal(trace[-1], norms):
            odd = int(np.argmax(trace[-1] != norms)) if trace[-1].shape == norms.shape else 0
            yield fault(path, f"l1/{i}, filter {odd},", norms[odd], trace[-1][odd], f"trace/l1/{i}")
    if metrics["conv_filters"] != metrics["networks"][0]["filters"]["count"]:
        yield fault(record, "conv_filters", metrics["conv_filters"], metrics["networks"][0]["filters"]["count"], "networks[0]")
