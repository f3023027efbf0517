"""What the networks of the CRD benchmark share: stem, stages, tail, a start, a maker.

They are those of arXiv 1910.10699 and github.com/HobbitLong/RepDistiller, written anew for timm's interface, in one file for
each family. For 32x32 images they compute what the benchmark's code computes, and start as there; the modules stand in the
order in which that code calls them.
"""

from collections.abc import Sequence

import torch
from timm.models import build_model_with_cfg
from torch import Tensor, nn

from dgd.models.cifar_resnet import CifarNet
from dgd.models.fused_norm import norm_act

__all__ = ["CrdNet", "CrdNetWithTail", "build"]


class CrdNet(CifarNet):
    """A network whose stages are its children `layer1`, `layer2`, ...; a subclass adds each by `add_stage`."""

    def __init__(self, in_chans: int, drop_rate: float, global_pool: str) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        self.feature_info = []

    def add_stem(self, in_chans: int, channels: int, kernel: int, stride: int = 1) -> None:
        """Add a convolution without biases, batch norm and a ReLU, whose output is the first tap."""
        self.conv1 = nn.Conv2d(in_chans, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.feature_info.append({"num_chs": channels, "reduction": stride, "module": "act1"})

    def add_stage(self, stage: nn.Module, channels: int, stride: int) -> None:
        """Add the next stage, which makes maps of so many channels and divides their sides by the stride."""
        name, before = f"layer{len(self.feature_info)}", self.feature_info[-1]["reduction"]
        self.add_module(name, stage)
        self.feature_info.append({"num_chs": channels, "reduction": before * stride, "module": name})

    def stages(self) -> Sequence[nn.Module]:
        """Return `layer1`, `layer2`, ..."""
        return [getattr(self, f"layer{number}") for number in range(1, len(self.feature_info))]

    def drop_stages(self, keep: int) -> None:
        """Empty the stages after the first `keep`."""
        for number in range(keep + 1, len(self.feature_info)):
            setattr(self, f"layer{number}", nn.Sequential())


class CrdNetWithTail(CrdNet):
    """A network with a 1x1 convolution to many features between the last stage and the pooling."""

    def add_tail(self, channels: int, features: int) -> None:
        """Add the convolution without biases, batch norm and a ReLU."""
        self.conv2 = nn.Conv2d(channels, features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.act2 = nn.ReLU()
        self.num_features = features

    def tail(self, x: Tensor) -> Tensor:
        """Apply the 1x1 convolution, its batch norm and activation."""
        return norm_act(self.bn2, self.conv2(x), self.act2)

    def drop_tail(self) -> None:
        """Remove the 1x1 convolution."""
        self.conv2 = self.bn2 = self.act2 = nn.Identity()


@torch.no_grad()
def start_normal(layer: nn.Module) -> None:
    """Draw a layer's weights as the benchmark does for VGG and MobileNetV2; batch norms start as PyTorch's do.

    A convolution's are normal with the variance 2 / (filters times pixels of a filter), a classifier's have the deviation 0.01;
    biases are 0.
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def build(network: type[CifarNet], name: str, pretrained: bool, taps: int, **kwargs) -> CifarNet:
    """Build a network through timm, which returns its first `taps` intermediate features by `features_only`."""
    features = {"out_indices": tuple(range(taps)), "feature_cls": "getter"}
    return build_model_with_cfg(network, name, pretrained, feature_cfg=features, **kwargs)
