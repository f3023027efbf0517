"""Launch less in a training step, with the same bits: on a GPU a step costs by the number of its kernels, whatever they do."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CAST = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Modules whose parameters autocast does nothing with but cast them; of subclasses that is not known."""
TRACKED = "num_batches_tracked"


class Counter:
    """A batch norm's count of its passes, on the host: it stands for the tensor that batch norm adds 1 to."""

    def __init__(self):
        self.passes = 0

    def add_(self, number: int) -> None:
        """Add a number of passes."""
        self.passes += number


class Lighter:
    """Networks that learn, in the steps of an epoch, with fewer operators; as a context, it changes them while it lasts.

    Batch norms count their passes on the host, and the counts are added to the buffers at the end. Under autocast to bf16 the
    modules of a network hold copies of their weights in bf16, which are cast, and whose gradients are cast back, in one go for
    each network; the optimiser has the float32 weights.

    Args:
        networks: The networks.
        halves: They run under autocast to bf16.
    """

    def __init__(self, networks: Sequence[nn.Module], *, halves: bool):
        self.counters: dict[nn.Module, Counter] = {}
        self.weights: list[dict[nn.Parameter, nn.Parameter]] = [{} for _ in networks]
        self.places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for network, weights in zip(networks, self.weights):
            for module in network.modules():
                if isinstance(module, _BatchNorm) and module.num_batches_tracked is not None:
                    self.counters[module] = Counter()
                if type(module) in CAST and halves:
                    for name, weight in module.named_parameters(recurse=False):
                        if weight not in weights:  # two modules can have one weight
                            weights[weight] = nn.Parameter(weight.detach().bfloat16())
                        self.places.append((module, name, weight, weights[weight]))

    def __enter__(self) -> "Lighter":
        self.tracked = {norm: norm.num_batches_tracked for norm in self.counters}
        for norm, counter in self.counters.items():
            norm._buffers[TRACKED] = counter
        for module, name, _, half in self.places:
            module._parameters[name] = half
        for k in range(len(self.weights)):
            self.refresh(k)
        return self

    def __exit__(self, *_) -> None:
        for module, name, weight, _ in self.places:
            module._parameters[name] = weight
        for norm, buffer in self.tracked.items():
            norm._buffers[TRACKED] = buffer.add_(self.counters[norm].passes)
            self.counters[norm].passes = 0

    @torch.no_grad()
    def gather(self, k: int) -> None:
        """Give the k-th network's weights the gradients of their copies; call it after a backward pass."""
        halves = {weight: half for weight, half in self._of(k).items() if half.grad is not None}
        if halves:
            gradients = [torch.empty_like(weight) for weight in halves]
            torch._foreach_copy_(gradients, [half.grad for half in halves.values()])
            for (weight, half), gradient in zip(halves.items(), gradients):
                weight.grad, half.grad = gradient, None

    @torch.no_grad()
    def refresh(self, k: int) -> None:
        """Cast the k-th network's weights again; call it when they have changed."""
        if weights := self._of(k):
            torch._foreach_copy_([*weights.values()], [*weights])

    def _of(self, k: int) -> dict[nn.Parameter, nn.Parameter]:
        return self.weights[k] if k < len(self.weights) else {}

    def passes(self) -> dict[nn.Module, int]:
        """Return the passes that each batch norm has counted since the epoch's start."""
        return {norm: counter.passes for norm, counter in self.counters.items()}

    def count(self, passes: Mapping[nn.Module, int]) -> None:
        """Add the passes of a step that is replayed, which does not run the modules."""
        for norm, number in passes.items():
            self.counters[norm].passes += number


def lighter(group) -> Lighter:
    """Return what makes the steps of a group lighter: its networks, or none where something stands against it."""
    networks = [member.network for member in group.members]
    return Lighter(networks if _can(group) else [], halves=group.recipe.precision == "bf16")


def _can(group) -> bool:
    """Return whether nothing else reads a network's parameters or buffers within a step, or replaces its modules' functions."""
    requires, recipe = group.requires, group.recipe
    others = any(member.surgery for member in group.members) or requires.runs or requires.input_gradient
    return not (others or recipe.compile or group.cell.processes > 1 or recipe.average_every == "step")
