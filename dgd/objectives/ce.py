"""Cross-entropy with the labels."""

import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term


class CrossEntropy(Term):
    """A term that minimises the mean over the batch of -log p(label).

    Args:
        smoothing: Label smoothing: the share of the target, 0 to 1, that is spread evenly over all classes.
    """

    source = "textbook"
    status = "faithful"
    requires = Requires(task="classification")

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        if not 0 <= smoothing <= 1:
            raise ValueError(f"ce: smoothing is {smoothing}; it must be from 0 to 1")
        self.smoothing = smoothing

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats."""
        return F.cross_entropy(batch.own.logits.float(), batch.labels, label_smoothing=self.smoothing)


TERM = CrossEntropy
