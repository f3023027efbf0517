"""Filter grafting: networks of one architecture blend each other's weights, layer by layer.

Network i receives from network i-1 (the first from the last): `W_i <- w W_i + (1 - w) W_{i-1}`, with
`w = A/pi * arctan(c * (H(W_i) - H(W_{i-1}))) + 0.5`. Sources: 2001.05868 equations 6 to 8 and algorithm 1; 2004.12311 section
3.4. The printed formula leaves out the division by pi; with A = 0.4 its weights would leave (0, 1), and the paper's figure and
the published code both divide.

Every exchange around the ring is a share that each tensor of a network keeps of itself: `RING` gives the shares, `blend`
applies them. `noise` and `internal` are the papers' other two sources of information, within one network. Options and their
defaults are data, in `dgd.methods`. Everything but `Grafter` is a pure function of state dicts.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dgd import filters, methods

State = Mapping[str, Tensor]
Shares = dict[str, float | Tensor | None]
CARRIED = "momentum/"
"""Before the key of a parameter: a tensor that is blended as the parameter is, and says nothing about it."""


class GraftingError(ValueError):
    """These networks cannot be grafted; the message says what is wrong and why."""


def blending_weights(states: Sequence[State], **options) -> list[dict[str, float | Tensor]]:
    """The share that each convolution layer of each network keeps of itself, a dict a network.

    Layer level: key -> w in (0.5 - a/2, 0.5 + a/2). Filter level: key -> w (filters,).

    Args:
        states: State dicts of N >= 2 networks of one architecture.
        options: Of `dgd.methods.EXCHANGES['graft']` and `PROTOCOLS`; config/README.md has a sentence on each.

            a: Amplitude A; 0 is plain averaging of neighbours.
            c: Slope, per unit of the criterion.
            criterion: What a layer or filter is said to hold. 'entropy', nats (2001.05868 equation 6); 'l1', norm of the
                weights; 'bn-gamma', sum of |gamma| of the batch norm that follows.
            level: 'layer' (equation 6) or 'filter' (equation 5).
            rule: 'arctan', the formula above; 'ratio', own / (own + neighbour's), 0.5 where both are 0.
            share: A fixed share instead of all that.
            protocol: 'paper' or 'reference-code', what the next three follow where they are not given.
            layers: What has a share of its own: 'dimension', weights of dimension 4; 'name', keys with 'conv' in them.
            include_max: The entropy's last bin holds the largest weight.
            digits: Decimals that a share is rounded to; None leaves it alone.

    Raises:
        GraftingError: What cannot be grafted, and unknown options.
    """
    options = _options(options)
    _check(states, options["layers"])
    layers = _layers(states[0], options["layers"])
    if options["share"] is not None:
        return [dict.fromkeys(layers, float(options["share"])) for _ in states]
    held = [_information(state, layers, options) for state in states]
    return [{key: _weight(held[i][key], held[i - 1][key], options) for key in held[i]} for i in range(len(states))]


def graft(states: Sequence[State], **options) -> list[dict[str, Tensor]]:
    """One grafting of N networks in a ring: `states[i]` receives from `states[i - 1]`, all from un-grafted weights.

    What a tensor without a share of its own (batch norm, bias, classifier) gets is `non_conv`: 'last', the share of the
    convolution before it in the state dict; 'own', one from its own values; 'none', it stays; or a number. One that stands
    before the first convolution takes the first one's ('dimension') or is an error, as in the script ('name'). Integer tensors
    (batch counters) stay the network's own; the script blends and truncates them (`counters: blend`).

    At filter level a filter's batch norm entries and bias have its share. 'reference-code' does there what the published
    filter_level script does: it blends each filter by its own share and its inputs by those of the layer before, and re-blends
    the whole batch norm once for each filter, so that the neighbour's is left; biases and classifier stay.

    At layer level 'reference-code' gives the float32 numbers of the published script, to the bit, on the networks it was
    written for.

    Args:
        states: State dicts of N >= 2 networks of one architecture.
        options: See `blending_weights`, and above.

    Returns:
        New state dicts; nothing is changed in place.

    Raises:
        GraftingError: One network, different architectures, no filters, NaN weights, unknown options.
    """
    rounded = _options(options)["digits"] is not None
    shares = graft_shares(states, **options)
    return [blend(states[i], states[i - 1], shares[i], rounded) for i in range(len(states))]


def graft_shares(states: Sequence[State], **options) -> list[Shares]:
    """The share that every tensor of every network keeps of itself in a grafting; None: it is not touched."""
    weights = blending_weights(states, **options)
    options = _options(options)
    if options["level"] == "filter" and options["protocol"] == "reference-code":
        return [_script_shares(state, weights[i]) for i, state in enumerate(states)]
    if options["non_conv"] == "own":
        others = {key: v for key, v in states[0].items() if v.is_floating_point() and key not in weights[0]}
        whole = {**options, "level": "layer"}
        held = [_information(state, others, whole) for state in states]
        for i, own in enumerate(weights):
            own |= {key: _weight(held[i][key], held[i - 1][key], whole) for key in others}
    return [_all_shares(state, weights[i], options) for i, state in enumerate(states)]


def average_shares(states: Sequence[State]) -> list[Shares]:
    """Half and half with the neighbour: A = 0. Counters stay."""
    _check(states, None)
    return [{key: 0.5 if value.is_floating_point() else None for key, value in state.items()} for state in states]


def swap_shares(states: Sequence[State]) -> list[Shares]:
    """All of the neighbour's: what the released DGD code does, since it compares a network with itself."""
    _check(states, None)
    return [dict.fromkeys(state, 0.0) for state in states]


RING = {"graft": graft_shares, "average": average_shares, "swap": swap_shares}


def blend(own: State, neighbour: State, shares: Shares, rounded: bool = False) -> dict[str, Tensor]:
    """`share * own + (1 - share) * neighbour` for every tensor; nothing is changed in place.

    Args:
        own, neighbour: State dicts of one architecture, each perhaps with `CARRIED` tensors.
        shares: Key -> number, tensor that broadcasts over the first dimensions of the tensor, or None: it stays.
        rounded: Two products and a sum, each rounded, as in the published script; otherwise lerp.
    """
    share_of = {key: shares[key.removeprefix(CARRIED)] for key in own}
    blended = {key: value.clone() if share_of[key] is None else value for key, value in own.items()}
    plain = [key for key, value in own.items() if value.is_floating_point() and isinstance(share_of[key], float)]
    whole = [key for key in plain if share_of[key] == 0]  # to the bit, also where lerp would turn -0 into 0
    blended.update({key: neighbour[key].clone() for key in whole})
    plain = [key for key in plain if share_of[key] != 0]
    theirs, ours, kept = [neighbour[key] for key in plain], [own[key] for key in plain], [share_of[key] for key in plain]
    # All tensors in one call: the calls would take most of the time.
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


def noise(
    state: State, *, epoch: int, generator: torch.Generator, gamma: float = 0.1, base: float = 0.975
) -> dict[str, Tensor]:
    """Gaussian noise on the filters whose L1 norm is below gamma. Source: 2001.05868 section 3.2, and its code's history.

    Args:
        state: A network.
        epoch: Epochs trained so far, from 1; sigma is `base ** (epoch - 1)`.
        generator: A CPU generator.
        gamma: L1 norm below which a filter is invalid.
        base: The a of sigma_t = a^t, 0 < a <= 1.

    Raises:
        GraftingError: No filters, NaN weights.
    """
    _check([state], "dimension", alone=True)
    new = dict(state)
    for key, weight in filters.conv_weights(state).items():
        drawn = torch.randn(weight.shape, generator=generator) * base ** (epoch - 1)
        weak = weight.float().abs().flatten(1).sum(1) < gamma
        new[key] = weight + drawn.to(weight) * weak.view(-1, 1, 1, 1)
    return new


def internal(state: State, *, gamma: float = 0.1, **_) -> dict[str, Tensor]:
    """The i-th largest filter of a layer is added to its i-th smallest while that one's L1 norm is below gamma.

    Source: 2001.05868 section 3.2, and its code's history (gamma = 0.1).

    Args:
        state: A network.
        gamma: L1 norm below which a filter is invalid.

    Raises:
        GraftingError: No filters, NaN weights.
    """
    _check([state], "dimension", alone=True)
    new = dict(state)
    for key, weight in filters.conv_weights(state).items():
        norms = weight.float().abs().flatten(1).sum(1)
        order = norms.argsort(stable=True)
        weak = order[norms[order] < gamma]
        new[key] = weight.index_add(0, weak, weight[order.flip(0)[: len(weak)]])
    return new


WITHIN = {"noise": noise, "internal": internal}


@torch.no_grad()
def write(own: State, state: State) -> None:
    """Put a state into the tensors of a model's own `state_dict()`: as `load_state_dict`, without its time in Python."""
    torch._foreach_copy_(list(own.values()), [state[key] for key in own])


class Grafter:
    """Grafting for a training loop of one's own: call `step()` at the end of each epoch, after evaluation.

    Args:
        models: N >= 2 modules of one architecture, in ring order.
        options: See `graft`.
    """

    def __init__(self, models: Sequence[nn.Module], **options):
        self.models = list(models)
        self.options = options

    @torch.no_grad()
    def step(self) -> None:
        """Blend the models' weights in place. Optimiser state is left alone, as in the published code.

        Raises:
            GraftingError: See `graft`; the models are then unchanged.
        """
        states = [model.state_dict() for model in self.models]
        for own, state in zip(states, graft(states, **self.options)):
            write(own, state)


def _options(given: Mapping) -> dict:
    for key in given:
        if key in methods.WHEN or key in methods.AROUND:
            raise GraftingError(
                f"{key!r} is for a training loop that has epochs and optimisers (dgd.training); here it does nothing"
            )
    try:
        return methods.filled_exchange({"name": "graft", **given})
    except ValueError as error:
        raise GraftingError(str(error)) from None


def _layers(state: State, layers: str) -> dict[str, Tensor]:
    if layers == "name":
        return {key: value for key, value in state.items() if "conv" in key}
    return filters.conv_weights(state)


def _information(state: State, layers: Mapping, options: Mapping) -> dict[str, float | Tensor]:
    """What each layer, or at filter level each filter of a layer, holds by the criterion."""
    layers = {key: state[key] for key in layers}
    per_filter, criterion, include_max = options["level"] == "filter", options["criterion"], options["include_max"]
    if per_filter:
        layers = {key: value for key, value in layers.items() if value.ndim == 4}
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
    """The gamma of the batch norm that follows each convolution: the next one in the state dict with as many channels."""
    found, waiting = {}, None
    for key, value in state.items():
        if value.ndim == 4:
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


def _weight(own, neighbour, options: Mapping) -> float | Tensor:
    """The share that a layer (number) or each filter of it (filters,) keeps of itself."""
    if isinstance(own, Tensor):
        own, neighbour = own.double().numpy(), neighbour.double().numpy()
    if options["rule"] == "ratio":
        total = np.asarray(own) + np.asarray(neighbour)
        script = options["protocol"] == "reference-code"  # where 0 / 0 is NaN
        with np.errstate(invalid="ignore", divide="ignore"):
            w = own / total if script else np.where(total == 0, 0.5, own / np.where(total == 0, 1, total))
    else:
        w = options["a"] / math.pi * np.arctan(options["c"] * (own - neighbour)) + 0.5
    script_filters = options["level"] == "filter" and options["protocol"] == "reference-code"
    if options["digits"] is not None and not script_filters:
        w = np.round(w, options["digits"])
    return float(w) if np.ndim(w) == 0 else torch.from_numpy(w)


def _all_shares(state: State, weights: Mapping, options: Mapping) -> Shares:
    """Every tensor's share, from those of the layers."""
    rest, by_name = options["non_conv"], options["layers"] == "name"
    number = None if isinstance(rest, str) else float(rest)
    w = None if by_name else next(iter(weights.values()))
    shares: Shares = {}
    for key, value in state.items():
        w = weights.get(key, w)
        if key not in weights:
            share = w if number is None else number
            if rest == "none":
                share = None
            elif share is None:
                raise GraftingError(
                    f"{key!r} stands before the first tensor with 'conv' in its name, where the published script stops with an "
                    "error; use protocol='paper' for this architecture"
                )
            elif isinstance(share, Tensor) and tuple(value.shape) != tuple(share.shape):
                share = float(share.mean())  # a classifier, say: not of these filters
        else:
            share = weights[key]
        if not value.is_floating_point() and (options["counters"] == "keep" or isinstance(share, Tensor)):
            share = None
        shares[key] = share
    return shares


def _script_shares(state: State, weights: Mapping[str, Tensor]) -> Shares:
    """What the published filter_level script does with |gamma| shares, see `graft`."""
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


def _check(states: Sequence[State], layers: str | None, alone: bool = False) -> None:
    if len(states) < 2 and not alone:
        raise GraftingError(f"grafting takes at least two networks, {len(states)} given: there is nobody to receive from")
    for i, state in enumerate(states):
        if layers and not _layers(state, layers):
            what = "no tensor with 'conv' in its name" if layers == "name" else "no convolution filters"
            raise GraftingError(
                f"network {i} has {what} (every weight of dimension 4 counts, a transformer's patch embedding does not): "
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
