"""Cross-entropy with the labels."""

import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """Mean over the batch of -log p(label)."""

    def forward(self, batch) -> Tensor:
        """Scalar, in nats."""
        return F.cross_entropy(batch.logits.float(), batch.labels)
