import difflib

import pytest
import timm
import torch
from torch import nn

from dgd import models
from dgd.exchange import GraftingError
from dgd.exchange.graft import blending_weights, graft
from dgd.models.cifar_resnet import CifarResNet, PadShortcut
from dgd.models.cifar_wrn import CifarWideResNet

CIFAR = [
    *(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *(f"cifar_resnet{depth}_leaky" for depth in (8, 20, 32, 56, 110)),
    *("cifar_mobilenetv2", "cifar_vgg16_bn", "cifar_wrn10_1", "cifar_wrn28_10"),
]
SMALL = ["cifar_resnet8", "cifar_resnet20", "cifar_resnet8_leaky", "cifar_mobilenetv2", "cifar_vgg16_bn", "cifar_wrn10_1"]
CRD = ["crd_resnet8", "crd_wrn_16_2", "crd_vgg8", "crd_mobilenetv2_half", "crd_shufflenetv1", "crd_shufflenetv2"]
OURS = SMALL + CRD


def convs(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def wrn(depth, widen, classes):
    """Parameters and filters of a wide ResNet, counted from its description."""
    widths, n, before = [16 * widen, 32 * widen, 64 * widen], (depth - 4) // 6, 16
    parameters, filters = 9 * 3 * 16, 16
    for width in widths:
        pairs = [(before, width)] + [(width, width)] * (2 * n - 1)
        shortcut = 0 if before == width else width
        parameters += sum(9 * a * b + 2 * a for a, b in pairs) + before * shortcut
        filters += 2 * n * width + shortcut
        before = width
    return parameters + 2 * before + (before + 1) * classes, filters


VGG16 = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6


def vgg(classes):
    """Parameters of VGG-16: kernels, biases, batch norms, classifier."""
    return sum(9 * a * b + 3 * b for a, b in zip([3, *VGG16], VGG16)) + 513 * classes


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "filters"),
    [
        ("cifar_resnet8", 10, 75290, 16 + 2 * (16 + 32 + 64)),
        ("cifar_resnet14", 10, 172506, 16 + 4 * (16 + 32 + 64)),
        ("cifar_resnet20", 10, 269722, 688),
        ("cifar_resnet32", 100, 470004, 1136),
        ("cifar_resnet44", 10, 658586, 1584),
        ("cifar_resnet56", 100, 858868, 2032),
        ("cifar_resnet110", 100, 1733812, 4048),
        ("cifar_mobilenetv2", 10, 2296922, 17088),
        *((f"cifar_resnet{depth}_leaky", 100, size, n) for depth, size, n in ((32, 470004, 1136), (56, 858868, 2032))),
        ("cifar_resnet110_leaky", 100, 1733812, 4048),
        ("cifar_vgg16_bn", 10, 14728266, 0),
        ("cifar_vgg16_bn", 100, vgg(100), 0),
        ("cifar_wrn10_1", 10, *wrn(10, 1, 10)),
        ("cifar_wrn28_10", 10, 36479194, wrn(28, 10, 10)[1]),
        ("cifar_wrn28_10", 100, *wrn(28, 10, 100)),
    ],
)
def test_sizes_are_the_reference_codes(name, classes, parameters, filters):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(value.shape[0] for key, value in model.state_dict().items() if "conv" in key) == filters


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet20", "cifar_resnet8_leaky", "cifar_mobilenetv2"])
def test_published_rule_on_names(name):
    """`'conv' in key` picks conv weights alone, and each is followed by its batch norm."""
    model = timm.create_model(name)
    keys = list(model.state_dict())
    matched = [key for key in keys if "conv" in key]
    expected = [f"{path}.weight" for path in convs(model) if "shortcut" not in path]
    assert matched == expected
    for key in matched:
        assert keys[keys.index(key) + 1] == key.replace("conv", "bn")


def test_published_rule_on_a_wide_resnet():
    """It sees the shortcuts too, and every batch norm takes the weight of another convolution than its own."""
    model = timm.create_model("cifar_wrn10_1")
    keys = list(model.state_dict())
    assert [key for key in keys if "conv" in key] == [f"{path}.weight" for path in convs(model)]
    block = [key.removeprefix("layer2.0.") for key in keys if key.startswith("layer2.0.") and key.endswith("weight")]
    assert block == ["bn1.weight", "conv1.weight", "bn2.weight", "conv2.weight", "shortcut.conv.weight"]
    assert keys[0] == "conv1.weight"
    assert keys.index("bn.weight") > keys.index("layer3.0.shortcut.conv.weight")


def test_published_rule_does_not_see_vgg():
    """As in the published code, whose main script stops at its VGG; the rule by dimension sees all 13 convolutions."""
    model = timm.create_model("cifar_vgg16_bn")
    assert len(convs(model)) == 13
    assert all(conv.bias is not None for conv in convs(model).values())
    assert sum(conv.out_channels for conv in convs(model).values()) == sum(VGG16) == 4224
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == 5
    states = [model.state_dict(), timm.create_model("cifar_vgg16_bn").state_dict()]
    with pytest.raises(GraftingError, match="'conv' in its name"):
        graft(states, protocol="reference-code")


@pytest.mark.parametrize("name", OURS)
def test_two_networks_of_each_can_be_grafted(name):
    torch.manual_seed(0)
    nets = [models.create(name, num_classes=10) for _ in range(2)]
    states = [net.state_dict() for net in nets]
    weights = blending_weights(states)
    grafted = graft(states)
    assert list(weights[0]) == [f"{path}.weight" for path in convs(nets[0])]
    for net, state in zip(nets, grafted):
        net.load_state_dict(state)
    key = list(weights[0])[-1]
    assert 0.3 < weights[0][key] < 0.7
    expected = torch.lerp(states[1][key], states[0][key], weights[0][key])
    assert torch.allclose(grafted[0][key], expected, atol=1e-6)


def test_leaky_networks_differ_by_their_slope_alone():
    torch.manual_seed(0)
    plain = timm.create_model("cifar_resnet8").eval()
    torch.manual_seed(0)
    leaky = timm.create_model("cifar_resnet8_leaky").eval()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), leaky.state_dict().values(), strict=True))
    assert not any(isinstance(module, nn.ReLU) for module in leaky.modules())
    slopes = [module.negative_slope for module in leaky.modules() if isinstance(module, nn.LeakyReLU)]
    assert slopes == [0.01] * 7
    x = torch.randn(2, 3, 8, 8)
    below = leaky.bn1(leaky.conv1(x))
    assert torch.equal(leaky.stem(x), torch.where(below < 0, 0.01 * below, below))
    assert not torch.equal(plain(x), leaky(x))


def test_a_wide_block_by_hand():
    torch.manual_seed(0)
    model = timm.create_model("cifar_wrn10_1").eval()
    x = torch.randn(2, 16, 8, 8)
    block = model.layer2[0]
    y = block.bn1(x).relu()
    expected = block.conv2(block.bn2(block.conv1(y)).relu()) + block.shortcut.conv(y)
    assert torch.allclose(block(x), expected)
    same = model.layer1[0]
    assert torch.allclose(same(x), same.conv2(same.bn2(same.conv1(same.bn1(x).relu())).relu()) + x)


def test_wide_resnets_start_as_in_the_reference_code():
    torch.manual_seed(0)
    model = CifarWideResNet(10, 4)
    scales = torch.cat([module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)])
    assert 0 <= scales.min() < 0.05
    assert 0.95 < scales.max() <= 1
    assert scales.mean().item() == pytest.approx(0.5, abs=0.03)
    assert model.layer3[0].conv2.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.03)
    assert not model.linear.bias.any()
    model.reset_classifier(7)
    assert not model.linear.bias.any()


def test_vgg_is_the_plain_stack_at_its_own_size():
    """At 32 pixels each pool halves exactly and one pixel is left."""
    torch.manual_seed(0)
    model = timm.create_model("cifar_vgg16_bn").eval()
    x = torch.randn(2, 3, 32, 32)
    out = x
    for layer in model.features:
        out = nn.functional.max_pool2d(out, 2) if isinstance(layer, nn.MaxPool2d) else layer(out)
    assert out.shape == (2, 512, 1, 1)
    assert torch.allclose(model(x), model.linear(out.flatten(1)))


def test_mobilenet_convolutions():
    found = convs(timm.create_model("cifar_mobilenetv2"))
    shortcuts = [conv for path, conv in found.items() if path.endswith("shortcut.0")]
    assert (len(found), len(shortcuts), sum(conv.out_channels for conv in shortcuts)) == (57, 4, 456)
    assert sum(conv.out_channels for path, conv in found.items() if path.endswith("conv3")) == 1504


@pytest.mark.parametrize("size", [7, 8])
def test_option_a_shortcut(size):
    x = torch.randn(2, 16, size, size)
    out = PadShortcut(16)(x)
    assert out.shape == (2, 32, (size + 1) // 2, (size + 1) // 2)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()
    assert not list(PadShortcut(16).parameters())


def test_block_with_dead_branch_is_its_shortcut():
    model = timm.create_model("cifar_resnet8").eval()
    block = model.layer2[0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 16, 8, 8)
    assert torch.equal(block(x), block.shortcut(x))


def test_initialisation_is_kaiming_normal():
    torch.manual_seed(0)
    model = timm.create_model("cifar_resnet20", num_classes=100)
    model.reset_classifier(1000)
    for layer, fan_in in [(model.layer3[1].conv2, 64 * 9), (model.linear, 64)]:
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8)])
def test_timm_interface(name, channels, size):
    model = timm.create_model(name, num_classes=7, in_chans=channels).eval()
    x = torch.randn(2, channels, size, size)
    with torch.no_grad():
        logits, features = model(x), model.forward_features(x)
        pooled = model.forward_head(features, pre_logits=True)
        final, taps = model.forward_intermediates(x)
        alone = model.forward_intermediates(x, intermediates_only=True)
        early, last_asked = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, model.forward_head(features))
    assert torch.equal(logits, model.get_classifier()(pooled))
    assert features.shape[1] == model.num_features
    assert pooled.shape == (2, model.head_hidden_size)
    assert torch.equal(final, features)
    assert all(torch.equal(a, b) for a, b in zip(taps, alone, strict=True))
    assert torch.equal(early, taps[1])
    assert torch.equal(last_asked[0], taps[1])
    modules = dict(model.named_modules())
    for tap, row in zip(taps, model.feature_info, strict=True):
        side = -(-size // row["reduction"])
        assert tap.shape == (2, row["num_chs"], side, side)
        assert row["module"] in modules
    assert model.in_chans == channels
    model(x.requires_grad_()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", OURS)
def test_feature_modules_can_be_hooked(name):
    """A hook on the module that `feature_info` names gives the tap, and one before the activation gives negatives."""
    model = timm.create_model(name).eval()
    seen, before = {}, []
    for row in model.feature_info:
        module = model.get_submodule(row["module"])
        module.register_forward_hook(lambda _, __, out, key=row["module"]: seen.update({key: out}))
    activations = [module for module in model.modules() if isinstance(module, nn.ReLU | nn.LeakyReLU)]
    last = activations[-1]
    last.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    taps = model.forward_intermediates(torch.randn(2, 3, 16, 16))[1]
    assert all(torch.equal(seen[row["module"]], tap) for row, tap in zip(model.feature_info, taps, strict=True))
    assert (before[0] < 0).any()
    assert not any(module.inplace for module in activations)


@pytest.mark.parametrize("name", OURS)
def test_reset_classifier(name):
    model = timm.create_model(name, num_classes=10)
    x = torch.randn(2, 3, 8, 8)
    model.reset_classifier(5)
    assert (model.num_classes, model(x).shape) == (5, (2, 5))
    model.reset_classifier(5, "catavgmax")
    assert model(x).shape == (2, 5)
    assert model.head_hidden_size == 2 * model.num_features
    model.reset_classifier(0, "avg")
    assert model(x).shape == (2, model.num_features)
    model.double().reset_classifier(3)
    assert model(x.double()).shape == (2, 3)
    assert timm.create_model(name, drop_rate=0.3).drop.p == 0.3


@pytest.mark.parametrize("name", OURS)
def test_features_only_and_pruning(name):
    x = torch.randn(2, 3, 8, 8)
    whole = timm.create_model(name).eval()
    expected = whole.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    net = timm.create_model(name, features_only=True, out_indices=(0, 2)).eval()
    weights = whole.state_dict()
    net.model.load_state_dict({key: weights[key] for key in net.model.state_dict()})
    assert all(torch.equal(a, b) for a, b in zip(net(x), expected, strict=True))
    assert net.feature_info.channels() == [whole.feature_info[i]["num_chs"] for i in (0, 2)]
    assert len(timm.create_model(name, features_only=True)(x)) == len(whole.feature_info)
    whole.prune_intermediate_layers([1])
    assert whole(x).shape[1] == whole.num_features == whole.feature_info[1]["num_chs"]


def test_bad_requests_are_refused():
    model = timm.create_model("cifar_resnet8")
    with pytest.raises(ValueError, match="NHWC"):
        model.forward_intermediates(torch.zeros(1, 3, 8, 8), output_fmt="NHWC")
    with pytest.raises(NotImplementedError, match="checkpointing"):
        model.set_grad_checkpointing()
    with pytest.raises(ValueError, match="6n \\+ 2"):
        CifarResNet(21)
    with pytest.raises(ValueError, match="6n \\+ 4"):
        CifarWideResNet(12, 1)


def test_registered_once_with_timm():
    names = timm.list_models("cifar_*")
    assert set(CIFAR) == set(names)
    assert all(models.is_known(name) for name in [*CIFAR, "resnet18"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar_resnet31", "did you mean cifar_resnet"),
        ("resnet18.a1_in1k", "write 'resnet18'"),
        ("hf-hub:timm/resnet18", "unknown model"),
        ("???", "dgd-bench list"),
        (18, "unknown model 18"),
    ],
)
def test_unknown_names(name, hint):
    assert not models.is_known(name)
    assert hint in models.suggest(name)
    assert "\n" not in models.suggest(name)
    with pytest.raises(ValueError, match="unknown model"):
        models.create(name, num_classes=10)


def test_suggestion_is_the_closest_name():
    assert difflib.get_close_matches("cifar_resnet33", CIFAR, n=1)[0] in models.suggest("cifar_resnet33")


@pytest.mark.parametrize("adapt_stem", [False, True])
@pytest.mark.parametrize(
    ("name", "sides", "adapted_sides"),
    [
        ("cifar_resnet8", [32, 32, 16, 8], [32, 32, 16, 8]),
        ("test_resnet", [16, 8, 4, 2, 1], [32, 32, 16, 8, 4]),
        ("resnet18", [16, 8, 4, 2, 1], [32, 32, 16, 8, 4]),
        ("mobilenetv2_100", [16, 8, 4, 2, 1], [32, 16, 8, 4, 2]),
        ("efficientnet_b0", [16, 8, 4, 2, 1], [32, 16, 8, 4, 2]),
        ("test_efficientnet", [16, 8, 4, 2, 1], [32, 16, 8, 4, 2]),
        ("convnext_atto", [8, 4, 2, 1], [32, 16, 8, 4]),
        ("vit_tiny_patch16_224", [2] * 12, [8] * 12),
    ],
)
def test_create_and_adapt_stem(name, sides, adapted_sides, adapt_stem):
    torch.manual_seed(0)
    model = models.create(name, num_classes=5, adapt_stem=adapt_stem)
    after = torch.rand(1)
    torch.manual_seed(0)
    again = models.create(name, num_classes=5, adapt_stem=adapt_stem)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert model.training
    x = torch.randn(2, 3, 32, 32)
    features, taps = model.forward_intermediates(x)
    assert [tap.shape[-1] for tap in taps] == (adapted_sides if adapt_stem else sides)
    assert [row["reduction"] for row in model.feature_info] == [32 // tap.shape[-1] for tap in taps]
    logits = model.forward_head(features)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert next(model.parameters()).grad.isfinite().all()


@pytest.mark.slow
def test_vgg_as_timm_has_it():
    model = models.create("vgg11_bn", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 128812810
    model(torch.randn(2, 3, 32, 32)).sum().backward()


def test_adapted_vgg_has_a_linear_head():
    model = models.create("vgg11_bn", num_classes=10, adapt_stem=True)
    assert sum(p.numel() for p in model.parameters()) == 9231114
    assert model.get_classifier().in_features == model.head_hidden_size == 512
    features, taps = model.forward_intermediates(torch.randn(2, 3, 32, 32))
    assert [tap.shape[-1] for tap in taps] == [32 // row["reduction"] for row in model.feature_info]
    model.forward_head(features).sum().backward()
    model.reset_classifier(3)
    assert model.forward_head(features).shape == (2, 3)


def test_adapted_stems():
    resnet = models.create("resnet18", num_classes=10, in_chans=1, image_size=28, adapt_stem=True)
    assert resnet.conv1.weight.shape == (64, 1, 3, 3)
    assert (resnet.conv1.stride, resnet.conv1.padding) == ((1, 1), (1, 1))
    assert resnet.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    assert isinstance(resnet.maxpool, nn.Identity)
    assert models.create("test_convnext", num_classes=10, adapt_stem=True).stem[0].stride == (1, 1)
    for name in OURS:  # made for small images
        plain, same = (models.create(name, num_classes=10, adapt_stem=adapt) for adapt in (False, True))
        if name == "crd_mobilenetv2_half":  # but this one's stem has a stride, as published
            assert (plain.conv1.stride, same.conv1.stride) == ((2, 2), (1, 1))
            assert [row["reduction"] for row in same.feature_info] == [1, 1, 2, 4, 8]
            continue
        assert str(plain) == str(same)
        assert plain.feature_info == same.feature_info


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (28, 4), (8, 1), (64, 8), (4, 1)])
def test_patches_tile_the_image(size, patch):
    model = models.create("test_vit", num_classes=3, image_size=size, in_chans=1, adapt_stem=True)
    assert tuple(model.patch_embed.patch_size) == (patch, patch)
    assert model(torch.zeros(1, 1, size, size)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "size", "adapt_stem", "reason"),
    [
        ("test_vit", 28, False, "patches of 16 pixels"),
        ("vgg11_bn", 8, True, "too small"),
        ("mixer_s16_224", 32, True, "patch size cannot be chosen"),
        ("nf_resnet26", 32, True, "ScaledStdConv2d"),
        ("tresnet_m", 32, True, "its first convolution reads 48 channels"),
    ],
)
def test_sizes_a_model_cannot_take(name, size, adapt_stem, reason):
    with pytest.raises(ValueError, match=reason) as error:
        models.create(name, num_classes=3, image_size=size, adapt_stem=adapt_stem)
    assert f"model '{name}' does not work on 3x{size}x{size} images" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in CRD)])
def test_models_compile_into_one_graph(name):
    model = timm.create_model(name).eval()
    x = torch.randn(2, 3, 8, 8)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.parametrize(
    ("name", "sides", "adapted_sides"),
    [
        ("xcit_nano_12_p8_224", [4], [8]),  # several convolutions make the patches of the next four
        ("levit_128s", [2, 1], [4, 2, 1]),
        ("efficientvit_m0", [2, 1], [4, 2, 1]),
        ("visformer_tiny", [4, 2, 1], [8, 4, 2]),
        ("hgnetv2_b0", [8, 4, 2, 1], [16, 8, 4, 2]),  # a pool of stride 1 is a branch of its stem
        ("dpn48b", [16, 8, 4, 2, 1], [32, 16, 8, 4]),
    ],
)
def test_stems_of_several_parts(name, sides, adapted_sides):
    for adapt_stem, wanted in ((False, sides), (True, adapted_sides)):
        with torch.device("meta"):
            model = models.create(name, num_classes=5, adapt_stem=adapt_stem).eval()
            _, taps = model.forward_intermediates(torch.zeros(1, 3, 32, 32))
        assert list(dict.fromkeys(tap.shape[-1] for tap in taps)) == wanted


def test_choosing_patches_draws_nothing():
    """The probe on the meta device leaves the generator as it was, so that weights stay what they were."""
    torch.manual_seed(0)
    model = models.create("test_vit", num_classes=3, adapt_stem=True)
    torch.manual_seed(0)
    plain = timm.create_model("test_vit", num_classes=3, img_size=32, patch_size=4)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


def test_options_are_the_models_own():
    model = models.create(
        "test_vit", num_classes=3, image_size=32, options={"depth": 1, "patch_size": 8, "drop_path_rate": 0.1}
    )
    assert (len(model.blocks), model.patch_embed.patch_size) == (1, (8, 8))
    for options, message in (
        ({"drop_pat_rate": 0.1}, "test_resnet has no option 'drop_pat_rate'; did you mean drop_path_rate?"),
        ({"num_classes": 5}, "the option 'num_classes' is decided by the data and the task"),
    ):
        with pytest.raises(ValueError, match=message):
            models.create("test_resnet", num_classes=3, options=options)
