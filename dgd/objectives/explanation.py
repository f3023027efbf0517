"""Introspective learning, as far as its abstract tells: soft labels from how alike a network's explanations of classes are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.explaining import explain
from dgd.objectives.term import Requires, Term


class SelfExplanation(Term):
    """A reconstruction of introspective learning; not the paper's method, and not to be read as a test of it.

    Of 2009.09140 (ACCV 2020) we found the abstract and the start of the introduction: neither equations, code nor
    hyper-parameters. It says that distillation works by the answers for other classes than the true one and by what they tell
    of how similar classes are, and that a network can learn such knowledge from explanations that it makes of itself as it
    trains. Here, for an image x with label y and logits z, over y and the m - 1 other classes of the largest logits,

        e_k = dz_k/dx,    s_k = cos(e_y, e_k),    q = softmax(s / tau), a constant,    L = KL(q || p)

    The network runs in training mode; batch norm's statistics count as constants in e_k, so that it is the image's own. p is
    the softmax over all K classes and q is 0 outside the m: a soft label as any other. With cross-entropy, of weight 1,
    and this, of weight w, the network then learns the one label (onehot + w q) / (1 + w), which is what label
    smoothing is too, so that the two can be compared. (Of p renormalised over the m classes, the network would be told nothing
    about how much they have in all; for m = K that is the same.)

    Args:
        classes: m; all of them where a network has fewer. Each costs a backward pass to the image.
        tau: Temperature; the default is ours and was not tuned. Three explanations at right angles give q_y = 0.79.
        shuffle: A control: the m - 1 others swap their q at random, by image. The label is as soft and the classes are the
            same, but q does not say any more which of them resembles y. It needs m of 3 or more.
    """

    source = "2009.09140 (ACCV 2020), abstract only; the equation is this project's"
    status = "reconstruction"
    deviations = ("The equation is this project's: of the paper only the abstract was found.",)
    requires = Requires(input_gradient=True, inputs=frozenset({"image"}), task="classification")

    def __init__(self, classes: int = 3, tau: float = 0.5, shuffle: bool = False):
        super().__init__()
        if classes < 2:
            raise ValueError(f"explanation: classes is {classes}; it must be 2 or more")
        if tau <= 0:
            raise ValueError(f"explanation: tau is {tau}; it must be above 0")
        if shuffle and classes < 3:
            raise ValueError(f"explanation: classes is {classes}; with shuffle it must be 3 or more")
        self.classes, self.tau, self.shuffle = classes, tau, shuffle

    def setup(self, example, setting) -> None:
        """Refuse a network with too few classes."""
        least, classes = 2 + self.shuffle, example.own.logits.shape[1]
        if classes < least:
            raise ValueError(f"explanation: the network has {classes} classes; it must have {least} or more")

    def forward(self, batch) -> Tensor:
        """Scalar, 0 or more, in nats.

        Raises:
            ValueError: The logits do not depend on the images by a graph.
        """
        if not batch.inputs["image"].requires_grad:
            raise ValueError("explanation: the images have no gradient; the loop must give them one before the network runs")
        logits = batch.own.logits
        every = torch.arange(logits.shape[1], device=logits.device)
        true = batch.labels[:, None] == every
        # Stable: which of two equal logits comes first must not depend on the run.
        order = logits.detach().float().masked_fill(true, torch.inf).argsort(dim=1, descending=True, stable=True)
        chosen = order[:, : self.classes].T[:, :, None] == every  # (m, B, K), the true class first
        # Explanations come without a graph, and so does all that is made of them.
        true_row, *others = (explain(logits, batch.inputs["image"], one) for one in chosen)
        similarity = torch.stack([F.cosine_similarity(true_row, other) for other in others])
        log_q = (F.pad(similarity, (0, 0, 1, 0), value=1.0) / self.tau).log_softmax(0)  # (m, B); cos(e_y, e_y) is 1
        if self.shuffle:
            swap = torch.rand_like(similarity).argsort(0)
            log_q = torch.cat([log_q[:1], log_q[1:].gather(0, swap)])
        q = log_q.exp()
        target = (q[:, :, None] * chosen).sum(0)
        return (q * log_q).sum(0).mean() - (target * logits.float().log_softmax(1)).sum(1).mean()


TERM = SelfExplanation
