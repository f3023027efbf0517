"""Add Gaussian noise to invalid filters, within each network."""

import torch
from torch import Tensor

from dgd.cell import Noise
from dgd.exchange.blending import State, check_states, conv_weights

SOURCE = "2001.05868 section 3.2"


def within(state: State, options: Noise, *, epoch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Add Gaussian noise to the filters whose L1 norm is below gamma.

    Source: 2001.05868 section 3.2, and its code's history.

    Args:
        state: State dict of a network.
        options: `gamma`, the L1 norm below which a filter is invalid; `layers`, whose filters; `base`, the a of sigma_t = a^t.
        epoch: Number of epochs trained so far, at least 1; sigma is `base^(epoch - 1)`.
        generator: A CPU generator.

    Raises:
        GraftingError: The network has no filters, or a value that is not finite.
    """
    check_states([state], options.layers, alone=True)
    new = dict(state)
    for key, weight in conv_weights(state, options.layers).items():
        drawn = torch.randn(weight.shape, generator=generator) * options.base ** (epoch - 1)
        weak = weight.float().abs().flatten(1).sum(1) < options.gamma
        new[key] = weight + drawn.to(weight) * weak.view(-1, *[1] * (weight.ndim - 1))
    return new
