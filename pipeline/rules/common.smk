"""
This part of the workflow checks the config and names what the other rules share. It has no rules of its own.

REQUIRED INPUTS:

    config      a benchmark, see config/README.md

OUTPUTS:

    CONFIG      the checked config with every default, as plain values
    CELLS       path of a cell -> the cell, a dgd.cell.Cell, teachers included
    STALE       path of a cell -> why it is trained: its result is missing, or is not the one that is asked for
    DATA        name of the folder of a prepared data set -> how it is made: REAL ones, and generated IMAGES
    TEACHERS    paths of the cells that other cells learn from, or train on the images of
    BENCHMARK   folder of this benchmark's results
    DEVICE      the recipe's device: auto, cpu or cuda, each with a conda environment
    FROZEN      the benchmark is frozen: its cells are read, and there are no rules that would make them
    READING     hash of what reads the cells
    BUNDLE      path of a cell that is trained side by side with others -> the file that their job makes
"""

import json
import os
import sys
import time
from pathlib import Path

# A job that an executor starts on another machine reads the workflow again, and the config was held to the registries of models
# and data sets before: it saves the seconds that importing them takes. The rule's own command does import them.
if workflow.remote_exec:
    os.environ.update(DGD_NETWORKS="no")

from dgd import config as dgd_config
from dgd import frozen, identity, plugins, shipped, signals
from dgd.manifest import MANIFEST
from dgd.metrics import MAKERS
from pipeline import planning
from pipeline.config import one_of, resolve
from pipeline.generate import Images
from pipeline.jobs import gpus, launcher, mem_mb, said, threads
from pipeline.prepare import Prepared

os.environ.pop("DGD_NETWORKS", None)

# The scripts of rules end with this process, also where it is killed and they are not.
os.environ.update({signals.LAUNCHER: signals.process_name(os.getpid()) or ""})

try:
    CHECKED = resolve(
        map(os.path.relpath, workflow.configfiles), workflow.config_settings.config
    )
except dgd_config.ConfigError as error:
    sys.exit(str(error))

CONFIG = CHECKED.plain()
RESULTS = CONFIG["results"]
DEVICE = CONFIG["recipe"]["device"]
BENCHMARK = f"{RESULTS}/{CONFIG['benchmark']}"
PREPARED = f"{CONFIG['data']['dir']}/prepared/{CONFIG['benchmark']}"
CELLS = {cell.path: cell for cell in dgd_config.cells(CHECKED)}
REAL = {
    cell.slug: Prepared(cell.dataset, CONFIG["data"], Path(PREPARED) / cell.slug)
    for cell in CELLS.values()
}
IMAGES = {
    cell.data_slug: Images(cell, Path(PREPARED) / cell.data_slug)
    for cell in CELLS.values()
    if cell.generated
}
DATA = {**REAL, **IMAGES}
TEACHERS = sorted({path for cell in CELLS.values() for path in cell.sources})
RESOLVED = json.dumps(CONFIG)  # in the config's order, which is that of tables
FROZEN = frozen.is_frozen(BENCHMARK)
PRUNED = [
    path
    for path in (
        f"{RESULTS}/{path}/pruning.csv"
        for path, cell in CELLS.items()
        if cell.task not in MAKERS
    )
    if CONFIG["pruning"] and (os.path.exists(path) or not FROZEN)
]
PAGE = Path(workflow.basedir) / "dgd" / "read" / "report"
READING = planning.reading(
    RESOLVED, *(PAGE / f"page.{kind}" for kind in ("html", "css", "js"))
)

# `python` in a rule is the one that runs Snakemake, also when its environment is not activated.
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.getenv('PATH')}")


# `dgd.identity` alone decides which cells are trained. There are rules for those only: the others are files like any other, and no
# time, parameter or environment makes Snakemake train them again. A job on another machine trains what it was sent for; and what
# lies in a remote store cannot be read here: only what is missing there is trained.
LOCAL = not (
    workflow.storage_settings and workflow.storage_settings.default_storage_provider
)
STALE = dict.fromkeys(CELLS)
if workflow.is_main_process and LOCAL:
    try:
        frozen.refuse(
            BENCHMARK, CELLS.values(), {name: DATA[name].folder for name in DATA}
        )
    except ValueError as error:
        files = ", ".join(map(os.path.relpath, workflow.configfiles))
        sys.exit(f"{files or 'config'}: {error}")
    STALE = {} if FROZEN else planning.stale(CELLS, RESULTS, DATA)
# Fresh cells that the command names by a file are planned too, else Snakemake would not know the target. They have no inputs, and
# no parameters of their own, so nothing makes them run.
NAMED = [path for path in CELLS if any(f"/{path}/" in word for word in sys.argv)]
MARKS = planning.mark(STALE, DATA, RESULTS, BENCHMARK)

# A job of several cells is named by their numbers, so that it can be sent to another machine, and by the time, because what it
# makes stands for nothing in another run.
NUMBERS = {path: str(number) for number, path in enumerate(CELLS)}
TOGETHER = f"{BENCHMARK}/logs/together"
BUNDLE = {}
if workflow.is_main_process and LOCAL:
    for bundle in planning.together(CELLS, STALE, NAMED, CONFIG["together"]):
        numbers = "-".join(map(NUMBERS.get, bundle))
        BUNDLE |= dict.fromkeys(bundle, f"{TOGETHER}/{time.time_ns():x}.{numbers}")


def mark_of(what):
    """The mark that this cell or data set, which is there, is made again."""
    return MARKS.get(what, [])


def cells_of(wildcards):
    """The cells of a job: one by its path, several by their numbers."""
    if hasattr(wildcards, "cell"):
        return [CELLS[wildcards.cell]]
    cells = list(CELLS.values())
    return [cells[int(number)] for number in wildcards.cells.split("-")]


def teachers_of(wildcards, file):
    """This file of every cell that the cells of a job learn from; none for a cell that is not trained."""
    own = [
        path
        for cell in cells_of(wildcards)
        if cell.path in STALE
        for path in cell.teachers
    ]
    return [f"{RESULTS}/{path}/{file}" for path in dict.fromkeys(own)]


def data_of(cell, *file):
    """The folder of the prepared data set of a cell, or a file in it."""
    return os.path.join(PREPARED, cell.data_slug, *file)


def data_to_train(wildcards, file):
    """This file of the prepared data sets that the cells of a job train on; none for a cell that is not trained."""
    own = [data_of(cell, file) for cell in cells_of(wildcards) if cell.path in STALE]
    return list(dict.fromkeys(own))


def asked_of(wildcards):
    """What the script is told of the cells of a job."""
    own = [
        ("--cell", json.dumps(cell.plain(), sort_keys=True), "--data", data_of(cell))
        for cell in cells_of(wildcards)
    ]
    stop = CONFIG["stop_after"]
    return [
        *(word for words in own for word in words),
        *(["--stop-after", str(stop)] if stop else []),
    ]
