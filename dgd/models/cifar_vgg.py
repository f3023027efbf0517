"""VGG-16 with batch norm (Simonyan & Zisserman 2014, arXiv 1409.1556, column D) for 32x32 images."""

from collections.abc import Sequence
from itertools import pairwise

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dgd.models.cifar_resnet import CifarNet, cifar_cfg
from dgd.models.fused_norm import norm_act

__all__ = ["CifarVGG"]

STAGES = [(64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)]


class Layers(nn.Sequential):
    """Layers in sequence, in which an activation follows every batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        layers = iter(self)
        for layer in layers:
            x = norm_act(layer, x, next(layers)) if isinstance(layer, nn.BatchNorm2d) else layer(x)
        return x


class CifarVGG(CifarNet):
    """A VGG-16 of 13 3x3 convolutions with biases and batch norms, five max pools, and one linear classifier of 512 features.

    The three wide layers of the ImageNet network are one here, as in the reference code of filter grafting (arXiv
    2001.05868), and the initialisation is PyTorch's own, as there. The names are that code's too: the rule 'conv' in key
    matches no tensor of this network (`features.0.weight`, ...), so the published main script stops with an error; the rule by
    dimension matches the 13 weights, 4224 filters. A pool at the border may be smaller, so that other sizes than 32 run too.

    Tap 0 is the first convolution's activation, tap k the last activation before pool k; the fifth pool is the tail.

    Args:
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        layers, before, ends = [], in_chans, []
        for channels in STAGES:
            for width in channels:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
                if not ends:
                    ends.append(len(layers))
            ends.append(len(layers))
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = Layers(*layers)
        self._ends = ends
        self.feature_info = [
            {"num_chs": layers[end - 2].num_features, "reduction": 2 ** max(0, tap - 1), "module": f"features.{end - 1}"}
            for tap, end in enumerate(ends)
        ]
        self.num_features = before
        self.reset_classifier(num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """Return the first convolution's activations (n, 64, h, w) of images (n, in_chans, h, w)."""
        return self.features[: self._ends[0]](x)

    def stages(self) -> Sequence[nn.Module]:
        """Return the rest of the first run of convolutions, then each run with the pool before it."""
        return [self.features[start:end] for start, end in pairwise(self._ends)]

    def drop_stages(self, keep: int) -> None:
        """Remove what follows the first `keep` stages."""
        self._ends = self._ends[: keep + 1]
        self.drop_tail()

    def tail(self, x: Tensor) -> Tensor:
        """Apply the last pool, from (n, 512, h, w) to (n, 512, ceil(h / 2), ceil(w / 2))."""
        return self.features[self._ends[-1] :](x)

    def drop_tail(self) -> None:
        """Remove the last pool."""
        self.features = self.features[: self._ends[-1]]

    def group_matcher(self, coarse: bool = False) -> dict:
        """Return timm's groups for layer-wise learning rates: the first convolution, then the layers one by one."""
        return {"stem": r"^features\.[01]\.", "blocks": r"^features\.(\d+)"}


default_cfgs = generate_default_cfgs({"cifar_vgg16_bn": cifar_cfg() | {"first_conv": "features.0"}})


@register_model
def cifar_vgg16_bn(pretrained: bool = False, **kwargs) -> CifarVGG:
    """Build VGG-16 with batch norm for CIFAR, 14.7 M parameters with 10 classes, 4224 conv filters."""
    features = {"out_indices": (0, 1, 2, 3, 4, 5), "feature_cls": "getter"}
    return build_model_with_cfg(CifarVGG, "cifar_vgg16_bn", pretrained, feature_cfg=features, **kwargs)
