"""The commands that train, or say how far that is: prepare, train, status, reproduce, prune."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dgd.cli.common import PANELS, AsJson, CellFolder, ConfigPath, Root, app, end, show

PANEL = PANELS[1]


@app.command(rich_help_panel=PANEL)
def prepare(path: ConfigPath, as_json: AsJson = False) -> None:
    """Prepare the data sets of a benchmark, and print where each is, how many examples it has, and its hash.

    Example: dgd-bench prepare config/quick.yaml
    """
    from tabulate import tabulate

    from dgd import data, identity, running

    cells = {identity.prepared_folder(cell): cell for cell in map(_real, running.benchmark_cells(path))}
    found = []
    for cell in cells.values():
        folder = running.prepared(cell)
        manifest = data.manifest(folder / "manifest.json")
        row = {"dataset": cell.slug, "folder": str(folder), **manifest["sizes"], "classes": manifest["num_classes"]}
        found.append(row | {"sha256": identity.data_hash(folder / "manifest.json")})
    rows = [row | {"sha256": row["sha256"][:12]} for row in found]
    show(found, tabulate(rows, headers="keys"), as_json)


def _real(cell):
    """Return a cell on the images that its own are generated from."""
    return replace(cell, generated=None)


@app.command(rich_help_panel=PANEL)
def train(
    path: Annotated[str, typer.Argument(metavar="CONFIG", help="A benchmark, or the config.yaml of a finished cell.")],
    cell: Annotated[
        str, typer.Argument(help="Path or pattern of cells, e.g. 'digits/cifar_resnet8/dgd/seed0' or '*/dgd/*'.")
    ] = "*",
    results: Root = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train the cells anew, and their teachers where these are stale.")
    ] = False,
    together: Annotated[
        int | None, typer.Option(min=1, help="Cells that are trained side by side (default: the config's `together`).")
    ] = None,
    stop_after: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds after which to stop, with exit status 75; the same command then goes on."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing: say which cells are there or missing, and which cannot be.")
    ] = False,
    tensorboard: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write TensorBoard logs below this folder, a run a cell and network.")
    ] = None,
) -> None:
    """Train cells of a benchmark, with the teachers they need.

    Example: dgd-bench train config/quick.yaml '*/kd/*'
    """
    import sys

    from dgd import running

    order = running.order(path, cell)
    given = {"together": together, "stop_after": stop_after}
    order = replace(order, **{name: value for name, value in given.items() if value is not None})
    if dry_run:
        print(*running.planned(order, results or order.results), sep="\n")
        return
    try:
        good = running.train(order, results or order.results, again=again, logs=tensorboard)
    except running.Unfinished as ended:
        print(f"dgd-bench: {ended}", file=sys.stderr)
        raise typer.Exit(running.TRY_AGAIN) from None
    end(not good)


@app.command(rich_help_panel=PANEL)
def status(
    path: Annotated[str, typer.Argument(metavar="CONFIG|RESULTS", help="A benchmark, or its results, e.g. results/quick.")],
    results: Root = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until nothing runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which cells are done, running and how far, stale or failed and why, or missing; exit status 1 if not all are done.

    Example: dgd-bench status config/quick.yaml --watch
    """
    from dgd import progress, running

    if Path(path).is_dir():
        from dgd.read import asked

        there = asked.results(path)
        cells, results = there.cells, str(there.folder.resolve().parent)
    else:
        order = running.order(path)
        cells, results = list(order.known.values()), results or order.results
    found = progress.progress(cells, results)
    if watch and not as_json:
        found = _watch(lambda: progress.progress(cells, results), found)
    made_by = _frozen(Path(results) / cells[0].benchmark, cells)
    lines = [*made_by, *map(str, [] if made_by else found.cells), found.summary]
    counts = {"counts": found.counts, "seconds_left": found.seconds_left, "unknown": found.unknown}
    show({"cells": [state._asdict() for state in found.cells], **counts, "frozen": made_by}, "\n".join(lines), as_json)
    end(not found.done)


def _watch(look, found):
    """Show on the terminal how far cells are until none runs; return how far they are then."""
    import time

    from rich.console import Console
    from rich.live import Live

    from dgd.signals import cleaning

    console = Console()
    # Without a thread that redraws, which might hold what the handler of Ctrl-C waits for.
    with (
        Live(_shown(found), console=console, auto_refresh=False, transient=True) as live,
        cleaning(lambda: console.show_cursor(True)),
    ):
        while found.counts["running"]:
            time.sleep(2)
            found = look()
            live.update(_shown(found), refresh=True)
    return found


def _shown(found):
    """Return what a terminal shows of how far cells are: those that run, failed or are stale, and the counts."""
    from rich.text import Text

    rows = [str(state) for state in found.cells if state.state not in ("done", "missing")]
    return Text("\n".join([*rows, found.summary]))


def _frozen(folder: Path, cells: list) -> list[str]:
    """Return by which code a frozen benchmark was made, in a line each.

    Raises:
        ValueError: It is frozen, and what is asked for differs from it.
    """
    from dgd import frozen, identity

    if not frozen.is_frozen(folder):
        return []
    frozen.refuse(folder, cells, {cell.data_slug: identity.prepared_folder(cell) for cell in cells})
    return [f"{folder}: frozen, {frozen.sentence(row)}" for row in frozen.made_by(folder)]


@app.command(rich_help_panel=PANEL)
def reproduce(
    folders: Annotated[
        list[str], typer.Argument(metavar="CELL...", help="Cells' folders; their teachers lie below the same root.")
    ],
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads instead of the cell's own (level B).")] = None,
    ranks: Annotated[
        int | None, typer.Option(min=0, help="Processes for each network instead of the cell's own (level B).")
    ] = None,
    together: Annotated[
        int | None, typer.Option(min=1, help="Train so many cells side by side: this one, and further seeds of it (level B).")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Root of results to train in, and to keep (default: a temporary one).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train finished cells again, teachers included, and say at which level they come out the same.

    Example: dgd-bench reproduce results/ddnn/cifar10/cifar_resnet8/baseline/seed0

    A: the same processor, versions and device as its provenance.json says: equal bytes. B: other numbers of cores, threads or
    processes, or side by side: equal within a tolerance. C: other versions, code or devices: statistically equal. Exit status 0
    if it is the same at its level, else 1.
    """
    from dgd import reproduce as reproduction

    found, given = [], reproduction.Options(threads, ranks, together)
    for folder in folders:
        lines: list[str] = []
        say = lines.append if as_json else lambda line: print(line, flush=True)
        outcome = reproduction.reproduce(folder, given, keep, say=say)
        found.append({"cell": folder, "level": outcome.level, "outcome": outcome.outcome, "good": outcome.good, "said": lines})
    if as_json:
        show(found, "", as_json)
    end(not all(row["good"] for row in found))


@app.command(rich_help_panel=PANEL)
def prune(
    folder: CellFolder,
    shares: Annotated[
        list[float] | None, typer.Option(help="Shares of filters to remove, 0 to 1 (default: 0.05 to 0.9).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print accuracy of a cell as its smallest filters, and as many random ones, are removed; write its pruning.csv.

    Example: dgd-bench prune results/quick/digits/cifar_resnet8/dgd/seed0 --shares 0.1 0.3
    """
    from tabulate import tabulate

    from dgd import identity, running, seals
    from dgd.train import pruning

    cell = identity.cell_of(folder)
    if not cell:
        raise ValueError(f"{folder}: no config.yaml of a cell in it; give the folder of a trained cell")
    if not (Path(folder) / "model.safetensors").is_file():
        raise ValueError(f"{folder}: no model.safetensors in it; committed results come without weights, train the cell first")
    root = seals.root_of(Path(folder) / "config.yaml", cell.path)
    curve = pruning.prune_cell(folder, running.prepared(cell, root), shares or pruning.SHARES)
    if curve.empty:
        raise ValueError(f"{folder}: nothing to prune: the cell has no result, or its network no convolution filters")
    text = tabulate(curve, headers="keys", showindex=False, floatfmt=(".3f", "g", "g", ".0f", ".2f", ".2f"))
    show(curve, text, as_json)
