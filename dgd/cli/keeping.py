"""`dgd-bench verify`, `freeze`, `export`, `import`: guard folders of results, and hand them over."""

from typing import Annotated

import typer

from dgd.cli.common import PANELS, AsJson, Papers, ResultsFolder, app, end, show

PANEL = PANELS[4]


@app.command(rich_help_panel=PANEL)
def verify(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RESULTS]...", help="Results of benchmarks, or their root (default: results)."),
    ] = None,
    papers: Papers = None,
    strict: Annotated[bool, typer.Option("--strict", help="Weights, reports and PDFs must be there too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check folders of results, and train nothing: no file was changed, and every number follows from the others.

    Example: dgd-bench verify results/zoo-small

    Prints a line for each fault (the file, the value found, the value expected), then the counts; exit status 1 if there is a
    fault. Files are held to SHA256SUMS, cells to their seals and to what their numbers follow from, tables to the cells.
    """
    from dgd import shipped
    from dgd import verify as verification

    found = verification.verify(folders or ["results"], papers or shipped.PAPERS, strict)
    show(found, "\n".join([*found.faults, str(found)]), as_json)
    end(bool(found.faults))


@app.command(rich_help_panel=PANEL)
def freeze(
    folder: ResultsFolder,
    thaw: Annotated[bool, typer.Option("--thaw", help="Take the marker away again.")] = False,
) -> None:
    """Freeze a benchmark's results: they are read, and never trained again by an edit of code or config.

    Example: dgd-bench freeze results/quick
    """
    from dgd import frozen

    if thaw:
        frozen.thaw(folder)
        print(f"{folder}: not frozen any more")
        return
    for row in frozen.freeze(folder):
        print(f"{folder}: frozen, {frozen.sentence(row)}")


@app.command(rich_help_panel=PANEL)
def export(
    folders: Annotated[list[str], typer.Argument(metavar="RESULTS...", help="Results of benchmarks, e.g. results/quick.")],
    out: Annotated[str, typer.Option(help="The file to write, e.g. quick.tar.")],
    cells: Annotated[str, typer.Option(help="Path or pattern of cells, e.g. '*/dgd/seed0'; teachers go with them.")] = "*",
    weights: Annotated[bool, typer.Option("--weights", help="Weights too: Snakemake trains cells without them again.")] = False,
    papers: Papers = None,
) -> None:
    """Write finished cells, with tables, provenance, licence and checksums, into one file that `import` takes in.

    Example: dgd-bench export results/quick --out quick.tar
    """
    from dgd import export as exporting
    from dgd import shipped

    count = exporting.export(folders, out, cells, weights, papers or shipped.PAPERS)
    print(f"{out}: {count} cells")


@app.command("import", rich_help_panel=PANEL)
def import_(
    bundle: Annotated[str, typer.Argument(help="A file that `export` wrote.")],
    results: Annotated[str, typer.Option(help="Root of the results.")] = "results",
    replace: Annotated[bool, typer.Option("--replace", help="Take the bundle's cells where others are there.")] = False,
) -> None:
    """Take the cells of such a file in, after all of it is checked; exit status 1 if a cell was left out.

    Example: dgd-bench import quick.tar
    """
    from dgd import export as exporting

    found = exporting.take(bundle, results, replace)
    for line in found.lines:
        print(line)
    print(found)
    end(found.counts[exporting.LEFT] > 0)
