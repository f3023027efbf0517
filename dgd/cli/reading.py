"""The commands that read what is finished: tables, claims, controls, figures, filters, references; nothing here trains."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from dgd.cli.common import PANELS, AsJson, CellFolder, ConfigPath, Papers, ResultsFolder, app, show

PANEL = PANELS[2]


class Format(StrEnum):
    """What `plot` writes."""

    SVG, PDF, PNG = "svg", "pdf", "png"


@app.command(rich_help_panel=PANEL)
def table(
    folder: ResultsFolder,
    papers: Annotated[
        list[str] | None, typer.Option(help="Published numbers to set beside (default: all papers of the package).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the tables of a benchmark's results, finished or not: what was asked for and is not there has a row too.

    Example: dgd-bench table results/zoo-small
    """
    from dgd import frozen, shipped
    from dgd.read import asked
    from dgd.read.cells import predicting
    from dgd.read.comparisons import Family
    from dgd.read.filter_sets import filters_table
    from dgd.read.papers import read_papers
    from dgd.read.results import results
    from dgd.read.table import markdown
    from dgd.read.tables import asked_drafts

    there = asked.results(folder)
    frame = there.frame()
    cells, published = predicting(frame), read_papers(shipped.papers() if papers is None else papers)
    report = there.benchmark.report if there.benchmark else "first"
    family = Family(asked_drafts(there, frame).values())
    tables = {"results": results(cells, published, report).table(family), "filters": filters_table(cells, published)}
    remarks = there.remarks + [f"Frozen: {frozen.sentence(row)}." for row in frozen.made_by(folder)]
    stale = frame[frame["standing"].fillna("").str.startswith("stale")].drop_duplicates("folder")
    remarks += [f"{there.folder.name}/{row.folder} is {row.standing}." for row in stale.itertuples()]
    found = {name: _content(one) for name, one in tables.items()} | {"remarks": remarks}
    show(found, "\n\n".join(markdown(one) for one in tables.values()) + "".join(f"\n{line}" for line in remarks), as_json)


@app.command(rich_help_panel=PANEL)
def compare(
    one: CellFolder,
    other: Annotated[str, typer.Argument(metavar="CELL", help="Another cell's folder.")],
    as_json: AsJson = False,
) -> None:
    """Set two finished cells beside each other: what was asked for, results, and on which test images they differ.

    Example: dgd-bench compare results/zoo-small/cifar10/cifar_resnet8/{baseline,kd}/seed0
    """
    from dgd.read.comparison import compare as comparison

    found = comparison(one, other)
    parts = {name: getattr(found, name).records for name in ("fields", "results", "curves")}
    show(parts | {"images": found.images, "remark": found.remark}, str(found), as_json)


@app.command(rich_help_panel=PANEL)
def claims(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RESULTS]...", help="Results of benchmarks, e.g. results/quick (default: results/*)."),
    ] = None,
    paper: Annotated[
        list[str] | None, typer.Option(help="Only the claims of this paper, e.g. dgd; may be given again.")
    ] = None,
    papers: Papers = None,
    csv: Annotated[bool, typer.Option("--csv", help="A row a claim, setting and benchmark, as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what the papers claim, with what is measured so far; `dgd-bench list claims` needs no results.

    Example: dgd-bench claims results/cifar10-small --paper dgd
    """
    from pathlib import Path

    from dgd import shipped
    from dgd.read import asked
    from dgd.read import claims as reading
    from dgd.read.cells import refuse_twice
    from dgd.read.tables import asked_drafts

    files = shipped.papers(papers)
    if paper:
        if missing := sorted(set(paper) - {path.stem for path in files}):
            raise ValueError(
                f"--paper {missing[0]}: no file {missing[0]}.yaml; there are {', '.join(one.stem for one in files)}"
            )
        files = [path for path in files if path.stem in paper]
    if folders is None and not Path("results").is_dir():
        raise ValueError("results: no such folder; give the results of benchmarks, e.g. results/quick")
    there = [asked.results(folder) for folder in folders or _benchmarks(Path("results"))]
    cells = [(one.frame(standing=False), one.folder) for one in there]
    refuse_twice([(frame.dropna(subset="folder"), folder) for frame, folder in cells])
    wanted = reading.read(files)
    if not wanted:
        raise ValueError(f"{papers or files[0].parent}: none of its files has claims; give other papers")
    others = [draft for one, (frame, _) in zip(there, cells) if len(frame) for draft in asked_drafts(one, frame).values()]
    found = reading.evaluate(wanted, [(frame, folder) for frame, folder in cells if len(frame)], others)
    if csv:
        print(found.to_csv(index=False, float_format="%.8g").rstrip())
    else:
        show(found, reading.listing(found), as_json)


def _benchmarks(root) -> list:
    from dgd.verify import benchmarks_in

    return benchmarks_in(root)


@app.command(rich_help_panel=PANEL)
def controls(
    folder: ResultsFolder,
    path: Annotated[
        str | None,
        typer.Option("--config", help="A benchmark that names the controls, instead of what was asked for in RESULTS."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what is left of each method's gain after each control, whatever of it is there.

    Example: dgd-bench controls results/controls-small
    """
    from dgd import config
    from dgd.read import asked
    from dgd.read.comparisons import Family
    from dgd.read.table import markdown
    from dgd.read.tables import asked_drafts

    there = asked.results(folder, config.load(path) if path else None)
    if there.benchmark is None:
        raise ValueError(f"{folder}: no {config.ASKED} in it, which names the controls; give the benchmark by --config")
    drafts = asked_drafts(there, there.frame(standing=False))
    found = drafts["controls"].table(Family(drafts.values()))
    show(_content(found), markdown(found), as_json)


@app.command(rich_help_panel=PANEL)
def plan(
    folder: ResultsFolder,
    half_width: Annotated[
        float, typer.Option(help="Of the 95 % interval, to either side of the gain, in the metric's unit.")
    ] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Print how many seeds make the interval of each gain that narrow, with finished cells as a pilot.

    Example: dgd-bench plan results/zoo-small --half-width 1
    """
    from dgd.read import asked
    from dgd.read.cells import predicting
    from dgd.read.plan import plan as planned
    from dgd.read.results import results
    from dgd.read.table import markdown

    there = asked.results(folder)
    report = there.benchmark.report if there.benchmark else "first"
    found = planned(results(predicting(there.frame(standing=False)), [], report), half_width)
    show(_content(found), markdown(found), as_json)


@app.command(rich_help_panel=PANEL)
def filters(
    path: Annotated[
        str, typer.Argument(metavar="NETWORK", help="A cell's folder, weights (.safetensors, .pt, .pth), or a timm name.")
    ],
    baseline: Annotated[
        str | None,
        typer.Option(help="Folder, file or timm name that says which filters are invalid (default: the network itself)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print filter statistics of a cell's networks, of any file of weights, or of a network of timm.

    Example: dgd-bench filters resnet18

    A timm name takes pretrained weights where they are in the cache, else a fresh initialisation, and says which: nothing is
    downloaded.
    """
    from dgd.filter_statistics import filter_rows

    found, remark = filter_rows(path, baseline)
    text = f"{remark}\n\n" if remark else ""
    show({"network": path, "weights": remark, "rows": found}, text + _filters_text(found), as_json)


def _filters_text(found: list[dict]) -> str:
    from tabulate import tabulate

    return tabulate(found, headers="keys", floatfmt=".4g")


@app.command(rich_help_panel=PANEL)
def plot(
    folder: ResultsFolder,
    out: Annotated[str, typer.Option(help="Folder of the figures.")] = "figures",
    formats: Annotated[list[Format] | None, typer.Option("--format", help="May be repeated (default: all).")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Networks whose figures are drawn at once.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Draw the figures of a benchmark's results: learning curves, norms and entropies of filters, pruning curves.

    The workflow keeps them as SVG in RESULTS/figures; here they are written as SVG, PDF and PNG.

    Example: dgd-bench plot results/ddnn --out figures --format pdf
    """
    from pathlib import Path

    from dgd.read import asked, figures

    there = asked.results(folder)
    wanted = set(there.frame(standing=False)["folder"]) - {""}
    Path(out).mkdir(parents=True, exist_ok=True)
    written = figures.from_cells(there.folder, out, wanted, processes, formats or list(Format))
    if not written:
        raise ValueError(f"{folder}: nothing to draw: no cell is finished")
    show(written, "\n".join(map(str, written)), as_json)


@app.command(rich_help_panel=PANEL)
def report(
    folders: Annotated[
        list[str], typer.Argument(metavar="RESULTS...", help="Results of benchmarks, finished by the workflow.")
    ],
    out: Annotated[str, typer.Option(help="The page.")] = "report.html",
) -> None:
    """Write one page of one or several benchmarks: tables, figures, and what produced each number.

    Example: dgd-bench report results/ddnn results/zoo-small --out report.html
    """
    from dgd.read import report as page

    print(page.write(folders, out))


@app.command(rich_help_panel=PANEL)
def cite(path: ConfigPath, papers: Papers = None) -> None:
    """Print BibTeX of the papers whose methods and numbers a benchmark uses.

    Example: dgd-bench cite config/quick.yaml
    """
    from dgd import config
    from dgd.read.citations import bibtex

    print(bibtex(config.load(path, folders=False), papers), end="")


def _content(one: Any) -> dict:
    return {"rows": one.frame, "footnotes": one.footnotes}
