"""A grid of panels on the same two scales, drawn as one pair of axes and copies of what is on them.

The first panel is the axes; every other one is the same axes, moved. A pair of axes for each would take ten times as long.
"""

from collections.abc import Iterable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.transforms import ScaledTranslation, Transform, TransformedBbox

from dgd.read.figures.style import RC

ACROSS = 4
"""Panels side by side."""

WIDTH, HEIGHT = 1.64, 1.08
"""Inches of a panel."""

GAP, TITLE = 0.17, 0.27
"""Inches between panels: side by side, and one below the other, where the title is."""

LEFT, RIGHT, BOTTOM, TOP = 0.75, 0.18, 0.75, 0.5
"""Inches around all panels."""


class Panels:
    """So many panels, row by row.

    Args:
        count: How many; at least one.

    Attributes:
        size: Width and height of the figure in inches.
        margins: Inches that are left free at the left, right, bottom and top of it.
    """

    def __init__(self, count: int):
        rows = -(-count // ACROSS)
        width = LEFT + RIGHT + ACROSS * WIDTH + (ACROSS - 1) * GAP
        self.size = width, BOTTOM + TOP + rows * HEIGHT + (rows - 1) * TITLE
        self.margins = LEFT, RIGHT, BOTTOM, TOP
        self._count = count
        self._offsets = [((k % ACROSS) * (WIDTH + GAP), -(k // ACROSS) * (HEIGHT + TITLE)) for k in range(count)]

    def place(self, axes: Axes) -> None:
        """Put the axes where the first panel is."""
        width, height = self.size
        axes.set_position((LEFT / width, 1 - (TOP + HEIGHT) / height, WIDTH / width, HEIGHT / height))

    def moved(self, axes: Axes, place: int) -> ScaledTranslation:
        """Return what moves a point of the axes to the same point of another panel."""
        return ScaledTranslation(*self._offsets[place], axes.figure.dpi_scale_trans)

    def spread(self, axes: Axes) -> None:
        """Make panels of the axes: the lines on it are in each, numbers and labels at the left and below, and texts once.

        Scales, limits and labels must be set; what is drawn later must be moved.
        """
        for line in axes.get_lines():
            look = {"edgecolors": line.get_color(), "linewidths": line.get_linewidth(), "zorder": 1}
            self._repeat(axes, _seen(line, axes), line.get_transform(), **look)
            line.remove()
        marks, names = zip(*(_ticks(axis) for axis in (axes.xaxis, axes.yaxis)))
        grid = {"edgecolors": RC["grid.color"], "linewidths": RC["grid.linewidth"], "zorder": 0.5}
        for rules, transform in (
            ([[(mark, 0), (mark, 1)] for mark in marks[0]], axes.get_xaxis_transform()),
            ([[(0, mark), (1, mark)] for mark in marks[1]], axes.get_yaxis_transform()),
        ):
            self._repeat(axes, Path.make_compound_path(*map(Path, rules)), transform, **grid)
        corner = Path([(0, 1), (0, 0), (1, 0)])
        self._repeat(axes, corner, axes.transAxes, edgecolors="black", linewidths=0.8, zorder=2.5)
        for place in range(self._count):
            if place + ACROSS >= self._count:  # the last of its column
                for mark, name in zip(marks[0], names[0]):
                    self._text(axes, place, name, (mark, 0), axes.get_xaxis_transform(), (0, -3), va="top")
                self._text(axes, place, axes.get_xlabel(), (0.5, 0), axes.transAxes, (0, -14), va="top")
            if place % ACROSS == 0:
                for mark, name in zip(marks[1], names[1]):
                    where = {"ha": "right", "va": "center_baseline"}
                    self._text(axes, place, name, (0, mark), axes.get_yaxis_transform(), (-3, 0), **where)
        axes.figure.supylabel(axes.get_ylabel(), fontsize=9)
        axes.set_axis_off()

    def clip(self, axes: Axes, place: int, artists: Iterable[Artist]) -> None:
        """Show artists within one panel only."""
        for artist in artists:
            artist.set_clip_path(None)
            artist.set_clip_box(TransformedBbox(axes.bbox, self.moved(axes, place)))

    def title(self, axes: Axes, place: int, text: str) -> None:
        """Write a panel's title; up to 30 letters have room, more are smaller."""
        self._text(axes, place, text, (0.5, 1), axes.transAxes, (0, 3), va="bottom", fontsize=min(8, 240 / len(text)))

    def say(self, axes: Axes, place: int, text: str) -> None:
        """Write something in the middle of a panel."""
        self._text(axes, place, text, (0.5, 0.5), axes.transAxes, fontsize=8)

    def _text(self, axes: Axes, place: int, text: str, at: tuple, transform: Transform, by: tuple = (0, 0), **look) -> None:
        """Write a text in one panel, so many points away from where it belongs."""
        away = ScaledTranslation(by[0] / 72, by[1] / 72, axes.figure.dpi_scale_trans)
        axes.text(*at, text, transform=transform + away + self.moved(axes, place), **{"ha": "center", "fontsize": 7.5} | look)

    def _repeat(self, axes: Axes, path: Path, transform: Transform, **look) -> None:
        """Draw a path in each panel; it must not leave the first."""
        collection = PathCollection(
            [path],
            facecolors="none",
            offsets=self._offsets,
            offset_transform=axes.figure.dpi_scale_trans,
            clip_on=False,
            **look,
        )
        collection.set_transform(transform)
        axes.add_collection(collection, autolim=False)


def _ticks(axis) -> tuple[list[float], list[str]]:
    """Return the marks of an axis within its limits, and what is written beside them."""
    low, high = sorted(axis.get_view_interval())
    marks = [float(mark) for mark in axis.get_majorticklocs() if low <= mark <= high]
    return marks, axis.get_major_formatter().format_ticks(marks)


def _seen(line: Line2D, axes: Axes) -> Path:
    """Return a line's path without the points beyond the limits of the axes."""
    points, box = line.get_path().vertices, axes.bbox.padded(0.5)
    with np.errstate(invalid="ignore"):
        places = line.get_transform().transform(points)
        inside = ((places >= box.min) & (places <= box.max)).all(axis=1)  # False for a gap
    runs = np.split(points, np.flatnonzero(np.diff(inside)) + 1)
    return Path.make_compound_path(*map(Path, runs[0 if inside[0] else 1 :: 2]))
