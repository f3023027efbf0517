"""Read the intermediate features of a network in the same forward pass as its output."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dgd.models.nested import subnets
from dgd.objectives.term import Output
from dgd.task import TASKS, Task

ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations")


class Reader:
    """A callable that runs a network and returns its `Output`, for every timm model that has `forward_intermediates`.

    A stage is the part of a network that runs at one resolution, and its map is the last tap of that resolution. Sizes are
    determined in a forward pass, because timm's `feature_info` is wrong for an adapted stem. `pooled` is the classifier's
    input.

    `before` is the input of the activation whose output is the stage's map, determined in a forward pass as well. It is cloned
    where the activation works in place (timm, torchvision), because otherwise it would be overwritten by the output.

    `heads` are the outputs of the network's sub-nets (`dgd.models.nested`), read in the same way.

    Args:
        network: The network; it is not changed.
        example: Inputs by name, or images (B, C, H, W), on the network's device to try it on.
        features: Read `stages` and `pooled`; otherwise the network is only called.
        before: Read `before` too.
        task: The network's task.
        input: Name of the input that the network takes.

    Raises:
        ValueError: The network's features cannot be read.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Mapping[str, Tensor] | Tensor,
        *,
        features: bool = False,
        before: bool = False,
        task: Task = TASKS["classification"],
        input: str = "image",
    ):
        self.network, self.features, self.last_acts = network, features or before, []
        self.task, self.input = task, input
        options = {"features": features, "before": before, "task": task, "input": input}
        self.heads = {name: Reader(subnet, example, **options) for name, subnet in subnets(network).items()}
        if not self.features:
            return
        self.name = type(network).__name__
        if not hasattr(network, "forward_intermediates"):
            raise ValueError(f"{self.name} has no forward_intermediates, by which features are read; take another timm model")
        if not isinstance(network.get_classifier(), nn.Module):
            raise ValueError(
                f"{self.name} has no single classifier, whose input is the pooled feature; take another timm model"
            )
        training = network.training
        network.eval()
        with torch.no_grad():
            made = self._try(example)
        network.train(training)
        if before:
            self.last_acts = made

    def __call__(self, inputs: Mapping[str, Tensor] | Tensor) -> Output:
        """Return the network's output for inputs by name, or for images (B, C, H, W)."""
        output = self._read(inputs)
        if self.heads:
            output.heads = {name: read(inputs) for name, read in self.heads.items()}
        return output

    def _read(self, inputs: Mapping[str, Tensor] | Tensor) -> Output:
        images = inputs if isinstance(inputs, Tensor) else inputs[self.input]
        if not self.features:
            return self._output(self.network(images))
        held: dict[nn.Module, Tensor] = {}

        def hold(module: nn.Module, inputs: tuple) -> None:
            held[module] = inputs[0].clone() if getattr(module, "inplace", False) else inputs[0]

        classifier = self.network.get_classifier()
        watched = {classifier, *filter(None, self.last_acts)}
        hooks = [module.register_forward_pre_hook(hold) for module in watched]
        try:
            final, maps = self.network.forward_intermediates(images)
            stages = last_of_each_size(maps)
            logits = self.network.forward_head(final)
        finally:
            for hook in hooks:
                hook.remove()
        before = [stage if act is None else held[act] for stage, act in zip(stages, self.last_acts)]
        return self._output(logits, stages=stages, before=before, pooled=held[classifier].flatten(1))

    def _output(self, raw: Tensor, **features) -> Output:
        return Output(**{self.task.answer: self.task.read(raw)}, **features)

    def _try(self, example: Mapping[str, Tensor] | Tensor) -> list[nn.Module | None]:
        """Return the activation that ends each stage, None where there is none; check that features can be read."""
        outputs: list[tuple[nn.Module, Tensor]] = []
        acts = [module for module in self.network.modules() if type(module).__module__.startswith(ACTIVATIONS)]
        hooks = [act.register_forward_hook(lambda module, _, output: outputs.append((module, output))) for act in acts]
        try:
            output = self._read(example)
        except (NotImplementedError, AttributeError, TypeError, KeyError, RuntimeError, AssertionError) as error:
            raise ValueError(f"the features of {self.name} cannot be read: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        plain = self.task.read(self.network(example if isinstance(example, Tensor) else example[self.input]))
        if any(stage.ndim != 4 for stage in output.stages) or not torch.equal(output.answer, plain):
            raise ValueError(f"the features of {self.name} cannot be read: they are no maps, or not those that give its answer")
        return [next((act for act, made in reversed(outputs) if _same(made, stage)), None) for stage in output.stages]


def _same(one, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and one.data_ptr() == other.data_ptr()


def last_of_each_size(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the last map of each height and width, of maps (B, C, H, W) in the order in which they are computed."""
    return list({tuple(x.shape[2:]): x for x in maps}.values())
