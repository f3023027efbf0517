"""The hinge loss of a conditional GAN, whose generator and discriminator are the members of one group."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives import diffaugment
from dgd.objectives.term import Requires, Term
from dgd.task import LabelCode

NEGLIGIBLE = 1e-3
"""Weight below which the vicinity of a label ends."""


class Adversarial(Term):
    """A term by which the first network learns to generate images, and the second to tell them from real ones.

    Discriminator: mean w max(0, 1 - d(real)) + mean w max(0, 1 + d(generated)); generator: -mean d(generated). For classes w is
    1. For numbers it is CcGAN's soft vicinal loss (2011.07466): images are compared at a target label, a real label plus
    normal noise of deviation sigma = 1.06 std n^(-1/5), and w = exp(-kappa (label - target)^2), kappa = 1 / (vicinity g)^2 with
    g the largest gap between neighbouring labels; labels in 0..1. The real image is drawn from those of the batch in the
    vicinity, and the generated one's label from the vicinity, where w is at least 0.001.

    Args:
        augment: Change real and generated images by DiffAugment before the discriminator sees them.
        vicinity: Width of a label's vicinity in largest gaps, for labels that are numbers.
    """

    source = "cGAN-KD (2104.03164) and its code; 2006.10738; CcGAN (2011.07466)"
    status = "deviates"
    deviations = (
        "small networks of our own in place of BigGAN and SAGAN",
        "DiffAugment acts on images as the loader normalises them, not on [-1, 1]",
        "numbers: the real image is drawn from the batch's in the vicinity, not from all of the training split",
    )
    # The features are not read here: the task is judged by them.
    requires = Requires(runs="peers", teacher_features=True, task="generation")

    def __init__(self, augment: bool = True, vicinity: float = 5.0):
        super().__init__()
        if vicinity <= 0:
            raise ValueError(f"adversarial: vicinity is {vicinity}; it must be above 0")
        self.augment, self.vicinity = augment, vicinity

    def setup(self, example, setting) -> None:
        """Take the role from the network's number, and the vicinity from the labels.

        Raises:
            ValueError: The group is no generator with a discriminator.
        """
        self.generates = setting.network == 0
        wanted = "latent" if self.generates else "image"
        if setting.networks != 2 or setting.takes != wanted:
            raise ValueError(
                "adversarial: the first of two networks must take a latent vector and the second an image, such as "
                f"gan_generator and gan_discriminator; network {setting.network} of {setting.networks} takes the input "
                f"{setting.takes!r}"
            )
        self.code = LabelCode(setting.labels, setting.classes)
        self.numbers = not setting.classes
        if self.numbers:
            labels = ((setting.labels.double() - self.code.low) / (self.code.high - self.code.low)).unique()
            self.sigma = 1.06 * float(labels.std(correction=0)) * len(labels) ** -0.2
            self.kappa = 1 / (self.vicinity * float(labels.diff().max())) ** 2
            self.reach = math.sqrt(-math.log(NEGLIGIBLE) / self.kappa)

    def forward(self, batch) -> Tensor:
        """Return a scalar."""
        return self._generator(batch) if self.generates else self._discriminator(batch)

    def _generator(self, batch) -> Tensor:
        labels = batch.labels
        if self.numbers:
            labels = self._labels(self._scaled(labels) + self.sigma * torch.randn_like(labels))
        images = batch.runs.own({"latent": self.code.latent(labels)}).raw
        return -self._critic(batch.runs.peers[1], images, labels).mean()

    def _discriminator(self, batch) -> Tensor:
        images, labels = batch.inputs["image"], batch.labels
        target, weights, fake_weights = labels, 1.0, 1.0
        fake_labels = labels
        if self.numbers:
            scaled = self._scaled(labels)
            noise = (self.sigma * torch.randn_like(scaled)).clamp(-self.reach, self.reach)
            goal = scaled + noise
            apart = scaled - goal[:, None]  # (B targets, B images)
            near = apart.abs() <= self.reach + 1e-6
            chosen = torch.rand_like(apart).masked_fill(~near, -1).argmax(1)
            images, apart = images[chosen], apart.gather(1, chosen[:, None])[:, 0]
            made = (goal + self.reach * (2 * torch.rand_like(goal) - 1)).clamp(0, 1)
            target, fake_labels = self._labels(goal), self._labels(made)
            weights, fake_weights = (vicinal_weight(d, self.kappa) for d in (apart, made - goal))
        with torch.no_grad():
            fakes = batch.runs.peers[0]({"latent": self.code.latent(fake_labels)}).raw
        real, fake = (self._critic(batch.runs.own, x, target) for x in (images, fakes))
        return hinge(real, fake, weights, fake_weights)

    def _critic(self, network, images: Tensor, labels: Tensor) -> Tensor:
        images = images.float()
        answers = network({"image": diffaugment.augment(images) if self.augment else images}).raw
        return (answers.float() * self.code(labels)).sum(1)

    def _scaled(self, labels: Tensor) -> Tensor:
        return (labels - self.code.low) / (self.code.high - self.code.low)

    def _labels(self, scaled: Tensor) -> Tensor:
        return scaled * (self.code.high - self.code.low) + self.code.low


def hinge(real: Tensor, fake: Tensor, weights: Tensor | float = 1.0, fake_weights: Tensor | float = 1.0) -> Tensor:
    """Return the discriminator's loss from its critic values (B,) for real and generated images."""
    return (weights * F.relu(1 - real)).mean() + (fake_weights * F.relu(1 + fake)).mean()


def vicinal_weight(difference: Tensor, kappa: float) -> Tensor:
    """Return the weight of an image whose label differs from the target by so much."""
    return torch.exp(-kappa * difference.square())


TERM = Adversarial
