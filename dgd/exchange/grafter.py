"""Grafting for a user's own training loop."""

from collections.abc import Sequence

import torch
from torch import nn

from dgd.exchange.blending import GraftingError, Shares, State, blend, check_states, write
from dgd.exchange.graft import options_of, shares


class Grafter:
    """A ring of networks that are grafted at the end of each epoch: call `step()` after evaluation.

    Args:
        models: N >= 2 modules of one architecture, in ring order; no module twice.
        options: See `dgd.exchange.graft.graft`.

    Raises:
        GraftingError: An option is unknown, there are fewer than two modules, a module is given twice, or the modules cannot be
            grafted.
    """

    def __init__(self, models: Sequence[nn.Module], **options):
        self.models, self.options = list(models), options_of(options)
        if len(set(map(id, self.models))) < len(self.models):
            raise GraftingError("a module is given twice: grafted with itself it would stay as it is")
        states = [model.state_dict() for model in self.models]
        check_states(states, self.options.layers)
        self._grafted(states)  # what these networks and options do not allow shows here, not after the first epoch

    @torch.no_grad()
    def step(self) -> list[Shares]:
        """Blend the models' weights in place; the optimisers' state stays, as in the published code.

        Returns:
            For each model, state-dict key -> the share that its tensor kept of itself: a number, a tensor with a share for
            each filter, or None where the tensor stayed.

        Raises:
            GraftingError: A value is not finite; the models are then unchanged.
        """
        states = [model.state_dict() for model in self.models]
        new, kept = self._grafted(states)
        for own, state in zip(states, new):
            write(own, state)
        return kept

    @torch.no_grad()
    def _grafted(self, states: list[State]) -> tuple[list[dict], list[Shares]]:
        kept = shares(states, self.options)
        rounded = self.options.digits is not None
        return [blend(states[i], states[i - 1], kept[i], rounded) for i in range(len(states))], kept
