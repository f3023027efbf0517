"""What terms do with feature maps: where they are large, and their means over a grid."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(x: Tensor) -> Tensor:
    """Where a map (B, C, H, W) is large: the mean over channels of its squares, flattened, divided by its L2 norm.

    Returns:
        (B, H*W) float32, each row of unit norm; a map of zeros gives zeros. Scaling an image's map changes nothing.
    """
    return F.normalize(x.float().pow(2).mean(1).flatten(1))


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
