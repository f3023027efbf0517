"""The modules that FFSD trains beside its networks, and its comparison of maps; the term is `dgd.objectives.ffsd`.

The layers and their initialisation are those of the released code (github.com/SJLeo/FFSD).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dgd.objectives.maps import EPS, attention, each, length, total


class Chain(nn.Module):
    """A chain of transposed convolutions, batch norms and ReLUs that computes the shallower stages' maps from the deepest.

    Where a stage is twice as large as the next deeper one, the step is the released code's (3x3, stride 2, one row and column
    more at the end); for other sizes the stride is chosen to fit, and is 1 where the sizes are the same.

    Args:
        shapes: (C, H, W) of every stage, shallow to deep.

    Raises:
        ValueError: A stage's size cannot be reached from the next deeper one.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]]):
        super().__init__()
        self.deconvs, self.norms = nn.ModuleList(), nn.ModuleList()
        for (channels, *size), (deep_channels, *deep) in zip(reversed(shapes[:-1]), reversed(shapes[1:])):
            stride = [math.ceil(n / m) for n, m in zip(size, deep)]
            rest = [n - (m - 1) * s - 1 for n, m, s in zip(size, deep, stride)]
            if min(rest) < 0:
                raise ValueError(f"ffsd: no stride leads from a map of {deep} to one of {size}")
            self.deconvs.append(nn.ConvTranspose2d(deep_channels, channels, 3, stride, 1, rest, bias=False))
            self.norms.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor, frozen: bool = False) -> list[Tensor]:
        """Return the maps of the shallower stages, shallow to deep.

        Args:
            x: Deepest map, (B, C, H, W).
            frozen: Use batch norm's running statistics and leave them as they are; the chain gets no gradient.
        """
        maps = []
        for deconv, norm in zip(self.deconvs, self.norms):
            if frozen:
                own = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                weight, bias = fuse_conv_bn_weights(deconv.weight, None, *own, transpose=True)
                x = F.conv_transpose2d(x, weight, bias, deconv.stride, deconv.padding, deconv.output_padding)
            else:
                x = norm(deconv(x))
            x = F.relu(x, inplace=True)
            maps.append(x)
        return maps[::-1]


def mixer(inputs: int, outputs: int) -> nn.Sequential:
    """Return depthwise 3x3, batch norm, ReLU, 1x1, batch norm, ReLU, from (B, inputs, H, W) to (B, outputs, H, W)."""
    layers = nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
    for conv, positions in ((layers[0], 9), (layers[3], 1)):
        nn.init.normal_(conv.weight, std=math.sqrt(2 / (positions * conv.out_channels)))
    return layers


class Fusion(nn.Module):
    """A module that fuses the students' concatenated deepest maps into one map, and classifies it.

    Args:
        channels: Channels of one student's map.
        students: Number of students.
        classes: Number of classes.
    """

    def __init__(self, channels: int, students: int, classes: int):
        super().__init__()
        self.mix = mixer(students * channels, channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map (B, channels, H, W) and logits (B, classes) of x (B, students * channels, H, W)."""
        x = self.mix(x)
        return x, self.fc(x.mean((2, 3)))


class MapDistance(torch.autograd.Function):
    """An autograd function for `map_distance`, whose gradient takes two products of the map's size instead of autograd's
    six."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Return the scalar distance of x and y (B, C, H, W) and of their attention, where y's is `target` (B, H, W)."""
        channels, made = x.shape[1], attention(x)
        x, y = x.to(made.dtype), y.to(made.dtype)
        of_maps, a, b = _unit_difference(channels * total(made), channels * total(target), total(x * y))
        squares = (total(t) for t in (made.square(), target.square(), made * target))
        of_attention, c, d = _unit_difference(*squares)
        of_made = (each(c, made) * made - each(d, target) * target) * (2 / (channels * made.numel()))
        ctx.save_for_backward(x, y, (of_made + each(a / x.numel(), made))[:, None], each(b / x.numel(), y))
        return of_maps.mean() / x[0].numel() + of_attention.mean() / made[0].numel()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        """Return the gradient with respect to x; the others are constants."""
        x, y, factor, b = ctx.saved_tensors
        return (x * (factor * grad)).addcmul_(y, b * grad, value=-1), None, None


def _unit_difference(xx: Tensor, yy: Tensor, xy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return |x / |x| - y / |y||^2 for each image (B,), and a and b of its gradient a x - b y with respect to x.

    They are computed from the sums of squares and products, without a copy of the maps at unit length.
    """
    n, m = length(xx), length(yy)
    value = xx / n**2 + yy / m**2 - 2 * xy / (n * m)
    a = torch.where(xx > EPS**2, 2 * xy / (n**3 * m), 2 / n**2)
    return value, a, 2 / (n * m)


def map_distance(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return `distance(x, y) + distance(attention(x), target)`, a scalar.

    Args:
        x: (B, C, H, W).
        y: The same shape.
        target: (B, H, W), y's `attention`.

    Raises:
        ValueError: y or the target has a gradient; they must be constants.
    """
    if y.requires_grad or target.requires_grad:
        raise ValueError("map_distance: the second map or its attention has a gradient; detach it")
    return MapDistance.apply(x, y, target)


def flip(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target attention of the next student, for one student's attention `a` (B, H, W).

    With n the length of a and y = a / n: y stays where it is below its floor(HW / 3)-th smallest entry, becomes n - y above it
    and n / 2 at it. (The unit map y and the length n of a are mixed in this way in the released code.)

    Returns:
        The target (B, H, W), and (target - y) n (B, H, W), the change of a channel's mean square that leads from a to it.
    """
    n = length(total(a.square()))[:, None, None]
    y = a / n
    edge = y.flatten(1).topk(y[0].numel() // 3, largest=False).values.amax(1)[:, None, None]
    target = torch.where(y < edge, y, torch.where(y > edge, n - y, n / 2))
    return target, (target - y) * n
