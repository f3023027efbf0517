"""Embedded knowledge distillation, features: a network's attention maps teach the sub-nets that it contains."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.maps import each, length, wide
from dgd.objectives.term import Requires, Term


class EmbeddedAttention(Term):
    """A term that minimises the squared difference of the attention maps of full net and sub-nets at the same resolution.

    Source: the abstract of 2103.00793 has self-attention distillation "between features of the same resolution and different
    depth", and no details. The map is that of the same group's EKD-FWSNet: the sum over channels, without a square, of which
    each image's mean is taken away and the rest divided by its standard deviation (n - 1) over positions; the loss is the mean
    over images and positions, weight 1 for CIFAR networks, 0.5 for large ones.

    Args:
        stages: 'last': the deepest resolution of more than one pixel, as EKD-FWSNet; 'all': every such resolution, the mean
            over them.
        reduce: 'mean' over sub-nets, as their cross-entropy, or 'sum'.
        detach: The full net gets no gradient; EKD-FWSNet's teacher, the mean of the maps of its branches, gets one.
    """

    source = "2103.00793 (abstract); form of github.com/cv516Buaa/EKD-FWSNet"
    status = "reconstruction"
    deviations = (
        "Only the abstract of DDNN was within reach; map, distance and weight are those of the same group's EKD-FWSNet, whose "
        "teacher is the mean of its branches' maps and gets a gradient; here it is the full net's, without gradient.",
        "A map that is the same everywhere counts as zero; the code divides by its standard deviation, which is then zero.",
    )
    requires = Requires(heads=True, features=True)

    def __init__(self, stages: str = "last", reduce: str = "mean", detach: bool = True):
        super().__init__()
        if stages not in ("last", "all"):
            raise ValueError(f"ekd_attention: stages is {stages!r}; it must be 'last' or 'all'")
        if reduce not in ("mean", "sum"):
            raise ValueError(f"ekd_attention: reduce is {reduce!r}; it must be 'mean' or 'sum'")
        self.stages, self.reduce, self.detach = stages, reduce, detach
        if not detach:
            self.deviations = tuple(text.replace(", without gradient", "") for text in self.deviations)

    def setup(self, example, setting) -> None:
        """Check that there are maps to compare; there is nothing to build.

        Raises:
            ValueError: A sub-net has no stage of more than one pixel in common with the full net.
        """
        for name, head in example.own.heads.items():
            if not self._pairs(example.own.stages, head.stages):
                raise ValueError(f"ekd_attention: {name} has no stage of more than one pixel that the full net has too")

    def forward(self, batch) -> Tensor:
        """Return a scalar without unit."""
        own = [stage.detach() for stage in batch.own.stages] if self.detach else batch.own.stages
        losses = []
        for head in batch.own.heads.values():
            pairs = self._pairs(own, head.stages)
            losses.append(torch.stack([F.mse_loss(standard(x), standard(y)) for y, x in pairs]).mean())
        return getattr(torch.stack(losses), self.reduce)()

    def _pairs(self, own, theirs) -> list[tuple[Tensor, Tensor]]:
        """Return the stages of equal resolution, the full net's first."""
        by_size = {x.shape[2:]: x for x in own if x.shape[2:].numel() > 1}
        pairs = [(by_size[x.shape[2:]], x) for x in theirs if x.shape[2:] in by_size]
        return pairs[-1:] if self.stages == "last" else pairs


def standard(x: Tensor) -> Tensor:
    """Return the sum over channels, each image's (H, W) with mean 0 and standard deviation 1: (B, H, W) of x (B, C, H, W)."""
    attention = wide(x).sum(1)
    apart = attention - each(attention.mean((1, 2)), attention)
    squares = apart.square().sum((1, 2)) / (apart[0].numel() - 1)
    return apart / each(length(squares), apart)


TERM = EmbeddedAttention
