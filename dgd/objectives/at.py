"""Attention transfer: where in the image the stages of a network look."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Term


def attention(x: Tensor) -> Tensor:
    """Where a map (B, C, H, W) is large: the mean over channels of its squares, flattened, divided by its L2 norm.

    Returns:
        (B, H*W) float32, each row of unit norm; a map of zeros gives zeros. Scaling an image's map changes nothing.
    """
    return F.normalize(x.float().pow(2).mean(1).flatten(1))


def pool(x: Tensor, height: int, width: int) -> Tensor:
    """`F.adaptive_avg_pool2d` of a map (B, C, H, W), in float32, with a gradient that is deterministic on CUDA too."""
    if x.shape[2:] == (height, width):
        return x.float()
    return _bins(x.shape[2], height, x.device) @ x.float() @ _bins(x.shape[3], width, x.device).T


def _bins(size: int, bins: int, device: torch.device) -> Tensor:
    """(bins, size): row i takes the mean from floor(i size / bins) to ceil((i + 1) size / bins)."""
    i, at = torch.arange(bins, device=device)[:, None], torch.arange(size, device=device)
    inside = ((at >= i * size // bins) & (at * bins < (i + 1) * size)).float()
    return inside / inside.sum(1, keepdim=True)


class AttentionTransfer(Term):
    """Squared distance between the attention maps of teacher and student, the sum over stages and the mean over teachers.

    Source: 1612.03928 with p = 2, as its code and the CRD benchmark run it (weight 1000): of each stage, the mean over
    images and positions of the squared difference. Of two sizes, the larger map is average-pooled to the smaller before it
    is squared, as in the benchmark.
    """

    source = "1612.03928; github.com/szagoruyko/attention-transfer, github.com/HobbitLong/RepDistiller"
    status = "deviates"
    deviations = (
        "The difference of the maps is squared and averaged over positions, as both codes do; the paper's norm has no square.",
        "Stages are paired from the deepest, and the rest of the deeper network left out; the codes pair from the shallowest.",
        "The stem's map counts where no later one has its resolution; RepDistiller leaves it out.",
    )
    needs = frozenset({"teacher", "taps"})

    def setup(self, example, setting) -> None:
        """Raises ValueError if there is no teacher."""
        if not example.teachers:
            raise ValueError("at: there is no teacher; a method with this term needs at least one")

    def forward(self, batch) -> Tensor:
        """Scalar: no unit, at most the sum over stages of 2 / (H*W)."""
        losses = [
            distance(own, theirs)
            for teacher in batch.teachers
            for own, theirs in zip(reversed(batch.own.stages), reversed(teacher.stages), strict=False)
        ]
        return sum(losses) / len(batch.teachers)


def distance(own: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared difference of the attention of two maps (B, C, H, W) and (B, D, h, w), the larger pooled to the smaller."""
    size = [min(pair) for pair in zip(own.shape[2:], theirs.shape[2:], strict=True)]
    return F.mse_loss(attention(pool(own, *size)), attention(pool(theirs, *size)))
