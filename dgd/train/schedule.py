"""Schedules: learning rates over time, and the epochs after which networks exchange weights."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dgd.cell import Exchange, Recipe


def learning_rates(recipe: Recipe, networks: int) -> Callable[[float], list[float]]:
    """Return the learning rate of each network as a function of time in epochs (a fraction within an epoch).

    `slr`: one rate for all, times gamma every `step_epochs`, or at each of `milestones`. `difflr`: network i of N (from 1)
    starts at `lr * (1 + cos(pi (N - i) / N)) / 2`, so the first, reported one has the lowest; it has the steps of slr (the
    released code's default). `dlr`: the same initial rates, with cosine decay in every step (the README's "dlr"). With one
    network the initial rate is `lr`. `cosine`: one rate for all, with cosine decay in every step.
    """
    starts = [recipe.lr] * networks
    if recipe.schedule in ("dlr", "difflr"):
        starts = [recipe.lr * (1 + math.cos(math.pi * (networks - i) / networks)) / 2 for i in range(1, networks + 1)]

    def cosine(time: float) -> float:
        return (1 + math.cos(math.pi * time / recipe.epochs)) / 2

    def steps(time: float) -> float:
        passed = sum(time >= epoch for epoch in recipe.milestones) if recipe.milestones else int(time) // recipe.step_epochs
        return recipe.gamma**passed

    factor = cosine if recipe.schedule in ("dlr", "cosine") else steps
    return lambda time: [start * factor(time) for start in starts]


class Rates:
    """The learning rates of optimisers, in tensors on the device that stay the same ones, so that no step waits for the host.

    Args:
        optimisers: The optimisers of each network; parameter groups that are not trained as the network is have `start` and
            `scheduled`. Their `lr` becomes a view of `now`.
        start: The recipe's learning rate.
        device: Where the rates lie.
    """

    def __init__(self, optimisers: Sequence[Sequence[torch.optim.Optimizer]], start: float, device: torch.device):
        self.start = start
        self.columns = [(k, group) for k, own in enumerate(optimisers) for one in own for group in one.param_groups]
        # Fused optimisers read float32 on CUDA, and on a CPU a number of double precision.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.now, self.table = torch.zeros(1, len(self.columns), dtype=dtype, device=device), None
        for j, (_, group) in enumerate(self.columns):
            group["lr"] = self.now[0, j]

    def plan(self, steps: Sequence[Sequence[float]]) -> None:
        """Set the learning rates of an epoch: those of each network, for each of its steps."""
        rows = torch.tensor([[self._of(group, rates[k]) for k, group in self.columns] for rates in steps], dtype=self.now.dtype)
        if self.table is None or self.table.shape != rows.shape:
            self.table = rows.to(self.now.device)
        else:
            self.table.copy_(rows)

    def set(self, step: Tensor) -> None:
        """Set the rates of a step of the epoch, int64 (1,) on the device."""
        torch.index_select(self.table, 0, step, out=self.now)

    def _of(self, group: Mapping, rate: float) -> float:
        """Return the rate of a parameter group; one with its own initial rate changes in proportion to the network's."""
        if "start" not in group:
            return rate
        return group["start"] * rate / self.start if group["scheduled"] else group["start"]


def exchange_due(exchange: Exchange | None, epochs: int, epoch: int, phase: str) -> bool:
    """Return whether networks exchange weights after an epoch, in the phase 'before' or 'after' its evaluation.

    An exchange that follows the evaluation is left out after the last epoch, because it could change no result.

    Args:
        exchange: The exchange, or None.
        epochs: Number of epochs of the training.
        epoch: The epoch that has just ended, from 0.
        phase: 'before' or 'after' the evaluation.
    """
    due, n = exchange, epoch + 1
    # `evaluate: before` means that the evaluation comes first.
    if not due or due.evaluate == phase or (phase == "after" and n == epochs):
        return False
    return n >= due.start and (due.until is None or n <= due.until) and n % due.every == 0
