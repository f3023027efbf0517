"""Cross-entropy with the labels."""

import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term


class CrossEntropy(Term):
    """Mean over the batch of -log p(label).

    Args:
        smoothing: Label smoothing: the share of the target that is spread evenly over all classes.
    """

    source = "textbook"
    requires = Requires(task="classification")

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        if not 0 <= smoothing <= 1:
            raise ValueError(f"ce: smoothing is {smoothing}; it must be from 0 to 1")
        self.smoothing = smoothing

    def forward(self, batch) -> Tensor:
        """Scalar, in nats."""
        return F.cross_entropy(batch.own.logits.float(), batch.labels, label_smoothing=self.smoothing)


TERM = CrossEntropy
