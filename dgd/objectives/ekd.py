"""Embedded knowledge distillation, logits: a network teaches the sub-nets that it contains."""

import torch
from torch import Tensor

from dgd.objectives.maps import wide
from dgd.objectives.term import Output, Requires, Term


class EmbeddedDistillation(Term):
    """A term that minimises tau squared times KL(p_full || p_sub) between softened probabilities of full net and sub-nets.

    Source: the abstract of 2103.00793 has "KL between class posteriors" of full net and sub-nets, and no details. Temperature,
    factor and mean are those of the same group's EKD-FWSNet, which averages over all elements of the batch (images x classes)
    with weight 15 on CIFAR-10 and 60 on CIFAR-100: here 1.5 and 0.6, since the mean is over images. Its teacher is the average
    of all branches and is not detached.

    Args:
        tau: Temperature; 3 in EKD-FWSNet.
        per: What the mean is over: 'image' (the usual form), or 'element', images x classes, as EKD-FWSNet has it.
        reduce: 'mean' over sub-nets, as their cross-entropy, or 'sum'.
        detach: The full net gets no gradient, as in all related code but EKD-FWSNet; the abstract says that the full net's
            accuracy is preserved.
    """

    source = "2103.00793 (abstract); form of github.com/cv516Buaa/EKD-FWSNet"
    status = "reconstruction"
    deviations = (
        "Only the abstract of DDNN was within reach; temperature, form and weight are those of the same group's EKD-FWSNet, "
        "whose teacher is the mean of its branches and gets a gradient; here it is the full net, without gradient.",
    )
    requires = Requires(heads=True, task="classification")

    def __init__(self, tau: float = 3.0, per: str = "image", reduce: str = "mean", detach: bool = True):
        super().__init__()
        if not tau > 0:
            raise ValueError(f"ekd: tau is {tau}; it must be above 0")
        if per not in ("image", "element"):
            raise ValueError(f"ekd: per is {per!r}; it must be 'image' or 'element'")
        if reduce not in ("mean", "sum"):
            raise ValueError(f"ekd: reduce is {reduce!r}; it must be 'mean' or 'sum'")
        self.tau, self.per, self.reduce, self.detach = tau, per, reduce, detach
        if not detach:
            self.deviations = tuple(text.replace(", without gradient", "") for text in self.deviations)

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats times tau squared."""
        log_p = self._softened(batch.own)
        if self.detach:
            log_p = log_p.detach()
        losses = []
        for head in batch.own.heads.values():
            divergence = (log_p.exp() * (log_p - self._softened(head))).sum(1).mean() * self.tau**2
            losses.append(divergence / log_p.shape[1] if self.per == "element" else divergence)
        return getattr(torch.stack(losses), self.reduce)()

    def _softened(self, output: Output) -> Tensor:
        """Return log probabilities (B, K)."""
        return (wide(output.logits) / self.tau).log_softmax(1)


TERM = EmbeddedDistillation
