"""The filters of any convolutional network: their norms, their entropy, and valid and invalid sets.

A filter is `weight[j]` of a convolution's weight (filters, channels / groups, ...). Every weight of four dimensions counts, and
of five (Conv3d), depthwise, grouped and shortcut convolutions included. Two kinds of networks have no filters, by the shapes of
their weights alone:

* Networks whose convolutions only embed the image or merge patches, such as ViT, Swin, MLP-Mixer, CrossViT and LeViT: they have
  fewer than one convolution, besides the one that reads the image, for two blocks of `BLOCK` matrices. The share of one
  convolution would decide over many blocks that have none.
* Networks that mix their convolutions anew for each image (CondConv), whose weights hold several convolutions in a row.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

THRESHOLDS = (1.0, 0.1, 0.01, 0.001)
BLOCK = 4
"""Matrices of a transformer's block at least. Of timm's families, those that are nearest to the bound have a convolution for 5
matrices (Twins, one in every other block) and for 12 (LeViT, in the stem alone)."""


def conv_weights(model_or_state: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the convolution weights by state-dict key, in the network's own order; empty if it has no filters."""
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    found = {key: value for key, value in state.items() if key.endswith("weight") and value.ndim in (4, 5)}
    matrices = [key for key, value in state.items() if value.ndim == 2 and "weight" in key.rpartition(".")[2]]
    return {} if len(matrices) > BLOCK * (2 * len(found) - 1) or _mixes(state) else found


def _mixes(state: Mapping[str, Tensor]) -> bool:
    """Return whether a network mixes convolutions: a matrix's rows are not the channels of the batch norm right after it."""
    for key, after in pairwise(state):
        rows = state[key]
        if rows.ndim == 2 and after.endswith(".weight") and after.removesuffix("weight") + "running_mean" in state:
            channels = len(state[after])
            if len(rows) != channels and rows.shape[1] % channels == 0 and rows.shape[1] > channels:
                return True
    return False


def l1_norms(model_or_state: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the L1 norm of every filter, key -> float tensor (filters,). Source: 2004.12311 section 4.3."""
    return {key: w.detach().float().abs().flatten(1).sum(1) for key, w in conv_weights(model_or_state).items()}


def entropy(weight: Tensor, bins: int = 10, include_max: bool = True) -> Tensor:
    """Return the entropy in nats of a layer's weights over `bins` equal bins between their minimum and maximum.

    Source: 2001.05868 equation 6; the number of bins is in the published code only. The result is at most log(bins). It is
    invariant to the scale of the weights, so it does not depend on a filter's norm.

    Args:
        weight: Any shape, at least one element.
        bins: Number of bins.
        include_max: Count the largest weight in the last bin, so that the shares add up to 1. False drops it, as the strict
            `<` of the published code does.

    Returns:
        0-dim float tensor on the weight's device; 0 for a constant tensor.
    """
    return entropies({"": weight}, bins, include_max)[""].to(weight.device)


def layer_entropies(model_or_state: nn.Module | Mapping[str, Tensor], include_max: bool = True) -> dict[str, Tensor]:
    """Return the entropy of every convolution layer, key -> 0-dim CPU tensor, with one transfer from the device in all."""
    return entropies(conv_weights(model_or_state), include_max=include_max)


def entropies(tensors: Mapping[str, Tensor], bins: int = 10, include_max: bool = True) -> dict[str, Tensor]:
    """Return the `entropy` of each tensor, key -> 0-dim CPU tensor, with one transfer from the device in all."""
    if not tensors:
        return {}
    parts = [flat(w) for w in tensors.values()]
    sizes = [part.numel() for part in parts]
    if parts[0].device.type != "cpu":
        parts = torch.cat(parts).cpu().split(sizes)
    counts = torch.from_numpy(np.stack([_counts(part.numpy(), bins, include_max) for part in parts]))
    return dict(zip(tensors, _entropy(counts.float() / torch.tensor(sizes)[:, None])))


def filter_entropies(
    model_or_state: nn.Module | Mapping[str, Tensor], bins: int = 10, include_max: bool = True
) -> dict[str, Tensor]:
    """Return the entropy in nats of each filter's weights, key -> float tensor (filters,). Source: 2001.05868 equation 5."""
    found = {}
    for key, weight in conv_weights(model_or_state).items():
        rows = weight.detach().float().flatten(1)
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        edges = low + torch.arange(bins + 1, device=rows.device) * ((high - low) / bins)
        above = torch.stack([(rows >= edges[:, i : i + 1]).sum(1) for i in range(bins + 1)], 1)
        above[:, 0] = rows.shape[1]
        if include_max:
            above[:, -1] = 0
        counts = above[:, :-1] - above[:, 1:]
        found[key] = torch.special.entr(counts / rows.shape[1]).sum(1)
    return found


def flat(weight: Tensor) -> Tensor:
    """Return a tensor's elements in the order of its memory layout, without a copy if the layout is dense."""
    weight = weight.detach()
    if weight.dtype not in (torch.float32, torch.float64):
        weight = weight.float()
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.reshape(-1)


def _counts(flat: np.ndarray, bins: int, include_max: bool) -> np.ndarray:
    """Return the number of elements in each bin, int64 (bins,)."""
    low, high = flat.min(), flat.max()
    # Edges are rounded as `min + i * scale` in the weights' own precision, because the published code compares with these.
    edges = low + np.arange(bins + 1, dtype=flat.dtype) * ((high - low) / flat.dtype.type(bins))
    inner = [np.count_nonzero(flat >= edge) for edge in edges[1:-1]]  # faster than a histogram: both steps are vectorised
    above = np.array([flat.size, *inner, 0 if include_max else np.count_nonzero(flat >= edges[-1])])
    return above[:-1] - above[1:]


def _entropy(shares: Tensor) -> Tensor:
    """Return minus the sum of p log p over the last dimension, (layers, bins) -> (layers,).

    The terms are subtracted one after the other in float32, as in the published loop: another order of summation changes the
    last bit, and that can change a blending weight rounded to two decimals.
    """
    terms = torch.where(shares > 0, shares * shares.log(), 0.0)
    start = torch.zeros(len(terms), 1)
    return torch.from_numpy(np.subtract.reduce(torch.cat([start, terms], 1).numpy(), axis=1))


def invalid_ratio(norms: Mapping[str, Tensor] | Tensor, threshold: float) -> float:
    """Return the share of a network's filters whose L1 norm is at most the threshold. Source: 2001.05868 figure 1."""
    return float((flatten(norms) <= threshold).double().mean())


def flatten(norms: Mapping[str, Tensor] | Tensor) -> Tensor:
    """Return all norms of a network as one tensor (filters,)."""
    return norms if isinstance(norms, Tensor) else torch.cat([n.flatten() for n in norms.values()])


def invalid(
    norms: Mapping[str, Tensor] | Tensor,
    reference: Mapping[str, Tensor] | Tensor,
    threshold: float,
    reading: str = "rank",
) -> Tensor:
    """Return the invalid set of a network, whose size or positions a reference network determines.

    Source: 2004.12311 section 4.3 and Table 7, whose text does not say which of the two readings is meant; its own figure
    agrees with `rank` only, so both are reported.

    Args:
        norms: L1 norms of the network that is measured, by layer or as one tensor (filters,).
        reference: L1 norms of the baseline of the same model, in the same form.
        threshold: A filter of the reference is invalid if its norm is at most this.
        reading: 'rank': the invalid set is this network's smallest filters, as many as the reference has invalid ones.
            'position': it is the filters at the positions of the reference's invalid ones.

    Returns:
        Bool CPU tensor (filters,) in the network's order, True for the invalid set; the others are the valid set.

    Raises:
        ValueError: The reading is unknown, or the norms are of two different models.
    """
    if isinstance(norms, Mapping) and isinstance(reference, Mapping):
        if norms.keys() != reference.keys():
            odd = sorted(norms.keys() ^ reference.keys())[0]
            raise ValueError(f"only one of network and reference has the layer {odd!r}: not the same model")
        reference = {key: reference[key] for key in norms}
    norms, reference = flatten(norms).cpu(), flatten(reference).cpu()
    if norms.shape != reference.shape:
        raise ValueError(f"the network has {len(norms)} filters and the reference {len(reference)}: not the same model")
    if reading == "position":
        return reference <= threshold
    if reading != "rank":
        raise ValueError(f"reading is {reading!r}; it must be 'rank' or 'position'")
    smallest = norms.argsort(stable=True)[: int((reference <= threshold).sum())]
    return torch.zeros(len(norms), dtype=torch.bool).index_fill_(0, smallest, True)


def mean_l1(
    norms: Mapping[str, Tensor] | Tensor,
    reference: Mapping[str, Tensor] | Tensor,
    threshold: float,
    reading: str = "rank",
) -> tuple[float, float]:
    """Return the mean L1 norms of the valid and of the invalid filters; see `invalid` for arguments, sources and errors.

    Returns:
        (mean over the valid set, mean over the invalid set), NaN for an empty set.
    """
    chosen = invalid(norms, reference, threshold, reading)
    flat = flatten(norms).cpu().double()
    return float(flat[~chosen].mean()), float(flat[chosen].mean())


def summary(model_or_state: nn.Module | Mapping[str, Tensor]) -> dict:
    """Return filter statistics of a network: count, invalid_ratio by threshold, mean_l1, entropy_sum (nats, over layers)."""
    norms = l1_norms(model_or_state)
    if not norms:
        return {"count": 0, "invalid_ratio": {}, "mean_l1": None, "entropy_sum": None}
    flat = flatten(norms)
    return {
        "count": len(flat),
        "invalid_ratio": {f"{t:g}": invalid_ratio(flat, t) for t in THRESHOLDS},
        "mean_l1": float(flat.double().mean()),
        "entropy_sum": float(sum(h.double() for h in layer_entropies(model_or_state).values())),
    }
