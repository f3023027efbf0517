"""One loop for every method: a group of networks learns together in one process.

What differs between methods comes in as data: the objective's terms, the teachers' logits, and the exchange at an epoch's end.
Every random number is drawn from a stream named by seed, purpose, network and epoch, so an epoch can be run again by itself: a
killed training goes on from its last epoch and ends in the same bytes.
"""

import copy
import ctypes
import hashlib
import io
import itertools
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from dgd import checkpoint, distributed, filters, identity, memory, methods, models, provenance
from dgd import data as datasets
from dgd.cell import Cell
from dgd.config import processes
from dgd.data.loader import EVALUATION_BATCH
from dgd.grafting import CARRIED, RING, WITHIN, GraftingError, blend, write
from dgd.models.folding import freeze
from dgd.objectives import Batch, Objective, Output, Setting, weakest
from dgd.objectives.explaining import explainable
from dgd.outcomes import CannotExchange, Diverged, NoResult, NotApplicable, NoTeacher
from dgd.surgery import SURGERY
from dgd.taps import Reader

SAID = (
    *("epochs", "batch_size", "lr", "schedule", "step_epochs", "milestones", "gamma"),
    *("weight_decay", "momentum", "nesterov", "weight_average"),
)
"""What of the recipe stands in metrics.json, and so in cells.csv: what a published number must agree in."""
RESUME = "resume.pt"
REESTIMATE = 50
"""Batches that batch norm's statistics are estimated from anew, where that is asked for."""


def stream(seed: int, *names) -> int:
    """The seed of one stream of random numbers: a hash of the cell's seed and what the stream is for."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names) -> torch.Generator:
    """A CPU generator for one stream."""
    return torch.Generator().manual_seed(stream(seed, *names))


def learning_rates(recipe: Mapping, networks: int) -> Callable[[float], list[float]]:
    """The learning rate of each network as a function of time in epochs (a fraction within an epoch).

    `slr`: one rate for all, times gamma every `step_epochs`, or at each of `milestones`. `difflr`: network i of N (from 1)
    starts at `lr * (1 + cos(pi (N - i) / N)) / 2`, so the first, reported one has the lowest; steps as slr (the released code's
    default). `dlr`: the same starts, cosine decay in every step (the README's "dlr"). With one network all starts are `lr`.
    `cosine`: one rate for all, cosine decay in every step.
    """
    lr, epochs, schedule = recipe["lr"], recipe["epochs"], recipe["schedule"]
    starts = [lr] * networks
    if schedule in ("dlr", "difflr"):
        starts = [lr * (1 + math.cos(math.pi * (networks - i) / networks)) / 2 for i in range(1, networks + 1)]

    def at(time: float) -> list[float]:
        if schedule in ("dlr", "cosine"):
            factor = (1 + math.cos(math.pi * time / epochs)) / 2
        else:
            passed = sum(time >= epoch for epoch in recipe["milestones"]) if recipe["milestones"] else None
            factor = recipe["gamma"] ** (int(time) // recipe["step_epochs"] if passed is None else passed)
        return [start * factor for start in starts]

    return at


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one; under torchrun each process of a machine takes a device of its own.

    Raises:
        ValueError: CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("recipe.device is 'cuda' and no CUDA device is available; use 'auto' or 'cpu'")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


class Learner(nn.Module):
    """A network, what it minimises and what is done to it, as one module: what data parallel training wraps.

    Args:
        network: Images (B, C, H, W) to logits (B, K).
        objective: A `Batch` to a scalar and its terms.
        autocast: Gives the context in which the network runs.
        reader: Reads the network's features.
        surgery: An exchange that works within the network, step by step; see `dgd.surgery`.
    """

    def __init__(
        self, network: nn.Module, objective: Objective, autocast: Callable, reader: Reader, surgery: nn.Module | None = None
    ):
        super().__init__()
        self.network, self.objective, self.surgery = network, objective, surgery
        self.autocast, self.reader = autocast, reader

    def read(self, images: Tensor) -> Output:
        """What the network gives for images."""
        with self.autocast(), explainable(images):
            return self.reader(images)

    def forward(self, images: Tensor, labels: Tensor, index: Tensor, own: Output | None = None, **others):
        """(loss, term -> loss, logits (B, K)) of one batch; `own` is what the network gives for it, if that is known."""
        own = own or self.read(images)
        loss, parts = self.objective(Batch(images, labels, index, own, **others))
        return loss, parts, own.logits


class Group:
    """The networks of a cell that this process trains, their optimisers, teachers, objectives and exchange.

    Everything that is drawn for a network depends on its number alone, not on which process trains it or what else that does.
    """

    def __init__(
        self,
        cell: Mapping,
        dataset,
        teachers: list[nn.Module],
        device: torch.device,
        ranks: distributed.Ranks | None = None,
    ):
        self.cell, self.recipe, self.device = cell, cell["recipe"], device
        self.ranks = ranks or distributed.Ranks(cell["networks"])
        recipe = self.recipe
        self.exchange = methods.filled_exchange(cell["exchange"], cell["protocol"])
        self.needs = Objective(cell["objective"]).needs
        shape = (2, dataset.in_chans, dataset.image_size, dataset.image_size)
        self.example = torch.randn(shape, generator=generator(0, "example")).to(device)
        try:
            self.teachers = [self._frozen(self._place(teacher)) for teacher in teachers]
            self.learners = nn.ModuleList(self._learner(i, dataset) for i in self.ranks.mine)
            if self.exchange and self.exchange["name"] not in SURGERY:  # now, not after an epoch
                self._exchange([self.learners[0].network.state_dict()] * 2, 0)
        except GraftingError as error:
            raise CannotExchange(f"{cell['student']} cannot take part in {cell['method']!r}: {error}") from None
        self.networks = [learner.network for learner in self.learners]
        if recipe["compile"]:
            for network in self.networks:
                network.compile()
        self.steppers = [self.ranks.wrap(learner) for learner in self.learners]
        self.rates = learning_rates(recipe, cell["networks"])
        self.optimisers = [self._optimisers(learner) for learner in self.learners]
        # Networks learn together, from outputs of before the step, or in turn, each on its own batch or all on the same.
        every = range(len(self.networks))
        self.turns = [list(every)] if "together" in self.needs else [[k] for k in every]
        # What is evaluated and saved: the networks, or their averages over epochs.
        self.shown = self.networks if recipe["weight_average"] == "none" else copy.deepcopy(self.networks)

    def _place(self, net: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.recipe["channels_last"] else torch.preserve_format
        return net.to(self.device, memory_format=layout)

    def _frozen(self, teacher: nn.Module) -> Reader:
        taps, before = "taps" in self.needs, "teacher_before" in self.needs
        if "teacher_train" in self.needs:
            return self._reader(teacher.train().requires_grad_(False), taps, before)
        if not self.recipe["fold_teacher"]:
            return self._reader(teacher.eval().requires_grad_(False), taps, before)
        # Inside a fused block there is nothing to be read.
        return self._reader(freeze(teacher, self.example, self.recipe["precision"], fuse=not before), taps, before)

    def _reader(self, network: nn.Module, taps: bool, before: bool) -> Reader:
        try:
            with self._autocast():
                return Reader(network, self.example, taps=taps, before=before)
        except ValueError as error:
            raise NotApplicable(f"{self.cell['method']!r}: {error}") from None

    def _learner(self, i: int, dataset) -> Learner:
        """Network i of the cell with its objective, built from what it gives for an example."""
        cell = self.cell
        torch.manual_seed(stream(cell["seed"], "init", i))
        network = self._place(_create(cell["student"], dataset, cell))
        surgery = None
        if self.exchange and self.exchange["name"] in SURGERY:
            surgery = SURGERY[self.exchange["name"]](network, self.example, **_options(self.exchange)).to(self.device)
        reader = self._reader(network, "taps" in self.needs, "before" in self.needs)
        torch.manual_seed(stream(cell["seed"], "init", "objective", i))
        learner = Learner(network, Objective(cell["objective"], self._autocast), self._autocast, reader, surgery)
        with torch.no_grad(), self._autocast():
            network.eval()
            own, teachers = reader(self.example), [teacher(self.example) for teacher in self.teachers]
        peers = {j: own for j in range(cell["networks"]) if j != i}  # one architecture: the same shapes
        labels = dataset.tensors["train_labels"].to(self.device)
        setting = Setting(network=i, networks=cell["networks"], labels=labels)
        number = torch.arange(2, device=self.device)
        try:
            learner.objective.setup(Batch(self.example, labels[:2], number, own, teachers, peers), setting)
        except ValueError as error:
            raise NotApplicable(f"{cell['method']!r} of {cell['student']}: {error}") from None
        learner.objective.to(self.device)
        return learner

    def _optimisers(self, learner: Learner) -> list[torch.optim.Optimizer]:
        """SGD as the recipe says, for the network and the terms' modules, and Adam for those that ask for it."""
        recipe = self.recipe
        apart = [group for term in learner.objective.terms.values() for group in term.groups()]
        taken = {id(parameter) for group in apart for parameter in group["params"]}
        groups = {"sgd": [{"params": [p for p in learner.parameters() if id(p) not in taken]}], "adam": []}
        for group in apart:
            own = {"weight_decay": recipe["weight_decay"], "lr": recipe["lr"], "scheduled": True} | group
            groups[own.pop("optimiser", "sgd")].append({**own, "start": own["lr"]})
        options = {"momentum": recipe["momentum"], "weight_decay": recipe["weight_decay"], "nesterov": recipe["nesterov"]}
        sgd = torch.optim.SGD(groups["sgd"], lr=recipe["lr"], fused=True, **options)
        # The first step would make these between its activations, and leave the heap in pieces.
        for group in sgd.param_groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return [sgd, torch.optim.Adam(groups["adam"], fused=True)] if groups["adam"] else [sgd]

    def _autocast(self):
        if self.recipe["precision"] == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def train_epoch(self, loader, epoch: int) -> list[dict[str, float]]:
        """Train every network for an epoch; means over the epoch for each network: loss, each term, train_top1 (percent).

        Nothing waits for the device within the epoch: sums stay there and are read once at its end.

        Raises:
            Diverged: A network's loss was not finite.
        """
        return self.ranks.all(lambda: self._train_epoch(loader, epoch))

    def _train_epoch(self, loader, epoch: int) -> list[dict[str, float]]:
        seed, mine = self.cell["seed"], self.ranks.mine
        self.learners.train()
        batches = [
            loader.batches(order=generator(seed, "order", i, epoch), augment=generator(seed, "augment", i, epoch))
            for i in ([0] if "same_batch" in self.needs else mine)
        ]
        names = ["loss", *self.learners[0].objective.terms, "correct"]
        sums = torch.zeros(len(mine), len(names), device=self.device)
        momenta = [self._momentum(k) if learner.surgery else {} for k, learner in enumerate(self.learners)]
        seen = 0
        for step, group in enumerate(zip(*batches)):
            if len(group) < len(self.turns):
                group *= len(self.turns)
            time, share = epoch + step / len(loader), len(group[0][1]) / loader.size(step)
            rates = self.rates(time)
            for turn, batch in zip(self.turns, group):
                for k, loss in self._losses(turn, batch, time, (epoch, step, self.ranks.shard), sums):
                    # Shards' gradients are averaged; this makes that the mean over the batch where their sizes differ.
                    (loss * (share * self.ranks.shards) if self.ranks.shards > 1 else loss).backward()
                    for optimiser in self.optimisers[k]:
                        _set_rate(optimiser, rates[mine[k]], self.recipe["lr"])
                        optimiser.step()
                        optimiser.zero_grad(set_to_none=True)  # now: between steps nobody holds gradients
                    if self.learners[k].surgery:
                        self.learners[k].surgery.after_step(momenta[k])
            seen += len(group[0][1])
        parts = self.ranks.over_shards((sums.tolist(), seen))
        seen = sum(images for _, images in parts)
        rows = []
        for k, (i, network) in enumerate(zip(mine, self.networks)):
            means = [sum(values) / seen for values in zip(*(sums[k] for sums, _ in parts))]
            # What the last step did to weights and batch statistics shows in no loss of this epoch.
            held = [v.isfinite().all() for v in network.state_dict().values() if v.is_floating_point()]
            if not math.isfinite(means[0]) or not torch.stack(held).all():
                raise Diverged(
                    f"the loss of network {i} is not finite in epoch {epoch} at learning rate "
                    f"{self.rates(epoch)[i]:g}; lower recipe.lr or change the seed"
                )
            row = dict(zip(names, means))
            rows.append({"train_top1": 100 * row.pop("correct"), **row})
        return rows

    def _losses(self, turn: list[int], batch: tuple, time: float, at: tuple[int, ...], sums: Tensor) -> Iterator:
        """The loss of each of this process's networks `turn` on a batch, one by one; adds what is told of it to `sums` (k, :).

        Where terms see the group's other networks, those of the turn run first, with gradient, and the others without.
        """
        images, labels, index = batch
        seed, mine = self.cell["seed"], self.ranks.mine
        if "teacher_train" in self.needs:  # it may draw
            torch.manual_seed(stream(seed, "teacher", mine[turn[0]], *at))
        with torch.no_grad(), self._autocast():
            others = {"teachers": [teacher(images) for teacher in self.teachers], "time": time}
        if "input_gradient" in self.needs:
            images.requires_grad_()
        outputs: dict[int, Output] = {}
        if "peers" in self.needs:
            for k, learner in enumerate(self.learners):
                torch.manual_seed(stream(seed, "dropout", k, *at) if k in turn else stream(seed, "peer", k, turn[0], *at))
                if k in turn:
                    outputs[k] = learner.read(images)
                else:
                    with torch.no_grad(), _still(learner.network):
                        outputs[k] = learner.read(images)
        seen = {k: output.detach() for k, output in outputs.items()}
        for k in turn:
            torch.manual_seed(stream(seed, "terms" if outputs else "dropout", mine[k], *at))
            peers = {j: output for j, output in seen.items() if j != k}
            loss, parts, logits = self.steppers[k](images, labels, index, outputs.pop(k, None), peers=peers, **others)
            yield k, loss
            with torch.no_grad():
                correct = (logits.argmax(1) == labels).float().sum()
                sums[k] += torch.stack([*(value.detach() * len(labels) for value in (loss, *parts.values())), correct])

    def evaluate(self, loader) -> tuple[list[float], list[float], Tensor]:
        """Top-1 (percent) and mean cross-entropy of each network, and predictions (networks, images) on the CPU."""
        top1, loss, predictions = zip(*self.ranks.all(lambda: self._evaluate(loader)))
        return list(top1), list(loss), torch.stack(predictions)

    @torch.no_grad()
    def _evaluate(self, loader) -> list[tuple[float, float, Tensor]]:
        for network in self.shown:
            self.ranks.same_buffers(network.eval())
        sums = torch.zeros(len(self.networks), 2, device=self.device)
        predictions = []
        for images, labels, _ in loader.batches():
            with self._autocast():
                logits = torch.stack([network(images) for network in self.shown]).float()
            predicted = logits.argmax(2)
            correct = (predicted == labels).sum(1)
            sums += torch.stack([correct, torch.stack([F.cross_entropy(z, labels, reduction="sum") for z in logits])], 1)
            predictions.append(predicted)
        parts = self.ranks.over_shards((sums.cpu(), [batch.cpu() for batch in predictions]))
        correct, loss = sum(sums for sums, _ in parts).T.tolist()
        predicted = torch.cat([part for batch in zip(*(batches for _, batches in parts)) for part in batch], 1)
        return [(100 * n / loader.images, x / loader.images, own) for n, x, own in zip(correct, loss, predicted)]

    def average(self, epoch: int) -> None:
        """Take the networks' weights into their averages over epochs, if the recipe wants such; call it after each epoch.

        `ema`: decay * average + (1 - decay) * weights. `swa`: the mean since epoch `average_from`. Source: 1803.05407.
        """
        recipe = self.recipe
        if recipe["weight_average"] == "none":
            return
        taken = max(0, epoch + 1 - recipe["average_from"])  # epochs that are in the average
        share = taken / (taken + 1) if recipe["weight_average"] == "swa" else min(taken, 1) * recipe["average_decay"]
        for shown, network in zip(self.shown, self.networks):
            own, now = shown.state_dict(), network.state_dict()
            write(own, blend(own, now, {key: share if value.is_floating_point() else 0.0 for key, value in own.items()}))

    def prepare_averages(self, loader, epoch: int) -> None:
        """Estimate the batch statistics of averaged weights from training batches; call it before they are evaluated."""
        if self.recipe["weight_average"] != "none":
            self._reestimate(self.shown, loader, "average", epoch)

    @torch.no_grad()
    def _reestimate(self, networks: list[nn.Module], loader, purpose: str, epoch: int) -> None:
        seed = self.cell["seed"]
        for i, network in zip(self.ranks.mine, networks):
            network.train()
            torch.manual_seed(stream(seed, "dropout", purpose, i, epoch, self.ranks.shard))
            streams = {name: generator(seed, name, purpose, i, epoch) for name in ("order", "augment")}
            with _still(network) as norms:
                for norm in norms:
                    norm.reset_running_stats()
                batches = itertools.islice(loader.batches(**streams), REESTIMATE if norms else 0)
                for n, (images, _, _) in enumerate(batches, 1):
                    for norm in norms:
                        norm.momentum = 1 / n  # torch's None does the same, and waits for the device to count
                    with self._autocast():
                        network(images)

    def trades(self, epoch: int, when: str) -> bool:
        """Whether the networks exchange weights after this epoch, 'before' or 'after' its evaluation.

        An exchange that comes after the evaluation is left out after the last epoch: nothing would see it.
        """
        rule, n = self.exchange, epoch + 1
        if not rule or rule["evaluate"] == when or (when == "after" and n == self.recipe["epochs"]):
            return False
        return n >= rule["from"] and (rule["until"] is None or n <= rule["until"]) and n % rule["every"] == 0

    @torch.no_grad()
    def trade(self, epoch: int, loader=None) -> list[np.ndarray] | None:
        """Let the networks exchange weights as the method says.

        Args:
            epoch: From 0.
            loader: Training batches, for `batch_norm: reestimate`.

        Returns:
            For each network of the cell the share (layers,) that each convolution layer kept of itself; None for an exchange
            within a network.
        """
        rule = self.exchange
        if rule["name"] in SURGERY:
            for k, (i, learner) in enumerate(zip(self.ranks.mine, self.learners)):
                learner.surgery.after_epoch(epoch, self._momentum(k), generator(self.cell["seed"], "surgery", i, epoch))
            return None
        carried = [{**network.state_dict()} for network in self.networks]
        buffers = [{CARRIED + key: b for key, b in self._momentum(k).items()} for k in range(len(self.networks))]
        carries = rule.get("momentum") == "graft"
        if carries:
            carried = [{**state, **extra} for state, extra in zip(carried, buffers)]
        # All that the first one's new state depends on besides.
        left = self.ranks.left(carried) if rule["name"] in RING else []
        new, shares = self._exchange([*left, *carried], epoch)
        for network, extra, state in zip(self.networks, buffers, new[len(left) :]):
            write({**network.state_dict(), **(extra if carries else {})}, state)
        if rule.get("momentum") == "reset":
            for buffer in itertools.chain.from_iterable(extra.values() for extra in buffers):
                buffer.zero_()
        if rule.get("batch_norm") == "reestimate":
            self._reestimate(self.networks, loader, "exchange", epoch)
        if shares is None:
            return None
        return self.ranks.all(lambda: [_layer_shares(net, own) for net, own in zip(self.networks, shares[len(left) :])])

    def _exchange(self, states: list[Mapping], epoch: int) -> tuple[list[Mapping], list[dict] | None]:
        """New states, and the share that each tensor kept of itself where there is a neighbour."""
        rule = self.exchange
        options = _options(rule)
        if rule["name"] in WITHIN:
            seeds = [generator(self.cell["seed"], "noise", i, epoch) for i in self.ranks.mine]
            within = WITHIN[rule["name"]]
            return [within(state, epoch=epoch + 1, generator=g, **options) for state, g in zip(states, seeds)], None
        plain = [{key: value for key, value in state.items() if not key.startswith(CARRIED)} for state in states]
        shares = RING[rule["name"]](plain, **options)
        rounded = options.get("digits") is not None
        return [blend(states[i], states[i - 1], shares[i], rounded) for i in range(len(states))], shares

    def _momentum(self, k: int) -> dict[str, Tensor]:
        """The momentum buffer of each parameter of this process's k-th network."""
        held = self.optimisers[k][0].state
        return {key: held[parameter]["momentum_buffer"] for key, parameter in self.networks[k].named_parameters()}

    def norms(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each network of the cell: L1 norms of all convolution filters (filters,), and entropy of each layer (layers,)."""
        return self.ranks.all(lambda: [_norms(network) for network in self.shown])

    @torch.no_grad()
    def ensemble(self, loader) -> float:
        """Top-1 (percent) of the mean of the networks' probabilities; call it after `evaluate`."""
        parts, truth = [], []
        for images, labels, _ in loader.batches():
            with self._autocast():
                logits = [network(images) for network in self.shown]
            parts.append(sum(z.float().softmax(1) for z in logits).cpu())
            truth.append(labels.cpu())
        everyone, correct = self.ranks.everywhere((parts, truth)), 0
        for shard in range(self.ranks.shards):
            groups = [parts for parts, _ in everyone[shard :: self.ranks.shards]]
            for labels, *batch in zip(everyone[shard][1], *groups):
                correct += int((sum(batch).argmax(1) == labels).sum())
        return 100 * correct / loader.images

    def about(self) -> dict:
        """How the method stands to its sources: its `status`, that of its least faithful part, and all `deviations`."""
        learner = self.learners[0]
        parts = [*learner.objective.terms.values(), *([learner.surgery] if learner.surgery else [])]
        deviations = [text for part in parts for text in part.deviations]
        if "teacher_before" in self.needs and any(act is None for act in self.teachers[0].last_acts):
            deviations.append("the teacher's stages end without an activation and are read as they are")
        return {"status": weakest(parts), "deviations": deviations}

    def state(self) -> list[dict] | None:
        """All that a later epoch depends on, an item a network of the cell; None where the process does not lead."""
        own = [
            {
                "learner": learner.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "shown": shown.state_dict() if shown is not network else {},
            }
            for learner, optimisers, shown, network in zip(self.learners, self.optimisers, self.shown, self.networks)
        ]
        return self.ranks.collect(own)

    def load(self, states: list[Mapping]) -> None:
        """Take up what `state` gave."""
        for i, learner, optimisers in zip(self.ranks.mine, self.learners, self.optimisers):
            learner.load_state_dict(states[i]["learner"])
            for optimiser, state in zip(optimisers, states[i]["optimisers"]):
                optimiser.load_state_dict(state)
        if self.shown is not self.networks:
            for i, shown in zip(self.ranks.mine, self.shown):
                shown.load_state_dict(states[i]["shown"])


@contextmanager
def _still(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Have the batch norms' running statistics stay, or take of each batch what the caller gives as their `momentum`."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield norms
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum


def _set_rate(optimiser: torch.optim.Optimizer, rate: float, start: float) -> None:
    """Give every parameter group its learning rate; one that starts elsewhere follows the network's in proportion."""
    for group in optimiser.param_groups:
        if "start" not in group:
            group["lr"] = rate
        elif group["scheduled"]:
            group["lr"] = group["start"] * rate / start


def _options(exchange: Mapping) -> dict:
    """What of an exchange is its own, and not about when it takes place or what goes with it."""
    around = set(methods.AROUND) | set(methods.WHEN) | {"name"}
    return {key: value for key, value in exchange.items() if key not in around}


def _norms(network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    norms = filters.l1_norms(network)
    if not norms:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    entropies = torch.stack(list(filters.layer_entropies(network).values()))
    return filters.flatten(norms).cpu().numpy(), entropies.numpy()


def _layer_shares(network: nn.Module, shares: Mapping) -> np.ndarray:
    """What each convolution layer kept of itself, its filters' mean where they differ; a layer that was left alone kept all."""
    kept = [shares[key] for key in filters.conv_weights(network)]
    return np.array([1.0 if share is None else float(torch.as_tensor(share).mean()) for share in kept], np.float32)


def _create(name: str, dataset, cell: Mapping) -> nn.Module:
    return models.create(
        name,
        num_classes=dataset.num_classes,
        in_chans=dataset.in_chans,
        image_size=dataset.image_size,
        adapt_stem=cell["adapt_stem"],
    )


def load_teacher(folder: Path, dataset, cell: Mapping) -> nn.Module:
    """The first network of a finished cell, at its last epoch.

    Raises:
        NoTeacher: That cell has no result.
        ValueError: Its folder holds no cell, or weights of another shape.
    """
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        raise ValueError(f"{metrics}: no such file; train the teacher first")
    record = json.loads(metrics.read_text())
    if record["status"] != "finished":
        raise NoTeacher(f"the teacher in {folder} has no result: {record.get('error', record['status'])}")
    teacher = _create(record["cell"]["student"], dataset, cell)
    weights = checkpoint.load_weights(folder / "model.safetensors")
    try:
        teacher.load_state_dict({key[2:]: value for key, value in weights.items() if key.startswith("0.")})
    except RuntimeError as error:
        raise ValueError(f"{folder / 'model.safetensors'}: {str(error).splitlines()[-1].strip()}") from None
    return teacher


def train_cell(cell: Mapping, *, results: str | Path, data: str | Path, out: str | Path | None = None) -> dict | None:
    """Train one cell and write its folder; under `torchrun` all its processes call this together, see `dgd.distributed`.

    Args:
        cell: A resolved cell of `dgd.config.cells`.
        results: Root of the results; teachers are looked up below it.
        data: Folder of the prepared data set.
        out: The cell's folder; `results / cell['path']` by default.

    Returns:
        What metrics.json holds; None in the processes of a `torchrun` that do not lead.

    Raises:
        Diverged: A loss was not finite. The folder then holds metrics.json with `status` and `error`, and empty outputs.
        NoTeacher: The teacher has no result; recorded likewise.
        ValueError: There are not as many processes as the recipe's `ranks_per_network` asks for.
    """
    out = Path(out or Path(results) / cell["path"])
    out.mkdir(parents=True, exist_ok=True)
    recipe = cell["recipe"]
    set_up(recipe)
    device = pick_device(recipe["device"])
    if device.type == "cuda":
        torch.cuda.init()  # the next line does not
        torch.cuda.reset_peak_memory_stats(device)
    dataset = datasets.load(data)
    folders = [Path(results) / path for path in cell["teachers"]]
    facts = {
        "identity": identity.record(Cell.from_plain(cell), results=results, data=data),
        "dataset_sha256": provenance.file_hash(Path(data) / "manifest.json"),
        "teachers": {path: _hash(folder / "model.safetensors") for path, folder in zip(cell["teachers"], folders)},
    }
    about = {key: cell[key] for key in ("benchmark", "dataset", "model", "method", "seed", "student", "teacher")}
    about |= {
        "teachers": len(folders),
        "networks": cell["networks"],
        **{key: recipe[key] for key in SAID},
        "protocol": cell["protocol"],
        "train_images": cell["data"]["train_images"],
    }
    stamp = json.dumps([cell, facts], sort_keys=True)
    ranks = distributed.join(cell["networks"], processes(cell), device)
    try:
        teachers = [load_teacher(folder, dataset, cell) for folder in folders]
        group = Group(cell, dataset, teachers, device, ranks)
        facts["started"] = datetime.now(UTC).isoformat(timespec="microseconds")
        result = _fit(group, dataset, out, stamp)
    except NoResult as error:
        result = {
            "metrics": {"status": error.status, "error": str(error)},
            "history": pd.DataFrame(),
            "predictions": {},
            "filters": {},
            "weights": {},
        }
        if ranks.leads:
            _write(out, cell, about, facts, result)
        ranks.close()
        raise
    metrics = _write(out, cell, about, facts, result) if ranks.leads else None
    ranks.close()
    return metrics


def _fit(group: Group, dataset, out: Path, stamp: str) -> dict | None:
    """The epochs: train, evaluate, exchange; or train, exchange, evaluate where the exchange says so."""
    cell, recipe, ranks = group.cell, group.recipe, group.ranks
    epochs = recipe["epochs"]
    workers = cell["data"]["workers"]

    def loader(split: str, size: int):
        return dataset.loader(
            split,
            batch_size=size,
            device=group.device,
            workers=workers,
            channels_last=recipe["channels_last"],
            shard=(ranks.shard, ranks.shards),
        )

    train = loader("train", recipe["batch_size"])
    test = loader("test", EVALUATION_BATCH)
    validation = loader("validation", EVALUATION_BATCH) if dataset.sizes["validation"] else None
    resume = out / RESUME
    history, spent, first = [], {"seconds": 0.0, "training": 0.0}, 0
    trace: dict[str, list] = {"epochs": [], "norms": [], "exchanges": [], "shares": []}
    if state := ranks.told(checkpoint.load_state(resume, stamp) if ranks.leads else None):
        group.load(state["group"])
        history, spent, first = state["history"], state["spent"], state["epoch"] + 1
        trace = {key: [_from_tensors(item) for item in items] for key, items in state["trace"].items()}
    bar = tqdm(
        range(first, epochs),
        initial=first,
        total=epochs,
        desc=cell["path"],
        unit="epoch",
        mininterval=5,
        disable=not ranks.leads,
    )
    predictions = None

    def trade(when: str) -> None:
        if group.trades(epoch, when):
            shares = group.trade(epoch, train)
            if shares is not None:
                trace["exchanges"].append(epoch)
                trace["shares"].append(shares)

    for epoch in bar:
        start = time.perf_counter()
        rows = group.train_epoch(train, epoch)
        spent["training"] += time.perf_counter() - start
        row = {"epoch": epoch}
        last = epoch == epochs - 1
        trade("before")
        group.average(epoch)
        if last or (epoch + 1) % recipe["filters_every"] == 0:
            trace["epochs"].append(epoch)
            trace["norms"].append(group.norms())
        if last or (epoch + 1) % recipe["evaluate_every"] == 0:
            group.prepare_averages(train, epoch)
            top1, loss, predictions = group.evaluate(test)
            if not all(map(math.isfinite, loss)):
                raise Diverged(f"the test loss is not finite in epoch {epoch}; lower recipe.lr or change the seed")
            validated = group.evaluate(validation)[0] if validation else [None] * len(rows)
        else:
            top1 = loss = validated = [None] * len(rows)
        for i, means in enumerate(rows):
            row[f"lr_{i}"] = group.rates(epoch)[i]
            row |= {f"{name}_{i}": value for name, value in means.items()}
            row |= {f"validation_top1_{i}": validated[i], f"test_top1_{i}": top1[i], f"test_loss_{i}": loss[i]}
        history.append(row)
        bar.set_postfix_str(f"loss {rows[0]['loss']:.3f}" + (f", test {top1[0]:.2f} %" if top1[0] is not None else ""), False)
        trade("after")
        spent["seconds"] += time.perf_counter() - start
        state = None if last else group.state()
        if state:
            point = {"group": state, "history": history, "spent": spent, "epoch": epoch, "stamp": stamp}
            point["trace"] = {key: [_to_tensors(item) for item in items] for key, items in trace.items()}
            checkpoint.save_state(resume, point)
    together = group.ensemble(test) if cell["networks"] > 1 else None
    peak = peak_memory(group)
    states = ranks.collect([network.state_dict() for network in group.shown])
    if not states:
        return None
    result = _result(group, dataset, states, history, predictions, spent, train.images, peak)
    result["metrics"]["method"] = group.about()
    result["metrics"]["ensemble"] = None if together is None else {"top1": together}
    result["filters"] |= _trace_arrays(trace)
    return result


def _to_tensors(item):
    """Arrays as tensors, which a resume point may hold; lists and tuples of them too."""
    return torch.from_numpy(item) if isinstance(item, np.ndarray) else _each(_to_tensors, item)


def _from_tensors(item):
    return item.numpy() if isinstance(item, Tensor) else _each(_from_tensors, item)


def _each(change: Callable, item):
    return type(item)(map(change, item)) if isinstance(item, list | tuple) else item


def _trace_arrays(trace: Mapping[str, list]) -> dict[str, np.ndarray]:
    """What filters.npz holds about the epochs: norms and entropies, and the shares of the exchanges."""
    arrays = {"epochs": np.array(trace["epochs"], np.int64)}
    for i, rows in enumerate(zip(*trace["norms"])):
        arrays[f"trace/l1/{i}"], arrays[f"trace/entropy/{i}"] = (np.stack(column) for column in zip(*rows))
    if trace["exchanges"]:
        arrays["exchanges"] = np.array(trace["exchanges"], np.int64)
        arrays |= {f"trace/share/{i}": np.stack(rows) for i, rows in enumerate(zip(*trace["shares"]))}
    return arrays


def _result(
    group: Group, dataset, states: list[dict], history: list[dict], predictions: Tensor, spent: dict, images: int, peak: dict
) -> dict:
    networks, arrays, weights = [], {}, {}
    labels = dataset.tensors["test_labels"]
    small = np.uint8 if dataset.num_classes <= 256 else np.uint16
    for i, state in enumerate(states):
        weights |= {f"{i}.{key}": value for key, value in state.items()}
        arrays |= {f"l1/{i}/{key}": value.float().cpu().numpy() for key, value in filters.l1_norms(state).items()}
        entropies = filters.layer_entropies(state)
        arrays[f"entropy/{i}"] = torch.stack(list(entropies.values())).numpy() if entropies else np.zeros(0, np.float32)
        networks.append(_summary(history, i) | {"filters": filters.summary(state)})
    metrics = {
        "status": "finished",
        # The reported network's, as plain numbers: `dvc metrics show` looks into no list.
        "top1": {key: networks[0][key] and networks[0][key]["top1"] for key in ("last", "best_on_test", "validation_selected")},
        "parameters": sum(p.numel() for p in group.networks[0].parameters()),
        "conv_filters": networks[0]["filters"]["count"],
        "networks": networks,
        "timings": {
            "seconds": round(spent["seconds"], 3),
            "images_per_second": round(images * len(history) * len(networks) / spent["training"], 1),
            **peak,
        },
    }
    return {
        "metrics": metrics,
        "history": pd.DataFrame(history),
        "predictions": {"labels": labels.numpy().astype(small), "predictions": predictions.numpy().astype(small)},
        "filters": arrays,
        "weights": weights,
    }


def _summary(history: list[dict], i: int) -> dict:
    """Last epoch, best on test, and the test top-1 at the first epoch of best validation, for network i."""
    rows = [row for row in history if row[f"test_top1_{i}"] is not None]
    last, best = rows[-1], max(rows, key=lambda row: row[f"test_top1_{i}"])
    chosen = None
    if last[f"validation_top1_{i}"] is not None:
        chosen = max(rows, key=lambda row: row[f"validation_top1_{i}"])
    return {
        "last": {
            "top1": last[f"test_top1_{i}"],
            "validation_top1": last[f"validation_top1_{i}"],
            "loss": last[f"test_loss_{i}"],
            "epoch": last["epoch"],
        },
        "best_on_test": {"top1": best[f"test_top1_{i}"], "epoch": best["epoch"]},
        "validation_selected": chosen and {"top1": chosen[f"test_top1_{i}"], "epoch": chosen["epoch"]},
    }


def _write(out: Path, cell: Mapping, about: dict, facts: dict, result: dict) -> dict:
    """Write the cell's files, metrics.json last: where it is, the others are."""
    for name in ("predictions", "filters"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **result[name])
        checkpoint.write_bytes(out / f"{name}.npz", buffer.getvalue())
    checkpoint.save_weights(out / "model.safetensors", result["weights"])
    checkpoint.write_text(out / "history.csv", result["history"].to_csv(index=False))
    checkpoint.write_text(out / "config.yaml", yaml.safe_dump(dict(cell), sort_keys=False))
    checkpoint.write_json(out / "provenance.json", provenance.record(cell=cell["path"], seed=cell["seed"], **facts))
    metrics = {"status": result["metrics"].pop("status"), "cell": about, **result["metrics"]}
    checkpoint.write_json(out / "metrics.json", metrics)
    (out / RESUME).unlink(missing_ok=True)
    return metrics


def _hash(path: Path) -> str | None:
    return provenance.file_hash(path) if path.is_file() else None


def peak_memory(group: Group) -> dict[str, float | None]:
    """MiB resident in the cell's processes, not counting those that read files, and MiB allocated on the fullest CUDA device.

    The first is each process's peak so far: of the largest cell, where one process has trained several.
    """
    resident = _peak_resident() / 2**10
    device = torch.cuda.max_memory_allocated(group.device) / 2**20 if group.device.type == "cuda" else None
    everywhere = group.ranks.everywhere((resident, device))
    on_device = [device for _, device in everywhere if device is not None]
    expected = memory.estimate(group.cell, cuda=bool(on_device))
    return {
        "peak_memory_mib": round(sum(resident for resident, _ in everywhere), 1),
        "estimated_memory_mib": expected["host"],
        "peak_device_memory_mib": round(max(on_device), 1) if on_device else None,
        "estimated_device_memory_mib": expected["device"] or None,
    }


def _peak_resident() -> int:
    """KiB. Linux's own mark comes first: what getrusage says of a process counts its parent's size at the time of the fork."""
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def set_up(recipe: Mapping) -> None:
    """Set this process's threads, arithmetic and allocator as a cell of this recipe has them."""
    torch.set_num_threads(recipe["threads"])
    if recipe["precision"] == "bf16" and pick_device(recipe["device"]).type == "cpu" and not _has_bf16():
        print("this processor has no bf16 instructions: `precision: fp32` would be faster", file=sys.stderr)
    _set_arithmetic(recipe)
    _keep_memory()


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16 (avx512_bf16, amx_bf16, Arm's bf16); True where nothing says."""
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def _keep_memory() -> None:
    """Have glibc keep what is freed: it would give large blocks back, and each step would fault their pages in again."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3
    set_option(
        mmap_threshold, 32 << 20
    )  # the most it takes: an activation of a step is smaller, one of the evaluation may not be
    set_option(trim_threshold, 2**31 - 1)


def _set_arithmetic(recipe: Mapping) -> None:
    """Determinism, and whether CUDA may round float32 to TF32: only if the recipe says so; torch would in convolutions."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = recipe["precision"] == "tf32"
    wanted = recipe["deterministic"]
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted
