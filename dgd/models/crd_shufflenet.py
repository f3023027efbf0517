"""The ShuffleNets of the CRD benchmark (arXiv 1910.10699): V1 with 3 groups, and V2 of size 1, with stems for 32x32 images.

Their papers are 1707.01083 and 1807.11164. PyTorch's own initialisation stays, as in the benchmark.
"""

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from dgd.models.cifar_resnet import cifar_cfg
from dgd.models.crd import CrdNet, CrdNetWithTail, build
from dgd.models.fused_norm import norm_act

__all__ = ["CrdShuffleNetV1", "CrdShuffleNetV2"]

COUNTS = (4, 8, 4)
"""Blocks of each stage, the first of which halves the resolution."""
STEM = 24
"""Channels of the stem, a 1x1 convolution with stride 1."""


class ShuffleBlockV1(nn.Module):
    """A block of grouped 1x1, 3x3 depthwise and grouped 1x1 convolutions; its activation follows the sum with its input.

    With stride 2 its output is concatenated with the averaged input instead, so `channels` are those of both.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int = 3) -> None:
        super().__init__()
        made = channels - in_channels if stride == 2 else channels
        inner, first = made // 4, 1 if in_channels == STEM else groups
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(first)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.act3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, channels, ceil(h / stride), ceil(w / stride))."""
        out = self.shuffle(norm_act(self.bn1, self.conv1(x), self.act1))
        out = self.conv3(norm_act(self.bn2, self.conv2(out), self.act2))
        if self.pool is None:
            return norm_act(self.bn3, out, self.act3, residual=x)
        return self.act3(torch.cat([norm_act(self.bn3, out), self.pool(x)], 1))


class DownBlockV2(nn.Module):
    """Two branches that halve the resolution, each of half the channels, which are concatenated and shuffled."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.act3 = nn.ReLU()
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.act5 = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, channels, ceil(h / 2), ceil(w / 2))."""
        left = norm_act(self.bn1, self.conv1(x))
        left = norm_act(self.bn2, self.conv2(left), self.act2)
        right = norm_act(self.bn3, self.conv3(x), self.act3)
        right = norm_act(self.bn4, self.conv4(right))
        right = norm_act(self.bn5, self.conv5(right), self.act5)
        return self.shuffle(torch.cat([left, right], 1))


class ShuffleBlockV2(nn.Module):
    """A block that passes the second half of its channels through three convolutions, and shuffles both halves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.act3 = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        kept, out = x.chunk(2, dim=1)
        out = norm_act(self.bn1, self.conv1(out), self.act1)
        out = norm_act(self.bn2, self.conv2(out))
        out = norm_act(self.bn3, self.conv3(out), self.act3)
        return self.shuffle(torch.cat([kept, out], 1))


class CrdShuffleNetV1(CrdNet):
    """A ShuffleNet V1 with 3 groups and stages of 240, 480 and 960 channels, with a ReLU after the depthwise convolutions.

    Taps are the stem's and the stages' outputs, after their ReLU.

    Args:
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        self.add_stem(in_chans, STEM, kernel=1)
        before = STEM
        for count, width in zip(COUNTS, (240, 480, 960), strict=True):
            rest = [ShuffleBlockV1(width, width, 1) for _ in range(count - 1)]
            self.add_stage(nn.Sequential(ShuffleBlockV1(before, width, 2), *rest), width, 2)
            before = width
        self.num_features = before
        self.reset_classifier(num_classes)


class CrdShuffleNetV2(CrdNetWithTail):
    """A ShuffleNet V2 of size 1: stages of 116, 232 and 464 channels, then a 1x1 convolution to 1024 features.

    Taps are the stem's and the stages' outputs. A stage ends in a shuffle and not in an activation, so what a term takes before
    an activation is the stage's output itself.

    Args:
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        self.add_stem(in_chans, STEM, kernel=1)
        before = STEM
        for count, width in zip(COUNTS, (116, 232, 464), strict=True):
            rest = [ShuffleBlockV2(width) for _ in range(count - 1)]
            self.add_stage(nn.Sequential(DownBlockV2(before, width), *rest), width, 2)
            before = width
        self.add_tail(before, 1024)
        self.reset_classifier(num_classes)


default_cfgs = generate_default_cfgs({name: cifar_cfg() for name in ("crd_shufflenetv1", "crd_shufflenetv2")})


@register_model
def crd_shufflenetv1(pretrained: bool = False, **kwargs) -> CrdShuffleNetV1:
    """Build ShuffleV1 of the CRD benchmark."""
    return build(CrdShuffleNetV1, "crd_shufflenetv1", pretrained, 4, **kwargs)


@register_model
def crd_shufflenetv2(pretrained: bool = False, **kwargs) -> CrdShuffleNetV2:
    """Build ShuffleV2 of the CRD benchmark, of size 1."""
    return build(CrdShuffleNetV2, "crd_shufflenetv2", pretrained, 4, **kwargs)
