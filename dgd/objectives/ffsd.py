"""FFSD: a leader learns from the fused features of a group of students, and networks distil their own deepest features."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.fusion import Chain, Fusion, flip, map_distance, mixer
from dgd.objectives.maps import attention, distance, unit
from dgd.objectives.mutual import divergences
from dgd.objectives.term import Requires, Term


class FeatureFusionSelfDistillation(Term):
    """A term with all of FFSD's losses but the networks' cross-entropy with the labels (term `ce`), by the network's role.

    Network 0 is the leader, the one that is reported; networks 1.. are the students S_0... Below, F is a deepest map, a its
    `attention`, A the `distance` of two maps, KL is taken at tau and times tau squared, and all weights lam follow the ramp.

    * Student S_i: mean over the other students j of KL(p_j || p_i). From S_1 on also lam_div times the mean square between
      a(F_i) at unit length and the target that `flip` makes of a(F_{i-1}), and w SD(F_{i-1} moved to that target).
    * Leader: KL(p_f || p_leader) + lam_f (A(a(F), a(fused map)) + A(a(Trans(F)), a(the students' F, concatenated)) + SD(fused
      map)), with p_f and the fused map from the fusion module, which reads the students' F.
    * SD(x), the self-distillation: the sum over the shallower stages of A between a of the network's map and a of the map that
      the network's `Chain` computes from x.
    * Modules, with losses that give no network a gradient: the chain learns to compute the network's own maps from its F, with
      lam_sd times the sum over the stages of A between maps plus A between their a; the fusion module has cross-entropy +
      KL(mean of the students' logits || its own). `Trans` is trained as a part of the leader.

    Source: 2103.14473 and its code; where they differ, the code is followed.

    Args:
        tau: Temperature.
        lam_div: Weight of the students' diversity.
        lam_sd: Weight of the chains' own loss.
        lam_f: Weight of the leader's losses on features.
        ramp: Epochs over which the weights rise: in epoch e from 1, times exp(-5 (1 - e / ramp)^2).
        self_distillation: w of the students: 'code' is lam_div, which is so small that it has hardly any effect; 'meant' is
            lam_sd, which the code's name for that weight suggests. The leader's is lam_f in both.
        chain_decay: Weight decay of the chains, which Adam trains: 1e-4 is that of the code's own recipe, whatever this one's.
    """

    source = "2103.14473; github.com/SJLeo/FFSD"
    status = "deviates"
    deviations = (
        "The recipe says schedule, epochs, augmentation and whether momentum is Nesterov's; the code has Nesterov's and trains "
        "299 of its 300 epochs.",
        "The chain's weight decay under Adam is `chain_decay`, 1e-4 as in the code's recipe; the code takes the recipe's.",
        "The fusion module's classifier has the data's classes; the CIFAR code's has 100 on all data.",
        "The chain takes channels and sizes of the network's own stages; the code halves channels, or lists them by network.",
        "A stem with a resolution of its own counts as a stage; the code takes the stages after the stem.",
    )
    requires = Requires(peers="together", features=True, task="classification")

    def __init__(
        self,
        tau: float = 2.0,
        lam_div: float = 1e-5,
        lam_sd: float = 1000.0,
        lam_f: float = 10.0,
        ramp: float = 5,
        self_distillation: str = "code",
        chain_decay: float = 1e-4,
    ):
        super().__init__()
        if tau <= 0:
            raise ValueError(f"ffsd: tau is {tau}; it must be above 0")
        for name, value in {
            "lam_div": lam_div,
            "lam_sd": lam_sd,
            "lam_f": lam_f,
            "ramp": ramp,
            "chain_decay": chain_decay,
        }.items():
            if value < 0:
                raise ValueError(f"ffsd: {name} is {value}; it must be 0 or more")
        if self_distillation not in ("code", "meant"):
            raise ValueError(f"ffsd: self_distillation is {self_distillation!r}; it must be 'code' or 'meant'")
        self.tau, self.lam_div, self.lam_sd, self.lam_f, self.rise = tau, lam_div, lam_sd, lam_f, ramp
        self.self_distillation, self.chain_decay = self_distillation, chain_decay
        self.network = self.chain = self.fusion = self.trans = None

    def setup(self, example, setting) -> None:
        """Build the modules of the network's role: chain, fusion and trans for the leader, a chain from S_1 on.

        Raises:
            ValueError: There are fewer than three networks, or they differ in architecture, have one resolution only, have
                sizes that no stride leads to, or have a deepest map of fewer than three positions.
        """
        shapes = [tuple(x.shape[1:]) for x in example.own.stages]
        if setting.networks < 3:
            raise ValueError(f"ffsd: networks is {setting.networks}; a leader and two students or more are at least 3")
        if len(shapes) < 2:
            raise ValueError("ffsd: the network has maps of one resolution only; self-distillation needs two or more")
        if any([tuple(x.shape[1:]) for x in peer.stages] != shapes for peer in example.peers.values()):
            raise ValueError("ffsd: the networks' maps differ in shape; all networks must have one architecture")
        (channels, *size), device = shapes[-1], example.own.logits.device
        if math.prod(size) < 3:
            raise ValueError(f"ffsd: the deepest map is {size[0]}x{size[1]}; attention over it needs 3 positions or more")
        self.network, students = setting.network, setting.networks - 1
        if self.network != 1:
            self.chain = Chain(shapes).to(device)
        if self.network == 0:
            self.fusion = Fusion(channels, students, example.own.logits.shape[1]).to(device)
            self.trans = mixer(channels, students * channels).to(device)

    def groups(self) -> list[dict]:
        """Return the chain's group (Adam) and the fusion module's (its own weight decay); `trans` is trained as the leader."""
        groups = []
        if self.chain is not None:
            groups.append(
                {"params": list(self.chain.parameters()), "optimiser": "adam", "lr": 1e-3, "weight_decay": self.chain_decay}
            )
        if self.fusion is not None:
            groups.append({"params": list(self.fusion.parameters()), "weight_decay": 1e-5})
        return groups

    def forward(self, batch) -> Tensor:
        """Return a scalar: the sum of the network's loss and of its modules' losses."""
        own = batch.own
        students = [peer for number, peer in sorted(batch.peers.items()) if number != 0]
        if self.network == 1:
            return self._divergence(own.logits, [peer.logits for peer in students])
        maps = [attention(x) for x in own.stages]
        if self.network == 0:
            loss = self._leader(batch, students, maps)
        else:
            loss = self._student(batch, students, maps)
        # After the pass that computes the targets, because this one updates the running statistics.
        return loss + (self.factor * self.lam_sd).float() * self._chain_loss(own.stages, maps)

    def ramp(self, epoch: int) -> float:
        """Return the factor of the weights in an epoch, from 0."""
        return math.exp(-5 * (1 - (epoch + 1) / self.rise) ** 2) if epoch + 1 < self.rise else 1.0

    def _divergence(self, logits: Tensor, targets: list[Tensor]) -> Tensor:
        return divergences(logits, targets, self.tau).mean()

    def _student(self, batch, students, maps) -> Tensor:
        before = batch.peers[self.network - 1].stages[-1].float()
        target, move = flip(attention(before))
        diversity = (unit(maps[-1]) - target).square().mean()
        weight = self.lam_div if self.self_distillation == "code" else self.lam_sd
        within = self._within(maps, before + move[:, None] / before.shape[1])
        divergence = self._divergence(batch.own.logits, [peer.logits for peer in students])
        return divergence + self.factor.float() * (self.lam_div * diversity + weight * within)

    def _leader(self, batch, students, maps) -> Tensor:
        together = torch.cat([peer.stages[-1] for peer in students], 1)
        with self.autocast():
            fused, logits = self.fusion(together)
            wide = self.trans(batch.own.stages[-1])
        fused, logits = fused.detach(), logits.float()
        mean = torch.stack([peer.logits.float() for peer in students]).mean(0)
        fusion = F.cross_entropy(logits, batch.labels) + self._divergence(logits, [mean])
        features = distance(maps[-1], attention(fused)) + distance(attention(wide), attention(together))
        within = self._within(maps, fused)
        return fusion + self._divergence(batch.own.logits, [logits]) + (self.factor * self.lam_f).float() * (features + within)

    def _within(self, maps: list[Tensor], deepest: Tensor) -> Tensor:
        """Return SD(deepest) of the network whose stages have the attention `maps`; only the network gets a gradient."""
        with torch.no_grad(), self.autocast():
            targets = [attention(x) for x in self.chain(deepest, frozen=True)]
        return sum(distance(a, target) for a, target in zip(maps, targets))

    def _chain_loss(self, stages, maps: list[Tensor]) -> Tensor:
        """Return the chain's distance from the network's stages, whose attention is `maps`; only the chain gets a gradient."""
        with self.autocast():
            made = self.chain(stages[-1].detach())
        return sum(map_distance(x, y.detach(), target.detach()) for x, y, target in zip(made, stages, maps))


TERM = FeatureFusionSelfDistillation
