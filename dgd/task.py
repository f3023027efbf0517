"""What the labels of a data set are: the metric of each task, the term that learns them. Nothing here needs torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How well a network predicts, by one number.

    Attributes:
        name: Its key in metrics.json, and the ending of its columns in history.csv.
        label: What a reader calls it.
        unit: Its unit; "" without one.
        higher: A higher value is better.
        form: Format of its values.
    """

    name: str
    label: str
    unit: str
    higher: bool
    form: str

    @property
    def coarse(self) -> str:
        """Format with one decimal fewer, for intervals."""
        return f".{int(self.form[1:-1]) - 1}f"

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 if lower is: a value times this is the better the higher it is."""
        return 1 if self.higher else -1

    @property
    def words(self) -> str:
        """The label with its unit, as a sentence has it: `top-1 accuracy in percent`."""
        units = {"": "", "%": " in percent"}
        return self.label + units.get(self.unit, f" in {self.unit}")


METRICS = {
    "classification": Metric("top1", "top-1 accuracy", "%", True, ".2f"),
    "regression": Metric("rmse", "root mean square error", "", False, ".3f"),
}
"""The metric of each task."""

TERMS = {"classification": "ce", "regression": "mse"}
"""The term of each task that compares outputs with labels: a method's `ce` stands for it."""

DATASETS = {"digits-rotation": "regression"}
"""Tasks of data sets by kind; of all others the labels are classes."""


def of_dataset(dataset: str) -> str:
    """Return the task of a data set, such as `cifar10` or `imagefolder:<path>`."""
    return DATASETS.get(dataset.partition(":")[0], "classification")


def metric_named(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        ValueError: There is no such metric.
    """
    for metric in METRICS.values():
        if metric.name == name:
            return metric
    raise ValueError(f"unknown metric {name!r}; known: {', '.join(metric.name for metric in METRICS.values())}")
