"""`dgd-bench verify`, `freeze`: guard folders of results."""

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
    strict: Annotated[bool, typer.Option("--strict", help="Weights and reports must be there too.")] = False,
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
