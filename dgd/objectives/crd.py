"""Contrastive representation distillation."""

from math import log, log1p

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.banks import BankTerm, log_sum_exp, over_negatives, sum_softplus

EPSILON = 1e-7  # the value of the released code


class ContrastiveRepresentation(BankTerm):
    """A noise-contrastive term: it tells the other network's embedding of an image from K embeddings of other classes' images.

    Source: 1910.10699 equations 17 to 19 and its code (RepDistiller crd/; weight 0.8, with the cross-entropy at 1 and, for
    CRD+KD, the KL divergence at 1). Embeddings are linear layers followed by L2 normalisation, s for the student and t for the
    teacher; both are trained. For the student, P of an image is exp(s . t / T) / Z, where t is a row of the teacher's memory
    bank: that of the image itself or of a negative. With c = K / N and N training images, the loss is the mean over the batch
    of -log(P / (P + c)) for the image itself, plus the sum over negatives of -log(c / (P + c)). The teacher's loss has the
    networks exchanged, and the two losses are added. Z is N times the mean of exp(s . t / T) over the first batch, and stays
    constant. The banks are updated with the batch's embeddings afterwards.

    Args:
        dim: Dimension of the embeddings.
        negatives: K, negatives for each image.
        temperature: T.
        momentum: Share of a bank's row that an update keeps.
    """

    name = "crd"
    source = "1910.10699 equations 17 to 19; github.com/HobbitLong/RepDistiller"
    deviations = (
        "Negatives are drawn with replacement; the code does so only where there are fewer than K images of other classes.",
    )

    def __init__(self, dim: int = 128, negatives: int = 16384, temperature: float = 0.07, momentum: float = 0.5):
        super().__init__(dim, negatives, temperature, momentum)
        # Z of the student's and of the teacher's loss; 0 until the first batch.
        self.register_buffer("z", torch.zeros(2))
        self.z_is_set = False  # kept on the host, so that no step has to read the device; False may also mean unknown
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats, summed over negatives.

        Raises:
            ValueError: The batch has not one teacher.
        """
        index, images = self.negatives(batch.labels, batch.generator), len(self.banks["own"].rows)
        own, teacher = self.embed(batch)
        # (query that gets the gradient, rows of the bank that it is compared with)
        sides = [(own / self.temperature, self.banks["teacher"].rows), (teacher / self.temperature, self.banks["own"].rows)]
        positives = [(query * rows[batch.index]).sum(1) for query, rows in sides]
        if not self.z_is_set:
            with torch.no_grad():
                found = [self._mean(*side, index, x) * images for side, x in zip(sides, positives, strict=True)]
                self.z.copy_(torch.where(self.z > 0, self.z, torch.stack(found)))
            self.z_is_set = True
        c = self.number / images
        loss = self.number * 2 * log1p(EPSILON / c)
        for (query, rows), positive, log_z in zip(sides, positives, self.z.log(), strict=True):
            shift = log_z + log(c + EPSILON)
            negative = over_negatives(sum_softplus, query[:, None], rows, index, shift).squeeze(1)
            loss = loss + (F.softplus(shift - positive) + negative).mean()
        self.banks["own"].update(batch.index, own)
        self.banks["teacher"].update(batch.index, teacher)
        return loss

    def _mean(self, query: Tensor, rows: Tensor, index: Tensor, positive: Tensor) -> Tensor:
        """Return the mean of exp(score) over images, each with its positive and its negatives."""
        total = torch.logaddexp(over_negatives(log_sum_exp, query[:, None], rows, index).squeeze(1), positive)
        return total.exp().mean() / (self.number + 1)


def _forget(term: ContrastiveRepresentation, _) -> None:
    term.z_is_set = False


TERM = ContrastiveRepresentation
