"""What a cell holds: N networks and one teacher, one data set; and the estimate that a scheduler is given."""

import gc
import json
import subprocess
import sys
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dgd import data, models
from dgd.cell import Cell, Data
from dgd.train import averages, memory
from dgd.train.device import peak_memory, set_up
from dgd.train.evaluate import evaluate
from dgd.train.exchanging import exchange_weights
from dgd.train.group import Group
from dgd.train.schedule import exchange_due
from dgd.train.step import train_epoch
from tests.helpers import ROOT, cells_of

CPU = torch.device("cpu")


def cell(method="baseline", networks=1, student="cifar_resnet20", teacher="cifar_resnet56", exchange=None, **recipe) -> Cell:
    changes = {"base": method, "networks": networks} | ({"exchange": exchange} if exchange else {})
    benchmark = {
        "benchmark": "t",
        "seeds": [0],
        "datasets": ["cifar10"],
        "pairs": [{"student": student, "teacher": teacher}],
        "methods": ["baseline" if method == "baseline" else {"x": changes}],
        "data": {"train_images": 128},
        "adapt_stem": True,
        "recipe": {"batch_size": 64, "device": "cpu", **recipe},
    }
    return cells_of(benchmark)[-1]


def made(cell) -> tuple[Group, dict]:
    """A group and its loaders of random images."""
    sizes = {"train": 128, "validation": 0, "test": 64}
    manifest = {"name": "cifar10", "loader": "memory", "num_classes": 10, "in_chans": 3, "image_size": 32, "sizes": sizes}
    manifest |= {"mean": [0.5] * 3, "std": [0.25] * 3, "augmentation": {"pad": 4, "flip": True}}
    tensors = {}
    for split in ("train", "test"):
        tensors[f"{split}_images"] = torch.randint(0, 256, (sizes[split], 3, 32, 32), dtype=torch.uint8)
        tensors[f"{split}_labels"] = torch.randint(0, 10, (sizes[split],))
    dataset = data.Dataset(manifest, tensors)
    set_up(cell.recipe)
    shape = {"num_classes": 10, "in_chans": 3, "image_size": 32, "adapt_stem": True}
    group = Group(cell, dataset, [models.create(cell.teacher, **shape) for _ in cell.teachers], CPU)
    last = cell.recipe.channels_last
    return group, {split: dataset.loader(split, batch_size=64, channels_last=last) for split in ("train", "test")}


def train(cell) -> tuple[float, float]:
    """Train a group on random images for two steps; MiB of all tensors that are alive after it, and resident at most."""
    group, splits = made(cell)
    train_epoch(group, splits["train"], 0)
    evaluate(group.eval_networks, splits["test"], group.task, group.arithmetic, group.ranks)
    if exchange_due(cell.exchange, cell.recipe.epochs, 0, "after"):
        exchange_weights(group, 0)
    gc.collect()
    alive = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            alive[storage.data_ptr()] = storage.nbytes()
    return sum(alive.values()) / 2**20, peak_memory(CPU)[0]


ALIVE = {
    "one": {},
    "two": {"method": "grafting", "networks": 2},
    "four": {"method": "grafting", "networks": 4},
    "kd in fp32": {"method": "kd", "precision": "fp32"},
    "kd in bf16": {"method": "kd", "precision": "bf16"},
}
SCRIPT = """
import json, sys
from dgd.cell import Cell
from tests.test_memory import train
print(json.dumps([train(Cell.from_plain(cell)) for cell in json.loads(sys.argv[1])]))
"""


def measured(*cells) -> list[tuple[float, float]]:
    """What `train` measures of cells, one after the other in a process of their own."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([own.plain() for own in cells])]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def alive() -> dict[str, float]:
    """MiB of tensors that are alive after each of some trainings."""
    found = measured(*(cell(**row) for row in ALIVE.values()))
    return {name: tensors for name, (tensors, _) in zip(ALIVE, found, strict=True)}


@pytest.mark.slow
def test_n_networks_cost_n_networks_and_never_a_copy_of_the_data(alive):
    weights = memory.footprint("cifar_resnet20", 10, 3, 32, True)[0] / 2**20
    for networks, found in ((2, alive["two"]), (4, alive["four"])):
        # Weights and momentum; the data are 0.7 MiB.
        assert found - alive["one"] == pytest.approx((networks - 1) * 2 * weights, abs=0.05)


@pytest.mark.slow
def test_a_teacher_costs_its_weights(alive):
    """Folded, a batch norm's are in its convolution; with bf16, convolutions take half."""
    weights = memory.footprint("cifar_resnet56", 10, 3, 32, True)[0] / 2**20
    assert 0.9 * weights < alive["kd in fp32"] - alive["one"] < 1.1 * weights
    assert 0.45 * weights < alive["kd in bf16"] - alive["one"] < 0.6 * weights


LARGE = "cifar_wrn28_10"  # 139 MiB of weights: an estimate's whole MiB say how many of them are counted


def counted(plain: Cell, full: Cell) -> float:
    """How many copies of a large network's weights the estimate of one cell has more than that of another."""
    weights = memory.footprint(LARGE, 10, 3, 32, True)[0] / memory.MIB
    more = memory.estimate(full)["host"] - memory.estimate(plain)["host"]
    return more / memory.WORKSPACE / memory.HEADROOM / weights


def allocated(work) -> int:
    """Bytes that torch holds at the peak of some work, above those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("networks", [2, 4])
@pytest.mark.parametrize("momentum", ["keep", "graft"])
def test_the_estimate_counts_what_an_exchange_takes(networks, momentum):
    """Held to a real exchange, in copies of a network's weights."""
    options = {"exchange": {"name": "graft", "momentum": momentum}}
    group, _ = made(cell("grafting", networks, student="cifar_resnet8", **options))
    weights = memory.footprint("cifar_resnet8", 10, 3, 32, True)[0]
    taken = allocated(lambda: exchange_weights(group, 0)) / weights
    own = counted(cell("independent", networks, LARGE), cell("grafting", networks, LARGE, **options))
    assert networks < taken < own < taken + 3.5 * networks
    if momentum == "graft":
        plain = cell("grafting", networks, LARGE)
        assert counted(plain, cell("grafting", networks, LARGE, **options)) == pytest.approx(networks + 2, rel=0.01)


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("how", ["ema", "swa"])
def test_the_estimate_counts_averages_over_epochs(networks, how):
    """The averages themselves, and the new ones while they are made."""
    group, _ = made(cell("independent", networks, student="cifar_resnet8", weight_average=how))
    weights = memory.footprint("cifar_resnet8", 10, 3, 32, True)[0]
    taken = networks + allocated(lambda: averages.average(group, 1)) / weights
    own = counted(cell("independent", networks, LARGE), cell("independent", networks, LARGE, weight_average=how))
    assert networks + 0.9 < taken <= own + 0.1 < 2.2 * networks


def test_the_estimate_counts_teachers():
    """Their weights as they are read, and once more as they are folded; with batches of two the evaluation takes more else."""
    plain, taught = (cell(name, student="cifar_resnet8", teacher=LARGE, batch_size=2) for name in ("baseline", "kd"))
    assert counted(plain, taught) == pytest.approx(2, rel=0.01)
    two = replace(taught, teachers=taught.teachers * 2)
    assert counted(plain, two) == pytest.approx(4, rel=0.01)
    # In larger batches, what a layer of theirs gives counts as well.
    plain, taught = (replace(own, recipe=replace(own.recipe, batch_size=2048)) for own in (plain, taught))
    assert counted(plain, taught) > 3


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"method": "baseline", "student": "cifar_mobilenetv2", "precision": "fp32"}, marks=pytest.mark.slow),
        {"method": "dgd", "networks": 2, "precision": "bf16", "channels_last": True},
        # Three networks' activations at once; banks, and 16,384 negatives an image.
        pytest.param({"method": "ffsd", "networks": 3, "precision": "bf16", "channels_last": True}, marks=pytest.mark.slow),
        pytest.param({"method": "crd", "precision": "bf16", "channels_last": True}, marks=pytest.mark.slow),
    ],
    ids=lambda row: row["method"],
)
def test_the_estimate_is_enough_and_not_far_off(row):
    own = cell(**row)
    ((_, peak),) = measured(own)
    assert peak < memory.estimate(own)["host"] < 2.5 * peak


def test_the_estimate_knows_ranks_batches_and_precision():
    host = lambda *args, **recipe: memory.estimate(cell(*args, **recipe))["host"]  # noqa: E731
    assert host("grafting", 2, ranks_per_network=1) > 1.8 * host("grafting", 2)
    assert (
        host(batch_size=512, precision="fp32") > host(batch_size=512, precision="bf16") > host(batch_size=64, precision="bf16")
    )
    on_cuda = memory.estimate(cell(), cuda=True)
    assert on_cuda["device"] > 0
    assert memory.estimate(replace(cell(), dataset="imagefolder:x", data=Data(loader="stream", image_size=64)))["host"] < 3000


def test_footprint_counts_what_autograd_keeps():
    """Held to a real step: the tensors that autograd keeps of one, in bytes an image."""
    net = models.create("cifar_resnet8", num_classes=10, in_chans=3, image_size=32)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = net.train()(torch.randn(8, 3, 32, 32))
    for tensor in (*net.parameters(), *net.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    weights, expected, _ = memory.footprint("cifar_resnet8", 10, 3, 32, False)
    assert sum(kept.values()) / 8 == pytest.approx(expected, rel=0.01)
    assert weights == sum(t.numel() * t.element_size() for t in net.state_dict().values())
    assert logits.shape == (8, 10)
