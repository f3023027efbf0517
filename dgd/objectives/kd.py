"""Knowledge distillation as in DGD."""

import torch
from torch import Tensor

from dgd.objectives.term import Requires, Term


class KnowledgeDistillation(Term):
    """A term that minimises tau squared times the cross-entropy between the teachers' and the student's softened probabilities.

    Source: 2004.12311 section 3.5: `L_KD = -sum_i tau^2 sum_k p_k log q_k`, where p is the mean of the teachers' probabilities
    and tau = 2. Here it is averaged over the batch, as in the authors' code. It differs from the Kullback-Leibler form (Hinton
    et al. 2015, timm.task.LogitDistillationTask) by the teachers' entropy, which has no gradient.

    Args:
        tau: Temperature.
        teachers: 'mean' of the teachers' probabilities (the text) or 'sum' of one loss for each teacher (the released code).
            The loss is linear in p, so 'sum' is the number of teachers times 'mean'.
    """

    source = "2004.12311 section 3.5; Hinton et al. 2015 (1503.02531)"
    status = "faithful"
    requires = Requires(teacher="eval", task="classification")

    def __init__(self, tau: float = 2.0, teachers: str = "mean"):
        super().__init__()
        if tau <= 0:
            raise ValueError(f"kd: tau is {tau}; it must be above 0")
        if teachers not in ("mean", "sum"):
            raise ValueError(f"kd: teachers is {teachers!r}; it must be 'mean' or 'sum'")
        self.tau, self.teachers = tau, teachers

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats times tau squared.

        Raises:
            ValueError: The batch has no teacher logits.
        """
        if not batch.teachers:
            raise ValueError("kd: the batch has no teachers; a method with this term needs at least one teacher")
        p = torch.stack([(teacher.logits.float() / self.tau).softmax(1) for teacher in batch.teachers])
        p = p.mean(0) if self.teachers == "mean" else p.sum(0)
        log_q = (batch.own.logits.float() / self.tau).log_softmax(1)
        return -(p * log_q).sum(1).mean() * self.tau**2


TERM = KnowledgeDistillation
