"""Choose among generated images: rejection sampling by a density ratio, and the filter by a teacher's error.

Source: cGAN-KD (arXiv 2104.03164), sections on subsampling and filtering, and the authors' code. Functions that draw are given
the sources of their images and random numbers, so nothing here knows a network.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor, cat

MOST = 50
"""Images that are drawn at most for each one that is wanted."""


class EmptySelection(ValueError):
    """No images are left, or too few of them; the message says what would help."""


def accept(ratios: np.ndarray, uniforms: np.ndarray, maximum: float) -> tuple[np.ndarray, float]:
    """Decide which images of a batch rejection sampling accepts.

    The maximum is raised by the batch first. An image of ratio 0 passes only at a uniform number of 0.

    Args:
        ratios: (B,) density ratios of real to generated images, at least 0.
        uniforms: (B,) in [0, 1).
        maximum: The largest ratio so far.

    Returns:
        Which images are accepted, bool (B,), and the largest ratio now.

    Raises:
        EmptySelection: No ratio is above 0, or one is not a number.
    """
    maximum = max(maximum, float(ratios.max()))
    if not maximum > 0 or not np.isfinite(ratios).all():
        raise EmptySelection("the density ratios are all 0, or not finite; train the ratio network longer or at another rate")
    return uniforms <= ratios / maximum, maximum


class Rejection:
    """A source of images that rejection sampling accepts.

    Args:
        draw: Return so many new images (n, C, H, W).
        ratio: Return the density ratios (n,) of images.
        uniform: Return so many random numbers in [0, 1).
        burn_in: Images from which the first maximum is taken.
        batch: Images that are drawn at once.

    Attributes:
        drawn, accepted: Numbers of images after the burn-in.
        maximum: The largest ratio so far.
    """

    def __init__(
        self,
        draw: Callable[[int], Tensor],
        ratio: Callable[[Tensor], np.ndarray],
        uniform: Callable[[int], np.ndarray],
        burn_in: int,
        batch: int,
    ):
        self.draw, self.ratio, self.uniform, self.batch = draw, ratio, uniform, batch
        self.maximum = float(ratio(draw(burn_in)).max())
        self.drawn = self.accepted = 0

    def __call__(self, count: int) -> Tensor:
        """Return the first `count` images that are accepted.

        Raises:
            EmptySelection: Hardly any image is accepted.
        """
        kept, there, limit = [], 0, self.drawn + max(MOST * count, self.batch)
        while there < count:
            if self.drawn >= limit:
                raise EmptySelection(
                    f"rejection accepts {there} of {self.drawn} images; train the ratio longer, or set subsample: false"
                )
            images = self.draw(self.batch)
            passed, self.maximum = accept(self.ratio(images), self.uniform(self.batch), self.maximum)
            kept.append(images[passed.nonzero()[0]])
            self.drawn, self.accepted = self.drawn + self.batch, self.accepted + int(passed.sum())
            there += int(passed.sum())
        return cat(kept)[:count]


def cut_off(losses: np.ndarray, share: float) -> float:
    """Return the quantile of the teacher's losses below which images are kept, by linear interpolation."""
    return float(np.quantile(losses, share))


def below(losses: np.ndarray, cutoff: float) -> np.ndarray:
    """Return the positions of the images whose loss is strictly below the cut-off."""
    return np.flatnonzero(losses < cutoff)


class Filter:
    """A source of images of which a teacher's loss is below a cut-off that is fixed by a burn-in.

    Args:
        draw: Return so many new images.
        loss: Return the teacher's loss (n,) of images for the label that they were made for.
        share: Quantile of the burn-in's losses that is the cut-off, in 0..1.
        burn_in: Images whose losses give the cut-off.

    Attributes:
        cutoff: The loss below which images are kept.
        drawn, kept: Numbers of images after the burn-in.
    """

    def __init__(self, draw: Callable[[int], Tensor], loss: Callable[[Tensor], np.ndarray], share: float, burn_in: int):
        self.draw, self.loss = draw, loss
        self.cutoff = cut_off(loss(draw(burn_in)), share)
        self.drawn = self.kept = 0

    def __call__(self, count: int) -> Tensor:
        """Return the first `count` images that are kept; batches of half as many are drawn.

        Raises:
            EmptySelection: Hardly any image is kept, as where all losses are equal.
        """
        kept, there, batch, limit = [], 0, max(1, count // 2), self.drawn + MOST * count
        while there < count:
            if self.drawn >= limit:
                raise EmptySelection(
                    f"the teacher's filter keeps {there} of {self.drawn} images (cut-off {self.cutoff:.4g}); raise filter, or "
                    "take another teacher"
                )
            images = self.draw(batch)
            good = below(self.loss(images), self.cutoff)
            kept.append(images[good])
            self.drawn, self.kept, there = self.drawn + batch, self.kept + len(good), there + len(good)
        return cat(kept)[:count]


def filter_values(predictions: np.ndarray, targets: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """Choose the images whose predicted number is near the one that they were made for; one quantile over all of them.

    Args:
        predictions: (N,), of the teacher.
        targets: (N,), labels that the images were made for, in the same unit.
        share: Quantile of the absolute errors that is the cut-off.

    Returns:
        Positions that are kept, and the cut-off.

    Raises:
        EmptySelection: None is left, as where all errors are equal.
    """
    errors = np.abs(predictions - targets)
    cutoff = cut_off(errors, share)
    kept = below(errors, cutoff)
    if not len(kept):
        raise EmptySelection(f"the teacher's filter keeps none of {len(errors)} images (cut-off {cutoff:.4g}); raise filter")
    return kept, cutoff
