"""Measure what the pipeline adds to training, from the `snakemake` command on, with a small benchmark on the digits."""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import yaml

from dgd.config import cells, check
from speed import copy_workflow
from speed.measure.setup import Setup
from speed.measure.timing import summary


def measure(setup: Setup) -> dict:
    """Return the seconds to the first training step, and the seconds of each cell's job beside its epochs."""
    config = {
        "benchmark": "overhead",
        "seeds": list(range(setup.size.seeds)),
        "datasets": ["digits"],
        "data": {"train_images": 50, "validation_images": 50},
        "pairs": [{"student": "cifar_resnet8"}],
        "methods": ["baseline"],
        "recipe": {"epochs": 2, "batch_size": 10, "threads": setup.threads},
    }
    first, harness = [], []
    for _ in range(setup.size.runs):
        with tempfile.TemporaryDirectory() as folder:
            to_first_step, beside_epochs = _run(Path(folder), config)
        first.append(to_first_step)
        harness += beside_epochs
    return {
        "cells": len(cells(check(config))),
        "seconds_to_first_step": summary(first),
        "seconds_per_cell": summary(harness),
    }


def _run(folder: Path, config: dict) -> tuple[float, list[float]]:
    """Train a benchmark in a copy of the workflow; return the seconds to its first step, and each cell's beside its epochs."""
    copy_workflow(folder)
    (folder / "overhead.yaml").write_text(yaml.safe_dump(config))
    env = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE_")}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "overhead.yaml", "--until", "train"]
    start = time.time()
    done = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(done.stdout)
    started, beside_epochs = [], []
    for cell in cells(check(config)):
        out = folder / "results" / cell.path
        record = json.loads((out / "provenance.json").read_text())
        started.append(datetime.fromisoformat(record["started"]).timestamp())
        job = float((out / "usage.tsv").read_text().splitlines()[1].split("\t")[0])
        beside_epochs.append(job - json.loads((out / "metrics.json").read_text())["timings"]["seconds"])
    return min(started) - start, beside_epochs
