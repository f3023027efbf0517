"""Label smoothing with the entropy of a teacher's predictions: a control for distillation without the teacher's knowledge."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term

GRID = 4097


class TeacherSmoothing(Term):
    """A term like `kd` whose target is a smoothed label with the mean entropy of the teachers' softened probabilities.

    The target is `(1 - e) onehot + e / K`, with e such that its entropy is the mean entropy, over the batch, of the teachers'
    softened mean probabilities; the loss is its cross-entropy with the student's softened probabilities, times tau squared. It
    is a control of this project and in no paper: it keeps the loss's form and scale and the target's entropy.

    Args:
        tau: Temperature of teachers and student, as in `kd`.
    """

    source = "a control of this project"
    status = "faithful"
    requires = Requires(teacher="eval", task="classification")

    def __init__(self, tau: float = 2.0):
        super().__init__()
        if tau <= 0:
            raise ValueError(f"smoothing: tau is {tau}; it must be above 0")
        self.tau = tau

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats times tau squared.

        Raises:
            ValueError: The batch has no teacher logits.
        """
        if not batch.teachers:
            raise ValueError("smoothing: the batch has no teachers; a method with this term needs at least one teacher")
        p = torch.stack([(teacher.logits.float() / self.tau).softmax(1) for teacher in batch.teachers]).mean(0)
        e = strength(torch.special.entr(p).sum(1).mean(), p.shape[1])
        log_q = (batch.own.logits.float() / self.tau).log_softmax(1)
        smooth = (1 - e) * F.nll_loss(log_q, batch.labels) - e * log_q.mean()
        return smooth * self.tau**2


def strength(entropy: Tensor, classes: int) -> Tensor:
    """Return the e in 0..1, to about 1e-4, at which `(1 - e) onehot + e / classes` has the given entropy (0-dim, nats)."""
    e = torch.linspace(0, 1, GRID, device=entropy.device)
    rest = e / classes
    table = torch.special.entr(1 - e + rest) + (classes - 1) * torch.special.entr(rest)
    above = torch.searchsorted(table, entropy.float()).clamp(1, GRID - 1)
    low, high = table.gather(0, torch.stack([above - 1, above]))  # indexing by a 0-dim tensor would wait for the device
    return ((above - 1 + (entropy - low) / (high - low)) / (GRID - 1)).clamp(0, 1)


TERM = TeacherSmoothing
