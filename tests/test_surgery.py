"""RePr: which filters are dropped, that they are off, what they become, and that it resumes."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from dgd import models
from dgd.exchange import GraftingError
from dgd.exchange.repr import RePr, orthogonal, overlap

NETWORKS = ["cifar_resnet8", "test_resnet", "cifar_mobilenetv2", "cifar_vgg16_bn"]
SHORT = {"normal": 1, "pruned": 1, "cycles": 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Plain(nn.Module):
    """Three convolutions with bias and no batch norm, one grouped, one batch norm that two convolutions share."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.b = nn.Conv2d(12, 6, 1)
        self.c = nn.Conv2d(6, 6, 1)
        self.shared = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        x = self.b(self.grouped(self.a(self.stem(x).relu()).relu()).relu())
        return self.linear(self.shared(self.c(self.shared(x).relu())).relu().mean((2, 3)))


def build(name="cifar_resnet8", seed=0, **options):
    """A network, its RePr, an optimiser and what a training calls."""
    torch.manual_seed(seed)
    network = Plain() if name == "plain" else models.create(name, num_classes=5)
    example = torch.randn(2, 3, 32, 32, generator=generator(seed))
    return network, RePr(network, example, **{**SHORT, **options}), example


def optimiser(network, **options):
    sgd = torch.optim.SGD(network.parameters(), **{"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, **options})
    for parameter in network.parameters():
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd, {name: sgd.state[p]["momentum_buffer"] for name, p in network.named_parameters()}


def step(network, sgd, seed, repr_=None, momentum=None):
    images = torch.randn(4, 3, 32, 32, generator=generator(seed))
    nn.functional.cross_entropy(network.train()(images), torch.arange(4) % 5).backward()
    if repr_ is None:
        return
    sgd.step()
    sgd.zero_grad()
    repr_.after_step(momentum)


def masks(surgery):
    return {layer.name: surgery._held(layer)[0] for layer in surgery.layers}


# ------------------------------------------------------------------------------------------------------- the ranking


def test_overlap_against_loops():
    weight = torch.randn(5, 2, 3, 3, generator=generator())
    rows = [[float(v) for v in row.flatten()] for row in weight]
    rows = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in rows]
    want = []
    for i in range(5):
        products = [abs(sum(a * b for a, b in zip(rows[i], rows[j])) - (i == j)) for j in range(5)]
        want.append(sum(products) / 5)
    assert overlap(weight).tolist() == pytest.approx(want, rel=1e-6)
    assert overlap(weight * 7).tolist() == pytest.approx(want, rel=1e-6)  # the length does not count
    assert overlap(-weight).tolist() == pytest.approx(want, rel=1e-6)


def test_duplicated_filters_have_maximal_scores():
    weight = torch.linalg.qr(torch.randn(18, 9, generator=generator())).Q.T.reshape(9, 2, 3, 3)
    weight[[2, 5, 7]] = weight[2] * torch.tensor([1.0, 3.0, -2.0])[:, None, None, None]
    scores = overlap(weight)
    assert set(scores.topk(3).indices.tolist()) == {2, 5, 7}
    assert scores[[2, 5, 7]].tolist() == pytest.approx([2 / 9] * 3, abs=1e-6)
    assert scores[[0, 1, 3, 4, 6, 8]].abs().max() < 1e-6


def orthonormal(conv):
    with torch.no_grad():
        rows = nn.init.orthogonal_(torch.empty(len(conv.weight), conv.weight[0].numel()))
        conv.weight.copy_(rows.reshape(conv.weight.shape))


def test_the_ranking_is_over_all_layers():
    network, surgery, _ = build(share=0.05)
    for layer in surgery.layers:
        orthonormal(layer.conv)  # no overlap anywhere ...
    crowded = network.get_submodule(surgery.layers[2].name)
    with torch.no_grad():
        crowded.weight.copy_(crowded.weight[:1] + 0.01 * crowded.weight)  # ... but here
    total = sum(len(layer.conv.weight) for layer in surgery.layers)
    surgery.after_epoch(0, {}, generator())
    counts = {name: int(mask.sum()) for name, mask in masks(surgery).items()}
    assert counts.pop(surgery.layers[2].name) == int(0.05 * total + 0.5) > 0
    assert set(counts.values()) == {0}


def test_the_score_is_divided_by_the_width():
    """A pair of twins in a narrow layer overlaps more than one in a wide layer."""
    _, surgery, _ = build(share=0.009)
    assert round(0.009 * sum(len(layer.conv.weight) for layer in surgery.layers)) == 2
    layers = sorted(surgery.layers, key=lambda layer: len(layer.conv.weight))
    for layer in layers:
        orthonormal(layer.conv)
    narrow, wide = layers[0], layers[-1]
    for layer in (narrow, wide):
        layer.conv.weight.data[1] = layer.conv.weight.data[0]
    surgery.after_epoch(0, {}, generator())
    assert masks(surgery)[narrow.name].nonzero().flatten().tolist() == [0, 1]
    assert not masks(surgery)[wide.name].any()


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_layer_keeps_one_filter(share):
    _, surgery, _ = build(share=share)
    for layer in surgery.layers[:2]:
        layer.conv.weight.data[:] = layer.conv.weight.data[:1]  # all filters of these are the same
    surgery.after_epoch(0, {}, generator())
    dropped = masks(surgery)
    for layer in surgery.layers[:2]:
        assert dropped[layer.name].sum() == len(layer.conv.weight) - 1
    total = sum(map(len, dropped.values()))
    assert sum(int(mask.sum()) for mask in dropped.values()) == min(int(share * total + 0.5), total - len(dropped))
    assert all(not mask.all() for mask in dropped.values())


def test_what_is_ranked():
    network, surgery, example = build("plain")
    assert [layer.name for layer in surgery.layers] == ["a", "b", "c"]  # not the first, not the grouped one
    assert all(not layer.norms for layer in surgery.layers)  # a shared batch norm is nobody's
    everything = RePr(network, example, skip_first=False)
    assert [layer.name for layer in everything.layers] == ["stem", "a", "b", "c"]
    network, surgery, _ = build("cifar_mobilenetv2")
    assert all(layer.conv.groups == 1 and len(layer.norms) == 1 for layer in surgery.layers)
    assert network.training
    assert not [*surgery.parameters()]
    assert not any(key.startswith(("network", "layers")) for key in surgery.state_dict())


def test_a_network_without_filters_is_refused():
    network = models.create("test_vit", num_classes=5, image_size=32)
    for skip_first in (True, False):
        with pytest.raises(GraftingError, match="no convolution filters"):
            RePr(network, torch.randn(2, 3, 32, 32), skip_first=skip_first)


@pytest.mark.parametrize(
    "option",
    [{"share": 0.0}, {"share": 1.0}, {"share": math.nan}, {"normal": 0}, {"pruned": 0}, {"cycles": 0}, {"normal": 1.5}],
)
def test_options_are_checked(option):
    with pytest.raises(ValueError, match=f"repr: {next(iter(option))} is"):
        build("plain", **option)


# ------------------------------------------------------------------------------------------------- dropped filters


@pytest.mark.parametrize("name", NETWORKS)
def test_dropped_filters_are_off(name):
    """Whatever comes in: the channel after the batch norm (and its activation) is zero, in both modes, steps later too."""
    network, surgery, example = build(name, share=0.4)
    sgd, momentum = optimiser(network)
    with torch.no_grad():  # as trained ones: beta is not zero
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5), module.bias.uniform_(-1, 1), module.running_mean.uniform_(-1, 1)
    surgery.after_epoch(0, momentum, generator())
    for seed in range(2):
        step(network, sgd, seed, surgery, momentum)
    seen = {}
    for layer in surgery.layers:
        mask = masks(surgery)[layer.name]
        for key, norm in layer.norms.items():
            norm.register_forward_hook(lambda m, i, out, key=key, mask=mask: seen.update({key: (out.clone(), mask)}))
    for mode in (True, False):
        for images in (example, 100 * torch.randn(2, 3, 32, 32)):
            seen.clear()
            with torch.no_grad():
                network.train(mode)(images)
            assert len(seen) == len(surgery.layers)
            assert sum(int(mask.sum()) for _, mask in seen.values()) > 10
            for out, mask in seen.values():
                assert (out[:, mask] == 0).all()
                assert (out[:, ~mask] != 0).any()


def test_without_batch_norm_the_bias_goes():
    network, surgery, example = build("plain", share=0.4)
    surgery.after_epoch(0, {}, generator())
    outs = {}
    for layer in surgery.layers:
        layer.conv.register_forward_hook(lambda m, i, out, name=layer.name: outs.update({name: out}))
    beta = network.shared.bias.data.clone()
    network(example)
    for name, mask in masks(surgery).items():
        assert (outs[name][:, mask] == 0).all()
    assert sum(int(mask.sum()) for mask in masks(surgery).values()) > 5
    assert torch.equal(network.shared.bias, beta)
    assert (network.shared.weight == 1).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_holding_equals_masking_gradient_momentum_and_decay(nesterov):
    """Against a plain loop over SGD's formula, in which dropped entries never had gradient, momentum or decay."""
    network, surgery, _ = build(share=0.3)
    sgd, momentum = optimiser(network, nesterov=nesterov)
    for buffer in momentum.values():
        buffer.normal_(generator=generator(5))  # of the epochs before
    surgery.after_epoch(0, momentum, generator())
    other = copy.deepcopy(network)
    kept = {name: torch.ones_like(parameter) for name, parameter in other.named_parameters()}
    for layer in surgery.layers:
        for name in (f"{layer.name}.weight", *(f"{n}.{key}" for n in layer.norms for key in ("weight", "bias"))):
            kept[name][masks(surgery)[layer.name]] = 0
    buffers = {name: momentum[name].clone() for name in momentum}
    assert all((buffers[name][kept[name] == 0] == 0).all() for name in buffers)  # dropped with the filters
    for seed in range(3):
        step(network, sgd, seed, surgery, momentum)
        step(other, None, seed)
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                gradient = (parameter.grad + 0.01 * parameter) * kept[name]
                buffers[name] = 0.9 * buffers[name] + gradient
                parameter -= 0.05 * (gradient + 0.9 * buffers[name] if nesterov else buffers[name])
                parameter.grad = None
    for (name, parameter), theirs in zip(network.named_parameters(), other.parameters()):
        torch.testing.assert_close(parameter, theirs, rtol=1e-4, atol=1e-6)
        assert (parameter[kept[name] == 0] == 0).all()
        assert (momentum[name][kept[name] == 0] == 0).all()


def test_survivors_take_the_plain_step():
    """The step itself does not touch survivors: one step from the same weights is the same with and without holding."""
    network, surgery, _ = build(share=0.3)
    sgd, momentum = optimiser(network)
    surgery.after_epoch(0, momentum, generator())
    free = copy.deepcopy(network)
    free_sgd, _ = optimiser(free)
    step(network, sgd, 1, surgery, momentum)
    step(free, free_sgd, 1)
    free_sgd.step()
    for layer in surgery.layers:
        mask, held = masks(surgery)[layer.name], layer.conv.weight
        plain = free.get_submodule(layer.name).weight
        assert torch.equal(held[~mask], plain[~mask])
        if mask.any():
            assert (held[mask] == 0).all()


def test_nothing_happens_in_normal_epochs():
    network, surgery, _ = build(normal=2)
    before = copy.deepcopy(network.state_dict())
    surgery.after_step({"no such": None})
    surgery.after_epoch(0, {}, generator())
    assert not surgery.active
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)


# ------------------------------------------------------------------------------------------------------- the cycle


def test_the_cycle():
    _, surgery, _ = build("plain", normal=3, pruned=2, cycles=2)
    active = []
    for epoch in range(14):
        surgery.after_epoch(epoch, {}, generator(epoch))
        active.append(surgery.active)
    #                 epochs 3 and 4 without them          8 and 9
    assert active == [False] * 2 + [True] * 2 + [False] * 3 + [True] * 2 + [False] * 5


def test_the_default_is_the_published_cycle():
    torch.manual_seed(0)
    surgery = RePr(Plain(), torch.randn(2, 3, 32, 32))
    assert (surgery.share, surgery.normal, surgery.pruned, surgery.cycles) == (0.3, 20, 10, 3)


@pytest.mark.parametrize("name", [*NETWORKS, "plain"])
def test_new_filters_are_orthogonal_to_survivors_and_to_what_they_were(name):
    network, surgery, example = build(name, share=0.3)
    roomy = [layer.conv for layer in surgery.layers if layer.conv.weight[0].numel() > len(layer.conv.weight)]
    for conv in roomy[:2]:  # many of their filters overlap: these are dropped, and there is a null space for some
        conv.weight.data += 3 * conv.weight.data[:1]
    before = {layer.name: layer.conv.weight.detach().clone() for layer in surgery.layers}
    surgery.after_epoch(0, {}, generator())
    dropped = {key: mask.clone() for key, mask in masks(surgery).items()}
    with torch.no_grad():
        for layer in surgery.layers:  # survivors learn
            layer.conv.weight[~dropped[layer.name]] *= 0.5 + torch.rand(1)
            for norm in layer.norms.values():
                norm.running_mean.uniform_(1, 2), norm.running_var.uniform_(2, 3)
    now = {layer.name: layer.conv.weight.detach().clone() for layer in surgery.layers}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery.after_epoch(1, {}, generator(3))
    assert not surgery.active
    assert not any(value.any() for value in surgery.buffers())
    checked = drawn = 0
    for layer in surgery.layers:
        mask = dropped[layer.name]
        new, stay = layer.conv.weight.detach()[mask].flatten(1), layer.conv.weight.detach()[~mask].flatten(1)
        assert torch.equal(stay, now[layer.name][~mask].flatten(1))
        width, count = new.shape[1], int(mask.sum())
        free = min(count, max(0, width - len(mask)))
        others = torch.cat([stay, before[layer.name][mask].flatten(1)])
        assert (new[:free] @ others.T).abs().max() < 1e-5 if free else True
        torch.testing.assert_close(new[:free] @ new[:free].T, torch.eye(free), atol=1e-5, rtol=0)
        bound = 1 / math.sqrt(width)  # PyTorch's own start for what the null space has no room for
        rest = new[free:]
        assert (rest.abs() <= bound + 1e-7).all()
        assert rest.numel() < 50 or rest.abs().max() > 0.9 * bound
        checked, drawn = checked + free, drawn + count - free
        for norm in layer.norms.values():
            assert (norm.weight[mask] == 1).all()
            assert (norm.bias[mask] == 0).all()
            assert (norm.running_mean[mask] == 0).all()
            assert (norm.running_var[mask] == 1).all()
    assert checked > 3
    assert network.eval()(example).isfinite().all()


def test_a_full_rank_layer_is_drawn_at_random():
    weight = torch.randn(12, 4, 1, 1, generator=generator())  # more filters than dimensions
    chosen = torch.arange(12) < 5
    new = orthogonal(weight, chosen, generator(1))
    assert (new[5:] == 0).all()
    assert (new[:5] != 0).all()
    assert new.abs().max() <= 0.5
    assert not torch.equal(new, orthogonal(weight, chosen, generator(2)))
    assert torch.equal(new, orthogonal(weight, chosen, generator(1)))


def test_twins_leave_more_room():
    """The null space is that of the rank, not of the number of filters."""
    weight = torch.randn(6, 2, 2, 2, generator=generator()).index_fill(0, torch.tensor([4, 5]), 0)
    weight[4], weight[5] = weight[0], -2 * weight[1]  # rank 4 in 8 dimensions
    new = orthogonal(weight, torch.arange(6) >= 2, generator())[2:].flatten(1)
    assert (new @ weight.flatten(1).T).abs().max() < 1e-6
    torch.testing.assert_close(new @ new.T, torch.eye(4), atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("name", NETWORKS[:3])
def test_resumed_in_mid_cycle_gives_the_same_bytes(name):
    network, surgery, _ = build(name)
    sgd, momentum = optimiser(network)
    surgery.after_epoch(0, momentum, generator(0))
    step(network, sgd, 0, surgery, momentum)
    saved = copy.deepcopy((network.state_dict(), surgery.state_dict(), sgd.state_dict()))

    again, its, _ = build(name, seed=1)
    again.load_state_dict(saved[0])
    nn.ModuleDict({"surgery": its}).load_state_dict({f"surgery.{key}": value for key, value in saved[1].items()})
    assert its.active
    its_sgd, _ = optimiser(again)
    its_sgd.load_state_dict(saved[2])
    its_momentum = {key: its_sgd.state[p]["momentum_buffer"] for key, p in again.named_parameters()}

    for one, two, s, m in ((network, surgery, sgd, momentum), (again, its, its_sgd, its_momentum)):
        step(one, s, 1, two, m)
        two.after_epoch(1, m, generator(1))
        step(one, s, 2, two, m)
    for ours, theirs in ((network, again), (surgery, its)):
        for (key, value), other in zip(ours.state_dict().items(), theirs.state_dict().values()):
            assert torch.equal(value, other), key
    its.load_state_dict(surgery.state_dict())
    assert not its.active


def test_the_layout_in_memory_changes_no_number():
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network, _, example = build()
        network = network.to(memory_format=layout)
        surgery = RePr(network, example, **SHORT)
        surgery.after_epoch(0, {}, generator())
        surgery.after_epoch(1, {}, generator(1))
        results.append([parameter.detach().clone() for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results))
