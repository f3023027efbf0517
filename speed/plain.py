"""Train and exchange as public CIFAR code does: eager float32 NCHW, PIL images transformed one by one in worker processes.

This code serves the comparison only. It computes what ours computes, with the same crop, flip and normalisation, the same
losses, optimiser and exchange: `tests/test_speed.py` holds the two together.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dgd import models
from speed.images import CLASSES, MEAN, SIZE, STD, random_images


class Images(Dataset):
    """Give uint8 images (N, 3, H, W) as PIL images through random crop (padding 4), flip, ToTensor and Normalize."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


@functools.cache
def data_set(count: int) -> Images:
    """Return random images, one copy for all loaders."""
    return Images(*random_images(count))


def kd_loss(student: Tensor, teacher: Tensor, tau: float = 2.0) -> Tensor:
    """Return the Kullback-Leibler divergence of softened predictions (B, K), averaged over the batch, times tau squared."""
    q, p = F.log_softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1)
    return F.kl_div(q, p, reduction="batchmean") * tau**2


def train_epoch(
    networks: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    loaders: Sequence[DataLoader],
    optimisers: Sequence[torch.optim.Optimizer],
    device: torch.device,
) -> Iterator[tuple[float, float]]:
    """Train every network on its own batches, and yield the last network's loss and accuracy after each step of all.

    The published grafting code runs one process for each network. Here the networks take turns: so do ours.
    """
    for net in networks:
        net.train()
    for batches in zip(*loaders):
        for net, optimiser, (images, labels) in zip(networks, optimisers, batches):
            images, labels = images.to(device), labels.to(device)
            logits = net(images)
            loss = F.cross_entropy(logits, labels)
            for teacher in teachers:
                with torch.no_grad():
                    soft = teacher(images)
                loss = loss + kd_loss(logits, soft)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            progress = loss.item(), (logits.argmax(1) == labels).float().mean().item()
        yield progress


def entropy(weight: Tensor, bins: int = 10) -> float:
    """Return the entropy in nats of a layer's weights over equal bins between its extremes, counted filter by filter."""
    low, high = weight.min(), weight.max()
    width = (high - low) / bins
    counts = [0] * bins
    for kernel in weight:
        for i in range(bins):
            inside = kernel >= low + i * width
            if i < bins - 1:
                inside = inside & (kernel < low + (i + 1) * width)
            counts[i] += inside.sum().item()
    shares = [count / weight.numel() for count in counts]
    return -sum(p * math.log(p) for p in shares if p > 0)


def blend(own: Mapping[str, Tensor], neighbour: Mapping[str, Tensor], a: float = 0.4, c: float = 500.0) -> dict[str, Tensor]:
    """Blend a network's state with its neighbour's by the paper's rule, layer by layer and filter by filter."""
    new = {}
    for key, value in own.items():
        if value.ndim == 4:
            share = a / math.pi * math.atan(c * (entropy(value) - entropy(neighbour[key]))) + 0.5
            new[key] = torch.empty_like(value)
            for j in range(len(value)):
                new[key][j] = share * value[j] + (1 - share) * neighbour[key][j]
        elif value.is_floating_point():
            new[key] = share * value + (1 - share) * neighbour[key]
        else:
            new[key] = value.clone()
    return new


def graft(states: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Blend each network with the one before it, each by itself, as the published script does."""
    return [blend(own, states[i - 1]) for i, own in enumerate(states)]


class Training:
    """Train a group of networks in the plain loop."""

    def __init__(self, student: str, teachers: Sequence[str], networks: int, batch_size: int, images: int, recipe: Mapping):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.networks, frozen = (
            [models.create(name, num_classes=CLASSES, image_size=SIZE, adapt_stem=True).to(self.device) for name in names]
            for names in ([student] * networks, teachers)
        )
        for teacher in frozen:
            teacher.eval()
        loaders = [
            DataLoader(data_set(images), batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
            for _ in self.networks
        ]
        optimisers = [
            torch.optim.SGD(net.parameters(), lr=recipe["lr"], momentum=recipe["momentum"], weight_decay=recipe["weight_decay"])
            for net in self.networks
        ]
        # Epochs follow each other and the workers stay: a request goes on where the last one ended. The generator holds no
        # `self`: in a reference cycle only the garbage collector would end the loaders' workers, and that takes seconds.
        everything = self.networks, frozen, loaders, optimisers, self.device
        self.training = itertools.chain.from_iterable(train_epoch(*everything) for _ in itertools.count())

    def train(self, steps: int) -> None:
        """Train every network for so many steps."""
        for _ in range(steps):
            next(self.training)

    @torch.no_grad()
    def exchange(self) -> None:
        """Graft all networks once."""
        for net, state in zip(self.networks, graft([net.state_dict() for net in self.networks])):
            net.load_state_dict(state)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
