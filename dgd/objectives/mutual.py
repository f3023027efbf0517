"""Deep mutual learning: every network of the group learns from the predictions of the others."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dgd.objectives.term import Requires, Term


class MutualLearning(Term):
    """A term that minimises tau squared times the KL divergence from each peer's softened probabilities to the network's own.

    Source: 1706.00384: with K networks, network k adds `1 / (K - 1) sum_{l != k} KL(p_l || p_k)` to its cross-entropy (term
    `ce`). The peers' probabilities are constants.

    Args:
        tau: Temperature; 1 in paper and code.
        reduce: 'mean' over the peers (the paper) or their 'sum' (the released code); the same for two networks.
        batches: 'same': all networks take a step at once, on the same batch and from the same state. 'turns': they take turns
            on the same batch, so that a network sees peers already updated on it (the paper's algorithm). 'own': they take
            turns, each on a batch of its own (the released code).
    """

    source = "1706.00384; github.com/YingZhangDUT/Deep-Mutual-Learning"
    status = "deviates"
    deviations = (
        "All networks learn at once from one state, where the paper's take turns on a batch (`batches: turns`) and the code's "
        "each have a batch of their own (`own`).",
    )
    requires = Requires(peers="together", task="classification")

    def __init__(self, tau: float = 1.0, reduce: str = "mean", batches: str = "same"):
        super().__init__()
        if tau <= 0:
            raise ValueError(f"mutual: tau is {tau}; it must be above 0")
        if reduce not in ("mean", "sum"):
            raise ValueError(f"mutual: reduce is {reduce!r}; it must be 'mean' or 'sum'")
        if batches not in ("same", "turns", "own"):
            raise ValueError(f"mutual: batches is {batches!r}; it must be 'same', 'turns' or 'own'")
        self.tau, self.reduce = tau, reduce
        self.requires = replace(self.requires, peers="together" if batches == "same" else batches)
        if (batches, reduce) in (("turns", "mean"), ("own", "sum")):
            self.status, self.deviations = "faithful", ()
        elif batches != "same":
            self.deviations = (
                "The paper takes turns and the mean over peers, the code own batches and the sum; this mixes them.",
            )

    def setup(self, example, setting) -> None:
        """Check that there are peers; there is nothing to build.

        Raises:
            ValueError: The group has one network.
        """
        if setting.networks < 2:
            raise ValueError("mutual: the group has 1 network; networks that learn from each other are at least 2")

    def forward(self, batch) -> Tensor:
        """Return a scalar, in nats times tau squared.

        Raises:
            ValueError: The batch has no peers.
        """
        if not batch.peers:
            raise ValueError("mutual: the batch has no peers; a method with this term needs at least two networks")
        losses = divergences(batch.own.logits, [batch.peers[k].logits for k in sorted(batch.peers)], self.tau)
        return losses.mean() if self.reduce == "mean" else losses.sum()


def divergences(logits: Tensor, targets: Sequence[Tensor], tau: float) -> Tensor:
    """Return KL(target || own) between softened probabilities for each target, in nats times tau squared, batch mean.

    Args:
        logits: (B, K), the network's own.
        targets: Logits (B, K) of each target, which get no gradient.
        tau: Temperature of both.

    Returns:
        (len(targets),) float32.
    """
    log_p = (torch.stack([target.detach().float() for target in targets]) / tau).log_softmax(2)
    log_q = (logits.float() / tau).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(2).mean(1) * tau**2


TERM = MutualLearning
