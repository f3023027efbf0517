"""What a trained network keeps when filters are taken from it: pruning curves of saved weights, without training again.

A filter is removed by making the channel that it gives carry nothing: its weights and its bias become zero, and so do gamma and
beta of the batch norm that directly follows its convolution. Where no batch norm reads the convolution itself (the end of a
pre-activation block, DenseNet) the channel is zero where the convolution gives it. What else feeds a channel, such as a
residual network's shortcut, stays. A filter whose norm is zero can still hold a channel at its beta; that goes too.

The smallest filters are those of the smallest L1 norm over the whole network, as the papers count (2004.12311 section 4.3). As
many random filters are the control: without it a curve says how many filters a network can spare, and nothing of norms.
"""

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from dgd import checkpoint, data, filters, training
from dgd.data.loader import EVALUATION_BATCH
from dgd.models.folding import followers

COLUMNS = ("share", "removed", "filters_left", "parameters_left", "top1", "top1_random")
"""The columns of pruning.csv; see `pruning_curve`."""

TOLERANCE = 0.5
"""Points of top-1 by which the same weights may differ from one machine to another; more, and they are others."""

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""Shares that are removed where nobody says which."""

DRAWS = 3


@torch.no_grad()
def remove(model: nn.Module, chosen: Tensor, example: Tensor) -> int:
    """Remove filters of a network, in place.

    Args:
        model: Any network; it is put into eval mode.
        chosen: bool (filters,), True for the filters that go, in the order of `filters.conv_weights`.
        example: Images (B, C, H, W) on the network's device: one forward pass shows which batch norm follows which convolution.

    Returns:
        The number of parameters that the removed filters had: weights, biases, gammas and betas.

    Raises:
        ValueError: `chosen` is not one value a filter.
    """
    weights = filters.conv_weights(model)
    count = sum(map(len, weights.values()))
    if chosen.shape != (count,) or chosen.dtype != torch.bool:
        raise ValueError(f"chosen is {chosen.dtype} {tuple(chosen.shape)}; it must be bool ({count},), one value a filter")
    pairs, calls = followers(model.eval(), example)
    norms_of: dict[nn.Module, list[nn.Module]] = {}
    for norm, conv in pairs.items():
        if calls[norm] == 1:  # one that several convolutions share keeps the others' channels
            norms_of.setdefault(conv, []).append(norm)
    gone = 0
    for (key, weight), part in zip(weights.items(), chosen.split([len(weight) for weight in weights.values()])):
        conv, part = model.get_submodule(key.rpartition(".")[0]), part.to(weight.device)
        tensors = [weight, getattr(conv, "bias", None)]
        tensors += [tensor for norm in norms_of.get(conv, ()) for tensor in (norm.weight, norm.bias)]
        for tensor in tensors:
            if tensor is not None:
                gone += tensor[part].numel()
                tensor[part] = 0
    return gone


@torch.no_grad()
def top1(model: nn.Module, loader, precision: str = "fp32") -> float:
    """Top-1 accuracy in percent over a loader's batches, in the arithmetic in which a training evaluates."""
    model.eval()
    right = 0
    for images, labels, _ in loader.batches():
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images).float()
        right += (logits.argmax(1) == labels).sum()
    return 100 * float(right) / loader.images


def pruning_curve(
    model: nn.Module, loader, shares: Iterable[float] = SHARES, *, precision: str = "fp32", seed: int = 0, draws: int = DRAWS
) -> pd.DataFrame:
    """Accuracy as ever more filters are removed: the smallest ones, and as many random ones.

    Args:
        model: A trained network with convolutions, on the loader's device; it is not changed.
        loader: Of `data.Dataset.loader`; `batches()` gives images, labels and index, `images` is their number.
        shares: Shares of all filters to remove, 0..1; each is rounded to a number of filters. 0 is always among them.
        precision: 'fp32', 'bf16' or 'tf32', as in a recipe.
        seed: Of the random filters. Each draw is one order in which filters go, so a larger share holds a smaller one.
        draws: Random orders that are averaged.

    Returns:
        A row a share, ascending: share (as rounded), removed, filters_left, parameters_left (without the smallest filters'),
        top1 (percent), top1_random (mean over the draws).

    Raises:
        ValueError: A share outside 0..1, or a network without filters.
    """
    shares = list(shares)
    wrong = [share for share in shares if not 0 <= share <= 1]
    if wrong:
        raise ValueError(f"a share of filters to remove is {wrong[0]}; it must be 0 to 1")
    norms = filters.l1_norms(model)
    if not norms:
        raise ValueError("the network has no convolution filters to remove")
    norms = filters.flatten(norms).cpu()
    counts = sorted({int(share * len(norms) + 0.5) for share in (0, *shares)})
    example = next(iter(loader.batches()))[0][:2]
    orders = [norms.argsort(stable=True)]
    orders += [torch.randperm(len(norms), generator=training.generator(seed, "pruning", draw)) for draw in range(draws)]
    whole = top1(model, loader, precision)
    parameters = sum(p.numel() for p in model.parameters())
    tops, left = np.full((len(orders), len(counts)), whole), np.full(len(counts), parameters)
    for row, order in enumerate(orders):
        net = copy.deepcopy(model)
        for column, count in enumerate(counts):
            if not count:
                continue
            chosen = torch.zeros(len(norms), dtype=torch.bool).index_fill_(0, order[:count], True)
            gone = remove(net, chosen, example)
            left[column] = parameters - gone if row == 0 else left[column]
            tops[row, column] = top1(net, loader, precision)
    return pd.DataFrame(
        {
            "share": np.array(counts) / len(norms),
            "removed": counts,
            "filters_left": len(norms) - np.array(counts),
            "parameters_left": left,
            "top1": tops[0],
            "top1_random": tops[1:].mean(0) if draws else np.nan,
        }
    )


def prune_cell(folder: str | Path, prepared: str | Path, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Write pruning.csv of a cell: the curve of its first network, from its model.safetensors.

    The cell's own config.yaml gives model, precision, device and the seed of the random filters. A cell without a result, or
    whose network has no filters, gets a file without rows.

    Args:
        folder: The cell's folder.
        prepared: Folder of the prepared data set; the test split is used.
        shares: See `pruning_curve`.

    Returns:
        What was written.

    Raises:
        ValueError: The folder holds no cell, or weights whose accuracy is not the recorded one.
    """
    folder = Path(folder)
    for name in ("metrics.json", "config.yaml"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file; give the folder of a trained cell")
    metrics, cell = json.loads((folder / "metrics.json").read_text()), yaml.safe_load((folder / "config.yaml").read_text())
    curve = pd.DataFrame(columns=list(COLUMNS))
    if metrics["status"] == "finished" and metrics["conv_filters"]:
        recipe = cell["recipe"]
        training.set_up(recipe)
        device, dataset = training.pick_device(recipe["device"]), data.load(prepared)
        layout = torch.channels_last if recipe["channels_last"] else torch.preserve_format
        model = training.load_teacher(folder, dataset, cell).to(device, memory_format=layout)
        loader = dataset.loader(
            "test",
            batch_size=EVALUATION_BATCH,
            device=device,
            workers=cell["data"]["workers"],
            channels_last=recipe["channels_last"],
        )
        curve = pruning_curve(model, loader, shares, precision=recipe["precision"], seed=cell["seed"])
        recorded, found = metrics["networks"][0]["last"]["top1"], curve["top1"].iloc[0]
        if not abs(found - recorded) <= TOLERANCE:
            raise ValueError(
                f"{folder / 'model.safetensors'}: top-1 is {found:.2f} % and metrics.json says {recorded:.2f} %: these are not "
                "the weights, or not the data, that were measured; train the cell again"
            )
    checkpoint.write_text(folder / "pruning.csv", curve.to_csv(index=False))
    return curve
