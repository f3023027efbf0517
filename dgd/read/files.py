"""Read the files of one cell: metrics.json, config.yaml, filters.npz and pruning.csv."""

import csv
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dgd import methods, yaml_files
from dgd.cell import Cell, slug
from dgd.measured import LABELS as LABELS
from dgd.measured import read_metrics as read_metrics
from dgd.metrics import METRICS, Metric
from dgd.seals import AGAIN, RECORD, cell_of, check_seal, misplaced, root_of, seal

PRUNING = ("share", "removed", "filters_left", "parameters_left")
"""The columns of pruning.csv besides the metric's own two, `<metric>` and `<metric>_random`; see `dgd.pruning`."""

TOLERANCE = 0.5
"""By how much the metric may differ between pruning.csv and metrics.json, in its unit; as in `dgd.pruning`."""

PRUNE_AGAIN = "delete it and run `dgd-bench prune` on its folder"


def read_cells(folder: str | Path) -> Iterator[tuple[Path, dict]]:
    """Yield (cell folder, metrics) of every cell under a benchmark's results, sorted by path.

    Args:
        folder: `results/<benchmark>`.

    Raises:
        ValueError: A metrics.json is not JSON, is not what was written, has no `status` or no complete `cell`, or is that of
            another cell than its folder's path says; or provenance.json is.
    """
    folder, benchmark = Path(folder), None
    for path in sorted(folder.glob("*/*/*/seed*/metrics.json")):
        metrics = read_metrics(path)
        cell = metrics["cell"]
        benchmark = benchmark or cell["benchmark"]
        own = f"{cell['benchmark']}/{slug(cell['dataset'])}/{cell['model']}/{cell['method']}/seed{cell['seed']}"
        for name, said in ((path.name, own), (RECORD, cell_of(path.parent) or own)):
            root_of(path.with_name(name), said, renamed=True)
            if said.partition("/")[0] != benchmark:
                raise misplaced(path.with_name(name), said)
        yield path.parent, metrics


def as_written(path: str | Path) -> Path:
    """Return the path of a cell's file that is about to be read.

    Raises:
        ValueError: The file is not what was written, by the cell's seal.
    """
    path = Path(path)
    if path.is_file():
        check_seal(path.parent, [path.name])
    return path


def has(path: str | Path) -> bool:
    """Return whether a cell left a file: one of older code may have none; one that is sealed must have what its seal has.

    Raises:
        ValueError: The cell's seal has the file, and it is gone.
    """
    path = Path(path)
    if not path.is_file():
        check_seal(path.parent, [path.name] if path.name in (seal(path.parent) or ()) else [])
    return path.is_file()


def read_config(path: str | Path) -> Cell:
    """Read the config.yaml of a cell, also of an older version: what it lacks has its default.

    Raises:
        ValueError: It is not there, is not what was written, is not YAML, or is no cell's.
    """
    try:
        if not Path(path).is_file():
            raise ValueError("no such file")
        return methods.cell_of(yaml_files.read(as_written(path)))
    except ValueError as error:
        first, *more = str(error).splitlines()
        raise ValueError(f"{path}: {first}{f', and {len(more)} more mistakes' if more else ''}; {AGAIN}") from error


# ------------------------------------------------------------------------------------------------------- filters.npz


NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n",
    re.DOTALL,
)
"""The header of a .npy file of format 1.0 as numpy writes it, for arrays of numbers."""
PACKED = 1100
"""By how much deflate can shrink a file at most, and some more: an array that is said to be larger is not there."""


def read_arrays(path: str | Path, *prefixes: str) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz whose names begin with one of some texts, in the order of the file.

    `np.load` parses the header of each array anew, which takes as long as all the rest where thousands of layers share one.

    Args:
        path: The file.
        prefixes: Such as `l1/0/`.

    Raises:
        ValueError: The file is not there or is damaged.
    """
    path = as_written(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {AGAIN}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.startswith(prefixes)]
            names = [member.filename.removesuffix(".npy") for member in members]
            if len({*names}) != len(names):
                raise ValueError(f"the array {next(name for name in names if names.count(name) > 1)!r} is there twice")
            return {name: _array(archive, member) for name, member in zip(names, members)}
    # All that `zipfile` has for what it cannot read: RuntimeError is of encrypted files, the others of damage.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:200]}); {AGAIN}") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.file_size > PACKED * member.compress_size + PACKED:
        raise ValueError(f"{member.filename!r} cannot have {member.file_size:,} bytes, packed into {member.compress_size:,}")
    npy = archive.read(member)
    start = 10 + int.from_bytes(npy[8:10], "little")
    shape, order, dtype = _header(npy[:start])
    if math.prod(shape) * dtype.itemsize != len(npy) - start:
        raise ValueError(f"{member.filename!r} has {len(npy) - start:,} bytes for {dtype} of shape {shape}")
    return np.frombuffer(npy, dtype, offset=start).reshape(shape, order=order)


@cache
def _header(header: bytes) -> tuple[tuple[int, ...], str, np.dtype]:
    found = NPY.fullmatch(header)
    if not found:
        raise ValueError("not a .npy array of numbers in format 1.0")
    try:
        dtype, sizes = np.dtype(found[2].decode()), [int(size) for size in found[4].split(b",") if size.strip()]
    except (TypeError, ValueError):
        raise ValueError(f"no type or no shape in {found[0][10:80]!r}") from None
    return tuple(sizes), "F" if found[3] == b"True" else "C", dtype


def read_filters(path: str | Path) -> dict[int, dict[str, np.ndarray]]:
    """Read the L1 norms of filters.npz.

    Args:
        path: The file; its keys are `l1/<network>/<layer>`, each (filters,), in layer order.

    Returns:
        {network: {layer: L1 norms (filters,)}}, in the order of the file.

    Raises:
        ValueError: The file is damaged, or holds something else.
    """
    norms: dict[int, dict[str, np.ndarray]] = {}
    for name, array in read_arrays(path, "l1/").items():
        place = re.fullmatch(r"l1/(\d{1,9})/(.+)", name, re.ASCII)
        if not place:
            raise ValueError(f"{path}: an array {name!r}; norms are l1/<network>/<layer>; {AGAIN}")
        if array.ndim != 1:
            raise ValueError(f"{path}: an array of shape {array.shape}; L1 norms of a layer are (filters,); {AGAIN}")
        _refuse_values(path, name, array, least=0)
        norms.setdefault(int(place[1]), {})[place[2]] = array
    return norms


def read_entropies(path: str | Path, network: int = 0) -> np.ndarray:
    """Read the entropy of each layer of a network, nats (layers,), from filters.npz; empty where there is none.

    Raises:
        ValueError: The file is damaged, or holds something else.
    """
    name = f"entropy/{network}"
    found = read_arrays(path, f"{name}.npy").get(name, np.zeros(0, np.float32))
    if found.ndim != 1:
        raise ValueError(f"{path}: {name} has shape {found.shape}; the entropies of layers are (layers,); {AGAIN}")
    _refuse_values(path, name, found, least=0)
    return found


def _refuse_values(path: str | Path, name: str, array: np.ndarray, least: float = -math.inf, kind: str = "f") -> None:
    """Raise ValueError where an array has another kind of numbers, one that is not finite, or one below the least."""
    if array.dtype.kind not in kind or not np.isfinite(array).all() or (array.size and array.min() < least):
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise ValueError(f"{path}: {name} holds {array.dtype} that are not all finite numbers{bound}; {AGAIN}")


class Traces(NamedTuple):
    """What one network of a cell was like over its epochs, which count from 0.

    Attributes:
        epochs: int (T,), epochs after which norms were recorded; the last epoch is among them.
        l1: float (T, filters), in the order of filters.npz.
        entropy: float (T, layers), nats.
        exchanges: int (E,), epochs after which the networks exchanged; empty without an exchange.
        share: float (E, layers), what each convolution layer kept of itself (its filters' mean).
    """

    epochs: np.ndarray
    l1: np.ndarray
    entropy: np.ndarray
    exchanges: np.ndarray
    share: np.ndarray


def read_traces(path: str | Path, network: int = 0) -> Traces | None:
    """Read the traces of filters.npz; None where there are none (a cell of older code, a network without filters).

    Raises:
        ValueError: The file is damaged, or its arrays do not fit together.
    """
    names = {kind: f"trace/{kind}/{network}" for kind in ("l1", "entropy", "share")}
    found = read_arrays(path, *(f"{name}.npy" for name in (*names.values(), "epochs", "exchanges")))
    l1, entropy, share = (found.get(name) for name in names.values())
    if l1 is None or not l1.size:
        return None
    epochs, exchanges = found.get("epochs"), found.get("exchanges")
    if epochs is None or entropy is None or (l1.ndim, entropy.ndim) != (2, 2) or (exchanges is None and share is not None):
        raise ValueError(f"{path}: traces of network {network} without epochs, exchanges or an entropy of each layer; {AGAIN}")
    if exchanges is None or share is None:
        exchanges, share = np.zeros(0, int), np.zeros((0, entropy.shape[1]))
    for name, array in (("epochs", epochs), ("exchanges", exchanges)):
        _refuse_values(path, name, array, least=0, kind="iu")
        if array.ndim != 1 or (np.diff(array) <= 0).any():
            raise ValueError(f"{path}: {name} are not epochs that rise; {AGAIN}")
    for kind, array in (("l1", l1), ("entropy", entropy)):
        _refuse_values(path, names[kind], array, least=0)
    if share.dtype.kind != "f" or np.isinf(share).any():
        raise ValueError(f"{path}: {names['share']} holds what is no share; {AGAIN}")
    if not len(epochs) == len(l1) == len(entropy) or share.shape != (len(exchanges), entropy.shape[1]):
        raise ValueError(
            f"{path}: traces of {len(epochs)} epochs and {len(exchanges)} exchanges do not fit arrays of shape "
            f"{l1.shape}, {entropy.shape}, {share.shape}; {AGAIN}"
        )
    return Traces(epochs, l1, entropy, exchanges, share)


def read_images(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of a generator's predictions.npz: those of its first network, uint8 (N, C, H, W), and their labels (N,).

    Raises:
        ValueError: The file is not there, is damaged, or holds something else.
    """
    found = read_arrays(path, "labels.npy", "predictions.npy")
    labels, images = found.get("labels"), found.get("predictions")
    if labels is None or images is None or images.ndim != 5 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"{path}: no images (networks, N, C, H, W) and their labels in it; {AGAIN}")
    _refuse_values(path, "labels", labels, kind="iuf")
    if labels.ndim != 1 or len(labels) < images.shape[1]:
        raise ValueError(f"{path}: {images.shape[1]} images and labels of shape {labels.shape}; {AGAIN}")
    return images[0], labels[: images.shape[1]]


# ------------------------------------------------------------------------------------------------- the tables of a cell


def read_columns(path: str | Path, remedy: str) -> dict[str, list[str]]:
    """Return the columns of a CSV file as texts: each has a name of its own, and each row a value of each, if an empty one.

    Raises:
        ValueError: The file is not there, is not UTF-8, or is no such table.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {remedy}")
    try:
        text = path.read_bytes().decode("utf-8")
        head, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row] or [[]]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: no table ({error}); {remedy}") from None
    for name in head:
        if not name or head.count(name) > 1:
            raise ValueError(f"{path}: the column {name[:60]!r} is there twice or has no name; {remedy}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise ValueError(f"{path}: row {number} has {len(row)} values for {len(head)} columns; {remedy}")
    return {name: [row[i] for row in rows] for i, name in enumerate(head)}


def numbers(
    columns: dict[str, list[str]], name: str, path: str | Path, remedy: str, least: float = -math.inf, most: float = math.inf
) -> list[float]:
    """Return a column of `read_columns` as numbers, NaN where a value is empty.

    Raises:
        ValueError: There is no such column, or a value is no finite number in these bounds.
    """
    if name not in columns:
        raise ValueError(f"{path}: no column {name!r}; {remedy}")
    found = []
    for number, text in enumerate(columns[name], 1):
        value = float(text) if NUMBER.fullmatch(text) else math.inf if text else math.nan
        if math.isinf(value) or value < least or value > most:
            bounds = "" if math.isinf(least) and math.isinf(most) else f" from {least:g} to {most:g}"
            raise ValueError(f"{path}: {name} of row {number} is {text[:60]!r}; it must be a number{bounds}; {remedy}")
        found.append(value)
    return found


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_history(path: str | Path, metric: Metric) -> pd.DataFrame:
    """Read of a history.csv the metric of network 0 on the test split.

    Returns:
        Frame with `epoch`, which counts from 0, and `test_<metric>_0`, NaN where an epoch was not evaluated.

    Raises:
        ValueError: The file is not there, is damaged, or lacks one of the two columns.
    """
    columns, name = read_columns(as_written(path), AGAIN), f"test_{metric.name}_0"
    epochs, values = numbers(columns, "epoch", path, AGAIN), numbers(columns, name, path, AGAIN, metric.least, metric.most)
    if epochs != list(range(len(epochs))):
        raise ValueError(f"{path}: its epochs are not 0 to {len(epochs) - 1}; {AGAIN}")
    if not epochs or math.isnan(values[-1]):
        raise ValueError(f"{path}: no {name} of the last epoch; {AGAIN}")
    return pd.DataFrame({"epoch": range(len(epochs)), name: values})


def read_pruning(
    path: str | Path, metric: Metric = METRICS["classification"], measured: float | None = None
) -> pd.DataFrame | None:
    """Read pruning.csv.

    Args:
        path: The file.
        metric: Of the cell's task; two columns are called after it.
        measured: What metrics.json says of the whole network.

    Returns:
        Frame with the columns of `PRUNING`, `<metric>` and `<metric>_random`, by share; None where there is no file, or one
        without rows.

    Raises:
        ValueError: It lacks a column, has no row for the whole network, or is of other weights than metrics.json.
    """
    if not Path(path).is_file():
        return None
    columns, bounds = read_columns(path, PRUNE_AGAIN), {"share": (0, 1)}
    bounds |= dict.fromkeys((metric.name, f"{metric.name}_random"), (metric.least, metric.most))
    wanted = (*PRUNING, metric.name, f"{metric.name}_random")
    found = {name: numbers(columns, name, path, PRUNE_AGAIN, *bounds.get(name, (0, math.inf))) for name in wanted}
    curve = pd.DataFrame(found)
    if curve.empty:
        return None
    _refuse_curve(path, curve, metric)
    curve = curve.astype(dict.fromkeys(("removed", "filters_left", "parameters_left"), int))
    curve = curve.sort_values("share", ignore_index=True)
    if curve["removed"].iloc[0] != 0:
        raise ValueError(f"{path}: no row with 0 filters removed; {PRUNE_AGAIN}")
    found = curve[metric.name].iloc[0]
    if measured is not None and not abs(found - measured) <= TOLERANCE:
        unit = f" {metric.unit}" if metric.unit else ""
        raise ValueError(
            f"{path}: the whole network has {found:{metric.form}}{unit} and metrics.json says "
            f"{measured:{metric.form}}{unit}: it is of other weights; {PRUNE_AGAIN}"
        )
    return curve


def _refuse_curve(path: str | Path, curve: pd.DataFrame, metric: Metric) -> None:
    """Raise ValueError where the rows of a pruning curve do not fit together."""
    counts = curve[["removed", "filters_left", "parameters_left"]]
    whole = (counts % 1 == 0) & (counts < 2**53)
    if curve[[*PRUNING, metric.name]].isna().any(axis=None) or not whole.all(axis=None):
        raise ValueError(f"{path}: a row lacks a value, or has no whole number of filters or parameters; {PRUNE_AGAIN}")
    filters = curve["removed"] + curve["filters_left"]
    if filters.nunique() > 1 or (abs(curve["share"] * filters - curve["removed"]) > 1e-6 * filters).any():
        raise ValueError(f"{path}: removed and filters_left do not add up, or are not those of share; {PRUNE_AGAIN}")
