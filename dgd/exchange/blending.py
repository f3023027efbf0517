"""Blend the weights of networks, and check that they can be blended; all exchanges use this."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dgd import filters

State = Mapping[str, Tensor]
Shares = dict[str, float | Tensor | None]
CARRIED = "momentum/"
"""Prefix to the key of a parameter, for a tensor (its momentum) that is blended with the parameter's share."""


class GraftingError(ValueError):
    """An error for networks that cannot exchange weights; the message says what is wrong and why."""


def blend(own: State, neighbour: State, shares: Shares, rounded: bool = False) -> dict[str, Tensor]:
    """Return `share * own + (1 - share) * neighbour` for every tensor; nothing is changed in place.

    Args:
        own, neighbour: State dicts of one architecture, which may have `CARRIED` tensors.
        shares: Key -> a number, a tensor that broadcasts over the first dimensions of the tensor, or None for one that stays.
        rounded: Compute two products and a sum, each rounded, as in the published script; otherwise lerp.
    """
    share_of = {key: shares[key.removeprefix(CARRIED)] for key in own}
    blended = {key: value.clone() if share_of[key] is None else value for key, value in own.items()}
    plain = [key for key, value in own.items() if value.is_floating_point() and isinstance(share_of[key], float)]
    copied = [key for key in plain if share_of[key] == 0]  # copied, because lerp would turn -0 into 0
    blended.update({key: neighbour[key].clone() for key in copied})
    plain = [key for key in plain if share_of[key] != 0]
    theirs, ours, kept = [neighbour[key] for key in plain], [own[key] for key in plain], [share_of[key] for key in plain]
    # All tensors in one call, because a call for each tensor would take most of the time.
    if not plain:
        mixed = []
    elif rounded:
        mixed = torch._foreach_mul(ours, kept)
        torch._foreach_add_(mixed, torch._foreach_mul(theirs, [1 - share for share in kept]))
    else:
        mixed = torch._foreach_lerp(theirs, ours, kept)
    blended.update(zip(plain, mixed))
    for key, share in share_of.items():
        value = own[key]
        if isinstance(share, Tensor):
            share = share.to(value).reshape(*share.shape, *[1] * (value.ndim - share.ndim))
            blended[key] = torch.lerp(neighbour[key], value, share)
        elif share is not None and not value.is_floating_point():
            blended[key] = (value * share + neighbour[key] * (1 - share)).to(value.dtype)
    return blended


@torch.no_grad()
def write(own: State, state: State) -> None:
    """Copy a state into the tensors of a model's `state_dict()`, as `load_state_dict` does but with less time in Python."""
    torch._foreach_copy_(list(own.values()), [state[key] for key in own])


def layers_of(state: State, layers: str) -> dict[str, Tensor]:
    """Return the tensors that have a share of their own: filters by 'dimension', or keys with 'conv' in their 'name'."""
    if layers == "name":
        return {key: value for key, value in state.items() if "conv" in key}
    return filters.conv_weights(state)


def conv_weights(state: State, layers: str) -> dict[str, Tensor]:
    """Return the convolutions' weights (filters, C, h, w) of a state, those of `layers_of` only."""
    chosen = layers_of(state, layers)
    return {key: weight for key, weight in filters.conv_weights(state).items() if key in chosen}


def check_states(states: Sequence[State], layers: str | None, alone: bool = False) -> None:
    """Check that networks can exchange weights.

    Args:
        states: State dicts of the networks.
        layers: Layers that each network must have, see `layers_of`; None to require none.
        alone: One network is enough.

    Raises:
        GraftingError: There is one network, such layers are missing, architectures differ, or a value is not finite.
    """
    if len(states) < 2 and not alone:
        raise GraftingError(f"grafting takes at least two networks, {len(states)} given: there is no neighbour to receive from")
    for i, state in enumerate(states):
        if layers and not layers_of(state, layers):
            what = "no tensor with 'conv' in its name" if layers == "name" else "no convolution filters"
            raise GraftingError(
                f"network {i} has {what} (a patch embedding is none, nor are convolutions that are mixed for each image): "
                "there is nothing to graft"
            )
        if state.keys() != states[0].keys():
            odd = sorted(state.keys() ^ states[0].keys())[0]
            raise GraftingError(f"networks 0 and {i} are of different architectures: only one of them has {odd!r}")
        for key, value in state.items():
            if value.shape != states[0][key].shape:
                raise GraftingError(
                    f"networks 0 and {i} are of different architectures: {key!r} is {tuple(states[0][key].shape)} "
                    f"in one and {tuple(value.shape)} in the other"
                )
    for i, state in enumerate(states):
        floats = {key: value for key, value in state.items() if value.is_floating_point()}
        extremes = torch.stack(torch.aminmax(torch.cat([filters.flat(value) for value in floats.values()])))
        if not bool(extremes.isfinite().all()):
            odd = next(key for key, value in floats.items() if not value.isfinite().all())
            raise GraftingError(f"network {i} has NaN or infinite values in {odd!r}: it diverged before it was grafted")
