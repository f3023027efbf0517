"""Attention transfer: the student's stages learn to respond where in the image the teacher's do."""

from torch import Tensor

from dgd.objectives.maps import attention, distance, pool
from dgd.objectives.term import Requires, Term


class AttentionTransfer(Term):
    """A term that minimises the squared distance between attention maps of teacher and student.

    Source: 1612.03928 with p = 2, as its code and the CRD benchmark run it (weight 1000): for each stage, the mean over images
    and positions of the squared difference; the loss is the sum over stages and the mean over teachers. Where the maps differ
    in size, the larger is average-pooled to the smaller size before it is squared, as in the benchmark.
    """

    source = "1612.03928; github.com/szagoruyko/attention-transfer, github.com/HobbitLong/RepDistiller"
    status = "deviates"
    deviations = (
        "The difference of the maps is squared and averaged over positions, as both codes do; the paper's norm has no square.",
        "Stages are paired from the deepest, and the rest of the deeper network left out; the codes pair from the shallowest.",
        "The stem's map counts where no later one has its resolution; RepDistiller leaves it out.",
    )
    requires = Requires(teacher="eval", features=True)

    def forward(self, batch) -> Tensor:
        """Return a scalar without unit, at most the sum over stages of 2 / (H*W)."""
        losses = [
            distance(*(_attention(x, tuple(map(min, own.shape[2:], theirs.shape[2:]))) for x in (own, theirs)))
            for teacher in batch.teachers
            for own, theirs in zip(reversed(batch.own.stages), reversed(teacher.stages), strict=False)
        ]
        return sum(losses) / len(batch.teachers)


def _attention(x: Tensor, size: tuple[int, int]) -> Tensor:
    return attention(x if x.shape[2:] == size else pool(x.float(), size))


TERM = AttentionTransfer
