"""Run our training loop for the measurements; no other module of this folder calls it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgd import models, train
from dgd.cell import Cell, Recipe, Surgery
from dgd.config import cells, check
from dgd.data import Dataset
from dgd.data.loader import EVALUATION_BATCH, Examples
from dgd.train import device, memory
from dgd.train.evaluate import evaluate
from dgd.train.exchanging import exchange_weights
from dgd.train.graphs import WARM_UP
from dgd.train.group import Group
from dgd.train.step import Steps, train_epoch
from dgd.train.streams import generator
from speed.images import BATCH, CLASSES, MEAN, SIZE, STD, random_images

SUBNETS = ("cifar_resnet8",)
"""What a method with sub-nets trains within its student, a CIFAR ResNet."""


def make_cell(student: str, teacher: str, method: str | Mapping, threads: int, **recipe) -> Cell:
    """Return the cell of one method with the default recipe.

    Args:
        student: Model of the cell's networks.
        teacher: Model of its teacher, for a method that has one.
        method: An item of a benchmark's `methods`: a name, or {name: {base: ..., <key>: ...}}.
        threads: CPU threads of torch.
        recipe: Keys of the recipe that differ from the default.
    """
    benchmark = {
        "benchmark": "speed",
        "seeds": [0],
        "datasets": ["cifar100"],
        "pairs": [{"student": student, "teacher": teacher, "subnets": list(SUBNETS)}],
        "methods": [method],
        "adapt_stem": True,
        # At this learning rate random labels diverge in no model; it changes no time.
        "recipe": {"batch_size": BATCH, "lr": 1e-3, "threads": threads, **recipe},
    }
    return cells(check(benchmark))[-1]


def with_networks(base: str, networks: int) -> dict:
    """Return the item of `methods` that is `base` with so many networks."""
    return {f"{base}-{networks}": {"base": base, "networks": networks}}


@lru_cache(2)
def dataset(images: int) -> Dataset:
    """Return a data set of so many random training images in the shape of CIFAR-100; groups of a process share it."""
    manifest = {
        "name": "random",
        "loader": "memory",
        "num_classes": CLASSES,
        "in_chans": 3,
        "image_size": SIZE,
        "mean": list(MEAN),
        "std": list(STD),
        "sizes": {"train": images, "validation": 0, "test": 0},
        "augmentation": {"pad": 4, "flip": True},
    }
    return Dataset(manifest, dict(zip(("train_images", "train_labels"), random_images(images))))


def pick_device() -> torch.device:
    """Return the device that a cell takes by default: CUDA where there is one."""
    return device.pick_device("auto")


def train_cell(cell: Cell, results: Path, data: Path) -> Path:
    """Train a cell on prepared data and return the folder that holds its files."""
    train.train_cell(cell, results=results, data=data)
    return results / cell.path


def forward_backward(
    model: str, image_size: int, batch: int, adapt_stem: bool, precision: str, channels_last: bool
) -> Callable[[], None]:
    """Return a function that runs a network forward and backward on one fixed batch, in the arithmetic of a recipe."""
    device.set_up(Recipe(precision=precision, channels_last=channels_last, threads=torch.get_num_threads()))
    arithmetic = device.Arithmetic(pick_device(), precision, channels_last)
    net = models.create(model, num_classes=CLASSES, image_size=image_size, adapt_stem=adapt_stem)
    network = arithmetic.place(net).train()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(batch, 3, image_size, image_size, device=arithmetic.device).contiguous(memory_format=layout)
    labels = torch.arange(batch, device=arithmetic.device) % CLASSES

    def run() -> None:
        with arithmetic.autocast():
            logits = network(images)
        F.cross_entropy(logits, labels).backward()
        network.zero_grad(set_to_none=True)

    return run


class OneBatch:
    """A loader whose epoch is one fixed batch, neither shuffled nor augmented."""

    captured = False

    def __init__(self, batch: Examples):
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def size(self, step: int) -> int:
        """Return the number of images of the batch."""
        return len(self._batch)

    def feed(self) -> "OneBatch":
        """Return itself: it holds the epoch."""
        return self

    def start(self, **generators: torch.Generator) -> list[slice]:
        """Return the part of the epoch that the batch is: all of it."""
        return [slice(0, len(self._batch))]

    def batch(self, part: Tensor) -> Examples:
        """Return the batch."""
        return self._batch


class Ours:
    """The group of a cell in our loop, on random images.

    Args:
        cell: As `make_cell` returns it.
        steps: Steps of an epoch.
        images: Number of images that the training split is said to have, for terms that keep something for each image; by
            default those of an epoch.
        teachers: The teachers' networks; by default new ones of the cell's teacher.
    """

    def __init__(self, cell: Cell, steps: int, images: int | None = None, teachers: Sequence[nn.Module] | None = None) -> None:
        device.set_up(cell.recipe)
        if teachers is None:
            shape = {"num_classes": CLASSES, "image_size": SIZE, "adapt_stem": True}
            teachers = [models.create(cell.teacher, **shape) for _ in cell.teachers]
        self.cell, self.steps, self._epoch = cell, steps, 0
        batch, place = cell.recipe.batch_size, device.pick_device(cell.recipe.device)
        # As a cell: in a stream of its own on CUDA, because in the default one nothing can be captured.
        self._own = torch.cuda.Stream(place) if place.type == "cuda" else None
        data = dataset(steps * batch)
        whole = data if images is None else Dataset(data.manifest, {"train_labels": torch.arange(images) % CLASSES})
        with self._stream():
            self._group = Group(cell, whole, teachers, place)
            if isinstance(cell.exchange, Surgery):
                self.exchange(cell.exchange.normal - 1)  # the epochs in which filters are dropped begin
            self._loader = self._loader_of(data, batch)
            self._batch = next(self._loader.batches())
            self._steps = Steps(self._group, self._loader)

    @property
    def networks(self) -> list[nn.Module]:
        """Return the networks of the group, in order."""
        return self._group.networks

    @property
    def how(self) -> str:
        """Return how the steps ran, as metrics.json says it."""
        return self._steps.launch.how

    def train(self) -> None:
        """Train one epoch of `steps` steps."""
        self.start()
        self.read()

    def start(self) -> None:
        """Launch an epoch; on CUDA it may not have ended when this returns."""
        with self._stream():
            self._steps.start(self._epoch)

    def read(self) -> None:
        """Wait for the epoch that was launched last."""
        with self._stream():
            self._steps.read()
        self._epoch += 1

    def step(self, batch: Examples) -> None:
        """Train one step of every network on a given batch.

        Args:
            batch: Images float32 (B, 3, 32, 32) with labels and index.
        """
        with self._stream():
            train_epoch(self._group, OneBatch(batch), self._epoch)
        self._epoch += 1

    def exchange(self, epoch: int = 0) -> None:
        """Let the networks exchange weights as after the given epoch, from 0."""
        with self._stream():
            exchange_weights(self._group, epoch)

    def evaluate(self) -> None:
        """Evaluate all networks on one batch of the size that evaluations have."""
        group, loader = self._group, self._loader_of(dataset(EVALUATION_BATCH), EVALUATION_BATCH)
        with self._stream():
            evaluate(group.eval_networks, loader, group.task, group.arithmetic, group.ranks)

    def load(self) -> None:
        """Read the batches of one epoch, augmented, and do nothing with them."""
        with self._stream():
            for _ in self._loader.batches(order=generator(0, "order"), augment=generator(0, "augment")):
                pass

    def run_limit(self) -> None:
        """Run networks forward and backward and teachers forward, `steps` times on one fixed batch, and nothing else."""
        with self._stream(), self._steps.lighter:
            for _ in range(self.steps):
                self._limit_step()

    def replayed_limit(self, steps: int) -> Callable[[], None]:
        """Return a function that does the same `steps` times as a CUDA graph; as it is where there is no CUDA device."""
        if self._group.device.type != "cuda":
            return lambda: [self._limit_step() for _ in range(steps)]
        graph, fills = torch.cuda.CUDAGraph(), torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = False  # as where ours is captured
        with self._stream(), self._steps.lighter:
            for _ in range(WARM_UP):
                self._limit_step()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                self._limit_step()
        torch.utils.deterministic.fill_uninitialized_memory = fills

        def replay() -> None:
            with self._stream():
                for _ in range(steps):
                    graph.replay()

        return replay

    def _limit_step(self) -> None:
        batch, group = self._batch, self._group
        group.members.train()
        for network in self.networks:
            with group.arithmetic.autocast():
                with torch.no_grad():
                    for teacher in group.teachers:
                        teacher(batch.inputs)
                logits = network(batch.inputs["image"])
            F.cross_entropy(logits, batch.labels).backward()
            network.zero_grad(set_to_none=True)  # here, as in a step of ours, which begins without gradients

    def moved_bytes(self) -> int:
        """Return the bytes for an image that a step moves at least: what backward needs, written once and read once."""
        kept = memory.footprint(self.cell.student, CLASSES, 3, SIZE, True)[1]
        return 2 * kept // (2 if self.cell.recipe.precision == "bf16" else 1)

    def peak_memory(self) -> dict[str, float]:
        """Return MiB at the peak, of the CUDA device or else of this process: `measured_mib`, and `estimated_mib` before."""
        resident, allocated = device.peak_memory(self._group.device)
        on_cuda = allocated is not None
        estimated = memory.estimate(self.cell, cuda=on_cuda)["device" if on_cuda else "host"]
        return {"measured_mib": round(allocated if on_cuda else resident, 1), "estimated_mib": estimated}

    def learning_rates(self) -> list[float]:
        """Return each network's learning rate in the first step."""
        return self._group.rates(0)

    def momentum(self, network: int) -> dict[str, Tensor]:
        """Return the momentum buffer of each parameter of a network by the parameter's name."""
        return self._group.momentum(network)

    def terms(self, name: str) -> list[nn.Module]:
        """Return the term of that name of each network's objective."""
        return [member.objective.terms[name] for member in self._group.members]

    def drops_filters(self) -> bool:
        """Return whether the first network trains without some of its filters now."""
        return self._group.members[0].surgery.active

    def _stream(self) -> AbstractContextManager:
        return torch.cuda.stream(self._own) if self._own else nullcontext()

    def _loader_of(self, data: Dataset, batch_size: int):
        channels_last = self.cell.recipe.channels_last
        return data.loader("train", batch_size=batch_size, device=self._group.device, channels_last=channels_last)


def train_in_turn(groups: Sequence[Ours], epochs: int) -> None:
    """Train several groups as `dgd.train.train_side_by_side` does: an epoch of each is launched before any is waited for."""
    for group in groups:
        group.start()
    for _ in range(epochs - 1):
        for group in groups:
            group.read()
            group.start()
    for group in groups:
        group.read()
