"""Read metrics.json, what a cell measured: each value that readers take from it is held to its type and its bounds.

Nothing here needs torch.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dgd import json_files
from dgd.json_files import Each, Null, Value
from dgd.metrics import METRICS, Metric
from dgd.seals import AGAIN, check_seal

LABELS = ("benchmark", "dataset", "model", "student", "teacher", "method", "seed")
"""What names a cell, in metrics.json and as the first columns of cells.csv."""

STATUSES = ("finished", "failed", "diverged", "cannot exchange", "not applicable", "no images", "no teacher")
"""How a cell can end: with a result, or with the status of a `dgd.train.outcomes.NoResult`."""

TEXT, COUNT, AMOUNT = Value(str), Value(int, least=0), Value(float | None, least=0)

CELL = {
    **dict.fromkeys(LABELS, TEXT),
    **{
        "teacher": Null(TEXT),
        "seed": COUNT,
        "networks?": COUNT,
        "teachers?": COUNT,
        "task?": Value(str, choices=METRICS.keys()),
    },
}

FILTERS = {
    "count": COUNT,
    "invalid_ratio": Each(Value(float, least=0, most=1)),
    **{"mean_l1": AMOUNT, "entropy_sum": AMOUNT},
}

TIMINGS = {
    **{"seconds": AMOUNT, "images_per_second?": AMOUNT, "peak_memory_mib?": AMOUNT},
    "latency?": {
        **{"device": TEXT, "threads": COUNT, "precision": TEXT, "batch": COUNT},
        "milliseconds": Each(Value(float, least=0)),
    },
}

RECALL = Value(float | None, least=0, most=100)


def form(metric: Metric) -> dict:
    """Return the form of the metrics.json of a finished cell with a metric."""
    bounds = {"least": metric.least, "most": metric.most}
    value = Value(float, **{name: int(bound) for name, bound in bounds.items() if math.isfinite(bound)})
    loss = Value(float | None)
    network = {
        "last": {metric.name: value, f"validation_{metric.name}?": Null(value), "loss?": loss, "epoch?": COUNT},
        "best_on_test": {metric.name: value, "epoch": COUNT},
        "validation_selected": Null({metric.name: value, "epoch": COUNT}),
        "filters": FILTERS,
        **{"model?": TEXT, "parameters?": COUNT, "multiply_adds?": COUNT},
    }
    return {
        **{"parameters": COUNT, "conv_filters": COUNT, "networks": [network], "timings": TIMINGS},
        f"{metric.name}?": {name: Null(value) for name in ("last", "best_on_test", "validation_selected")},
        "ensemble?": Null({metric.name: value}),
        "method?": Null({"status?": Null(TEXT), "deviations?": Value(tuple[str, ...])}),
        "retrieval?": Null(Each({"features": RECALL, "probabilities": RECALL})),
    }


def read_metrics(path: str | Path) -> dict:
    """Read a metrics.json, and hold it to its cell's seal and to what each value can be.

    Raises:
        ValueError: It is not there, is not JSON, is not what was written, has no `status` or no complete `cell`, or a value in
            it cannot be.
    """
    path = Path(path)
    if path.is_file():
        check_seal(path.parent, [path.name])
    try:
        metrics = json_files.read(path, AGAIN)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; {AGAIN}") from None
    for line in _problems(metrics):
        raise ValueError(f"{path}: {line}: the file was changed; {AGAIN}")
    return metrics


def _problems(metrics: Mapping) -> Iterator[str]:
    yield from json_files.problems(metrics, {"status": Value(str, choices=STATUSES), "cell": CELL})
    if metrics["status"] != "finished":
        yield from json_files.problems(metrics, {"error": Value(Any, check=_told)})
        return
    networks, task = metrics.get("networks"), metrics["cell"].get("task")
    if not isinstance(networks, list) or not networks:
        yield "finished, but without networks"
        return
    known = [metric for name, metric in METRICS.items() if _fits(metric, networks[0], metrics) and task in (name, None)]
    if not known:
        yield f"finished, but without a result of {METRICS[task].name if task else 'any known metric'}"
        return
    metric = known[0]
    yield from json_files.problems(metrics, form(metric))
    first, reported = networks[0], metrics.get(metric.name)
    if first["filters"]["count"] != metrics["conv_filters"]:
        yield f"conv_filters is {metrics['conv_filters']}, and {first['filters']['count']} in networks[0]"
    for name in ("last", "best_on_test", "validation_selected") if reported else ():
        own = first[name] and first[name][metric.name]
        if reported[name] != own:
            yield f"{metric.name}.{name} is {reported[name]}, and {own} in networks[0]"


def _fits(metric: Metric, network: Any, metrics: Mapping) -> bool:
    """Return whether a network's result is by this metric."""
    last = network.get("last") if isinstance(network, dict) else None
    return metric.name in metrics or (isinstance(last, dict) and metric.name in last)


def _told(value: Any, where: str) -> list[str]:
    """Check the reason of a cell without a result, a text of any lines."""
    return [] if isinstance(value, str) else [f"{where} is no text"]
