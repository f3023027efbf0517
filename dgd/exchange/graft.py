"""Filter grafting: networks of one architecture blend each other's weights, layer by layer.

Network i receives from network i-1 (the first from the last): `W_i <- w W_i + (1 - w) W_{i-1}`, with
`w = A/pi * arctan(c * (H(W_i) - H(W_{i-1}))) + 0.5`. Sources: 2001.05868 equations 6 to 8 and algorithm 1; 2004.12311 section
3.4. The printed formula omits the division by pi. Without it the weights would leave (0, 1) at A = 0.4, and the paper's figure
and the published code both divide. Everything here is a pure function of state dicts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dgd import cell, filters, keys
from dgd.cell import Graft
from dgd.exchange.blending import GraftingError, Shares, State, blend, check_states, layers_of

SOURCE = "2001.05868 equations 6 to 8; 2004.12311 section 3.4"


def blending_weights(states: Sequence[State], **options) -> list[dict[str, float | Tensor]]:
    """Return the share that each convolution layer of each network keeps of itself, a dict for each network.

    At layer level it maps a key to w in (0.5 - a/2, 0.5 + a/2), at filter level to w (filters,).

    Args:
        states: State dicts of N >= 2 networks of one architecture.
        options: Options of `dgd.cell.Graft`, which describes each.

            * a: Amplitude A; 0 is plain averaging of neighbours.
            * c: Slope, per unit of the criterion.
            * criterion: Measure of the information in a layer or filter. 'entropy', nats (2001.05868 equation 6); 'l1', norm of
              the weights; 'bn-gamma', sum of the absolute gammas of the batch norm that follows.
            * level: 'layer' (equation 6) or 'filter' (equation 5).
            * rule: 'arctan', the formula above; 'ratio', own / (own + neighbour's), 0.5 where both are 0.
            * share: A fixed share, instead of one by criterion and rule.
            * protocol: 'paper' or 'reference-code', which decides the next three where they are not given.
            * layers: Tensors with a share of their own: 'dimension', filters (`dgd.filters`); 'name', keys with 'conv' in them.
            * include_max: The entropy's last bin holds the largest weight.
            * digits: Decimals that a share is rounded to; None does not round.

    Raises:
        GraftingError: These networks cannot be grafted, or an option is unknown.
    """
    return _blending_weights(states, options_of(options))


def _blending_weights(states: Sequence[State], options: Graft) -> list[dict[str, float | Tensor]]:
    check_states(states, options.layers)
    layers = layers_of(states[0], options.layers)
    if options.share is not None:
        return [dict.fromkeys(layers, float(options.share)) for _ in states]
    information = [_information(state, layers, options) for state in states]
    pairs = [(information[i], information[i - 1]) for i in range(len(states))]
    return [{key: _weight(own[key], neighbour[key], options) for key in own} for own, neighbour in pairs]


def graft(states: Sequence[State], **options) -> list[dict[str, Tensor]]:
    """Graft N networks once, in a ring: `states[i]` receives from `states[i - 1]`, all from un-grafted weights.

    `non_conv` decides the share of a tensor that has none of its own (batch norm, bias, classifier): 'last', the share of the
    convolution before it in the state dict; 'own', one computed from its own values; 'none', it stays; 'norms', as 'last' for
    batch norms and 'none' for the rest; or a number. A tensor before the first convolution takes the first one's share
    ('dimension') or is an error, as in the script ('name'). Integer tensors (batch counters) stay the network's own; the script
    blends and truncates them (`counters: blend`).

    At filter level a filter's batch norm entries and bias have its share. There 'reference-code' follows the published
    filter_level script: it blends each filter by its own share and its inputs by those of the layer before, and re-blends the
    whole batch norm once for each filter, which leaves the neighbour's; biases and classifier stay.

    At layer level 'reference-code' gives the float32 numbers of the published script bit for bit, on the networks that the
    script was written for.

    Args:
        states: State dicts of N >= 2 networks of one architecture.
        options: See `blending_weights`, and above.

    Returns:
        New state dicts; nothing is changed in place.

    Raises:
        GraftingError: There is one network, architectures differ, there are no filters, weights are not finite, or an option is
            unknown.
    """
    found = options_of(options)
    kept = shares(states, found)
    return [blend(states[i], states[i - 1], kept[i], found.digits is not None) for i in range(len(states))]


def shares(states: Sequence[State], options: Graft) -> list[Shares]:
    """Return the share that every tensor of every network keeps of itself when grafted; None for a tensor that stays."""
    weights = _blending_weights(states, options)
    if options.level == "filter" and options.protocol == "reference-code":
        return [_script_shares(state, weights[i]) for i, state in enumerate(states)]
    if options.non_conv == "own":
        others = {key: v for key, v in states[0].items() if v.is_floating_point() and key not in weights[0]}
        whole = replace(options, level="layer")
        information = [_information(state, others, whole) for state in states]
        for i, own in enumerate(weights):
            own |= {key: _weight(information[i][key], information[i - 1][key], whole) for key in others}
    return [_all_shares(state, weights[i], options) for i, state in enumerate(states)]


def options_of(given: Mapping) -> Graft:
    """Return the options of `graft`, with those of the protocol where they are not given.

    Raises:
        GraftingError: An option is unknown, has an invalid value, or concerns a training loop only.
    """
    for option in given:
        if option in keys.specs(cell.Ring):
            raise GraftingError(
                f"{option!r} is for a training loop that has epochs and optimisers (dgd.train); here it does nothing"
            )
    if lines := cell.exchange_problems({"name": "graft", **given}, "graft"):
        raise GraftingError("\n".join(lines))
    return cell.exchange({"name": "graft", **given})


def _information(state: State, layers: Mapping, options: Graft) -> dict[str, float | Tensor]:
    """Return the information in each layer, or at filter level in each filter of a layer, by the criterion."""
    layers = {key: state[key] for key in layers}
    per_filter, criterion, include_max = options.level == "filter", options.criterion, options.include_max
    if per_filter:
        layers = {key: value for key, value in layers.items() if value.ndim > 3}
    if criterion == "bn-gamma":
        found = {key: gamma.detach().float().abs().cpu() for key, gamma in _gammas(state, layers).items()}
    elif per_filter:
        measure = filters.l1_norms if criterion == "l1" else lambda s: filters.filter_entropies(s, include_max=include_max)
        found = {key: value.cpu() for key, value in measure(layers).items()}
    elif criterion == "entropy":
        return {key: float(h) for key, h in filters.entropies(layers, include_max=include_max).items()}
    else:
        return dict(zip(layers, torch.stack([w.detach().float().abs().sum() for w in layers.values()]).tolist()))
    return found if per_filter else {key: float(value.sum()) for key, value in found.items()}


def _gammas(state: State, layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gamma of the batch norm after each convolution: the next one in the state dict, if its channels agree."""
    found, waiting = {}, None
    for key, value in state.items():
        if value.ndim > 3:
            waiting = key
        elif waiting and key.endswith("weight") and key[: -len("weight")] + "running_mean" in state:
            if len(value) == len(state[waiting]):
                found[waiting] = value
            waiting = None
    for key in layers:
        if key not in found:
            raise GraftingError(
                f"criterion 'bn-gamma' needs a batch norm after each convolution, and {key!r} has none; use 'entropy' or 'l1'"
            )
    return {key: found[key] for key in layers}


def _weight(own, neighbour, options: Graft) -> float | Tensor:
    """Return the share that a layer (a number) or each of its filters (filters,) keeps of itself."""
    if isinstance(own, Tensor):
        own, neighbour = own.double().numpy(), neighbour.double().numpy()
    if options.rule == "ratio":
        total = np.asarray(own) + np.asarray(neighbour)
        script = options.protocol == "reference-code"  # in the script 0 / 0 is NaN
        with np.errstate(invalid="ignore", divide="ignore"):
            w = own / total if script else np.where(total == 0, 0.5, own / np.where(total == 0, 1, total))
    else:
        w = options.a / math.pi * np.arctan(options.c * (own - neighbour)) + 0.5
    script_filters = options.level == "filter" and options.protocol == "reference-code"
    if options.digits is not None and not script_filters:
        w = np.round(w, options.digits)
    return float(w) if np.ndim(w) == 0 else torch.from_numpy(w)


def _all_shares(state: State, weights: Mapping, options: Graft) -> Shares:
    """Return the share of every tensor, from the shares of the layers."""
    rest, by_name = options.non_conv, options.layers == "name"
    number = None if isinstance(rest, str) else float(rest)
    w = None if by_name else next(iter(weights.values()))
    shares: Shares = {}
    for key, value in state.items():
        w = weights.get(key, w)
        if key not in weights:
            share = w if number is None else number
            if rest == "none" or (rest == "norms" and not (value.ndim == 1 and _is_norm(key, state))):
                share = None
            elif share is None:
                raise GraftingError(
                    f"{key!r} stands before the first tensor with 'conv' in its name, where the published script stops with an "
                    "error; use protocol='paper' for this architecture"
                )
            elif isinstance(share, Tensor) and tuple(value.shape) != tuple(share.shape):
                share = float(share.mean())  # the tensor (a classifier, say) has no entry for each of these filters
        else:
            share = weights[key]
        if not value.is_floating_point() and (options.counters == "keep" or isinstance(share, Tensor)):
            share = None
        shares[key] = share
    return shares


def _script_shares(state: State, weights: Mapping[str, Tensor]) -> Shares:
    """Return the shares that amount to what the published filter_level script does with |gamma|; see `graft`."""
    shares: Shares = dict.fromkeys(state)
    before, w = None, None
    for key, value in state.items():
        if key in weights:
            before, w = w, weights[key]
            if before is not None and len(before) != value.shape[1]:
                raise GraftingError(
                    f"the published filter-level script takes a chain of convolutions (VGG): {key!r} has {value.shape[1]} "
                    f"inputs and the layer before it {len(before)} filters; use protocol='paper' for this architecture"
                )
            shares[key] = w if before is None else w[:, None] * before[None, :]
        elif w is not None and value.is_floating_point() and value.ndim == 1 and _is_norm(key, state):
            shares[key] = float(w.prod())
    return shares


def _is_norm(key: str, state: State) -> bool:
    return key.rpartition(".")[0] + ".running_mean" in state
