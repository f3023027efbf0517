"""DGD in a plain PyTorch loop with mixed precision: two networks learn from a teacher, and are grafted after each epoch."""

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

from dgd.exchange.grafter import Grafter
from dgd.objectives import Batch, Objective, Setting
from dgd.train.features import Reader


def train(networks: list[nn.Module], teacher: nn.Module, data, epochs: int = 2, device: str = "cpu") -> list[float]:
    """Train the networks on examples (image, label, index) and return the mean loss of each epoch.

    Args:
        networks: Networks of one architecture that start from different weights.
        teacher: A trained network; it is read, never changed.
        data: A data set whose examples have their own position as the third value.
        epochs: Passes over the data.
        device: Where the networks are trained.
    """
    labels = torch.tensor([label for _, label, _ in data], device=device)
    loaders = [DataLoader(data, 16, shuffle=True, generator=torch.Generator().manual_seed(i)) for i in range(len(networks))]
    images = torch.stack([data[k][0] for k in range(2)]).to(device)
    readers = [Reader(network.to(device), images) for network in networks]
    guide = Reader(teacher.to(device).eval().requires_grad_(False), images)
    objectives = [Objective({"ce": {}, "kd": {"weight": 1.0, "tau": 2.0}}).to(device) for _ in networks]
    for i, (objective, reader) in enumerate(zip(objectives, readers)):
        example = Batch({"image": images}, labels[:2], torch.arange(2, device=device), reader(images), [guide(images)])
        objective.setup(example, Setting(network=i, networks=len(networks), labels=labels, classes=int(labels.max()) + 1))
    parameters = [[*network.parameters(), *objective.parameters()] for network, objective in zip(networks, objectives)]
    optimisers = [torch.optim.SGD(own, lr=0.05, momentum=0.9, weight_decay=5e-4) for own in parameters]
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")  # for float16; bfloat16 needs none
    grafter, means = Grafter(networks), []
    for epoch in range(epochs):
        total, steps = 0.0, 0
        for network, reader, objective, optimiser, loader in zip(networks, readers, objectives, optimisers, loaders):
            network.train()
            objective.start_epoch(epoch)
            for images, labels, index in loader:  # a loader for each network: they should see the data in different orders
                images, labels, index = (x.to(device) for x in (images, labels, index))
                with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16):
                    own, theirs = reader(images), guide(images)
                loss, _ = objective(Batch({"image": images}, labels, index, own, [theirs]))  # losses are in float32
                optimiser.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimiser)
                scaler.update()
                total, steps = total + loss.item(), steps + 1
        means.append(total / steps)
        shares = grafter.step()  # evaluate before this line, as the published code does
        print(f"epoch {epoch}: loss {means[-1]:.3f}, the first layer kept {next(iter(shares[0].values())):.3f} of itself")
    return means


if __name__ == "__main__":
    torch.manual_seed(0)
    examples = [(torch.randn(3, 32, 32), k % 10, k) for k in range(64)]
    one, other, large = (timm.create_model(name, num_classes=10) for name in ("resnet18", "resnet18", "resnet34"))
    train([one, other], large, examples)
