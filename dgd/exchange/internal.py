"""Add a layer's largest filters to its invalid ones, within each network."""

from torch import Tensor

from dgd.cell import Internal
from dgd.exchange.blending import State, check_states, conv_weights

SOURCE = "2001.05868 section 3.2"


def within(state: State, options: Internal, **_) -> dict[str, Tensor]:
    """Add the i-th largest filter of a layer to its i-th smallest, for all filters whose L1 norm is below gamma.

    Source: 2001.05868 section 3.2, and its code's history (gamma = 0.1), which adds in place, one filter after another: the
    `in_place` of protocol reference-code. Otherwise the original weights are added. Both agree while at most half of a layer's
    filters are below gamma.

    Args:
        state: State dict of a network.
        options: `gamma`, the L1 norm below which a filter is invalid; `layers`, whose filters; `in_place`.

    Raises:
        GraftingError: The network has no filters, or a value that is not finite.
    """
    check_states([state], options.layers, alone=True)
    new = dict(state)
    for key, weight in conv_weights(state, options.layers).items():
        norms = weight.float().abs().flatten(1).sum(1)
        order = norms.argsort(stable=True)
        weak = order[norms[order] < options.gamma]
        large = order.flip(0)[: len(weak)]
        # In place, the filters beyond a layer's smaller half are added one that has been added to.
        half = (len(order) + 1) // 2 if options.in_place else len(order)
        new[key] = weight.index_add(0, weak[:half], weight[large[:half]])
        if len(weak) > half:
            new[key] = new[key].index_add(0, weak[half:], new[key][large[half:]])
    return new
