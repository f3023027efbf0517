"""Introspective learning, reconstructed from its abstract: soft labels from the similarity of a network's explanations."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.explaining import explain
from dgd.objectives.term import Requires, Term


class SelfExplanation(Term):
    """A term that reconstructs introspective learning; it is not the paper's method, and its results are no test of that.

    Of 2009.09140 (ACCV 2020) only the abstract and the start of the introduction were found: no equations, code or
    hyper-parameters. It says that distillation works through the probabilities of the classes other than the true one, which
    carry the similarity of classes, and that a network can learn such knowledge from explanations that it makes of itself
    during training. Here, for an image x with label y and logits z, over y and the m - 1 other classes with the largest logits,

        e_k = dz_k/dx,    s_k = cos(e_y, e_k),    q = softmax(s / tau), a constant,    L = KL(q || p)

    The network runs in training mode; batch norm's statistics count as constants in e_k, so that e_k depends on the image
    alone. p is the softmax over all K classes and q is 0 outside the m, so q is a soft label like any other. With cross-entropy
    of weight 1 and this term of weight w, the network then learns the single label (onehot + w q) / (1 + w). Label smoothing
    has the same form, so that the two can be compared. (With p renormalised over the m classes, the loss would not constrain
    their total probability; for m = K there is no difference.)

    Args:
        classes: m; all classes where a network has fewer. Each costs a backward pass to the image.
        tau: Temperature; the default is ours and was not tuned. Three orthogonal explanations give q_y = 0.79.
        shuffle: A control: the q of the m - 1 other classes are permuted at random for each image. The label is as soft and has
            the same classes, but q no longer says which of them resembles y. It needs m of 3 or more.
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
        """Return a scalar, 0 or more, in nats.

        Raises:
            ValueError: The logits do not depend on the images by a graph.
        """
        if not batch.inputs["image"].requires_grad:
            raise ValueError("explanation: the images have no gradient; the loop must give them one before the network runs")
        logits = batch.own.logits
        every = torch.arange(logits.shape[1], device=logits.device)
        true = batch.labels[:, None] == every
        # A stable sort, because the order of equal logits must not depend on the run.
        order = logits.detach().float().masked_fill(true, torch.inf).argsort(dim=1, descending=True, stable=True)
        chosen = order[:, : self.classes].T[:, :, None] == every  # (m, B, K), the true class first
        # Explanations are detached, so the target below is a constant.
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
