"""Have DVC keep what Snakemake has made: `python -m pipeline.record`. Nothing is trained.

`dvc commit` alone takes what is there for what was asked for, and ends at the first cell that is missing. Here a cell is kept
where it is fresh, and tables where they are those of the cells.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from dgd import identity, manifest, yaml_files
from dgd.config import cells, load
from pipeline import script
from pipeline.cells import STAGES, data_sets, names, tables
from pipeline.score import write


def stages(path: Path) -> tuple[list[str], list[str]]:
    """Write the scores of a benchmark's fresh cells; return the names of the stages to keep, and why others are not kept."""
    benchmark, found, left = load(path), names([path]), []
    own = cells(benchmark)
    states = identity.states(own, benchmark.results)
    kept = []
    for cell, (name, item) in zip(own, found.items(), strict=True):
        folder = Path(item["folder"])
        if not states[cell.path].fresh:
            left.append(f"{folder} is {states[cell.path]}")
        elif not (folder / identity.WEIGHTS).is_file():
            left.append(f"{folder / identity.WEIGHTS}: no such file; a cell is kept with its weights")
        elif not (made := Path(item["data"]) / "manifest.json").is_file():
            left.append(f"{folder}: its data are not there; `snakemake --cores 1 --configfile {path} -- {made}` prepares them")
        else:
            write(folder)
            kept.append(f"cell@{name}")
    # Data of which no cell is kept may be those of another config.
    used = {found[name.removeprefix("cell@")]["data"] for name in kept}
    kept += [f"data@{name}" for name, item in data_sets([path]).items() if item["folder"] in used]
    folder = Path(benchmark.results) / benchmark.benchmark
    missing = [out for entry in tables(path, benchmark, own)["outs"] for out in entry if not Path(out).exists()]
    faults = left or [f"{out}: no such file or folder" for out in missing] or manifest.faults(folder)[0]
    if faults:
        left.append(f"the tables of {folder} are not kept: {faults[0]}")
    else:
        kept.append(f"tables-{benchmark.benchmark}")
    return kept, left


def main(argv=None):
    """Have DVC keep the cells of benchmarks that are fresh, with their data, scores and tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("configs", nargs="*", type=Path, help=f"default: all benchmarks of {STAGES}")
    kept, left = [], []
    for path in parser.parse_args(argv).configs or map(Path, yaml_files.read(STAGES)["params"]):
        own = stages(path)
        kept += own[0]
        left += own[1]
    for line in left:
        print(line, file=sys.stderr)
    if kept and (failed := subprocess.run(["dvc", "commit", "--force", "--no-relink", *kept]).returncode):
        sys.exit(failed)
    print(f"{len(kept)} stages are in dvc.lock, {len(left)} are not")


if __name__ == "__main__":
    script.run(main)
