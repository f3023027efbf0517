"""What FFSD trains beside its networks, and how it compares maps; the term is `dgd.objectives.ffsd`.

The layers and their initialisation are those of the released code (github.com/SJLeo/FFSD).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12


class Chain(nn.Module):
    """Maps of all shallower stages, made one after another from the deepest: transposed convolution, batch norm, ReLU.

    Where a stage is twice as large as the next deeper one, the step is the released code's (3x3, stride 2, one row and column
    more at the end); other sizes take the stride that fits, 1 where they are the same.

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
        """The deepest map (B, C, H, W) to those of the shallower stages, shallow to deep.

        Args:
            x: Deepest map.
            frozen: Use batch norm's running statistics, and leave them as they are.
        """
        maps = []
        for deconv, norm in zip(self.deconvs, self.norms):
            x = deconv(x)
            if frozen:
                x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            else:
                x = norm(x)
            x = F.relu(x, inplace=True)
            maps.append(x)
        return maps[::-1]


def mixer(inputs: int, outputs: int) -> nn.Sequential:
    """Depthwise 3x3, batch norm, ReLU, 1x1, batch norm, ReLU: maps (B, inputs, H, W) to (B, outputs, H, W)."""
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
    """The students' deepest maps, concatenated, to one fused map and its logits.

    Args:
        channels: Of one student.
        students: How many.
        classes: Of the logits.
    """

    def __init__(self, channels: int, students: int, classes: int):
        super().__init__()
        self.mix = mixer(students * channels, channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, students * channels, H, W) to the map (B, channels, H, W) and logits (B, classes)."""
        x = self.mix(x)
        return x, self.fc(x.mean((2, 3)))


class Attention(torch.autograd.Function):
    """`attention`, with a gradient of one product of the map's size; autograd's own takes three, and such products are dear."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H, W)."""
        ctx.save_for_backward(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(x, dim=1, dtype=wide).square() / x.shape[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        """2 x grad / C."""
        (x,) = ctx.saved_tensors
        return (x * (grad * (2 / x.shape[1]))[:, None]).to(x.dtype)


def attention(x: Tensor) -> Tensor:
    """Mean over the channels of the squares: (B, C, H, W) to (B, H, W), in float32 or better."""
    return Attention.apply(x)


def total(x: Tensor) -> Tensor:
    """Each image's sum: (B, ...) to (B,)."""
    return x.sum(tuple(range(1, x.ndim)))


def length(squares: Tensor) -> Tensor:
    """Root of a sum of squares, at least `EPS`; its gradient at zero is zero."""
    return squares.clamp_min(EPS**2).sqrt()


def unit(x: Tensor) -> Tensor:
    """Each image's numbers, divided by their length, (B, H, W); zeros stay zeros."""
    return x / length(total(x.square()))[:, None, None]


def distance(x: Tensor, y: Tensor, xx: Tensor | None = None, yy: Tensor | None = None) -> Tensor:
    """Mean square of the difference of the two after each image's numbers were divided by their length.

    Args:
        x: (B, ...).
        y: The same shape.
        xx: (B,), x's sums of squares, where they are known already.
        yy: As `xx`.

    Returns:
        Scalar.
    """
    # |u - v|^2 = |u|^2 + |v|^2 - 2 uv: no map at unit length is made.
    xx = total(x.square()) if xx is None else xx
    yy = total(y.square()) if yy is None else yy
    n, m = length(xx), length(yy)
    return (xx / n**2 + yy / m**2 - 2 * total(x * y) / (n * m)).mean() / x[0].numel()


def flip(a: Tensor) -> tuple[Tensor, Tensor]:
    """The attention that the next student is to have, for one student's attention `a` (B, H, W).

    With n the length of a and y = a / n: y stays where it is below its floor(HW / 3)-th smallest entry, becomes n - y above it
    and n / 2 at it. (Unit map and length stand side by side as in the released code.)

    Returns:
        The target (B, H, W), and how far it is from a in the mean square of a channel: (target - y) n, (B, H, W).
    """
    n = length(total(a.square()))[:, None, None]
    y = a / n
    edge = y.flatten(1).topk(y[0].numel() // 3, largest=False).values.amax(1)[:, None, None]
    target = torch.where(y < edge, y, torch.where(y > edge, n - y, n / 2))
    return target, (target - y) * n
