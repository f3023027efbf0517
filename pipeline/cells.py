"""Write cells.yaml, DVC's names of all cells: `make cells`, or `python -m pipeline.cells` with some configs."""

import argparse
import shlex
from pathlib import Path

import yaml

from dgd.config import ConfigError, cells, load
from dgd.files import write_text
from pipeline import script

HEADER = "# Names for `dvc repro 'cell@<name>'`. Written by `make cells`, not committed.\n"


def names(paths) -> dict[str, dict]:
    """Return the names of all cells (benchmark-dataset-model-method-seed) -> config file, folder, arguments of Snakemake.

    DVC gives its commands to a shell and quotes nothing, so the arguments are quoted here.

    Raises:
        ConfigError: Two configs have a cell of one name.
    """
    found = {}
    for path in paths:
        benchmark = load(path, folders=False)  # cells have their names before their images are there
        for cell in cells(benchmark):
            *parts, seed = cell.path.split("/")
            name = "-".join([*parts, seed.removeprefix("seed")])
            if name in found:
                raise ConfigError(f"{path}: cell {name} is in {found[name]['config']} too; rename the benchmark")
            config, folder = Path(path).as_posix(), f"{benchmark.results}/{cell.path}"
            arguments = shlex.join(["--configfile", config, "--", f"{folder}/metrics.json"])
            found[name] = {"config": config, "folder": folder, "arguments": arguments}
    return found


def render(paths) -> str:
    """Return the text of cells.yaml."""
    return HEADER + yaml.safe_dump({"cells": names(paths)}, sort_keys=True)


def main(argv=None):
    """Write cells.yaml from the benchmarks' configs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("configs", nargs="*", type=Path, help="default: config/*.yaml")
    parser.add_argument("--out", type=Path, default=Path("cells.yaml"))
    args = parser.parse_args(argv)
    write_text(args.out, render(args.configs or sorted(Path("config").glob("*.yaml"))))


if __name__ == "__main__":
    script.run(main)
