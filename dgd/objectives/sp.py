"""Similarity preserving: images that look alike to the teacher are to look alike to the student."""

import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term


class SimilarityPreserving(Term):
    """Squared distance between the teacher's and the student's similarities of a batch's images, the mean over teachers.

    Source: 1907.09682, as the CRD benchmark runs it (weight 3000): dot products of the flattened maps of the deepest
    stage, each row divided by its L2 norm; the squared Frobenius norm of the difference over the squared batch size. Maps of
    teacher and student may have any shapes.
    """

    source = "1907.09682; github.com/HobbitLong/RepDistiller"
    requires = Requires(teacher="eval", features=True)

    def forward(self, batch) -> Tensor:
        """Scalar without unit; with maps that follow a ReLU at most 2 / B."""
        own = similarities(batch.own.stages[-1])
        losses = [F.mse_loss(own, similarities(teacher.stages[-1])) for teacher in batch.teachers]
        return sum(losses) / len(losses)


def similarities(x: Tensor) -> Tensor:
    """(B, B) float32 from (B, C, H, W): each image's dot products with all images, as a vector of unit norm."""
    x = x.float().flatten(1)
    return F.normalize(x @ x.T)


TERM = SimilarityPreserving
