"""Read the intermediate features of a network in the same forward pass as its output."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

from dgd.models.nested import subnets
from dgd.objectives.term import Output
from dgd.task import TASKS, Task

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
"""What ends a network's maps."""
ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations")


class Reader:
    """A callable that runs a network and returns its `Output`.

    It reads every timm model that has `forward_intermediates`. Of others, such as torchvision's, a map is what a part of the
    network returns (its children, and those of `Sequential`), and the classifier is the last linear layer that runs.

    A stage is the part of a network that runs at one resolution, and its map is the last tap of that resolution. Sizes are
    determined in a forward pass, because timm's `feature_info` is wrong for an adapted stem. `pooled` is the classifier's
    input.

    `before` is the input of the activation whose output is the stage's map, determined in a forward pass as well. It is cloned
    where the activation works in place (timm, torchvision), because otherwise it would be overwritten by the output.

    A stage that no activation module ends may be activated all the same: by a function, or before maps are concatenated or
    scaled. Then each channel has a smallest value that many pixels share. `ends` says of each stage `module`, `activated` or
    `not activated`.

    `units`, a factor and a summand (C, 1, 1), bring images to what the network was trained on; None leaves them as they are.

    `heads` are the outputs of the network's sub-nets (`dgd.models.nested`), read in the same way.

    Args:
        network: The network; it is not changed.
        example: Inputs by name, or images (B, C, H, W), on the network's device to try it on.
        features: Read `stages`, and `pooled` where the network has a single classifier; otherwise the network is only called.
        pooled: It must have one.
        before: Read `before` too.
        out_indices: Which of the network's maps are its stages; by default the last of each resolution.
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
        pooled: bool = False,
        before: bool = False,
        out_indices: Sequence[int] = (),
        task: Task = TASKS["classification"],
        input: str = "image",
    ):
        self.network, self.features = network, features or pooled or before
        self.last_acts, self.taps, self.ends = [], [], []
        self.task, self.input, self.out_indices = task, input, out_indices
        self.units: tuple[Tensor, Tensor] | None = None
        options = {"features": features, "pooled": pooled, "before": before, "task": task, "input": input}
        self.heads = {name: Reader(subnet, example, **options) for name, subnet in subnets(network).items()}
        if not self.features:
            return
        self.name = type(network).__name__
        training = network.training
        network.eval()
        with torch.no_grad():
            self.taps, self.classifier = ([], network.get_classifier()) if _is_timms(network) else self._find(example)
            if not isinstance(self.classifier, nn.Module):
                self.classifier = None
                if pooled:
                    raise ValueError(
                        f"{self.name} has no single classifier, whose input is the pooled feature; take another network"
                    )
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
        if self.units:
            images = images * self.units[0] + self.units[1]
        if not self.features:
            return self._output(self.network(images))
        held: dict[nn.Module, Tensor] = {}

        def hold(module: nn.Module, inputs: tuple) -> None:
            held[module] = inputs[0].clone() if getattr(module, "inplace", False) else inputs[0]

        returned: dict[nn.Module, Tensor] = {}
        watched = {*filter(None, (self.classifier, *self.last_acts))}
        hooks = [module.register_forward_pre_hook(hold) for module in watched]
        hooks += [tap.register_forward_hook(lambda module, _, output: returned.update({module: output})) for tap in self.taps]
        try:
            if self.taps:
                logits = self.network(images)
                stages = [returned[tap] for tap in self.taps]
                stages = self._chosen(stages) if self.out_indices else stages
            else:
                final, maps = self.network.forward_intermediates(images)
                stages = self._chosen(maps) if self.out_indices else last_of_each_size(maps)
                logits = self.network.forward_head(final)
        finally:
            for hook in hooks:
                hook.remove()
        before = [stage if act is None else held[act] for stage, act in zip(stages, self.last_acts)]
        pooled = held[self.classifier].flatten(1) if self.classifier else None
        return self._output(logits, stages=stages, before=before, pooled=pooled)

    def _chosen(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of `out_indices`."""
        if odd := [i for i in self.out_indices if not 0 <= i < len(maps)]:
            raise ValueError(f"out_indices has {odd[0]}; {self.name} gives {len(maps)} maps, 0 to {len(maps) - 1}")
        return [maps[i] for i in self.out_indices]

    def _find(self, example: Mapping[str, Tensor] | Tensor) -> tuple[list[nn.Module], nn.Module | None]:
        """Return the modules that give the last map of each resolution, and the last linear layer that runs."""
        ran: list[tuple[nn.Module, Tensor]] = []
        parts, images = set(_parts(self.network)), example if isinstance(example, Tensor) else example[self.input]
        modules = [module for module in self.network.modules() if module in parts or isinstance(module, nn.Linear)]
        hooks = [module.register_forward_hook(lambda module, _, output: ran.append((module, output))) for module in modules]
        try:
            self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        before_pool = takewhile(lambda one: not isinstance(one[0], POOLS), ran)
        maps = [(module, x) for module, x in before_pool if module in parts and _is_map(x, images)]
        taps = list({tuple(x.shape[2:]): module for module, x in maps}.values())
        if not taps:
            raise ValueError(
                f"the features of {self.name} cannot be read: it has no forward_intermediates, and no part of it returns maps "
                "(B, C, H, W)"
            )
        return taps, next((module for module, _ in reversed(ran) if isinstance(module, nn.Linear)), None)

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
        found = [next((act for act, made in reversed(outputs) if _same(made, stage)), None) for stage in output.stages]
        plain = ("activated" if _is_activated(stage) else "not activated" for stage in output.stages)
        self.ends = ["module" if act else end for act, end in zip(found, plain)]
        return found


def _is_timms(network: nn.Module) -> bool:
    return hasattr(network, "forward_intermediates") and hasattr(network, "get_classifier")


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        yield child
        if isinstance(child, nn.Sequential):
            yield from _parts(child)


def _is_map(x, images: Tensor) -> bool:
    """Return whether a module's output is a map with the images' proportions: channels that come last are none."""
    return (
        isinstance(x, Tensor)
        and x.ndim == 4
        and abs(x.shape[2] * images.shape[3] - x.shape[3] * images.shape[2]) < max(images.shape[2:])
    )


def _is_activated(x: Tensor) -> bool:
    """Return whether maps (B, C, H, W) end as after a ReLU: at zero, or each channel at a value that several pixels share."""
    values = x.transpose(0, 1).flatten(1)
    low, high = values.aminmax(dim=1)
    floors = (values == low[:, None]).sum(1) > 1
    varied = high > low
    return bool(varied.any()) and bool(low.min() == 0 or floors[varied].float().mean() > 0.5)


def _same(one, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and one.data_ptr() == other.data_ptr()


def last_of_each_size(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the last map of each height and width, of maps (B, C, H, W) in the order in which they are computed."""
    return list({tuple(x.shape[2:]): x for x in maps}.values())
