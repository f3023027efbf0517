"""The VGGs of the CRD benchmark (arXiv 1910.10699): batch norm, three or four max pools, one linear classifier."""

from collections.abc import Sequence
from itertools import pairwise

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from dgd.models.cifar_resnet import cifar_cfg
from dgd.models.cifar_vgg import Layers
from dgd.models.crd import CrdNet, build, start_normal

__all__ = ["CrdVGG"]

WIDTHS = (64, 128, 256, 512, 512)
STRIDES = (1, 2, 2, 2, 1)
"""The last run of convolutions has no pool before it; the benchmark's code has one there for images of 64 pixels alone."""


class CrdVGG(CrdNet):
    """A VGG of five runs of 3x3 convolutions with biases, batch norm and ReLU, and max pools before the second to fourth.

    Tap k is the last activation of run k, from 0; the last two have the same resolution. A pool at the border may be smaller,
    so that other sizes than 32 run too.

    Args:
        counts: Convolutions of each run.
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        counts: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        before = in_chans
        for count, width, stride in zip(counts, WIDTHS, STRIDES, strict=True):
            layers = [nn.MaxPool2d(2, ceil_mode=True)] if stride == 2 else []
            for one, other in pairwise([before, *[width] * count]):
                layers += [nn.Conv2d(one, other, 3, padding=1), nn.BatchNorm2d(other), nn.ReLU()]
            if self.feature_info:
                self.add_stage(Layers(*layers), width, stride)
            else:
                self.layer0 = Layers(*layers)
                self.feature_info.append({"num_chs": width, "reduction": 1, "module": "layer0"})
            before = width
        self.num_features = before
        self.apply(self.init_layer)
        self.reset_classifier(num_classes)

    def init_layer(self, layer: nn.Module) -> None:
        """Initialise one layer as the benchmark does."""
        start_normal(layer)

    def stem(self, x: Tensor) -> Tensor:
        """Return the activations (n, 64, h, w) of the first run for images (n, in_chans, h, w)."""
        return self.layer0(x)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Return timm's groups for layer-wise learning rates: the first run, then the runs or their layers."""
        return {"stem": r"^layer0\.", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


COUNTS = {"crd_vgg8": (1, 1, 1, 1, 1), "crd_vgg11": (1, 1, 2, 2, 2), "crd_vgg13": (2, 2, 2, 2, 2)}
COUNTS |= {"crd_vgg16": (2, 2, 3, 3, 3), "crd_vgg19": (2, 2, 4, 4, 4)}

default_cfgs = generate_default_cfgs({name: cifar_cfg() | {"first_conv": "layer0.0"} for name in COUNTS})


def _create(name: str, pretrained: bool, **kwargs) -> CrdVGG:
    return build(CrdVGG, name, pretrained, 5, counts=COUNTS[name], **kwargs)


@register_model
def crd_vgg8(pretrained: bool = False, **kwargs) -> CrdVGG:
    """Build vgg8 of the CRD benchmark: one convolution in each run."""
    return _create("crd_vgg8", pretrained, **kwargs)


@register_model
def crd_vgg11(pretrained: bool = False, **kwargs) -> CrdVGG:
    """Build vgg11 of the CRD benchmark."""
    return _create("crd_vgg11", pretrained, **kwargs)


@register_model
def crd_vgg13(pretrained: bool = False, **kwargs) -> CrdVGG:
    """Build vgg13 of the CRD benchmark."""
    return _create("crd_vgg13", pretrained, **kwargs)


@register_model
def crd_vgg16(pretrained: bool = False, **kwargs) -> CrdVGG:
    """Build vgg16 of the CRD benchmark."""
    return _create("crd_vgg16", pretrained, **kwargs)


@register_model
def crd_vgg19(pretrained: bool = False, **kwargs) -> CrdVGG:
    """Build vgg19 of the CRD benchmark."""
    return _create("crd_vgg19", pretrained, **kwargs)
