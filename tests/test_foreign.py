"""Every method on a device that is not the CPU (`foreign`): the CPU's numbers, and nothing waits for it within an epoch."""

import sys
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from foreign import DEVICE, device
from test_zoo import NAMES, Stopped, cell, group, loader, make_teacher, stopping

from dgd import checkpoint, data, training
from dgd.models import folding


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    data.prepare("digits", out, train_images=48, validation_images=0)
    return out


@pytest.fixture
def elsewhere(monkeypatch):
    optimizer = sys.modules["torch.optim.optimizer"]  # torch deletes its name
    supported = optimizer._get_fused_kernels_supported_devices
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*supported(), DEVICE.type])
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the device
    monkeypatch.setattr(training, "pick_device", lambda name: DEVICE)


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
    """A cell of a row of the method table, or of `VARIED`."""
    if name not in VARIED:
        return cell(name)
    changes = VARIED[name]
    own = cell("kd" if "objective" in changes else "grafting", **changes.get("recipe", {}))
    return own | {key: value for key, value in changes.items() if key != "recipe"}


@pytest.mark.parametrize("name", [*NAMES, *VARIED])
def test_a_cell_gives_the_cpus_numbers(digits, tmp_path, monkeypatch, name, request):
    """Also where it is stopped once there."""
    own = varied(name)
    own["teachers"] = ["teacher"] * len(own["teachers"])
    make_teacher(own, digits, tmp_path / "teacher")
    monkeypatch.setattr(training.provenance, "_environment", lambda *_, **__: {})
    monkeypatch.setattr(folding, "_fuse", lambda net, example: net)  # other roundings, which only a CPU has
    training.train_cell(own, results=tmp_path, data=digits, out=tmp_path / "cpu")
    request.getfixturevalue("elsewhere")
    with device():
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_state", stopping(checkpoint.save_state))
            with pytest.raises(Stopped):
                training.train_cell(own, results=tmp_path, data=digits, out=tmp_path / "foreign")
        training.train_cell(own, results=tmp_path, data=digits, out=tmp_path / "foreign")
    there, here = (pd.read_csv(tmp_path / device / "history.csv") for device in ("foreign", "cpu"))
    pd.testing.assert_frame_equal(there, here, rtol=1e-4)  # autograd adds a subclass's gradients up in another order
    there, here = (checkpoint.load_weights(tmp_path / device / "model.safetensors") for device in ("foreign", "cpu"))
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*NAMES, *VARIED])
def test_nothing_waits_within_an_epoch(digits, elsewhere, name):
    """What waits at its end, and in the exchange, does so as often with three batches as with six."""
    own = varied(name)
    counts = []
    for size in (16, 8):
        own["recipe"]["batch_size"] = size
        with device() as waits:
            learns = group(own, digits, DEVICE)
            waits.clear()
            learns.train_epoch(loader(own, digits, DEVICE), 1)
            if learns.exchange:
                learns.trade(1, loader(own, digits, DEVICE))
        counts.append(dict(waits))
    assert counts[0] == counts[1]
