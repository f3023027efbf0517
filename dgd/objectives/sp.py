"""Similarity-preserving distillation: the student matches the teacher's similarities between a batch's images."""

import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term


class SimilarityPreserving(Term):
    """A term that minimises the squared distance between teacher's and student's similarities of a batch's images.

    Source: 1907.09682, as the CRD benchmark runs it (weight 3000). Similarities are dot products of the flattened maps of the
    deepest stage, each row divided by its L2 norm; the loss is the squared Frobenius norm of the difference over the squared
    batch size, averaged over teachers. Maps of teacher and student may have any shapes.
    """

    source = "1907.09682; github.com/HobbitLong/RepDistiller"
    status = "faithful"
    requires = Requires(teacher="eval", features=True)

    def forward(self, batch) -> Tensor:
        """Return a scalar without unit; for maps that follow a ReLU it is at most 2 / B."""
        own = similarities(batch.own.stages[-1])
        losses = [F.mse_loss(own, similarities(teacher.stages[-1])) for teacher in batch.teachers]
        return sum(losses) / len(losses)


def similarities(x: Tensor) -> Tensor:
    """Return (B, B) float32: each image's dot products with all images x (B, C, H, W), as a row of unit norm."""
    x = x.float().flatten(1)
    return F.normalize(x @ x.T)


TERM = SimilarityPreserving
