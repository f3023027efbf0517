"""Decoupled knowledge distillation: separate weights for the teacher's true-class and other-class probabilities."""

import torch
from torch import Tensor

from dgd.objectives.term import Requires, Term


class DecoupledDistillation(Term):
    """A term that minimises `ramp * tau^2 * (alpha KL(b_t || b_s) + beta KL(o_t || o_s))`, averaged over images and teachers.

    b is the softened probability of the true class against all others, o the softened distribution over the others. If beta
    were the teacher's probability of the other classes instead of a constant, and alpha 1, this would be plain distillation.

    Source: 2203.08679 and its code (mdistiller; weight 1, beside cross-entropy with weight 1).

    Args:
        alpha: Weight of the divergence between the b.
        beta: Weight of the divergence between the o. 8 is the code's default; it has 2 for resnet56 -> resnet20 and
            resnet110 -> resnet32, 6 for vgg13 -> vgg8 and wide ResNets on CIFAR-100, 0.5 for ResNet-34 -> 18 on ImageNet.
        tau: Temperature; the code's is 4, on ImageNet 1.
        warmup: Epochs. The loss of epoch k (from 1) is multiplied by min(k / warmup, 1), which is constant within an epoch as
            in the code, so the first epoch's factor is not 0. 0 is no warm-up; the code has 20, and 1 on ImageNet, which is
            none.
    """

    source = "2203.08679; github.com/megvii-research/mdistiller"
    status = "faithful"
    requires = Requires(teacher="eval", task="classification")

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, tau: float = 4.0, warmup: float = 20):
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta), ("warmup", warmup)):
            if not value >= 0:
                raise ValueError(f"dkd: {name} is {value}; it must be at least 0")
        if not tau > 0:
            raise ValueError(f"dkd: tau is {tau}; it must be above 0")
        self.alpha, self.beta, self.tau, self.warmup = alpha, beta, tau, warmup

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats times tau squared."""
        logits = batch.own.logits
        true = batch.labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
        own_binary, own_others = self.split(logits, true)
        loss = 0.0
        for teacher in batch.teachers:
            binary, others = self.split(teacher.logits, true)
            target = (binary.exp() * (binary - own_binary)).sum(1)
            rest = (others.exp() * (others - own_others)).sum(1)
            loss = loss + (self.alpha * target + self.beta * rest).mean()
        return (self.factor * self.tau**2 / len(batch.teachers)).float() * loss

    def ramp(self, epoch: int) -> float:
        """Return the warm-up factor of an epoch, from 0."""
        return min((epoch + 1) / self.warmup, 1.0) if self.warmup else 1.0

    def split(self, logits: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return log b (B, 2) and log o (B, K), the latter set to 0 at the true class, where it adds nothing to a divergence.

        Args:
            logits: (B, K).
            true: Bool (B, K), True at each image's class.
        """
        z = logits.float() / self.tau
        others = z.masked_fill(true, -torch.inf).logsumexp(1)
        binary = torch.stack([z.masked_fill(~true, 0).sum(1), others], 1).log_softmax(1)
        return binary, (z - others[:, None]).masked_fill(true, 0)


TERM = DecoupledDistillation
