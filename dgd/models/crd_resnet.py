"""The ResNets of the CRD benchmark (arXiv 1910.10699): those for CIFAR with 1x1 convolutions as shortcuts, and ResNet-50."""

from collections.abc import Sequence

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from dgd.models.cifar_resnet import BasicBlock, cifar_cfg
from dgd.models.crd import CrdNet, build
from dgd.models.fused_norm import norm_act

__all__ = ["CrdResNet"]


def projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    """Return a shortcut: a 1x1 convolution with batch norm where the size or the channels change, else the identity."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ProjectionBlock(BasicBlock):
    """A block of two 3x3 convolutions whose shortcut is a 1x1 convolution where it cannot be the identity."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.shortcut = projection(in_channels, channels, stride)


class Bottleneck(nn.Module):
    """A block of 1x1, 3x3 and 1x1 convolutions and a shortcut; the last activation follows the sum."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.shortcut = projection(in_channels, wide, stride)
        self.act3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, 4 * channels, ceil(h / stride), ceil(w / stride))."""
        out = norm_act(self.bn1, self.conv1(x), self.act1)
        out = norm_act(self.bn2, self.conv2(out), self.act2)
        return norm_act(self.bn3, self.conv3(out), self.act3, residual=self.shortcut(x))


class CrdResNet(CrdNet):
    """A ResNet with a 3x3 stem of stride 1 and stages of which the first keeps the resolution and the others halve it.

    Convolutions are initialised by `kaiming_normal_` (fan out), batch norms and the classifier as PyTorch does.
    Taps are the stem's and the stages' outputs, after their ReLU.

    Args:
        block: `ProjectionBlock` or `Bottleneck`.
        blocks: Blocks of each stage.
        widths: Channels of the stem, then of each stage's blocks; a `Bottleneck` returns four times as many.
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        block: type[ProjectionBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        before, *widths = widths
        self.add_stem(in_chans, before, kernel=3)
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stride, channels = 1 if number == 0 else 2, width * block.expansion
            rest = [block(channels, width, 1) for _ in range(count - 1)]
            self.add_stage(nn.Sequential(block(before, width, stride), *rest), channels, stride)
            before = channels
        self.num_features = before
        self.apply(self.init_layer)
        self.reset_classifier(num_classes)

    @torch.no_grad()
    def init_layer(self, layer: nn.Module) -> None:
        """Initialise a convolution by `kaiming_normal_`, fan out."""
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
SIZES = {"crd_resnet8": (1, NARROW), "crd_resnet14": (2, NARROW), "crd_resnet20": (3, NARROW), "crd_resnet32": (5, NARROW)}
SIZES |= {"crd_resnet44": (7, NARROW), "crd_resnet56": (9, NARROW), "crd_resnet110": (18, NARROW)}
SIZES |= {"crd_resnet8x4": (1, WIDE), "crd_resnet32x4": (5, WIDE)}
"""Blocks in each of the three stages, and channels of the stem and the stages."""

default_cfgs = generate_default_cfgs({name: cifar_cfg() for name in (*SIZES, "crd_resnet50")})


def _create(name: str, pretrained: bool, **kwargs) -> CrdResNet:
    blocks, widths = SIZES[name]
    return build(CrdResNet, name, pretrained, 4, block=ProjectionBlock, blocks=[blocks] * 3, widths=widths, **kwargs)


@register_model
def crd_resnet8(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet8 of the CRD benchmark."""
    return _create("crd_resnet8", pretrained, **kwargs)


@register_model
def crd_resnet14(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet14 of the CRD benchmark."""
    return _create("crd_resnet14", pretrained, **kwargs)


@register_model
def crd_resnet20(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet20 of the CRD benchmark."""
    return _create("crd_resnet20", pretrained, **kwargs)


@register_model
def crd_resnet32(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet32 of the CRD benchmark."""
    return _create("crd_resnet32", pretrained, **kwargs)


@register_model
def crd_resnet44(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet44 of the CRD benchmark."""
    return _create("crd_resnet44", pretrained, **kwargs)


@register_model
def crd_resnet56(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet56 of the CRD benchmark."""
    return _create("crd_resnet56", pretrained, **kwargs)


@register_model
def crd_resnet110(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet110 of the CRD benchmark."""
    return _create("crd_resnet110", pretrained, **kwargs)


@register_model
def crd_resnet8x4(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet8x4 of the CRD benchmark: twice the width in the stem, four times in the stages."""
    return _create("crd_resnet8x4", pretrained, **kwargs)


@register_model
def crd_resnet32x4(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build resnet32x4 of the CRD benchmark: twice the width in the stem, four times in the stages."""
    return _create("crd_resnet32x4", pretrained, **kwargs)


@register_model
def crd_resnet50(pretrained: bool = False, **kwargs) -> CrdResNet:
    """Build ResNet50 of the CRD benchmark: ImageNet's stages after a stem that keeps the resolution."""
    size = {"blocks": (3, 4, 6, 3), "widths": (64, 64, 128, 256, 512)}
    return build(CrdResNet, "crd_resnet50", pretrained, 5, block=Bottleneck, **size, **kwargs)
