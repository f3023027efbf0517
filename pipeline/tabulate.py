"""Write the tables: `python -m pipeline.tabulate --cells <cells.csv> --papers papers/dgd.yaml --out <folder>`."""

import argparse
import json
from pathlib import Path

import pandas as pd

from dgd import claims, comparison, controls, evidence, tables


def main(argv=None):
    """Set our cells beside the papers' numbers, in Markdown, CSV and LaTeX."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--papers", type=Path, nargs="*", default=[])
    parser.add_argument("--report", choices=tables.REPORTS, default="first", help="which network of a group is the headline")
    parser.add_argument("--controls", type=json.loads, default={}, help="method -> readings, as in the config, in JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    cells = pd.read_csv(args.cells)
    args.out.mkdir(parents=True, exist_ok=True)
    tables.write(tables.results_table(cells, args.papers, args.report), args.out / "results")
    comparison.write(comparison.methods_table(cells, args.report), args.out / "methods")
    tables.write(tables.filters_table(cells, args.papers), args.out / "filters")
    controls.write(controls.controls_table(cells, args.controls, args.report), args.out / "controls")
    # The cells' own files lie beside cells.csv.
    density = evidence.density_table(cells, args.cells.parent)
    tables.write(density, args.out / "density", evidence.density_text(density), evidence.DENSITY_NOTES)
    claims.write(claims.evaluate(claims.read(args.papers), [(cells, args.cells.parent)]), args.out / "claims")


if __name__ == "__main__":
    main()
