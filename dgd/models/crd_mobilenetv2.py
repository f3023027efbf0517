"""The MobileNetV2 of the CRD benchmark (arXiv 1910.10699): half the width, and a stem that halves the image."""

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from dgd.models.cifar_mobilenetv2 import InvertedResidual
from dgd.models.cifar_resnet import cifar_cfg
from dgd.models.crd import CrdNetWithTail, build, start_normal
from dgd.models.fused_norm import norm_act

__all__ = ["CrdMobileNetV2"]

# expansion, channels, blocks, of one resolution, the first with that stride
STAGES = [
    (1, [(1, 8, 1), (6, 12, 2)]),
    (2, [(6, 16, 3)]),
    (2, [(6, 32, 4), (6, 48, 3)]),
    (2, [(6, 80, 3), (6, 160, 1)]),
]


class PlainBlock(InvertedResidual):
    """A block that has a shortcut where both the size and the channels stay, and none elsewhere."""

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__(in_channels, channels, expansion, stride)
        self.shortcut = nn.Identity() if stride == 1 and in_channels == channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, channels, ceil(h / stride), ceil(w / stride))."""
        out = norm_act(self.bn1, self.conv1(x), self.act1)
        out = norm_act(self.bn2, self.conv2(out), self.act2)
        return norm_act(self.bn3, self.conv3(out), residual=x if self.shortcut is not None else None)


class CrdMobileNetV2(CrdNetWithTail):
    """A MobileNetV2 of half the width, but for its 1280 features, with a 3x3 stem of 16 channels and stride 2.

    Taps are the stem's output after its ReLU, and the last block's of each resolution, which has none. `adapt_stem` takes the
    stem's stride away, and the network is then not the benchmark's.

    Args:
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        before = 16
        self.add_stem(in_chans, before, kernel=3, stride=2)
        for stride, rows in STAGES:
            blocks = []
            for expansion, channels, count in rows:
                for _ in range(count):
                    blocks.append(PlainBlock(before, channels, expansion, 1 if blocks else stride))
                    before = channels
            self.add_stage(nn.Sequential(*blocks), before, stride)
        self.add_tail(before, 1280)
        self.apply(self.init_layer)
        self.reset_classifier(num_classes)

    def init_layer(self, layer: nn.Module) -> None:
        """Initialise one layer as the benchmark does."""
        start_normal(layer)


default_cfgs = generate_default_cfgs({"crd_mobilenetv2_half": cifar_cfg()})


@register_model
def crd_mobilenetv2_half(pretrained: bool = False, **kwargs) -> CrdMobileNetV2:
    """Build MobileNetV2 of the CRD benchmark: expansion 6, half the width."""
    return build(CrdMobileNetV2, "crd_mobilenetv2_half", pretrained, 5, **kwargs)
