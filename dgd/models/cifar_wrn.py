"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146) for 32x32 images."""

from collections.abc import Sequence

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dgd.models.cifar_resnet import CifarNet, cifar_cfg
from dgd.models.fused_norm import norm_act

__all__ = ["CifarWideResNet"]


class PreActBlock(nn.Module):
    """A block of two 3x3 convolutions, each after its batch norm and ReLU, and a sum with the shortcut.

    Where the channels change, the shortcut is a 1x1 convolution of the activated input, without batch norm. Its name
    `shortcut.conv` has a 'conv' in it, so that the reference code's rule 'conv' in key matches it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if in_channels != channels:
            self.shortcut.add_module("conv", nn.Conv2d(in_channels, channels, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, channels, ceil(h / stride), ceil(w / stride))."""
        out = norm_act(self.bn1, x, self.act1)
        x = self.shortcut(out) if len(self.shortcut) else x
        return self.conv2(norm_act(self.bn2, self.conv1(out), self.act2)) + x


class CifarWideResNet(CifarNet):
    """A WRN of depth 6n + 4 without dropout: a 3x3 stem of 16 channels, three stages of n pre-activation blocks, a batch norm.

    It is initialised as in the reference code of filter grafting (arXiv 2001.05868): convolutions by `kaiming_normal_` (fan
    in), the scales of batch norms from U(0, 1) instead of 1, the classifier's bias by 0, its weight as PyTorch does. Tensors
    have that code's order, and other names (`layer1.0`, `conv1`, `linear` are `stage1.block1`, `conv`, `fc` there) with a
    'conv' in the same places: the rule 'conv' in key matches every convolution, including the three 1x1 shortcuts. Since a
    batch norm precedes its convolution, it takes the blending weight of the convolution before it, as in that code.

    Tap k > 0 is stage k's sum, without batch norm and activation; the last batch norm and activation are the tail.

    Args:
        depth: 6n + 4 with n >= 1.
        widen: The stages have 16, 32 and 64 times this many channels.
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.

    Raises:
        ValueError: `depth` is not 6n + 4.
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth of a wide ResNet must be 6n + 4 with n >= 1, not {depth}")
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.feature_info = [{"num_chs": 16, "reduction": 1, "module": "conv1"}]
        before = 16
        for stage in (1, 2, 3):
            channels, stride = 16 * widen * 2 ** (stage - 1), 1 if stage == 1 else 2
            first = PreActBlock(before, channels, stride)
            setattr(
                self, f"layer{stage}", nn.Sequential(first, *(PreActBlock(channels, channels, 1) for _ in range(blocks - 1)))
            )
            self.feature_info.append({"num_chs": channels, "reduction": 2 ** (stage - 1), "module": f"layer{stage}"})
            before = channels
        self.bn = nn.BatchNorm2d(before)
        self.act = nn.ReLU()
        self.num_features = before
        self.apply(self.init_layer)
        self.reset_classifier(num_classes)

    @torch.no_grad()
    def init_layer(self, layer: nn.Module) -> None:
        """Initialise one layer as the reference code does."""
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)

    def stem(self, x: Tensor) -> Tensor:
        """Map images (n, in_chans, h, w) to (n, 16, h, w); the first block begins with batch norm and activation."""
        return self.conv1(x)

    def stages(self) -> Sequence[nn.Module]:
        """Return `layer1`, `layer2` and `layer3`."""
        return [self.layer1, self.layer2, self.layer3]

    def drop_stages(self, keep: int) -> None:
        """Empty the stages after the first `keep`."""
        for stage in range(keep + 1, 4):
            setattr(self, f"layer{stage}", nn.Sequential())

    def tail(self, x: Tensor) -> Tensor:
        """Apply the last batch norm and activation."""
        return norm_act(self.bn, x, self.act)

    def drop_tail(self) -> None:
        """Remove the last batch norm and activation."""
        self.bn = self.act = nn.Identity()


def _create(name: str, pretrained: bool, **kwargs) -> CifarWideResNet:
    depth, widen = (int(number) for number in name.removeprefix("cifar_wrn").split("_"))
    features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(CifarWideResNet, name, pretrained, depth=depth, widen=widen, feature_cfg=features, **kwargs)


default_cfgs = generate_default_cfgs({name: cifar_cfg() for name in ("cifar_wrn10_1", "cifar_wrn28_10")})


@register_model
def cifar_wrn10_1(pretrained: bool = False, **kwargs) -> CifarWideResNet:
    """Build WRN-10-1, with one block in each stage; for tests and quick runs, not in the paper."""
    return _create("cifar_wrn10_1", pretrained, **kwargs)


@register_model
def cifar_wrn28_10(pretrained: bool = False, **kwargs) -> CifarWideResNet:
    """Build WRN-28-10, 36.5 M parameters with 10 classes, 10096 conv filters."""
    return _create("cifar_wrn28_10", pretrained, **kwargs)
