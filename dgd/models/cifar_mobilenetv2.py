"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) for 32x32 images, as trained by the filter grafting papers."""

from collections.abc import Sequence

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dgd.models.cifar_resnet import CifarNet, cifar_cfg
from dgd.models.fused_norm import norm_act

__all__ = ["CifarMobileNetV2"]

# Table 2 of the paper with the strides of the stem and of the 24-channel row set to 1 for small images.
# expansion, channels, blocks, stride
ROWS = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class InvertedResidual(nn.Module):
    """A block of 1x1 expansion, 3x3 depthwise and 1x1 projection without activation, with a shortcut where the size stays.

    Where the size stays and the channels change, the shortcut is a 1x1 convolution with batch norm. It is not in the paper but
    in the reference code, whose rule `'conv' in key` does not match it; its name `shortcut` must stay for that reason.
    """

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.conv1 = nn.Conv2d(in_channels, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(wide, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.shortcut = nn.Identity()
        if stride == 1 and in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, channels, ceil(h / stride), ceil(w / stride))."""
        out = norm_act(self.bn1, self.conv1(x), self.act1)
        out = norm_act(self.bn2, self.conv2(out), self.act2)
        return norm_act(self.bn3, self.conv3(out), residual=self.shortcut(x) if self.stride == 1 else None)


class CifarMobileNetV2(CifarNet):
    """A MobileNetV2 with a stride-1 stem, ReLU, 1280 features and PyTorch's own initialisation.

    It has 57 convolutions: 53 with 'conv' in their name (17088 filters) and 4 shortcuts. A stage is a run of blocks of one
    resolution; its output is that of its last block, without activation.

    Args:
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        self.conv1 = nn.Conv2d(in_chans, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU()
        blocks, before = [], 32
        for expansion, channels, count, stride in ROWS:
            for position in range(count):
                blocks.append(InvertedResidual(before, channels, expansion, stride if position == 0 else 1))
                before = channels
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(before, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.act2 = nn.ReLU()
        self.feature_info = [{"num_chs": 32, "reduction": 1, "module": "act1"}]
        self._stage_ends = [i for i, block in enumerate(blocks) if i and block.stride == 2] + [len(blocks)]
        for stage, end in enumerate(self._stage_ends):
            channels = blocks[end - 1].bn3.num_features
            self.feature_info.append({"num_chs": channels, "reduction": 2**stage, "module": f"layers.{end - 1}"})
        self.num_features = 1280
        self.reset_classifier(num_classes)

    def stages(self) -> Sequence[nn.Module]:
        """Return the runs of blocks of one resolution."""
        starts = [0, *self._stage_ends[:-1]]
        return [self.layers[start:end] for start, end in zip(starts, self._stage_ends)]

    def drop_stages(self, keep: int) -> None:
        """Cut the blocks after the first `keep` stages."""
        self._stage_ends = self._stage_ends[:keep]
        self.layers = self.layers[: self._stage_ends[-1] if keep else 0]

    def tail(self, x: Tensor) -> Tensor:
        """Apply the 1x1 convolution to 1280 features, its batch norm and activation."""
        return norm_act(self.bn2, self.conv2(x), self.act2)

    def drop_tail(self) -> None:
        """Remove the 1x1 convolution to 1280 features."""
        self.conv2 = self.bn2 = self.act2 = nn.Identity()


default_cfgs = generate_default_cfgs({"cifar_mobilenetv2": cifar_cfg()})


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **kwargs) -> CifarMobileNetV2:
    """Build MobileNetV2 for CIFAR, 2.3 M parameters with 10 classes."""
    features = {"out_indices": (0, 1, 2, 3, 4), "feature_cls": "getter"}
    return build_model_with_cfg(CifarMobileNetV2, "cifar_mobilenetv2", pretrained, feature_cfg=features, **kwargs)
