"""A term of dgd as a task of timm's training script: `task(input, target)` returns a dictionary with the loss."""

from collections.abc import Mapping

import timm
import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from dgd.objectives import Batch, Objective, Setting
from dgd.train.features import Reader


class TermsTask(TrainingTask):
    """A task that minimises terms of dgd which read the features of a student and of a teacher.

    Args:
        student: The network that learns.
        teacher: A trained network; it is frozen.
        objective: Term -> its weight and options.
        images: Two images or more, to find out the sizes of the features.
        classes: Number of classes.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, objective: Mapping, images: Tensor, classes: int):
        super().__init__(device=images.device)
        self.trainable_module = nn.ModuleDict({"student": student, "objective": Objective(objective)})
        self.eval_model = student
        self.teacher = teacher.eval().requires_grad_(False)
        needs = self.terms.requires
        if needs.indices or needs.peers or needs.runs:
            raise ValueError(f"{', '.join(objective)}: a task has no indices of images and no peers; take other terms")
        self.own = Reader(student, images, features=needs.features, before=needs.before)
        self.theirs = Reader(teacher, images, features=needs.features, before=needs.teacher_before)
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        example = self._batch(images, labels)
        self.terms.setup(example, Setting(network=0, networks=1, labels=labels, classes=classes))
        self.to(images.device)

    @property
    def terms(self) -> Objective:
        """Return the terms, of which some have parameters of their own."""
        return self.trainable_module["objective"]

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        with torch.no_grad():
            taught = self.theirs(images)
        return Batch({"image": images}, labels, torch.arange(len(images), device=images.device), self.own(images), [taught])

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the loss, the logits, and each term before its weight."""
        batch = self._batch(input, target)
        loss, parts = self.terms(batch)
        return {"loss": loss, "output": batch.own.logits, **parts}


if __name__ == "__main__":
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    student, teacher = (timm.create_model(name, num_classes=10) for name in ("mobilenetv3_small_050", "resnet18"))
    task = TermsTask(student, teacher, {"ce": {}, "at": {"weight": 1000.0}}, images, 10)
    optimiser = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.01)
    for _ in range(3):
        result = task(images, labels)
        optimiser.zero_grad()
        result["loss"].backward()
        optimiser.step()
        print({name: round(float(value), 3) for name, value in result.items() if value.ndim == 0})
