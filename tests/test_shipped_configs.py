"""Every file in config/: a dry run and its header."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from dgd import config
from dgd.cell import Cell
from dgd.config import ConfigError
from dgd.methods import METHODS
from dgd.read.matching import composition
from dgd.read.papers import read_papers
from dgd.train.schedule import learning_rates
from pipeline.cells import names
from speed import ROOT, copy_workflow

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
DRY_RUN = """
import contextlib, io, json, re, sys
from snakemake.cli import main
found = {}
for path in sys.argv[1:]:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            main(["-n", "--cores", "1", "--configfile", path])
    except SystemExit as end:
        jobs = dict(re.findall(r"^(\\w+) +(\\d+)$", out.getvalue(), re.MULTILINE))
        trained = re.findall(r"^Job \\d+: training (?:the teacher )?(\\S+)$", out.getvalue(), re.MULTILINE)
        found[path] = {"code": end.code, "jobs": jobs, "trained": trained}
print(json.dumps(found))
"""


@cache
def cells(path: Path) -> list[Cell]:
    return config.cells(config.load(path, folders=False))


def test_every_config_passes_a_dry_run(tmp_path):
    """What `snakemake -n` would do for each config, from one process, since importing it takes longer than a plan."""
    copy_workflow(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    for split in ("train", "val"):
        (tmp_path / "data/imagenet" / split / "a").mkdir(parents=True)
        (tmp_path / "data/imagenet" / split / "a" / "1.png").touch()
    command = [sys.executable, "-c", DRY_RUN, *(f"config/{path.name}" for path in CONFIGS)]
    # The names of models are checked in this process, by `cells`.
    env = os.environ | {"DGD_NETWORKS": "no"}
    done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, check=True)
    plans = json.loads(done.stdout.splitlines()[-1])
    for path in CONFIGS:
        plan = plans[f"config/{path.name}"]
        assert plan["code"] == 0, path
        assert sorted(plan["trained"]) == sorted(cell.path for cell in cells(path)), path
        assert plan["jobs"]["report"] == "1", path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_headers_say_how_many_cells_and_the_command(path):
    head = path.read_text().partition("\nbenchmark:")[0]
    count = len(cells(path))
    assert re.search(rf"(?<!\d){count} cells", head), f"{path.name} has {count} cells"
    assert "snakemake --cores" in head
    assert path.stem == "quick" or f"--configfile config/{path.name}" in head


def test_imagenet_wants_its_folder_and_its_cells_do_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "config" / "imagenet.yaml"
    with pytest.raises(ConfigError, match=r"imagenet\.yaml: datasets: 'data/imagenet' is no folder; write imagefolder:<path"):
        config.load(path)
    assert "imagenet-imagefolder-imagenet-resnet50-baseline-0" in names([path])
    (tmp_path / "data" / "imagenet").mkdir(parents=True)
    assert config.load(path).datasets == ("imagefolder:data/imagenet",)


def test_controls_hold_each_gain_against_all_that_the_issue_names():
    """A row that no method is held against would be trained for nothing."""
    controls = config.load(ROOT / "config" / "controls.yaml")
    read = {reading.partition("@")[0] for readings in controls.controls.values() for reading in readings}
    trained = {cell.method for cell in config.cells(controls)}
    assert trained - read - set(controls.controls) == set()
    assert {f"baseline-lr{lr}" for lr in (0.01, 0.02, 0.04, 0.05, 0.06)} < trained  # 0.1 is the baseline's
    assert controls.recipe.lr == 0.1
    by_method = {cell.method: cell for cell in config.cells(controls)}
    rates = learning_rates(by_method["grafting-dlr"].recipe, 2)
    alone = learning_rates(by_method["baseline-net1"].recipe, 1)
    for time in (0, 0.5, 60, 199.9):
        assert alone(time)[0] == pytest.approx(rates(time)[0])


# Data that no benchmark has.
LEFT_OUT = ("market1501", "dukemtmc", "ucf51", "activitynet", "vggsound", "steering-angle", "utkface")
# Published under a name of its own: the ensemble of independent networks, and A = 0.4 with c = 500, which is the default.


def test_every_published_setting_is_in_the_files_of_the_papers():
    """By what a row is made of, as tables find the published numbers of a cell; a label decides nothing."""
    trained = {
        (
            *(cell.slug.removeprefix("imagefolder-"), cell.student, cell.teacher if cell.teachers else ""),
            *(composition(cell.objective, cell.exchange), cell.networks, len(cell.teachers)),
        )
        for name in ("cifar10", "cifar100", "filter-grafting", "imagenet", "zoo", "crd-benchmark")
        for cell in cells(ROOT / "config" / f"{name}.yaml")
    }
    published = read_papers(sorted((ROOT / "papers").glob("*.yaml"))).fillna({"teacher_here": ""}).dropna(subset="dataset")
    alone = composition(METHODS["baseline"].objective, None)  # what an ensemble, a reading of a group, is made of
    wanted = {
        (
            *(row.dataset, row.model_here, row.teacher_here),
            composition(row.composition.objective, row.composition.exchange) if row.composition else alone,
            *(row.networks, row.teachers),
        )
        for row in published.itertuples()
        if row.dataset not in LEFT_OUT
        and row.paper != "cgan-kd"  # its generator is as large as the rest of this together
        and row.copied_from is None
    }
    assert wanted - trained == set()
