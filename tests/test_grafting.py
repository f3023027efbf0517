"""Grafting: the published script to the bit, the paper's law, and what cannot be grafted."""

import collections
import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

import dgd  # noqa: F401  registers cifar_* with timm
from dgd import filters
from dgd.exchange import GraftingError
from dgd.exchange.graft import blending_weights, graft
from dgd.exchange.grafter import Grafter


def states(name, n, seed=0, **kwargs):
    """State dicts of n networks after a few steps' worth of made-up change, batch norm counters included."""
    found = []
    for i in range(n):
        torch.manual_seed(seed * 100 + i)
        net = timm.create_model(name, num_classes=10, **kwargs).train()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p) * p.std(unbiased=False).nan_to_num())
            for _ in range(i + 1):
                net(torch.randn(4, 3, 32, 32))
        found.append(net.state_dict())
    return found


def script_entropy(x, bins=10):
    """The script's arithmetic, restated: strict upper bounds, float32, one bin after the other."""
    x = x.reshape(-1)
    width = (x.max() - x.min()) / bins
    h = 0
    for i in range(bins):
        p = torch.sum((x >= x.min() + i * width) * (x < x.min() + (i + 1) * width), dtype=torch.float) / len(x)
        if p != 0:
            h -= p * torch.log(p)
    return float(h)


def script_graft(own, neighbour, a=0.4, c=500):
    """The script's rule, restated: 'conv' in the key renews w, every tensor is blended, loading truncates integers."""
    out = collections.OrderedDict()
    for key, u in own.items():
        if "conv" in key:
            w = round(a / np.pi * np.arctan(c * (script_entropy(u) - script_entropy(neighbour[key]))) + 0.5, 2)
        out[key] = (u * w + neighbour[key] * (1 - w)).to(u.dtype)
    return out


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet20", "cifar_resnet32", "cifar_mobilenetv2"])
@pytest.mark.parametrize("n", [2, 3])
def test_reference_code_to_the_bit(name, n):
    nets = states(name, n, seed=n)
    for c in (500, 1):
        grafted = graft(nets, c=c, protocol="reference-code")
        for i in range(n):
            plain = script_graft(nets[i], nets[i - 1], c=c)
            assert grafted[i].keys() == plain.keys()
            for key in plain:
                assert grafted[i][key].dtype == nets[i][key].dtype
                assert torch.equal(grafted[i][key], plain[key]), key


def test_two_networks_are_identical_after_reference_grafting():
    a, b = graft(states("cifar_resnet8", 2), protocol="reference-code")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_three_networks_are_not():
    a, b, _ = graft(states("cifar_resnet8", 3))
    assert not torch.equal(a["conv1.weight"], b["conv1.weight"])


def test_paper_weights_are_the_formula():
    nets = states("cifar_resnet8", 3)
    weights = blending_weights(nets, a=0.3, c=7)
    for i in range(3):
        key = "conv1.weight"
        gap = float(filters.entropy(nets[i][key])) - float(filters.entropy(nets[i - 1][key]))
        w = 0.3 / math.pi * math.atan(7 * gap) + 0.5
        assert weights[i][key] == pytest.approx(w, abs=1e-12)
        assert 0.35 < weights[i][key] < 0.65
        grafted = graft(nets, a=0.3, c=7)[i][key]
        assert torch.allclose(grafted, w * nets[i][key] + (1 - w) * nets[i - 1][key], atol=1e-6)


def test_l1_criterion_sums_the_layer():
    nets = states("cifar_resnet8", 2)
    key = "conv1.weight"
    gap = float(nets[0][key].abs().sum() - nets[1][key].abs().sum())
    w = blending_weights(nets, c=0.01, criterion="l1")[0][key]
    assert w == pytest.approx(0.4 / math.pi * math.atan(0.01 * gap) + 0.5, abs=1e-6)


def test_a_zero_is_the_average_of_neighbours():
    nets = states("cifar_resnet8", 2)
    assert torch.allclose(graft(nets, a=0)[0]["conv1.weight"], (nets[0]["conv1.weight"] + nets[1]["conv1.weight"]) / 2)


def test_other_tensors_follow_their_convolution():
    nets = states("cifar_resnet8", 2)
    w = blending_weights(nets)[0]["conv1.weight"]
    grafted = graft(nets)[0]
    assert torch.allclose(grafted["bn1.running_mean"], w * nets[0]["bn1.running_mean"] + (1 - w) * nets[1]["bn1.running_mean"])
    assert grafted["bn1.num_batches_tracked"] == nets[0]["bn1.num_batches_tracked"]


def test_shortcut_convolutions_have_their_own_weight_under_paper_only():
    nets = states("cifar_mobilenetv2", 2)
    paper, script = (blending_weights(nets, protocol=p)[0] for p in ("paper", "reference-code"))
    assert len(paper) == 57
    assert len(script) == 53
    assert len(paper.keys() - script.keys()) == 4


def test_nothing_is_changed_in_place():
    nets = states("cifar_resnet8", 2)
    before = [{key: value.clone() for key, value in state.items()} for state in nets]
    graft(nets)
    assert all(torch.equal(b[key], s[key]) for b, s in zip(before, nets) for key in s)


def test_equal_networks_stay_as_they_are():
    state = states("cifar_resnet8", 1)[0]
    for grafted in graft([state, state, state]):
        assert all(torch.allclose(grafted[key].float(), state[key].float()) for key in state)


def test_grafter_blends_modules():
    nets = [timm.create_model("cifar_resnet8", num_classes=10) for _ in range(2)]
    expected = graft([net.state_dict() for net in nets])
    kept = Grafter(nets).step()
    assert [shares.keys() for shares in kept] == [net.state_dict().keys() for net in nets]
    for net, state in zip(nets, expected):
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "efficientnet_b0", "convnext_atto", "test_resnet"])
def test_stock_timm_models_can_be_grafted(name):
    nets = [timm.create_model(name, num_classes=10) for _ in range(2)]
    Grafter(nets).step()
    assert all(torch.isfinite(p).all() for p in nets[0].parameters())


def test_what_cannot_be_grafted_says_why():
    a, b = states("cifar_resnet8", 2)
    with pytest.raises(GraftingError, match="at least two networks, 1 given"):
        graft([a])
    with pytest.raises(GraftingError, match="different architectures: only one of them has"):
        graft([a, states("cifar_resnet20", 1)[0]])
    more = {**b, "extra.b": torch.ones(1), "extra.a": torch.ones(1)}
    with pytest.raises(GraftingError, match="^networks 0 and 1 are of .*: only one of them has 'extra.a'$"):
        graft([a, more])
    wide = {**b, "conv1.weight": torch.zeros(32, 3, 3, 3)}
    with pytest.raises(GraftingError, match=r"different architectures: 'conv1.weight' is \(16, 3, 3, 3\)"):
        graft([a, wide])
    with pytest.raises(GraftingError, match="network 1 has NaN or infinite values in 'bn1.weight'"):
        graft([a, {**b, "bn1.weight": torch.full((16,), math.nan)}])
    vits = [timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=10, depth=1) for _ in range(2)]
    with pytest.raises(GraftingError, match="^network 0 has no convolution filters .*: there is nothing to graft$"):
        Grafter(vits)
    net = nn.Conv2d(3, 4, 3)
    with pytest.raises(GraftingError, match="^a module is given twice: grafted with itself it would stay as it is$"):
        Grafter([net, nn.Conv2d(3, 4, 3), net])
    for given, options, message in (
        ([net], {}, "^grafting takes at least two networks, 1 given"),
        ([net, nn.Conv2d(3, 4, 3)], {"criterion": "bn-gamma"}, "batch norm"),
        ([net, nn.Conv2d(3, 4, 3)], {"A": 0.4}, "^graft.A: unknown key; known: every"),
        ([net, nn.Conv2d(3, 4, 3)], {"a": 2}, "^graft.a is 2; it must be"),
    ):
        with pytest.raises(GraftingError, match=message):  # when it is made, not after the first epoch
            Grafter(given, **options)
    with pytest.raises(GraftingError, match="^network 0 has no tensor with 'conv' in its name .*: there is nothing to graft$"):
        graft([nn.Conv2d(3, 4, 3).state_dict()] * 2, protocol="reference-code")
    with pytest.raises(GraftingError, match="stands before the first tensor"):
        graft(
            [nn.ModuleDict({"bn": nn.BatchNorm2d(3), "conv": nn.Conv2d(3, 4, 3)}).state_dict()] * 2, protocol="reference-code"
        )
    for bad in ({"protocol": "script"}, {"criterion": "l2"}):
        with pytest.raises(GraftingError, match="must be"):
            graft([a, b], **bad)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_cpu_numbers():
    nets = states("cifar_resnet20", 3)
    on_gpu = [{key: value.cuda() for key, value in state.items()} for state in nets]
    torch.use_deterministic_algorithms(True)
    try:
        pairs = zip(graft(nets), graft(on_gpu))
    finally:
        torch.use_deterministic_algorithms(False)
    for cpu, gpu in pairs:
        assert all(torch.allclose(cpu[key], gpu[key].cpu(), atol=1e-6) for key in cpu)
