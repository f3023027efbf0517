"""What a run of Snakemake does: which cells it trains, which of them side by side, and which data sets it prepares.

`dgd.identity` says what is stale. Nothing here needs torch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dgd import identity
from dgd.bundles import bundles
from dgd.cell import Cell
from dgd.identity import Stale
from pipeline.generate import Images
from pipeline.prepare import MADE_FROM, Prepared

READERS = ("pipeline.collect", "pipeline.tabulate", "pipeline.plot", "pipeline.report")
"""The scripts that read finished cells."""
UNREAD = ("dgd.models", "dgd.objectives", "dgd.data")
"""What the readers' modules name and never run: they are started with DGD_NETWORKS=no."""


def stale(cells: Mapping[str, Cell], results: str | Path, data: Mapping[str, Prepared | Images]) -> dict[str, Stale]:
    """Return path -> why the cell is trained: its folder does not hold its result.

    Args:
        cells: Path -> cell, teachers included.
        results: Root of the results.
        data: Folder name of a data set -> how it is prepared.
    """
    identities = identity.Identities(cells.values())
    found = {}
    for path, cell in cells.items():
        prepared = data[cell.data_slug]
        status = identity.status(cell, Path(results) / path, identity=identities.of(cell), data=prepared.hash)
        if prepared.changed:
            status = Stale((*status.reasons, "the data set is prepared again, for what it is made from changed"))
        if not status.fresh:
            found[path] = status
    return found


def together(
    cells: Mapping[str, Cell], stale: Mapping[str, Stale | None], named: Iterable[str], most: int | None
) -> list[list[str]]:
    """Return the paths of the cells that are trained side by side, two or more in each list.

    Args:
        cells: Path -> cell, each after those that it learns from.
        stale: Path of a cell -> why it is trained.
        named: Cells whose files the command asks for; no others are trained with them but those that they learn from.
        most: The config's `together`.
    """
    asked = set(named)
    for path in reversed(cells):
        asked |= set(cells[path].sources) if path in asked else set()
    wanted = [cell for path, cell in cells.items() if path in stale and (path in asked or not asked)]
    return [[cell.path for cell in bundle] for bundle in bundles(wanted, most) if len(bundle) > 1]


def mark(
    stale: Mapping[str, Stale | None], data: Mapping[str, Prepared | Images], results: str | Path, benchmark: str | Path
) -> dict[str, str]:
    """Write a file for each cell and data set that is there and is made again; return cell or data set -> file.

    As an input it is newer than all that the cell left, and so makes Snakemake run the rule. What is missing needs none. A name
    says which result is not wanted any more and why, so a mark that was left over stands for nothing else.

    Args:
        stale: Path of a cell -> why it is trained; None where that is not known.
        data: Folder name of a data set -> how it is prepared.
        results: Root of the results.
        benchmark: The benchmark's results: the marks are in its logs.
    """
    made = [(path, Path(results) / path / "metrics.json", str(status)) for path, status in stale.items() if status]
    made += [
        (name, prepared.folder / MADE_FROM, "what it is made from changed")
        for name, prepared in data.items()
        if stale and prepared.outdated
    ]
    found, folder = {}, Path(benchmark) / "logs" / "stale"
    for what, file, why in made:
        if file.is_file():
            path = folder / identity.digest({what: f"{why} {file.stat().st_mtime_ns}"})[:16]
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{what}: {why}\n")
            found[what] = str(path)
    return found


def reading(config: str, *files: Path) -> str:
    """Return a hash of all that tables, figures and report are made by: the readers' code, other files, the config."""
    hashes = identity.code_files(*READERS, apart=UNREAD) | {path.name: identity.file_hash(path) or "" for path in files}
    return identity.digest(hashes | {"config": config})
