"""Train cells of a benchmark one after another, without Snakemake, by the same rules of what is fresh."""

import fnmatch
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from dgd import config, frozen, identity
from dgd.cell import Cell
from dgd.metrics import METRICS


@dataclass(frozen=True)
class Order:
    """Cells to train.

    Attributes:
        wanted: The cells that were asked for.
        known: Path -> cell, teachers included.
    """

    wanted: list[Cell]
    known: dict[str, Cell]

    @property
    def needed(self) -> list[Cell]:
        """The cells that the wanted ones depend on, and then these."""
        return list({cell.path: cell for cell in [*self._sources(self.wanted), *self.wanted]}.values())

    def _sources(self, cells: list[Cell]) -> list[Cell]:
        """Return the cells that some depend on, each after those that it depends on itself."""
        own = [self.known[path] for cell in cells for path in cell.sources]
        return [*self._sources(own), *own] if own else []


def order(path: str | Path, pattern: str = "*") -> Order:
    """Return the cells of a benchmark whose paths match a pattern, or the one cell of a finished cell's config.yaml.

    Args:
        path: A benchmark's YAML, or the config.yaml of a cell below a root of results that has its teachers' too.
        pattern: Path of cells, or its end, with wildcards as in a shell.

    Raises:
        ValueError: No cell matches, or a teacher's config.yaml is missing.
    """
    path = Path(path)
    own = identity.cell_of(path.parent) if path.name == "config.yaml" else None
    if own:
        root = path.parent.resolve().parents[own.path.count("/")]
        return Order([own], {cell.path: cell for cell in with_sources(own, root)})
    known = {cell.path: cell for cell in benchmark_cells(path)}
    wanted = [cell for name, cell in known.items() if fnmatch.fnmatch(name, pattern) or name.endswith(f"/{pattern}")]
    if not wanted:
        raise ValueError(f"{path}: no cell matches {pattern!r}; `dgd-bench list {path}` lists them")
    return Order(wanted, known)


def with_sources(cell: Cell, root: Path) -> list[Cell]:
    """Return the cells that a finished cell depends on, by their config.yaml, each before those that depend on it, and itself.

    Raises:
        ValueError: One of them has no config.yaml below the root of the results.
    """
    found = {}
    for path in cell.sources:
        source = identity.cell_of(root / path)
        if source is None:
            raise ValueError(f"{root / path}: no config.yaml of the teacher in it")
        found |= {one.path: one for one in with_sources(source, root)}
    return [*found.values(), cell]


def benchmark_cells(path: str | Path) -> list[Cell]:
    """Return the cells of a benchmark's YAML, teachers first."""
    return config.cells(config.load(path))


def folder_cells(folder: str | Path) -> list[Cell]:
    """Return the cells in a benchmark's folder of results, by their own config.yaml, teachers that are there first."""
    found = [identity.cell_of(path.parent) for path in sorted(Path(folder).glob("*/*/*/seed*/config.yaml"))]
    return sorted(filter(None, found), key=lambda cell: (len(cell.teachers), cell.path))


def prepared(cell: Cell, results: str | Path = "results") -> Path:
    """Return the folder of a cell's prepared data set; prepare or generate it if it is not there.

    Args:
        cell: The cell.
        results: Root of the results, with the finished cells that generate its images.
    """
    from dgd import data

    options = {name: getattr(cell.data, name) for name in ("train_images", "validation_images", "image_size", "loader")}
    base = folder = identity.prepared_folder(replace(cell, generated=None))
    if not data.is_prepared(folder, cell.dataset, data_dir=cell.data.dir, **options):
        data.prepare(cell.dataset, folder, data_dir=cell.data.dir, **options)
    if cell.generated:
        from dgd.train import generate

        folder = identity.prepared_folder(cell)
        if not generate.is_generated(cell, results=results, base=base, out=folder):
            generate.generate(cell, results=results, base=base, out=folder)
    return folder


def train(order: Order, results: str | Path, *, again: bool = False) -> bool:
    """Train the cells of an order that are not there, teachers first; return whether all have a result.

    A cell that another benchmark below the same root has is taken over. Nothing is trained where a cell that is there is stale:
    it might be wanted as it is.

    Args:
        order: The cells.
        results: Root of the results.
        again: Train the wanted cells anew, and teachers that are stale.

    Raises:
        ValueError: A cell that is there is stale, or its benchmark is frozen.
    """
    results, needed = Path(results), order.needed
    for cell in needed:
        if frozen.is_frozen(results / cell.benchmark):
            folder = results / cell.benchmark
            raise ValueError(
                f"{folder} is frozen: it is read and not trained; give another root by --results, or thaw it with "
                f"`dgd-bench freeze --thaw {folder}`"
            )
    found = identity.states(needed, results, order.known.values())
    there = {path for path in found if (results / path / "metrics.json").is_file()}
    if stale := [path for path in there if not found[path].fresh and not again]:
        more = f", and {len(stale) - 1} more cells are not what is asked for" if len(stale) > 1 else ""
        path = sorted(stale)[0]
        raise ValueError(f"{results / path} is {found[path]}{more} (--again trains again)")
    good = True
    for cell in needed:
        prepared(cell, results)
        anew = again and (cell in order.wanted or not found[cell.path].fresh)
        if cell.path in there and not anew:
            print(f"{results / cell.path}: already there (--again trains it again)", file=sys.stderr)
        elif not anew and (source := _elsewhere(cell, results)):
            identity.adopt(source, results / cell.path, cell)
            print(f"{results / cell.path}: taken over from {source}, the same cell")
        else:
            good &= _train_one(cell, results)
    return good


def _elsewhere(cell: Cell, results: Path) -> Path | None:
    data = identity.data_hash(identity.prepared_folder(cell) / "manifest.json")
    return identity.find(results, identity.at(cell, results), data, but=results / cell.path)


def _train_one(cell: Cell, results: Path) -> bool:
    if cell.processes == 1:
        return train_here(cell, results)
    command = [sys.executable, *config.torchrun(cell.processes), "-m", "dgd.running", json.dumps(cell.plain()), str(results)]
    return not subprocess.run(command, check=False).returncode


def train_here(cell: Cell, results: str | Path) -> bool:
    """Train one cell in this process, or in all those of a torchrun; return whether it has a result."""
    from dgd import train as training

    out = Path(results) / cell.path
    try:
        metrics = training.train_cell(cell, results=results, data=identity.prepared_folder(cell))
    except training.NoResult as error:
        print(f"{out}: {error.status}: {error}", file=sys.stderr)
        return False
    if metrics:  # under torchrun one process has them
        metric = METRICS[cell.task]
        value = metrics["networks"][0]["last"][metric.name]
        print(f"{out}: {value:{metric.form}} {metric.unit} test {metric.label} at the last epoch")
    return True


if __name__ == "__main__":
    sys.exit(not train_here(Cell.from_plain(json.loads(sys.argv[1])), sys.argv[2]))
