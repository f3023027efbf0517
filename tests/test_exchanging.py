"""What exchanges and averages do in a group of networks that learns."""

import copy

import numpy as np
import pytest
import torch

from dgd import data, filters, models
from dgd.cell import EXCHANGES, Cell, Within
from dgd.exchange.graft import blending_weights, graft
from dgd.train import averages, checkpoint, train_cell
from dgd.train.exchanging import exchange_weights
from dgd.train.group import Group
from dgd.train.step import train_epoch
from dgd.train.streams import generator
from tests.helpers import cells_of


def cell(method, **recipe) -> Cell:
    benchmark = {
        "benchmark": "t",
        "seeds": [0],
        "datasets": ["digits"],
        "pairs": [{"student": "cifar_resnet8"}],
        "methods": [{"x": method}],
        "recipe": {"epochs": 6, "batch_size": 20, "lr": 0.05, "device": "cpu", "precision": "fp32", **recipe},
    }
    return cells_of(benchmark)[0]


def group(few_digits, exchange=None, networks=2, **recipe):
    """A group after an epoch, with its training batches."""
    base = {"base": "grafting" if networks > 1 else "baseline", "networks": networks, "exchange": exchange}
    dataset = data.load(few_digits)
    found = Group(cell(base, **recipe), dataset, [], torch.device("cpu"))
    loader = dataset.loader("train", batch_size=20, channels_last=True)
    train_epoch(found, loader, 0)
    return found, loader


def buffers(found):
    return [{key: value.clone() for key, value in found.momentum(k).items()} for k in range(len(found.networks))]


def state(network):
    return copy.deepcopy(network.state_dict())


def test_momentum_is_kept_reset_or_grafted(few_digits):
    for how in ("keep", "reset", "graft"):
        found, _ = group(few_digits, {"name": "graft", "momentum": how})
        before, states = buffers(found), [state(net) for net in found.networks]
        weights = blending_weights(states)
        (shares, _) = exchange_weights(found, 0)
        after, key = buffers(found), "layer1.0.conv1.weight"
        expected = {
            "keep": before[0][key],
            "reset": torch.zeros_like(before[0][key]),
            "graft": weights[0][key] * before[0][key] + (1 - weights[0][key]) * before[1][key],
        }[how]
        assert torch.allclose(after[0][key], expected, atol=1e-6)
        assert torch.allclose(found.networks[0].state_dict()[key], graft(states)[0][key], atol=1e-6)
        assert shares.tolist() == pytest.approx([weights[0][k] for k in filters.conv_weights(states[0])])


def test_batch_norm_is_estimated_anew_from_training_batches(few_digits):
    found, loader = group(few_digits, {"name": "average", "batch_norm": "reestimate"})
    exchange_weights(found, 0, loader)
    blended, _ = group(few_digits, {"name": "average"})
    exchange_weights(blended, 0)
    net, other = found.networks[0], blended.networks[0]
    assert torch.equal(net.state_dict()["conv1.weight"], other.state_dict()["conv1.weight"])
    assert not torch.equal(net.bn1.running_mean, other.bn1.running_mean)
    streams = {name: generator(0, name, "exchange", 0, 0) for name in ("order", "augment")}
    with torch.no_grad():
        batches = [net.conv1(batch.inputs["image"]) for batch in loader.batches(**streams)]
    assert torch.allclose(net.bn1.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0), atol=1e-5)
    assert net.bn1.momentum == 0.1


def test_evaluation_before_or_after_the_exchange(few_digits, tmp_path):
    found = {}
    for when in ("before", "after"):
        made = cell({"base": "grafting", "exchange": {"name": "swap", "evaluate": when}}, epochs=1)
        metrics = train_cell(made, results=tmp_path, data=few_digits, out=tmp_path / when)
        found[when] = [(net["last"]["top1"], net["last"]["loss"]) for net in metrics["networks"]]
    assert found["after"] == found["before"][::-1]
    assert found["after"][0] != found["after"][1]


@pytest.mark.parametrize("name", [name for name, kind in EXCHANGES.items() if issubclass(kind, Within)])
def test_sources_within_a_network_train_alone_and_leave_no_shares(few_digits, tmp_path, name):
    made = cell({"base": "baseline", "exchange": {"name": name, "gamma": 5.0}}, epochs=2)
    assert train_cell(made, results=tmp_path, data=few_digits)["status"] == "finished"
    with np.load(tmp_path / made.path / "filters.npz") as arrays:
        assert "exchanges" not in arrays


def test_the_trace_of_the_epochs(few_digits, tmp_path):
    made = cell({"base": "grafting"}, filters_every=2, epochs=5)
    train_cell(made, results=tmp_path, data=few_digits)
    with np.load(tmp_path / made.path / "filters.npz") as arrays:
        assert arrays["epochs"].tolist() == [1, 3, 4]
        last = np.concatenate([arrays[key] for key in arrays if key.startswith("l1/1/")])
        assert np.array_equal(arrays["trace/l1/1"][-1], last)
        assert np.array_equal(arrays["trace/entropy/0"][-1], arrays["entropy/0"])
        assert arrays["exchanges"].tolist() == [0, 1, 2, 3]
        assert arrays["trace/share/1"].shape == (4, 7)
        assert ((arrays["trace/share/1"] > 0.29) & (arrays["trace/share/1"] < 0.71)).all()


def test_independent_networks_are_single_ones_and_their_ensemble(few_digits, tmp_path):
    made = cell({"base": "grafting", "exchange": None}, epochs=2)
    metrics = train_cell(made, results=tmp_path, data=few_digits)
    single = train_cell(cell({"base": "baseline"}, epochs=2), results=tmp_path, data=few_digits, out=tmp_path / "single")
    assert metrics["networks"][0] == single["networks"][0]
    assert single["ensemble"] is None
    weights = checkpoint.load_weights(tmp_path / made.path / "model.safetensors")
    dataset = data.load(few_digits)
    probabilities = 0
    for i in "01":
        net = models.create("cifar_resnet8", num_classes=10, in_chans=1, image_size=8).eval()
        net.load_state_dict({key[2:]: value for key, value in weights.items() if key[0] == i})
        with torch.no_grad():
            parts = [(net(b.inputs["image"]).softmax(1), b.labels) for b in dataset.loader("test", batch_size=500).batches()]
        probabilities = probabilities + torch.cat([p for p, _ in parts])
    labels = torch.cat([y for _, y in parts])
    assert metrics["ensemble"]["top1"] == pytest.approx(
        float((probabilities.argmax(1) == labels).float().mean()) * 100, abs=0.4
    )


# --------------------------------------------------------------------------------------------- averages over epochs


@pytest.mark.parametrize("how", ["ema", "swa"])
def test_averages_of_the_weights_over_epochs(few_digits, how):
    recipe = {"weight_average": how, "average_decay": 0.75, "average_from": 2}
    found, loader = group(few_digits, networks=1, **recipe)
    seen = []
    for epoch in range(4):
        if epoch:
            train_epoch(found, loader, epoch)
        averages.average(found, epoch)
        seen.append(found.networks[0].conv1.weight.detach().clone())
    _, second, third, fourth = seen
    expected = {
        "swa": (second + third + fourth) / 3,
        "ema": 0.75 * (0.75 * second + 0.25 * third) + 0.25 * fourth,
    }[how]
    assert torch.allclose(found.eval_networks[0].conv1.weight, expected, atol=1e-6)
    before = found.eval_networks[0].bn1.running_mean.clone()
    averages.prepare_averages(found, loader, 3)
    assert not torch.equal(found.eval_networks[0].bn1.running_mean, before)


def test_an_averaged_network_is_what_is_saved_and_what_is_resumed(few_digits, tmp_path):
    made = cell({"base": "baseline"}, weight_average="ema", epochs=3)
    metrics = train_cell(made, results=tmp_path, data=few_digits)
    plain = train_cell(cell({"base": "baseline"}, epochs=3), results=tmp_path, data=few_digits, out=tmp_path / "plain")
    assert metrics["networks"][0]["last"]["loss"] != plain["networks"][0]["last"]["loss"]
    found, _ = group(few_digits, networks=1, weight_average="ema")
    averages.average(found, 0)
    again, _ = group(few_digits, networks=1, weight_average="ema")
    again.load(found.state())
    assert all(
        torch.equal(a, b)
        for a, b in zip(found.eval_networks[0].state_dict().values(), again.eval_networks[0].state_dict().values())
    )
