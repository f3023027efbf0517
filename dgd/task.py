"""Tasks, classification and regression: the loss, the predictions and the metric of each."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from dgd.metrics import METRICS, TERMS, Metric


class Task(ABC):
    """A task: what labels are, and what follows from that. Shapes have N networks, B examples and K classes.

    Attributes:
        name: Value of a cell's `task`.
        metric: The metric that its networks are compared by.
        term: The term of an objective that compares predictions with labels.
        answer: The field of `dgd.objectives.Output` that holds a network's output: `logits` or `value`.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    term: ClassVar[str]
    answer: ClassVar[str]

    @abstractmethod
    def width(self, classes: int) -> int:
        """Return the width of a network's last layer, for a data set with this number of classes."""

    @abstractmethod
    def read(self, raw: Tensor) -> Tensor:
        """Return the logits or the value from a network's raw output (B, width)."""

    @abstractmethod
    def loss(self, answer: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits or values, summed over the batch, in float32."""

    @abstractmethod
    def predict(self, answers: Tensor) -> Tensor:
        """Return predictions (..., B) from values (..., B) or logits (..., B, K)."""

    @abstractmethod
    def total(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Return the sum over the batch from which `score` computes the metric: (..., B), (B,) -> (...)."""

    @abstractmethod
    def score(self, total: float, images: float) -> float:
        """Return the metric, from the sum of `total` over this number of examples."""

    @abstractmethod
    def vote(self, answer: Tensor, networks: int) -> Tensor:
        """Return the contribution of one of this number of networks to the ensemble's output, which is the sum."""

    @abstractmethod
    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """Return labels or predictions in the type of predictions.npz."""


class Classification(Task):
    """A task whose labels are classes (B,) int64, outputs are logits (B, K), and metric is top-1 accuracy in percent."""

    name = "classification"
    metric = METRICS["classification"]
    term = TERMS["classification"]
    answer = "logits"

    def width(self, classes: int) -> int:
        """See `Task.width`."""
        return classes

    def read(self, raw: Tensor) -> Tensor:
        """See `Task.read`."""
        return raw

    def loss(self, answer: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy in nats."""
        return F.cross_entropy(answer, labels, reduction="sum")

    def predict(self, answers: Tensor) -> Tensor:
        """See `Task.predict`."""
        return answers.argmax(-1)

    def total(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Return the number of correct predictions."""
        return (predictions == labels).sum(-1)

    def score(self, total: float, images: float) -> float:
        """See `Task.score`."""
        return 100 * total / images

    def vote(self, answer: Tensor, networks: int) -> Tensor:
        """Return probabilities; their sum has its maximum where their mean has."""
        return answer.float().softmax(1)

    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """See `Task.stored`."""
        return labels.numpy().astype(np.uint8 if classes <= 256 else np.uint16)


class Regression(Task):
    """A task whose labels and outputs are numbers (B,) float32, and metric is the root mean square error in their unit."""

    name = "regression"
    metric = METRICS["regression"]
    term = TERMS["regression"]
    answer = "value"

    def width(self, classes: int) -> int:
        """See `Task.width`."""
        return 1

    def read(self, raw: Tensor) -> Tensor:
        """See `Task.read`."""
        return raw[:, 0]

    def loss(self, answer: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error."""
        return (answer - labels).square().sum()

    def predict(self, answers: Tensor) -> Tensor:
        """See `Task.predict`."""
        return answers

    def total(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error."""
        return (predictions.float() - labels).square().sum(-1)

    def score(self, total: float, images: float) -> float:
        """See `Task.score`."""
        return math.sqrt(total / images)

    def vote(self, answer: Tensor, networks: int) -> Tensor:
        """Return the network's part of the mean."""
        return answer.float() / networks

    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """See `Task.stored`."""
        return labels.numpy().astype(np.float32)


TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression())}
