"""Figures of a benchmark: accuracy by epoch and sorted filter norms, as SVG and PNG with the same bytes every time."""

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib.style
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dgd.config import slug
from dgd.tables import METHODS, read_cells, read_filters, replace_file

STYLES = {
    "baseline": ("#4d4d4d", (0, (4, 1.5))),
    "kd": ("#0072b2", (0, (1, 1))),
    "grafting": ("#e69f00", (0, (5, 1, 1, 1))),
    "dgd": ("#d55e00", "-"),
}
"""Colour and dash of the paper's methods; colours of Okabe and Ito, told apart without colour by the dash."""

OTHERS = ("#009e73", "#cc79a7", "#56b4e9", "#8c6d00", "#332288", "#882255")
"""Colours of further methods, in turn."""

FLOOR = 1e-4
"""Norms below this are drawn at it: collapsed filters reach zero, which a log axis has not."""

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


def curves(histories: dict[str, list[pd.DataFrame]], stem: str | Path, title: str) -> list[Path]:
    """Draw test accuracy by epoch: a line is the mean over seeds, its band runs from the lowest seed to the highest.

    Args:
        histories: {method: one history.csv a seed}, with the columns `epoch` and `test_top1_0` (percent). Only epochs
            that all seeds of a method have are drawn.
        stem: Path of the figure without a suffix.
        title: Printed above.

    Returns:
        The paths of the .svg and the .png.

    Raises:
        ValueError: There is nothing to draw, or a history lacks a column.
    """
    lines = {}
    for method in _ordered(histories):
        for history in histories[method]:
            missing = {"epoch", "test_top1_0"} - set(history.columns)
            if missing:
                raise ValueError(f"a history of {method!r} has no column {sorted(missing)[0]!r}")
        # An epoch without an evaluation has an empty cell.
        seeds = [history.set_index("epoch")["test_top1_0"].dropna() for history in histories[method]]
        lines[method] = pd.concat(seeds, axis=1, join="inner").sort_index()
    points = max(len(table) for table in lines.values())

    def draw(axes):
        for place, (method, table) in enumerate(lines.items()):
            mean, low, high = (getattr(table, name)(axis=1).to_numpy() for name in ("mean", "min", "max"))
            marker = "o" if points <= 3 else None  # a line of one epoch would be invisible
            _line(axes, table.index.to_numpy(), mean, low, high, method, place, table.shape[1], marker)
        axes.margins(x=0.01)
        axes.set(xlabel="epoch", ylabel="test top-1 accuracy (%)")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))

    return _save(draw, stem, title)


def filter_norms(norms: dict[str, list[np.ndarray]], stem: str | Path, title: str) -> list[Path]:
    """Draw the L1 norms of all conv filters, sorted: a line is the mean over seeds by rank, the band lowest to highest.

    The vertical axis is logarithmic; norms below `FLOOR` are drawn at it. The thresholds 0.1 and 1 of arXiv 2004.12311,
    section 4.3, are marked: what lies at or below one is invalid.

    Args:
        norms: {method: one array (filters,) a seed}; the arrays of a method are equally long.
        stem: Path of the figure without a suffix.
        title: Printed above.

    Returns:
        The paths of the .svg and the .png.

    Raises:
        ValueError: There is nothing to draw, or the arrays of a method differ in length.
    """
    lines = {}
    for method in _ordered(norms):
        if len({np.shape(array) for array in norms[method]}) > 1:
            shapes = [np.shape(array) for array in norms[method]]
            raise ValueError(f"the seeds of {method!r} differ in their number of filters: {shapes}")
        lines[method] = np.sort(np.asarray(norms[method], dtype=float), axis=1)  # (seeds, filters)

    def draw(axes):
        for place, (method, table) in enumerate(lines.items()):
            mean, low, high = (np.maximum(f(table, axis=0), FLOOR) for f in (np.mean, np.min, np.max))
            share = 100 * np.arange(1, table.shape[1] + 1) / table.shape[1]
            _line(axes, share, mean, low, high, method, place, len(table))
        top = max(2.0, max(float(table.max()) for table in lines.values()) * 1.5)
        bottom = max(FLOOR, min(0.05, min(float(table.min()) for table in lines.values()) / 1.5))
        axes.set(yscale="log", ylim=(bottom * 0.9, top), xlim=(0, 100))
        notes = {threshold: f"threshold {threshold:g}" for threshold in (0.1, 1)}
        for threshold in notes:
            axes.axhline(threshold, color="#999999", linewidth=0.9, zorder=1)
        if any((table < FLOOR).any() for table in lines.values()):
            notes[FLOOR * 1.7] = f"norms below {FLOOR:g} are drawn at it"
        for height, text in notes.items():  # at the right, under the line: the curves pass above
            axes.annotate(
                text,
                (0.99, height),
                xycoords=("axes fraction", "data"),
                xytext=(0, -2),
                textcoords="offset points",
                ha="right",
                va="top",
                color="#666666",
                fontsize=7.5,
            )
        axes.set(xlabel="conv filters, sorted by norm (%)", ylabel="L1 norm of a filter")

    return _save(draw, stem, title)


def from_cells(folder: str | Path, out: str | Path, only: Collection[str] | None = None) -> list[Path]:
    """Draw both figures for each data set and model of a benchmark from its finished cells.

    Methods with a teacher share the figure with those of the same student without one. Where a student has several
    teachers (`student-by-teacher` folders), each pair has its own figures.

    Args:
        folder: `results/<benchmark>`; reads metrics.json, history.csv and filters.npz of its cells, network 0.
        out: Folder of the figures, `curves-<dataset>-<model>` and `filters-<dataset>-<model>`.
        only: Cells to draw, as the column `folder` of cells.csv names them; None draws all that are there.

    Returns:
        The paths written; none if no cell finished.
    """
    cells: dict[tuple[str, str, str], list[tuple[str, Path]]] = {}
    for path, metrics in read_cells(folder):
        if metrics["status"] == "finished" and (only is None or path.relative_to(folder).as_posix() in only):
            cell = metrics["cell"]
            cells.setdefault((cell["dataset"], cell["student"], cell["model"]), []).append((cell["method"], path))
    written = []
    for dataset, student, model in cells:
        pairs = [key for key in cells if key[:2] == (dataset, student) and key[2] != student]
        if model == student and pairs:
            continue  # its cells are drawn with each pair
        members = cells.get((dataset, student, student), []) if model != student else []
        histories, norms = {}, {}
        for method, path in members + cells[dataset, student, model]:
            if (path / "history.csv").exists():
                histories.setdefault(method, []).append(pd.read_csv(path / "history.csv"))
            layers = read_filters(path / "filters.npz").get(0) if (path / "filters.npz").exists() else None
            if layers:  # a transformer has no filters
                norms.setdefault(method, []).append(np.concatenate([*layers.values()]))
        name, title = f"{slug(dataset)}-{model}", f"{slug(dataset)}, {model.replace('-by-', ' by ')}"
        if histories:
            written += curves(histories, Path(out) / f"curves-{name}", title)
        if norms:
            written += filter_norms(norms, Path(out) / f"filters-{name}", title)
    return written


def _ordered(methods: dict[str, Sequence]) -> list[str]:
    """Return the methods that have something to draw: the paper's four first, then the others as they come."""
    order = [method for method in (*METHODS, *methods) if methods.get(method)]
    if not order:
        raise ValueError("nothing to draw: no method has any data")
    return list(dict.fromkeys(order))


def _line(axes, x, mean, low, high, method: str, place: int, seeds: int, marker: str | None = None) -> None:
    """Draw one method's line and band, named with its number of seeds."""
    colour, dash = STYLES.get(method, (OTHERS[place % len(OTHERS)], ("-", "--", "-.", ":")[place % 4]))
    label = f"{method} (n={seeds})"
    axes.plot(x, mean, color=colour, linestyle=dash, label=label, marker=marker, markersize=4)
    if seeds > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _save(draw, stem: str | Path, title: str) -> list[Path]:
    """Make a figure, let `draw` fill its axes, and write it as .svg and .png, atomically and without a date."""
    paths = []
    with matplotlib.style.context(["default", RC]):  # whatever matplotlibrc the machine has
        figure = Figure(figsize=(6.0, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title, loc="left")
        columns = 4 if max(len(label) for label in axes.get_legend_handles_labels()[1]) < 18 else 2
        legend = {"ncols": columns, "columnspacing": 1.4, "handlelength": 2.6, "title_fontsize": 7.5}
        figure.legend(loc="outside lower center", title="mean and range over n seeds", **legend)
        for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=160, metadata=metadata)
            paths.append(Path(f"{stem}.{suffix}"))
            replace_file(paths[-1], buffer.getvalue())
    return paths
