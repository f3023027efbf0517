"""Draw every figure in one style, and write it as SVG, PDF or PNG with the same bytes every time."""

import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

import matplotlib.style
import matplotlib.ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.patheffects import Normal
from matplotlib.text import Text

from dgd.files import write_bytes
from dgd.metrics import Metric

FIRST = {
    "baseline": ("#4d4d4d", (0, (4, 1.5))),
    "kd": ("#0072b2", (0, (1, 1))),
    "grafting": ("#e69f00", (0, (5, 1, 1, 1))),
    "dgd": ("#d55e00", "-"),
}
"""Colour and dash of the rows that keep theirs in every benchmark and stand first; colours of Okabe and Ito."""

OTHERS = {"o": "#009e73", "s": "#cc79a7", "^": "#56b4e9", "D": "#8c6d00", "v": "#332288", "P": "#882255"}
"""Markers and colours of further methods, in turn."""

FORMATS = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""Each format that figures are written in, with what it would say of the day and the program."""

DASHES = ("-", "--", "-.", ":")

RC = {
    "svg.hashsalt": "dgd",  # ids in an SVG come from a random salt otherwise
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}


def ordered(methods: Mapping[str, Collection]) -> dict[str, int]:
    """Return the methods that have something to draw, those of `FIRST` first, and the place of each among the others.

    Raises:
        ValueError: No method has anything to draw.
    """
    others = [method for method in methods if method not in FIRST]
    order = {method: others.index(method) if method in others else -1 for method in (*FIRST, *others) if methods.get(method)}
    if not order:
        raise ValueError("nothing to draw: no method has any data")
    return order


def look(method: str, place: int) -> dict:
    """Return how a method's line looks: told apart without colour by its dash or marker.

    Args:
        method: Its name.
        place: Its place among the methods that are not in `FIRST`; see `ordered`.
    """
    if method in FIRST:
        colour, dash = FIRST[method]
        return {"color": colour, "linestyle": dash}
    marker, colour = list(OTHERS.items())[place % len(OTHERS)]
    return {"color": colour, "linestyle": DASHES[place // len(OTHERS) % 4], "marker": marker, "markevery": 0.15}


def label(metric: Metric) -> str:
    """Return what an axis says of a metric: its label, and its unit if it has one."""
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def plain_ticks(axis) -> None:
    """Write the ticks of a log axis as 0.01 and not as a power, which takes ten times as long to set."""
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def whole_ticks(axis) -> None:
    """Put the ticks of an axis of epochs at whole numbers."""
    axis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))


def colour_map(name: str):
    """Return a map of colours that get darker all the way, grey where there is no number."""
    return matplotlib.colormaps[name].with_extremes(bad="#cccccc")


def figure(
    draw: Callable,
    title: str,
    note: str = "mean and range over n seeds",
    size: tuple[float, float] = (6.0, 4.0),
    shape: tuple[int, int] = (1, 1),
    margins: tuple[float, float, float, float] | None = None,
    **options,
) -> Figure:
    """Return a figure whose axes `draw` has filled, with one legend below all of them.

    Args:
        draw: Called with the axes: one, or an array of them in `shape`.
        title: Printed above.
        note: What the legend says before the names.
        size: Width and height in inches; a long legend adds to the height.
        shape: Rows and columns of axes.
        margins: Inches that are left free at the left, right, bottom and top; by default each axes is measured, which takes
            seconds where there are many.
        options: Of `matplotlib.figure.Figure.subplots`.
    """
    with _style():
        made = Figure(figsize=size, layout=None if margins else "constrained")
        FigureCanvasAgg(made)
        if margins:
            (width, height), (left, right, bottom, top) = size, margins
            made.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
        draw(made.subplots(*shape, **options))
        made.suptitle(title, x=0.01, ha="left", fontsize=10)
        named = {}
        for axes in made.axes:
            named.update((label, handle) for handle, label in zip(*axes.get_legend_handles_labels()))
        columns = 4 if max(map(len, named), default=0) < 18 else 2
        rows = -(-len(named) // columns)
        made.set_figheight(size[1] + 0.17 * max(0, rows - 2))  # a long legend takes nothing from the axes
        legend = {"ncols": columns, "columnspacing": 1.4, "handlelength": 2.6, "title_fontsize": 7.5}
        place = "lower center" if margins else "outside lower center"
        made.legend(named.values(), named.keys(), loc=place, title=note, **legend)
        _set_fonts(made)
        if not margins:
            made.get_layout_engine().execute(made)  # once for all formats
        made.set_layout_engine(None)  # with any other, even "none", matplotlib draws twice to save once
    return made


def save(made: Figure, stem: str | Path, formats: Iterable[str] = tuple(FORMATS)) -> list[Path]:
    """Write a figure as `<stem>.<format>`, atomically and without a date; return the paths.

    Letters are outlines in SVG and PDF: no font is embedded, which takes most of the time of a PDF, and any font can be.

    Args:
        made: The figure.
        stem: The path without its suffix.
        formats: Of `FORMATS`.
    """
    paths = []
    with _style():
        for suffix in formats:
            texts, buffer = made.findobj(Text) if suffix == "pdf" else (), io.BytesIO()
            for text in texts:
                text.set_path_effects([Normal()])
            made.savefig(buffer, format=suffix, dpi=160, metadata=FORMATS[suffix])
            for text in texts:
                text.set_path_effects([])
            paths.append(Path(f"{stem}.{suffix}"))
            write_bytes(paths[-1], buffer.getvalue())
    return paths


@contextmanager
def _style() -> Iterator[None]:
    """Draw as `RC` says, whatever matplotlibrc the machine has; letters without a font are said by `_set_fonts`."""
    with matplotlib.style.context(["default", RC]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def _set_fonts(made: Figure) -> None:
    """Give the texts that need one a further font of this machine; what no font has is drawn as a box, and said once."""
    own, absent = _letters(findfont(FontProperties(family=RC["font.family"]))), set()
    for text in made.findobj(Text):
        lacking = frozenset(filter(str.isprintable, frozenset(text.get_text()) - own))
        if lacking:
            families, missing = _fonts(lacking)
            text.set_fontfamily([RC["font.family"], *families])
            absent |= missing
    if absent:
        logging.getLogger(__name__).warning(
            "no font of this machine has %s; install one, such as Noto Sans CJK", " ".join(sorted(absent))
        )


@lru_cache
def _letters(path: str) -> frozenset[str]:
    """Return the letters of a font; of the one with a box for every letter, none."""
    font = get_font(path)
    return frozenset(() if font.family_name.startswith("Last Resort") else map(chr, font.get_charmap()))


@cache
def _find_new_fonts() -> None:
    """Make matplotlib know the fonts that were installed after it made its list, which it keeps; once a process."""
    known = {font.fname for font in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:
        fontManager.addfont(path)


@lru_cache
def _fonts(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Return families of this machine that have these letters, and the letters that none has."""
    _find_new_fonts()
    families, missing = [], letters
    for font in sorted(fontManager.ttflist, key=lambda font: (font.weight != 400, "Sans" not in font.name, font.name)):
        if missing & _letters(font.fname):
            families.append(font.name)
            missing -= _letters(font.fname)
    return families, missing
