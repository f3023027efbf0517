"""`dgd-bench`: one thing at a time, without Snakemake."""

import io
import json
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
import yaml

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130
"""Exit status after Ctrl-C, which typer gives where a program calls `main`; `dgd.signals` ends the command itself."""
SEVERAL = ("--shares", "--papers", "--paper")
"""Options that take several values after each other, which typer knows only as the option given again."""

Results = Annotated[str | None, typer.Option(help="Root of the results (default: the benchmark's).")]
Benchmark = Annotated[str, typer.Argument(help="A benchmark, e.g. config/quick.yaml.")]
CellFolder = Annotated[str, typer.Argument(help="A cell's folder.")]


@app.callback()
def _before(
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="Python file, package's folder or paper's YAML file that adds something (docs/extending.md)."),
    ] = None,
) -> None:
    if plugin:
        from dgd import plugins

        plugins.load(plugin)


@app.command("list")
def list_(path: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="A benchmark, e.g. config/quick.yaml.")] = None):
    """List methods, terms, data sets and models; with a config, its cells."""
    from tabulate import tabulate

    from dgd import data, methods, models, objectives, running
    from dgd.cell import EXCHANGES

    if path:
        for cell in running.benchmark_cells(path):
            print(cell.path)
        return
    headers = ["method", "objective", "exchange", "networks", "teachers", "status", "needs"]
    print(tabulate([_described(name, row) for name, row in methods.METHODS.items()], headers=headers))
    names = ", ".join(f"{name}{methods.GRAFTED} is {other}" for name, other in methods.NAMED.items())
    print(
        f"\nA row without an exchange is also there with {methods.GRAFTED} after its name, e.g. sp{methods.GRAFTED}; {names}."
    )
    print("docs/methods.md has equations, options, and what deviates from the sources.")
    print("\nterms:     ", ", ".join(objectives.TERMS))
    print("exchanges: ", ", ".join(EXCHANGES))
    print("data sets: ", ", ".join(data.names()), ", imagefolder:<path>", sep="")
    print("models:    ", ", ".join(models.registered(["cifar_*", "audio_*"])), "and every other timm name")


def _described(name: str, row) -> list:
    """Return a row of `dgd.methods.METHODS` for people: what it minimises, and how it stands to its source."""
    from dgd import exchange, methods, objectives

    spec = methods.given_options(row.objective)
    terms = []
    for term, options in spec.items():
        weight = f"{options['weight']:g} " if options.get("weight", 1.0) != 1 else ""
        rest = ", ".join(key if value is True else f"{key}={value}" for key, value in options.items() if key != "weight")
        terms.append(f"{weight}{term}" + (f"({rest})" if rest else ""))
    exchanged = (row.exchange or {}).get("name", "-")
    objective = objectives.Objective(spec)
    standing = exchange.standing(exchanged) if row.exchange else []
    status = objectives.least_faithful([*objective.terms.values(), *standing])
    return [name, " + ".join(terms), exchanged, row.networks, row.teachers, status, str(objective.requires)]


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="term, exchange, model, dataset or paper.")],
    name: Annotated[str, typer.Argument(help="What a benchmark will call it, e.g. my-loss.")],
) -> None:
    """Write a commented file that adds something of your own, and works as it is."""
    from dgd import scaffold

    path = scaffold.new(kind, name)
    print(f"{path}: written; `dgd-bench check {path}` tries it, `plugins: [{path}]` in a benchmark uses it")


@app.command()
def check(
    paths: Annotated[list[str], typer.Argument(metavar="PLUGIN...", help="Files of your own, e.g. my_loss.py.")],
) -> None:
    """Try what files of your own add, as this package's own parts are tested; exit status 1 if something is wrong."""
    from dgd import checking

    failed = False
    for path in paths:
        for what, problem, note in checking.check(path):
            print(f"{what}: {problem or 'right'}{'' if problem or not note else f': {note}'}", flush=True)
            failed |= bool(problem)
    _exit(failed)


@app.command()
def train(
    path: Annotated[str, typer.Argument(metavar="CONFIG", help="A benchmark, or the config.yaml of a finished cell.")],
    cell: Annotated[
        str, typer.Argument(help="Path or pattern of cells, e.g. 'digits/cifar_resnet8/dgd/seed0' or '*/dgd/*'.")
    ] = "*",
    results: Results = None,
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
) -> None:
    """Train cells of a benchmark, with the teachers they need."""
    from dgd import running

    order = running.order(path, cell)
    given = {"together": together, "stop_after": stop_after}
    order = replace(order, **{name: value for name, value in given.items() if value is not None})
    try:
        good = running.train(order, results or order.results, again=again)
    except running.Unfinished as end:
        print(f"dgd-bench: {end}", file=sys.stderr)
        raise typer.Exit(running.TRY_AGAIN) from None
    _exit(not good)


@app.command()
def status(
    path: Annotated[str, typer.Argument(help="A benchmark's YAML, or a folder of results, e.g. results/quick.")],
    results: Results = None,
) -> None:
    """Say which cells are fresh, which are stale and why; exit status 1 if any is stale."""
    from dgd import frozen, identity, running

    if Path(path).is_dir():
        cells, results = running.folder_cells(path), str(Path(path).resolve().parent)
    else:
        order = running.order(path)
        cells, results = list(order.known.values()), results or order.results
    benchmark = Path(results) / cells[0].benchmark if cells else Path(path)
    if frozen.is_frozen(benchmark):
        for row in frozen.made_by(benchmark):
            print(f"{benchmark}: frozen, {frozen.sentence(row)}")
        frozen.refuse(benchmark, cells, {cell.data_slug: identity.prepared_folder(cell) for cell in cells})
        return
    found = identity.states(cells, results)
    for name, state in found.items():
        print(f"{name}: {state}")
    _exit(not all(state.fresh for state in found.values()))


@app.command()
def freeze(
    folder: Annotated[str, typer.Argument(help="A benchmark's results, e.g. results/quick.")],
    thaw: Annotated[bool, typer.Option("--thaw", help="Take the marker away again.")] = False,
) -> None:
    """Freeze a benchmark's results: they are read, and never trained again by an edit of code or config."""
    from dgd import frozen

    if thaw:
        frozen.thaw(folder)
        print(f"{folder}: not frozen any more")
        return
    for row in frozen.freeze(folder):
        print(f"{folder}: frozen, {frozen.sentence(row)}")


@app.command()
def verify(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RESULTS]...", help="Results of benchmarks, or their root (default: results)."),
    ] = None,
    papers: Annotated[str, typer.Option(help="Folder of the papers' files.")] = "papers",
    strict: Annotated[bool, typer.Option("--strict", help="Weights and reports must be there too.")] = False,
) -> None:
    """Check folders of results, and train nothing: no file was changed, and every number follows from the others.

    Example: dgd-bench verify results/zoo-small

    Prints a line for each fault (the file, the value found, the value expected), then the counts; exit status 1 if there is a
    fault. Files are held to SHA256SUMS, cells to their seals and to what their numbers follow from, tables to the cells.
    """
    from dgd import verify as verification

    found = verification.verify(folders or ["results"], papers, strict)
    for line in found.faults:
        print(line)
    print(found)
    _exit(bool(found.faults))


@app.command()
def reproduce(
    folders: Annotated[list[str], typer.Argument(help="Cells' folders; their teachers lie below the same root.")],
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
) -> None:
    """Train finished cells again, teachers included, and say at which level they come out the same.

    Example: dgd-bench reproduce results/ddnn/cifar10/cifar_resnet8/baseline/seed0

    A: the same processor, versions and device as its provenance.json says: equal bytes. B: other numbers of cores, threads or
    processes, or side by side: equal within a tolerance. C: other versions, code or devices: statistically equal. Exit status 0
    if it is the same at its level, else 1.
    """
    from dgd import reproduce as reproduction

    failed = False
    given = reproduction.Options(threads, ranks, together)
    for folder in folders:
        found = reproduction.reproduce(folder, given, keep, say=lambda line: print(line, flush=True))
        failed |= not found.good
    _exit(failed)


@app.command()
def filters(
    path: Annotated[str, typer.Argument(help="A cell's folder, or weights: .safetensors, .pt or .pth.")],
    baseline: Annotated[
        str | None, typer.Option(help="Folder or file that says which filters are invalid (default: the network itself).")
    ] = None,
) -> None:
    """Print filter statistics of a cell's networks, or of any file of weights."""
    from tabulate import tabulate

    from dgd import filters as statistics
    from dgd.train import checkpoint

    def networks(path: str) -> dict[str, dict]:
        path = Path(path)
        if not path.is_dir():
            return {"": checkpoint.load_any(path)}
        return checkpoint.load_networks(path / "model.safetensors")

    reference = next(iter(networks(baseline).values())) if baseline else None  # the first network is the reported one
    rows = []
    for i, state in networks(path).items():
        norms = statistics.l1_norms(state)
        if not norms:
            raise ValueError(f"{path}: no convolution filters in it")
        against = statistics.l1_norms(reference) if reference else norms
        for threshold in statistics.THRESHOLDS[:2]:
            rank = statistics.mean_l1(norms, against, threshold, "rank")
            position = statistics.mean_l1(norms, against, threshold, "position")
            ratio = statistics.invalid_ratio(norms, threshold)
            rows.append([i, len(statistics.flatten(norms)), threshold, ratio, *rank, *position])
    headers = ["network", "filters", "threshold", "invalid ratio"]
    headers += [f"{kind} ({reading})" for reading in ("rank", "position") for kind in ("valid L1", "invalid L1")]
    print(tabulate(rows, headers=headers, floatfmt=".4g"))


@app.command()
def prune(
    folder: Annotated[str, typer.Argument(help="A cell's folder, with model.safetensors in it.")],
    shares: Annotated[
        list[float] | None, typer.Option(help="Shares of filters to remove, 0 to 1 (default: 0.05 to 0.9).")
    ] = None,
) -> None:
    """Print accuracy of a cell as its smallest filters, and as many random ones, are removed; write its pruning.csv."""
    from tabulate import tabulate

    from dgd import identity, running, seals
    from dgd.train import pruning

    cell = identity.cell_of(folder)
    if not cell:
        raise SystemExit(f"{folder}: no config.yaml of a cell in it; give the folder of a trained cell")
    if not (Path(folder) / "model.safetensors").is_file():
        raise SystemExit(f"{folder}: no model.safetensors in it; committed results come without weights, train the cell first")
    root = seals.root_of(Path(folder) / "config.yaml", cell.path)
    curve = pruning.prune_cell(folder, running.prepared(cell, root), shares or pruning.SHARES)
    if curve.empty:
        raise SystemExit(f"{folder}: nothing to prune: the cell has no result, or its network no convolution filters")
    print(tabulate(curve, headers="keys", showindex=False, floatfmt=(".3f", "g", "g", ".0f", ".2f", ".2f")))


@app.command()
def doctor(
    data_dir: Annotated[str, typer.Option("--data", help="Folder of the data sets' files.")] = "data",
    results: Annotated[str, typer.Option(help="Root of the results.")] = "results",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what this machine has, and what will therefore be slow, differ or be left out."""
    from tabulate import tabulate

    from dgd.doctor import findings

    found = list(findings(data_dir, results))
    if as_json:
        print(json.dumps([one._asdict() for one in found], indent=1))
    else:
        print(tabulate(found, headers=["", "found", "remark"], tablefmt="plain", maxcolwidths=[None, 60, 60]))


@app.command()
def version() -> None:
    """Print the version, the commit, and the versions that results depend on."""
    from dgd.doctor import findings

    for one in islice(findings(), 2):
        print(f"{one.name} {one.found}")


@app.command()
def cite(
    path: Annotated[str, typer.Argument(metavar="CONFIG", help="A benchmark, e.g. config/quick.yaml.")],
    papers: Annotated[str, typer.Option(help="Folder of the papers' files.")] = "papers",
) -> None:
    """Print BibTeX of the papers whose methods and numbers a benchmark uses."""
    from dgd import config
    from dgd.read.citations import bibtex

    print(bibtex(config.load(path, folders=False), papers), end="")


# The commands below read finished cells.


@app.command()
def table(
    folder: Annotated[str, typer.Argument(help="A benchmark's results, e.g. results/quick.")],
    papers: Annotated[list[str] | None, typer.Option(help="Published numbers to set beside (default: papers/*.yaml).")] = None,
) -> None:
    """Print the tables of a benchmark's results, finished or not."""
    from dgd import frozen, identity, running
    from dgd.read.cells import collect
    from dgd.read.filter_sets import filters_table
    from dgd.read.papers import read_papers
    from dgd.read.results import results_table
    from dgd.read.table import markdown

    cells = collect(folder)
    published = read_papers(papers if papers is not None else sorted(map(str, Path("papers").glob("*.yaml"))))
    for one in (results_table(cells, published), filters_table(cells, published)):
        print(markdown(one), end="\n\n")
    made_by = frozen.made_by(folder)
    for row in made_by:
        print(f"Frozen: {frozen.sentence(row)}.")
    if not made_by:
        states = identity.states(running.folder_cells(folder), Path(folder).resolve().parent)
        for name, state in states.items():
            if not state.fresh:
                print(f"{name} is {state}.")


@app.command()
def compare(
    one: CellFolder,
    other: Annotated[str, typer.Argument(help="Another cell's folder.")],
) -> None:
    """Set two finished cells beside each other: what was asked for, results, and on which test images they differ."""
    from dgd.read.comparison import compare as comparison

    print(comparison(one, other))


@app.command()
def claims(
    folders: Annotated[
        list[str] | None, typer.Argument(help="Results of benchmarks, e.g. results/quick (default: results/*).")
    ] = None,
    paper: Annotated[
        list[str] | None, typer.Option(help="Only the claims of this paper, e.g. dgd; may be given again.")
    ] = None,
    papers: Annotated[str, typer.Option(help="Folder of the papers' files.")] = "papers",
    csv: Annotated[bool, typer.Option("--csv", help="A row a claim, setting and benchmark, as CSV.")] = False,
) -> None:
    """Print what the papers claim, with what is measured so far."""
    from dgd.read import claims as reading
    from dgd.read.cells import collect, refuse_twice

    files = sorted(Path(papers).glob("*.yaml"))
    if paper:
        files = [path for path in files if path.stem in paper]
        if missing := sorted(set(paper) - {path.stem for path in files}):
            raise SystemExit(f"--paper {missing[0]}: no file {Path(papers) / missing[0]}.yaml")
    elif not files:
        raise SystemExit(f"{papers}: no papers (*.yaml) there; give their folder by --papers")
    if missing := [folder for folder in folders or () if not Path(folder).is_dir()]:
        raise SystemExit(f"{missing[0]}: no such folder; give those of benchmarks, e.g. results/quick")
    folders = folders or sorted(path for path in Path("results").glob("*") if path.is_dir())
    cells = [(collect(folder), folder) for folder in folders]
    refuse_twice(cells)
    found = reading.evaluate(reading.read(files), [(frame, folder) for frame, folder in cells if len(frame)])
    print(found.to_csv(index=False, float_format="%.8g").rstrip() if csv else reading.listing(found))


@app.command()
def controls(
    folder: Annotated[str, typer.Argument(help="Results of the benchmark, e.g. results/controls.")],
    path: Annotated[str, typer.Option("--config", help="The benchmark, which names the controls, e.g. config/controls.yaml.")],
) -> None:
    """Print what is left of each method's gain after each control, whatever of it is there."""
    from dgd import config
    from dgd.read.cells import collect
    from dgd.read.controls import controls_table
    from dgd.read.table import markdown

    benchmark = config.load(path)
    cells = collect(folder, config.cells(benchmark))
    print(markdown(controls_table(cells, benchmark.controls, benchmark.report)))


# The two commands below hand finished cells from one group to another.


@app.command()
def export(
    folders: Annotated[list[str], typer.Argument(metavar="RESULTS...", help="Results of benchmarks, e.g. results/quick.")],
    out: Annotated[str, typer.Option(help="The file to write, e.g. quick.tar.")],
    cells: Annotated[str, typer.Option(help="Path or pattern of cells, e.g. '*/dgd/seed0'; teachers go with them.")] = "*",
    weights: Annotated[bool, typer.Option("--weights", help="Weights too: Snakemake trains cells without them again.")] = False,
    papers: Annotated[str, typer.Option(help="Folder of the papers' files.")] = "papers",
) -> None:
    """Write finished cells, with tables, provenance, licence and checksums, into one file that `import` takes in."""
    from dgd import export as exporting

    count = exporting.export(folders, out, cells, weights, papers)
    print(f"{out}: {count} cells")


@app.command("import")
def import_(
    bundle: Annotated[str, typer.Argument(help="A file that `export` wrote.")],
    results: Annotated[str, typer.Option(help="Root of the results.")] = "results",
    replace: Annotated[bool, typer.Option("--replace", help="Take the bundle's cells where others are there.")] = False,
) -> None:
    """Take the cells of such a file in, after all of it is checked; exit status 1 if a cell was left out."""
    from dgd import export as exporting

    found = exporting.take(bundle, results, replace)
    for line in found.lines:
        print(line)
    print(found)
    _exit(found.counts[exporting.LEFT] > 0)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit status; a mistake is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):  # in a locale without UTF-8, what it lacks is written as \\u2190
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(_each(sys.argv[1:] if argv is None else argv), prog_name="dgd-bench")
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        if isinstance(end.code, str):  # a message, and exit status 1
            raise
        if end.code == INTERRUPTED:
            print("\ndgd-bench: interrupted; the same command goes on", file=sys.stderr)
        return end.code or 0
    except BrokenPipeError:  # `| head`: at its end Python would write what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except UnicodeEncodeError as error:
        name = error.object.encode("ascii", "backslashreplace").decode()
        print(f"dgd-bench: {name}: a name that this locale cannot write; set PYTHONUTF8=1", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError, yaml.YAMLError) as error:
        print(f"dgd-bench: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _exit(failed: bool) -> None:
    """End the command with status 1 if it failed."""
    if failed:
        raise typer.Exit(1)


def _each(argv: list[str]) -> list[str]:
    """Return a command line in which each value of an option in `SEVERAL` has the option before it, and plugins come first."""
    found, plugins, option = [], [], ""
    words = iter(argv)
    for word in words:
        if word.partition("=")[0] == "--plugin":
            plugins += [word] if "=" in word else [word, *islice(words, 1)]
            continue
        if word.startswith("--"):
            option, first = (word if word in SEVERAL else ""), True
        elif option and not first:
            found.append(option)
        else:
            first = False
        found.append(word)
    return plugins + found


if __name__ == "__main__":
    sys.exit(main())
