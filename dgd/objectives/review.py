"""Knowledge review (ReviewKD): each of the student's levels, fused with its deeper ones, learns to match the teacher's
level."""

import torch.nn.functional as F
from torch import Tensor, nn

from dgd.objectives.maps import pool
from dgd.objectives.term import Output, Requires, Term


class KnowledgeReview(Term):
    """A term that minimises the hierarchical context loss between fused student levels and the teacher's, summed over levels.

    A network's levels are its stages of more than one pixel, and its pooled feature as a map of one pixel; those of student and
    teacher are paired from the deepest. From the deepest to the shallowest, `Fusion` mixes each level with the deeper ones.

    Args:
        warmup: Epochs. The loss is scaled by `min(1, e / warmup)` in epoch e, counted from 0 as in the authors' CIFAR script,
            so the first epoch's factor is 0. 0 is no warm-up (their ImageNet script).
        mid: Most channels in which levels are fused; fewer where the student's pooled feature has fewer.
        student: 'post' takes the student's stages after their last activation (the authors' CIFAR networks), 'pre' before it
            (mdistiller on ImageNet). The teacher's are always taken before it.
        teacher: 'eval', or 'train' for batch statistics in the teacher's batch norms, as in the authors' CIFAR script.
    """

    source = "2104.09044; github.com/dvlab-research/ReviewKD (CIFAR-100/train.py, CIFAR-100/model/reviewkd.py)"
    status = "deviates"
    deviations = (
        "The teacher is in evaluation mode; the authors' CIFAR script never leaves training mode (option teacher='train').",
        "One map of each resolution: of two that the authors take (VGG), the deeper.",
        "Stages that only the deeper one of two networks has are left out.",
        "A stem with a resolution of its own, as ImageNet networks have, counts as a stage.",
    )
    requires = Requires(teacher="eval", features=True, pooled=True, teacher_before=True)

    def __init__(self, warmup: float = 20, mid: int = 512, student: str = "post", teacher: str = "eval"):
        super().__init__()
        if warmup < 0:
            raise ValueError(f"review: warmup is {warmup}; it must be 0 or more")
        if mid < 1:
            raise ValueError(f"review: mid is {mid}; it must be 1 or more")
        if student not in ("post", "pre"):
            raise ValueError(f"review: student is {student!r}; it must be 'post' or 'pre'")
        if teacher not in ("eval", "train"):
            raise ValueError(f"review: teacher is {teacher!r}; it must be 'eval' or 'train'")
        self.warmup, self.mid, self.taps = warmup, mid, {"post": "stages", "pre": "before"}[student]
        if student == "pre":
            self.requires |= Requires(before=True)
        if teacher == "train":
            self.requires, self.deviations = self.requires | Requires(teacher="train"), self.deviations[1:]

    def setup(self, example, setting) -> None:
        """Build a `Fusion` for each pair of levels, deepest first.

        Raises:
            ValueError: There is not exactly one teacher, or a network has no stage of more than one pixel.
        """
        if len(example.teachers) != 1:
            raise ValueError(f"review: there are {len(example.teachers)} teachers; it must be one")
        own, theirs = levels(example.own, self.taps), levels(example.teachers[0], "before")
        if min(len(own), len(theirs)) < 2:
            raise ValueError("review: a network has no stage of more than one pixel; there is nothing to review")
        mid = min(self.mid, own[0].shape[1])
        pairs = enumerate(zip(own, theirs, strict=False))
        self.fusions = nn.ModuleList(Fusion(x.shape[1], mid, y.shape[1], carried=i > 0) for i, (x, y) in pairs)

    def forward(self, batch) -> Tensor:
        """Return a scalar, 0 or more, in the square of the unit of the teacher's features."""
        loss, carried = 0.0, None
        pairs = zip(levels(batch.own, self.taps), levels(batch.teachers[0], "before"), strict=False)
        for fusion, (own, theirs) in zip(self.fusions, pairs, strict=True):
            with self.autocast():
                out, carried = fusion(own, carried, theirs.shape[2:])
            loss = loss + hierarchical_context(out, theirs)
        return loss * self.factor.float()

    def ramp(self, epoch: int) -> float:
        """Return the warm-up factor of an epoch, from 0."""
        return min(1.0, epoch / self.warmup) if self.warmup else 1.0


class Fusion(nn.Module):
    """A module that fuses a level with the deeper ones by attention.

    Args:
        channels: Channels of the student's level.
        mid: Channels of the fused map.
        out: Channels of the teacher's level.
        carried: Whether there is a deeper level.
    """

    def __init__(self, channels: int, mid: int, out: int, carried: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.leave = nn.Sequential(nn.Conv2d(mid, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = nn.Conv2d(2 * mid, 2, 1) if carried else None
        for conv in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, carried: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fuse a level (B, channels, H, W) with the fused deeper levels `carried` (B, mid, h, w).

        Returns:
            The map that the loss compares (B, out, *size), and the fused map for the next level (B, mid, *size).
        """
        x = self.enter(x)
        if self.attention is not None:
            # The published convolution of [x; upsampled], split into two, so that the second part runs on the small map and
            # nothing is concatenated.
            of_x, of_carried = self.attention.weight.chunk(2, dim=1)
            scores = F.conv2d(x, of_x, self.attention.bias) + F.interpolate(F.conv2d(carried, of_carried), x.shape[2:])
            keep, add = scores.sigmoid().chunk(2, dim=1)
            x = x * keep + F.interpolate(carried, x.shape[2:]) * add
        if x.shape[2:] != size:
            x = F.interpolate(x, size)  # nearest
        return self.leave(x), x


def levels(output: Output, taps: str) -> list[Tensor]:
    """Return the levels (B, C, H, W), deepest first, of the maps `taps` ('stages' or 'before').

    A stage of one pixel is left out, because the pooled feature has the same content.
    """
    stages = [x for x in getattr(output, taps) if x.shape[2:].numel() > 1]
    return [output.pooled[:, :, None, None], *reversed(stages)]


def hierarchical_context(own: Tensor, theirs: Tensor) -> Tensor:
    """Return the weighted mean of the mean squared differences of two maps (B, C, H, W) at several resolutions.

    The maps as they are have weight 1. Average-pooled to those of the sizes 4x4, 2x2 and 1x1 that are below H, they have the
    weights 1/2, 1/4, 1/8 in that order.
    """
    difference = own.float() - theirs  # float32 whatever the type of theirs; pooling is linear, so it may follow
    loss, total, weight = difference.square().mean(), 1.0, 1.0
    for size in (4, 2, 1):
        if size < own.shape[2]:
            weight /= 2
            loss, total = loss + weight * pool(difference, (size, size)).square().mean(), total + weight
    return loss / total


TERM = KnowledgeReview
