"""Mean squared error with the labels: what a regression minimises."""

import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term


class MeanSquaredError(Term):
    """A term that minimises the mean over the batch of (value - label)^2."""

    source = "textbook"
    status = "faithful"
    requires = Requires(task="regression")

    def forward(self, batch) -> Tensor:
        """Return a scalar, in the square of the labels' unit."""
        return F.mse_loss(batch.own.value.float(), batch.labels)


TERM = MeanSquaredError
