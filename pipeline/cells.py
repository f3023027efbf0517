"""Write dvc.yaml, what DVC keeps of benchmarks: `make cells CONFIGS='config/quick.yaml config/mine.yaml'`.

A stage asks Snakemake for a cell, a data set or tables, and DVC keeps the folder that is then there. The file is committed: DVC
reads it in other revisions too.
"""

import argparse
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from dgd import identity
from dgd.benchmark import Benchmark
from dgd.cell import Cell
from dgd.config import ASKED, ConfigError, cells, load
from dgd.files import write_text
from dgd.manifest import MANIFEST
from dgd.metrics import MAKERS, METRICS
from pipeline import script

STAGES = Path("dvc.yaml")
SCORES = "scores"
"""Folder of the scores: a file a cell, which is all that `dvc metrics` shows."""
HEADER = """\
# What DVC keeps of benchmarks: docs/results-with-dvc.md. Written by `make cells CONFIGS='{}'`, not by hand.
# Snakemake alone decides what is stale, and trains: a stage asks it for one thing, and DVC keeps the folder that is then there.
# `persist`: DVC would delete a cell before it asks for it, and Snakemake would train it again.
"""
NOTHING = "Snakefile"
"""Stands in `after` for cells without a teacher: in DVC all stages of a group have the same number of dependencies."""
SNAKEMAKE = 'PATH="$PWD/.venv/bin:$PATH" snakemake --cores 1 --nolock'
CELL = {
    "desc": "${item.folder}",
    "cmd": SNAKEMAKE + " ${item.arguments} && " + 'PATH="$PWD/.venv/bin:$PATH" python -m pipeline.score ${item.quoted}',
    "deps": ["${item.config}", "dgd", "pipeline/train.py", "${item.data}", "${item.after}"],
    "outs": [{"${item.folder}": {"persist": True}}],
    "metrics": [{"${item.score}": {"cache": False, "persist": True}}],
}
DATA = {
    "desc": "${item.folder}",
    "cmd": f"{SNAKEMAKE} ${{item.arguments}}",
    "deps": ["${item.config}", "dgd/data", "${item.after}"],
    "outs": [{"${item.folder}": {"persist": True}}],
}


def names(paths: Iterable[Path]) -> dict[str, dict]:
    """Return the names of all cells (benchmark-dataset-model-method-seed) -> what their stages are made of.

    DVC gives its commands to a shell and quotes nothing, so what they hold is quoted here.

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
            folder = f"{benchmark.results}/{cell.path}"
            found[name] = {
                "config": path.as_posix(),
                "folder": folder,
                "arguments": _arguments(path, f"{folder}/metrics.json"),
                "data": identity.prepared_folder(cell).as_posix(),
                # Of several, the last: a stage has a number of dependencies that is the same for all.
                "after": f"{benchmark.results}/{cell.teachers[-1]}" if cell.teachers else NOTHING,
                "quoted": shlex.quote(folder),
                "score": scores(cell),
            }
    return found


def data_sets(paths: Iterable[Path]) -> dict[str, dict]:
    """Return the names of prepared data sets (benchmark-dataset) -> what their stages are made of."""
    found = {}
    for path in paths:
        benchmark = load(path, folders=False)
        for cell in cells(benchmark):
            folder = identity.prepared_folder(cell).as_posix()
            makers = [source for source in cell.sources if source not in cell.teachers] if cell.generated else []
            found[f"{cell.benchmark}-{cell.data_slug}"] = {
                "config": path.as_posix(),
                "folder": folder,
                "arguments": _arguments(path, f"{folder}/manifest.json"),
                "after": f"{benchmark.results}/{makers[-1]}" if makers else NOTHING,
            }
    return found


def tables(path: Path, benchmark: Benchmark, own: Iterable[Cell]) -> dict:
    """Return the stage of a benchmark's tables, figures and report."""
    folder = f"{benchmark.results}/{benchmark.benchmark}"
    made = ("cells.csv", ASKED, "tables", "figures", "report.html", MANIFEST, "logs/reading")
    return {
        "desc": folder,
        "cmd": f"{SNAKEMAKE} {shlex.join(['--configfile', path.as_posix()])}",
        "deps": [path.as_posix(), "dgd", "pipeline", "papers", *sorted({f"{folder}/{cell.slug}" for cell in own})],
        "outs": [{f"{folder}/{name}": {"persist": True}} for name in made],
    }


def curves(benchmark: Benchmark, own: Iterable[Cell]) -> list[dict]:
    """Return the learning curves of a benchmark for `dvc plots`: a plot a data set and model, a line a method's first seed."""
    found: dict[str, dict[str, Mapping]] = {}
    for cell in own:
        if cell.task not in MAKERS and cell.seed == min(one.seed for one in own if one.method == cell.method):
            metric = METRICS[cell.task]
            name = f"{cell.benchmark}: {cell.slug}, {cell.model}"
            plot = found.setdefault(name, {"template": "linear", "x": "epoch", "y": {}, "y_label": f"test {metric.label}"})
            plot["y"][f"{benchmark.results}/{cell.path}/history.csv"] = f"test_{metric.name}_0"
    return [{name: plot} for name, plot in found.items()]


def scores(cell: Cell | str) -> str:
    """Return the file of a cell's score."""
    return f"{SCORES}/{cell if isinstance(cell, str) else cell.path}.json"


def _arguments(config: Path, target: str) -> str:
    return shlex.join(["--configfile", config.as_posix(), "--", target])


def render(paths: Iterable[Path]) -> str:
    """Return the text of dvc.yaml."""
    paths = [Path(path) for path in paths]
    loaded = {path: load(path, folders=False) for path in paths}
    own = {path: cells(benchmark) for path, benchmark in loaded.items()}
    stages = {"cell": {"foreach": names(paths), "do": CELL}, "data": {"foreach": data_sets(paths), "do": DATA}}
    stages |= {f"tables-{loaded[path].benchmark}": tables(path, loaded[path], own[path]) for path in paths}
    content = {
        "params": [path.as_posix() for path in paths],
        "plots": [plot for path in paths for plot in curves(loaded[path], own[path])],
        "stages": stages,
    }
    return HEADER.format(" ".join(path.as_posix() for path in paths)) + yaml.safe_dump(content, sort_keys=False, width=1000)


def main(argv=None):
    """Write dvc.yaml from the benchmarks' configs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("configs", nargs="+", type=Path, help="benchmarks that DVC is to keep")
    parser.add_argument("--out", type=Path, default=STAGES)
    args = parser.parse_args(argv)
    write_text(args.out, render(args.configs))


if __name__ == "__main__":
    script.run(main)
