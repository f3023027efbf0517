"""Try what a plugin adds, in small cells: what every term, exchange, network and data set of the package is tested for.

A cell is trained three times: twice, and once more stopped after every epoch. All three must leave the same bytes. Every
parameter that is trained must move, and a term by itself must be one that training brings down.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from dgd import config, data, metrics, plugins, running
from dgd.cell import EXCHANGES, Cell, Method
from dgd.files import file_hash
from dgd.identity import WEIGHTS
from dgd.methods import METHODS
from dgd.objectives import TERMS
from dgd.read import claims
from dgd.read.papers import read_papers
from dgd.train import NoResult, OutOfTime, load_network, train_cell
from dgd.train.device import set_up
from dgd.train.group import Group
from dgd.train.outcomes import CannotExchange, NotApplicable
from dgd.train.step import losses, train_epoch
from dgd.train.streams import Seeds

COMPARED = ("history.csv", "predictions.npz", "filters.npz", WEIGHTS)
STEPS = 60
"""Steps on one batch in which a term by itself must come down to `FALLS` of what it was."""
FALLS = 0.9
DIGITS = {"classification": "digits", "regression": "digits-angle"}
"""The data set on which rows of a task are tried where the plugin has none."""
SIDE = 32
"""Side of the random images that networks are tried on."""


class Tried(NamedTuple):
    """What was tried, what is wrong with it ("" where nothing is), and a note."""

    what: str
    problem: str = ""
    note: str = ""


def check(given: str) -> Iterator[Tried]:
    """Try what a plugin adds, a thing at a time.

    Args:
        given: A plugin, as `dgd.plugins.load` takes it.

    Raises:
        ValueError: The plugin cannot be loaded.
    """
    if given.endswith(".yaml"):
        yield _paper(given)
        return
    plugins.load([given])
    added = plugins.contents(given)
    if not any(added.values()):
        yield Tried(
            given, "it adds nothing: no TERMS, EXCHANGES, METHODS, DATASETS or TASKS, and no network of timm's registry"
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, row in _rows(added).items():
            task = _task_of(row)
            images = next((own for own in added["DATASETS"] if metrics.of_dataset(own) == task), DIGITS.get(task))
            if not images:
                yield Tried(f"row {name}", f"it is for {task}, and no data set is; add one to DATASETS, with task={task!r}")
                continue
            asked = {"methods": [{"checked": _plain(row)}], "datasets": [images]}
            yield from _tried(f"row {name}", given, root / task, asked, terms=True)
        if added["NETWORKS"]:
            _draw_images(root / "images")
        for name in added["NETWORKS"]:
            asked = {
                "datasets": [f"imagefolder:{root / 'images'}"],
                "data": {"dir": str(root / "networks"), "image_size": SIDE},
                "pairs": [{"student": name, "teacher": "cifar_resnet8"}],
            }
            for method in ("baseline", "kd", "at", "grafting"):
                asked["methods"] = [method]
                yield from _tried(f"network {name}, {method}", given, root / "networks", asked)
        for name in added["DATASETS"]:
            asked = {"datasets": [name], "data": {"dir": "data"}, "methods": ["baseline"]}
            yield from _tried(f"data set {name}", given, root / "data", asked)


def _task_of(row: Method) -> str:
    """Return the task of a row: that of the first of its terms that is for one alone."""
    tasks = (TERMS[term]().requires.task for term in row.objective)
    return next(filter(None, tasks), "classification")


def _rows(added: Mapping[str, list[str]]) -> dict[str, Method]:
    """Return the rows that a plugin adds, and one for each of its terms and exchanges that none of them has."""
    rows = {name: METHODS[name] for name in added["METHODS"]}
    used = {part for row in rows.values() for part in (*row.objective, (row.exchange or {}).get("name"))}
    for name in added["TERMS"]:
        if name not in used:
            needs = TERMS[name]().requires
            teachers = 2 if needs.runs == "teachers" else int(bool(needs.teacher))
            networks = 2 if needs.peers or needs.runs == "peers" else 1
            objective = {name: 1.0} if name in metrics.TERMS.values() else {"ce": 1.0, name: 1.0}
            rows[name] = Method(objective, teachers=teachers, networks=networks, subnets=needs.heads)
    for name in added["EXCHANGES"]:
        if name not in used:
            rows[name] = Method(exchange={"name": name}, networks=EXCHANGES[name].networks)
    return rows


def _plain(row: Method) -> dict:
    keys = ("objective", "exchange", "networks", "teachers", "subnets", "recipe")
    return {"base": "baseline"} | {key: getattr(row, key) for key in keys}


def _tried(what: str, given: str, root: Path, asked: Mapping, terms: bool = False) -> Iterator[Tried]:
    """Try the last cell of a small benchmark; `terms`: each of its terms too, by itself."""
    recipe = {"epochs": 3, "batch_size": 16, "lr": 0.02, "device": "cpu", "filters_every": 1}
    small = {
        **{"benchmark": "check", "plugins": [given], "papers": [], "seeds": [0], "datasets": ["digits"]},
        **{"data": {"dir": str(root), "train_images": 64}, "recipe": recipe},
        **{"pairs": [{"student": "cifar_resnet14", "teacher": "cifar_resnet8", "subnets": ["cifar_resnet8"]}]},
    }
    try:
        cells = config.cells(config.check({**small, **asked}, what))
    except ValueError as error:
        yield Tried(what, str(error).removeprefix(f"{what}: "))
        return
    try:
        images = running.prepared(cells[-1], root / "once")
        yield Tried(what, _same_bytes(cells, images, root), "the same bytes twice, and when stopped after every epoch")
    except NoResult as error:
        no_fault = isinstance(error, NotApplicable | CannotExchange)
        yield Tried(what, "" if no_fault else str(error), f"{error.status}: {error}")
        return
    except Exception as error:  # whatever another's code may raise
        yield Tried(what, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return
    own = cells[-1]
    if still := _still(_group(own, images, root / "once"), _loader(own, images)):
        yield Tried(what, f"{', '.join(still[:3])}: no step moves it; use it in `forward`, or give it no gradient")
    for term in plugins.contents(given)["TERMS"] if terms else ():
        if term in own.objective:
            yield _falls(term, own, images, root / "once")


def _same_bytes(cells: list[Cell], images: Path, root: Path) -> str:
    """Train cells twice, and once more stopped after every epoch; say which file of the last cell differs."""
    ways = {"once": math.inf, "twice": math.inf, "stopped": 0.0}
    for way, until in ways.items():
        for cell in cells:
            while not _is_trained(cell, root / way, images, until):
                pass
    own = cells[-1].path
    for way, how in (("twice", "is trained again"), ("stopped", "was stopped after every epoch")):
        for name in COMPARED:
            if file_hash(root / "once" / own / name) != file_hash(root / way / own / name):
                return (
                    f"{name} differs when the cell {how}: draw random numbers from the generators that are given, and "
                    "keep what changes in training in parameters and buffers"
                )
    return ""


def _is_trained(cell: Cell, results: Path, images: Path, until: float) -> bool:
    try:
        train_cell(cell, results=results, data=images, until=until)
    except OutOfTime:
        return False
    return True


def _group(cell: Cell, images: Path, results: Path) -> Group:
    set_up(cell.recipe)
    dataset = data.load(images)
    teachers = [load_network(results / path, dataset, cell) for path in cell.teachers]
    return Group(cell, dataset, teachers, torch.device("cpu"))


def _loader(cell: Cell, images: Path) -> data.Loader:
    return data.load(images).loader("train", batch_size=cell.recipe.batch_size, device=torch.device("cpu"), workers=0)


def _still(group: Group, loader: data.Loader) -> list[str]:
    """Return the names of the parameters that an epoch leaves as they are, those of terms included."""
    before = [{name: value.clone() for name, value in member.named_parameters()} for member in group.members]
    train_epoch(group, loader, 1)  # the second: in the first some terms have no weight yet
    after = [dict(member.named_parameters()) for member in group.members]
    return [name for was, now in zip(before, after) for name, value in now.items() if torch.equal(value, was[name])]


def _falls(term: str, cell: Cell, images: Path, results: Path) -> Tried:
    """Minimise a term by itself on one batch: a gradient of the wrong sign, or none, would not bring it down."""
    alone = {"weight": 1.0, **{name: value for name, value in cell.objective[term].items() if name != "weight"}}
    cell = replace(cell, objective={term: alone}, recipe=replace(cell.recipe, lr=0.01))
    group, values = _group(cell, images, results), []
    batch = next(iter(_loader(cell, images).batches()))
    seeds = Seeds(cell.seed, group.device, group.plan.own_stream, group.ranks.mine, generators=group.requires.draws)
    for member in group.members:
        member.objective.start_epoch(STEPS)  # terms that rise have their full weight
    for _ in range(STEPS):
        seeds.at(STEPS, 0, 0)
        sums = torch.zeros(cell.networks, 3)
        for turn in group.plan.turns:
            for k, loss in losses(group, turn, batch, seeds, sums):
                if not loss.requires_grad:
                    return Tried(f"term {term}, by itself", "it has no gradient")
                loss.backward()
                for optimiser in group.optimisers[k]:
                    optimiser.step()
                    optimiser.zero_grad()
        values.append(float(sums[:, 1].sum()))
    first, last = values[0], float(np.mean(values[-5:]))
    fell = f"from {first:.4g} to {last:.4g} in {STEPS} steps on one batch"
    what = f"term {term}, by itself"
    return Tried(what, note=fell) if last < FALLS * first else Tried(what, f"it does not come down: {fell}")


def _draw_images(root: Path) -> None:
    """Write a folder of random images of four classes."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 4)):
        for name in "abcd":
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(root / part / name / f"{k}.png")


def _paper(given: str) -> Tried:
    try:
        found = read_papers([given])
        claimed = claims.read([given])
    except (ValueError, KeyError, TypeError) as error:
        return Tried(given, str(error))
    return Tried(given, note=f"{len(found)} published numbers, {len(claimed)} claims")
