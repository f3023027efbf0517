"""Filter grafting: networks of one architecture blend each other's weights, layer by layer.

Network i receives from network i-1 (the first from the last): `W_i <- w W_i + (1 - w) W_{i-1}`, with
`w = A/pi * arctan(c * (H(W_i) - H(W_{i-1}))) + 0.5`. Sources: 2001.05868 equations 6 to 8 and algorithm 1; 2004.12311 section
3.4. The printed formula leaves out the division by pi; with A = 0.4 its weights would leave (0, 1), and the paper's figure and
the published code both divide.

Everything but `Grafter` is a pure function of state dicts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature

import numpy as np
import torch
from torch import Tensor, nn

from dgd import filters

State = Mapping[str, Tensor]


class GraftingError(ValueError):
    """These networks cannot be grafted; the message says what is wrong and why."""


@dataclass(frozen=True)
class Protocol:
    """Where the paper's text and the published CIFAR script differ.

    Attributes:
        include_max: The entropy's last bin holds the largest weight.
        digits: Decimals that blending weights are rounded to; None leaves them alone.
        by_name: A tensor has a blending weight of its own if 'conv' is in its key (the script's rule), else if it is the weight
            of a convolution (dimension 4: the author's later advice, and what the text means).
    """

    include_max: bool
    digits: int | None
    by_name: bool


PROTOCOLS = {
    "paper": Protocol(include_max=True, digits=None, by_name=False),
    "reference-code": Protocol(include_max=False, digits=2, by_name=True),
}


def _layers(state: State, protocol: Protocol) -> dict[str, Tensor]:
    if protocol.by_name:
        return {key: value for key, value in state.items() if "conv" in key}
    return filters.conv_weights(state)


def _information(state: State, protocol: Protocol, criterion: str) -> dict[str, float]:
    """How much each layer holds: entropy in nats, or the L1 norm of the whole layer."""
    layers = _layers(state, protocol)
    if criterion == "entropy":
        return {key: float(h) for key, h in filters.entropies(layers, include_max=protocol.include_max).items()}
    sums = torch.stack([w.detach().float().abs().sum() for w in layers.values()]).tolist()
    return dict(zip(layers, sums))


def _check(states: Sequence[State], protocol: str, criterion: str) -> None:
    if protocol not in PROTOCOLS:
        raise GraftingError(f"protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
    if criterion not in ("entropy", "l1"):
        raise GraftingError(f"criterion is {criterion!r}; it must be 'entropy' or 'l1'")
    if len(states) < 2:
        raise GraftingError(f"grafting takes at least two networks, {len(states)} given: there is nobody to receive from")
    for i, state in enumerate(states):
        if not _layers(state, PROTOCOLS[protocol]):
            what = "no tensor with 'conv' in its name" if PROTOCOLS[protocol].by_name else "no convolution filters"
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


def blending_weights(
    states: Sequence[State],
    *,
    a: float = 0.4,
    c: float = 500.0,
    protocol: str = "paper",
    criterion: str = "entropy",
) -> list[dict[str, float]]:
    """The share that each layer of each network keeps of itself: for network i, key -> w in (0.5 - a/2, 0.5 + a/2).

    Args:
        states: State dicts of N >= 2 networks of one architecture.
        a: Amplitude A; 0 is plain averaging of neighbours.
        c: Slope, per nat of entropy or per unit of L1 norm.
        protocol: 'paper' or 'reference-code', see `Protocol`.
        criterion: 'entropy' or 'l1'.

    Raises:
        GraftingError: What cannot be grafted.
    """
    _check(states, protocol, criterion)
    rule = PROTOCOLS[protocol]
    held = [_information(state, rule, criterion) for state in states]

    def weight(own: float, neighbour: float) -> float:
        w = a / math.pi * np.arctan(c * (own - neighbour)) + 0.5
        return float(w if rule.digits is None else np.round(w, rule.digits))

    return [{key: weight(held[i][key], held[i - 1][key]) for key in held[i]} for i in range(len(states))]


def graft(
    states: Sequence[State],
    *,
    a: float = 0.4,
    c: float = 500.0,
    protocol: str = "paper",
    criterion: str = "entropy",
) -> list[dict[str, Tensor]]:
    """One grafting of N networks in a ring: `states[i]` receives from `states[i - 1]`, all from un-grafted weights.

    A tensor that has no blending weight of its own (batch norm, bias, classifier) takes that of the convolution before it in
    the state dict; one that stands before the first convolution takes the first one's ('paper') or is an error, as in the
    script ('reference-code'). Integer tensors (batch counters) stay the network's own under 'paper'; the script blends and
    truncates them. 'reference-code' gives the float32 numbers of the published script, to the bit, on the networks it was
    written for.

    Args:
        states: State dicts of N >= 2 networks of one architecture.
        a, c, protocol, criterion: See `blending_weights`.

    Returns:
        New state dicts; nothing is changed in place.

    Raises:
        GraftingError: One network, different architectures, no filters, NaN weights.
    """
    weights = blending_weights(states, a=a, c=c, protocol=protocol, criterion=criterion)
    return [_blend(states[i], states[i - 1], weights[i], PROTOCOLS[protocol]) for i in range(len(states))]


def _blend(own: State, neighbour: State, weights: Mapping[str, float], rule: Protocol) -> dict[str, Tensor]:
    w = None if rule.by_name else next(iter(weights.values()))
    shares = {}
    for key in own:
        w = shares[key] = weights.get(key, w)
        if w is None:
            raise GraftingError(
                f"{key!r} stands before the first tensor with 'conv' in its name, where the published script stops with an "
                "error; use protocol='paper' for this architecture"
            )
    blended = dict(own)
    floats = [key for key, value in own.items() if value.is_floating_point()]
    theirs, ours, kept = [neighbour[key] for key in floats], [own[key] for key in floats], [shares[key] for key in floats]
    # All tensors in one call: the calls would take most of the time.
    if rule.digits is None:
        mixed = torch._foreach_lerp(theirs, ours, kept)
    else:  # two products and a sum, each rounded, as in the script: lerp rounds otherwise
        mixed = torch._foreach_mul(ours, kept)
        torch._foreach_add_(mixed, torch._foreach_mul(theirs, [1 - share for share in kept]))
    blended.update(zip(floats, mixed))
    for key, value in own.items():
        if value.is_floating_point():
            continue
        blended[key] = (
            (value * shares[key] + neighbour[key] * (1 - shares[key])).to(value.dtype) if rule.by_name else value.clone()
        )
    return blended


@torch.no_grad()
def write(own: State, state: State) -> None:
    """Put a state into the tensors of a model's own `state_dict()`: as `load_state_dict`, without its time in Python."""
    torch._foreach_copy_(list(own.values()), [state[key] for key in own])


class Grafter:
    """Grafting for a training loop of one's own: call `step()` at the end of each epoch, after evaluation.

    Args:
        models: N >= 2 modules of one architecture, in ring order.
        a, c, protocol, criterion: See `blending_weights`.
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


EXCHANGES = {"graft": graft}


def check_options(exchange: Mapping | None) -> None:
    """Check an exchange of a config, {'name': ..., option: ...}; None is none.

    Raises:
        ValueError: Unknown exchange or option.
    """
    if not exchange:
        return
    if exchange["name"] not in EXCHANGES:
        raise ValueError(f"unknown exchange {exchange['name']!r}; known: {', '.join(EXCHANGES)}")
    known = list(signature(EXCHANGES[exchange["name"]]).parameters)[1:]
    for key in exchange:
        if key not in ("name", *known):
            raise ValueError(f"exchange {exchange['name']!r} has no option {key!r}; known: {', '.join(known)}")
