"""The wide ResNets of the CRD benchmark (arXiv 1910.10699): those of the grafting code, initialised otherwise."""

import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

from dgd.models.cifar_resnet import cifar_cfg
from dgd.models.cifar_wrn import CifarWideResNet
from dgd.models.crd import build

__all__ = ["CrdWideResNet"]


class CrdWideResNet(CifarWideResNet):
    """A WRN whose convolutions start by `kaiming_normal_` (fan out), batch norms from 1 and 0, the classifier's bias from 0.

    Taps are the first convolution's output and the stages' sums, neither of them activated, as in the benchmark.
    """

    @torch.no_grad()
    def init_layer(self, layer: nn.Module) -> None:
        """Initialise one layer as the benchmark does."""
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


SIZES = {"crd_wrn_16_1": (16, 1), "crd_wrn_16_2": (16, 2), "crd_wrn_40_1": (40, 1), "crd_wrn_40_2": (40, 2)}
"""Depth and widening factor."""

default_cfgs = generate_default_cfgs({name: cifar_cfg() for name in SIZES})


def _create(name: str, pretrained: bool, **kwargs) -> CrdWideResNet:
    depth, widen = SIZES[name]
    return build(CrdWideResNet, name, pretrained, 4, depth=depth, widen=widen, **kwargs)


@register_model
def crd_wrn_16_1(pretrained: bool = False, **kwargs) -> CrdWideResNet:
    """Build wrn_16_1 of the CRD benchmark."""
    return _create("crd_wrn_16_1", pretrained, **kwargs)


@register_model
def crd_wrn_16_2(pretrained: bool = False, **kwargs) -> CrdWideResNet:
    """Build wrn_16_2 of the CRD benchmark."""
    return _create("crd_wrn_16_2", pretrained, **kwargs)


@register_model
def crd_wrn_40_1(pretrained: bool = False, **kwargs) -> CrdWideResNet:
    """Build wrn_40_1 of the CRD benchmark."""
    return _create("crd_wrn_40_1", pretrained, **kwargs)


@register_model
def crd_wrn_40_2(pretrained: bool = False, **kwargs) -> CrdWideResNet:
    """Build wrn_40_2 of the CRD benchmark."""
    return _create("crd_wrn_40_2", pretrained, **kwargs)
