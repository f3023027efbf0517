"""Pruning: filters taken away by hand."""

import contextlib
import copy
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from dgd import cli, config, data, filters, models
from dgd.data.loader import Examples
from dgd.metrics import METRICS
from dgd.models.folding import followers
from dgd.read import files
from dgd.train import NoResult, pruning, train_cell
from dgd.train.streams import generator
from tests.helpers import unseal

ROOT = Path(__file__).parents[1]


class Images:
    """A loader: 40 random images of 3x8x8, each of its own colour, in batches of 16; labels are what a network says of them."""

    images, device, input = 40, torch.device("cpu"), "image"

    @torch.no_grad()
    def __init__(self, net):
        draw = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(40, 3, 8, 8, generator=draw) + 3 * torch.randn(40, 3, 1, 1, generator=draw)
        self.labels = net.eval()(self.pixels).argmax(1)

    def feed(self):
        return self

    def start(self):
        return [slice(0, 16), slice(16, 32), slice(32, 40)]

    def batch(self, part):
        return Examples({"image": self.pixels[part]}, self.labels[part], torch.arange(40)[part])

    def batches(self):
        return map(self.batch, self.start())


class Tiny(nn.Module):
    """Two convolutions of 4 and 6 filters: one with a bias and a batch norm, one without either."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 6, 3, bias=False), nn.Linear(6, 4)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            nn.init.normal_(tensor)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.head(self.second(x).mean((2, 3)))


def without(net, first=(), second=()):
    """What the network answers where these channels are zero: masks, instead of weights."""
    keep = torch.ones(4), torch.ones(6)
    keep[0][list(first)], keep[1][list(second)] = 0, 0

    def logits(x):
        x = (net.norm(net.first(x)) * keep[0][:, None, None]).relu()
        return net.head((net.second(x) * keep[1][:, None, None]).mean((2, 3)))

    return logits


@torch.no_grad()
def test_a_removed_filters_channel_is_zero():
    net, example = Tiny().eval(), torch.randn(5, 3, 8, 8)
    wanted = without(copy.deepcopy(net), first=[1, 3], second=[0])(example)
    chosen = torch.zeros(10, dtype=torch.bool)
    chosen[[1, 3, 4]] = True
    # A first filter has 27 weights, bias, gamma and beta; a second one 36 weights.
    assert pruning.remove(net, chosen, example[:2]) == 2 * (27 + 3) + 36
    assert torch.allclose(net(example), wanted, atol=1e-6)
    assert pruning.remove(net, torch.zeros(10, dtype=torch.bool), example) == 0
    with pytest.raises(ValueError, match=r"chosen is torch.bool \(9,\); it must be bool \(10,\)"):
        pruning.remove(net, chosen[1:], example)


@torch.no_grad()
def test_removing_filters_that_give_nothing_changes_nothing():
    net, example = Tiny().eval(), torch.randn(5, 3, 8, 8)
    for tensor in (net.first.weight, net.first.bias, net.norm.bias, net.norm.running_mean):
        tensor[:2] = 0
    net.second.weight[5] = 0
    wanted = net(example)
    chosen = filters.flatten(filters.l1_norms(net)) == 0
    assert chosen.sum() == 3
    pruning.remove(net, chosen, example)
    assert torch.equal(net(example), wanted)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_mobilenetv2", "mobilenetv3_small_100", "densenet121"])
@torch.no_grad()
def test_no_filter_of_any_network_gives_anything_once_removed(name):
    """Every convolution that a batch norm follows: what that norm gives is zero in the removed channels, and only there."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=4, in_chans=3, image_size=32, adapt_stem=True).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 3.0)
    example = torch.randn(2, 3, 32, 32)
    weights = filters.conv_weights(net)
    chosen = torch.rand(sum(map(len, weights.values()))) < 0.3
    parts = dict(zip(weights, chosen.split([len(weight) for weight in weights.values()])))
    names = {module: key for key, module in net.named_modules()}
    pairs, _ = followers(net, example)
    assert len(pairs) > 5
    pruning.remove(net, chosen, example)
    seen = []

    def check(norm, inputs, output):
        part = parts[f"{names[pairs[norm]]}.weight"]
        assert inputs[0][:, part].abs().max() == 0 or not part.any()
        seen.append(torch.equal(norm.weight == 0, part) and torch.equal(norm.bias == 0, part))

    for norm in pairs:
        norm.register_forward_hook(check)
    assert net(example).isfinite().all()
    assert len(seen) == len(pairs)
    assert all(seen)


@torch.no_grad()
def test_a_curve_against_one_made_by_hand():
    net = Tiny().eval()
    loader = Images(net)
    norms = torch.cat([net.first.weight.abs().sum((1, 2, 3)), net.second.weight.abs().sum((1, 2, 3))])
    order = norms.argsort().tolist()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = pruning.pruning_curve(net, loader, [0.3, 0.5, 1.0])
    assert list(found.columns) == pruning.columns(METRICS["classification"]) == [*files.PRUNING, "top1", "top1_random"]
    assert found["removed"].tolist() == [0, 3, 5, 10]
    assert found["filters_left"].tolist() == [10, 7, 5, 0]
    assert found["share"].tolist() == [0, 0.3, 0.5, 1]
    total = sum(p.numel() for p in net.parameters())
    for row in found.itertuples():
        gone = order[: row.removed]
        first, second = [i for i in gone if i < 4], [i - 4 for i in gone if i >= 4]
        right = (without(net, first, second)(loader.pixels).argmax(1) == loader.labels).sum().item()
        assert row.top1 == pytest.approx(100 * right / 40)
        assert row.parameters_left == total - 30 * len(first) - 36 * len(second)
    assert found["top1"].is_monotonic_decreasing
    assert found["top1"].nunique() > 2
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_random_control_is_seeded_and_of_the_same_number():
    net = Tiny().eval()
    loader = Images(net)
    first, again, other = (pruning.pruning_curve(net, loader, [0.2, 0.4, 0.6, 1.0], seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first["top1"] == other["top1"]).all()
    assert (first["top1_random"] != other["top1_random"]).any()
    # The ends are the same whatever is removed first.
    assert first["top1_random"].iloc[0] == pytest.approx(first["top1"].iloc[0])
    assert first["top1_random"].iloc[-1] == pytest.approx(first["top1"].iloc[-1])
    # One draw, by hand.
    one = pruning.pruning_curve(net, loader, [0.4], seed=0, draws=1)["top1_random"].iloc[1]
    gone = torch.randperm(10, generator=generator(0, "pruning", 0))[:4].tolist()
    logits = without(net, [i for i in gone if i < 4], [i - 4 for i in gone if i >= 4])
    with torch.no_grad():
        assert one == pytest.approx(100 * (logits(loader.pixels).argmax(1) == loader.labels).float().mean().item())


def test_errors_of_a_curve():
    with pytest.raises(ValueError, match=r"a share of filters to remove is 1.2; it must be 0 to 1"):
        pruning.pruning_curve(Tiny(), Images(Tiny()), [0.1, 1.2])
    with pytest.raises(ValueError, match="no convolution filters"):
        pruning.pruning_curve(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), Images(Tiny()), [0.1])
    assert pruning.TOLERANCE == files.TOLERANCE


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cell trained for an epoch, and one that diverged; the folder that both are below."""
    root = tmp_path_factory.mktemp("trained")
    given = {
        "benchmark": "t",
        "seeds": [0],
        "datasets": ["digits"],
        "data": {"dir": str(root / "data"), "train_images": 40},
        "pairs": [{"student": "cifar_resnet8"}],
        "methods": ["baseline", {"wild": {"base": "baseline", "recipe": {"lr": 1.0e30}}}],
        "recipe": {"epochs": 1, "batch_size": 20, "device": "cpu", "evaluate_every": 1},
    }
    prepared = root / "data/prepared/t/digits"
    data.prepare("digits", prepared, data_dir=root / "data", train_images=40)
    for cell in config.cells(config.check(given)):
        with contextlib.suppress(NoResult):
            train_cell(cell, results=root / "results", data=prepared)
    return root


def test_dgd_bench_prune_starts_from_what_was_measured(trained, capsys):
    folder = trained / "results/t/digits/cifar_resnet8/baseline/seed0"
    assert cli.main(["prune", str(folder), "--shares", "0.25", "0.5"]) == 0
    assert "top1_random" in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    found = files.read_pruning(folder / "pruning.csv", measured=metrics["networks"][0]["last"]["top1"])
    assert found["top1"].iloc[0] == metrics["networks"][0]["last"]["top1"]
    assert found["removed"].tolist() == [0, 60, 120]
    assert found["parameters_left"].iloc[0] == metrics["parameters"]
    before = (folder / "pruning.csv").read_bytes()
    assert cli.main(["prune", str(folder), "--shares", "0.25", "0.5"]) == 0
    assert (folder / "pruning.csv").read_bytes() == before


def test_weights_that_were_not_measured_are_refused(trained, capsys, tmp_path):
    source = trained / "results/t/digits/cifar_resnet8/baseline/seed0"
    folder = tmp_path / "t/digits/cifar_resnet8/baseline/seed0"
    shutil.copytree(source, folder)
    (folder / "pruning.csv").unlink(missing_ok=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["networks"][0]["last"]["top1"] += 3
    metrics["top1"]["last"] += 3
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert cli.main(["prune", str(folder), "--shares", "0.5"]) == 1
    assert "metrics.json was changed or damaged after it was written" in capsys.readouterr().err
    unseal(folder)
    assert cli.main(["prune", str(folder), "--shares", "0.5"]) == 1
    captured = capsys.readouterr().err
    assert "is not sealed, because older code trained it" in captured
    assert "these are not the weights, or not the data, that were measured" in captured
    assert not (folder / "pruning.csv").exists()
    shutil.copytree(folder, tmp_path / "copy")
    assert cli.main(["prune", str(tmp_path / "copy"), "--shares", "0.5"]) == 1
    assert (
        "is that of the cell t/digits/cifar_resnet8/baseline/seed0; a copy counts as no second cell" in capsys.readouterr().err
    )


def test_a_cell_without_a_result_has_an_empty_curve(trained, tmp_path, capsys):
    folder = trained / "results/t/digits/cifar_resnet8/wild/seed0"
    assert pruning.prune_cell(folder, trained / "data/prepared/t/digits").empty
    assert files.read_pruning(folder / "pruning.csv") is None
    for path, message in ((folder, "nothing to prune"), (tmp_path, "no config.yaml of a cell in it")):
        assert cli.main(["prune", str(path)]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"metrics.json: no such file"):
        pruning.prune_cell(tmp_path, trained / "data/prepared/t/digits")


def test_the_rules_script_does_the_same(trained):
    from pipeline import prune

    folder = trained / "results/t/digits/cifar_resnet8/baseline/seed0"
    assert cli.main(["prune", str(folder), "--shares", "0.5"]) == 0
    wanted = (folder / "pruning.csv").read_bytes()
    (folder / "pruning.csv").unlink()
    assert yaml.safe_load((folder / "config.yaml").read_text())["recipe"]["device"] == "cpu"
    prune.main(["--folder", str(folder), "--data", str(trained / "data/prepared/t/digits"), "--shares", "0.5"])
    assert (folder / "pruning.csv").read_bytes() == wanted
