"""Say which precision `precision: auto` is for a network: a written rule over a table that travels with the package.

Nothing here needs torch, looks at the device or takes a time: a cell is the same cell wherever it is planned.
`dgd.models.depthwise` makes the table from the networks, and docs/cost.md says why the rule is as it is.
"""

import csv
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("strided_rows.csv")
"""Networks with depthwise convolutions that have a stride; see `dgd.models.depthwise.strided_rows` for its columns."""
MOST = 15.0
"""Rows above which bf16 is the slower one on images of 32 pixels: measured, from 22 on it is, up to 11 it is not."""
SMALL = 64
"""Side in pixels up to which images are small: a network that is made for larger ones has its stem adapted to them."""


def auto(network: str) -> str:
    """Return what `auto` is: `fp32` for a network that has more than `MOST` of the `rows` below, else `bf16`.

    Args:
        network: Its name in timm. One that the table does not have, such as a plugin's, has `bf16`.
    """
    return "fp32" if rows(network) > MOST else "bf16"


def rows(network: str) -> float:
    """Return how many rows of kernels depthwise convolutions with a stride apply, for each 1000 values that all layers make.

    On a CPU, torch computes the gradient of such a convolution in bf16 row by row, however short a row is; what bf16 saves goes
    with the values. The number is that of images of 32 pixels, on which a network for larger ones has an adapted stem: its maps
    have then twice the side, and half the rows for each value.
    """
    found, side = table().get(network, (0.0, SMALL))
    return found / 2 if side > SMALL else found


@cache
def table() -> dict[str, tuple[float, int]]:
    """Return network -> rows for images of 32 pixels, the stem as it is, and the side of the images that it is made for."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["network"]: (float(row["rows"]), int(row["side"])) for row in csv.DictReader(file)}
