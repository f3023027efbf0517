"""Average each network with its neighbour: grafting with A = 0."""

from collections.abc import Sequence

from dgd.cell import Average
from dgd.exchange.blending import Shares, State, check_states


def shares(states: Sequence[State], options: Average) -> list[Shares]:
    """Return a share of one half for every floating-point tensor; integer tensors stay the network's own."""
    check_states(states, None)
    return [{key: 0.5 if value.is_floating_point() else None for key, value in state.items()} for state in states]
