"""`dgd-bench list`: what there is to name in a benchmark, and the cells that one names."""

from typing import Annotated, Any

import typer

from dgd.cli.common import AsJson, ConfigPath, Papers, app, show

lists = typer.Typer()
app.add_typer(lists, name="list", invoke_without_command=True)

HEADERS = ("method", "objective", "exchange", "networks", "teachers", "status", "needs")


@lists.callback()
def everything(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List methods, models, data sets, claims, benchmarks, cells or published numbers of one; alone: what a cell is made of.

    Example: dgd-bench list benchmarks
    """
    if ctx.invoked_subcommand:
        return
    from dgd import data, objectives
    from dgd.cell import EXCHANGES

    found = {
        "methods": _methods(),
        "terms": list(objectives.TERMS),
        "exchanges": list(EXCHANGES),
        "datasets": [*data.names(), "imagefolder:<path>"],
        "models": _models(None),
    }
    lines = [f"{label:<11}{', '.join(found[name])}" for name, label in _LABELS.items()]
    show(found, "\n".join([_methods_text(found["methods"]), "", *lines, "           and every other timm name"]), as_json)


_LABELS = {"terms": "terms:", "exchanges": "exchanges:", "datasets": "data sets:", "models": "models:"}


@lists.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods: what each minimises and exchanges, how many networks and teachers it takes, and what it needs.

    Example: dgd-bench list methods
    """
    found = _methods()
    show(found, _methods_text(found), as_json)


@lists.command()
def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Names with wildcards, e.g. 'resnet*' (default: this package's own).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List networks: this package's own, or those of timm whose names match a pattern.

    Example: dgd-bench list models 'resnet1*'
    """
    found = _models(pattern)
    if not found:
        raise ValueError(f"list models {pattern}: timm has no network of this name; wildcards are * and ?")
    more = "" if pattern else "\nand every other timm name: `dgd-bench list models '*'`"
    show(found, "\n".join(found) + more, as_json)


@lists.command()
def datasets(as_json: AsJson = False) -> None:
    """List data sets: what is learned from them, their inputs, and their size.

    Example: dgd-bench list datasets
    """
    from dgd import data

    found = []
    for name in data.names():
        source = data.SOURCES[name]
        sizes = source.shape or (None,) * 5
        about = dict(zip(("classes", "channels", "side", "train_images", "test_images"), sizes, strict=True))
        found.append({"dataset": name, "task": source.task, "inputs": " + ".join(source.inputs), **about})
    show(found, f"{_table(found)}\n\nimagefolder:<path> is a folder with train/<class>/ and test/<class>/ in it", as_json)


@lists.command()
def claims(papers: Papers = None, as_json: AsJson = False) -> None:
    """List what the papers claim; `dgd-bench claims` says what is measured of it.

    Example: dgd-bench list claims
    """
    from dgd import shipped
    from dgd.read.claims import read

    found = [
        {"claim": one.id, "paper": one.paper, "settings": len(one.settings), "source": one.source, "sentence": one.claim}
        for one in read(shipped.papers(papers))
    ]
    if not found:
        raise ValueError(f"{papers}: none of its *.yaml has claims of a paper; give another folder by --papers")
    show(found, _table([{key: _cut(value) for key, value in row.items()} for row in found]), as_json)


@lists.command()
def benchmarks(as_json: AsJson = False) -> None:
    """List the benchmarks that travel with the package: each name stands for its file in `train`, `status` and the others.

    Example: dgd-bench list benchmarks
    """
    from dgd import config, shipped

    found = []
    for name in shipped.names():
        path = shipped.benchmark(name)
        benchmark = config.load(path, folders=False)
        row = {"benchmark": name, "cells": len(config.cells(benchmark)), "data sets": ", ".join(benchmark.datasets)}
        row |= {"networks": ", ".join(dict.fromkeys(pair.student for pair in benchmark.pairs)), "methods": len(benchmark.rows)}
        found.append(row | {"about": shipped.about(path)})
    show(found, _table([{key: _cut(value) for key, value in row.items()} for row in found]), as_json)


@lists.command()
def cells(path: ConfigPath, as_json: AsJson = False) -> None:
    """List the cells of a benchmark, teachers first, and their precision; this checks the benchmark, as every command does.

    Example: dgd-bench list cells config/quick.yaml
    """
    from dgd import running

    found = {cell.path: cell.recipe.precision for cell in running.benchmark_cells(path)}
    width = max(map(len, found), default=0)
    show([*found], "\n".join(f"{cell:<{width}}  {precision}" for cell, precision in found.items()), as_json)


@lists.command()
def published(path: ConfigPath, as_json: AsJson = False) -> None:
    """List the published numbers beside a benchmark's cells, each as published or with the conditions that its cells depart in.

    Nothing is trained. A published size decides a verdict only where a row departs in nothing.

    Example: dgd-bench list published config/zoo.yaml
    """
    from dgd import config, plugins, shipped
    from dgd.read.planned import published_rows, summary

    benchmark = config.load(shipped.benchmark(path), folders=False)
    papers = [plugins.PAPERS.get(name, shipped.PAPERS / f"{name}.yaml") for name in benchmark.papers]
    rows = published_rows(config.cells(benchmark), papers)
    found = rows.to_dict("records")
    text = "\n".join(["", *summary(rows), "(how many numbers of a table, by rows of methods)"])
    show(found, (_table(found) if found else "") + "\n" + text, as_json)


def _cut(value: Any, most: int = 90) -> Any:
    """Return a text as a table for people has it; its JSON has all of it."""
    return value if not isinstance(value, str) or len(value) <= most else f"{value[: most - 1]}…"


def _table(rows: list[dict]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers="keys", disable_numparse=True)


def _models(pattern: str | None) -> list[str]:
    from dgd import models as networks

    return networks.registered([pattern] if pattern else ["cifar_*", "crd_*", "audio_*"])


def _methods() -> list[dict]:
    from dgd import methods as table

    return [dict(zip(HEADERS, [name, *_described(row)], strict=True)) for name, row in table.METHODS.items()]


def _methods_text(found: list[dict]) -> str:
    from dgd.methods import GRAFTED, NAMED

    names = ", ".join(f"{name}{GRAFTED} is {other}" for name, other in NAMED.items())
    return "\n".join(
        [
            _table(found),
            "",
            f"A row without an exchange is also there with {GRAFTED} after its name, e.g. sp{GRAFTED}; {names}.",
            "docs/methods.md has equations, options, and what deviates from the sources.",
        ]
    )


def _described(row: Any) -> list:
    """Return what people read of a row of `dgd.methods.METHODS`: what it minimises, and how it stands to its source."""
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
    return [" + ".join(terms), exchanged, row.networks, row.teachers, status, str(objective.requires)]
