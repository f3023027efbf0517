"""Evaluate networks: metric, loss and predictions of each, and of all together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgd.task import Task
from dgd.train.device import Arithmetic
from dgd.train.ranks import Ranks


class Evaluation(NamedTuple):
    """What was measured of every network of a cell.

    Attributes:
        scores: The task's metric.
        losses: Mean loss of the task.
        predictions: (networks, images) on the CPU.
    """

    scores: list[float]
    losses: list[float]
    predictions: Tensor


def evaluate(networks: Sequence[nn.Module], loader, task: Task, arithmetic: Arithmetic, ranks: Ranks) -> Evaluation:
    """Evaluate networks of this process, and gather what all processes found.

    Args:
        networks: Of this process.
        loader: Batches of a split.
        task: What the labels are.
        arithmetic: How networks run.
        ranks: The cell's processes.
    """
    found = ranks.all_networks(lambda: _evaluate(networks, loader, task, arithmetic, ranks))
    scores, losses, predictions = zip(*found)
    return Evaluation(list(scores), list(losses), torch.stack(predictions))


@torch.no_grad()
def _evaluate(networks: Sequence[nn.Module], loader, task: Task, arithmetic: Arithmetic, ranks: Ranks) -> list[tuple]:
    for network in networks:
        ranks.broadcast_buffers(network.eval())
    sums = torch.zeros(len(networks), 2, device=arithmetic.device)
    predictions = []
    for batch in loader.batches():
        answers = _answers(networks, batch, task, arithmetic)
        predicted, labels = task.predict(answers), batch.labels
        sums += torch.stack([task.total(predicted, labels), torch.stack([task.loss(z, labels) for z in answers])], 1)
        predictions.append(predicted)
    parts = ranks.all_gather_shards((sums.cpu(), [batch.cpu() for batch in predictions]))
    totals, losses = sum(sums for sums, _ in parts).T.tolist()
    predicted = torch.cat([part for batch in zip(*(batches for _, batches in parts)) for part in batch], 1)
    images = loader.images
    return [(task.score(total, images), loss / images, own) for total, loss, own in zip(totals, losses, predicted)]


def _answers(networks: Sequence[nn.Module], batch, task: Task, arithmetic: Arithmetic) -> Tensor:
    """Return the answers of networks, float32 (networks, B, ...)."""
    with arithmetic.autocast():
        return torch.stack([task.read(network(batch.inputs["image"])) for network in networks]).float()


@torch.no_grad()
def ensemble(networks: Sequence[nn.Module], count: int, loader, task: Task, arithmetic: Arithmetic, ranks: Ranks) -> float:
    """Return the metric of all networks' joint answer, the mean of their probabilities or values; call it after `evaluate`.

    Args:
        networks: Of this process.
        count: Networks of the cell.
        loader: Batches of a split.
        task: What the labels are.
        arithmetic: How networks run.
        ranks: The cell's processes.
    """
    parts, truth = [], []
    for batch in loader.batches():
        with arithmetic.autocast():
            answers = [task.read(network(batch.inputs["image"])) for network in networks]
        parts.append(sum(task.vote(answer, count) for answer in answers).cpu())
        truth.append(batch.labels.cpu())
    gathered, total = ranks.all_gather((parts, truth)), 0.0
    for shard in range(ranks.shards):
        votes = [parts for parts, _ in gathered[shard :: ranks.shards]]
        for labels, *batch in zip(gathered[shard][1], *votes):
            total += float(task.total(task.predict(sum(batch)), labels))
    return task.score(total, loader.images)
