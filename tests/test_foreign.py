"""Every method on a device that is not the CPU (`foreign`): the CPU's numbers, and nothing waits for it within an epoch."""

import sys
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from dgd.cell import exchange
from dgd.methods import METHODS
from dgd.models import folding
from dgd.train import checkpoint, streams, train_cell
from dgd.train.exchanging import exchange_weights
from dgd.train.step import train_epoch
from tests.foreign import DEVICE, device, generator
from tests.helpers import Stopped, covering, fresh_group, make_teacher, method_cell, stopping, train_loader


@pytest.fixture
def elsewhere(monkeypatch):
    optimizer = sys.modules["torch.optim.optimizer"]  # torch deletes its name
    supported = optimizer._get_fused_kernels_supported_devices
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*supported(), DEVICE.type])
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the device
    monkeypatch.setattr(sys.modules["dgd.train.cell"], "pick_device", lambda name: DEVICE)
    monkeypatch.setattr(streams, "device_generator", lambda on: generator())


def test_tensors_of_two_devices_do_not_meet():
    here = torch.ones(2, 2)
    with device() as waits:
        there = here.to(DEVICE)
        for mix in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here.add_(there)):
            with pytest.raises(RuntimeError, match="tensors of two devices"):
                mix()
        with pytest.raises(TypeError):
            there.numpy()
        with pytest.raises(RuntimeError, match="a generator of the CPU"):
            torch.rand(2, device=DEVICE, generator=torch.Generator())
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="adaptive_avg_pool2d_backward.* is not deterministic"):
            F.adaptive_avg_pool2d(torch.ones(1, 1, 4, 4, device=DEVICE, requires_grad=True), 2).sum().backward()
        torch.use_deterministic_algorithms(False)
        assert (there * 2 + torch.tensor(1.0)).device == DEVICE
        assert not waits
        assert float(there.sum()) == 4
        assert torch.equal(there.cpu(), here)
        assert len(there[there > 2]) == 0
    assert sum(waits.values()) == 3


# What no row of the method table does.
VARIED = {
    "average": {"exchange": {"name": "average", "momentum": "graft", "evaluate": "after"}},
    "swap": {"exchange": {"name": "swap", "momentum": "reset", "batch_norm": "reestimate"}},
    "noise": {"exchange": {"name": "noise", "gamma": 100.0}},
    "internal": {"exchange": {"name": "internal", "gamma": 100.0}},
    "l1": {"exchange": {"name": "graft", "criterion": "l1"}},
    "filter": {"exchange": {"name": "graft", "level": "filter", "criterion": "bn-gamma", "rule": "ratio"}},
    "reference-code": {"exchange": {"name": "graft", "protocol": "reference-code"}},
    "swa": {"recipe": {"weight_average": "swa", "average_from": 1}},
    "ema": {"recipe": {"weight_average": "ema"}},
    "smoothing": {"objective": {"ce": {}, "smoothing": {}}},
}


def varied(name):
    """A cell of a row of the method table, or of `VARIED`, for two epochs; RePr's cycle takes three."""
    recipe = {"epochs": 3 if name == "repr" else 2, "batch_size": 24}
    if name not in VARIED:
        return method_cell(name, **recipe)
    changes = dict(VARIED[name])
    own = method_cell("kd" if "objective" in changes else "grafting", **recipe, **changes.pop("recipe", {}))
    return replace(own, **changes | ({"exchange": exchange(changes["exchange"])} if "exchange" in changes else {}))


@pytest.mark.parametrize("name", [*covering(METHODS), *VARIED])
def test_a_cell_gives_the_cpus_numbers(few_digits, tmp_path, monkeypatch, name, request):
    """Also where it is stopped once there."""
    own = varied(name)
    own = replace(own, teachers=("teacher",) * len(own.teachers))
    make_teacher(own, few_digits, tmp_path / "teacher")
    monkeypatch.setattr(folding, "_fuse", lambda net, example: net)  # other roundings, which only a CPU has
    train_cell(own, results=tmp_path, data=few_digits, out=tmp_path / "cpu")
    request.getfixturevalue("elsewhere")
    with device():
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_state", stopping(checkpoint.save_state))
            with pytest.raises(Stopped):
                train_cell(own, results=tmp_path, data=few_digits, out=tmp_path / "foreign")
        train_cell(own, results=tmp_path, data=few_digits, out=tmp_path / "foreign")
    there, here = (pd.read_csv(tmp_path / device / "history.csv") for device in ("foreign", "cpu"))
    pd.testing.assert_frame_equal(there, here, rtol=1e-4)  # autograd adds a subclass's gradients up in another order
    there, here = (checkpoint.load_weights(tmp_path / device / "model.safetensors") for device in ("foreign", "cpu"))
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*covering(METHODS), "reference-code", "swap", "ema"])
def test_nothing_waits_within_an_epoch(few_digits, elsewhere, name):
    """What waits at its end, and in the exchange, does so as often with two batches as with four."""
    own = varied(name)
    counts = []
    for size in (24, 12):
        own = replace(own, recipe=replace(own.recipe, batch_size=size))
        with device() as waits:
            loader = train_loader(own, few_digits, DEVICE)
            learns = fresh_group(own, few_digits, DEVICE)
            waits.clear()
            train_epoch(learns, loader, 1)
            if own.exchange:
                exchange_weights(learns, 1, loader)
        counts.append(dict(waits))
    assert counts[0] == counts[1]
