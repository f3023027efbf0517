"""What several test files share: cells of small benchmarks, fresh groups and teachers, small data sets, files to compare."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.batchnorm import _BatchNorm

from dgd import config, data, files, source_files
from dgd.cell import Cell
from dgd.files import file_hash
from dgd.identity import OUTPUTS
from dgd.methods import METHODS, NAMED, find, given_options, grafted
from dgd.objectives import Objective
from dgd.train import checkpoint, train_cell
from dgd.train.group import Group
from dgd.train.member import create
from dgd.train.streams import Seeds

ROOT = Path(__file__).parents[1]
NAMES = [*METHODS, *(grafted(name) for name in METHODS if name not in NAMED and not METHODS[name].exchange)]
"""Every method, and each with grafting."""
# Published numbers of negatives are larger than these data sets.
SMALL = {"crd": {"negatives": 16}, "hkd": {"negatives": 16, "neighbours": 3}}
# Networks that contain a shallower one; any other one contains itself, with batch norms of its own.
SUBNETS = {"cifar_resnet20": "cifar_resnet8"}
EXCHANGE = {"repr": {"name": "repr", "normal": 1, "pruned": 1, "cycles": 1}}


def covering(names: Iterable[str]) -> list[str]:
    """Return some of the methods: together they have every term, and each exchange with all that terms require."""
    seen, kept = set(), []
    for name in names:
        method = find(name)
        exchange = (method.exchange or {}).get("name")
        parts = {*method.objective, (exchange, Objective(given_options(method.objective)).requires)}
        kept += [name] if parts - seen else []
        seen |= parts
    return kept


def cells_of(benchmark: Mapping) -> list[Cell]:
    """Return the cells of a benchmark, which must have no mistake."""
    return config.cells(config.check(benchmark, "test"))


def digits_cells(methods, student="cifar_resnet8", teacher="cifar_resnet20", recipe=None, **keys) -> list[Cell]:
    """Return the cells of methods on the digits: those of teachers first."""
    benchmark = {
        "benchmark": "t",
        "seeds": [0],
        "datasets": ["digits"],
        "pairs": [{"student": student, "teacher": teacher, "subnets": [SUBNETS.get(student, student)]}],
        "methods": list(methods),
        "recipe": {"epochs": 3, "batch_size": 16, "device": "cpu", **(recipe or {})},
        **keys,
    }
    return cells_of(benchmark)


def method_cell(name, student=None, teacher="cifar_resnet20", **recipe) -> Cell:
    """Return the cell of a method, with what its terms have too large made small."""
    objective = {}
    student = student or ("cifar_resnet20" if find(name).subnets else "cifar_resnet8")
    for term, value in find(name).objective.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        objective[term] = options | SMALL.get(term, {})
    row = {"base": name, "objective": objective}
    if name in EXCHANGE:
        row["exchange"] = EXCHANGE[name]
    recipe = {"lr": 0.02, "precision": "fp32", **recipe}
    (found,) = [
        cell
        for cell in digits_cells([{"m": row}], student, teacher, recipe, adapt_stem=not student.startswith("cifar_"))
        if cell.method == "m"
    ]
    return found


@torch.no_grad()
def take_statistics(teacher, images) -> None:
    """Give a network that was never trained batch statistics: without, answers and features are in the thousands or beyond."""
    for norm in [module for module in teacher.modules() if isinstance(module, _BatchNorm)]:
        norm.momentum = 1.0
    teacher.train()(images)


def fresh_group(cell: Cell, prepared: Path, device="cpu") -> Group:
    """Return the group of a cell, its teachers being fresh networks."""
    torch.manual_seed(1)
    dataset = data.load(prepared)
    teachers = [create(cell.teacher, dataset, cell) for _ in cell.teachers]
    images = next(iter(train_loader(cell, prepared).batches())).inputs["image"]  # on the CPU, as the teachers are
    for teacher in teachers:
        take_statistics(teacher, images)
    return Group(cell, dataset, teachers, torch.device(device))


def seeds(group, epoch=0) -> Seeds:
    """The seeds of an epoch's first step; the terms are told of the epoch too."""
    found = Seeds(group.cell.seed, group.device, group.plan.own_stream, group.ranks.mine, generators=group.requires.draws)
    found.at(epoch, 0, 0)
    for member in group.members:
        member.objective.start_epoch(epoch)
    return found


def train_loader(cell: Cell, prepared: Path, device="cpu"):
    """Return the loader of a cell's training batches."""
    return data.load(prepared).loader("train", batch_size=cell.recipe.batch_size, device=torch.device(device), workers=0)


def make_teacher(cell: Cell, prepared: Path, folder: Path) -> None:
    """Write the folder of a finished teacher that was never trained."""
    torch.manual_seed(3)
    name = cell.teacher or cell.student
    weights = create(name, data.load(prepared), cell).state_dict()
    checkpoint.save_weights(folder / "model.safetensors", {f"0.{k}": v for k, v in weights.items()})
    files.write_json(folder / "metrics.json", {"status": "finished", "cell": {"student": name, "task": cell.task}})


def unseal(folder: Path) -> None:
    """Make a cell's provenance.json one of older code, which had no seal."""
    record = json.loads((folder / "provenance.json").read_text())
    files.write_json(folder / "provenance.json", {key: value for key, value in record.items() if key not in ("seal", "sealed")})


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["dgd.train"])


def start_process(function: Callable, *args, output: Path, **environment: str) -> multiprocessing.Process:
    """Start a function in a process of its own, which is forked from one that has imported torch: importing takes seconds.

    Args:
        function: A function of a module.
        args: Its arguments.
        output: The file for what the process prints.
        environment: Variables that are set in it.
    """
    process = PROCESSES.Process(target=_run, args=(function, args, output, environment))
    process.start()
    return process


def _run(function: Callable, args: tuple, output: Path, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
        torch.set_num_threads(1)
        function(*args)
        sys.stdout.flush()


class Stopped(Exception):
    """The process was killed."""


def stopping(save):
    """Return `checkpoint.save_state` that has saved when the process is killed."""

    def save_and_stop(*args):
        save(*args)
        raise Stopped

    return save_and_stop


def train_stopped(cell: Cell, results: Path, prepared: Path, monkeypatch) -> None:
    """Train a cell that is killed after every epoch but the last, and started again each time."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", stopping(checkpoint.save_state))
        for _ in range(cell.recipe.epochs - 1):
            with pytest.raises(Stopped):
                train_cell(cell, results=results, data=prepared)
    train_cell(cell, results=results, data=prepared)


def files_but_timings(folder: Path) -> tuple[str, dict[str, bytes]]:
    """Return what two trainings of a cell have in common: its files, but for timings and provenance."""
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["timings"]
    names = [name for name in OUTPUTS if name not in ("metrics.json", "provenance.json")]
    return json.dumps(metrics), {name: (folder / name).read_bytes() for name in names}


def prepare_digits(folder: Path, test_images: int, name: str = "digits", **options) -> Path:
    """Prepare the digits, with the first so many of their test images: evaluating all takes longer than training here."""
    data.prepare(name, folder, **options)
    tensors = load_file(folder / "images.safetensors")
    for key in ("test_images", "test_labels"):
        tensors[key] = tensors[key][:test_images].contiguous()
    save_file(tensors, folder / "images.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sizes"]["test"] = test_images
    manifest["images_sha256"] = file_hash(folder / "images.safetensors")
    write_manifest(folder, manifest)
    return folder


def write_manifest(folder: Path, manifest: Mapping) -> None:
    """Write a manifest with a seal that is right."""
    (folder / "manifest.json").write_text(source_files.manifest_text(source_files.sealed(manifest)))
