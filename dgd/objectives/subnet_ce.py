"""Cross-entropy of a network's sub-nets."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term


class SubnetCrossEntropy(Term):
    """A term that minimises the cross-entropy of the sub-nets of a depth-level dynamic network.

    Source: the abstract of 2103.00793 trains full net and sub-nets together in each iteration and gives no weights. The form is
    that of the same group's EKD-FWSNet: `CE(main) + 1 / (branches - 1) sum CE(other)`, so the mean over sub-nets, weight 1.

    Args:
        reduce: 'mean' over sub-nets (EKD-FWSNet), or their 'sum' (slimmable and multi-exit networks).
        smoothing: Label smoothing, from 0 to 1. EKD-FWSNet has 0 for CIFAR networks and 0.2 for large ones.
    """

    source = "2103.00793 (abstract); form of github.com/cv516Buaa/EKD-FWSNet"
    status = "reconstruction"
    deviations = (
        "Only the abstract of DDNN was within reach; the weights of the sub-nets' cross-entropy are those of the same group's "
        "EKD-FWSNet, whose branches are no sub-nets.",
    )
    requires = Requires(heads=True, task="classification")

    def __init__(self, reduce: str = "mean", smoothing: float = 0.0):
        super().__init__()
        if reduce not in ("mean", "sum"):
            raise ValueError(f"subnet_ce: reduce is {reduce!r}; it must be 'mean' or 'sum'")
        if not 0 <= smoothing <= 1:
            raise ValueError(f"subnet_ce: smoothing is {smoothing}; it must be from 0 to 1")
        self.reduce, self.smoothing = reduce, smoothing

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats."""
        heads = batch.own.heads.values()
        losses = [F.cross_entropy(head.logits.float(), batch.labels, label_smoothing=self.smoothing) for head in heads]
        return getattr(torch.stack(losses), self.reduce)()


TERM = SubnetCrossEntropy
