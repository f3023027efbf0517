"""Print a finished benchmark: `python -m pipeline.show results/quick`."""

import argparse
import sys
from pathlib import Path

from pipeline import script


def main(argv=None):
    """Print a benchmark's results table and where the rest lies."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="the benchmark's results, such as results/quick")
    folder = parser.parse_args(argv).folder
    table = folder / "tables" / "results.md"
    if not table.is_file():
        sys.exit(f"{table}: not there; run `snakemake --cores 2` first")
    print(table.read_text())
    for name, what in (("report.html", "report"), ("cells.csv", "every cell"), ("tables", "tables"), ("figures", "figures")):
        print(f"{what + ':':<12}{folder / name}")


if __name__ == "__main__":
    script.run(main)
