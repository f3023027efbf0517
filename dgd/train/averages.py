"""Averages of a network's weights over epochs, and batch norm's statistics estimated anew."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dgd.exchange.blending import blend, write
from dgd.train.streams import generator, stream

BATCHES = 50
"""Training batches that batch norm's statistics are estimated from anew, where that is asked for."""


def average(group, epoch: int) -> None:
    """Take the networks' weights into their averages over epochs, if the recipe wants such; call it after each epoch.

    `ema`: decay * average + (1 - decay) * weights. `swa`: the mean since epoch `average_from`. Source: 1803.05407.
    """
    recipe = group.recipe
    if recipe.weight_average == "none":
        return
    taken = max(0, epoch + 1 - recipe.average_from)  # epochs that are in the average
    share = taken / (taken + 1) if recipe.weight_average == "swa" else min(taken, 1) * recipe.average_decay
    for averaged, network in zip(group.eval_networks, group.networks):
        own, now = averaged.state_dict(), network.state_dict()
        write(own, blend(own, now, {key: share if value.is_floating_point() else 0.0 for key, value in own.items()}))


def prepare_averages(group, loader, epoch: int) -> None:
    """Estimate the batch statistics of averaged weights from training batches; call it before they are evaluated."""
    if group.recipe.weight_average != "none":
        reestimate(group, group.eval_networks, loader, "average", epoch)


@torch.no_grad()
def reestimate(group, networks: Sequence[nn.Module], loader, purpose: str, epoch: int) -> None:
    """Estimate the batch norm statistics of networks anew, from `BATCHES` training batches.

    Args:
        group: The group of the networks.
        networks: One for each network of this process.
        loader: Training batches.
        purpose: Names the random numbers.
        epoch: From 0.
    """
    seed = group.cell.seed
    for i, network in zip(group.ranks.mine, networks):
        network.train()
        torch.manual_seed(stream(seed, "dropout", purpose, i, epoch, group.ranks.shard))
        streams = {name: generator(seed, name, purpose, i, epoch) for name in ("order", "augment")}
        with frozen_batch_norm_stats(network) as norms:
            for norm in norms:
                norm.reset_running_stats()
            batches = itertools.islice(loader.batches(**streams), BATCHES if norms else 0)
            for n, batch in enumerate(batches, 1):
                for norm in norms:
                    norm.momentum = 1 / n  # torch's None does the same, and waits for the device to count
                with group.arithmetic.autocast():
                    network(batch.inputs["image"])


@contextmanager
def frozen_batch_norm_stats(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Keep the batch norms' running statistics as they are, unless the caller sets the norms' `momentum` within.

    Yields:
        The batch norms that have running statistics.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield norms
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
