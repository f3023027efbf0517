"""Evaluate networks: metric, loss and predictions of each, and the metric of their ensemble."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgd.task import Task
from dgd.train import graphs
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
    return Pass(networks, loader, task, arithmetic, ranks)()


class Evaluator:
    """The evaluation of all networks of a cell on a split: its members' in their order, then those members' sub-nets.

    Args:
        group: A `dgd.train.group.Group`, with its state loaded.
        loader: Loader of the split.
    """

    def __init__(self, group, loader):
        setting = loader, group.task, group.arithmetic, group.ranks
        parts = [networks for networks in (group.eval_networks, group.eval_subnets) if networks]
        self.passes = [Pass(networks, *setting) for networks in parts]
        for one in self.passes:
            one.launch = graphs.evaluation(one.batch, group, loader)

    def __call__(self) -> Evaluation:
        """Evaluate the networks as they are now."""
        scores, losses, predictions = zip(*(one() for one in self.passes))
        return Evaluation([*chain(*scores)], [*chain(*losses)], torch.cat(predictions))


class Pass:
    """The networks of this process on a split, batch after batch; as a step of training, a batch reads nothing from the host.

    Args:
        networks: The networks of this process.
        loader: Loader of the split.
        task: The cell's task.
        arithmetic: Device, precision and memory layout.
        ranks: The cell's processes.

    Attributes:
        launch: What runs `batch`.
    """

    def __init__(self, networks: Sequence[nn.Module], loader, task: Task, arithmetic: Arithmetic, ranks: Ranks):
        self.networks, self.loader, self.task, self.arithmetic, self.ranks = networks, loader, task, arithmetic, ranks
        self.feed, self.sums, self.predictions = loader.feed(), None, None
        self.cursor = graphs.Cursor(arithmetic.device)
        self.launch: Callable[[int], None] = self.batch

    def __call__(self) -> Evaluation:
        """Evaluate the networks as they are now, and gather the results of all processes."""
        scores, losses, predictions = zip(*self.ranks.all_networks(self._run))
        return Evaluation(list(scores), list(losses), torch.stack(predictions))

    @torch.no_grad()
    def _run(self) -> list[tuple]:
        ranks, images = self.ranks, self.loader.images
        for network in self.networks:
            ranks.broadcast_buffers(network.eval())
        parts = self.feed.start()
        self.cursor.start(parts)
        if self.sums is not None:
            self.sums.zero_()
        for part in parts:
            self.launch(part.stop - part.start)
        predictions = self.predictions.cpu()
        parts = ranks.all_gather_shards((self.sums.cpu(), [predictions[:, part] for part in parts]))
        found = sum(sums for sums, _ in parts).tolist()
        predicted = torch.cat([part for batch in zip(*(batches for _, batches in parts)) for part in batch], 1)
        return [
            (self.task.finish(totals, images), loss / images, own)
            for (*totals, loss), own in zip(found, predicted, strict=True)
        ]

    @torch.no_grad()
    def batch(self, size: int) -> None:
        """Run the networks on the batch that the cursor is at, of this many images."""
        place = self.cursor.part(size)
        batch = self.feed.batch(place)
        predicted, parts = self.task.measure(
            _outputs(self.networks, batch, self.loader.input, self.task, self.arithmetic), batch
        )
        if self.sums is None:
            self.sums = torch.zeros_like(parts)
            self.predictions = predicted.new_zeros((len(predicted), self.loader.images, *predicted.shape[2:]))
        self.sums += parts
        self.predictions.index_copy_(1, place, predicted)
        self.cursor.move()


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
