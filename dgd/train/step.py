"""An epoch of training, step by step; methods differ in the plan only, which is made once from what their terms require."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgd.objectives import Output, Requires
from dgd.train.averages import average_step, frozen_batch_norm_stats
from dgd.train.outcomes import Diverged
from dgd.train.schedule import set_rate
from dgd.train.streams import generator, stream

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
        peers: A function (group, turn, inputs, at) -> (number -> output) that runs the members, those of the turn with
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


def _no_peers(group, turn: Sequence[int], inputs: Mapping[str, Tensor], at: tuple[int, ...]) -> dict[int, Output]:
    return {}


def _read_peers(group, turn: Sequence[int], inputs: Mapping[str, Tensor], at: tuple[int, ...]) -> dict[int, Output]:
    """Run all members: those of the turn with gradient, the others without and with frozen batch norm statistics."""
    seed, outputs = group.cell.seed, {}
    for k, member in enumerate(group.members):
        if k in turn:
            torch.manual_seed(stream(seed, "dropout", k, *at))
            outputs[k] = member.read(inputs)
        else:
            torch.manual_seed(stream(seed, "peer", k, turn[0], *at))
            with torch.no_grad(), frozen_batch_norm_stats(member.network):
                outputs[k] = member.read(inputs)
    return outputs


def train_epoch(group, loader, epoch: int) -> list[dict[str, float]]:
    """Train every network of a cell for an epoch.

    No step waits for the device: sums stay there and are read once, at the epoch's end.

    Args:
        group: A `dgd.train.group.Group`.
        loader: Loader of training batches.
        epoch: The epoch, from 0.

    Returns:
        For each network of the cell the means over the epoch: train_<metric>, loss, and each term.

    Raises:
        Diverged: A network's loss was not finite.
    """
    return group.ranks.all_networks(lambda: _train_epoch(group, loader, epoch))


def _train_epoch(group, loader, epoch: int) -> list[dict[str, float]]:
    seed, mine, ranks, plan = group.cell.seed, group.ranks.mine, group.ranks, group.plan
    group.members.train()
    batches = [
        loader.batches(**{name: generator(seed, name, i, epoch) for name in DRAWN}) for i in ([0] if plan.same_batch else mine)
    ]
    names = ["loss", *group.members[0].objective.terms, "metric"]
    sums = torch.zeros(len(mine), len(names), device=group.device)
    momenta = [group.momentum(k) if member.surgery else {} for k, member in enumerate(group.members)]
    images = [0] * len(mine)
    for step, step_batches in enumerate(zip(*batches)):
        by_turn = step_batches if len(step_batches) == len(plan.turns) else step_batches * len(plan.turns)
        time, share = epoch + step / len(loader), len(step_batches[0]) / loader.size(step)
        rates = group.rates(time)
        for turn, batch in zip(plan.turns, by_turn):
            turn = [k for k in turn if mine[k] >= group.cell.evaluated or step % group.cell.partner_steps == 0]
            if not turn:
                continue
            for k, loss in losses(group, turn, batch, time, (epoch, step, ranks.shard), sums):
                # DistributedDataParallel averages the shards' gradients; the factor makes that the mean over the batch.
                (loss * (share * ranks.shards) if ranks.shards > 1 else loss).backward()
                for optimiser in group.optimisers[k]:
                    set_rate(optimiser, rates[mine[k]], group.recipe.lr)
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)  # here, so that no gradients are held while others compute theirs
                if group.members[k].surgery:
                    group.members[k].surgery.after_step(momenta[k])
                average_step(group, k, epoch)
                images[k] += len(step_batches[0])
    parts = ranks.all_gather_shards((sums.tolist(), images))
    rows = []
    for k, (i, network) in enumerate(zip(mine, group.networks)):
        seen = sum(shard_images[k] for _, shard_images in parts)
        means = [sum(values) / seen for values in zip(*(sums[k] for sums, _ in parts))]
        # The weights are checked too, because the last step's effect on them is in no loss of this epoch.
        finite = [v.isfinite().all() for v in network.state_dict().values() if v.is_floating_point()]
        if not math.isfinite(means[0]) or not torch.stack(finite).all():
            raise Diverged(
                f"the loss of network {i} is not finite in epoch {epoch} at learning rate "
                f"{group.rates(epoch)[i]:g}; lower recipe.lr or change the seed"
            )
        row = dict(zip(names, means))
        rows.append({f"train_{group.task.metric.name}": group.task.progressed(row.pop("metric")), **row})
    return rows


def losses(group, turn: Sequence[int], batch, time: float, at: tuple[int, ...], sums: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the loss of each member of a turn on a batch, one by one, and add the reported values to `sums`.

    If terms need peers, all members run first: those of the turn with gradient, and the others without.

    Args:
        group: A `dgd.train.group.Group`.
        turn: Numbers of members in this process.
        batch: `dgd.data.Examples`.
        time: Epochs trained so far; a fraction within an epoch.
        at: Epoch, step and shard, which are part of the names of random number streams.
        sums: (members, 2 + terms) on the device: loss, each term, and `Task.total`.
    """
    inputs, labels, plan = batch.inputs, batch.labels, group.plan
    seed, mine = group.cell.seed, group.ranks.mine
    if plan.seed_teachers:
        torch.manual_seed(stream(seed, "teacher", mine[turn[0]], *at))
    with torch.no_grad(), group.arithmetic.autocast():
        others = {"teachers": [teacher(inputs) for teacher in group.teachers if plan.teachers], "time": time}
    plan.prepare(inputs)
    outputs = plan.peers(group, turn, inputs, at)
    detached = {k: output.detach() for k, output in outputs.items()}
    for k in turn:
        torch.manual_seed(stream(seed, plan.own_stream, mine[k], *at))
        peers = {j: output for j, output in detached.items() if j != k}
        others |= {"peers": peers, "runs": group.runs[k]}
        loss, parts, answer = group.steppers[k](inputs, labels, batch.index, outputs.pop(k, None), **others)
        yield k, loss
        with torch.no_grad():
            total = group.task.progress(answer, labels).float()
            sums[k] += torch.stack([*(value.detach() * len(labels) for value in (loss, *parts.values())), total])
