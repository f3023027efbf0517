"""Draw the images that a generator makes: a sheet of samples, a row for each class, or in the order of numbers."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from dgd.read.figures import style
from dgd.read.figures.material import Material

SIDE = 10
"""Images in a row; rows of a sheet of numbers."""


def sheet(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return one picture uint8 (H, W) or (H, W, 3) of images side by side.

    Args:
        images: uint8 (N, C, H, W).
        labels: (N,); whole numbers are classes, each a row; of others the images are in the order of their labels.

    Raises:
        ValueError: There are too few images.
    """
    if labels.dtype.kind == "f":
        order = np.argsort(labels, kind="stable")
        order = order[np.linspace(0, len(order) - 1, min(SIDE**2, len(order) // SIDE * SIDE)).round().astype(int)]
        rows = order.reshape(-1, SIDE)
    else:
        rows = [np.flatnonzero(labels == label)[:SIDE] for label in np.unique(labels)]
    across = min(map(len, rows), default=0)
    if not across:
        raise ValueError(f"a sheet needs an image for each row, and there are {len(images)} images")
    framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=128)
    lines = [np.concatenate([framed[i] for i in row[:across]], axis=2) for row in rows]
    picture = np.concatenate(lines, axis=1)
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)


def sheets(made: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw the sheet of each method, one below the other.

    Args:
        made: {method: picture}.
        title: Printed above.
    """

    def fill(axes):
        for place, (method, picture) in zip(np.atleast_1d(axes).flat, made.items()):
            place.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            place.set_title(method, fontsize=8)
            place.axis("off")

    height = sum(6.0 * picture.shape[0] / picture.shape[1] for picture in made.values())
    note = "generated images of one seed; a row for each class, or in the order of labels that are numbers"
    return style.figure(fill, title, note, (6.0, 0.8 + height), (len(made), 1))


def draw(material: Material) -> dict[str, Figure]:
    """Return the figure of a generator's cells; none of other networks."""
    return (
        {"samples": sheets({name: sheet(*one) for name, one in material.made.items()}, material.title)} if material.made else {}
    )
