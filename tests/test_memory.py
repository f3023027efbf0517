"""What a cell holds: N networks and one teacher, one data set; and the estimate that a scheduler is given."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgd import config, data, memory, models, training

ROOT = Path(__file__).parents[1]


def cell(method="baseline", networks=1, student="cifar_resnet20", **recipe):
    row = "baseline" if method == "baseline" else {"x": {"base": method, "networks": networks}}
    benchmark = {
        "benchmark": "t",
        "seeds": [0],
        "datasets": ["cifar10"],
        "pairs": [{"student": student, "teacher": "cifar_resnet56"}],
        "methods": [row],
        "data": {"train_images": 192},
        "adapt_stem": True,
        "recipe": {"batch_size": 64, "device": "cpu", **recipe},
    }
    return config.cells(benchmark)[-1]


def train(cell):
    """Two epochs of a group on random images; MiB of all tensors that are alive after them."""
    sizes = {"train": 192, "validation": 0, "test": 64}
    manifest = {"name": "cifar10", "loader": "memory", "num_classes": 10, "in_chans": 3, "image_size": 32, "sizes": sizes}
    manifest |= {"mean": [0.5] * 3, "std": [0.25] * 3, "augmentation": {"pad": 4, "flip": True}}
    tensors = {}
    for split in ("train", "test"):
        tensors[f"{split}_images"] = torch.randint(0, 256, (sizes[split], 3, 32, 32), dtype=torch.uint8)
        tensors[f"{split}_labels"] = torch.randint(0, 10, (sizes[split],))
    dataset = data.Dataset(manifest, tensors)
    training.set_up(cell["recipe"])
    shape = {"num_classes": 10, "in_chans": 3, "image_size": 32, "adapt_stem": True}
    teachers = [models.create(cell["teacher"], **shape) for _ in cell["teachers"]]
    group = training.Group(cell, dataset, teachers, torch.device("cpu"))
    del teachers
    last = cell["recipe"]["channels_last"]
    splits = {split: dataset.loader(split, batch_size=64, channels_last=last) for split in ("train", "test")}
    for epoch in range(2):
        group.train_epoch(splits["train"], epoch)
        group.evaluate(splits["test"])
        if group.trades(epoch, "after"):
            group.trade(epoch)
    gc.collect()
    alive = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            alive[storage.data_ptr()] = storage.nbytes()
    return sum(alive.values()) / 2**20, training.peak_memory(group)


SCRIPT = "import json, sys; from tests.test_memory import train; print(json.dumps(train(json.loads(sys.argv[1]))))"


def measure(cell):
    run = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(cell)], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_n_networks_cost_n_networks_and_never_a_copy_of_the_data():
    one, two, four = (measure(cell("grafting", n) if n > 1 else cell())[0] for n in (1, 2, 4))
    weights = memory.footprint("cifar_resnet20", 10, 3, 32, True)[0] / 2**20
    for networks, alive in ((2, two), (4, four)):
        assert alive - one == pytest.approx((networks - 1) * 2 * weights, abs=0.05)  # weights and momentum; the data are 1 MiB


def test_a_teacher_costs_its_weights():
    """Folded, a batch norm's are in its convolution; with bf16, convolutions take half."""
    alone = measure(cell())[0]
    weights = memory.footprint("cifar_resnet56", 10, 3, 32, True)[0] / 2**20
    assert 0.9 * weights < measure(cell("kd", precision="fp32"))[0] - alone < 1.1 * weights
    assert 0.45 * weights < measure(cell("kd", precision="bf16"))[0] - alone < 0.6 * weights


@pytest.mark.parametrize(
    "row",
    [
        {"method": "baseline", "precision": "fp32"},
        {"method": "dgd", "networks": 2, "precision": "bf16", "channels_last": True},
        {"method": "kd", "student": "cifar_mobilenetv2", "precision": "bf16", "channels_last": True},
        {"method": "ffsd", "networks": 3, "precision": "bf16", "channels_last": True},  # three networks' activations at once
        {"method": "crd", "precision": "bf16", "channels_last": True},  # banks, and 16,384 negatives an image
    ],
    ids=lambda row: row["method"],
)
def test_the_estimate_is_enough_and_not_far_off(row):
    _, peak = measure(cell(**row))
    assert peak["peak_memory_mib"] < peak["estimated_memory_mib"] < 2.5 * peak["peak_memory_mib"]


def test_the_estimate_knows_ranks_batches_and_precision():
    host = lambda *args, **recipe: memory.estimate(cell(*args, **recipe))["host"]  # noqa: E731
    assert host("grafting", 2, ranks_per_network=1) > 1.8 * host("grafting", 2)
    assert (
        host(batch_size=512, precision="fp32") > host(batch_size=512, precision="bf16") > host(batch_size=64, precision="bf16")
    )
    on_cuda = memory.estimate(cell(), cuda=True)
    assert on_cuda["device"] > 0
    assert (
        memory.estimate({**cell(), "dataset": "imagefolder:x", "data": {"loader": "stream", "image_size": 64}})["host"] < 3000
    )


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
