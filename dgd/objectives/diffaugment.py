"""Augment real and generated images alike, so that the generator's gradient passes through (DiffAugment, 2006.10738).

Random numbers are arguments of the single operations. Images are as the loader normalises them: 0 is their mean.
"""

import torch
from torch import Tensor


def brightness(images: Tensor, u: Tensor) -> Tensor:
    """Add u - 0.5 to images (B, C, H, W), u (B, 1, 1, 1) in [0, 1)."""
    return images + (u - 0.5)


def saturation(images: Tensor, u: Tensor) -> Tensor:
    """Multiply the distance to the mean over channels by 2 u."""
    mean = images.mean(1, keepdim=True)
    return (images - mean) * (2 * u) + mean


def contrast(images: Tensor, u: Tensor) -> Tensor:
    """Multiply the distance to the mean of the image by u + 0.5."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (u + 0.5) + mean


def translation(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return images whose pixel (i, j) is the given one's (i + x, j + y), 0 beyond the border; x, y int64 (B,)."""
    rows, columns = (_shift(n, by, images) for n, by in zip(images.shape[2:], (x, y)))
    return rows[:, None] @ images @ columns.transpose(1, 2)[:, None]


def _shift(n: int, by: Tensor, images: Tensor) -> Tensor:
    """Return matrices (B, n, n) with a 1 in row i, column i + by: a product of these has deterministic gradients everywhere."""
    place = torch.arange(n, device=images.device)
    return (place[None, :, None] + by[:, None, None] == place).to(images.dtype)


def cutout(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Set a square of half the side around row x and column y, int64 (B,), to 0; it ends at the border."""
    inside = []
    for n, centre in zip(images.shape[2:], (x, y)):
        size, place = cut_size(n), torch.arange(n, device=images.device)
        low = (centre - size // 2).clamp(0, n - 1)
        high = (centre - size // 2 + size - 1).clamp(0, n - 1)
        inside.append((place >= low[:, None]) & (place <= high[:, None]))
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def cut_size(side: int) -> int:
    """Return the side of the square that `cutout` removes."""
    return int(side * 0.5 + 0.5)


def augment(images: Tensor) -> Tensor:
    """Apply colour, translation and cutout, in this order, with numbers from torch's generator of the images' device."""
    number, device = len(images), images.device

    def whole(least: int, most: int) -> Tensor:
        return torch.randint(least, most + 1, (number,), device=device)

    for change in (brightness, saturation, contrast):
        images = change(images, torch.rand(number, 1, 1, 1, device=device))
    shifts = [int(n * 0.125 + 0.5) for n in images.shape[2:]]
    images = translation(images, *(whole(-most, most) for most in shifts))
    return cutout(images, *(whole(0, n - cut_size(n) % 2) for n in images.shape[2:]))
