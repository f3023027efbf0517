"""Write the report: `python -m pipeline.report --config <resolved config> --out results/quick/report.html`."""

import argparse
import base64
import json
from pathlib import Path

import jinja2
import pandas as pd
import yaml
from markdown_it import MarkdownIt

from dgd import json_files
from dgd.config import cells, check
from dgd.files import write_text
from dgd.json_files import Each, Null, Value
from dgd.metrics import METRICS, Metric
from dgd.read import claims
from dgd.read.cells import read_collected
from dgd.read.files import as_written, read_metrics
from dgd.read.table import NOT_RUN
from dgd.seals import AGAIN, RECORD
from pipeline import script

PAGE = Path(__file__).parent / "report" / "page.html"
# What a browser still shows at once: of more cells only those without a result are listed, of a larger SVG the PNG is shown.
LISTED = 1000
SVG_BYTES = 250_000
PROVENANCE = {
    "machine": {
        "gpu": Null({"name?": Value(str)}),
        "cpu": Value(str),
        "cores": Value(int | None),
        "threads": Value(int),
        "host": Value(str),
    },
    "git": Null({"commit?": Value(str | None), "dirty?": Value(bool | None)}),
    **{"code_sha256": Value(str), "python": Value(str), "packages": Each(Value(str | None))},
}
"""The form of what the page reads of a provenance.json."""


def main(argv=None):
    """Put tables, figures, config and provenance of a benchmark on one page that needs no other file and no network."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a resolved config, a JSON file")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    folder, config = args.out.parent, json.loads(args.config.read_text())
    asked = cells(check(config, str(args.config), folders=False))
    metrics = {cell.path: METRICS[cell.task] for cell in asked}
    collected = read_collected(folder / "cells.csv").dropna(subset="folder").drop_duplicates("folder")
    standing = collected.set_index("folder")["standing"].fillna("")
    rows = [
        _row(folder.parent, path, metric) | {"standing": standing.get(path.partition("/")[2], "")}
        for path, metric in metrics.items()
    ]
    listed = rows if len(rows) <= LISTED else [row for row in rows if row["status"] != "finished"]
    names = ["results", "methods", "filters", "density", *(["controls"] if config.get("controls") else [])]
    special = ("subnets", "retrieval", "generated")  # tables of some benchmarks only
    names += [name for name in special if (folder / "tables" / f"{name}.md").is_file()]
    page = jinja2.Template(PAGE.read_text(), autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        benchmark=config["benchmark"],
        config=yaml.safe_dump(config, sort_keys=False),
        tables=[(name, to_html((folder / "tables" / f"{name}.md").read_text(encoding="utf-8"))) for name in names],
        figures=[(path.stem, _data_uri(path)) for path in sorted((folder / "figures").glob("*.svg"))],
        claims=_claims(folder / "tables" / "claims.csv", {row["path"] for row in listed}),
        cells=rows,
        listed=listed,
        measured=" or ".join(dict.fromkeys(metric.words for metric in metrics.values())),
        seconds=sum(row["seconds"] for row in rows),
        facts=_facts([row["provenance"] for row in rows]),
    )
    write_text(args.out, page)


def to_html(markdown: str) -> jinja2.filters.Markup:
    """Return a table's Markdown, a pipe table and a list of footnotes, as HTML; a `*` or a `<` in it is a letter."""
    return jinja2.filters.Markup(MarkdownIt("zero").enable(["table", "list"]).render(markdown))


def _claims(path: Path, listed: set[str]) -> dict:
    """Return the claims as the page shows them: those with cells, each row with the cells of its two sides, and the others.

    Args:
        path: tables/claims.csv.
        listed: Paths of the cells that the page has a line for; only these can be linked to.
    """
    table = claims.typed(pd.read_csv(path))
    shown = claims.shown(table)
    rows: dict[str, list] = {}
    for row in shown.to_dict("records"):
        sides = [(row["method"], "seeds", "folders"), (row["over"], "over_seeds", "over_folders")]
        of = [
            (name, [(seed, path) for seed, path in zip(row[seeds].split(), _paths(row, folders))])
            for name, seeds, folders in sides
        ]
        rows.setdefault(row["claim"], []).append(claims.row_text(row) | {"cells": of})
    found = [row | {"rows": rows.get(row["claim"], [])} for row in claims.summary(table).to_dict("records")]
    return {
        "run": [claim for claim in found if claim["overall"] != NOT_RUN],
        "rest": [claim for claim in found if claim["overall"] == NOT_RUN],
        "linked": listed,
        "left_out": (table["verdict"] != NOT_RUN).sum() - len(shown),
    }


def _paths(row: dict, folders: str) -> list[str]:
    return [f"{row['benchmark']}/{folder}" for folder in row[folders].split()]


def _data_uri(svg: Path) -> str:
    """Return a figure as a page can hold it: the SVG, or the PNG beside it where the SVG is large."""
    kind, path = ("svg+xml", svg) if svg.stat().st_size <= SVG_BYTES else ("png", svg.with_suffix(".png"))
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def _row(results: Path, path: str, metric: Metric) -> dict:
    """Return a cell's line in the report: its number, and what produced it."""
    metrics = read_metrics(results / path / "metrics.json")
    provenance = json_files.read(as_written(results / path / RECORD), AGAIN)
    for line in json_files.problems(provenance, PROVENANCE):
        raise ValueError(f"{results / path / RECORD}: {line}; {AGAIN}")
    done = metrics["status"] == "finished"
    return {
        "path": path,
        "status": metrics["status"],
        "error": metrics.get("error", ""),
        "last": f"{metrics['networks'][0]['last'][metric.name]:{metric.form}}" if done else "",
        "seconds": metrics["timings"]["seconds"] if done else 0.0,
        "provenance": provenance,
    }


def _facts(records: list[dict]) -> list[tuple[str, str, int]]:
    """Return (what, value, number of cells) of everything that should be one and the same in all cells."""
    found = {}
    for record in records:
        machine, git = record["machine"], record["git"] or {}
        gpu = (machine["gpu"] or {}).get("name", "none")
        commit = git.get("commit") or "not in a repository"
        for what, value in {
            "code (SHA-256)": record["code_sha256"],
            "commit": commit + (" and uncommitted changes" if git.get("dirty") else ""),
            "Python": record["python"],
            "packages": ", ".join(f"{name} {number}" for name, number in record["packages"].items()),
            "CPU": f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads a cell",
            "GPU": gpu,
            "host": machine["host"],
        }.items():
            found[what, value] = found.get((what, value), 0) + 1
    order = list(dict.fromkeys(what for what, _ in found))
    return [(what, value, n) for (what, value), n in sorted(found.items(), key=lambda item: order.index(item[0][0]))]


if __name__ == "__main__":
    script.run(main)
