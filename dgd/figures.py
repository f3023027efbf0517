"""Figures of a benchmark: accuracy by epoch, filter-level evidence, pruning; as SVG and PNG with the same bytes every time.

A line is the mean over seeds and its band runs from the lowest seed to the highest; network 0 of a group is shown. What a cell
did not leave (traces, pruning curves) is left out.
"""

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product, zip_longest
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dgd import evidence
from dgd.config import slug
from dgd.statistics import mean_interval
from dgd.tables import METHODS, read_cells, read_filters, replace_file

STYLES = {
    "baseline": ("#4d4d4d", (0, (4, 1.5))),
    "kd": ("#0072b2", (0, (1, 1))),
    "grafting": ("#e69f00", (0, (5, 1, 1, 1))),
    "dgd": ("#d55e00", "-"),
}
"""Colour and dash of the paper's methods; colours of Okabe and Ito, told apart without colour by the dash."""

OTHERS = {"o": "#009e73", "s": "#cc79a7", "^": "#56b4e9", "D": "#8c6d00", "v": "#332288", "P": "#882255"}
"""Markers and colours of further methods, in turn."""

DASHES = ("-", "--", "-.", ":")

THRESHOLDS = (1.0, 0.1)
"""L1 norms up to which a filter is invalid (arXiv 2004.12311, section 4.3)."""

CONV3 = ".conv3."
"""What the names of projection filters hold in a MobileNetV2 (and bottleneck ResNets): the paper shows these alone."""

MOST = 8
"""Methods up to which a matrix holds numbers; above, colours only."""

TOLD_APART = 12
"""Methods up to which their lines share axes."""

PANELS = 4
"""Side by side, where each method has axes of its own."""

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


def curves(histories: Mapping[str, Sequence[pd.DataFrame]], stem: str | Path, title: str) -> list[Path]:
    """Draw test accuracy by epoch.

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
        lines[method] = _joined(history.set_index("epoch")["test_top1_0"].dropna() for history in histories[method])

    def finish(axes):
        axes.margins(x=0.01)
        axes.set(xlabel="epoch", ylabel="test top-1 accuracy (%)")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))

    return _save_lines(lines, histories, finish, stem, title)


def filter_norms(norms: Mapping[str, Sequence[np.ndarray]], stem: str | Path, title: str) -> list[Path]:
    """Draw the L1 norms of conv filters, sorted; a mean over seeds is that of each rank.

    The vertical axis is logarithmic; norms below `FLOOR` are drawn at it. `THRESHOLDS` are marked: what lies at or below
    one is invalid.

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
    for method, table in _tables(norms).items():
        share = 100 * np.arange(1, table.shape[1] + 1) / table.shape[1]
        lines[method] = pd.DataFrame(np.sort(table, axis=1).T, index=share)  # (filters, seeds)

    def finish(axes):
        top = max(2.0, max(float(table.to_numpy().max()) for table in lines.values()) * 1.5)
        lowest = min(float(table.to_numpy().min()) for table in lines.values())
        bottom = max(FLOOR, min(0.05, lowest / 1.5))
        axes.set(yscale="log", ylim=(bottom * 0.9, top), xlim=(0, 100))
        notes = {threshold: f"threshold {threshold:g}" for threshold in THRESHOLDS[::-1]}
        for threshold in notes:
            axes.axhline(threshold, color="#999999", linewidth=0.9, zorder=1)
        if lowest < FLOOR:
            notes[FLOOR * 1.7] = f"norms below {FLOOR:g} are drawn at it"
        for height, text in notes.items():  # at the right, under the line: the curves pass above
            place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -2), "textcoords": "offset points"}
            axes.annotate(text, (0.99, height), **place, ha="right", va="top", color="#666666", fontsize=7.5)
        axes.set(xlabel="conv filters, sorted by norm (%)", ylabel="L1 norm of a filter")
        _plain(axes.yaxis)

    return _save_lines(lines, norms, finish, stem, title, lambda value: np.maximum(value, FLOOR))


def invalid_ratios(norms: Mapping[str, Sequence[np.ndarray]], stem: str | Path, title: str) -> list[Path]:
    """Draw the share of filters whose L1 norm is not above a threshold, over thresholds (arXiv 2001.05868, figure 1).

    Args and errors as `filter_norms`.
    """
    thresholds = np.geomspace(1e-4, 10, 101)
    lines = {
        method: pd.DataFrame({i: evidence.invalid_ratios(l1, thresholds) for i, l1 in enumerate(table)}, index=thresholds)
        for method, table in _tables(norms).items()
    }

    def finish(axes):
        for threshold in THRESHOLDS:
            axes.axvline(threshold, color="#999999", linewidth=0.9, zorder=1)
        axes.set(xscale="log", xlim=(1e-4, 10), ylim=(-0.02, 1.02))
        axes.set(xlabel="threshold of the L1 norm", ylabel="invalid filters (share of all)")
        _plain(axes.xaxis)

    return _save_lines(lines, norms, finish, stem, title)


def entropy_sums(
    sums: Mapping[str, Sequence[float]], networks: Mapping[str, int], layers: int, stem: str | Path, title: str
) -> list[Path]:
    """Draw the sum over layers of the entropy of their weights, a bar a method (arXiv 2001.05868, figure `entropy_compare`).

    Args:
        sums: {method: nats, one number a seed}.
        networks: {method: networks of a group}; written beside the names if they differ.
        layers: Convolution layers; with 10 bins the sum is at most `layers * ln(10)`.
        stem: Path of the figure without a suffix.
        title: Printed above.

    Returns:
        The paths of the .svg and the .png.

    Raises:
        ValueError: There is nothing to draw.
    """
    methods = _ordered(sums)
    differ = len({networks[method] for method in methods}) > 1
    names = [f"{m} ({networks[m]} network{'s' * (networks[m] > 1)})" if differ else m for m in methods]

    def draw(axes):
        for row, (method, place) in enumerate(methods.items()):
            interval = mean_interval(sums[method])
            colour = _style(method, place)["color"]
            axes.barh(row, interval.mean, height=0.65, color=colour, alpha=0.35, edgecolor=colour)
            text = f" {interval.mean:.2f}"
            if interval.n > 1:
                axes.plot([interval.low, interval.high], [row, row], color="black", marker="|", markersize=7, linewidth=1)
                text += f" [{interval.low:.2f}, {interval.high:.2f}]"
            end = interval.high if interval.n > 1 else interval.mean
            axes.annotate(f"{text} (n={interval.n})", (end, row), va="center", fontsize=7.5)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axes.set(xlabel=f"sum of the entropy of {layers} conv layers (nats; at most {layers * np.log(10):.1f})")
        axes.set_xlim(0, axes.get_xlim()[1] * 1.5)
        axes.grid(visible=False, axis="y")

    return _save(draw, stem, title, "mean and 95 % t-interval over n seeds", (6.0, 1.4 + 0.3 * len(names)))


def sets_by_epoch(sets: Mapping[float, Mapping[str, Sequence[pd.DataFrame]]], stem: str | Path, title: str) -> list[Path]:
    """Draw the mean L1 norm of valid and invalid filters by epoch, by rank and by position.

    Args:
        sets: {threshold: {method: one frame of `dgd.evidence.sets_over_epochs` a seed}}. A threshold at which no baseline has
            an invalid filter is named and not drawn, unless there is no other.
        stem: Path of the figure without a suffix.
        title: Printed above.

    Returns:
        The paths of the .svg and the .png.

    Raises:
        ValueError: There is nothing to draw.
    """
    panels, note = [], ""
    for threshold, frames in sets.items():
        kept = {method: [f for f in seeds if f.notna().to_numpy().all()] for method, seeds in frames.items()}
        if any(kept.values()):
            panels += [(threshold, kept, reading) for reading in ("rank", "position")]
        else:
            note += f"\nthreshold {threshold:g}: n/a, no filter of a baseline is invalid"
    if not panels:
        panels = [(*next(iter(sets.items())), "rank")]  # all filters are valid

    def draw(grid):
        for row, (threshold, frames, reading) in zip(np.atleast_2d(grid), panels):
            for axes, kind in zip(row, ("valid", "invalid")):
                axes.set_title(f"{kind}, threshold {threshold:g}, by {reading}", loc="left", fontsize=8)
                column = f"mean_l1_{kind}_{reading}"
                seeds = {method: [f[column] for f in own if f[column].notna().all()] for method, own in frames.items()}
                if any(seeds.values()):
                    _lines(axes, {method: _joined(seeds[method]) for method in _ordered(seeds)}, seeds)
                    axes.set_ylim(bottom=0)
                else:
                    axes.annotate("n/a", (0.5, 0.5), xycoords="axes fraction", ha="center")
            row[0].set_ylabel("mean L1 norm")
        for axes in row:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))

    note = (
        "mean and range over n seeds; how many filters are invalid (by rank: that many smallest)\nand which (by position) is "
        f"fixed by the same seed's finished baseline, at its last epoch{note}"
    )
    return _save(draw, stem, title, note, (6.0, 1.3 + 1.7 * len(panels)), (len(panels), 2), sharex=True)


def overlaps(norms: Mapping[str, Mapping[int, np.ndarray]], stem: str | Path, title: str) -> list[Path]:
    """Draw how far methods' invalid filters stand at the same positions, a matrix a threshold; see `dgd.evidence.overlap`.

    The diagonal holds a method's own invalid ratio: what its column would hold if positions had nothing to do with each other.

    Args:
        norms: {method: {seed: (filters,)}}; two methods are compared on the seeds that both have.
        stem: Path of the figure without a suffix.
        title: Printed above.

    Returns:
        The paths of the .svg and the .png.

    Raises:
        ValueError: There is nothing to draw, or networks differ in their number of filters.
    """
    methods = list(_ordered(norms))
    shapes = {np.shape(l1): method for method in methods for l1 in norms[method].values()}
    if len(shapes) > 1:
        raise ValueError(f"the methods differ in their number of filters: {shapes}")
    seeds = sorted({seed for method in methods for seed in norms[method]})
    size = len(methods)
    matrices, ratios = [], []
    for threshold in THRESHOLDS:
        found, ratio = np.full((len(seeds), size, size), np.nan), np.full((len(seeds), size), np.nan)
        for k, seed in enumerate(seeds):
            there = [i for i, method in enumerate(methods) if seed in norms[method]]
            l1 = np.stack([norms[methods[i]][seed] for i in there])
            found[k][np.ix_(there, there)] = evidence.overlap(l1, threshold)
            ratio[k, there] = (l1 <= threshold).mean(1)
        matrices.append(np.ma.masked_invalid(found).mean(0).filled(np.nan))  # NaN where no seed has a number
        ratios.append(np.nanmean(ratio, axis=0))

    def draw(grid):
        for axes, threshold, matrix, ratio in zip(grid, THRESHOLDS, matrices, ratios):
            shown = np.where(np.eye(size, dtype=bool), np.nan, matrix)
            axes.imshow(shown, aspect="auto", cmap=_colours("Blues"), vmin=0, vmax=1)
            for i in range(size if size <= MOST else 0):
                for j in range(size):
                    value = ratio[i] if i == j else shown[i, j]
                    text = "n/a" if np.isnan(value) else f"({value:.1%})" if i == j else f"{value:.2f}"
                    colour = "white" if i != j and value > 0.6 else "black"
                    axes.annotate(text, (j, i), ha="center", va="center", color=colour, fontsize=7)
            axes.set_title(f"threshold {threshold:g}", loc="left", fontsize=8)
            axes.set(xticks=range(size), xticklabels=methods, yticks=range(size), yticklabels=methods)
            axes.tick_params(axis="x", rotation=90)
            axes.grid(visible=False)
            axes.label_outer()

    note = (
        "share of the row's invalid positions that are invalid in the column's method too, mean over seeds\n"
        "(diagonal): the method's own invalid ratio, what its column would hold by chance; grey n/a: no filter is invalid"
    )
    if size > MOST:
        note = note.replace(
            "(diagonal): the method's own invalid ratio, what its column would hold by chance; ", "white 0, dark 1; "
        )
    side = max(2.0, (0.42 if size <= MOST else 0.17) * size)
    return _save(draw, stem, title, note, (2 * side + 2.0, side + 2.1), (1, 2))


def kept_shares(traces: Mapping[str, Sequence[evidence.Traces]], stem: str | Path, title: str) -> list[Path]:
    """Draw the share that each conv layer kept of itself at each exchange, a map a method, means over seeds.

    Args:
        traces: {method: one a seed}; those without an exchange are left out. Only exchanges that all seeds of a method have
            are drawn.
        stem: Path of the figure without a suffix.
        title: Printed above.

    Returns:
        The paths of the .svg and the .png.

    Raises:
        ValueError: There is nothing to draw, or networks differ in their number of layers.
    """
    traces = {method: [t for t in seeds if len(t.exchanges)] for method, seeds in traces.items()}
    methods = list(_ordered(traces))
    shapes = {t.share.shape[1] for method in methods for t in traces[method]}
    if len(shapes) > 1:
        raise ValueError(f"the methods differ in their number of layers: {sorted(shapes)}")
    (layers,) = shapes
    maps = []
    for method in methods:
        common = set.intersection(*(set(t.exchanges.tolist()) for t in traces[method]))
        frames = [pd.DataFrame(t.share.astype(float), index=t.exchanges).loc[sorted(common)] for t in traces[method]]
        maps.append(sum(frames) / len(frames))
    epochs = sorted(set().union(*(table.index for table in maps)))
    picture = np.concatenate([table.reindex(epochs).to_numpy().T for table in maps])  # (methods x layers, exchanges)
    reach = max(0.05, np.nanmax(np.abs(picture - 0.5), initial=0))

    def draw(axes):
        limits = {"vmin": 0.5 - reach, "vmax": 0.5 + reach}
        image = axes.imshow(picture, aspect="auto", cmap=_colours("cividis"), interpolation="nearest", **limits)
        for k in range(1, len(methods)):
            axes.axhline(k * layers - 0.5, color="white", linewidth=3)
        ticks = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), 8)).round().astype(int))
        axes.set(xticks=ticks, xticklabels=[epochs[tick] for tick in ticks], xlabel="epoch after which they exchanged")
        names = [f"{method} (n={len(traces[method])})" for method in methods]
        axes.set(yticks=[(k + 0.5) * layers - 0.5 for k in range(len(methods))], yticklabels=names)
        axes.grid(visible=False)
        axes.figure.colorbar(image, ax=axes, fraction=0.05).set_label("share kept of itself")

    note = f"network 0, mean over n seeds; for each method {layers} conv layers, the first at the top"
    return _save(draw, stem, title, note, (6.0, 1.3 + 1.1 * min(len(methods), 6) + 0.5 * max(0, len(methods) - 6)))


def pruning(pruned: Mapping[str, Sequence[pd.DataFrame]], stem: str | Path, title: str) -> list[Path]:
    """Draw accuracy as filters are removed: at the left the smallest ones, at the right as many random ones.

    Args:
        pruned: {method: one frame of `dgd.evidence.read_pruning` a seed}; only numbers of filters that all seeds of a method
            have are drawn.
        stem: Path of the figure without a suffix.
        title: Printed above.

    Returns:
        The paths of the .svg and the .png.

    Raises:
        ValueError: There is nothing to draw.
    """

    def draw(grid):
        for axes, column, what in zip(grid, ("top1", "top1_random"), ("smallest", "random")):
            lines = {}
            for method in _ordered(pruned):
                lines[method] = _joined(f.set_index(100 * f["share"])[column] for f in pruned[method])
            _lines(axes, lines, pruned)
            axes.set(xlabel=f"{what} filters removed (%)", ylabel="test top-1 accuracy (%)")
            axes.label_outer()

    note = "mean and range over n seeds; smallest by L1 norm over the whole network; random: mean of three draws"
    return _save(draw, stem, title, note, (6.0, 3.4), (1, 2), sharey=True)


class _Cell(NamedTuple):
    method: str
    seed: int
    folder: Path
    metrics: dict


def from_cells(folder: str | Path, out: str | Path, only: Collection[str] | None = None, processes: int = 1) -> list[Path]:
    """Draw all figures for each data set and model of a benchmark from its finished cells.

    Methods with a teacher share the figures with those of the same student without one. Where a student has several
    teachers (`student-by-teacher` folders), each pair has its own figures.

    Args:
        folder: `results/<benchmark>`; reads metrics.json, history.csv, filters.npz and pruning.csv of its cells, network 0.
        out: Folder of the figures, `<figure>-<dataset>-<model>`.
        only: Cells to draw, as the column `folder` of cells.csv names them; None draws all that are there.
        processes: Models drawn at once.

    Returns:
        The paths written; none if no cell finished.
    """
    cells: dict[tuple[str, str, str], list[_Cell]] = {}
    for path, metrics in read_cells(folder):
        if metrics["status"] == "finished" and (only is None or path.relative_to(folder).as_posix() in only):
            cell = metrics["cell"]
            key = cell["dataset"], cell["student"], cell["model"]
            cells.setdefault(key, []).append(_Cell(cell["method"], cell["seed"], path, metrics))
    jobs = []
    for dataset, student, model in cells:
        pairs = [key for key in cells if key[:2] == (dataset, student) and key[2] != student]
        if model == student and pairs:
            continue  # its cells are drawn with each pair
        members = cells.get((dataset, student, student), []) if model != student else []
        name, title = f"{slug(dataset)}-{model}", f"{slug(dataset)}, {model.replace('-by-', ' by ')}"
        jobs.append(([*members, *cells[dataset, student, model]], Path(out), name, title))
    if processes == 1 or len(jobs) < 2:
        written = [_draw_all(*job) for job in jobs]
    else:
        with ProcessPoolExecutor(min(processes, len(jobs))) as pool:
            written = list(pool.map(_draw_all, *zip(*jobs)))
    return [path for paths in written for path in paths]


def _draw_all(cells: list[_Cell], out: Path, name: str, title: str) -> list[Path]:
    """Draw every figure of one student for which its cells left something."""
    # A method has its place in every figure, also where it has nothing to show: its colour is the same in all.
    empty = {cell.method: [] for cell in cells}
    histories, sums, pruned, traces = ({method: [] for method in empty} for _ in range(4))
    norms, conv3 = ({method: {} for method in empty} for _ in range(2))
    networks, layers = {}, 0
    for method, seed, path, metrics in cells:
        results = metrics.get("networks", [])
        networks[method] = len(results)
        if (path / "history.csv").exists():
            histories[method].append(pd.read_csv(path / "history.csv", usecols=("epoch", "test_top1_0").__contains__))
        curve = evidence.read_pruning(path / "pruning.csv", results[0]["last"]["top1"] if results else None)
        if curve is not None:
            pruned[method].append(curve)
        found = read_filters(path / "filters.npz").get(0) if (path / "filters.npz").exists() else None
        if not found:  # a transformer has no filters
            continue
        layers = len(found)
        if results:
            sums[method].append(results[0]["filters"]["entropy_sum"])
        norms[method][seed] = np.concatenate([*found.values()])
        projections = [l1 for layer, l1 in found.items() if CONV3 in f".{layer}"]
        if projections:
            conv3[method][seed] = np.concatenate(projections)
    for method, seed, path, _ in cells:
        if seed in norms[method]:
            found = evidence.read_traces(path / "filters.npz")
            if found:
                traces[method].append((seed, found))
    baselines = norms.get("baseline", {})
    sets = {threshold: {method: [] for method in empty} for threshold in THRESHOLDS}
    for method, threshold in product(empty, THRESHOLDS):
        for seed, found in traces[method]:
            if seed in baselines:
                sets[threshold][method].append(evidence.sets_over_epochs(found, baselines[seed], threshold))
    written = []
    if any(histories.values()):
        written += curves(histories, out / f"curves-{name}", title)
    if any(norms.values()):
        lists = {method: [*seeds.values()] for method, seeds in norms.items()}
        written += filter_norms(lists, out / f"filters-{name}", title)
        written += invalid_ratios(lists, out / f"invalid-{name}", title)
    if any(conv3.values()):
        lists = {method: [*seeds.values()] for method, seeds in conv3.items()}
        written += filter_norms(lists, out / f"filters-conv3-{name}", f"{title}, conv3 filters")
    if sum(map(bool, norms.values())) > 1:
        written += overlaps(norms, out / f"overlap-{name}", title)
    if sum(map(bool, sums.values())) > 1:
        written += entropy_sums(sums, networks, layers, out / f"entropy-{name}", title)
    if any(sets[THRESHOLDS[0]].values()):
        written += sets_by_epoch(sets, out / f"sets-{name}", title)
    grafted = {method: [found for _, found in seeds if len(found.exchanges)] for method, seeds in traces.items()}
    if any(grafted.values()):
        written += kept_shares(grafted, out / f"shares-{name}", title)
    if any(pruned.values()):
        written += pruning(pruned, out / f"pruning-{name}", title)
    return written


def _ordered(methods: Mapping[str, Collection]) -> dict[str, int]:
    """Return the methods that have something to draw, the paper's four first, and the place of each among the others."""
    others = [method for method in methods if method not in METHODS]
    order = {method: others.index(method) if method in others else -1 for method in (*METHODS, *others) if methods.get(method)}
    if not order:
        raise ValueError("nothing to draw: no method has any data")
    return order


def _tables(norms: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the norms of each method as one array (seeds, filters)."""
    for method in norms:
        shapes = [np.shape(array) for array in norms[method]]
        if len(set(shapes)) > 1:
            raise ValueError(f"the seeds of {method!r} differ in their number of filters: {shapes}")
    return {method: np.asarray(norms[method], dtype=float) for method in _ordered(norms)}


def _joined(seeds: Iterable[pd.Series]) -> pd.DataFrame:
    """Return one column a seed, with the rows that all seeds have."""
    return pd.concat(list(seeds), axis=1, join="inner").sort_index()


def _style(method: str, place: int) -> dict:
    """Return how a method's line looks: told apart without colour by its dash or marker."""
    if method in STYLES:
        colour, dash = STYLES[method]
        return {"color": colour, "linestyle": dash}
    marker, colour = list(OTHERS.items())[place % len(OTHERS)]
    return {"color": colour, "linestyle": DASHES[place // len(OTHERS) % 4], "marker": marker, "markevery": 0.15}


def _lines(axes, lines: Mapping[str, pd.DataFrame], methods: Mapping[str, Collection], clip: Callable = np.asarray) -> None:
    """Draw a line and a band for each method, named with its number of seeds; frames are (x, seeds)."""
    places = _ordered(methods)
    few = max(len(table) for table in lines.values()) <= 3  # a line of one point would be invisible
    for method, table in lines.items():
        x, y = table.index.to_numpy(), table.to_numpy(dtype=float)
        style = {"markersize": 4} | _style(method, places[method]) | ({"marker": "o", "markevery": None} if few else {})
        axes.plot(x, clip(y.mean(1)), label=f"{method} (n={y.shape[1]})", **style)
        if y.shape[1] > 1:
            axes.fill_between(x, clip(y.min(1)), clip(y.max(1)), color=style["color"], alpha=0.15, linewidth=0)


def _save_lines(
    lines: Mapping[str, pd.DataFrame],
    methods: Mapping[str, Collection],
    finish: Callable,
    stem: str | Path,
    title: str,
    clip: Callable = np.asarray,
) -> list[Path]:
    """`_save` a figure of a line a method, on one pair of axes or, where nobody could tell them apart, on a pair for each."""
    if len(lines) <= TOLD_APART:

        def draw(axes):
            _lines(axes, lines, methods, clip)
            finish(axes)

        return _save(draw, stem, title)

    ends = [table.mean(axis=1).reindex([*table.index, np.nan]) for table in lines.values()]  # a gap after each line
    others = np.concatenate([mean.index for mean in ends]), clip(np.concatenate(ends))
    dot = "." if max(map(len, lines.values())) == 1 else None  # a line of one point would be invisible

    def draw(grid):
        for place, (axes, method) in enumerate(zip_longest(grid.flat, lines)):
            if method is None:
                axes.set_visible(False)
                continue
            _lines(axes, {method: lines[method]}, methods, clip)
            (own,) = axes.get_lines()
            axes.set_title(own.get_label(), fontsize=min(8, 240 / len(own.get_label())))  # up to 30 letters have room
            own.set_label("")
            axes.plot(*others, color="#d0d0d0", linewidth=0.6, zorder=1, marker=dot, markersize=2)
            finish(axes)
            for text in axes.texts:
                text.set_visible(place == 0)
            axes.figure.supylabel(axes.get_ylabel(), fontsize=9)
            last = place + PANELS >= len(lines)
            axes.set_xlabel(axes.get_xlabel() if last else "", fontsize=7.5)
            axes.set_ylabel("")
            axes.tick_params(labelbottom=last)
            axes.minorticks_off()
            if isinstance(axes.xaxis.get_major_locator(), matplotlib.ticker.MaxNLocator):
                axes.xaxis.get_major_locator().set_params(nbins=5)

    rows = -(-len(lines) // PANELS)
    note = "a method each, mean and range over n seeds; grey: the means of the others"
    return _save(draw, stem, title, note, (8.0, 1.0 + 1.35 * rows), (rows, PANELS), sharex=True, sharey=True)


def _plain(axis) -> None:
    """Write the ticks of a log axis as 0.01 and not as a power, which takes ten times as long to set."""
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _colours(name: str):
    """Return a map of colours that get darker all the way, grey where there is no number."""
    return matplotlib.colormaps[name].with_extremes(bad="#cccccc")


def _save(
    draw: Callable,
    stem: str | Path,
    title: str,
    note: str = "mean and range over n seeds",
    size: tuple[float, float] = (6.0, 4.0),
    shape: tuple[int, int] = (1, 1),
    **options,
) -> list[Path]:
    """Make a figure, let `draw` fill its axes (one or an array), and write it as .svg and .png, atomically, without a date."""
    paths = []
    with matplotlib.style.context(["default", RC]):  # whatever matplotlibrc the machine has
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(*shape, **options)
        draw(grid)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        named = {}
        for axes in figure.axes:
            named.update((label, handle) for handle, label in zip(*axes.get_legend_handles_labels()))
        columns = 4 if max(map(len, named), default=0) < 18 else 2
        rows = -(-len(named) // columns)
        figure.set_figheight(size[1] + 0.17 * max(0, rows - 2))  # a long legend takes nothing from the axes
        legend = {"ncols": columns, "columnspacing": 1.4, "handlelength": 2.6, "title_fontsize": 7.5}
        figure.legend(named.values(), named.keys(), loc="outside lower center", title=note, **legend)
        figure.get_layout_engine().execute(figure)  # once for both formats
        figure.set_layout_engine("none")
        for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=160, metadata=metadata)
            paths.append(Path(f"{stem}.{suffix}"))
            replace_file(paths[-1], buffer.getvalue())
    return paths
