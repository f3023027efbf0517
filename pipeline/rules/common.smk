"""
This part of the workflow checks the config and names what the other rules share. It has no rules of its own.

REQUIRED INPUTS:

    config      a benchmark, see config/README.md

OUTPUTS:

    CONFIG      the checked config with every default
    CELLS       path of a cell -> the resolved cell, teachers included
    TEACHERS    paths of the cells that other cells learn from
    BENCHMARK   folder of this benchmark's results
"""

import json
import os
import re
import shutil
import sys
from hashlib import sha256
from pathlib import Path

from dgd import config as dgd_config
from dgd import provenance
from pipeline.config import resolve

try:
    CONFIG = resolve(
        config, ", ".join(map(os.path.relpath, workflow.configfiles)) or "config"
    )
except dgd_config.ConfigError as error:
    sys.exit(str(error))

RESULTS = CONFIG["results"]
BENCHMARK = f"{RESULTS}/{CONFIG['benchmark']}"
PREPARED = f"{CONFIG['data']['dir']}/prepared/{CONFIG['benchmark']}"
CELLS = {cell["path"]: cell for cell in dgd_config.cells(CONFIG)}
DATASETS = {cell["slug"]: cell["dataset"] for cell in CELLS.values()}
TEACHERS = sorted({path for cell in CELLS.values() for path in cell["teachers"]})
RESOLVED = json.dumps(CONFIG, sort_keys=True)
TABLES = ("results", "filters")

# `python` in a rule is the one that runs Snakemake, also when its environment is not activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def one_of(paths):
    """A regular expression that matches these paths and nothing else."""
    return "|".join(map(re.escape, paths)) or "(?!)"


def fingerprint(*paths):
    """SHA-256 of files: as a param it makes a rule's outputs stale when its code changes.

    Snakemake sees a shell command's text, not the modules that it imports.
    """
    files = [
        f
        for p in map(Path, paths)
        for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])
    ]
    return sha256(b"".join(str(f).encode() + f.read_bytes() for f in files)).hexdigest()


def gpus():
    """GPUs that a cell takes: 1 if it will run on CUDA, found out without importing torch."""
    device = CONFIG["recipe"]["device"]
    there = shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()
    return int(device == "cuda" or (device == "auto" and bool(there)))


def teachers_of(wildcards):
    """Weights of the cells that this cell learns from."""
    return [
        f"{RESULTS}/{path}/model.safetensors"
        for path in CELLS[wildcards.cell]["teachers"]
    ]


def data_of(wildcards):
    """Folder of the prepared data set that this cell trains on."""
    return f"{PREPARED}/{CELLS[wildcards.cell]['slug']}"
