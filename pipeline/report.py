"""Write the report: `python -m pipeline.report --folder results/quick --out results/quick/report.html`."""

import argparse
from pathlib import Path

from dgd.read import report
from pipeline import script


def main(argv=None):
    """Put tables, charts, config and provenance of a benchmark on one page that needs no other file and no network."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, nargs="+", required=True, help="the benchmark's results, or those of several")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    report.write(args.folder, args.out)


if __name__ == "__main__":
    script.run(main)
