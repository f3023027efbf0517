"""A member of a group: one network with its objective, its optimisers and its surgery."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dgd import exchange, models
from dgd.cell import Cell, Recipe, Surgery
from dgd.models.nested import nest
from dgd.objectives import Batch, Objective, Output, Setting
from dgd.objectives.explaining import explainable
from dgd.task import TASKS
from dgd.train.averages import frozen_batch_norm_stats
from dgd.train.device import Arithmetic
from dgd.train.features import Reader
from dgd.train.outcomes import NotApplicable, OutOfMemory
from dgd.train.streams import stream


class Member(nn.Module):
    """A network with its objective and its surgery, as one module, which DistributedDataParallel can wrap.

    Args:
        network: A module that maps images (B, C, H, W) to (B, K).
        objective: The objective of the network.
        arithmetic: Device, precision and memory layout.
        reader: The reader of the network's output and features.
        surgery: A module that acts on the network after every step, or None.
    """

    def __init__(
        self, network: nn.Module, objective: Objective, arithmetic: Arithmetic, reader: Reader, surgery: nn.Module | None = None
    ):
        super().__init__()
        self.network, self.objective, self.surgery = network, objective, surgery
        self.arithmetic, self.reader = arithmetic, reader

    def read(self, inputs: Mapping[str, Tensor]) -> Output:
        """Return the network's output for inputs by name."""
        with self.arithmetic.autocast(), explainable(inputs[self.reader.input]):
            return self.reader(inputs)

    def forward(self, inputs: Mapping[str, Tensor], labels: Tensor, index: Tensor, own: Output | None = None, **others):
        """Return (loss, term -> loss, answer) of one batch.

        `own` is the network's output for it, if it is known already. There is none where terms run the network themselves.
        """
        own = own or (Output() if self.objective.requires.runs else self.read(inputs))
        loss, parts = self.objective(Batch(inputs, labels, index, own, **others))
        return loss, parts, own.answer

    def run(self, inputs: Mapping[str, Tensor]) -> Output:
        """Return the network's output for inputs that a term made; see `dgd.objectives.Runs`."""
        with self.arithmetic.autocast():
            return self.reader(inputs)

    def run_frozen(self, inputs: Mapping[str, Tensor]) -> Output:
        """Return the network's output with gradient with respect to the inputs only, for another member's term."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        try:
            for parameter in parameters:
                parameter.requires_grad_(False)
            with frozen_batch_norm_stats(self.network):
                return self.run(inputs)
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)


def create(name: str, dataset, cell: Cell, options: Mapping | None = None) -> nn.Module:
    """Build a network for the images and the task of a data set, with fresh weights and options of its own.

    Raises:
        NotApplicable: The network cannot be built for such images.
    """
    task, channels, size = TASKS[cell.task], dataset.in_chans, dataset.image_size
    if task.features:
        channels, size = models.feature_width(cell.teacher, channels, size, cell.adapt_stem), 1
    try:
        network = models.create(
            name,
            num_classes=task.width(dataset.num_classes),
            in_chans=channels,
            image_size=size,
            adapt_stem=cell.adapt_stem,
            options=options,
        )
    except models.CannotBuild as error:
        if OutOfMemory.of(error, cell.path):
            raise
        raise NotApplicable(str(error)) from None
    if hasattr(network, "set_units"):  # it makes images: as normalised as those of the data set
        network.set_units(dataset.mean, dataset.std)
    return network


def make_reader(
    network: nn.Module,
    example: Mapping[str, Tensor],
    cell: Cell,
    arithmetic: Arithmetic,
    *,
    input: str,
    features: bool = False,
    pooled: bool = False,
    before: bool = False,
    out_indices: Sequence[int] = (),
) -> Reader:
    """Return the reader of a network, tried on an example of its input.

    Raises:
        NotApplicable: A term needs features, and those of this network cannot be read.
    """
    try:
        with arithmetic.autocast():
            task, takes = TASKS[cell.task], models.takes(network, input)
            wanted = {"features": features, "pooled": pooled, "before": before, "out_indices": out_indices}
            return Reader(network, example, **wanted, task=task, input=takes)
    except ValueError as error:
        raise NotApplicable(f"{cell.method!r}: {error}") from None


def make_member(
    cell: Cell, number: int, dataset, example: Mapping[str, Tensor], teachers: Sequence[Reader], arithmetic: Arithmetic
) -> Member:
    """Build a network of a cell with its objective, whose modules take their sizes from the outputs for an example.

    All random numbers depend on the seed and the network's number alone, not on the process that trains it.

    Args:
        cell: The cell.
        number: Number of the network in the group, from 0.
        dataset: The prepared data set, as the examples of the cell's input.
        example: Inputs of two examples by name, on the device.
        teachers: The cell's teachers.
        arithmetic: Device, precision and memory layout.

    Raises:
        NotApplicable: A term is not defined for these networks.
    """
    torch.manual_seed(stream(cell.seed, "init", number))
    partner = max(0, number + 1 - cell.evaluated)
    network = create([cell.student, *cell.partners][partner], dataset, cell, {} if partner else cell.options)
    if cell.subnets:
        inner = {name: create(name, dataset, cell) for name in cell.subnets}
        shared = {"batch_norm": cell.subnet_batch_norm, "classifier": cell.subnet_classifier}
        try:
            nest(network, inner, **shared)
        except ValueError as error:
            raise NotApplicable(f"{cell.method!r}: {cell.student} cannot contain {error}") from None
    network = arithmetic.place(network)
    surgery = None
    if isinstance(cell.exchange, Surgery):
        make = exchange.find(cell.exchange.name).surgery
        surgery = make(network, example[cell.input], cell.exchange).to(arithmetic.device)
    torch.manual_seed(stream(cell.seed, "init", "objective", number))
    objective = Objective(cell.objective, arithmetic.autocast)
    needs = objective.requires
    options = {"input": cell.input, "features": needs.features, "pooled": needs.pooled, "before": needs.before}
    options["out_indices"] = cell.out_indices
    reader = make_reader(network, example, cell, arithmetic, **options)
    member = Member(network, objective, arithmetic, reader, surgery)
    own, teachers_outputs = Output(), []
    with torch.no_grad(), arithmetic.autocast():
        network.eval()
        if not needs.runs:
            own, teachers_outputs = reader(example), [teacher(example) for teacher in teachers]
    peers = {j: own for j in range(cell.networks) if j != number}  # peers have the same architecture, so the same shapes
    labels = dataset.tensors["train_labels"].to(arithmetic.device)
    classes = dataset.num_classes if labels.dtype == torch.int64 else 0
    setting = Setting(number, cell.networks, labels, classes, reader.input)
    index = torch.arange(2, device=arithmetic.device)
    try:
        objective.setup(Batch(example, labels[:2], index, own, teachers_outputs, peers), setting)
    except ValueError as error:
        raise NotApplicable(f"{cell.method!r} of {cell.student}: {error}") from None
    objective.to(arithmetic.device)
    return member


def make_optimisers(member: Member, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return the recipe's optimiser for the network and the terms' modules, and Adam for modules that ask for it."""
    term_groups = [group for term in member.objective.terms.values() for group in term.groups()]
    grouped = {id(parameter) for group in term_groups for parameter in group["params"]}
    groups = {"sgd": [{"params": [p for p in member.parameters() if id(p) not in grouped]}], "adam": []}
    for group in term_groups:
        own = {"weight_decay": recipe.weight_decay, "lr": recipe.lr, "scheduled": True} | group
        groups[own.pop("optimiser", "sgd")].append({**own, "start": own["lr"]})
    cuda = member.arithmetic.device.type == "cuda"
    extra = [torch.optim.Adam(groups["adam"], fused=True, capturable=cuda)] if groups["adam"] else []
    if recipe.optimiser == "adam":
        options = {"betas": (recipe.beta1, recipe.beta2), "weight_decay": recipe.weight_decay}
        return [torch.optim.Adam(groups["sgd"], lr=recipe.lr, fused=True, capturable=cuda, **options), *extra]
    options = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "nesterov": recipe.nesterov}
    sgd = torch.optim.SGD(groups["sgd"], lr=recipe.lr, fused=True, **options)
    # Allocated here, because the first step would allocate them between its activations and fragment the heap.
    for group in sgd.param_groups:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return [sgd, *extra]


def momentum_of(network: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return the momentum buffer of each parameter of a network, by the parameter's name."""
    state = optimisers[0].state
    return {key: state[parameter]["momentum_buffer"] for key, parameter in network.named_parameters()}
