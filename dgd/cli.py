"""`dgd-bench`: one thing at a time, without Snakemake."""

import argparse
import fnmatch
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from tabulate import tabulate


def _list(args: argparse.Namespace) -> None:
    from dgd import config, data, methods, objectives

    if args.config:
        for cell in config.cells(config.load(args.config)):
            print(cell.path)
        return
    headers = ["method", "objective", "exchange", "networks", "teachers", "status", "needs"]
    print(tabulate([_described(name, row) for name, row in methods.METHODS.items()], headers=headers))
    names = ", ".join(f"{name}{methods.GRAFTED} is {other}" for name, other in methods.NAMED.items())
    print(
        f"\nA row without an exchange is also there with {methods.GRAFTED} after its name, e.g. sp{methods.GRAFTED}; {names}."
    )
    print("docs/methods.md has equations, options, and what deviates from the sources.")
    import timm

    print("\nterms:     ", ", ".join(objectives.TERMS))
    print("exchanges: ", ", ".join(methods.EXCHANGES))
    print("data sets: ", ", ".join(data.NAMES), ", imagefolder:<path>", sep="")
    print("models:    ", ", ".join(timm.list_models("cifar_*")), "and every other timm name")


def _described(name: str, row) -> list:
    """A row of `dgd.methods.METHODS` for people: what it minimises, and how it stands to its source."""
    from dgd import methods, objectives, surgery

    spec = methods.given_options(row.objective)
    terms = []
    for term, options in spec.items():
        weight = f"{options['weight']:g} " if options.get("weight", 1.0) != 1 else ""
        rest = ", ".join(key if value is True else f"{key}={value}" for key, value in options.items() if key != "weight")
        terms.append(f"{weight}{term}" + (f"({rest})" if rest else ""))
    exchange = (row.exchange or {}).get("name", "-")
    objective = objectives.Objective(spec)
    parts = [*objective.terms.values(), *filter(None, [surgery.SURGERY.get(exchange)])]
    needs = ", ".join(need for need in objectives.NEEDS if need in objective.needs)
    return [name, " + ".join(terms), exchange, row.networks, row.teachers, objectives.weakest(parts), needs]


def _train(args: argparse.Namespace) -> int:
    """Train the cells of a benchmark that match a pattern, or the one cell of a cell's own config.yaml."""
    from dgd import config, distributed, training

    own = _cell_of(args.config)
    if own:
        root = Path(args.config).parents[len(Path(own["path"]).parts)]
        teachers = [_cell_of(root / path / "config.yaml") for path in own["teachers"]]
        known = {cell["path"]: cell for cell in filter(None, teachers)}
        wanted = [own]
    else:
        known = {cell["path"]: cell for cell in config.cells(config.load(args.config))}
        pattern = args.cell or "*"
        wanted = [cell for path, cell in known.items() if fnmatch.fnmatch(path, pattern) or path.endswith(f"/{pattern}")]
        if not wanted:
            raise SystemExit(f"{args.config}: no cell matches {pattern!r}; `dgd-bench list {args.config}` lists them")
    # In a process of a torchrun (see `_spread`) teachers and data are there.
    needed = {path: known[path] for cell in wanted for path in cell["teachers"] if path in known and not distributed.launched()}
    needed |= {cell["path"]: cell for cell in wanted}
    failed = 0
    for path, cell in needed.items():
        out = Path(args.results) / path
        if (out / "metrics.json").is_file() and _cell_of(out / "config.yaml") == cell and not args.again:
            print(f"{out}: already there (--again trains it again)", file=sys.stderr)
            continue
        prepared = _prepared(cell, make=not distributed.launched())
        if config.processes(cell) > 1 and not distributed.launched():
            failed |= _spread(config.processes(cell), args, path)
            continue
        try:
            metrics = training.train_cell(cell, results=args.results, data=prepared)
        except training.NoResult as error:
            print(f"{out}: {error.status}: {error}", file=sys.stderr)
            failed = 1
            continue
        if metrics:  # under torchrun one process has them
            print(f"{out}: {metrics['networks'][0]['last']['top1']:.2f} % test top-1 at the last epoch")
    return failed


def _spread(processes: int, args: argparse.Namespace, path: str) -> int:
    """Train one cell in as many processes as it asks for."""
    from dgd.config import torchrun

    command = ["-m", "dgd.cli", "train", args.config, path, "--results", args.results, "--again"]
    return subprocess.run([sys.executable, *torchrun(processes), *command]).returncode


def _cell_of(path: str | Path) -> dict | None:
    """The resolved cell in a cell's config.yaml; None if the file is no such thing.

    A cell of an older version lacks the keys of the recipe that came since: they get their defaults, which change nothing.
    """
    from dgd.config import RECIPE

    content = yaml.safe_load(Path(path).read_text()) if Path(path).is_file() else None
    if not isinstance(content, dict) or "path" not in content:
        return None
    return content | {"recipe": {**RECIPE, **content["recipe"]}}


def _prepared(cell: dict, make: bool = True) -> Path:
    """The folder of a cell's prepared data set, made if it is not there."""
    from dgd import data

    options = dict(cell["data"])
    del options["workers"]
    options["data_dir"] = options.pop("dir")
    folder = Path(options["data_dir"]) / "prepared" / cell["benchmark"] / cell["slug"]
    if make and not data.is_prepared(folder, cell["dataset"], **options):
        data.prepare(cell["dataset"], folder, **options)
    return folder


def _prune(args: argparse.Namespace) -> None:
    """Accuracy of a trained cell as its smallest filters, and as many random ones, are removed."""
    from dgd import pruning

    cell = _cell_of(Path(args.folder) / "config.yaml")
    if not cell:
        raise SystemExit(f"{args.folder}: no config.yaml of a cell in it; give the folder of a trained cell")
    if not (Path(args.folder) / "model.safetensors").is_file():
        raise SystemExit(
            f"{args.folder}: no model.safetensors in it; committed results come without weights, train the cell first"
        )
    curve = pruning.prune_cell(args.folder, _prepared(cell), args.shares or pruning.SHARES)
    if curve.empty:
        raise SystemExit(f"{args.folder}: nothing to prune: the cell has no result, or its network no convolution filters")
    print(tabulate(curve, headers="keys", showindex=False, floatfmt=(".3f", "g", "g", ".0f", ".2f", ".2f")))


def _filters(args: argparse.Namespace) -> None:
    """Filter statistics of a cell's networks, or of any safetensors file."""
    from dgd import checkpoint, filters

    def networks(path: str) -> dict[str, dict]:
        path = Path(path)
        state = checkpoint.load_weights(path / "model.safetensors" if path.is_dir() else path)
        if not path.is_dir():
            return {"": state}
        found: dict[str, dict] = {}
        for key, value in state.items():
            i, _, name = key.partition(".")
            found.setdefault(i, {})[name] = value
        return dict(sorted(found.items(), key=lambda item: int(item[0])))

    reference = next(iter(networks(args.baseline).values())) if args.baseline else None  # the first network is the reported one
    rows = []
    for i, state in networks(args.path).items():
        norms = filters.l1_norms(state)
        if not norms:
            raise SystemExit(f"{args.path}: no convolution filters in it")
        against = filters.l1_norms(reference) if reference else norms
        for threshold in filters.THRESHOLDS[:2]:
            rank = filters.mean_l1(norms, against, threshold, "rank")
            position = filters.mean_l1(norms, against, threshold, "position")
            ratio = filters.invalid_ratio(norms, threshold)
            rows.append([i, len(filters.flatten(norms)), threshold, ratio, *rank, *position])
    headers = ["network", "filters", "threshold", "invalid ratio"]
    headers += [f"{kind} ({reading})" for reading in ("rank", "position") for kind in ("valid L1", "invalid L1")]
    print(tabulate(rows, headers=headers, floatfmt=".4g"))


def _table(args: argparse.Namespace) -> None:
    """The tables of a results folder, finished or not."""
    from dgd.read.cells import collect
    from dgd.read.filter_sets import filters_table
    from dgd.read.papers import read_papers
    from dgd.read.results import results_table
    from dgd.read.table import markdown

    cells = collect(args.folder)
    papers = read_papers(args.papers if args.papers is not None else sorted(map(str, Path("papers").glob("*.yaml"))))
    for table in (results_table(cells, papers), filters_table(cells, papers)):
        print(markdown(table), end="\n\n")


def _claims(args: argparse.Namespace) -> int:
    """What the papers claim, with what is measured so far."""
    from dgd.read import claims
    from dgd.read.cells import collect

    papers = sorted(Path(args.papers).glob("*.yaml"))
    if args.paper:
        papers = [path for path in papers if path.stem in args.paper]
        if missing := sorted(set(args.paper) - {path.stem for path in papers}):
            raise SystemExit(f"--paper {missing[0]}: no file {Path(args.papers) / missing[0]}.yaml")
    elif not papers:
        raise SystemExit(f"{args.papers}: no papers (*.yaml) there; give their folder by --papers")
    if missing := [folder for folder in args.folders if not Path(folder).is_dir()]:
        raise SystemExit(f"{missing[0]}: no such folder; give those of benchmarks, e.g. results/quick")
    folders = args.folders or sorted(path for path in Path("results").glob("*") if path.is_dir())
    cells = [(collect(folder), folder) for folder in folders]
    table = claims.evaluate(claims.read(papers), [(frame, folder) for frame, folder in cells if len(frame)])
    print(table.to_csv(index=False, float_format="%.8g").rstrip() if args.csv else claims.listing(table))
    return 0


def _controls(args: argparse.Namespace) -> None:
    """What is left of each gain when it is held against the controls of a config."""
    from dgd import config
    from dgd.cell import Cell
    from dgd.read.cells import collect
    from dgd.read.controls import controls_table
    from dgd.read.table import markdown

    benchmark = config.filled(config.load(args.config))
    cells = collect(args.folder, [Cell.from_plain(cell) for cell in config.cells(benchmark)])
    print(markdown(controls_table(cells, benchmark["controls"], benchmark["report"])))


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    parser = argparse.ArgumentParser(prog="dgd-bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("list", help="methods, terms, data sets and models; with a config, its cells")
    add.add_argument("config", nargs="?", help="a benchmark, e.g. config/quick.yaml")
    add.set_defaults(run=_list)
    add = commands.add_parser("train", help="train cells of a benchmark, with the teachers they need")
    add.add_argument("config", help="a benchmark, or the config.yaml of a finished cell")
    add.add_argument("cell", nargs="?", help="path or pattern of cells, e.g. 'digits/cifar_resnet8/dgd/seed0' or '*/dgd/*'")
    add.add_argument("--results", default="results", help="root of the results (default: results)")
    add.add_argument("--again", action="store_true", help="train cells that are already there")
    add.set_defaults(run=_train)
    add = commands.add_parser("filters", help="filter statistics of a cell or a safetensors file")
    add.add_argument("path", help="a cell's folder or a .safetensors file")
    add.add_argument("--baseline", help="folder or file that says which filters are invalid (default: the network itself)")
    add.set_defaults(run=_filters)
    add = commands.add_parser("prune", help="accuracy of a cell as its smallest filters are removed; writes its pruning.csv")
    add.add_argument("folder", help="a cell's folder, with model.safetensors in it")
    add.add_argument("--shares", type=float, nargs="+", help="shares of filters to remove, 0 to 1 (default: 0.05 to 0.9)")
    add.set_defaults(run=_prune)
    add = commands.add_parser("table", help="tables of results/<benchmark>, whatever of it is there")
    add.add_argument("folder", help="e.g. results/quick")
    add.add_argument("--papers", nargs="*", help="published numbers to set beside (default: papers/*.yaml)")
    add.set_defaults(run=_table)
    add = commands.add_parser("claims", help="what the papers claim, with what is measured so far")
    add.add_argument("folders", nargs="*", help="results of benchmarks, e.g. results/quick (default: results/*)")
    add.add_argument("--paper", action="append", help="only the claims of this paper, e.g. dgd; may be given again")
    add.add_argument("--papers", default="papers", help="folder of the papers' files (default: papers)")
    add.add_argument("--csv", action="store_true", help="a row a claim, setting and benchmark, as CSV")
    add.set_defaults(run=_claims)
    add = commands.add_parser("controls", help="what is left of each method's gain after each control, whatever of it is there")
    add.add_argument("folder", help="results of the benchmark, e.g. results/controls")
    add.add_argument("--config", required=True, help="the benchmark, which names the controls, e.g. config/controls.yaml")
    add.set_defaults(run=_controls)
    args = parser.parse_args(argv)
    pd.set_option("display.width", 200)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, RuntimeError, yaml.YAMLError) as error:
        print(f"dgd-bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
