"""Every option of an exchange, by hand-computed values on small states."""

import math
import warnings

import pytest
import timm
import torch
from torch import nn

from dgd import exchange, filters, methods, models
from dgd.cell import PROTOCOLS, Average, Exchange, Internal, Noise, Ring, Swap, exchange_problems
from dgd.cell import exchange as filled_exchange
from dgd.exchange import GraftingError, average, blend, internal, noise, swap
from dgd.exchange.graft import blending_weights, graft
from dgd.keys import specs


def chain(seed, biases=False):
    """A state as VGG has it: two convolutions, each with its batch norm, and a classifier."""
    torch.manual_seed(seed)
    net = nn.Sequential()
    for i, (a, b) in enumerate([(3, 4), (4, 5)]):
        net.add_module(f"conv{i}", nn.Conv2d(a, b, 3, bias=biases))
        net.add_module(f"bn{i}", nn.BatchNorm2d(b))
    net.add_module("linear", nn.Linear(5, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p))
        for i in range(2):
            net.get_submodule(f"bn{i}").running_mean.normal_()
            net.get_submodule(f"bn{i}").running_var.uniform_(0.5, 2)
    return net.state_dict()


def two(**kwargs):
    return [chain(1, **kwargs), chain(2, **kwargs)]


def mixed(states, key, share, i=0):
    return share * states[i][key] + (1 - share) * states[i - 1][key]


# ------------------------------------------------------------------------------------------------- what is exchanged


def test_average_is_half_and_half_and_is_graft_with_a_zero():
    states = [chain(i) for i in range(3)]
    states[1]["bn0.num_batches_tracked"] += 10
    shares = average.shares(states, Average())
    new = blend(states[1], states[0], shares[1])
    plain = graft(states, a=0)[1]
    for key, value in new.items():
        if value.is_floating_point():
            assert torch.allclose(value, (states[1][key] + states[0][key]) / 2)
        else:
            assert torch.equal(value, states[1][key])
        assert torch.equal(value, plain[key])


def test_swap_is_the_neighbour_to_the_bit():
    states = [chain(i) for i in range(3)]
    states[0]["bn0.num_batches_tracked"] += 5
    states[2]["conv0.weight"][0, 0, 0, 0] = -0.0
    states[0]["conv0.weight"][0, 0, 0, 0] = 1.0
    shares = swap.shares(states, Swap())
    for i in range(3):
        new = blend(states[i], states[i - 1], shares[i])
        assert all(new[key].numpy().tobytes() == states[i - 1][key].numpy().tobytes() for key in new)


def test_what_is_blended_is_a_copy_and_momentum_has_its_parameters_share():
    own = {
        "a": torch.ones(2),
        "momentum/a": torch.ones(2) * 4,
        "b": torch.ones(2),
        "c": torch.ones(2),
        "count": torch.tensor(3),
    }
    own["count"] = torch.tensor(3)
    other = {key: torch.zeros_like(value) for key, value in own.items()}
    shares = {"a": 0.25, "b": None, "c": 1.0, "count": None}
    new = blend(own, other, shares)
    expected = {"a": [0.25, 0.25], "momentum/a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0], "count": 3}
    assert {key: value.tolist() for key, value in new.items()} == expected
    assert list(new) == list(own)
    for value in new.values():
        value.add_(1)
    assert own["b"].tolist() == own["c"].tolist() == [1.0, 1.0]
    assert int(own["count"]) == 3
    rows = blend({"w": torch.ones(2, 1, 1, 1)}, {"w": torch.zeros(2, 1, 1, 1)}, {"w": torch.tensor([0.25, 0.5])})
    assert rows["w"].flatten().tolist() == [0.25, 0.5]


def test_a_filter_of_exactly_the_limit_is_valid_and_a_type_is_kept():
    weight = torch.tensor([0.5, 0.25, 1.0], dtype=torch.bfloat16).view(3, 1, 1, 1)
    inside = internal.within({"conv.weight": weight}, Internal(gamma=0.5))["conv.weight"]
    assert inside.flatten().tolist() == [0.5, 1.25, 1.0]
    noisy = noise.within(
        {"conv.weight": weight}, Noise(gamma=0.5, base=1.0), epoch=5, generator=torch.Generator().manual_seed(3)
    )["conv.weight"]
    drawn = torch.randn((3, 1, 1, 1), generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    assert noisy.dtype == torch.bfloat16
    assert noisy.flatten().tolist() == [0.5, float((weight + drawn)[1]), 1.0]


def test_noise_reaches_invalid_filters_only_and_shrinks_with_the_epochs():
    state = chain(1)
    state["conv0.weight"][2] = 0.001
    state["conv1.weight"][0] = 0
    drawn = {}
    for epoch in (1, 11):
        new = noise.within(state, Noise(gamma=0.1), epoch=epoch, generator=torch.Generator().manual_seed(7))
        changed = {
            key: (new[key] != state[key]).flatten(1).any(1).nonzero().flatten().tolist() for key in filters.conv_weights(state)
        }
        assert changed == {"conv0.weight": [2], "conv1.weight": [0]}
        assert all(torch.equal(new[key], state[key]) for key in state if not key.startswith("conv"))
        drawn[epoch] = new["conv0.weight"][2] - 0.001
    assert torch.allclose(drawn[11], drawn[1] * 0.975**10, atol=1e-7)
    many = noise.within(
        {"conv.weight": torch.zeros(64, 16, 3, 3)}, Noise(base=0.5), epoch=3, generator=torch.Generator().manual_seed(0)
    )
    assert float(many["conv.weight"].std()) == pytest.approx(0.25, rel=0.05)


def test_internal_adds_the_largest_to_the_smallest():
    weight = torch.tensor([3.0, 0.05, 5.0, 0.01, 4.0]).view(5, 1, 1, 1)
    new = internal.within({"conv.weight": weight}, Internal(gamma=0.1))
    assert new["conv.weight"].flatten().tolist() == pytest.approx([3.0, 4.05, 5.0, 5.01, 4.0])
    assert torch.equal(internal.within({"conv.weight": weight}, Internal(gamma=0.001))["conv.weight"], weight)


def test_of_equal_filters_the_first_gets_the_largest():
    strong = torch.arange(1, 33).float()
    weight = torch.stack([torch.full((32,), 0.25), strong], 1).flatten().view(64, 1, 1, 1)
    new = internal.within({"conv.weight": weight}, Internal(gamma=0.5))["conv.weight"].flatten()
    assert new[0::2].tolist() == (strong.flip(0) + 0.25).tolist()
    assert torch.equal(new[1::2], strong)


@pytest.mark.parametrize(("weak", "differ"), [(0, 0), (1, 0), (5, 0), (6, 1), (8, 3), (10, 5)])
def test_internal_in_place_is_the_codes_rule(weak, differ):
    """The code adds to one filter after another: beyond a layer's half, what is added has been added to."""
    generator = torch.Generator().manual_seed(weak)
    weight = torch.randn(10, 2, 3, 3, generator=generator, dtype=torch.float64)
    order = torch.randperm(10, generator=generator)
    sizes = torch.cat([torch.linspace(0.01, 0.09, weak), torch.linspace(1, 2, 10 - weak)]).double()
    weight = weight / weight.abs().flatten(1).sum(1).view(10, 1, 1, 1) * sizes[order].view(10, 1, 1, 1)
    by_hand, smallest_first = weight.clone(), order.argsort()
    for place, index in enumerate(smallest_first):
        if by_hand[index].abs().sum() >= 0.1:
            break
        by_hand[index] += by_hand[smallest_first[9 - place]]
    as_code = internal.within({"conv.weight": weight}, Internal(in_place=True))["conv.weight"]
    as_paper = internal.within({"conv.weight": weight}, Internal())["conv.weight"]
    assert torch.equal(as_code, by_hand)
    assert int((as_code != as_paper).flatten(1).any(1).sum()) == differ
    assert int((as_paper != weight).flatten(1).any(1).sum()) == weak


@pytest.mark.parametrize("name", ["noise", "internal"])
def test_under_the_codes_protocol_shortcuts_keep_their_filters(name):
    state = {"conv1.weight": torch.full((2, 1, 1, 1), 0.01), "shortcut.0.weight": torch.full((2, 1, 1, 1), 0.01)}
    for protocol, expected in {"paper": {*state}, "reference-code": {"conv1.weight"}}.items():
        options = filled_exchange({"name": name}, protocol)
        arguments = {"epoch": 1, "generator": torch.Generator().manual_seed(0)} if name == "noise" else {}
        new = exchange.find(name).within(state, options, **arguments)
        assert {key for key in state if not torch.equal(new[key], state[key])} == expected
    assert filled_exchange({"name": "internal"}, "reference-code").in_place
    # Networks of ours that have such convolutions: MobileNetV2's are four.
    names = [key for key, value in create_state("cifar_mobilenetv2").items() if value.ndim == 4]
    assert sum("conv" not in key for key in names) == 4


def create_state(name):
    return models.create(name, num_classes=10).state_dict()


def test_sources_within_a_network_need_one_network_and_filters():
    assert methods.resolve({"x": {"base": "baseline", "exchange": {"name": "noise"}}})[1].networks == 1
    with pytest.raises(GraftingError, match="no convolution filters"):
        internal.within({"linear.weight": torch.ones(2, 2)}, Internal())
    with pytest.raises(GraftingError, match="no convolution filters"):
        noise.within({"linear.weight": torch.ones(2, 2)}, Noise(), epoch=1, generator=torch.Generator())


# ------------------------------------------------------------------------------------------------- how much is blended


def test_bn_gamma_criterion_is_the_following_batch_norms():
    states = two()
    gap = float(states[0]["bn1.weight"].abs().sum() - states[1]["bn1.weight"].abs().sum())
    w = blending_weights(states, criterion="bn-gamma", c=0.5)[0]["conv1.weight"]
    assert w == pytest.approx(0.4 / math.pi * math.atan(0.5 * gap) + 0.5, abs=1e-6)
    # What stands between a convolution and its batch norm is passed over, as long as it has no running mean.
    between = [{} for _ in states]
    for new, state in zip(between, states):
        for key, value in state.items():
            new |= {"scale.weight": torch.randn(len(value))} if key == "bn1.weight" else {}
            new[key] = value
    assert blending_weights(between, criterion="bn-gamma", c=0.5)[0]["conv1.weight"] == pytest.approx(w, abs=1e-12)
    bare = [{"conv.weight": torch.randn(2, 3, 1, 1)} for _ in range(2)]
    with pytest.raises(GraftingError, match="needs a batch norm after each convolution, and 'conv.weight' has none"):
        blending_weights(bare, criterion="bn-gamma")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ratio_is_own_by_the_sum(protocol):
    states = two()
    own, other = (float(s["bn0.weight"].abs().sum()) for s in states)
    options = {"criterion": "bn-gamma", "rule": "ratio", "protocol": protocol, "digits": None}
    assert blending_weights(states, **options)[0]["conv0.weight"] == pytest.approx(own / (own + other), abs=1e-6)
    for state in states:
        state["bn0.weight"].zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        w = blending_weights(states, **options)[0]["conv0.weight"]
    assert math.isnan(w) if protocol == "reference-code" else w == 0.5  # the script divides by zero


def test_a_fixed_share_is_every_layers():
    states = two()
    new = graft(states, share=0.7)
    assert torch.allclose(new[0]["conv1.weight"], mixed(states, "conv1.weight", 0.7), atol=1e-6)
    assert torch.allclose(new[0]["linear.bias"], mixed(states, "linear.bias", 0.7), atol=1e-6)


def test_digits_and_include_max_are_options_of_their_own():
    states = two()
    plain, rounded = (blending_weights(states, c=1, digits=d)[0]["conv0.weight"] for d in (None, 1))
    assert rounded == round(plain, 1) != plain
    with_max, without = (blending_weights(states, c=1, include_max=m)[0]["conv0.weight"] for m in (True, False))
    assert with_max != without
    found = [blending_weights(states, c=1, include_max=m, level="filter")[0]["conv0.weight"] for m in (True, False)]
    assert not torch.equal(*found)


def test_layers_by_name_or_by_dimension():
    nets = [timm.create_model("cifar_mobilenetv2", num_classes=10).state_dict() for _ in range(2)]
    counts = [len(blending_weights(nets, layers=how)[0]) for how in ("dimension", "name")]
    assert counts == [57, 53]


def test_filter_entropies_are_those_of_each_filter():
    weight = torch.randn(6, 3, 3, 3)
    for include_max in (True, False):
        found = filters.filter_entropies({"conv.weight": weight}, include_max=include_max)["conv.weight"]
        one_by_one = [float(filters.entropy(row, include_max=include_max)) for row in weight]
        assert found.tolist() == pytest.approx(one_by_one, abs=1e-6)
    assert filters.filter_entropies({"conv.weight": torch.ones(2, 1, 3, 3)})["conv.weight"].tolist() == [0, 0]


@pytest.mark.parametrize("criterion", ["entropy", "l1", "bn-gamma"])
def test_filter_level_blends_each_filter_by_its_own_share(criterion):
    states = two(biases=True)
    held = {
        "entropy": lambda s: filters.filter_entropies(s)["conv1.weight"],
        "l1": lambda s: filters.l1_norms(s)["conv1.weight"],
        "bn-gamma": lambda s: s["bn1.weight"].abs(),
    }[criterion]
    w = 0.4 / math.pi * torch.atan(3 * (held(states[0]) - held(states[1]))) + 0.5
    new = graft(states, level="filter", criterion=criterion, c=3)[0]
    assert torch.allclose(new["conv1.weight"], mixed(states, "conv1.weight", w.view(-1, 1, 1, 1)), atol=1e-6)
    for key in ("conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        assert torch.allclose(new[key], mixed(states, key, w), atol=1e-6), key
    assert torch.allclose(new["linear.weight"], mixed(states, "linear.weight", float(w.mean())), atol=1e-6)
    assert torch.equal(new["bn1.num_batches_tracked"], states[0]["bn1.num_batches_tracked"])


def script_filter_level(own, neighbour):
    """What the published filter_level script does, restated step by step."""
    new = {key: value.clone() for key, value in own.items()}
    ratios = []
    for i in range(2):
        a, b = own[f"bn{i}.weight"].abs(), neighbour[f"bn{i}.weight"].abs()
        ratios.append(a / (a + b))
        for w in ratios[i]:  # the whole vector again for each filter
            for name in ("weight", "bias", "running_var", "running_mean"):
                key = f"bn{i}.{name}"
                new[key] = new[key] * w + neighbour[key] * (1 - w)
    for i in range(2):
        key = f"conv{i}.weight"
        if i:
            for j, w in enumerate(ratios[i - 1]):
                new[key][:, j] = new[key][:, j] * w + neighbour[key][:, j] * (1 - w)
        for j, w in enumerate(ratios[i]):
            new[key][j] = new[key][j] * w + neighbour[key][j] * (1 - w)
    return new


def test_filter_level_as_the_code_does_it():
    states = two(biases=True)
    new = graft(states, level="filter", criterion="bn-gamma", rule="ratio", protocol="reference-code")[0]
    for key, value in script_filter_level(*states).items():
        assert torch.allclose(new[key].float(), value.float(), atol=1e-5), key
    assert torch.equal(new["linear.weight"], states[0]["linear.weight"])
    assert torch.equal(new["conv1.bias"], states[0]["conv1.bias"])
    nets = [timm.create_model("cifar_mobilenetv2", num_classes=10).state_dict() for _ in range(2)]
    nested = [{f"features.{key}": value for key, value in state.items()} for state in states]
    inner = graft(nested, level="filter", criterion="bn-gamma", rule="ratio", protocol="reference-code")[0]
    assert all(torch.equal(inner[f"features.{key}"], value) for key, value in new.items())
    with pytest.raises(GraftingError, match=r"takes a chain of convolutions \(VGG\): '[\w.]+' has 1 inputs and .* 32 filters"):
        graft(nets, level="filter", criterion="bn-gamma", rule="ratio", protocol="reference-code")


def test_what_other_tensors_get():
    states = two()
    conv = blending_weights(states)[0]["conv1.weight"]
    for non_conv, share in (("last", conv), ("none", 1.0), (0.7, 0.7)):
        new = graft(states, non_conv=non_conv)[0]
        assert torch.allclose(new["linear.weight"], mixed(states, "linear.weight", share), atol=1e-6)
        assert torch.allclose(new["conv1.weight"], mixed(states, "conv1.weight", conv), atol=1e-6)
    before = states[0]["linear.weight"].clone()
    graft(states, non_conv="none")[0]["linear.weight"].add_(1)  # a copy
    assert torch.equal(states[0]["linear.weight"], before)
    gap = float(filters.entropy(states[0]["linear.weight"])) - float(filters.entropy(states[1]["linear.weight"]))
    w = 0.4 / math.pi * math.atan(2 * gap) + 0.5
    assert torch.allclose(graft(states, non_conv="own", c=2)[0]["linear.weight"], mixed(states, "linear.weight", w), atol=1e-6)
    filter_by_filter = graft(states, non_conv="own", c=2, level="filter")[0]
    assert torch.allclose(filter_by_filter["linear.weight"], mixed(states, "linear.weight", w), atol=1e-6)
    own = blending_weights(states, c=2, level="filter")[0]["conv1.weight"].float().view(-1, 1, 1, 1)
    assert torch.allclose(filter_by_filter["conv1.weight"], mixed(states, "conv1.weight", own), atol=1e-6)


def script_for_vgg(own, neighbour):
    """What the published filter_level script does at layer level, restated: it walks convolutions and batch norms alone."""
    new, layers = {}, own.named_modules()
    others = dict(neighbour.named_modules())
    for name, layer in layers:
        other = others[name]
        if isinstance(layer, torch.nn.Conv2d):
            gap = [float(filters.entropy(one.weight, include_max=False)) for one in (layer, other)]
            w = round(0.4 / math.pi * math.atan(500 * (gap[0] - gap[1])) + 0.5, 2)
            new[f"{name}.weight"] = layer.weight * w + other.weight * (1 - w)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            for part in ("weight", "bias", "running_mean", "running_var"):
                new[f"{name}.{part}"] = getattr(layer, part) * w + getattr(other, part) * (1 - w)
    return new


@pytest.mark.parametrize("name", ["cifar_vgg16_bn", "crd_vgg8"])
@torch.no_grad()
def test_vgg_at_layer_level_as_the_code_does_it(name):
    nets = [timm.create_model(name, num_classes=10) for _ in range(2)]
    for value in [value for net in nets for value in net.state_dict().values() if value.ndim == 1]:
        value.uniform_()  # at the start batch norms are equal
    states = [net.state_dict() for net in nets]
    states[1]["linear.bias"] += 1
    wanted = script_for_vgg(*nets)
    new = graft(states, protocol="reference-code", layers="dimension", non_conv="norms")[0]
    for key, value in new.items():
        assert torch.equal(value, wanted.get(key, states[0][key])), key
    stays = [key for key in new if key not in wanted and not key.endswith("num_batches_tracked")]
    convolutions = [key for key, value in new.items() if value.ndim == 4]
    assert stays == [*(key.replace("weight", "bias") for key in convolutions), "linear.weight", "linear.bias"]
    assert not torch.equal(graft(states, layers="dimension")[0]["linear.bias"], states[0]["linear.bias"])


def test_what_stands_before_the_first_convolution_has_its_share():
    states = [{"norm.weight": torch.randn(3), **state} for state in two()]
    new, weights = graft(states, c=3)[0], blending_weights(states, c=3)[0]
    assert torch.allclose(new["norm.weight"], mixed(states, "norm.weight", weights["conv0.weight"]), atol=1e-6)
    wanted = (
        "'norm.weight' stands before the first tensor with 'conv' in its name, where the published script stops with an error; "
        "use protocol='paper' for this architecture"
    )
    with pytest.raises(GraftingError) as error:
        graft(states, protocol="reference-code")
    assert str(error.value) == wanted


def test_counters_stay_or_are_blended():
    states = two()
    states[0]["bn0.num_batches_tracked"] += 10
    kept, blended = (graft(states, share=0.5, counters=how)[0]["bn0.num_batches_tracked"] for how in ("keep", "blend"))
    assert (int(kept), int(blended)) == (10, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "l2"}, "criterion is 'l2'; it must be one of entropy, l1, bn-gamma"),
        ({"share": 1.5}, "share is 1.5; it must be at least 0 and at most 1"),
        ({"non_conv": "some"}, "non_conv is 'some'; it must be one of last, own, none, norms, or a number"),
        ({"include_max": 1}, "include_max is 1; it must be true or false"),
        ({"c": "500"}, "c is '500'; it must be a number"),
        ({"a": 5}, "a is 5; it must be at least 0 and at most 1"),
        ({"c": math.nan}, "c is nan; it must be a finite number"),
        ({"gamma": 0.1}, "gamma: unknown key; known: every, from"),
        ({"non_conv": "own", "criterion": "bn-gamma"}, "non_conv is 'own', and only filters have the criterion 'bn-gamma'"),
        ({"level": "filter", "protocol": "reference-code"}, "criterion is 'entropy'; the published filter-level script"),
    ],
)
def test_a_wrong_option_says_what_would_be_right(options, message):
    (line,) = exchange_problems({"name": "graft", **options}, "exchange")
    assert line.startswith("exchange.")
    assert message in line
    with pytest.raises(GraftingError) as error:
        graft(two(), **options)
    assert message in str(error.value)


def test_all_wrong_options_are_named_a_line_each():
    with pytest.raises(GraftingError) as error:
        graft(two(), c="500", a=5)
    lines = str(error.value).splitlines()
    assert sorted(line.partition(";")[0] for line in lines) == ["graft.a is 5", "graft.c is '500'"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0; it must be at least 1"),
        ({"from": 5, "until": 3}, "until is 3, before from, 5"),
        ({"momentum": "drop"}, "momentum is 'drop'; it must be one of keep, reset, graft"),
    ],
)
def test_what_only_a_loop_can_do_is_checked_there_and_refused_elsewhere(options, message):
    (line,) = exchange_problems({"name": "graft", **options}, "exchange")
    assert message in line
    with pytest.raises(GraftingError, match="is for a training loop that has epochs and optimisers"):
        graft(two(), **options)


def test_a_ratio_is_rounded_too():
    shares = blending_weights(two(), criterion="bn-gamma", rule="ratio", digits=1)[0]
    assert all(share == round(share, 1) for share in shares.values())


def test_a_protocol_is_a_named_set_of_options():
    for protocol, choices in PROTOCOLS.items():
        for name in ("graft", "noise", "internal"):
            filled = filled_exchange({"name": name}, protocol)
            own = {option: value for option, value in choices.items() if option in specs(type(filled))}
            assert {option: getattr(filled, option) for option in own} == own != {}
            assert filled.protocol == protocol
    graft_options = {*specs(type(filled_exchange({"name": "graft"})))}
    assert graft_options > {*PROTOCOLS["paper"], *specs(Ring), *specs(Exchange)} - {"in_place"}
    assert filled_exchange({"name": "graft", "digits": 3}, "reference-code").digits == 3
    states = two()
    by_name = graft(states, protocol="reference-code")
    choices = {option: value for option, value in PROTOCOLS["reference-code"].items() if option in graft_options}
    by_hand = graft(states, **choices)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(by_name, by_hand) for key in a)
