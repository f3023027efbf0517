"""Relational distillation: the student matches the teacher's distances and angles between a batch's images."""

import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term

SAME_POINT = 1e-12  # squared distance up to which two features count as one point, without direction


class RelationalDistillation(Term):
    """A term that minimises Huber losses between teacher's and student's relations: distances of pairs and angles of triples.

    Source: 1904.05068, as the CRD benchmark runs it (weight 1). The relations are those of the pooled features: distances
    divided by their mean, and cosines of the angle at every image between any two others. The two losses are means over the
    batch's B^2 pairs and B^3 triples, including those that repeat an image, and over teachers.

    Args:
        distance: Weight of the loss on distances.
        angle: Weight of the loss on angles.
    """

    source = "1904.05068; github.com/lenscloth/RKD, github.com/HobbitLong/RepDistiller"
    status = "deviates"
    deviations = (
        "Features are taken as they are, as RepDistiller does; the authors' classification script divides them by their norm.",
        "Images whose features coincide have distance 0 and no direction; the codes give them 1e-6 and a huge gradient.",
    )
    requires = Requires(teacher="eval", features=True, pooled=True)

    def __init__(self, distance: float = 25.0, angle: float = 50.0):
        super().__init__()
        for name, weight in (("distance", distance), ("angle", angle)):
            if not weight >= 0:
                raise ValueError(f"rkd: {name} is {weight}; it must be at least 0")
        if distance == angle == 0:
            raise ValueError(f"rkd: angle is {angle}; it must be above 0 where distance is 0, or nothing is compared")
        self.distance, self.angle, self.width = distance, angle, 0

    def setup(self, example, setting) -> None:
        """Store the width of the widest pooled feature."""
        self.width = max(output.pooled.shape[1] for output in (example.own, *example.teachers))

    def forward(self, batch) -> Tensor:
        """Return a scalar without unit, 0 for a single image."""
        distances, angles = relations(batch.own.pooled)
        loss = 0.0
        for teacher in batch.teachers:
            their_distances, their_angles = relations(teacher.pooled)
            loss = loss + self.distance * F.smooth_l1_loss(distances, their_distances)
            loss = loss + self.angle * F.smooth_l1_loss(angles, their_angles)
        return loss / len(batch.teachers)

    def memory(self, batch_size: int, train_images: int) -> int:
        """Return the bytes of angles, their gradient, differences and directions of student and one teacher, in float32."""
        return 4 * batch_size**2 * (3 * batch_size + 4 * self.width)


def relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relations of features (B, C), in float32.

    Returns:
        Distances (B, B) divided by their mean, and cosines (B, B, B) of the angles at the first of three images.
    """
    x = x.float()
    differences = x[None] - x[:, None]
    squares = differences.pow(2).sum(2)
    apart = squares > SAME_POINT
    distances = squares.where(apart, 1.0).sqrt()
    directions = differences / distances[:, :, None]
    distances = distances * apart
    mean = distances.sum() / max(len(x) * (len(x) - 1), 1)
    return distances / mean.clamp(min=SAME_POINT**0.5), directions @ directions.mT


TERM = RelationalDistillation
