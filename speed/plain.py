"""The plain code that ours is measured against: eager float32 NCHW, PIL images transformed one by one in worker processes.

It is written as public CIFAR training code writes it, for this comparison only, and computes what ours computes: the same crop,
flip and normalisation, the same losses, optimiser and exchange. `tests/test_speed.py` holds the two together.

`python -m speed.plain` reads requests and answers each with seconds and CPU-seconds, one JSON a line: `speed.measure`
runs it as a process of its own, because ours changes settings of its process (the allocator's, deterministic algorithms).
"""

import functools
import itertools
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dgd import models

CLASSES, SIZE = 100, 32
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def random_images(count: int) -> tuple[Tensor, Tensor]:
    """Images and labels in the shape of CIFAR-100's: what they show changes no time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, CLASSES, (count,), generator=generator)


class Images(Dataset):
    """uint8 images (N, 3, H, W) as PIL images through random crop (padding 4), flip, ToTensor and Normalize."""

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
    """Random images: one copy for all loaders."""
    return Images(*random_images(count))


def kd_loss(student: Tensor, teacher: Tensor, tau: float = 2.0) -> Tensor:
    """Kullback-Leibler distillation, mean over the batch, times tau squared."""
    q, p = F.log_softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1)
    return F.kl_div(q, p, reduction="batchmean") * tau**2


def train_epoch(
    networks: Sequence[nn.Module],
    teachers: Sequence[nn.Module],
    loaders: Sequence[DataLoader],
    optimisers: Sequence[torch.optim.Optimizer],
    device: torch.device,
) -> Iterator[tuple[float, float]]:
    """Train every network on its own batches; yields the last network's loss and accuracy after each step of all.

    The published grafting code runs one process a network; here they take turns, so that the work is the same.
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
            shown = loss.item(), (logits.argmax(1) == labels).float().mean().item()
        yield shown


def entropy(weight: Tensor, bins: int = 10) -> float:
    """Entropy in nats of a layer's weights over equal bins from the smallest to the largest, filter by filter, bin by bin."""
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
    """A network's state blended with its neighbour's by the paper's rule: layer by layer, filter by filter."""
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
    """Each network blended with the one before it, each by itself, as in the published script."""
    return [blend(own, states[i - 1]) for i, own in enumerate(states)]


class Training:
    """A group of networks in the plain loop."""

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
        # One epoch after the other, and the workers stay: a request goes on where the last one ended. No `self` in it: the
        # workers of a loader that only the garbage collector finds take seconds to end.
        everything = self.networks, frozen, loaders, optimisers, self.device
        self.training = itertools.chain.from_iterable(train_epoch(*everything) for _ in itertools.count())

    def train(self, steps: int) -> None:
        """So many steps of every network."""
        for _ in range(steps):
            next(self.training)

    @torch.no_grad()
    def exchange(self) -> None:
        """One grafting of all networks."""
        for net, state in zip(self.networks, graft([net.state_dict() for net in self.networks])):
            net.load_state_dict(state)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def cpu_seconds() -> float:
    """User and system time of this process and of its workers."""
    ticks = 0
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Answer requests: {"threads": 1, "start": {...}} makes a `Training`; {"call": "train", ...} calls its method.

    With {"method": "ffsd"} beside `start` it is that of `speed.plain_ffsd`.
    """
    from speed import plain_ffsd

    torch.backends.cudnn.benchmark = True  # as public training code sets it
    training = None
    for line in sys.stdin:
        request = json.loads(line)
        cpu, start = cpu_seconds(), time.perf_counter()
        if "start" in request:
            torch.set_num_threads(request["threads"])
            training = None  # first: two groups and their workers at once would be in each other's way
            training = (plain_ffsd.Training if request.get("method") == "ffsd" else Training)(**request["start"])
        else:
            getattr(training, request.pop("call"))(**request)
        print(json.dumps([time.perf_counter() - start, cpu_seconds() - cpu]), flush=True)


if __name__ == "__main__":
    main()
