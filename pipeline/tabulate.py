"""Write the tables: `python -m pipeline.tabulate --cells <cells.csv> --papers papers/dgd.yaml --out <folder>`."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dgd import frozen
from dgd.read import claims
from dgd.read.cells import REPORTS, predicting
from dgd.read.controls import controls_table
from dgd.read.density import density_table
from dgd.read.filter_sets import filters_table
from dgd.read.generated import generated_table
from dgd.read.methods import methods_table
from dgd.read.papers import read_papers
from dgd.read.results import results_table
from dgd.read.retrieval import retrieval_table
from dgd.read.subnets import subnets_table
from dgd.read.table import write
from pipeline import script


def main(argv=None):
    """Set our cells beside the papers' numbers, in Markdown, CSV and LaTeX."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--papers", type=Path, nargs="*", default=[])
    parser.add_argument("--report", choices=REPORTS, default="first", help="which network of a group is the headline")
    parser.add_argument("--controls", type=json.loads, default={}, help="method -> readings, as in the config, in JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    found, papers = pd.read_csv(args.cells), read_papers(args.papers)
    cells = predicting(found)
    folder = args.cells.parent  # the cells' own files lie beside cells.csv
    tables = {
        "results": results_table(cells, papers, args.report),
        "methods": methods_table(cells, args.report),
        "filters": filters_table(cells, papers),
        "controls": controls_table(cells, args.controls, args.report),
        "density": density_table(cells, folder),
        "claims": claims.table(claims.evaluate(claims.read(args.papers), [(cells, folder)])),
    }
    special = {
        "subnets": subnets_table(cells),
        "retrieval": retrieval_table(cells, folder),
        "generated": generated_table(found, folder),
    }
    tables |= {name: table for name, table in special.items() if len(table.frame)}
    standing = found.loc[found["network"] == 0, "standing"].dropna() if "standing" in found else ()
    notes = frozen.footnotes(folder, standing)
    for name, table in tables.items():
        write(replace(table, footnotes=(*table.footnotes, *notes)), args.out / name)


if __name__ == "__main__":
    script.run(main)
