"""Operations of terms on feature maps: attention, distances, and means over a grid."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-12


class Attention(torch.autograd.Function):
    """An autograd function for `attention`, whose gradient takes one product of the map's size instead of autograd's three."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """Return the attention (B, H, W) of x (B, C, H, W)."""
        ctx.save_for_backward(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(x, dim=1, dtype=wide).square() / x.shape[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        """Return the gradient with respect to x, 2 x grad / C."""
        (x,) = ctx.saved_tensors
        return (x * (grad * (2 / x.shape[1]))[:, None]).to(x.dtype)


def attention(x: Tensor) -> Tensor:
    """Return the mean over channels of the squares, (B, H, W) of x (B, C, H, W), in float32 or better."""
    return Attention.apply(x)


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or in its own type where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def total(x: Tensor) -> Tensor:
    """Return each image's sum, (B,) of x (B, ...)."""
    return x.sum(tuple(range(1, x.ndim)))


def length(squares: Tensor) -> Tensor:
    """Return the square root of sums of squares, at least `EPS`; its gradient at zero is zero."""
    return squares.clamp_min(EPS**2).sqrt()


def each(numbers: Tensor, x: Tensor) -> Tensor:
    """Reshape one number for each image (B,) so that it broadcasts over x (B, ...)."""
    return numbers.view(-1, *[1] * (x.ndim - 1))


def unit(x: Tensor) -> Tensor:
    """Return x (B, ...) with each image divided by its L2 norm; zeros stay zeros."""
    return x / each(length(total(x.square())), x)


class Distance(torch.autograd.Function):
    """An autograd function for `distance`, whose gradient takes half as many operations as autograd's own."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        """Return the scalar distance of x and y, both (B, ...)."""
        n = each(length(total(x.square())), x)
        own = x / n
        apart = own - unit(y)
        ctx.save_for_backward(n, own, apart)
        return apart.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        """Return the gradient with respect to x; y is a constant."""
        n, own, apart = ctx.saved_tensors
        along = each(total(own * apart), own)
        return (apart - own * along) * (grad * 2 / own.numel() / n), None


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared difference of x and y, a scalar, after each image is divided by its L2 norm.

    Args:
        x: (B, ...).
        y: The same shape.

    Raises:
        ValueError: y has a gradient; it must be a constant.
    """
    if y.requires_grad:
        raise ValueError("distance: the second map has a gradient; detach it")
    return Distance.apply(x, y)


def pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute `adaptive_avg_pool2d` of x (B, C, H, W) with a gradient that CUDA computes deterministically.

    Returns:
        (B, C, *size); float32 where H or W is no multiple of `size`, else of the type of x.
    """
    (h, w), (rows, columns) = x.shape[2:], size
    if (h, w) == (rows, columns):
        return x
    if h % rows == 0 and w % columns == 0:
        return F.avg_pool2d(x, (h // rows, w // columns))
    return _averages(h, rows, x.device) @ x.float() @ _averages(w, columns, x.device).T


def _averages(length: int, cells: int, device: torch.device) -> Tensor:
    """Return a matrix (cells, length) whose row i averages floor(i length / cells) .. ceil((i + 1) length / cells) - 1."""
    cell, at = torch.arange(cells, device=device)[:, None], torch.arange(length, device=device)
    inside = (at >= cell * length // cells) & (at < ((cell + 1) * length + cells - 1) // cells)
    return inside / inside.sum(1, keepdim=True)
