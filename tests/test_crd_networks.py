"""The CRD benchmark's networks compute what its code does: its outputs for weights and images that a rule makes, and its maps."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from dgd import codehash, models
from dgd.exchange.graft import graft

THEIRS = json.loads((Path(__file__).parent / "crd-networks.json").read_text())
"""Measured with the benchmark's own code, for 100 classes."""
NAMES = {"ResNet50": "crd_resnet50", "MobileNetV2": "crd_mobilenetv2_half"}
NAMES |= {"ShuffleV1": "crd_shufflenetv1", "ShuffleV2": "crd_shufflenetv2"}
NAMES = {theirs: NAMES.get(theirs, f"crd_{theirs}") for theirs in THEIRS}
"""Their names -> ours."""
LONG = {"ResNet50", "resnet110", "resnet32x4", "wrn_40_2", "vgg11", "vgg13", "vgg16", "vgg19"}
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


def test_each_is_registered():
    assert set(models.registered("crd_*")) == set(NAMES.values())
