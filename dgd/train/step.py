"""The training steps of an epoch; methods differ in the plan only, which is made once from what their terms require."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgd.objectives import Output, Requires
from dgd.train import graphs
from dgd.train.averages import StepAverage, frozen_batch_norm_stats
from dgd.train.launches import lighter
from dgd.train.outcomes import Diverged
from dgd.train.schedule import Rates
from dgd.train.streams import Seeds, generator

DRAWN = ("order", "augment", "partners")
"""What a loader draws before an epoch, each from a stream of that name."""


@dataclass(frozen=True)
class Plan:
    """The plan of a group's step.

    Attributes:
        turns: For each turn, the members (numbers in this process) that learn in it.
        same_batch: All turns use one batch, instead of a batch for each member.
        teachers: Run the teachers on every batch.
        prepare: A function that prepares a batch's inputs, in place.
        seed_teachers: Seed the global generator before the teachers run, because in training mode they may draw random numbers.
        peers: A function (group, turn, inputs, seeds) -> (number -> output) that runs the members, those of the turn with
            gradient.
        own_stream: Name of the random number stream of a member's forward pass and its terms.
    """

    turns: Sequence[Sequence[int]]
    same_batch: bool
    teachers: bool
    prepare: Callable[[Mapping[str, Tensor]], None]
    seed_teachers: bool
    peers: Callable[..., dict[int, Output]]
    own_stream: str

    @classmethod
    def of(cls, requires: Requires, members: int) -> "Plan":
        """Return the plan for an objective's requirements and this number of members in the process."""
        return cls(
            turns=[list(range(members))] if requires.peers == "together" else [[k] for k in range(members)],
            same_batch=requires.peers in ("turns", "together"),
            teachers=bool(requires.teacher),
            prepare=_with_gradient if requires.input_gradient else _as_they_are,
            seed_teachers=requires.teacher == "train",
            peers=_read_peers if requires.peers else _no_peers,
            own_stream="terms" if requires.peers or requires.runs else "dropout",
        )


def _as_they_are(inputs: Mapping[str, Tensor]) -> None:
    """Leave the inputs unchanged."""


def _with_gradient(inputs: Mapping[str, Tensor]) -> None:
    inputs["image"].requires_grad_()


def _no_peers(group, turn: Sequence[int], inputs: Mapping[str, Tensor], seeds: Seeds) -> dict[int, Output]:
    return {}


def _read_peers(group, turn: Sequence[int], inputs: Mapping[str, Tensor], seeds: Seeds) -> dict[int, Output]:
    """Run all members: those of the turn with gradient, the others without and with frozen batch norm statistics."""
    outputs = {}
    for k, member in enumerate(group.members):
        if k in turn:
            seeds.set("dropout", k)
            outputs[k] = member.read(inputs)
        else:
            seeds.set("peer", k, turn[0])
            with torch.no_grad(), frozen_batch_norm_stats(member.network):
                outputs[k] = member.read(inputs)
    return outputs


def train_epoch(group, loader, epoch: int) -> list[dict[str, float]]:
    """Train every network of a cell for an epoch, from 0; see `Steps.read` for what is returned and raised."""
    steps = Steps(group, loader)
    steps.start(epoch)
    return steps.read()


class Steps:
    """The training steps of a group: what they read lies on the device, in tensors that stay the same ones.

    A step takes its part of the epoch by a cursor on the device, and adds to sums that are read once, at the epoch's end. So
    it is one function, which runs as it is, or is captured once and replayed as a CUDA graph.

    Args:
        group: A `dgd.train.group.Group`, with its state loaded.
        loader: Loader of training batches.

    Attributes:
        launch: What runs the step: it says `how`.
    """

    def __init__(self, group, loader):
        self.group, self.loader = group, loader
        mine, device, recipe = group.ranks.mine, group.device, group.recipe
        self.feeds = [loader.feed() for _ in ([0] if group.plan.same_batch else mine)]
        self.names = ["loss", *group.members[0].objective.terms, "metric"]
        self.sums = torch.zeros(len(mine), len(self.names), device=device)
        self.cursor = graphs.Cursor(device)
        self.rates = Rates(group.optimisers, recipe.lr, device)
        self.average = StepAverage(group)
        self.momenta = [group.momentum(k) if member.surgery else {} for k, member in enumerate(group.members)]
        self.seeds = Seeds(group.cell.seed, device, group.plan.own_stream, mine, generators=group.requires.draws)
        self.lighter = lighter(group)
        self.launch = graphs.launcher(self._step, group, loader, self.seeds, self.lighter)

    def start(self, epoch: int) -> None:
        """Run an epoch's steps, from 0; on CUDA they may not have ended when this returns."""
        group, mine, ranks = self.group, self.group.ranks.mine, self.group.ranks
        self.epoch, self.images = epoch, [0] * len(mine)
        group.members.train()
        for i, feed in zip([0] if group.plan.same_batch else mine, self.feeds):
            parts = feed.start(**{name: generator(group.cell.seed, name, i, epoch) for name in DRAWN})
        rates = [group.rates(epoch + step / len(self.loader)) for step in range(len(parts))]
        self.rates.plan([[all_rates[i] for i in mine] for all_rates in rates])
        self.average.plan(epoch)
        for member in group.members:
            member.objective.start_epoch(epoch)
        self.sums.zero_()
        self.cursor.start(parts)
        with self.lighter:
            for step, part in enumerate(parts):
                size = part.stop - part.start
                # DistributedDataParallel averages the shards' gradients; the factor makes that the mean over the batch.
                self.share = size / self.loader.size(step) * ranks.shards
                self.learning = [[k for k in turn if self._learns(k, step)] for turn in group.plan.turns]
                self.seeds.at(epoch, step, ranks.shard)
                self.launch(size)
                for k in (k for turn in self.learning for k in turn):
                    self.images[k] += size

    def _learns(self, k: int, step: int) -> bool:
        cell = self.group.cell
        return self.group.ranks.mine[k] >= cell.evaluated or step % cell.partner_steps == 0

    def _step(self, size: int) -> None:
        """Train a step on the batch that the cursor is at, of this many images."""
        group = self.group
        self.rates.set(self.cursor.at)
        part = self.cursor.part(size)
        batches = [feed.batch(part) for feed in self.feeds]
        by_turn = batches if len(batches) == len(group.plan.turns) else batches * len(group.plan.turns)
        for turn, batch in zip(self.learning, by_turn):
            if not turn:
                continue
            for k, loss in losses(group, turn, batch, self.seeds, self.sums):
                (loss * self.share if group.ranks.shards > 1 else loss).backward()
                self.lighter.gather(k)
                for optimiser in group.optimisers[k]:
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)  # here, so that no gradients are held while others compute theirs
                if group.members[k].surgery:
                    group.members[k].surgery.after_step(self.momenta[k])
                self.lighter.refresh(k)
                self.average.update(k)
        self.cursor.move()

    def read(self) -> list[dict[str, float]]:
        """Wait for the epoch's steps and return the means over them of each network of the cell.

        Returns:
            For each network: train_<metric>, loss, and each term.

        Raises:
            Diverged: A network's loss was not finite.
        """
        return self.group.ranks.all_networks(self._read)

    def _read(self) -> list[dict[str, float]]:
        group, rows = self.group, []
        parts = group.ranks.all_gather_shards((self.sums.tolist(), self.images))
        for k, (i, network) in enumerate(zip(group.ranks.mine, group.networks)):
            seen = sum(shard_images[k] for _, shard_images in parts)
            means = [sum(values) / seen for values in zip(*(sums[k] for sums, _ in parts))]
            # The weights are checked too, because the last step's effect on them is in no loss of this epoch.
            weights = [value for value in network.state_dict().values() if value.is_floating_point()]
            if not math.isfinite(means[0]) or not torch.nn.utils.get_total_norm(weights, 1.0).isfinite():
                raise Diverged(
                    f"the loss of network {i} is not finite in epoch {self.epoch} at learning rate "
                    f"{group.rates(self.epoch)[i]:g}; lower recipe.lr or change the seed"
                )
            row = dict(zip(self.names, means))
            rows.append({f"train_{group.task.metric.name}": group.task.progressed(row.pop("metric")), **row})
        return rows


def losses(group, turn: Sequence[int], batch, seeds: Seeds, sums: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the loss of each member of a turn on a batch, one by one, and add the reported values to `sums`.

    If terms need peers, all members run first: those of the turn with gradient, and the others without.

    Args:
        group: A `dgd.train.group.Group`.
        turn: Numbers of members in this process.
        batch: `dgd.data.Examples`.
        seeds: Seeds of the step's random numbers.
        sums: (members, 2 + terms) on the device: loss, each term, and `Task.total`.
    """
    inputs, labels, plan, mine = batch.inputs, batch.labels, group.plan, group.ranks.mine
    if plan.seed_teachers:
        seeds.set("teacher", mine[turn[0]])
    with torch.no_grad(), group.arithmetic.autocast():
        teachers = [teacher(inputs) for teacher in group.teachers if plan.teachers]
    plan.prepare(inputs)
    outputs = plan.peers(group, turn, inputs, seeds)
    detached = {k: output.detach() for k, output in outputs.items()}
    for k in turn:
        seeds.set(plan.own_stream, mine[k])
        peers = {j: output for j, output in detached.items() if j != k}
        others = {"teachers": teachers, "peers": peers, "runs": group.runs[k], "generator": seeds.generators[k]}
        loss, parts, answer = group.steppers[k](inputs, labels, batch.index, outputs.pop(k, None), **others)
        yield k, loss
        with torch.no_grad():
            values = torch.stack([value.detach() for value in (loss, *parts.values())]) * len(labels)
            sums[k] += torch.cat([values, group.task.progress(answer, labels).float().view(1)])
