"""Average a network's weights over epochs or steps, and re-estimate batch norm's statistics."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dgd.exchange.blending import blend, write
from dgd.models.nested import NAME, subnets
from dgd.train.streams import generator, stream

BATCHES = 50
"""Number of training batches from which batch norm's statistics are re-estimated."""


def average(group, epoch: int) -> None:
    """Update the averages of the networks' weights after an epoch, if the recipe asks for averages.

    `ema`: decay * average + (1 - decay) * weights. `swa`: the mean since epoch `average_from`. Source: 1803.05407.
    """
    recipe = group.recipe
    if recipe.weight_average == "none" or recipe.average_every == "step":
        return
    averaged_epochs = max(0, epoch + 1 - recipe.average_from)
    if recipe.weight_average == "swa":
        share = averaged_epochs / (averaged_epochs + 1)
    else:
        share = min(averaged_epochs, 1) * recipe.average_decay
    for averaged, network in zip(group.eval_networks, group.networks):
        own, now = averaged.state_dict(), network.state_dict()
        write(own, blend(own, now, {key: share if value.is_floating_point() else 0.0 for key, value in own.items()}))


class StepAverage:
    """The exponential averages of a group's weights after every step, if the recipe asks for that.

    Until epoch `average_from` an average is the weights themselves.

    Args:
        group: A `dgd.train.group.Group`, with its state loaded.
    """

    def __init__(self, group):
        recipe, self.pairs = group.recipe, []
        self.first, self.decay, self.share = recipe.average_from, recipe.average_decay, torch.zeros((), device=group.device)
        if recipe.average_every == "step" and recipe.weight_average != "none":
            states = zip(group.eval_networks, group.networks)
            self.pairs = [list(zip(*(net.state_dict().values() for net in both), strict=True)) for both in states]

    def plan(self, epoch: int) -> None:
        """Set what the steps of an epoch, from 0, take of the weights."""
        self.share.fill_(1 - (self.decay if epoch + 1 > self.first else 0.0))

    @torch.no_grad()
    def update(self, k: int) -> None:
        """Update the average of the k-th member's weights, if it has one."""
        for own, now in self.pairs[k] if k < len(self.pairs) else ():
            if own.is_floating_point():
                own.lerp_(now, self.share)
            else:
                own.copy_(now)


def prepare_averages(group, loader, epoch: int) -> None:
    """Re-estimate the batch norm statistics of averaged weights from training batches; call it before an evaluation."""
    if group.recipe.weight_average != "none":
        reestimate(group, group.eval_networks, loader, "average", epoch)


@torch.no_grad()
def reestimate(group, networks: Sequence[nn.Module], loader, purpose: str, epoch: int) -> None:
    """Re-estimate the batch norm statistics of networks from `BATCHES` training batches.

    Args:
        group: The group of the networks.
        networks: One for each network of this process.
        loader: Loader of training batches.
        purpose: Part of the name of the random number streams.
        epoch: The epoch, from 0.
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
            passes, running = dict.fromkeys(norms, 0), _runs(network, norms)
            for batch in batches:
                for one, those in running.items():
                    for norm in those:
                        passes[norm] += 1
                        norm.momentum = 1 / passes[norm]  # as torch's momentum None, which waits for the device in each batch
                    with group.arithmetic.autocast():
                        group.task.run(one, batch, loader.input)


def _runs(network: nn.Module, norms: Sequence[nn.Module]) -> dict[nn.Module, list[nn.Module]]:
    """Return the network and its sub-nets, each with those of the batch norms that it runs."""
    inside = {subnet: set(subnet.modules()) for subnet in subnets(network).values()}
    children = [child for child in network.children() if child is not getattr(network, NAME, None)]
    found = {network: {module for child in children for module in child.modules()}, **inside}
    return {one: [norm for norm in norms if norm in modules] for one, modules in found.items()}


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
