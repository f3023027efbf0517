"""What follows from a task without computing anything: its metric, the term that learns it, and the data sets that have it.

Nothing here needs torch; `dgd.task` computes losses, predictions and metrics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """The metric of a task.

    Attributes:
        name: Name in files and columns.
        label: Name in tables and figures.
        unit: Unit; "" for none.
        higher: A higher value is better.
        form: Format specification of its values.
        least, most: The smallest and the largest that a value can be.
    """

    name: str
    label: str
    unit: str
    higher: bool
    form: str
    least: float = 0.0
    most: float = math.inf

    @property
    def coarse(self) -> str:
        """Return the format for intervals: with one decimal fewer, where values are in percent."""
        return f".{int(self.form[1:-1]) - (self.unit == '%')}f"

    @property
    def sign(self) -> int:
        """Return 1 if higher is better, else -1; of values times this, the highest is the best."""
        return 1 if self.higher else -1

    @property
    def words(self) -> str:
        """Return the label with its unit for a sentence, such as `top-1 accuracy in percent`."""
        units = {"": "", "%": " in percent"}
        return self.label + units.get(self.unit, f" in {self.unit}")


METRICS = {
    "classification": Metric("top1", "top-1 accuracy", "%", True, ".2f", most=100.0),
    "regression": Metric("rmse", "root mean square error", "", False, ".3f"),
    "generation": Metric("ffd", "Fréchet distance of our own teacher's features", "", False, ".3f"),
    "density-ratio": Metric("ratio_loss", "loss of the density ratio", "", False, ".4f", least=-math.inf),
}
"""The metric of each task."""

TERMS = {"classification": "ce", "regression": "mse", "generation": "adversarial", "density-ratio": "ratio"}
"""The term of each task that it cannot do without: of classification and regression, a method's `ce` stands for it."""

MAKERS = ("generation", "density-ratio")
"""Tasks whose cells make training images for others and predict no labels."""

DATASETS = {"digits-rotation": "regression", "digits-angle": "regression"}
"""Tasks of data sets by their kind; all others are classification."""


def of_dataset(dataset: str) -> str:
    """Return the task of a data set, such as `cifar10` or `imagefolder:<path>`."""
    return DATASETS.get(dataset.partition(":")[0], "classification")


def metric_named(name: str) -> Metric:
    """Return the metric with a name.

    Raises:
        ValueError: There is no such metric.
    """
    for metric in METRICS.values():
        if metric.name == name:
            return metric
    raise ValueError(f"unknown metric {name!r}; known: {', '.join(metric.name for metric in METRICS.values())}")


def best(values: Sequence[float], metric: Metric) -> int:
    """Return the position of the best value, the first of equals."""
    return (max if metric.higher else min)(range(len(values)), key=lambda i: values[i])
