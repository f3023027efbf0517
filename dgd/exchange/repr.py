"""RePr: drop the filters that overlap most for some epochs, then re-initialise them, within one network."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgd import cell, filters
from dgd.exchange.blending import GraftingError
from dgd.models.folding import followers


class Layer(NamedTuple):
    """A ranked convolution, and the batch norms that directly follow it, each by its name in the network."""

    name: str
    conv: nn.Conv2d
    norms: Mapping[str, nn.Module]

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that have an entry for each filter, with their names in the network."""
        modules = {self.name: self.conv, **self.norms}
        found = [(f"{name}.{key}", getattr(module, key)) for name, module in modules.items() for key in ("weight", "bias")]
        return [(name, parameter) for name, parameter in found if parameter is not None]


class RePr(nn.Module):
    """A module that drops the filters that overlap most for some epochs, then re-initialises them orthogonally, in cycles.

    A cycle is `normal` epochs with all filters, a drop, `pruned` epochs without the dropped filters, and their
    re-initialisation; after the last of `cycles` cycles all filters are trained to the end. The weights and bias of a dropped
    filter are zero, and so are gamma and beta of the batch norm that directly follows. Its channel may still be nonzero through
    another input, such as a shortcut. Filters of all layers are ranked together, by `overlap`. Filters with few weights overlap
    more by chance alone: where kernels differ in size, 1x1 convolutions lose most.

    A new filter is orthogonal to all filters of its layer, those before the drop included, and has length 1; if the null space
    is too small, the rest are drawn from PyTorch's initialisation of a convolution. Its bias is zero and its batch norm fresh:
    gamma 1, beta 0, running mean 0 and variance 1.

    Args:
        network: The network, on its device. A reference is kept; it does not become a submodule.
        example: Images (B, C, H, W) on the same device; one pass in eval mode shows which batch norm follows which convolution.
        share: Share of the ranked filters that is dropped, above 0 and below 1. A layer keeps at least one.
        normal: Epochs before filters are dropped, and between two drops.
        pruned: Epochs without the dropped filters.
        cycles: Number of cycles.
        skip_first: The convolution that reads the image is not ranked.

    Raises:
        ValueError: An option is out of its range.
        GraftingError: The network has no convolution filters to rank.
    """

    source = "RePr, 1811.07275; code: siahuat0727/RePr, not the authors'"
    status = "deviates"
    deviations = (
        "The next layer's weights for a dropped filter's channel stay, as by default in the code; `--zero_init` zeroes them.",
        "Momentum and weight decay of dropped filters are held too; the code masks gradients alone, of SGD without either.",
        "Bias and batch norm of a dropped filter are zeroed too; the code's network has no batch norm, and keeps biases.",
        "New filters are random directions of the null space; the code takes QR's own vectors, clamped to +-1/sqrt(fan in).",
        "As the authors said and not as the code does, the first convolution is not ranked.",
        "Grouped convolutions are not ranked, and a layer keeps at least one filter.",
    )

    def __init__(
        self, network: nn.Module, example: Tensor, *, share=0.3, normal=20, pruned=10, cycles=3, skip_first: bool = True
    ):
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"repr: share is {share}; it must be above 0 and below 1")
        for key, value in {"normal": normal, "pruned": pruned, "cycles": cycles}.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"repr: {key} is {value}; it must be a whole number of at least 1")
        self.share, self.normal, self.pruned, self.cycles = share, normal, pruned, cycles
        self.layers = _layers(network, example, skip_first)  # a list, so nn.Module does not register them as submodules
        if not self.layers:
            raise GraftingError("the network has no convolution filters to rank: RePr drops filters that overlap with others")
        for layer in self.layers:
            weight = layer.conv.weight
            self.register_buffer(_key("dropped", layer), weight.new_zeros(len(weight), dtype=torch.bool, requires_grad=False))
            self.register_buffer(_key("values", layer), torch.zeros_like(weight, requires_grad=False))
        self.active = False  # whether filters are dropped now; kept on the host so that no step reads the device
        self._kept: dict[str, tuple[Tensor, Tensor]] | None = None

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self.active, self._kept = any(bool(mask.any()) for mask, _ in map(self._held, self.layers)), None

    def _held(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Return a layer's mask (J,) of dropped filters, and the values (J, C, h, w) that they had before."""
        return getattr(self, _key("dropped", layer)), getattr(self, _key("values", layer))

    @torch.no_grad()
    def after_step(self, momentum: Mapping[str, Tensor]) -> None:
        """Hold dropped filters at zero; for SGD this equals masking their gradient, momentum and weight decay.

        Args:
            momentum: Name of a parameter in the network -> its momentum buffer.
        """
        if not self.active:
            return
        if self._kept is None:  # name -> parameter, and 1 or 0 for each of its elements
            self._kept = {}
            for layer in self.layers:
                for name, parameter in layer.parameters():
                    kept = torch.ones_like(parameter, requires_grad=False)
                    kept[self._held(layer)[0]] = 0
                    self._kept[name] = parameter, kept
        pairs = [*self._kept.values(), *((momentum[name], kept) for name, (_, kept) in self._kept.items() if name in momentum)]
        torch._foreach_mul_([tensor for tensor, _ in pairs], [kept for _, kept in pairs])

    @torch.no_grad()
    def after_epoch(self, epoch: int, momentum: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Drop filters or re-initialise them, if a drop or the end of a cycle is due after this epoch.

        Args:
            epoch: The epoch that has just ended, from 0.
            momentum: As in `after_step`.
            generator: A CPU generator, from which new filters are drawn.
        """
        cycle, place = divmod(epoch + 1, self.normal + self.pruned)
        if place == self.normal and cycle < self.cycles:
            self._drop()
            self.after_step(momentum)
        elif place == 0 and self.active:
            self._renew(generator)

    def _drop(self) -> None:
        """Choose the filters that overlap most over all layers; `after_step` sets them to zero."""
        scores = [overlap(layer.conv.weight) for layer in self.layers]
        total = sum(map(len, scores))
        count = min(int(self.share * total + 0.5), total - len(scores))
        for score in scores:
            score[score.argmin()] = -math.inf  # a layer keeps at least this one
        highest = torch.cat(scores).argsort(descending=True, stable=True)[:count]
        chosen = torch.zeros(total, dtype=torch.bool).index_fill_(0, highest, True)
        for layer, part in zip(self.layers, chosen.split([len(score) for score in scores])):
            mask, values = self._held(layer)
            mask.copy_(part)
            values.copy_(layer.conv.weight)[~mask] = 0
        self.active, self._kept = count > 0, None

    def _renew(self, generator: torch.Generator) -> None:
        """Re-initialise the dropped filters and clear the masks; their momentum has been held at zero."""
        for layer in self.layers:
            mask, values = self._held(layer)
            if not mask.any():
                continue
            layer.conv.weight += orthogonal((layer.conv.weight + values).cpu(), mask.cpu(), generator).to(mask.device)
            for norm in layer.norms.values():
                for tensor, fresh in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
                    if tensor is not None:
                        tensor[mask] = fresh
            mask.zero_(), values.zero_()
        self.active, self._kept = False, None


STANDING = RePr
"""The class whose `source`, `status` and `deviations` say how the exchange stands to its source."""


def surgery(network: nn.Module, example: Tensor, options: cell.RePr) -> RePr:
    """Return the `RePr` module of a network with these options."""
    given = {name: getattr(options, name) for name in ("share", "normal", "pruned", "cycles", "skip_first")}
    return RePr(network, example, **given)


def overlap(weight: Tensor) -> Tensor:
    """Return the overlap of each filter with the others of its layer: `sum_j |W W^T - I| / J`, with W's rows of length 1.

    Args:
        weight: (J, C, h, w).

    Returns:
        (J,), float64 on the CPU, because the ranking must not depend on the device's rounding.
    """
    rows = nn.functional.normalize(weight.detach().cpu().double().flatten(1), eps=1e-12)
    return (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).abs().sum(1) / len(rows)


def orthogonal(weight: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Return new filters, orthogonal to a layer's present and former filters and to each other.

    If there are more than the null space has dimensions, the rest are drawn from PyTorch's initialisation of a convolution.

    Args:
        weight: (J, C, h, w) on the CPU: surviving filters, and the values that the others had before they were dropped.
        chosen: Bool (J,), True for the filters to be replaced.
        generator: A CPU generator.

    Returns:
        (J, C, h, w), of the weight's type; zero where not chosen.
    """
    rows = weight.double().flatten(1)
    new, count = torch.zeros_like(rows), int(chosen.sum())
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    basis = basis[sizes > sizes.max() * max(rows.shape) * torch.finfo(rows.dtype).eps]
    drawn = torch.empty(count, rows.shape[1], dtype=rows.dtype)
    nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
    free = min(count, rows.shape[1] - len(basis))
    if free:
        part = drawn[:free]
        for _ in range(2):  # the second projection removes the rounding error of the first
            part = part - (part @ basis.T) @ basis
        drawn[:free] = torch.linalg.qr(part.T).Q.T
    new[chosen] = drawn
    return new.to(weight.dtype).reshape(weight.shape)


def _layers(network: nn.Module, example: Tensor, skip_first: bool) -> list[Layer]:
    """Return the convolutions to rank, in the network's own order."""
    training = network.training
    with torch.no_grad():
        pairs, calls = followers(network.eval(), example)
    network.train(training)
    ranked, names = filters.conv_weights(network), {module: name for name, module in network.named_modules()}
    first = next((module for module in calls if isinstance(module, nn.Conv2d)), None)  # calls are in order
    convs = [conv for conv in names if isinstance(conv, nn.Conv2d) and conv in calls and f"{names[conv]}.weight" in ranked]
    convs = [conv for conv in convs if conv.groups == 1 and not (skip_first and conv is first)]
    # A batch norm that several convolutions share is left out, because it acts on the others' channels too.
    own = {norm: conv for norm, conv in pairs.items() if calls[norm] == 1}
    return [Layer(names[conv], conv, {names[n]: n for n in own if own[n] is conv}) for conv in convs]


def _key(what: str, layer: Layer) -> str:
    """Return the name of a layer's buffer; torch allows no dot in it."""
    return f"{what}:{layer.name.replace('.', '/')}"
