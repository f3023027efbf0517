"""What the labels are, classes or numbers: the loss, the predictions and the metric of a task.

The readers need the metrics only, so importing this module does not import torch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """What a task's networks are judged by.

    Attributes:
        name: As in files and columns.
        label: As in tables and figures.
        unit: "" for none.
        higher: A higher value is better.
        form: Format of its numbers.
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


class Task(ABC):
    """A kind of labels. N networks, B examples, K classes.

    Attributes:
        name: As in a cell's `task`.
        metric: What its networks are judged by.
        term: The term of an objective that is its own loss.
        answer: The field of `dgd.objectives.Output` that a network's answer is.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    term: ClassVar[str]
    answer: ClassVar[str]

    @abstractmethod
    def width(self, classes: int) -> int:
        """Return the width of a network's last layer, for a data set of so many classes."""

    @abstractmethod
    def read(self, raw: "Tensor") -> "Tensor":
        """Return the answer in what a network gave, (B, width)."""

    @abstractmethod
    def loss(self, answer: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the loss of answers, the sum over the batch, float32."""

    @abstractmethod
    def predict(self, answers: "Tensor") -> "Tensor":
        """Return predictions (..., B) of answers (..., B) or (..., B, K)."""

    @abstractmethod
    def total(self, predictions: "Tensor", labels: "Tensor") -> "Tensor":
        """Return what the metric is made of, the sum over the batch: (..., B), (B,) -> (...)."""

    @abstractmethod
    def score(self, total: float, images: float) -> float:
        """Return the metric of a sum of `total` over so many examples."""

    @abstractmethod
    def vote(self, answer: "Tensor", networks: int) -> "Tensor":
        """Return what one of so many networks contributes to their joint answer, which is the sum."""

    @abstractmethod
    def stored(self, labels: "Tensor", classes: int) -> np.ndarray:
        """Return labels or predictions as predictions.npz holds them."""


class Classification(Task):
    """Labels are classes (B,) int64, answers are logits (B, K), the metric is top-1 accuracy in percent."""

    name = "classification"
    metric = Metric("top1", "top-1 accuracy", "%", True, ".2f")
    term = "ce"
    answer = "logits"

    def width(self, classes: int) -> int:
        """See `Task.width`."""
        return classes

    def read(self, raw: "Tensor") -> "Tensor":
        """See `Task.read`."""
        return raw

    def loss(self, answer: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the cross-entropy in nats."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(answer, labels, reduction="sum")

    def predict(self, answers: "Tensor") -> "Tensor":
        """See `Task.predict`."""
        return answers.argmax(-1)

    def total(self, predictions: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the number of right answers."""
        return (predictions == labels).sum(-1)

    def score(self, total: float, images: float) -> float:
        """See `Task.score`."""
        return 100 * total / images

    def vote(self, answer: "Tensor", networks: int) -> "Tensor":
        """Return probabilities: their sum is largest where their mean is."""
        return answer.float().softmax(1)

    def stored(self, labels: "Tensor", classes: int) -> np.ndarray:
        """See `Task.stored`."""
        return labels.numpy().astype(np.uint8 if classes <= 256 else np.uint16)


class Regression(Task):
    """Labels and answers are numbers (B,) float32, the metric is the root mean square error, in the labels' unit."""

    name = "regression"
    metric = Metric("rmse", "root mean square error", "", False, ".3f")
    term = "mse"
    answer = "value"

    def width(self, classes: int) -> int:
        """See `Task.width`."""
        return 1

    def read(self, raw: "Tensor") -> "Tensor":
        """See `Task.read`."""
        return raw[:, 0]

    def loss(self, answer: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the squared error."""
        return (answer - labels).square().sum()

    def predict(self, answers: "Tensor") -> "Tensor":
        """See `Task.predict`."""
        return answers

    def total(self, predictions: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the squared error."""
        return (predictions.float() - labels).square().sum(-1)

    def score(self, total: float, images: float) -> float:
        """See `Task.score`."""
        return math.sqrt(total / images)

    def vote(self, answer: "Tensor", networks: int) -> "Tensor":
        """Return the network's part of the mean."""
        return answer.float() / networks

    def stored(self, labels: "Tensor", classes: int) -> np.ndarray:
        """See `Task.stored`."""
        return labels.numpy().astype(np.float32)


TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression())}
METRICS: dict[str, Metric] = {name: task.metric for name, task in TASKS.items()}
TERMS: dict[str, str] = {name: task.term for name, task in TASKS.items()}
"""The term of each task that compares answers with labels: a method's `ce` stands for it."""

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


def best(values: Sequence[float], metric: Metric) -> int:
    """Return the position of the best value, the first of equals."""
    return (max if metric.higher else min)(range(len(values)), key=lambda i: values[i])
