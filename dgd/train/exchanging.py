"""Carry out an exchange among the members of a group, over processes, with momentum and batch norm's statistics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import nn

from dgd import exchange, filters
from dgd.cell import Exchange, Ring, Surgery, Within
from dgd.exchange.blending import CARRIED, Shares, State, blend, write
from dgd.train.averages import reestimate
from dgd.train.streams import generator


class Rule(ABC):
    """A rule for carrying out a kind of exchange.

    Args:
        options: The exchange.
        networks: This process's networks.

    Raises:
        GraftingError: These networks cannot take part; it is raised here and not after the first epoch.
    """

    def __init__(self, options: Exchange, networks: Sequence[nn.Module]):
        self.options, self.module = options, exchange.find(options.name)

    @abstractmethod
    def apply(self, group, epoch: int, loader=None) -> list[np.ndarray] | None:
        """Let the networks of a group exchange weights.

        Args:
            group: A `dgd.train.group.Group`.
            epoch: The epoch, from 0.
            loader: Loader of training batches, for `batch_norm: reestimate`.

        Returns:
            For each network of the cell the share (layers,) that each convolution layer kept of itself; None for an exchange
            within a network.
        """


class RingRule(Rule):
    """A rule by which each network takes in the weights of the one before it, and the first those of the last."""

    def __init__(self, options: Ring, networks: Sequence[nn.Module]):
        super().__init__(options, networks)
        self._exchanged([networks[0].state_dict()] * 2)

    def apply(self, group, epoch: int, loader=None) -> list[np.ndarray]:
        """See `Rule.apply`."""
        options, networks = self.options, group.networks
        buffers = [{CARRIED + key: b for key, b in group.momentum(k).items()} for k in range(len(networks))]
        carried = buffers if options.momentum == "graft" else [{}] * len(networks)
        states = [{**network.state_dict(), **extra} for network, extra in zip(networks, carried)]
        before = group.ranks.recv_from_previous(states)  # the first network's neighbour, if another process has it
        new, shares = self._exchanged([*before, *states])
        for network, extra, state in zip(networks, carried, new[len(before) :]):
            write({**network.state_dict(), **extra}, state)
        if options.momentum == "reset":
            for buffer in chain.from_iterable(extra.values() for extra in buffers):
                buffer.zero_()
        if options.batch_norm == "reestimate":
            reestimate(group, networks, loader, "exchange", epoch)
        kept = zip(networks, shares[len(before) :])
        return group.ranks.all_networks(lambda: [_layer_shares(network, own) for network, own in kept])

    def _exchanged(self, states: Sequence[State]) -> tuple[list[State], list[Shares]]:
        """Return the new states, and the share that each tensor kept of itself."""
        plain = [{key: value for key, value in state.items() if not key.startswith(CARRIED)} for state in states]
        shares = self.module.shares(plain, self.options)
        rounded = getattr(self.options, "digits", None) is not None
        return [blend(states[i], states[i - 1], shares[i], rounded) for i in range(len(states))], shares


class WithinRule(Rule):
    """A rule by which each network changes by itself, from its own weights or from random numbers."""

    def __init__(self, options: Within, networks: Sequence[nn.Module]):
        super().__init__(options, networks)
        self._within(networks[0].state_dict(), 1, torch.Generator())

    def apply(self, group, epoch: int, loader=None) -> None:
        """See `Rule.apply`."""
        for i, network in zip(group.ranks.mine, group.networks):
            own = network.state_dict()
            write(own, self._within(own, epoch + 1, generator(group.cell.seed, "noise", i, epoch)))

    def _within(self, state: State, epoch: int, draw: torch.Generator) -> State:
        return self.module.within(state, self.options, epoch=epoch, generator=draw)


class SurgeryRule(Rule):
    """A rule by which a module of each network acts on it; the module acts after every step, too."""

    def apply(self, group, epoch: int, loader=None) -> None:
        """See `Rule.apply`."""
        for k, (i, member) in enumerate(zip(group.ranks.mine, group.members)):
            member.surgery.after_epoch(epoch, group.momentum(k), generator(group.cell.seed, "surgery", i, epoch))


RULES: dict[type[Exchange], type[Rule]] = {Ring: RingRule, Within: WithinRule, Surgery: SurgeryRule}


def make_rule(options: Exchange | None, networks: Sequence[nn.Module]) -> Rule | None:
    """Return the rule of an exchange, checked on the first of these networks; None if there is no exchange.

    Raises:
        GraftingError: The networks cannot take part.
    """
    if options is None:
        return None
    (make,) = [rule for kind, rule in RULES.items() if isinstance(options, kind)]
    with torch.no_grad():
        return make(options, networks)


@torch.no_grad()
def exchange_weights(group, epoch: int, loader=None) -> list[np.ndarray] | None:
    """Let the networks of a group exchange weights by the group's rule; see `Rule.apply`."""
    return group.rule.apply(group, epoch, loader)


def _layer_shares(network: nn.Module, shares: Mapping) -> np.ndarray:
    """Return the share (layers,) that each convolution layer kept of itself: the mean over its filters; 1 if it stayed."""
    kept = [shares[key] for key in filters.conv_weights(network)]
    return np.array([1.0 if share is None else float(torch.as_tensor(share).mean()) for share in kept], np.float32)
