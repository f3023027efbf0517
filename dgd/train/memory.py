"""Estimate the memory of a cell before it starts.

The data set is held once, whatever the number of networks. A network costs its weights, the optimiser's momentum and the new
weights of an exchange; the group trains its networks in turn, so activations and gradients of one step count once. A teacher
costs its weights and the activations of one forward pass without gradients. Networks that learn together from the same batches
hold their activations at the same time. The memory of a term is given by `Term.memory`. Processes that read a streamed folder
are not counted.
"""

import json
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from dgd import models
from dgd.cell import IMAGE, Cell
from dgd.data.loader import EVALUATION_BATCH
from dgd.data.preparation import MEMORY_LIMIT
from dgd.data.sources import find
from dgd.objectives import Objective
from dgd.task import TASKS

MIB = 2**20
PROCESS = 1000 * MIB  # Python, torch and timm, and the kernels that the first step loads
CUDA = 3000 * MIB  # CUDA's libraries, in addition
WORKSPACE = 1.25  # factor for the workspaces of convolutions
FOLDER = 1_281_167  # assumed number of training images in a folder, for terms that keep state for each image
KERNELS = 128 * MIB  # cuBLAS's workspaces of the forward and of the backward thread
HEADROOM = 1.5  # factor for fragmentation: the same cell has taken half as much again in another run


def footprint(
    model: str, num_classes: int, in_chans: int, image_size: int, adapt_stem: bool, options: Mapping | None = None
) -> tuple[int, int, int]:
    """Measure the memory of a network in float32 without allocating it.

    Returns:
        Bytes of weights and batch statistics, bytes for each image that a training step keeps for its backward pass, and bytes
        for each image of a layer's largest output.

    Raises:
        ValueError: The model cannot take such images.
    """
    found = _footprint(model, num_classes, in_chans, image_size, adapt_stem, json.dumps(dict(options or {}), sort_keys=True))
    if isinstance(found, ValueError):
        raise found
    return found


@lru_cache(None)
def _footprint(
    model: str, num_classes: int, in_chans: int, image_size: int, adapt_stem: bool, options: str
) -> tuple[int, int, int] | ValueError:
    try:
        return _measure(model, num_classes, in_chans, image_size, adapt_stem, json.loads(options))
    except ValueError as error:  # returned, so that the cache keeps it too: a benchmark asks again for each of its cells
        return error


def _measure(
    model: str, num_classes: int, in_chans: int, image_size: int, adapt_stem: bool, options: Mapping
) -> tuple[int, int, int]:
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size, "adapt_stem": adapt_stem}
    with torch.device("meta"):
        net = models.create(model, **shape, options=options).train()
        images = models.example(net, 2, in_chans, image_size)
    weights = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    own = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers())}
    kept: dict[int, Tensor] = {}
    largest = 0

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def output(_module, _inputs, out) -> None:
        nonlocal largest
        if isinstance(out, Tensor):
            largest = max(largest, out.numel() * out.element_size())

    hooks = [module.register_forward_hook(output) for module in net.modules()]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(images)
    for hook in hooks:
        hook.remove()
    return weights, sum(t.untyped_storage().nbytes() for t in kept.values()) // 2, largest // 2


def _training(images: int, cell: Cell, input: str) -> int:
    """Return the number of training examples of an input; of images only, a part is chosen and more are generated."""
    if input != IMAGE:
        return images
    real, made = cell.data.train_images or images, cell.generated
    return real * made.real + made.images if made else real


def _images(channels: int, side: int, training: int, test: int, cell: Cell, input: str) -> int:
    """Return the bytes of an input's examples: uint8, those to train on also padded for the crop."""
    training = _training(training, cell, input)
    validation = cell.data.validation_images if input == IMAGE else 0
    return training * channels * (side + 8) ** 2 + (training + validation + test) * channels * side**2


def estimate(cell: Cell, cuda: bool = False) -> dict[str, int]:
    """Return an upper estimate in MiB of a cell's peak memory, because a scheduler ends a job that exceeds its request.

    Args:
        cell: A cell.
        cuda: It will run on CUDA.

    Returns:
        `host`: resident in all its processes; `device`: allocated on the busiest CUDA device, 0 on a CPU.
    """
    recipe, data = cell.recipe, cell.data
    source, folder = find(cell.dataset)
    classes, channels, side, training, _ = source.shape_of(cell.input) or (1000, 3, data.image_size, None, None)
    shape, task = (classes, channels, side, cell.adapt_stem), TASKS[cell.task]
    own = (
        task.width(classes),
        *((models.feature_width(cell.teacher, *shape[1:]), 1) if task.features else shape[1:3]),
        shape[3],
    )
    half = 2 if recipe.precision == "bf16" else 1
    if folder:
        images = 0 if data.loader == "stream" else 2 * MEMORY_LIMIT
    else:
        held = (cell.input, cell.teacher_input) if cell.paired else (cell.input,)
        images = sum(_images(*source.shape_of(input)[1:], cell, input) for input in held)
        training = _training(training, cell, cell.input)
    weights, kept, largest = footprint(cell.student, *own, cell.options)
    partners = [footprint(name, *own) for name in cell.partners]
    together = 1 if recipe.ranks_per_network else cell.networks
    batch = -(-recipe.batch_size // (recipe.ranks_per_network or 1))
    buckets = weights if recipe.ranks_per_network > 1 else 0  # of DistributedDataParallel
    states = 2 + (recipe.optimiser == "adam")  # weights or their copy, and what the optimiser keeps
    group = buckets + weights * (1 + states * together + (2 * together + 2 if cell.exchange else 0))
    group += sum((1 + states) * partner for partner, _, _ in partners)
    if getattr(cell.exchange, "momentum", None) == "graft":
        group += weights * (together + 2)
    if recipe.weight_average != "none":
        group += weights * 2 * together
    objective = Objective(cell.objective)
    group += together * sum(term.memory(batch, training or FOLDER) for term in objective.terms.values())
    step = batch * kept // half * (together if objective.requires.peers == "together" else 1)
    for name in cell.subnets:  # they run with the full net, and have batch norms, states and outputs of their own
        step += batch * footprint(name, *own)[1] // half * (together if objective.requires.peers == "together" else 1)
    if objective.requires.runs:  # real and generated images in one step, and the networks that they come from and go to
        step = 2 * batch * (kept + sum(each for _, each, _ in partners)) // half
    if cell.taught:
        theirs = source.shape_of(cell.teacher_input)
        theirs = (*theirs[:3], cell.adapt_stem) if theirs else shape
        t_weights, _, t_largest = footprint(cell.teacher, *theirs, cell.teacher_options)  # a generator among them is no larger
        group += cell.taught * 2 * t_weights
        step += 4 * batch * t_largest // half
    evaluation = 4 * EVALUATION_BATCH * largest // half
    # Each CUDA graph keeps its memory; otherwise one follows the other.
    step = step + evaluation if cuda and recipe.graphs else max(step, evaluation)
    work = (group + step) * WORKSPACE + images
    host = PROCESS + (CUDA + images if cuda else work)
    return {
        "host": int(cell.processes * host * HEADROOM / MIB),
        "device": int((work + KERNELS) * HEADROOM / MIB) if cuda else 0,
    }


def shared(cuda: bool) -> int:
    """Return the MiB that the `host` of every cell's estimate has for its process, which cells of one process take once."""
    return int((PROCESS + CUDA * cuda) * HEADROOM / MIB)
