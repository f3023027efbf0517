"""Compositional contrastive learning: a network learns from teachers of another modality."""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgd.objectives.term import Requires, Term

EPSILON = 1e-10  # the value of the released code, inside its logarithms


class Composition(nn.Module):
    """A module that adds to a teacher's feature what it lacks for the network's example, and classifies the sum.

    Args:
        width: D, of both features.
        classes: K.
        residual: Add the residual; otherwise the teacher's feature is classified as it is.
    """

    def __init__(self, width: int, classes: int, residual: bool = True):
        super().__init__()
        self.mlp = nn.Linear(2 * width, width) if residual else None
        self.fc = nn.Linear(width, classes)

    def forward(self, teacher: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the composed feature (B, D) and its logits (B, K) from the teacher's and the network's feature (B, D)."""
        composed = teacher
        if self.mlp is not None:
            composed = teacher + self.mlp(torch.cat([F.normalize(teacher), F.normalize(own)], 1))
        return composed, self.fc(composed)


class CompositionalContrastive(Term):
    """A term that brings a network's feature near those of its class that a teacher of another modality has, and to a mixture.

    Source: arXiv 2104.10955 (CVPR 2021) and its code (yanbeic/CCL at b590483; weight 1 beside a cross-entropy of 1). With v the
    network's pooled feature, m the teacher's, z_v the network's logits, and f, z_f of the composition module, where r is a
    linear layer on both L2-normalised features and z_f a linear layer on f:

        f = m + r(m, v)
        network: C(v, f) + C(v, m) + J(z_v, z_f)
        composition module: CE(z_f) + C(v, f) + C(f, m) + J(z_v, z_f)

    C is the label-aware contrast of `contrast` in both directions, J the half Jeffreys divergence of `half_jeffreys`, which the
    code calls JSD. The gradient is routed as in the code: the network gets that of its own loss, through f as well, and the
    composition module that of the sum of both. The term is the sum of both, its value too.

    An example whose teacher feature is zero has no partner: it is left out of every part, as in the code. A batch of one class
    has no negatives, which then count 0; a batch without any partner has the value 0. The code gives NaN for either.

    The composition modules are trained by the recipe's optimiser at its first learning rate, which does not fall, as in the
    code.

    Args:
        tau: Temperature of C: 0.5 is the code's for a teacher of sounds, 0.1 its for a teacher of images.
        together: Factor of the network's loss from each teacher where there are several; the code's launch script has 0.5.
        compose: Add the residual r; without it f = m, a control.
        shuffle: Exchange the teacher's features within the batch at random, so that a partner's class says nothing; a control.
        unpaired: Share of the training examples that are treated as without a partner, the same ones in every epoch.
    """

    source = "2104.10955; github.com/yanbeic/CCL"
    status = "deviates"
    deviations = (
        "A network's partner is any example of its class, drawn anew in each epoch, and its feature is computed from the "
        "augmented example; the code reads a stored embedding of the clip's own sound.",
        "A batch of one class has no loss from negatives, and a batch without partners none at all; the code gives NaN.",
        "A feature of another width than the teacher's is brought to it by a linear layer, trained with the network; the "
        "code's widths are equal.",
    )
    requires = Requires(teacher="eval", features=True, pooled=True, task="classification")

    def __init__(
        self,
        tau: float = 0.5,
        together: float = 0.5,
        compose: bool = True,
        shuffle: bool = False,
        unpaired: float = 0.0,
    ):
        super().__init__()
        if tau <= 0:
            raise ValueError(f"ccl: tau is {tau}; it must be above 0")
        if not 0 <= unpaired < 1:
            raise ValueError(f"ccl: unpaired is {unpaired}; it must be from 0 to below 1")
        self.tau, self.together, self.compose, self.shuffle, self.unpaired = tau, together, compose, shuffle, unpaired

    def setup(self, example, setting) -> None:
        """Build a composition module for each teacher, and choose the examples without a partner."""
        own, device = example.own.pooled.shape[1], example.own.logits.device
        widths, classes = [teacher.pooled.shape[1] for teacher in example.teachers], example.own.logits.shape[1]
        self.projections = nn.ModuleList(nn.Linear(own, width) if width != own else nn.Identity() for width in widths)
        self.compositions = nn.ModuleList(Composition(width, classes, self.compose) for width in widths)
        self.to(device)
        paired = torch.ones(len(setting.labels), dtype=torch.bool)
        paired[torch.randperm(len(paired))[: round(self.unpaired * len(paired))]] = False
        self.register_buffer("paired", paired.to(device))

    def groups(self) -> list[dict]:
        """See `Term.groups`."""
        return [{"params": list(self.compositions.parameters()), "scheduled": False}]

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats: the network's loss and the composition modules', without the network's cross-entropy."""
        factor = self.together if len(batch.teachers) > 1 else 1.0
        logits, total = batch.own.logits.float(), 0.0
        for teacher, project, composition in zip(batch.teachers, self.projections, self.compositions, strict=True):
            own, theirs = project(batch.own.pooled.float()), teacher.pooled.float()
            if self.shuffle:
                theirs = theirs[torch.randperm(len(theirs), device=theirs.device)]
            kept = self.paired[batch.index] & (theirs.sum(1) != 0)
            network, module = losses(own, logits, theirs, batch.labels, composition, self.tau, kept)
            total = total + factor * network + module
        return total


def losses(
    own: Tensor, logits: Tensor, teacher: Tensor, labels: Tensor, composition: Composition, tau: float, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the losses of a network, without its cross-entropy, and of a composition module, each a scalar in nats.

    The gradient of the first goes to both, that of the second to the composition module only.

    Args:
        own: The network's features (B, D).
        logits: The network's logits (B, K).
        teacher: The teacher's features (B, D).
        labels: Classes (B,).
        composition: The composition module.
        tau: Temperature of the contrast.
        kept: bool (B,), examples that count.
    """

    def shared(own: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        composed, their_logits = composition(teacher, own)
        alike = both_ways(own, composed, labels, tau, kept) + half_jeffreys(logits, their_logits, kept)
        return composed, their_logits, alike

    _, _, network = shared(own, logits)
    network = network + both_ways(own, teacher, labels, tau, kept)
    composed, their_logits, module = shared(own.detach(), logits.detach())
    module = module + both_ways(composed, teacher, labels, tau, kept)
    module = module + mean_of(F.cross_entropy(their_logits, labels, reduction="none"), kept)
    return network, module


def both_ways(one: Tensor, other: Tensor, labels: Tensor, tau: float, kept: Tensor) -> Tensor:
    """Return the sum of `contrast` in both directions."""
    return contrast(one, other, labels, tau, kept) + contrast(other, one, labels, tau, kept)


def contrast(rows: Tensor, columns: Tensor, labels: Tensor, tau: float, kept: Tensor) -> Tensor:
    """Return the label-aware contrast of rows with columns, a scalar in nats.

    p is a row's softmax over the columns of cosine / tau. The loss of a row is the mean over the columns of its class, its own
    included, of -log p, plus the mean over all other columns of -log(1 - p), which is 0 where there is none.

    Args:
        rows: (B, D).
        columns: (B, D).
        labels: Classes of both, (B,).
        tau: Temperature.
        kept: bool (B,), rows and columns that count.
    """
    scores = F.normalize(rows) @ F.normalize(columns).T / tau
    p = scores.masked_fill(~kept, torch.finfo(scores.dtype).min).softmax(1)
    same = labels[:, None] == labels
    positive = mean_of(-(p + EPSILON).log(), same & kept)
    negative = mean_of(-(1 - p + EPSILON).log(), ~same & kept)
    return mean_of(positive + negative, kept)


def half_jeffreys(one: Tensor, other: Tensor, kept: Tensor) -> Tensor:
    """Return half the Jeffreys divergence of two logits (B, K): (KL(p, q) + KL(q, p)) / 2, the mean over the rows that count.

    As in the code, a constant stands inside the logarithms; ratios are taken of logarithms, so that none overflows.
    """
    p, q = one.log_softmax(1), other.log_softmax(1)
    small = torch.full((), log(EPSILON), dtype=p.dtype, device=p.device)
    both = p.exp() * torch.logaddexp(p - q, small) + q.exp() * torch.logaddexp(q - p, small)
    return mean_of(0.5 * both.sum(1), kept)


def mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values over the last axis, 0 where none is chosen."""
    return torch.where(chosen, values, 0).sum(-1) / chosen.sum(-1).clamp(min=1)


TERM = CompositionalContrastive
