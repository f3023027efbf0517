"""The loss of a conditional density ratio of real to generated images, in a teacher's features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.objectives.term import Requires, Term
from dgd.task import LabelCode


class DensityRatio(Term):
    """A term by which a network learns the ratio of the densities of real and generated images, given the label.

    mean sigma(r_f) r_f - mean softplus(r_f) - mean sigma(r_r) + penalty (mean r_f - 1)^2, of the ratios of the batch's images
    and of as many generated ones of the same labels. The first teacher gives the features, the second one generates.

    Args:
        penalty: Weight lambda of the deviation of the mean ratio of generated images from 1.
    """

    source = "cGAN-KD (2104.03164) and its code"
    status = "deviates"
    deviations = (
        "the features are the pooled ones of our teacher, not of a network of its own with 3 H W features",
        "numbers: labels are those of the batch, not drawn evenly from the different labels",
    )
    requires = Requires(runs="teachers", teacher_features=True, task="density-ratio")

    def __init__(self, penalty: float = 0.01):
        super().__init__()
        if penalty < 0:
            raise ValueError(f"ratio: penalty is {penalty}; it must be at least 0")
        self.penalty = penalty

    def setup(self, example, setting) -> None:
        """Take the code of labels.

        Raises:
            ValueError: The network takes no features.
        """
        if setting.takes != "features":
            raise ValueError(f"ratio: the network takes the input {setting.takes!r}; take one of features, such as ratio_mlp5")
        self.code = LabelCode(setting.labels, setting.classes)

    def forward(self, batch) -> Tensor:
        """Return a scalar."""
        classifier, generator = batch.runs.teachers
        code = self.code(batch.labels)
        fakes = generator({"latent": self.code.latent(batch.labels)}).raw
        real, fake = (self._ratio(batch, classifier({"image": x}).pooled, code) for x in (batch.inputs["image"], fakes))
        return ratio_loss(real, fake, self.penalty)

    def _ratio(self, batch, features: Tensor, code: Tensor) -> Tensor:
        return batch.runs.own({"features": torch.cat([code, features.float()], 1)}).raw[:, 0].float()


def ratio_loss(real: Tensor, fake: Tensor, penalty: float) -> Tensor:
    """Return the loss from the ratios (B,) of real and of generated images."""
    loss = (fake.sigmoid() * fake).mean() - F.softplus(fake).mean() - real.sigmoid().mean()
    return loss + penalty * (fake.mean() - 1).square()


TERM = DensityRatio
