"""The CRD benchmark's networks compute what its code does: outputs for weights and images that a rule makes, and maps."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image
from torch import nn

from dgd import codehash, data, models
from dgd.exchange import GraftingError
from dgd.exchange.graft import blending_weights, graft
from dgd.train import train_cell
from dgd.train.features import Reader
from tests.helpers import ROOT, digits_cells, make_teacher

THEIRS = json.loads((Path(__file__).parent / "crd-networks.json").read_text())
"""Measured with the benchmark's own code, for 100 classes."""
NAMES = {"ResNet50": "crd_resnet50", "MobileNetV2": "crd_mobilenetv2_half"}
NAMES |= {"ShuffleV1": "crd_shufflenetv1", "ShuffleV2": "crd_shufflenetv2"}
NAMES = {theirs: NAMES.get(theirs, f"crd_{theirs}") for theirs in THEIRS}
"""Their names -> ours."""
LONG = {"ResNet50", "resnet110", "resnet32x4", "wrn_40_2", "vgg11", "vgg13", "vgg16", "vgg19"}
TEXT = (ROOT / "docs" / "models.md").read_text()
KINDS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


def ours(names):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in names]


def filled(name):
    """Return a network whose weights follow the rule: waves whose phase depends on the layer, the tensor and the element."""
    model = timm.create_model(name, num_classes=100).double()
    layers = [module for module in model.modules() if isinstance(module, KINDS)]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            for t, tensor in enumerate(layer.parameters()):
                j = torch.arange(tensor.numel(), dtype=torch.float64)
                wave = torch.sin(0.37 * i + 0.11 * t + 1.7 * j + 0.001 * j**2).view_as(tensor)
                row = tensor[0].numel()
                tensor.copy_(2 * wave / math.sqrt(row) if tensor.ndim > 1 else 0.1 * wave + (t == 0))
    return model


def images():
    k = torch.arange(4 * 3 * 32 * 32, dtype=torch.float64)
    return torch.sin(0.7 * k + 0.00003 * k**2).view(4, 3, 32, 32)


@pytest.mark.parametrize("theirs", ours(THEIRS))
def test_outputs_and_maps_are_the_benchmarks(theirs):
    facts, model, called = THEIRS[theirs], filled(NAMES[theirs]).train(), []
    hooks = [
        layer.register_forward_hook(lambda layer, *_: called.append(type(layer).__name__))
        for layer in model.modules()
        if isinstance(layer, KINDS)
    ]
    with torch.no_grad():
        final, maps = model.forward_intermediates(images())
        pooled = model.forward_head(final, pre_logits=True)
        logits = model.get_classifier()(pooled)
    for hook in hooks:
        hook.remove()
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["parameters"]
    assert Counter(called) == facts["leaves_called"]
    assert [list(one.shape[1:]) for one in (*maps, pooled)] == facts["features"]
    assert logits[0, :4].tolist() == pytest.approx(facts["logits_of_image_0"], abs=1e-6)
    assert logits.abs().mean().item() == pytest.approx(facts["mean_abs_logit"], abs=1e-6)


def test_each_is_registered_and_described():
    assert set(models.registered("crd_*")) == set(NAMES.values())
    rows = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| `crd_") and "`crd_*`" not in line]
    described = {name.strip(" `"): (theirs.strip(" `"), int(size.replace(",", ""))) for name, theirs, size, *_ in rows}
    assert described == {ours: (theirs, THEIRS[theirs]["parameters"]) for theirs, ours in NAMES.items()}


def test_a_network_has_the_code_of_its_own_family():
    used = {name: set(codehash.files(codehash.registered("dgd.models", name))) for name in NAMES.values()}
    families = {f"dgd/models/crd_{family}.py" for family in ("resnet", "wrn", "vgg", "mobilenetv2", "shufflenet")}
    assert {len(files & families) for files in used.values()} == {1}
    assert not any("crd" in file for file in codehash.files("dgd.models.cifar_resnet"))


@pytest.mark.parametrize(("name", "fan_out"), [("crd_resnet8x4", 256 * 9), ("crd_wrn_40_2", 128 * 9), ("crd_vgg8", 512 * 9)])
def test_convolutions_start_by_fan_out(name, fan_out):
    """In the last stage; batch norms start from 1 and 0."""
    torch.manual_seed(0)
    model = models.create(name, num_classes=100)
    last = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)][-1]
    assert last.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


def test_biases_and_classifiers_start_as_the_benchmarks():
    torch.manual_seed(0)
    for name, deviation in (("crd_vgg8", 0.01), ("crd_mobilenetv2_half", 0.01), ("crd_wrn_16_2", (1 / (3 * 128)) ** 0.5)):
        model = models.create(name, num_classes=100)
        assert model.get_classifier().weight.std().item() == pytest.approx(deviation, rel=0.03)
        assert not any(bias.any() for key, bias in model.named_parameters() if key.endswith(("linear.bias", "conv.bias")))
    depthwise = models.create("crd_mobilenetv2_half", num_classes=100).layer4[1].conv2
    assert depthwise.weight.std().item() == pytest.approx((2 / (480 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["crd_resnet8", "crd_vgg8", "crd_shufflenetv1", "crd_shufflenetv2", "crd_wrn_16_2"])
def test_terms_read_one_map_of_each_resolution(name):
    """The last of each, and before the activation that ends it where one does."""
    torch.manual_seed(0)
    model, x = models.create(name, num_classes=10), torch.randn(2, 3, 32, 32)
    output = Reader(model, x, features=True, before=True)(x)
    sizes = [one.shape[2] for one in output.stages]
    assert sizes == sorted(set(sizes), reverse=True)
    assert output.pooled.shape == (2, model.num_features)
    ends = name not in ("crd_shufflenetv2", "crd_wrn_16_2")
    for stage, before in zip(output.stages, output.before, strict=True):
        assert (not torch.equal(stage, before)) is (ends or (name == "crd_shufflenetv2" and stage is output.stages[0]))
        if not torch.equal(stage, before):
            assert torch.equal(stage, before.relu())
            assert (before < 0).any()


@pytest.mark.parametrize("name", ["crd_resnet8", "crd_vgg8", "crd_mobilenetv2_half", "crd_shufflenetv1", "crd_shufflenetv2"])
def test_each_family_can_be_grafted_by_filter(name):
    torch.manual_seed(0)
    nets = [models.create(name, num_classes=10) for _ in range(2)]
    states = [net.state_dict() for net in nets]
    shares, new = blending_weights(states, level="filter")[0], graft(states, level="filter")[0]
    assert list(shares) == [f"{path}.weight" for path, layer in nets[0].named_modules() if isinstance(layer, nn.Conv2d)]
    for key, share in shares.items():
        wanted = torch.lerp(states[1][key], states[0][key], share.float().view(-1, 1, 1, 1))
        assert torch.allclose(new[key], wanted, atol=1e-6), key


def test_the_row_for_vgg_in_the_docs_is_one():
    row = yaml.safe_load(next(line for line in TEXT.splitlines() if line.startswith("grafting-vgg:")))
    (own,) = digits_cells([row], "crd_vgg8", None)
    assert (own.exchange.layers, own.exchange.non_conv, own.exchange.digits) == ("dimension", "norms", 2)


@pytest.mark.parametrize("level", ["layer", "filter"])
def test_wide_networks_can_be_grafted(level):
    """Each convolution by its own share, and a batch norm, which precedes its convolution, by that of the one before it."""
    torch.manual_seed(0)
    states = [models.create("crd_wrn_16_2", num_classes=10).state_dict() for _ in range(2)]
    for state in states:
        for value in state.values():
            if value.ndim == 1:
                value.uniform_()
    shares, new = blending_weights(states, c=3, level=level)[0], graft(states, c=3, level=level)[0]
    assert len(shares) == 16
    norm, conv = "layer1.1.bn1", "layer1.0.shortcut.conv.weight"
    for key in (conv, f"{norm}.weight", f"{norm}.running_mean"):
        share = torch.as_tensor(shares[conv], dtype=torch.float32)
        share = share.view(-1, *[1] * (states[0][key].ndim - 1)) if level == "filter" else share
        assert torch.allclose(new[key], torch.lerp(states[1][key], states[0][key], share), atol=1e-6)
    with pytest.raises(GraftingError, match="criterion 'bn-gamma' needs a batch norm after each convolution"):
        graft(states, criterion="bn-gamma", level=level)


def few_pictures(folder):
    """Prepare four random images of 32x32 pixels for training, in two classes, and four for testing."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "ab":
            (folder / "raw" / split / name).mkdir(parents=True)
            for number in range(2):
                image = Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                image.save(folder / "raw" / split / name / f"{number}.png")
    data.prepare(f"imagefolder:{folder / 'raw'}", folder / "data", image_size=32)
    return folder / "data"


@pytest.mark.parametrize(
    ("student", "teacher", "methods"),
    [("crd_resnet8x4", "crd_resnet32x4", ["dgd"]), ("crd_shufflenetv1", "crd_wrn_40_2", ["review", "fitnet"])],
)
def test_pairs_of_the_benchmark_are_trained(tmp_path, student, teacher, methods):
    """Four images of 32x32 pixels, one epoch; the teacher was never trained."""
    prepared, root = few_pictures(tmp_path), tmp_path / "results"
    recipe = {"epochs": 2, "batch_size": 2, "lr": 0.01, "precision": "fp32"}
    cells = [one for one in digits_cells(methods, student, teacher, recipe) if one.student == student]
    assert [one.method for one in cells] == methods
    for one in cells:
        for path in one.teachers:
            make_teacher(one, prepared, root / path)
        train_cell(one, results=root, data=prepared)
        assert json.loads((root / one.path / "metrics.json").read_text())["status"] == "finished"
        history = pd.read_csv(root / one.path / "history.csv")
        assert len(history) == 2
        for term in one.objective:
            for network in range(one.networks):
                assert np.isfinite(history[f"{term}_{network}"]).all()
                assert (history[f"{term}_{network}"] > 0).any()
