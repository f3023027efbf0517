"""The group: the members of a cell that this process trains, with their teachers and optimisers."""

import copy
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from dgd import exchange, models
from dgd.cell import Cell
from dgd.exchange import GraftingError
from dgd.models.folding import freeze
from dgd.models.fused_norm import fuse
from dgd.models.nested import subnets
from dgd.objectives import Objective, Output, Runs, least_faithful
from dgd.task import TASKS
from dgd.train import ranks as processes
from dgd.train.device import Arithmetic, arithmetic
from dgd.train.exchanging import make_rule
from dgd.train.features import Reader
from dgd.train.member import make_member, make_optimisers, make_reader, momentum_of
from dgd.train.outcomes import CannotExchange, NotApplicable
from dgd.train.schedule import learning_rates
from dgd.train.step import Plan
from dgd.train.streams import generator


class Frozen:
    """A teacher that is run alone: in the group's arithmetic, without gradient.

    Args:
        reader: Its reader.
        arithmetic: Device, precision and memory layout.
    """

    def __init__(self, reader: Reader, arithmetic: Arithmetic):
        self.reader, self.network, self.arithmetic = reader, reader.network, arithmetic

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> Output:
        """Return the teacher's output for inputs by name."""
        with self.arithmetic.autocast():
            return self.reader(inputs)


class Group:
    """A group: the members of a cell that this process trains, with all that they learn from.

    Attributes:
        cell: The cell that is trained.
        task: The cell's task.
        arithmetic: Device, precision and memory layout.
        ranks: The cell's processes, and the members that this one has.
        members: One for each network of this process.
        steppers: The members, wrapped by DistributedDataParallel where processes share one.
        networks: The members' networks.
        eval_networks: The networks that are evaluated and saved: all but the cell's partners, or their averages.
        eval_subnets: The sub-nets of `eval_networks`, those of the first network first.
        teachers: Readers of the frozen teachers.
        frozen: The same, to be run alone.
        runs: For each member, the networks that its terms run themselves; None where they run none.
        optimisers: A list for each member.
        rates: A function of the time in epochs that returns the learning rate of each network of the cell.
        plan: The order in which members learn, and what their terms are given.
        rule: The rule of the exchange, or None.

    Raises:
        CannotExchange: The method exchanges weights, and these networks cannot.
        NotApplicable: The method is not defined for these networks.
    """

    def __init__(
        self,
        cell: Cell,
        dataset,
        teachers: Sequence[nn.Module],
        device: torch.device,
        ranks: processes.Ranks | None = None,
    ):
        self.cell, self.recipe, self.device = cell, cell.recipe, device
        self.arithmetic = arithmetic(self.recipe, device)
        self.ranks = ranks or processes.Ranks(cell.networks)
        self.requires = Objective(cell.objective).requires
        self.example = {input: _example(dataset.of(input)).to(device) for input in self.inputs}
        try:
            self.teachers = [self._frozen(self.arithmetic.place(teacher)) for teacher in teachers]
            if cell.teacher_file:
                for reader in self.teachers:
                    reader.units = units(cell, dataset.of(cell.teacher_input), device)
            self.frozen = [Frozen(reader, self.arithmetic) for reader in self.teachers]
            self.task = TASKS[cell.task].bound(self.frozen, dataset)
            setting = dataset, self.example, self.teachers, self.arithmetic
            self.members = nn.ModuleList(make_member(cell, i, *setting) for i in self.ranks.mine)
            self.networks = [member.network for member in self.members]
            self.rule = make_rule(cell.exchange, self.networks)
        except GraftingError as error:
            raise CannotExchange(f"{cell.student} cannot take part in {cell.method!r}: {error}") from None
        if self.recipe.fused_norm:
            for network in self.networks:
                fuse(network, device)
        if self.recipe.compile:
            for network in self.networks:
                for one in (network, *subnets(network).values()):
                    one.compile()
        self.steppers = [self.ranks.wrap(member) for member in self.members]
        self.rates = learning_rates(self.recipe, cell.networks)
        self.optimisers = [make_optimisers(member, self.recipe) for member in self.members]
        self.plan = Plan.of(self.requires, len(self.members))
        evaluated = [network for i, network in zip(self.ranks.mine, self.networks) if i < cell.evaluated]
        self.eval_networks = evaluated if self.recipe.weight_average == "none" else copy.deepcopy(evaluated)
        self.eval_subnets = [subnet for network in self.eval_networks for subnet in subnets(network).values()]
        self.runs = [self._runs(k) for k in range(len(self.members))] if self.requires.runs else [None] * len(self.members)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs that the group takes: the members' own first, then the teachers' if it is another."""
        cell = self.cell
        return (cell.input, cell.teacher_input) if cell.paired else (cell.input,)

    def _runs(self, k: int) -> Runs:
        """Return the networks that the terms of this process's k-th member run themselves."""
        peers = {i: member.run_frozen for i, member in zip(self.ranks.mine, self.members) if i != self.ranks.mine[k]}
        return Runs(self.members[k].run, peers, self.frozen)

    def _frozen(self, teacher: nn.Module) -> Reader:
        """Return the reader of a teacher, in the mode that the terms require."""
        needs = self.requires
        if models.takes(teacher) != "image":
            options = {"input": self.cell.teacher_input}
            return make_reader(teacher.eval().requires_grad_(False), self.example, self.cell, self.arithmetic, **options)
        if needs.teacher == "train":
            teacher = teacher.train().requires_grad_(False)
        elif self.recipe.fold_teacher:
            # A fused block does not run its inner activations as modules, so hooks could not read their inputs.
            teacher = freeze(
                teacher, self.example[self.cell.teacher_input], self.recipe.precision, fuse=not needs.teacher_before
            )
        else:
            teacher = teacher.eval().requires_grad_(False)
        pooled = needs.pooled or needs.teacher_features
        wanted = {"features": needs.features, "pooled": pooled, "before": needs.teacher_before}
        options = {"input": self.cell.teacher_input, "out_indices": self.cell.teacher_out_indices, **wanted}
        return make_reader(teacher, self.example, self.cell, self.arithmetic, **options)

    def momentum(self, k: int) -> dict[str, torch.Tensor]:
        """Return the momentum buffer of each parameter of this process's k-th network, by the parameter's name."""
        return momentum_of(self.networks[k], self.optimisers[k])

    def fidelity(self) -> dict:
        """Return the method's fidelity to its sources: the `status` of its least faithful part, and all `deviations`."""
        member = self.members[0]
        exchanged = exchange.standing(self.cell.exchange.name) if self.cell.exchange else []
        parts = [*member.objective.terms.values(), *exchanged]
        deviations = [text for part in parts for text in part.deviations]
        ends = self.teachers[0].ends if self.requires.teacher_before else []
        if "activated" in ends:
            deviations.append(
                "the teacher's stages end after an activation that is no module of its own (a function, or one before maps are "
                "concatenated or scaled) and are read after it"
            )
        if "not activated" in ends:
            deviations.append("the teacher's stages end without an activation and are read as they are")
        return {"status": least_faithful(parts), "deviations": deviations}

    def state(self) -> list[dict] | None:
        """Return the state that a later epoch depends on, an item for each network; None if this is not the leading process."""
        own = [
            {
                "member": member.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "average": {} if average is None or average is network else average.state_dict(),
            }
            for member, optimisers, average, network in zip_longest(
                self.members, self.optimisers, self.eval_networks, self.networks
            )
        ]
        return self.ranks.gather_networks(own)

    def load(self, states: Sequence[Mapping]) -> None:
        """Restore what `state` returned."""
        for i, member, optimisers in zip(self.ranks.mine, self.members, self.optimisers):
            member.load_state_dict(states[i]["member"])
            for optimiser, state in zip(optimisers, states[i]["optimisers"]):
                optimiser.load_state_dict(state)
        if self.recipe.weight_average != "none":
            for i, average in zip(self.ranks.mine, self.eval_networks):
                average.load_state_dict(states[i]["average"])


def units(cell: Cell, dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return factor and summand (C, 1, 1) that turn normalised images into those that a teacher from a file was trained on.

    Raises:
        NotApplicable: Its constants are not of as many channels.
    """
    file, usual = cell.teacher_file, models.constants(cell.teacher)
    mean, std = file.mean or usual[0], file.std or usual[1]
    if not len(mean) == len(std) == dataset.in_chans:
        raise NotApplicable(
            f"teacher.mean and std of {cell.teacher} are of {len(mean)} and {len(std)} channels, and the images have "
            f"{dataset.in_chans}; give them for each channel"
        )
    of = [torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (dataset.mean, dataset.std, mean, std)]
    factor, summand = of[1] / of[3], (of[0] - of[2]) / of[3]
    return factor.float().to(device), summand.float().to(device)


def _example(dataset) -> torch.Tensor:
    """Return two random images of the shape of a data set's."""
    shape = (2, dataset.in_chans, dataset.image_size, dataset.image_size)
    return torch.randn(shape, generator=generator(0, "example"))
