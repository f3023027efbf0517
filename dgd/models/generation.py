"""Networks that make images: a class-conditional generator and its discriminator, and the density ratio on features.

They are small enough for a processor. The structure is that of the hinge-loss GANs with a projection discriminator (1802.05637,
1805.08318, 2011.07466): conditional batch norm in the generator, spectral normalisation in the discriminator. Labels come as
codes (`dgd.task.LabelCode`), so classes and numbers need no networks of their own.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dgd.task import NOISE

__all__ = ["Discriminator", "Generator", "RatioNet"]

SMALLEST = 4
"""Side in pixels below which a map is not halved, or from which a generator starts."""


def _sides(image_size: int) -> list[int]:
    """Return the sides of a network's maps: the image's, halved while it is even and the half is not below `SMALLEST`."""
    sides = [image_size]
    while sides[-1] % 2 == 0 and sides[-1] // 2 >= SMALLEST:
        sides.append(sides[-1] // 2)
    return sides


class CodeNorm(nn.Module):
    """A batch norm whose gain and bias are linear in a label's code (conditional batch norm, 1707.00683)."""

    def __init__(self, channels: int, code: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = nn.Linear(code, channels), nn.Linear(code, channels)
        nn.init.normal_(self.gain.weight, std=0.02)
        nn.init.ones_(self.gain.bias)
        nn.init.normal_(self.bias.weight, std=0.02)
        nn.init.zeros_(self.bias.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return maps (B, C, H, W) normalised, for codes (B, K)."""
        return self.norm(x) * self.gain(code)[:, :, None, None] + self.bias(code)[:, :, None, None]


class UpBlock(nn.Module):
    """A residual block that doubles the side of its maps."""

    def __init__(self, width: int, code: int):
        super().__init__()
        self.norm1, self.norm2 = CodeNorm(width, code), CodeNorm(width, code)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return maps (B, C, 2 H, 2 W)."""
        y = self.conv1(F.interpolate(F.relu(self.norm1(x, code)), scale_factor=2))
        return F.interpolate(x, scale_factor=2) + self.conv2(F.relu(self.norm2(y, code)))


class Generator(nn.Module):
    """A network that maps latent vectors, noise followed by a label's code, to images.

    Args:
        num_classes: Length of a code.
        in_chans: Channels of an image.
        img_size: Side of an image in pixels.
        width: Channels of its maps.
        noise: Length of the noise.

    Attributes:
        takes: Name of the input that it takes.
    """

    takes = "latent"

    def __init__(self, num_classes: int, in_chans: int, img_size: int, width: int = 32, noise: int = NOISE):
        super().__init__()
        self.noise, self.shape = noise, (in_chans, img_size, img_size)
        *blocks, self.start = _sides(img_size)
        self.stem = nn.Linear(noise + num_classes, width * self.start**2)
        self.blocks = nn.ModuleList(UpBlock(width, num_classes) for _ in blocks)
        self.norm = CodeNorm(width, num_classes)
        self.head = nn.Conv2d(width, in_chans, 3, padding=1)
        self.register_buffer("mean", torch.zeros(in_chans, 1, 1))
        self.register_buffer("std", torch.ones(in_chans, 1, 1))

    def set_units(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and the deviation, by channel and in 0..1, that the images are normalised by."""
        self.mean.copy_(torch.tensor(mean)[:, None, None])
        self.std.copy_(torch.tensor(std)[:, None, None])

    def example(self, images: int) -> Tensor:
        """Return an input for so many images."""
        return torch.zeros(images, self.stem.in_features)

    @property
    def makes(self) -> tuple[int, ...]:
        """Return the shape of what it makes of one input."""
        return self.shape

    def forward(self, latent: Tensor) -> Tensor:
        """Return normalised images (B, C, H, W) for latent vectors (B, noise + code)."""
        code = latent[:, self.noise :]
        x = self.stem(latent).unflatten(1, (-1, self.start, self.start))
        for block in self.blocks:
            x = block(x, code)
        return (self.head(F.relu(self.norm(x, code))).float().sigmoid() - self.mean) / self.std


class Discriminator(nn.Module):
    """A network whose outputs times a label's code are its critic value for that label (a projection discriminator).

    Args:
        num_classes: Length of a code.
        in_chans: Channels of an image.
        img_size: Side of an image in pixels.
        width: Channels of its first maps.
    """

    def __init__(self, num_classes: int, in_chans: int, img_size: int, width: int = 32):
        super().__init__()
        halvings = len(_sides(img_size)) - 1
        widths = [width * 2 ** min(i, 2) for i in range(halvings + 1)]
        layers = [spectral_norm(nn.Conv2d(in_chans, width, 3, padding=1)), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        layers += [spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.plain, self.projection = (spectral_norm(nn.Linear(widths[-1], n)) for n in (1, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, num_classes) for images (B, C, H, W)."""
        pooled = self.layers(images).sum((2, 3))
        return self.plain(pooled) + self.projection(pooled)


class RatioNet(nn.Module):
    """A network that maps a label's code, followed by features, to a density ratio of at least 0.

    Source: the authors' ConditionalNet_MLP: embedding of the label; blocks of linear layer, group norm, ReLU and dropout; ReLU.

    Args:
        num_classes: Length of a code.
        in_chans: Number of features.
        widths: Widths of the hidden layers.
        dropout: Share of hidden values that training drops.
    """

    takes = "features"
    makes = (1,)

    def __init__(self, num_classes: int, in_chans: int, widths: Sequence[int], dropout: float = 0.5):
        super().__init__()
        self.embedding = nn.Linear(num_classes, num_classes, bias=False)
        layers, before = [], num_classes + in_chans
        for width in widths:
            layers += [nn.Linear(before, width), nn.GroupNorm(8, width), nn.ReLU(), nn.Dropout(dropout)]
            before = width
        self.layers = nn.Sequential(*layers, nn.Linear(before, 1), nn.ReLU())
        self.inputs = num_classes + in_chans
        nn.init.normal_(self.embedding.weight)

    def example(self, images: int) -> Tensor:
        """Return an input for so many images."""
        return torch.zeros(images, self.inputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, 1) for codes and features (B, num_classes + in_chans)."""
        code, features = features.split([self.embedding.in_features, self.inputs - self.embedding.in_features], 1)
        return self.layers(torch.cat([self.embedding(code), features], 1))


# They are built for one size of images.
default_cfgs = generate_default_cfgs(
    {
        name: {"url": "", "num_classes": 10, "fixed_input_size": True}
        for name in (
            *("gan_generator", "gan_generator_128", "gan_discriminator", "gan_discriminator_128"),
            *("ratio_mlp3", "ratio_mlp5"),
        )
    }
)


@register_model
def gan_generator(pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, img_size: int = 32, **_) -> Generator:
    """Build a generator of residual blocks, 32 channels wide."""
    return Generator(num_classes, in_chans, img_size)


@register_model
def gan_discriminator(
    pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, img_size: int = 32, **_
) -> Discriminator:
    """Build a discriminator of strided convolutions, 32 to 128 channels wide."""
    return Discriminator(num_classes, in_chans, img_size)


@register_model
def gan_generator_128(pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, img_size: int = 32, **_) -> Generator:
    """Build a generator of residual blocks, 128 channels wide, for a GPU."""
    return Generator(num_classes, in_chans, img_size, width=128)


@register_model
def gan_discriminator_128(
    pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, img_size: int = 32, **_
) -> Discriminator:
    """Build a discriminator of strided convolutions, 128 to 512 channels wide, for a GPU."""
    return Discriminator(num_classes, in_chans, img_size, width=128)


@register_model
def ratio_mlp3(pretrained: bool = False, num_classes: int = 10, in_chans: int = 64, **_) -> RatioNet:
    """Build a density ratio with three hidden layers, the authors' MLP3."""
    return RatioNet(num_classes, in_chans, (512, 256, 128))


@register_model
def ratio_mlp5(pretrained: bool = False, num_classes: int = 10, in_chans: int = 64, **_) -> RatioNet:
    """Build a density ratio with five hidden layers, the authors' MLP5 of classification."""
    return RatioNet(num_classes, in_chans, (2048, 1024, 512, 256, 128))
