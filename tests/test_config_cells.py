"""What the files in config/ ask for can be trained: a step of every model, a cell of every kind on a few random images."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dgd import config, data, models
from dgd.cell import IMAGE, Cell, Data, Ring
from dgd.metrics import MAKERS
from dgd.objectives import Objective
from dgd.train import train_cell
from tests.helpers import ROOT, make_teacher

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))


TAUGHT = dict.fromkeys(MAKERS, "classification")
"""The task of the teacher of a cell that makes training images."""


@cache
def cells() -> list[Cell]:
    """The cells of all configs."""
    return [cell for path in CONFIGS for cell in config.cells(config.load(path, folders=False))]


def side(cell: Cell) -> int:
    return cell.data.image_size or 32


@pytest.mark.parametrize(
    ("name", "size", "adapt_stem"), sorted({(cell.student, side(cell), cell.adapt_stem) for cell in cells()})
)
def test_one_step_of_every_model(name, size, adapt_stem):
    """Every gradient is finite and the first layer moves. Not every layer: timm starts some at zero, which hold back others."""
    torch.manual_seed(2)  # a density ratio ends in a ReLU, and is not 0 everywhere with this seed
    network = models.create(name, num_classes=10, image_size=size, adapt_stem=adapt_stem)
    first = next(network.parameters())
    before = first.clone()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    output = network(models.example(network, 2, 3, size).normal_()).flatten(1)
    torch.nn.functional.cross_entropy(torch.cat([output, -output], 1), torch.tensor([0, 1])).backward()  # one is enough for it
    optimiser.step()
    assert all(value.grad.isfinite().all() for value in network.parameters())
    assert not torch.equal(first, before)


def parts(cell: Cell) -> set[tuple]:
    """What decides which code a cell runs, two by two: family of networks, what terms require, exchange."""
    family = timm.models.model_entrypoint(cell.student).__module__, cell.adapt_stem
    requires = Objective(cell.objective).requires
    exchange = tuple(getattr(cell.exchange, option, None) for option in ("name", "level", "layers"))
    several = len(cell.teachers) > 1, bool(cell.subnets), bool(cell.generated)
    return {("terms", family, requires, several), ("exchanged", family, cell.exchange is None), ("both", requires, exchange)}


def size_of(cell: Cell) -> list[int]:
    """What orders cells by what a step takes, roughly: the side of an image, and the numbers in the names of the networks."""
    return [side(cell), *map(int, re.findall(r"\d+", f"{cell.student} {cell.teacher or ''}"))]


@cache
def kinds() -> dict[str, Cell]:
    """The smallest cell of each kind that the configs have."""
    seen, found = set(), []
    for cell in sorted({(c.student, c.teacher, c.method): c for c in cells()}.values(), key=size_of):
        found += [cell] if parts(cell) - seen else []
        seen |= parts(cell)
    return {f"{cell.student}-{cell.method}-{i}": cell for i, cell in enumerate(found)}


SMALL = {"cifar_wrn28_10": "cifar_wrn10_1"}
"""Networks of the same code as one that takes seconds a step; that one has its step in `test_one_step_of_every_model`."""


def shrunk(cell: Cell) -> Cell:
    """The cell with two epochs of one batch each, so that there is an exchange and what follows it, on images alone.

    Cells across inputs have theirs in test_inputs.py.
    """
    size = min(side(cell), 64)
    recipe = replace(cell.recipe, epochs=2, batch_size=2, device="cpu", average_from=1, lr=0.01)
    return replace(
        cell,
        benchmark="step",
        dataset=f"imagefolder:{size}",
        input=IMAGE,
        teacher_input=IMAGE,
        seed=0,
        student=SMALL.get(cell.student, cell.student),
        teachers=tuple(f"teachers/{k}" for k in range(len(cell.teachers))),
        data=Data(image_size=size, loader="memory", workers=0),
        recipe=replace(recipe, evaluate_every=1, filters_every=1, step_epochs=1, milestones=(), normalise=None),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of random images of three classes for each size, prepared when it is first asked for."""
    root = tmp_path_factory.mktemp("images")

    @cache
    def prepared(size: int) -> Path:
        draw = np.random.default_rng(size)
        for split, count in {"train": 3, "test": 2}.items():
            for name in "abc":
                folder = root / str(size) / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        data.prepare(f"imagefolder:{root / str(size)}", root / f"{size}-out", image_size=size, validation_images=3)
        return root / f"{size}-out"

    return prepared


@pytest.mark.parametrize("name", kinds())
def test_two_epochs_of_a_cell_of_every_kind(name, images, tmp_path):
    """Its teachers are fresh networks."""
    cell = shrunk(kinds()[name])
    prepared = images(side(cell))
    known = {one.path: replace(one, teacher=None) for one in cells() if one.task in MAKERS}
    for path, named in zip(cell.teachers, kinds()[name].teachers):
        make_teacher(known.get(named, replace(cell, task=TAUGHT.get(cell.task, cell.task))), prepared, tmp_path / path)
    metrics = train_cell(cell, results=tmp_path, data=prepared)
    assert metrics["status"] == "finished"
    assert len(metrics["networks"]) == cell.evaluated * (1 + len(cell.subnets))
    if isinstance(cell.exchange, Ring):
        with np.load(tmp_path / cell.path / "filters.npz") as arrays:
            assert arrays["exchanges"].tolist() == [0]
