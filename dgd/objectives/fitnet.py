"""FitNet hints: a small regressor predicts the teacher's map of one stage from the student's."""

import torch.nn.functional as F
from torch import Tensor, nn

from dgd.objectives.maps import pool
from dgd.objectives.term import Requires, Term


class FitNet(Term):
    """A term that minimises the mean squared error between the teacher's map of a stage and a regressor of the student's.

    Source: 1412.6550, as the CRD benchmark runs it (weight 100). The regressor is a convolution, batch norm and ReLU, trained
    with the network from the start. The convolution also adapts the size: 3x3 with stride 2 where the student's map is twice
    the teacher's, a transposed 4x4 with stride 2 where it is half, otherwise without padding and with the kernel that the
    difference needs. The ReLU ends the regressor as it ends a ResNet's stage, so negative values of a teacher's map (a ViT's)
    cannot be matched.

    Args:
        stage: Number of the student's stage, counted from the shallowest, which is 1. The teacher's stage is the one at the
            same distance from its deepest. 2 is RepDistiller's `hint_layer`, the middle one of a CIFAR ResNet's three.
    """

    source = "1412.6550; github.com/HobbitLong/RepDistiller"
    status = "deviates"
    deviations = (
        "Hint and classes are learnt together, as RepDistiller does; the paper first trains the lower half on the hint alone.",
        "The regressor has batch norm and ReLU, as RepDistiller's; the paper's is a convolution and the network's activation.",
        "A teacher's map that is larger, but not twice, is average-pooled to the student's size; RepDistiller refuses.",
        "Of networks of different depth, stages are paired from the deepest; RepDistiller pairs from the shallowest.",
        "A stem with a resolution of its own, as ImageNet networks have, counts as a stage.",
    )
    requires = Requires(teacher="eval", features=True)

    def __init__(self, stage: int = 2):
        super().__init__()
        if not isinstance(stage, int) or isinstance(stage, bool) or stage < 1:
            raise ValueError(f"fitnet: stage is {stage!r}; it must be a whole number from 1, the shallowest")
        self.stage = stage

    def setup(self, example, setting) -> None:
        """Build a regressor for each teacher.

        Raises:
            ValueError: A network has no such stage.
        """
        stages = len(example.own.stages)
        if self.stage > stages:
            raise ValueError(f"fitnet: stage is {self.stage}; it must be at most {stages}, as many as the network has")
        self.depth = stages - self.stage + 1
        deep = min(len(teacher.stages) for teacher in example.teachers)
        if self.depth > deep:
            raise ValueError(
                f"fitnet: stage is {self.stage}; it must be at least {stages - deep + 1}, since a teacher has {deep} stages"
                f" and the network {stages}, paired from the deepest"
            )
        own = example.own.stages[-self.depth]
        self.regressors = nn.ModuleList(regressor(own, teacher.stages[-self.depth]) for teacher in example.teachers)

    def forward(self, batch) -> Tensor:
        """Return a scalar in squared units of the teachers' maps: the mean over images, channels, positions and teachers."""
        own, losses = batch.own.stages[-self.depth], []
        for teacher, module in zip(batch.teachers, self.regressors, strict=True):
            with self.autocast():
                guess = module(own)
            losses.append(F.mse_loss(guess.float(), pool(teacher.stages[-self.depth].float(), guess.shape[2:])))
        return sum(losses) / len(losses)


def regressor(own: Tensor, theirs: Tensor) -> nn.Sequential:
    """Return a module that maps one size and number of channels to another; see `FitNet`.

    Args:
        own: (B, C, H, W), an example of its input.
        theirs: (B, D, h, w), an example of its target. The output is (B, D, min(H, h), min(W, w)) if the target is larger but
            not twice as large.
    """
    size, target = own.shape[2:], theirs.shape[2:]
    shape = own.shape[1], theirs.shape[1]
    if size == tuple(2 * t for t in target):
        conv = nn.Conv2d(*shape, kernel_size=3, stride=2, padding=1)
    elif target == tuple(2 * s for s in size):
        conv = nn.ConvTranspose2d(*shape, kernel_size=4, stride=2, padding=1)
    else:
        conv = nn.Conv2d(*shape, kernel_size=tuple(1 + max(s - t, 0) for s, t in zip(size, target, strict=True)))
    return nn.Sequential(conv, nn.BatchNorm2d(theirs.shape[1]), nn.ReLU())


TERM = FitNet
