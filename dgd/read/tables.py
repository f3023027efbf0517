"""Make all tables of a benchmark from its cells.csv, the cells' own files and published numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dgd import frozen, plugins, shipped
from dgd.read import claims
from dgd.read.asked import Asked
from dgd.read.cells import predicting
from dgd.read.comparisons import Draft, Family, Settings
from dgd.read.controls import held
from dgd.read.density import density_table
from dgd.read.filter_sets import filters_table
from dgd.read.generated import generated_table
from dgd.read.methods import methods
from dgd.read.papers import read_papers
from dgd.read.results import results
from dgd.read.retrieval import retrieval_table
from dgd.read.subnets import subnets
from dgd.read.table import Table


def drafts(
    found: pd.DataFrame, folder: str | Path, papers: Sequence[str | Path], report: str, controls: Mapping[str, Sequence[str]]
) -> dict[str, Draft]:
    """Return name -> draft of each table that compares rows: together they are the family of the benchmark.

    Args:
        found: Its cells.csv.
        folder: The benchmark's results, with the cells' own files.
        papers: Files of published numbers.
        report: Which network of a group is the headline, see `dgd.read.cells.reported`.
        controls: Method -> readings, as in the config.

    Raises:
        ValueError: A file of a cell is damaged or was changed.
    """
    cells, published = predicting(found), read_papers(papers)
    settings = Settings(cells, report)
    first = settings if report == "first" else Settings(cells)
    return {
        "results": results(cells, published, report, settings),
        "methods": methods(cells, report, settings),
        "controls": held(cells, controls, report, settings),
        "claims": claims.draft(claims.read(papers), [(cells, folder)]),
        "subnets": subnets(cells, first),
    }


def asked_drafts(there: Asked, found: pd.DataFrame) -> dict[str, Draft]:
    """Return the drafts of a folder of results, by what was asked for there.

    Args:
        there: The folder.
        found: Its cells.
    """
    if there.benchmark is None:
        return drafts(found, there.folder, [], "first", {})
    files = [plugins.PAPERS.get(name, shipped.PAPERS / f"{name}.yaml") for name in there.benchmark.papers]
    papers = [path for path in files if Path(path).is_file()]
    return drafts(found, there.folder, papers, there.benchmark.report, there.benchmark.controls)


def tables(
    found: pd.DataFrame, folder: str | Path, papers: Sequence[str | Path], report: str, controls: Mapping[str, Sequence[str]]
) -> dict[str, Table]:
    """Return name -> table, as the folder tables/ of a benchmark's results has them; the arguments are those of `drafts`.

    Raises:
        ValueError: A file of a cell is damaged or was changed.
    """
    cells = predicting(found)
    compared = drafts(found, folder, papers, report, controls)
    family = Family(compared.values())
    there = {name: draft.table(family) for name, draft in compared.items()}
    made = {
        **{name: there[name] for name in ("results", "methods")},
        "filters": filters_table(cells, read_papers(papers)),
        "controls": there["controls"],
        "density": density_table(cells, folder),
        "claims": there["claims"],
    }
    special = {
        "subnets": there["subnets"],
        "retrieval": retrieval_table(cells, folder),
        "generated": generated_table(found, folder),
    }
    made |= {name: table for name, table in special.items() if len(table.frame)}
    standing = found.loc[found["network"] == 0, "standing"].dropna() if "standing" in found else ()
    notes = frozen.footnotes(folder, standing)
    return {name: replace(table, footnotes=(*table.footnotes, *notes)) for name, table in made.items()}
