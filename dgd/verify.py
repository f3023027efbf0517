"""Check a whole folder of results, and train nothing: that no file was changed, and that each number follows from others.

From the outside in: the manifest has each file's hash; a cell's seal has those of its files; metrics.json follows from
history.csv, predictions.npz and filters.npz; what a cell was made from is what its record says; cells.csv and the tables follow
from the cells. Whoever changes a number has to change all of these alike.
"""

import csv
import fnmatch
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from dgd import config, files, frozen, identity, keys, manifest, plugins, seals, shipped
from dgd.cell import Cell, slug
from dgd.metrics import MAKERS, METRICS
from dgd.read import records, table
from dgd.read.cells import collect
from dgd.read.files import read_pruning
from dgd.read.records import fault
from dgd.read.tables import tables

WEIGHTS = ("*.safetensors", "*.pt", "*.pth", "*.bin", "*.ckpt")
"""Files of weights; the only one of a cell that a record can name is `identity.WEIGHTS`."""
CLOSE = 1e-7
"""Relative difference between numbers of a table that another version of a library may make; the manifest holds the bytes."""


@dataclass
class Report:
    """What was found in folders of results.

    Attributes:
        faults: A line each.
        benchmarks, cells, files: How many were checked.
        absent: Files that a manifest lists and that version control does not keep.
    """

    faults: list[str] = field(default_factory=list)
    benchmarks: int = 0
    cells: int = 0
    files: int = 0
    absent: int = 0

    def __str__(self) -> str:
        counts = f"{self.benchmarks} benchmarks, {self.cells} cells, {self.files} files: {len(self.faults)} faults"
        return counts + (f"; {self.absent} files of weights and reports are not there" if self.absent else "")


def verify(folders: list[str | Path], papers: str | Path = shipped.PAPERS, strict: bool = False) -> Report:
    """Check benchmarks' folders of results, or all benchmarks below a root of results.

    Args:
        folders: Such as results, or results/quick.
        papers: Folder of the published numbers, which tables are made with.
        strict: Weights, reports and PDFs must be there too.

    Raises:
        ValueError: There are no results of a benchmark in one of the folders.
    """
    found = Report()
    for folder in dict.fromkeys(one for given in folders for one in benchmarks_in(Path(given))):
        lines, absent = manifest.faults(folder, strict)
        cells = cell_folders(folder)
        lines += _checked(folder, cells, Path(papers))
        found.faults += dict.fromkeys(lines)
        found.benchmarks += 1
        found.cells += len(cells)
        found.files += len(manifest.listed(folder))
        found.absent += absent
    return found


def benchmarks_in(folder: Path) -> list[Path]:
    """Return the folder, where it has a benchmark's results, or those in it that have.

    Raises:
        ValueError: There is none.
    """
    if _is_benchmark(folder):
        return [folder]
    found = [path for path in sorted(folder.glob("*")) if _is_benchmark(path)]
    if not found:
        raise ValueError(f"{folder}: no results of a benchmark in it; give those of one, e.g. results/quick, or their root")
    return found


def _is_benchmark(folder: Path) -> bool:
    return (folder / manifest.MANIFEST).is_file() or next(folder.glob("*/*/*/seed*/*"), None) is not None


def cell_folders(folder: Path) -> list[Path]:
    """Return the folders of a benchmark's cells, finished or not."""
    return sorted(path for path in folder.glob("*/*/*/seed*") if path.is_dir())


def _checked(folder: Path, paths: list[Path], papers: Path) -> list[str]:
    """Return the faults of a benchmark but for those of its manifest."""
    lines, check = _checker()
    lines += cell_faults(folder, paths)
    check(folder, _frozen_faults, folder)
    check(folder, _table_faults, folder, papers)
    return lines


def cell_faults(folder: Path, paths: Iterable[Path]) -> list[str]:
    """Return the faults of some cells of a benchmark: their files, numbers and records, and how these agree with each other.

    Args:
        folder: The benchmark's results.
        paths: Folders of the cells, and of their teachers.
    """
    lines, check = _checker()
    cells: dict[Path, tuple[Cell, Mapping]] = {}
    said = _standing(folder)
    for path in paths:
        check(path, lambda path=path: cells.update({path: _read(path)}))
        check(path, _seal_faults, path)
    for path, (cell, metrics) in cells.items():
        check(path, _weights_faults, path, metrics)
        check(path, records.faults, path, cell, metrics)
        check(path, _identity_faults, path, cell)
        check(path, _pruning_faults, path, cell, metrics)
        check(path, _teacher_faults, path, cell, said)
    check(folder, _twice, cells)
    check(folder, _same_data, cells)
    return lines


def _checker() -> tuple[list[str], Callable[..., None]]:
    """Return the lines of faults, and the function that adds to them what a check finds, or what a damaged file makes of it."""
    lines: list[str] = []

    def check(path: Path, function: Callable[..., Iterable[str]], *args) -> None:
        try:
            lines.extend(line for line in function(*args) or ())
        except Exception as error:  # whatever a damaged file makes of its reader
            lines.append(_line(path, error))

    return lines, check


def _line(path: Path, error: Exception) -> str:
    """Return an error as the line of a fault, which names a file."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text if path.as_posix() in text else f"{path}: {text}"


# ------------------------------------------------------------------------------------------------------------- a cell


def _read(path: Path) -> tuple[Cell, Mapping]:
    """Return the cell of a folder and what its metrics.json holds, each of which must be of this folder."""
    cell = identity.cell_of(path)
    if cell is None:
        raise ValueError(f"{path / 'config.yaml'}: no cell in it; {seals.AGAIN}")
    seals.root_of(path / "config.yaml", cell.path)
    if not (path / "metrics.json").is_file():
        raise ValueError(f"{path / 'metrics.json'}: no such file: the cell is not finished, or its result was taken away")
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))  # also where its seal is broken
    said = metrics["cell"]
    own = f"{said['benchmark']}/{slug(str(said['dataset']))}/{said['model']}/{said['method']}/seed{said['seed']}"
    seals.root_of(path / "metrics.json", own)
    return cell, metrics


def _seal_faults(path: Path) -> Iterator[str]:
    """Yield the files of a cell that are not what its seal says."""
    names = [name for name in identity.OUTPUTS if name != identity.WEIGHTS or (path / name).is_file()]
    for file, found, sealed in seals.broken(path, names):
        said = found and found[:12]
        yield fault(file, "its SHA-256", said or "not there", sealed and sealed[:12], seals.RECORD)


def _weights_faults(path: Path, metrics: Mapping) -> Iterator[str]:
    """Yield files of weights that the cell's record does not name, and weights whose norms are not those of filters.npz."""
    sealed = seals.seal(path)
    for file in sorted(path.iterdir()):
        weights, passing = (any(fnmatch.fnmatch(file.name, one) for one in names) for names in (WEIGHTS, manifest.PASSING))
        if weights and not passing and file.name not in (sealed or {}):
            yield f"{file}: is a file of weights, and {path / seals.RECORD} does not name it"
    if (path / identity.WEIGHTS).is_file() and metrics["status"] == "finished":
        yield from _norm_faults(path)


def _norm_faults(path: Path) -> Iterator[str]:
    from dgd.filters import l1_norms
    from dgd.train.checkpoint import load_weights

    norms = l1_norms(load_weights(path / identity.WEIGHTS))
    with np.load(path / "filters.npz") as arrays:
        for name in arrays.files:
            if name.startswith("l1/"):
                own = norms[name.removeprefix("l1/").replace("/", ".", 1)].numpy()
                if own.shape != arrays[name].shape or not np.allclose(own, arrays[name], rtol=records.ROUNDING, atol=0):
                    odd = int(np.argmax(own != arrays[name])) if own.shape == arrays[name].shape else 0
                    yield fault(path / "filters.npz", f"{name}, filter {odd},", arrays[name][odd], own[odd], identity.WEIGHTS)


def _record(path: Path) -> Mapping:
    return json.loads((path / seals.RECORD).read_text(encoding="utf-8"))


def _identity_faults(path: Path, cell: Cell) -> Iterator[str]:
    """Yield where the identity of a record is not that of the cell, or its hash not that of its parts."""
    recorded = _record(path).get("identity")
    if not recorded:
        return
    for line in identity.field_differences(recorded["fields"], identity.fields(cell)):
        yield f"{path / seals.RECORD}: identity.{line} in config.yaml"
    if list(recorded["teachers"]) != list(cell.sources):
        yield fault(path / seals.RECORD, "identity.teachers", list(recorded["teachers"]), list(cell.sources), "config.yaml")
    of = identity.Identity({}, {}).hash
    teachers = [teacher["identity"] or of for teacher in recorded["teachers"].values()]
    parts = [recorded["fields"], recorded["code"], teachers]
    wanted = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    if recorded["hash"] != wanted:
        yield fault(path / seals.RECORD, "identity.hash", recorded["hash"][:12], wanted[:12], "its fields, code and teachers")


def _teacher_faults(path: Path, cell: Cell, said: Mapping[str, str]) -> Iterator[str]:
    """Yield the teachers that are not those that a cell learned from, unless the table says that it is stale."""
    recorded = _record(path).get("identity") if (path / seals.RECORD).is_file() else None
    if not recorded or said.get(cell.path.partition("/")[2], "").startswith("stale"):
        return
    root = seals.root_of(path / seals.RECORD, cell.path)
    for source, then in recorded["teachers"].items():
        folder = root / source
        if not (folder / seals.RECORD).is_file():
            yield f"{path / seals.RECORD}: its teacher is {source}, and {folder / seals.RECORD} is not there"
            continue
        now = _record(folder).get("identity") or {}
        if then["identity"] != now.get("hash"):
            found, wanted = ((text or "none")[:12] for text in (then["identity"], now.get("hash")))
            yield fault(path / seals.RECORD, f"the identity of the teacher {source}", found, wanted, folder / seals.RECORD)
        weights = identity.file_hash(folder / identity.WEIGHTS) or (seals.seal(folder) or {}).get(identity.WEIGHTS)
        if weights and weights != then["weights_sha256"]:
            what = f"the SHA-256 of the weights of the teacher {source}"
            yield fault(path / seals.RECORD, what, str(then["weights_sha256"])[:12], weights[:12], folder)


def _pruning_faults(path: Path, cell: Cell, metrics: Mapping) -> Iterator[str]:
    """Yield where a pruning curve does not begin at the cell's metric."""
    if metrics["status"] == "finished" and (path / "pruning.csv").is_file():
        metric = METRICS[cell.task]
        try:
            read_pruning(path / "pruning.csv", metric, metrics["networks"][0]["last"][metric.name])
        except ValueError as error:
            yield str(error)


def _twice(cells: Mapping[Path, tuple[Cell, Mapping]]) -> Iterator[str]:
    """Yield cells that were copied to another seed, by their history or their filters."""
    there: dict[tuple, Path] = {}
    for path, (cell, metrics) in cells.items():
        if metrics["status"] != "finished":
            continue
        for name in ("history.csv", "filters.npz"):
            if not (path / name).is_file():
                continue
            key = cell.slug, name, _content(path / name)
            first = there.setdefault(key, path) if key[2] else path
            if first != path and cells[first][0].seed != cell.seed:
                yield f"{path / name}: is that of {first / name}, another seed, and must be its own; {seals.MOVED}"


def _same_data(cells: Mapping[Path, tuple[Cell, Mapping]]) -> Iterator[str]:
    """Yield cells of the same data of which a record names other data, or predictions.npz has other labels."""
    there: dict[tuple, tuple[str, Path]] = {}
    for path, (cell, metrics) in cells.items():
        data = cell.data_slug, json.dumps(keys.plain(cell.data), sort_keys=True)
        found = [(seals.RECORD, name, value) for name, value in _data_hashes(path)]
        if metrics["status"] == "finished" and cell.task not in MAKERS:
            found += [
                ("predictions.npz", f"the SHA-256 of its labels, of the input {cell.input},", value) for value in _labels(path)
            ]
        for file, what, value in found:
            wanted, first = there.setdefault((*data, what), (value, path))
            if value != wanted:
                yield fault(path / file, what, value[:12], wanted[:12], first / file)


def _data_hashes(path: Path) -> list[tuple[str, str]]:
    try:
        record = _record(path)
    except (OSError, ValueError):  # the cell's own faults say so
        return []
    known = {"identity.data": (record.get("identity") or {}).get("data"), "dataset_sha256": record.get("dataset_sha256")}
    return [(name, value) for name, value in known.items() if value]


def _labels(path: Path) -> list[str]:
    try:
        with np.load(path / "predictions.npz") as arrays:
            return [hashlib.sha256(arrays["labels"].tobytes()).hexdigest()]
    except Exception:  # the cell's own faults say so
        return []


def _content(path: Path) -> str:
    """Return a hash of what a file holds; "" where that says nothing."""
    if path.suffix != ".npz":
        return files.file_hash(path)
    try:
        with np.load(path) as arrays:
            parts = [arrays[name].tobytes() for name in arrays.files if name.startswith("l1/")]
    except Exception:  # the cell's own faults say so
        return ""
    return hashlib.sha256(b"".join(parts)).hexdigest() if any(parts) else ""


def _frozen_faults(folder: Path) -> Iterator[str]:
    """Yield where the marker of a frozen benchmark does not say which code made its cells."""
    if not frozen.is_frozen(folder):
        return
    said, wanted = ({frozen.sentence(row) for row in rows} for rows in (frozen.made_by(folder), frozen.makers(folder)))
    for line in sorted(said - wanted):
        yield f"{folder / frozen.MARKER}: made_by says {line}, and the cells' records do not"
    for line in sorted(wanted - said):
        yield f"{folder / frozen.MARKER}: made_by does not say {line}, and the cells' records do"


# ------------------------------------------------------------------------------------------------------------- tables


def _standing(folder: Path) -> dict[str, str]:
    """Return cell below the benchmark's folder -> what cells.csv says of its standing."""
    try:
        with (folder / "cells.csv").open(newline="", encoding="utf-8") as file:
            return {row["folder"]: row["standing"] or "" for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, csv.Error):
        return {}


def _table_faults(folder: Path, papers: Path) -> Iterator[str]:
    """Yield where cells.csv or a table is not what the cells give; a folder without tables has none to check."""
    there = {path.name: path for path in (folder / "tables").glob("[!.]*")}
    if not there and not (folder / "cells.csv").is_file():
        return
    asked, given = folder / config.ASKED, config.asked(folder)
    if given is None:
        yield f"{asked}: no such file, and {folder / 'cells.csv'} is made by it; run the workflow, whose first reader writes it"
        return
    if given.benchmark != folder.resolve().name:
        yield fault(asked, "benchmark", given.benchmark, folder.resolve().name, "the folder's name")
        return
    cells = config.cells(given)
    content = collect(folder, cells, frozen.standing(cells, folder.resolve().parent)).to_csv(index=False)
    yield from _differing(folder / "cells.csv", content)
    sources = [plugins.PAPERS.get(name, papers / f"{name}.yaml") for name in given.papers]
    if missing := [path for path in sources if not path.is_file()]:
        yield f"{missing[0]}: no such file, and the tables of {folder} are made with it; give its folder by --papers"
        return
    made = tables(pd.read_csv(io.StringIO(content)), folder, sources, given.report, keys.plain(given.controls))
    wanted = {f"{name}.{suffix}": text for name, one in made.items() for suffix, text in table.contents(one).items()}
    for name, text in wanted.items():
        yield from _differing(folder / "tables" / name, text)
    for name in sorted(there.keys() - wanted.keys()):
        yield f"{there[name]}: is there, and the cells give no such table"


def _differing(path: Path, wanted: str) -> Iterator[str]:
    """Yield where a table's file differs from what it must be: all values of a CSV, all lines of the others."""
    if not path.is_file():
        yield f"{path}: is not there, and the cells give it"
        return
    found = path.read_bytes().decode(errors="replace")
    if found == wanted:
        return
    if path.suffix == ".csv":
        rows, others = (list(csv.reader(io.StringIO(text))) for text in (found, wanted))
    else:
        rows, others = ([_pieces(line) for line in text.splitlines()] for text in (found, wanted))
    if len(rows) != len(others):
        yield fault(path, "the number of lines", len(rows), len(others), "the cells")
    for number, (row, other) in enumerate(zip(rows, others), 1):
        for k, (a, b) in enumerate(zip_longest(row, other)):
            if a != b and not _close(a, b):
                column = others[0][k] if path.suffix == ".csv" and k < len(others[0]) else k + 1
                yield fault(path, f"line {number}, column {column},", a, b, "the cells")


def _pieces(line: str) -> list[str]:
    """Return the cells of a line of Markdown or LaTeX, without what only aligns them."""
    return [re.sub(r"  +", " ", re.sub(r"-{3,}", "---", piece)).strip() for piece in re.split(r"(?<!\\)[|&]", line)]


def _close(a: str | None, b: str | None) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=CLOSE)
    except (TypeError, ValueError):
        return False
