"""
This part of the workflow checks the config and names what the other rules share. It has no rules of its own.

REQUIRED INPUTS:

    config      a benchmark, see config/README.md

OUTPUTS:

    CONFIG      the checked config with every default, as plain values
    CELLS       path of a cell -> the cell, a dgd.cell.Cell, teachers included
    TEACHERS    paths of the cells that other cells learn from
    BENCHMARK   folder of this benchmark's results
"""

import json
import os
import sys
from pathlib import Path

# A job that an executor starts on another machine reads the workflow again, and the config was held to the registries of models
# and data sets before: it saves the seconds that importing them takes. The rule's own command does import them.
if workflow.remote_exec:
    os.environ.update(DGD_NETWORKS="no")

from dgd import config as dgd_config
from dgd import provenance
from pipeline.config import fingerprint, listing, one_of, resolve
from pipeline.jobs import gpus, launcher, mem_mb, threads

os.environ.pop("DGD_NETWORKS", None)

try:
    CHECKED = resolve(
        map(os.path.relpath, workflow.configfiles), workflow.config_settings.config
    )
except dgd_config.ConfigError as error:
    sys.exit(str(error))

CONFIG = CHECKED.plain()
RESULTS = CONFIG["results"]
BENCHMARK = f"{RESULTS}/{CONFIG['benchmark']}"
PREPARED = f"{CONFIG['data']['dir']}/prepared/{CONFIG['benchmark']}"
CELLS = {cell.path: cell for cell in dgd_config.cells(CHECKED)}
DATASETS = {cell.slug: cell.dataset for cell in CELLS.values()}
TEACHERS = sorted({path for cell in CELLS.values() for path in cell.teachers})
RESOLVED = json.dumps(CONFIG, sort_keys=True)
PRUNED = [f"{RESULTS}/{path}/pruning.csv" for path in CELLS if CONFIG["pruning"]]
TABLES = ("results", "methods", "filters", "density", "claims", "controls")

# `python` in a rule is the one that runs Snakemake, also when its environment is not activated.
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.getenv('PATH')}")


def teachers_of(wildcards, file):
    """This file of every cell that this cell learns from."""
    return [f"{RESULTS}/{path}/{file}" for path in CELLS[wildcards.cell].teachers]


def data_of(wildcards, file):
    """A file of the prepared data set that this cell trains on."""
    return f"{PREPARED}/{CELLS[wildcards.cell].slug}/{file}"
