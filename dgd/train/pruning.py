"""Pruning curves: the metric of saved weights when filters are removed, without training again.

A filter is removed by zeroing its weights and bias, and gamma and beta of the batch norm that directly follows its convolution,
so that its output channel is zero. Where no batch norm reads the convolution itself (the end of a pre-activation block,
DenseNet), the channel is zero at the convolution's output. Other inputs to a channel, such as a residual network's shortcut,
stay. A filter of norm zero may still have a nonzero channel, because of its beta; that is removed too.

The smallest filters are those of the smallest L1 norm over the whole network, as in the papers (2004.12311 section 4.3). The
control removes as many random filters: without it, a curve would show how many filters a network can spare, but nothing about
norms.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dgd import data, files, filters, identity, seals
from dgd.data.loader import EVALUATION_BATCH
from dgd.measured import read_metrics
from dgd.metrics import Metric
from dgd.models.folding import followers
from dgd.task import TASKS, Task
from dgd.train.cell import load_network
from dgd.train.device import Arithmetic, arithmetic, pick_device, set_up
from dgd.train.evaluate import evaluate
from dgd.train.ranks import Ranks
from dgd.train.streams import generator

TOLERANCE = 0.5
"""Largest difference of the metric that the same weights may show on another machine."""

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""Shares that are removed by default."""

DRAWS = 3


def columns(metric: Metric) -> list[str]:
    """Return the columns of pruning.csv; see `pruning_curve`."""
    return ["share", "removed", "filters_left", "parameters_left", metric.name, f"{metric.name}_random"]


@torch.no_grad()
def remove(model: nn.Module, chosen: Tensor, example: Tensor) -> int:
    """Remove filters of a network, in place.

    Args:
        model: Any network; it is put into eval mode.
        chosen: bool (filters,), True for the filters to remove, in the order of `filters.conv_weights`.
        example: Images (B, C, H, W) on the network's device: one forward pass shows which batch norm follows which convolution.

    Returns:
        The number of parameters that the removed filters had: weights, biases, gammas and betas.

    Raises:
        ValueError: `chosen` does not have one bool for each filter.
    """
    weights = filters.conv_weights(model)
    count = sum(map(len, weights.values()))
    if chosen.shape != (count,) or chosen.dtype != torch.bool:
        raise ValueError(f"chosen is {chosen.dtype} {tuple(chosen.shape)}; it must be bool ({count},), one for each filter")
    pairs, calls = followers(model.eval(), example)
    norms_of: dict[nn.Module, list[nn.Module]] = {}
    for norm, conv in pairs.items():
        if calls[norm] == 1:  # a batch norm that several convolutions share acts on the others' channels too
            norms_of.setdefault(conv, []).append(norm)
    removed = 0
    for (key, weight), part in zip(weights.items(), chosen.split([len(weight) for weight in weights.values()])):
        conv, part = model.get_submodule(key.rpartition(".")[0]), part.to(weight.device)
        tensors = [weight, getattr(conv, "bias", None)]
        tensors += [tensor for norm in norms_of.get(conv, ()) for tensor in (norm.weight, norm.bias)]
        for tensor in tensors:
            if tensor is not None:
                removed += tensor[part].numel()
                tensor[part] = 0
    return removed


def pruning_curve(
    model: nn.Module,
    loader,
    shares: Iterable[float] = SHARES,
    *,
    task: Task = TASKS["classification"],
    precision: str = "fp32",
    seed: int = 0,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Measure a network with increasing shares of its filters removed: the smallest ones, and as many random ones.

    Args:
        model: A trained network with convolutions, on the loader's device; it is not changed.
        loader: A loader from `data.Dataset.loader`.
        shares: Shares of all filters to remove, 0..1; each is rounded to a number of filters. 0 is always added.
        task: The network's task.
        precision: 'fp32', 'bf16' or 'tf32', as in a recipe.
        seed: Seed of the random filters. A draw is one order of removal, so a larger share includes a smaller one.
        draws: Number of random orders that are averaged.

    Returns:
        A row for each share, ascending, with `columns(task.metric)`: share (as rounded), removed, filters_left,
        parameters_left (without the smallest filters'), the metric, and its mean over the draws of random filters.

    Raises:
        ValueError: A share is outside 0..1, or the network has no filters.
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
    example = next(iter(loader.batches())).inputs[loader.input][:2]
    orders = [norms.argsort(stable=True)]
    orders += [torch.randperm(len(norms), generator=generator(seed, "pruning", draw)) for draw in range(draws)]
    setting = loader, task, Arithmetic(loader.device, precision), Ranks(1)
    whole = evaluate([model], *setting).scores[0]
    parameters = sum(p.numel() for p in model.parameters())
    scores, parameters_left = np.full((len(orders), len(counts)), whole), np.full(len(counts), parameters)
    for row, order in enumerate(orders):
        net = copy.deepcopy(model)
        for column, count in enumerate(counts):
            if not count:
                continue
            chosen = torch.zeros(len(norms), dtype=torch.bool).index_fill_(0, order[:count], True)
            removed = remove(net, chosen, example)
            if row == 0:
                parameters_left[column] = parameters - removed
            scores[row, column] = evaluate([net], *setting).scores[0]
    values = [
        np.array(counts) / len(norms),
        counts,
        len(norms) - np.array(counts),
        parameters_left,
        scores[0],
        scores[1:].mean(0) if draws else np.nan,
    ]
    return pd.DataFrame(dict(zip(columns(task.metric), values)))


def prune_cell(folder: str | Path, prepared: str | Path, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Write pruning.csv of a cell: the curve of its first network, from its model.safetensors.

    Model, precision, device and the seed of the random filters are those of the cell's config.yaml. For a cell without a
    result, or whose network has no filters, the file has no rows.

    Args:
        folder: The cell's folder.
        prepared: Folder of the prepared data set; the test split is used.
        shares: See `pruning_curve`.

    Returns:
        The content of the file.

    Raises:
        ValueError: The folder holds no cell, or weights that do not give the recorded result.
    """
    folder = Path(folder)
    for name in ("metrics.json", "config.yaml"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file; give the folder of a trained cell")
    seals.check_seal(folder, ["metrics.json", "config.yaml"])
    metrics, cell = read_metrics(folder / "metrics.json"), identity.cell_of(folder)
    if cell is None:
        raise ValueError(f"{folder / 'config.yaml'}: that of no cell; {seals.AGAIN}")
    task, recipe = TASKS[cell.task], cell.recipe
    curve = pd.DataFrame(columns=columns(task.metric))
    if metrics["status"] == "finished" and metrics["conv_filters"]:
        set_up(recipe)
        device, dataset = pick_device(recipe.device), data.load(prepared).under(recipe).of(cell.input)
        model = arithmetic(recipe, device).place(load_network(folder, dataset, cell, cell.options))
        loader = dataset.loader(
            "test",
            batch_size=EVALUATION_BATCH,
            device=device,
            workers=cell.data.workers,
            channels_last=recipe.channels_last,
        )
        curve = pruning_curve(model, loader, shares, task=task, precision=recipe.precision, seed=cell.seed)
        name = task.metric.name
        recorded, found = metrics["networks"][0]["last"][name], curve[name].iloc[0]
        if not abs(found - recorded) <= TOLERANCE:
            raise ValueError(
                f"{folder / 'model.safetensors'}: {task.metric.label} is {found:.2f} {task.metric.unit} and metrics.json says "
                f"{recorded:.2f} {task.metric.unit}: these are not the weights, or not the data, that were measured; train the "
                "cell again"
            )
    files.write_text(folder / "pruning.csv", curve.to_csv(index=False))
    return curve
