"""Grafting as a callback of Lightning: the networks of a module are grafted after each epoch of training.

`pip install lightning`; nothing else of dgd-bench needs it.
"""

import lightning
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dgd.exchange.grafter import Grafter


class Graft(lightning.Callback):
    """A callback that grafts the networks in one attribute of the module.

    Args:
        attribute: Name of the attribute, a `ModuleList` of networks of one architecture.
        options: Options of grafting, see `dgd.exchange.graft.graft`.
    """

    def __init__(self, attribute: str = "networks", **options):
        self.attribute, self.options, self.shares = attribute, options, []

    def on_fit_start(self, trainer, pl_module) -> None:
        """Check networks and options before the first epoch."""
        self.grafter = Grafter(getattr(pl_module, self.attribute), **self.options)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        """Graft; each process of a distributed run does the same with the same weights."""
        self.shares = self.grafter.step()
        pl_module.log("share", float(next(share for share in self.shares[0].values() if share is not None)))


class Group(lightning.LightningModule):
    """Networks that learn side by side from the same batches."""

    def __init__(self, networks: list[nn.Module], lr: float = 0.05):
        super().__init__()
        self.networks, self.lr = nn.ModuleList(networks), lr

    def training_step(self, batch, batch_idx):
        """Return the sum of the networks' losses: no gradient goes from one to another."""
        images, labels = batch
        loss = sum(F.cross_entropy(network(images), labels) for network in self.networks)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        """Return one optimiser for all of them."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)


def train(networks: list[nn.Module], data, epochs: int = 2, **options) -> Graft:
    """Train networks with grafting and return the callback, which has the last shares."""
    graft = Graft(**options)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[graft],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Group(networks), DataLoader(data, 16, shuffle=True))
    return graft


if __name__ == "__main__":
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 3, 32, 32), torch.arange(64) % 10)
    found = train([timm.create_model("resnet18", num_classes=10) for _ in range(2)], data)
    print({name: share for name, share in list(found.shares[0].items())[:3]})
