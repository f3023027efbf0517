"""Measure what a benchmark takes by its number of cells, apart from training: `python -m speed.scale --out scale.json`.

A copy of the workflow gets a config of so many cells and the files that as many finished trainings would leave: two cells are
really trained, for two epochs, and copied with other names, numbers and a history of 200 epochs. Then planning, collecting,
tabulating, plotting and reporting are timed, one after another, as the processes that a user starts.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from dgd import data, provenance, seals
from dgd.config import cells, check
from dgd.files import write_text
from speed import copy_workflow
from speed.ours import train_cell

SEEDS, EPOCHS, BLOCK = 5, 200, 100
STUDENTS = (
    *("cifar_resnet8", "cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56", "cifar_resnet110"),
    *("cifar_mobilenetv2", "resnet18", "resnet34", "resnet50", "resnet101", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "mobilenetv2_100", "mobilenetv3_small_100"),
    *("mobilenetv3_large_100", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2"),
)
DATASETS = ("digits", "fashion_mnist", "cifar10", "cifar100")
TINY = {
    "benchmark": "template",
    "seeds": [0],
    "datasets": ["digits"],
    "data": {"train_images": 40, "validation_images": 20},
    "pairs": [{"student": "cifar_resnet20"}],
    "methods": ["baseline", "grafting"],
    "recipe": {"epochs": 2, "batch_size": 20},
}


def benchmark(count: int) -> dict:
    """Return a config of exactly so many cells: 20 methods x 5 seeds for as many students and data sets as that takes.

    Raises:
        ValueError: The number is not a multiple of 100 times the data sets that it takes, one for each 2,500 cells.
    """
    datasets = next((n for n in (1, 2, 4) if 0 < count <= n * BLOCK * len(STUDENTS)), 0)
    students, rest = divmod(count, BLOCK * datasets) if datasets else (0, 1)
    if rest:
        raise ValueError(f"--cells {count}: give a multiple of 100 up to 2500, of 200 up to 5000, or of 400 up to 10000")
    # Each student is the teacher of the one before, so that no teacher is a cell of its own.
    names = STUDENTS[:students]
    bases = ("baseline", "kd", "grafting", "dgd")
    more = [{f"{base}-x{place}": {"base": base}} for place in range(1, 5) for base in bases]
    return {
        "benchmark": "scale",
        "seeds": list(range(SEEDS)),
        "datasets": list(DATASETS[:datasets]),
        "pairs": [{"student": a, "teacher": b} for a, b in zip(names, names[1:] + names[:1])],
        "methods": [*bases, *more],
        "recipe": {"epochs": EPOCHS},
    }


def template(folder: Path) -> dict[int, dict[str, bytes]]:
    """Train a cell of one network and one of two; return networks -> file -> content, with a history of 200 epochs."""
    found = {}
    data.prepare("digits", folder / "data", **TINY["data"])
    for cell in cells(check(TINY)):
        out = train_cell(cell, results=folder, data=folder / "data")
        files = {path.name: path.read_bytes() for path in out.iterdir()}
        head, *rows = csv.reader(files["history.csv"].decode().splitlines())
        rows = [[str(epoch), *rows[epoch % len(rows)][1:]] for epoch in range(EPOCHS)]
        files["history.csv"] = "".join(",".join(row) + "\n" for row in [head, *rows]).encode()
        files["model.safetensors"] = b"read by none of the steps that are timed"
        found[cell.networks] = files
    return found


def fill(results: Path, config: dict, templates: dict[int, dict[str, bytes]]) -> int:
    """Write the folder of every cell of a resolved config, as if each had been trained; return how many there are."""
    everything = cells(check(config))
    for cell in everything:
        files = dict(templates[cell.networks])
        metrics, record = json.loads(files["metrics.json"]), json.loads(files["provenance.json"])
        plain = cell.plain()
        metrics["cell"] |= {key: plain[key] for key in metrics["cell"] if key in plain}
        metrics["cell"] |= {"teachers": len(cell.teachers), "epochs": cell.recipe.epochs}
        draw = random.Random(cell.path)
        for network in metrics["networks"]:
            network["last"]["top1"] = draw.gauss(70, 0.3)
        metrics["top1"]["last"] = metrics["networks"][0]["last"]["top1"]
        files["history.csv"] = (
            files["history.csv"].rpartition(b",")[0] + f",{draw.random()}\n".encode()
        )  # each seed has its own
        record |= {"cell": cell.path, "seed": cell.seed, "teachers": dict.fromkeys(cell.teachers, "0" * 64)}
        record["command"] = f"train.py --cell '{json.dumps(plain)}' --data data/prepared/{cell.slug} --results results"
        files["config.yaml"] = yaml.safe_dump(plain, sort_keys=False).encode()
        files["metrics.json"] = json.dumps(metrics, indent=2).encode()
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        files["provenance.json"] = json.dumps(seals.sealed(record, hashes), indent=2).encode()
        folder = results / cell.path
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return len(everything)


def set_up(folder: Path, count: int) -> dict:
    """Copy the workflow to `folder` with scale.yaml, a config of so many cells; return that config with every default."""
    copy_workflow(folder)
    config = benchmark(count)
    (folder / "scale.yaml").write_text(yaml.safe_dump(config))
    config = check(config).plain()
    (folder / "scale.json").write_text(json.dumps(config))
    return config


def steps(papers: list[str]) -> dict[str, list[str]]:
    """Return the commands that are timed, in order, as a user or a rule starts them, with these files of papers/."""
    out, config = "results/scale", "scale.json"
    papers = [f"papers/{name}.yaml" for name in papers]
    return {
        "plan": ["snakemake", "-n", "--quiet", "host", "--configfile", "scale.yaml"],
        "collect": ["pipeline.collect", "--config", config, "--out", f"{out}/cells.csv"],
        "tabulate": ["pipeline.tabulate", "--cells", f"{out}/cells.csv", "--papers", *papers, "--out", f"{out}/tables"],
        "plot": [
            "pipeline.plot",
            "--folder",
            out,
            "--out",
            f"{out}/figures",
            "--processes",
            str(min(4, len(os.sched_getaffinity(0)))),
        ],
        "report": ["pipeline.report", "--folder", out, "--out", f"{out}/report.html"],
    }


def measure(folder: Path, count: int, templates: dict[int, dict[str, bytes]]) -> dict[str, float]:
    """Set up a benchmark of so many cells and time each step once, in seconds; the plan is made before any cell is there."""
    config = set_up(folder, count)
    spent = {"cells": count}
    for name, command in steps(config["papers"]).items():
        if name == "collect":
            fill(folder / "results", config, templates)
        env = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        env |= {} if name == "plan" else {"DGD_NETWORKS": "no"}  # as the rules do
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True)
        spent[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
        if done.returncode:
            raise RuntimeError(f"{name} of {count} cells failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return spent


def main(argv: Sequence[str] | None = None) -> None:
    """Time planning, collecting, tabulating, plotting and reporting, print a line for each size, and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m speed.scale", description=main.__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000, 10000], help="sizes of the benchmarks to plan")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    for count in args.cells:
        benchmark(count)  # a wrong size ends it now, not after an hour
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        templates = template(Path(temporary) / "template")
        for count in args.cells:
            folder = Path(temporary) / str(count)
            folder.mkdir()
            rows.append(measure(folder, count, templates))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            shutil.rmtree(folder)
    record = provenance.record()
    about = {key: record[key] for key in ("machine", "python", "code_sha256", "git", "finished")}
    write_text(args.out, json.dumps({"scale": rows, **about}, indent=2))


if __name__ == "__main__":
    main()
