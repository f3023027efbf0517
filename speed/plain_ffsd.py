"""Take a step of FFSD as public code does: eager float32 NCHW, six optimisers, one loss after the other by autograd.

Written after arXiv 2103.14473 and what its code does, to measure what FFSD costs beside one plain network on the same machine.
`tests/test_speed.py` holds its step to ours.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgd import models
from speed.images import CLASSES, SIZE
from speed.plain import kd_loss

STAGES = ("layer1", "layer2", "layer3")
LAM_DIV, LAM_SD, LAM_F = 1e-5, 1000.0, 10.0


class Network(nn.Module):
    """Run a CIFAR ResNet and keep its stages' maps."""

    def __init__(self, name: str):
        super().__init__()
        self.net, self.maps = models.create(name, num_classes=CLASSES, image_size=SIZE, adapt_stem=True), {}
        for stage in STAGES:
            getattr(self.net, stage).register_forward_hook(lambda _, __, made, stage=stage: self.maps.update({stage: made}))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, K), and each stage's maps (B, C, H, W)."""
        return self.net(x), [self.maps[stage] for stage in STAGES]


class Chain(nn.Module):
    """Make the maps of the shallower stages from the deepest one."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(i, o, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True))
            for i, o in ((64, 32), (32, 16))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps from shallow to deep."""
        maps = []
        for step in self.steps:
            x = step(x)
            maps.insert(0, x)
        return maps


def mixer(i: int, o: int) -> nn.Sequential:
    """Return a depthwise 3x3 and a 1x1 convolution, i to o channels, each with batch norm and ReLU."""
    return nn.Sequential(
        *(nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU(True)),
        *(nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)),
    )


def attention(x: Tensor) -> Tensor:
    """Return the mean of the squares over the channels, (B, H, W)."""
    return x.pow(2).mean(1)


def distance(u: Tensor, v: Tensor) -> Tensor:
    """Return the mean squared difference of two maps, each scaled to unit length."""
    return (F.normalize(u.flatten(1)) - F.normalize(v.flatten(1))).pow(2).mean()


def flipped(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target of the next student's attention at unit length, and how far the map moves for it."""
    n = a.flatten(1).norm(dim=1)[:, None, None]
    y = a / n
    edge = y.flatten(1).topk(y[0].numel() // 3, largest=False).values[:, -1][:, None, None]
    target = torch.where(y < edge, y, torch.where(y > edge, n - y, n / 2))
    return target, (target - y) * n


def within(chain: Chain, maps: Sequence[Tensor], deepest: Tensor) -> Tensor:
    """Return how far a network's maps are from what its chain makes of another deepest map."""
    chain.eval()
    with torch.no_grad():
        made = chain(deepest)
    chain.train()
    return sum(distance(attention(x), attention(y)) for x, y in zip(maps, made))


class Training:
    """Train a leader and two students, and beside them one network alone, on one batch for all steps."""

    def __init__(self, student: str, batch_size: int, recipe: Mapping, device: str | None = None):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.leader, self.alone, *self.students = (Network(student).to(device) for _ in range(4))
        self.trans, self.mix = mixer(64, 128).to(device), mixer(128, 64).to(device)
        self.fc = nn.Linear(64, CLASSES).to(device)
        self.chains = [Chain().to(device), Chain().to(device)]  # the leader's, the second student's

        def sgd(*modules: nn.Module, weight_decay: float = recipe["weight_decay"]) -> torch.optim.SGD:
            parameters = [p for module in modules for p in module.parameters()]
            rest = {key: recipe[key] for key in ("lr", "momentum", "nesterov")}
            return torch.optim.SGD(parameters, weight_decay=weight_decay, **rest)

        self.optimisers = {
            **{net: sgd(net) for net in (*self.students, self.alone)},
            self.leader: sgd(self.leader, self.trans),
            self.mix: sgd(self.mix, self.fc, weight_decay=1e-5),
            **{chain: torch.optim.Adam(chain.parameters(), lr=1e-3, weight_decay=1e-4) for chain in self.chains},
        }
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch_size, 3, SIZE, SIZE, generator=generator).to(device)
        self.labels = torch.randint(CLASSES, (batch_size,), generator=generator).to(device)

    def update(self, owner: nn.Module, loss: Tensor) -> None:
        """Take a step of one optimiser."""
        self.optimisers[owner].zero_grad()
        loss.backward()
        self.optimisers[owner].step()
        loss.item()

    def baseline(self, steps: int) -> None:
        """Train one network for so many steps with cross-entropy."""
        for _ in range(steps):
            self.update(self.alone, F.cross_entropy(self.alone(self.images)[0], self.labels))

    def train(self, steps: int) -> None:
        """Train all networks and modules for so many steps."""
        for _ in range(steps):
            self.step(self.images, self.labels, 1.0)

    def step(self, images: Tensor, labels: Tensor, ramp: float) -> None:
        """Train every network and module for one step, with lambdas times `ramp`."""
        logits, maps = self.leader(images)
        wide = self.trans(maps[-1])
        answers, theirs = zip(*(student(images) for student in self.students))
        together = torch.cat([stages[-1].detach() for stages in theirs], 1)
        fused = self.mix(together)
        fusion = self.fc(F.avg_pool2d(fused, fused.shape[-1]).flatten(1))
        fused = fused.detach()
        own, second = self.chains

        target, move = flipped(attention(theirs[0][-1].detach()))
        moved = theirs[0][-1].detach() + move[:, None] / theirs[0][-1].shape[1]
        diversity = (F.normalize(attention(theirs[1][-1]).flatten(1)) - target.flatten(1)).pow(2).mean()
        apart = ramp * LAM_DIV * (diversity + within(second, theirs[1], moved))
        for i, student in enumerate(self.students):
            loss = F.cross_entropy(answers[i], labels) + kd_loss(answers[i], answers[1 - i].detach())
            self.update(student, loss + apart if i else loss)

        mean = (sum(answers) / 2).detach()
        self.update(self.mix, F.cross_entropy(fusion, labels) + kd_loss(fusion, mean))

        loss = F.cross_entropy(logits, labels) + kd_loss(logits, fusion.detach())
        features = distance(attention(maps[-1]), attention(fused)) + distance(attention(wide), attention(together))
        self.update(self.leader, loss + ramp * LAM_F * (features + within(own, maps, fused)))

        for chain, stages in ((own, maps), (second, theirs[1])):
            stages = [stage.detach() for stage in stages]
            made = list(zip(chain(stages[-1]), stages))
            loss = sum(distance(x, y) + distance(attention(x), attention(y)) for x, y in made)
            self.update(chain, ramp * LAM_SD * loss)
