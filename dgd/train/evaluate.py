"""Evaluate networks: metric, loss and predictions of each, and the metric of their ensemble."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgd.task import Task
from dgd.train.device import Arithmetic
from dgd.train.ranks import Ranks


class Evaluation(NamedTuple):
    """The evaluation of networks.

    Attributes:
        scores: The task's metric for each network.
        losses: The task's mean loss for each network.
        predictions: (networks, images) on the CPU.
    """

    scores: list[float]
    losses: list[float]
    predictions: Tensor


def evaluate(networks: Sequence[nn.Module], loader, task: Task, arithmetic: Arithmetic, ranks: Ranks) -> Evaluation:
    """Evaluate the networks of this process, and gather the results of all processes.

    Args:
        networks: The networks of this process.
        loader: Loader of a split.
        task: The cell's task.
        arithmetic: Device, precision and memory layout.
        ranks: The cell's processes.
    """
    found = ranks.all_networks(lambda: _evaluate(networks, loader, task, arithmetic, ranks))
    scores, losses, predictions = zip(*found)
    return Evaluation(list(scores), list(losses), torch.stack(predictions))


def evaluate_all(group, loader) -> Evaluation:
    """Evaluate all networks of a cell: its members' in their order, then those members' sub-nets.

    Args:
        group: A `dgd.train.group.Group`.
        loader: Loader of a split.
    """
    setting = loader, group.task, group.arithmetic, group.ranks
    parts = [evaluate(networks, *setting) for networks in (group.eval_networks, group.eval_subnets) if networks]
    scores, losses, predictions = zip(*parts)
    return Evaluation([*chain(*scores)], [*chain(*losses)], torch.cat(predictions))


@torch.no_grad()
def _evaluate(networks: Sequence[nn.Module], loader, task: Task, arithmetic: Arithmetic, ranks: Ranks) -> list[tuple]:
    for network in networks:
        ranks.broadcast_buffers(network.eval())
    sums, predictions = 0, []
    for batch in loader.batches():
        predicted, parts = task.measure(_outputs(networks, batch, loader.input, task, arithmetic), batch)
        sums = sums + parts
        predictions.append(predicted)
    parts = ranks.all_gather_shards((sums.cpu(), [batch.cpu() for batch in predictions]))
    found = sum(sums for sums, _ in parts).tolist()
    predicted = torch.cat([part for batch in zip(*(batches for _, batches in parts)) for part in batch], 1)
    images = loader.images
    return [(task.finish(totals, images), loss / images, own) for (*totals, loss), own in zip(found, predicted)]


def _outputs(networks: Sequence[nn.Module], batch, input: str, task: Task, arithmetic: Arithmetic) -> Tensor:
    """Return the networks' outputs, float32 (networks, B, ...)."""
    with arithmetic.autocast():
        return torch.stack([task.run(network, batch, input) for network in networks]).float()


@torch.no_grad()
def ensemble(networks: Sequence[nn.Module], count: int, loader, task: Task, arithmetic: Arithmetic, ranks: Ranks) -> float:
    """Return the metric of the ensemble, the mean of all networks' probabilities or values; call it after `evaluate`.

    Args:
        networks: The networks of this process.
        count: Number of networks of the cell.
        loader: Loader of a split.
        task: The cell's task.
        arithmetic: Device, precision and memory layout.
        ranks: The cell's processes.
    """
    parts, targets = [], []
    for batch in loader.batches():
        with arithmetic.autocast():
            outputs = [task.run(network, batch, loader.input) for network in networks]
        parts.append(sum(task.vote(output, count) for output in outputs).cpu())
        targets.append(batch.labels.cpu())
    gathered, total = ranks.all_gather((parts, targets)), 0.0
    for shard in range(ranks.shards):
        votes = [parts for parts, _ in gathered[shard :: ranks.shards]]
        for labels, *batch in zip(gathered[shard][1], *votes):
            total += float(task.total(task.predict(sum(batch)), labels))
    return task.score(total, loader.images)
