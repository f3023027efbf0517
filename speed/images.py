"""Make random images in the shape of CIFAR-100, which every measurement trains on: what an image shows changes no time."""

import torch
from torch import Tensor

BATCH, CLASSES, SIZE = 64, 100, 32
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def random_images(count: int) -> tuple[Tensor, Tensor]:
    """Return images, uint8 (count, 3, 32, 32), and labels, int64 (count,) in 0..99; the same for the same count."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, CLASSES, (count,), generator=generator)
