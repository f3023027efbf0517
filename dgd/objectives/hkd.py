"""Holistic knowledge distillation with graph neural networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgd.objectives.banks import BankTerm, log_sum_exp, over_negatives


class HolisticKnowledge(BankTerm):
    """A contrastive term on embeddings of single images and on embeddings of images with their neighbours in the batch.

    Source: 2108.05507 and its code (wyc-ruiker/HKD; weight 3, with the cross-entropy at 1 and, for HKD+KD, the KL divergence
    at temperature 4 at 1). e is a linear layer of the pooled feature, L2-normalised. Within a batch, each image's neighbours
    are itself and the images whose softmax outputs have the largest cosine similarity with its own; g is a TAGConv with one hop
    over that graph, W [e ; mean of the neighbours' e] + b, L2-normalised. Student and teacher have their own W, graph and
    memory bank M, and all modules are trained. The student's loss, with its K negatives drawn from its own bank, is

        InfoNCE(e_s, M_t[i]) + InfoNCE(g_s, norm(smooth M_t[i] + (1 - smooth) g_t))

    where InfoNCE is the mean over the batch of -log softmax(score / T) of the second argument, which has no gradient, against
    itself and the negatives. The teacher's loss has the networks exchanged, and the two losses are added. The banks are updated
    with e afterwards.

    Args:
        dim: Dimension of the embeddings.
        negatives: K, negatives for each image.
        temperature: T.
        momentum: Share of a bank's row that an update keeps.
        neighbours: Neighbours of an image, including itself.
        smooth: Share of the bank's row in the positive of g.
    """

    name = "hkd"
    source = "2108.05507; github.com/wyc-ruiker/HKD"
    deviations = (
        "Negatives are drawn with replacement; the code does so only where there are fewer than K images of other classes.",
        "A batch with fewer images than neighbours is one full graph; the code leaves out the loss of g and the banks' update.",
    )

    def __init__(
        self,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.9,
        neighbours: int = 8,
        smooth: float = 0.75,
    ):
        super().__init__(dim, negatives, temperature, momentum)
        if neighbours < 1:
            raise ValueError(f"hkd: neighbours is {neighbours}; it must be at least 1")
        if not 0 <= smooth <= 1:
            raise ValueError(f"hkd: smooth is {smooth}; it must be from 0 to 1")
        self.neighbours, self.smooth = neighbours, smooth

    def setup(self, example, setting) -> None:
        """Build embeddings, graph layers and banks for the network and its teacher."""
        super().setup(example, setting)
        self.graphs = nn.ModuleDict()
        for which in ("own", "teacher"):
            self.graphs[which] = nn.Linear(2 * self.dim, self.dim).to(example.own.logits.device)
            nn.init.xavier_normal_(self.graphs[which].weight, gain=nn.init.calculate_gain("relu"))  # as DGL's layer does

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats: the sum of four InfoNCE losses.

        Raises:
            ValueError: The batch has not one teacher.
        """
        index = self.negatives(batch.labels, batch.generator)
        own, teacher = self.embed(batch)
        alone = {"own": own, "teacher": teacher}
        logits = {"own": batch.own.logits, "teacher": batch.teachers[0].logits}
        joint = {
            which: F.normalize(self.graphs[which](torch.cat([e, neighbourhood(logits[which], self.neighbours) @ e], 1)))
            for which, e in alone.items()
        }
        losses = []
        for which, other in (("own", "teacher"), ("teacher", "own")):
            theirs = self.banks[other]
            targets = torch.stack([theirs.rows[batch.index], theirs.mixed(batch.index, joint[other], self.smooth)], 1)
            queries = torch.stack([alone[which], joint[which]], 1) / self.temperature
            positive = (queries * targets).sum(2)
            negative = over_negatives(log_sum_exp, queries, self.banks[which].rows, index)
            losses.append((torch.logaddexp(positive, negative) - positive).mean(0).sum())
        for which, e in alone.items():
            self.banks[which].update(batch.index, e)
        return sum(losses)


@torch.no_grad()
def neighbourhood(logits: Tensor, neighbours: int) -> Tensor:
    """Return the normalised adjacency of a batch as DGL's TAGConv computes it: D^-1/2 A D^-1/2, with D the in-degrees.

    Args:
        logits: (B, classes).
        neighbours: k; each image has incoming edges from itself and from the k - 1 images with the largest cosine similarity of
            softmax(logits).

    Returns:
        (B, B) float32: entry (i, j) is 1 / k if there is an edge from image j to image i, else 0. Every in-degree is k.
    """
    direction = F.normalize(logits.float().softmax(1))
    k = min(neighbours, len(logits))
    closeness = (direction @ direction.T).fill_diagonal_(2)
    return torch.zeros_like(closeness).scatter_(1, closeness.topk(k).indices, 1 / k)


TERM = HolisticKnowledge
