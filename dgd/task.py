"""Tasks: what a network's output is, how it is evaluated, and the metric; losses and predictions where labels are learned."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgd.metrics import METRICS, TERMS, Metric


class Task(ABC):
    """A task: what the networks of a cell are for. Shapes have N networks, B examples and K classes.

    Attributes:
        name: Value of a cell's `task`.
        metric: The metric that its networks are compared by.
        term: The term of an objective that the task cannot do without.
        answer: The field of `dgd.objectives.Output` that holds a network's output: `logits`, `value` or `raw`.
        features: Its networks take the features of the cell's first teacher, and not images.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    term: ClassVar[str]
    answer: ClassVar[str]
    features: ClassVar[bool] = False

    @abstractmethod
    def width(self, classes: int) -> int:
        """Return the `num_classes` of its networks, for a data set with this number of classes (0 or 1: labels are numbers)."""

    @abstractmethod
    def read(self, raw: Tensor) -> Tensor:
        """Return what `answer` holds from a network's raw output."""

    @abstractmethod
    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """Return labels or predictions in the type of predictions.npz."""

    def bound(self, teachers: Sequence[Callable], dataset) -> "Task":
        """Return the task as a group evaluates it, with what that takes of its teachers and its data set.

        Args:
            teachers: Functions of inputs by name that return each teacher's `dgd.objectives.Output`.
            dataset: A `dgd.data.Dataset`.
        """
        return self

    def run(self, network: nn.Module, batch, input: str = "image") -> Tensor:
        """Return a network's output for a batch of a split and the input that it takes: what `measure` takes of it."""
        return self.read(network(batch.inputs[input]))

    @abstractmethod
    def measure(self, outputs: Tensor, batch) -> tuple[Tensor, Tensor]:
        """Return predictions (N, B, ...) for outputs (N, B, ...), and sums over the batch (N, M); the last is of the loss."""

    @abstractmethod
    def finish(self, sums: Sequence[float], images: float) -> float:
        """Return the metric from the sums of `measure`, without that of the loss, over this number of examples."""

    def progress(self, answer: Tensor | None, labels: Tensor) -> Tensor:
        """Return the sum over a training batch from which `progressed` computes the metric: NaN, where none is cheap enough."""
        return torch.full((), math.nan, device=labels.device)

    def progressed(self, total: float) -> float:
        """Return the metric of training, from the mean of `progress` over its examples."""
        return total


class Prediction(Task):
    """A task whose networks predict the labels."""

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

    def measure(self, outputs: Tensor, batch) -> tuple[Tensor, Tensor]:
        """See `Task.measure`."""
        predicted, labels = self.predict(outputs), batch.labels
        losses = torch.stack([self.loss(answer, labels) for answer in outputs])
        return predicted, torch.stack([self.total(predicted, labels), losses], 1)

    def finish(self, sums: Sequence[float], images: float) -> float:
        """See `Task.finish`."""
        return self.score(sums[0], images)

    def progress(self, answer: Tensor | None, labels: Tensor) -> Tensor:
        """See `Task.progress`."""
        return self.total(self.predict(answer), labels)

    def progressed(self, total: float) -> float:
        """See `Task.progressed`."""
        return self.score(total, 1)


class Classification(Prediction):
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
        """See `Prediction.predict`."""
        return answers.argmax(-1)

    def total(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Return the number of correct predictions."""
        return (predictions == labels).sum(-1)

    def score(self, total: float, images: float) -> float:
        """See `Prediction.score`."""
        return 100 * total / images

    def vote(self, answer: Tensor, networks: int) -> Tensor:
        """Return probabilities; their sum has its maximum where their mean has."""
        return answer.float().softmax(1)

    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """See `Task.stored`."""
        return labels.numpy().astype(np.uint8 if classes <= 256 else np.uint16)


class Regression(Prediction):
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
        """See `Prediction.predict`."""
        return answers

    def total(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error."""
        return (predictions.float() - labels).square().sum(-1)

    def score(self, total: float, images: float) -> float:
        """See `Prediction.score`."""
        return math.sqrt(total / images)

    def vote(self, answer: Tensor, networks: int) -> Tensor:
        """Return the network's part of the mean."""
        return answer.float() / networks

    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """See `Task.stored`."""
        return labels.numpy().astype(np.float32)


NOISE = 64
"""Length of the noise in a latent vector."""
KNOTS = 16
"""Numbers that a label that is a number is written as."""
SHEET = 300
"""Generated images that predictions.npz keeps: those for the first examples of the test split."""


class LabelCode:
    """Write labels as vectors: one-hot for classes; for numbers, weights of the two nearest of evenly spaced knots.

    Args:
        labels: (N,), of the training split.
        classes: Number of classes; 0 where labels are numbers.

    Attributes:
        width: Length of a vector.
        low, high: Smallest and largest label, where labels are numbers.
    """

    def __init__(self, labels: Tensor, classes: int):
        self.classes, self.width = classes, code_width(classes)
        self.low, self.high = (0.0, 1.0) if classes else (float(labels.min()), float(labels.max()))

    def __call__(self, labels: Tensor) -> Tensor:
        """Return float32 (B, width) for labels (B,); numbers beyond the knots count as the last knot."""
        if self.classes:
            return F.one_hot(labels, self.classes).float()
        place = ((labels.float() - self.low) / (self.high - self.low)).clamp(0, 1) * (KNOTS - 1)
        return (1 - (place[:, None] - torch.arange(KNOTS, device=labels.device)).abs()).clamp(min=0)

    def latent(self, labels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return latent vectors (B, NOISE + width), which a generator takes; the noise is random unless given."""
        noise = torch.randn(len(labels), NOISE, device=labels.device) if noise is None else noise
        return torch.cat([noise, self(labels)], 1)


def code_width(classes: int) -> int:
    """Return the length of the vector that `LabelCode` writes a label as; 0 classes and 1 stand for numbers."""
    return classes if classes > 1 else KNOTS


def frechet(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the squared Fréchet distance of two normal distributions, each given by mean (F,) and covariance (F, F).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2)), as in the Fréchet inception distance (1706.08500).
    """
    (mean, cov), (other, cov2) = first, second
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(0)).sum()
    return float(np.square(mean - other).sum() + np.trace(cov) + np.trace(cov2) - 2 * cross)


class Making(Task):
    """A task whose networks make images for labels, or judge such images."""

    answer = "raw"

    def width(self, classes: int) -> int:
        """Return the width of a label's code."""
        return code_width(classes)

    def read(self, raw: Tensor) -> Tensor:
        """See `Task.read`."""
        return raw

    def bound(self, teachers: Sequence[Callable], dataset) -> "Making":
        """See `Task.bound`."""
        own = copy.copy(self)
        own.teachers, own.dataset = teachers, dataset
        own.code = LabelCode(dataset.tensors["train_labels"], dataset.num_classes)
        own.noise = torch.randn(max(dataset.sizes.values()), NOISE, generator=torch.Generator().manual_seed(0))
        return own

    def latent(self, network: nn.Module, batch) -> Tensor:
        """Return latent vectors for a batch's labels: random ones for a network in training mode, else the same each time."""
        noise = None if network.training else self.noise[batch.index.cpu()].to(batch.index.device)
        return self.code.latent(batch.labels, noise)


class Generation(Making):
    """A task whose networks make images (B, C, H, W), as normalised as the data set's; a teacher's features judge them."""

    name = "generation"
    metric = METRICS["generation"]
    term = TERMS["generation"]

    def run(self, network: nn.Module, batch, input: str = "image") -> Tensor:
        """Return generated images for the labels of the batch."""
        return network(self.latent(network, batch))

    def measure(self, outputs: Tensor, batch) -> tuple[Tensor, Tensor]:
        """Return the images as uint8, and moments of their features and of those of the real images.

        The loss is the mean squared difference of the features of a generated and a real image of the same label.
        """
        predicted = to_uint8(outputs, self.dataset)
        real = self.teachers[0]({"image": batch.inputs["image"]}).pooled.double()
        rows = []
        for images in from_uint8(predicted, self.dataset):
            made = self.teachers[0]({"image": images}).pooled.double()
            moments = [part for x in (made, real) for part in (x.sum(0), (x.T @ x).flatten())]
            rows.append(torch.cat([*moments, (made - real).square().mean(1).sum()[None]]))
        return predicted, torch.stack(rows)

    def finish(self, sums: Sequence[float], images: float) -> float:
        """Return the Fréchet distance between the features of generated and of real images."""
        halves, sides = np.split(np.asarray(sums, np.float64), 2), []
        for half in halves:
            width = int((math.isqrt(4 * len(half) + 1) - 1) // 2)
            mean = half[:width] / images
            sides.append((mean, half[width:].reshape(width, width) / images - np.outer(mean, mean)))
        return frechet(*sides)

    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """Return the labels as they are, and of the images the first `SHEET` of each network."""
        return (labels if labels.ndim == 1 else labels[:, :SHEET]).numpy()


class DensityRatio(Making):
    """A task whose networks estimate, from a teacher's features, how much denser real images are than generated ones."""

    name = "density-ratio"
    metric = METRICS["density-ratio"]
    term = TERMS["density-ratio"]
    features = True

    def run(self, network: nn.Module, batch, input: str = "image") -> Tensor:
        """Return the ratios (B, 2) of real images and of generated ones of the same labels."""
        classifier, generator = self.teachers
        made = generator({"latent": self.latent(generator.network, batch)}).raw
        features = [classifier({"image": images}).pooled for images in (batch.inputs["image"], made)]
        return torch.cat([network(torch.cat([self.code(batch.labels), x.float()], 1)) for x in features], 1)

    def measure(self, outputs: Tensor, batch) -> tuple[Tensor, Tensor]:
        """See `Task.measure`; the metric is the mean loss."""
        real, fake = outputs.unbind(-1)
        losses = (fake.sigmoid() * fake - F.softplus(fake) - real.sigmoid()).sum(1)
        return outputs, torch.stack([losses, losses], 1)

    def finish(self, sums: Sequence[float], images: float) -> float:
        """See `Task.finish`."""
        return sums[0] / images

    def stored(self, labels: Tensor, classes: int) -> np.ndarray:
        """See `Task.stored`."""
        return labels.numpy()


def to_uint8(images: Tensor, dataset) -> Tensor:
    """Return normalised images (..., C, H, W) as uint8, rounded and clipped."""
    mean, std = (torch.tensor(x, device=images.device)[:, None, None] for x in (dataset.mean, dataset.std))
    return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor, dataset) -> Tensor:
    """Return uint8 images (..., C, H, W) normalised."""
    mean, std = (torch.tensor(x, device=images.device)[:, None, None] for x in (dataset.mean, dataset.std))
    return (images.float() / 255 - mean) / std


TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression(), Generation(), DensityRatio())}
