"""Count how much of a network depthwise convolutions with a stride are: what `precision: auto` goes by.

`python -m dgd.models.depthwise` builds every network that timm knows, ours included, and writes the table that `dgd.precision`
reads. It takes minutes; a test holds the table to the networks.
"""

import csv
import io
from collections.abc import Iterable

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from dgd import models, precision
from dgd.files import write_text


def strided_rows(name: str) -> tuple[float, int]:
    """Return the rows of a network for images of 32 pixels (see `precision.rows`), and the side of the images it is made for.

    They are counted for images of that side, on which no map is smaller than it is meant to be, and scaled.

    Args:
        name: A name of `timm.list_models()`.

    Raises:
        ValueError: The name is unknown.
    """
    if not models.is_known(name):
        raise ValueError(models.suggest(name))
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=100).eval()
    own = getattr(get_pretrained_cfg(name), "input_size", None)
    side = own[-1] if own else 32
    if not any(map(_is_strided_depthwise, network.modules())):
        return 0.0, side
    with torch.device("meta"):
        example = models.example(network, 1, 3, side)
    counts = {"values": 0, "rows": 0}

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        counts["values"] += output.numel()
        if _is_strided_depthwise(module):
            counts["rows"] += output.shape[1] * output.shape[2] * module.kernel_size[0]

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(example)
    return round(1000 * counts["rows"] / counts["values"] * side / 32, 1), side


def _is_strided_depthwise(module: nn.Module) -> bool:
    """Return whether a module is a convolution of single channels that skips pixels."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels and max(module.stride) > 1


def table(names: Iterable[str]) -> str:
    """Return the table of some networks as CSV, without those that have no such convolution."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("network", "rows", "side"))
    for name in sorted(names):
        rows, side = strided_rows(name)
        if rows:
            writer.writerow((name, rows, side))
    return out.getvalue()


if __name__ == "__main__":
    write_text(precision.TABLE, table(models.registered()))
