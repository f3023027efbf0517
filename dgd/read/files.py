"""Read the files of one cell: metrics.json, config.yaml, filters.npz and pruning.csv."""

import io
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dgd import yaml_files
from dgd.cell import Cell, slug
from dgd.metrics import METRICS, Metric
from dgd.seals import AGAIN, MOVED, RECORD, cell_of, check_seal, root_of

LABELS = ("benchmark", "dataset", "model", "student", "teacher", "method", "seed")
"""What names a cell, in metrics.json and as the first columns of cells.csv."""

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
        own = f"{cell['benchmark']}/{slug(str(cell['dataset']))}/{cell['model']}/{cell['method']}/seed{cell['seed']}"
        for name, said in ((path.name, own), (RECORD, cell_of(path.parent) or own)):
            root_of(path.with_name(name), said, renamed=True)
            if said.partition("/")[0] != benchmark:
                raise ValueError(f"{path.with_name(name)} is that of the cell {said}; {MOVED}")
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


def read_metrics(path: str | Path) -> dict:
    """Read a metrics.json, and hold it to its cell's seal.

    Raises:
        ValueError: It is not JSON, is not what was written, or has no `status` or no complete `cell`.
    """
    try:
        metrics = json.loads(as_written(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); {AGAIN}") from error
    missing = [key for key in ("status", "cell") if key not in metrics]
    missing += [f"cell.{key}" for key in LABELS if key not in metrics.get("cell", {})]
    if missing:
        raise ValueError(f"{path}: missing {', '.join(missing)}")
    return metrics


def read_config(path: str | Path) -> Cell:
    """Read the config.yaml of a cell, also of an older version: what it lacks has its default.

    Raises:
        ValueError: It is not there, is not what was written, is not YAML, or is no cell's.
    """
    try:
        return Cell.from_plain(yaml_files.read(as_written(path)))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}; {AGAIN}") from error


# ------------------------------------------------------------------------------------------------------- filters.npz


def read_arrays(path: str | Path, *prefixes: str) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz whose names begin with one of some texts, in the order of the file.

    `np.load` parses the header of each array anew, which takes as long as all the rest where thousands of layers share one.

    Args:
        path: The file.
        prefixes: Such as `l1/0/`.

    Raises:
        ValueError: The file is damaged.
    """
    as_written(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith(prefixes)]
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in names}
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path}: {error}; {AGAIN}") from error


def _array(npy: bytes) -> np.ndarray:
    start = 10 + int.from_bytes(npy[8:10], "little")
    shape, fortran, dtype = _header(npy[:start])
    return np.frombuffer(npy, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


@cache
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not a .npy array of format 1.0")
    return np.lib.format.read_array_header_1_0(stream)


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
        _, network, layer = name.split("/", 2)
        if array.ndim != 1:
            raise ValueError(f"{path}: an array of shape {array.shape}; L1 norms of a layer are (filters,); {AGAIN}")
        norms.setdefault(int(network), {})[layer] = array
    return norms


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
    if exchanges is None or share is None:
        exchanges, share = np.zeros(0, int), np.zeros((0, entropy.shape[1]))
    if not len(epochs) == len(l1) == len(entropy) or share.shape != (len(exchanges), entropy.shape[1]):
        raise ValueError(
            f"{path}: traces of {len(epochs)} epochs and {len(exchanges)} exchanges do not fit arrays of shape "
            f"{l1.shape}, {entropy.shape}, {share.shape}; {AGAIN}"
        )
    return Traces(epochs, l1, entropy, exchanges, share)


# ------------------------------------------------------------------------------------------------------- pruning.csv


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
    curve = pd.read_csv(path)
    missing = [name for name in (*PRUNING, metric.name, f"{metric.name}_random") if name not in curve]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; {PRUNE_AGAIN}")
    if curve.empty:
        return None
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
