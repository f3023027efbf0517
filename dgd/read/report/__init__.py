"""Write a report: one page on one benchmark or several side by side, which needs no other file and no network.

`found` reads a folder of results, `answer` says in sentences what came out, `charts` and `rows` make charts and tables of it,
`sections` puts them in order, and page.html with its CSS and JavaScript shows them. Nothing is computed here that the tables
and the cells' files do not hold, but for sums of time.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from dgd.files import write_text
from dgd.metrics import METRICS
from dgd.read.report import charts, found, rows, sections
from dgd.read.report.libraries import bundled

DETAILED = 1000
"""Cells of a page up to which it holds the details of each; with more, a browser takes long to open it."""


def write(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page on some folders of results; return its path.

    Args:
        folders: `results/<benchmark>`, one or several, as the workflow leaves them: benchmark.yaml, cells.csv, tables/ and the
            cells' own files.
        out: The page, such as report.html.

    Raises:
        ValueError: There is no folder, two are of benchmarks of one name, or a file is not there, damaged, or was changed.
    """
    benchmarks = [found.read(folder) for folder in folders]
    names = [benchmark.name for benchmark in benchmarks]
    if not names:
        raise ValueError("no folder of results; give one, such as results/quick")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two folders are of the benchmark {twice[0]}; give one of them")
    write_text(Path(out), page(benchmarks))
    return Path(out)


def page(benchmarks: Sequence[found.Benchmark]) -> str:
    """Return the page on some benchmarks as HTML."""
    linked = sum(len(benchmark.cells) for benchmark in benchmarks) <= DETAILED
    parts = [(benchmark, sections.of(benchmark, linked)) for benchmark in benchmarks]
    beside = sections.side_by_side(benchmarks) if len(benchmarks) > 1 else None
    shown = [*([beside] if beside else []), *(section for _, own in parts for section in own)]
    tables = [table for section in shown for table in _tables(section)]
    drawn = {chart.id: chart.spec for section in shown for group in section.charts for chart in group.charts}
    details = {
        path: found.details(one, benchmark.config["recipe"])
        for benchmark in benchmarks
        for path, one in benchmark.cells.items()
        if linked
    }
    values = {row.id: row.values for table in tables for row in table.rows if row.values and linked}
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["sort_key"] = rows.sort_key
    return environment.from_string(_own("page.html")).render(
        title=" | ".join(benchmark.name for benchmark in benchmarks),
        parts=parts,
        beside=beside,
        linked=linked,
        css=Markup(_own("page.css")),
        script=Markup(_own("page.js")),
        libraries=[Markup(text) for text in bundled()],
        data=Markup(
            _json(
                {
                    "charts": drawn | {f"metric/{metric.words}": charts.one_line(metric.label) for metric in METRICS.values()},
                    "cells": details,
                    "rows": values,
                }
            )
        ),
    )


def _tables(section: sections.Section) -> list[rows.Shown]:
    return [*section.tables, *(what for _, what in section.folded if isinstance(what, rows.Shown))]


def _own(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """Return JSON that can stand in a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).replace("<", "\\u003c")


def _plain(value: object) -> object:
    """Return a number of numpy as one of Python."""
    return value.item()
