"""Contrastive representation distillation."""

from math import log, log1p

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.banks import BankTerm, log_sum_exp, over_negatives, sum_softplus

EPSILON = 1e-7  # the code's


class ContrastiveRepresentation(BankTerm):
    """Tell an image's embedding by the other network from K embeddings of images of other classes, by noise contrast.

    Source: 1910.10699 equations 17 to 19 and its code (RepDistiller crd/; weight 0.8, with the cross-entropy at 1 and, for
    CRD+KD, the KL divergence at 1). Embeddings are a linear layer and the L2 norm, of the student s and of the teacher t; both
    are trained. For the student an image's P is exp(s . t / T) / Z, with t the teacher's row in its memory bank, of the image
    itself or of a negative; with c = K / N of N training images the loss is the mean over the batch of
    -log(P / (P + c)) for the image itself, plus the sum over negatives of -log(c / (P + c)). The teacher's loss has the
    networks exchanged, and the two are added. Z is the mean of exp(s . t / T) over the first batch, times N, and stays. The
    banks take the batch's embeddings afterwards.

    Args:
        dim: Of the embeddings.
        negatives: K.
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
        # Of the student's and of the teacher's loss; 0 until the first batch.
        self.register_buffer("z", torch.zeros(2))
        self.z_is_set = False  # for certain: not asked of the device in every step
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, batch) -> Tensor:
        """Scalar, in nats, summed over negatives.

        Raises:
            ValueError: The batch has not one teacher.
        """
        index, images = self.negatives(batch.labels), len(self.banks["own"].rows)
        own, teacher = self.embed(batch)
        # (what learns, the bank that it is compared with)
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
        """Of exp(score), over images, each with its positive and its negatives."""
        total = torch.logaddexp(over_negatives(log_sum_exp, query[:, None], rows, index).squeeze(1), positive)
        return total.exp().mean() / (self.number + 1)


def _forget(term: ContrastiveRepresentation, _) -> None:
    term.z_is_set = False


TERM = ContrastiveRepresentation
