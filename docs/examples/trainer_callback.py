"""Grafting as a callback of Hugging Face's Trainer: the networks of a model are grafted after each epoch.

`pip install transformers accelerate`; nothing else of dgd-bench needs them.
"""

import tempfile

import timm
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from dgd.exchange.grafter import Grafter


class Graft(TrainerCallback):
    """A callback that grafts networks.

    Args:
        networks: Networks of one architecture, those that the trainer's model holds.
        options: Options of grafting, see `dgd.exchange.graft.graft`; what cannot be is refused here.
    """

    def __init__(self, networks, **options):
        self.grafter, self.shares = Grafter(networks, **options), []

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        """Graft; each process of a distributed run does the same with the same weights."""
        self.shares = self.grafter.step()


class Group(nn.Module):
    """Networks that learn side by side; the first one's logits are the model's."""

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images, labels):
        """Return the sum of the losses, and the first network's logits (B, K)."""
        logits = [network(images) for network in self.networks]
        return {"loss": sum(F.cross_entropy(x, labels) for x in logits), "logits": logits[0]}


def train(networks: list[nn.Module], data, epochs: int = 2, **options) -> Graft:
    """Train networks with grafting and return the callback, which has the last shares.

    Args:
        networks: Networks of one architecture that start from different weights.
        data: Examples `{"images": (C, H, W), "labels": class}`.
        epochs: Passes over the data.
        options: Options of grafting.
    """
    graft = Graft(networks, **options)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=16, learning_rate=0.01, report_to=[], use_cpu=True
        )
        Trainer(Group(networks), arguments, train_dataset=data, callbacks=[graft]).train()
    return graft


if __name__ == "__main__":
    torch.manual_seed(0)
    data = [{"images": torch.randn(3, 32, 32), "labels": k % 10} for k in range(64)]
    found = train([timm.create_model("resnet18", num_classes=10) for _ in range(2)], data)
    print({name: share for name, share in list(found.shares[0].items())[:3]})
