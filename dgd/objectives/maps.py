"""What terms do with feature maps: where they are large, how they differ, and their means over a grid."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-12


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


def each(numbers: Tensor, x: Tensor) -> Tensor:
    """A number an image (B,), to be multiplied with x (B, ...)."""
    return numbers.view(-1, *[1] * (x.ndim - 1))


def unit(x: Tensor) -> Tensor:
    """Each image's numbers (B, ...), divided by their length; zeros stay zeros."""
    return x / each(length(total(x.square())), x)


class Distance(torch.autograd.Function):
    """`distance`, with a gradient of half as many steps as autograd's own."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        """Of (B, ...) each, to a scalar."""
        n = each(length(total(x.square())), x)
        own = x / n
        apart = own - unit(y)
        ctx.save_for_backward(n, own, apart)
        return apart.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        """For x alone."""
        n, own, apart = ctx.saved_tensors
        along = each(total(own * apart), own)
        return (apart - own * along) * (grad * 2 / own.numel() / n), None


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean square of the difference of the two after each image's numbers were divided by their length.

    Args:
        x: (B, ...).
        y: The same shape.

    Returns:
        Scalar.

    Raises:
        ValueError: y has a gradient; it must be a constant.
    """
    if y.requires_grad:
        raise ValueError("distance: the second map has a gradient; detach it")
    return Distance.apply(x, y)


def pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`adaptive_avg_pool2d` of (B, C, H, W), with a gradient that CUDA computes deterministically.

    Returns:
        (B, C, *size); float32 where H, W are no multiples of `size`, else of the type of x.
    """
    (h, w), (rows, columns) = x.shape[2:], size
    if (h, w) == (rows, columns):
        return x
    if h % rows == 0 and w % columns == 0:
        return F.avg_pool2d(x, (h // rows, w // columns))
    return _averages(h, rows, x.device) @ x.float() @ _averages(w, columns, x.device).T


def _averages(length: int, cells: int, device: torch.device) -> Tensor:
    """(cells, length): row i averages positions floor(i length / cells) to ceil((i + 1) length / cells), without the last."""
    cell, at = torch.arange(cells, device=device)[:, None], torch.arange(length, device=device)
    inside = (at >= cell * length // cells) & (at < ((cell + 1) * length + cells - 1) // cells)
    return inside / inside.sum(1, keepdim=True)
