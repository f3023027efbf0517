"""Every file in config/: a dry run, its header, and a step of every kind of cell that it has, on a few random images."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgd import checkpoint, config, data, methods, models, training
from dgd.config import ConfigError
from dgd.read.papers import read_papers
from pipeline.cells import names
from pipeline.config import load
from speed import ROOT, copy_workflow
from tests.test_zoo import take_statistics

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
environment = cache(training.provenance._environment)
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
def cells(path: Path) -> list[dict]:
    return config.cells(load(path, folders=False))


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> dict:
    """What `snakemake -n` would do for each config, from one process, since importing it takes longer than a plan."""
    folder = tmp_path_factory.mktemp("dry")
    copy_workflow(folder)
    (folder / "config").symlink_to(ROOT / "config")
    for split in ("train", "val"):
        (folder / "data/imagenet" / split / "a").mkdir(parents=True)
        (folder / "data/imagenet" / split / "a" / "1.png").touch()
    command = [sys.executable, "-c", DRY_RUN, *(f"config/{path.name}" for path in CONFIGS)]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_passes_a_dry_run(plans, path):
    plan = plans[f"config/{path.name}"]
    assert plan["code"] == 0
    assert sorted(plan["trained"]) == sorted(cell["path"] for cell in cells(path))
    assert plan["jobs"]["report"] == "1"


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
        load(path)
    assert "imagenet-imagefolder-imagenet-resnet50-baseline-0" in names([path])
    (tmp_path / "data" / "imagenet").mkdir(parents=True)
    assert load(path)["datasets"] == ["imagefolder:data/imagenet"]


def test_controls_hold_each_gain_against_all_that_the_issue_names():
    """A row that no method is held against would be trained for nothing."""
    controls = load(ROOT / "config" / "controls.yaml")
    read = {reading.partition("@")[0] for readings in controls["controls"].values() for reading in readings}
    trained = {cell["method"] for cell in config.cells(controls)}
    assert trained - read - set(controls["controls"]) == set()
    assert {f"baseline-lr{lr}" for lr in (0.01, 0.02, 0.04, 0.05, 0.06)} < trained  # 0.1 is the baseline's
    assert controls["recipe"]["lr"] == 0.1
    by_method = {cell["method"]: cell for cell in config.cells(controls)}
    rates = training.learning_rates(by_method["grafting-dlr"]["recipe"], 2)
    alone = training.learning_rates(by_method["baseline-net1"]["recipe"], 1)
    for time in (0, 0.5, 60, 199.9):
        assert alone(time)[0] == pytest.approx(rates(time)[0])


# Data that no benchmark has.
LEFT_OUT = ("market1501", "dukemtmc")
# Published under a name of its own: the ensemble of independent networks, and A = 0.4 with c = 500, which is the default.
OTHER_NAMES = {"ensemble": "independent-6", "grafting-a0.4-c500": "grafting"}


def test_every_published_setting_is_in_the_files_of_the_papers():
    trained = {
        (cell["slug"].removeprefix("imagefolder-"), cell["student"], cell["teacher"] or "", cell["method"], cell["networks"])
        for name in ("cifar10", "cifar100", "filter-grafting", "imagenet", "zoo")
        for cell in cells(ROOT / "config" / f"{name}.yaml")
    }
    published = read_papers(sorted((ROOT / "papers").glob("*.yaml"))).fillna({"teacher": ""}).dropna(subset="dataset")
    wanted = {
        (row.dataset, row.model, row.teacher, OTHER_NAMES.get(row.method, row.method), row.networks)
        for row in published.itertuples()
        if row.dataset not in LEFT_OUT
    }
    assert wanted - trained == set()


# ------------------------------------------------------------------------------------------------------------ a step


@cache
def kinds() -> dict[str, dict]:
    """One cell of each kind that the configs have, shrunk; those of one kind differ in seed, data or epochs alone."""
    found = {}
    for path in CONFIGS:
        for cell in map(shrunk, cells(path)):
            apart = {key: value for key, value in cell.items() if key not in ("method", "model", "path")}
            name = f"{cell['student']}-{cell['method']}"
            found.setdefault(json.dumps(apart, sort_keys=True), cell | {"name": name})
    return {f"{cell['name']}-{i}": cell for i, cell in enumerate(found.values())}


def shrunk(cell: dict) -> dict:
    """The cell with two epochs of one batch each, so that there is an exchange and what follows it."""
    size, teacher = cell["data"]["image_size"] or 32, cell["teacher"]
    recipe = cell["recipe"] | {"epochs": 2, "batch_size": 2, "device": "cpu", "average_from": 1}
    recipe |= {"evaluate_every": 1, "filters_every": 1, "step_epochs": 1, "lr": 0.01}
    return cell | {
        "benchmark": "step",
        "dataset": f"imagefolder:{size}",
        "slug": str(size),
        "seed": 0,
        "model": cell["student"],
        "teachers": [f"teachers/{teacher}-{size}-{k}" for k in range(len(cell["teachers"]))],
        "data": config.DATA | {"image_size": size, "loader": "memory", "workers": 0},
        "recipe": recipe,
        "path": f"{cell['method']}-{cell['student']}",
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of random images of three classes for each size, prepared when it is first asked for."""
    root = tmp_path_factory.mktemp("images")

    @cache
    def prepared(size: int) -> Path:
        draw = np.random.default_rng(size)
        for split, count in {"train": 3, "test": 2}.items():
            for name in "abc":
                folder = root / str(size) / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        data.prepare(f"imagefolder:{root / str(size)}", root / f"{size}-out", image_size=size, validation_images=3)
        return root / f"{size}-out"

    return prepared


@pytest.fixture(autouse=True)
def _environment_once(monkeypatch):
    """To list the packages takes as long as a step; that they are listed is tested elsewhere."""
    monkeypatch.setattr(training.provenance, "_environment", environment)


def learn(cell: dict, prepared: Path, results: Path) -> None:
    """Train a shrunk cell, its teachers being fresh networks, and look at what it left."""
    dataset = data.load(prepared)
    for path in cell["teachers"]:
        teacher = results / path
        if not teacher.is_dir():
            teacher.mkdir(parents=True)
            network = training._create(cell["teacher"], dataset, cell)
            take_statistics(network, torch.randn(4, dataset.in_chans, dataset.image_size, dataset.image_size))
            checkpoint.save_weights(teacher / "model.safetensors", {f"0.{k}": v for k, v in network.state_dict().items()})
            record = {"status": "finished", "cell": {"student": cell["teacher"]}}
            (teacher / "metrics.json").write_text(json.dumps(record))
    metrics = training.train_cell(cell, results=results, data=prepared)
    assert metrics["status"] == "finished"
    assert len(metrics["networks"]) == cell["networks"]
    if cell["exchange"] and cell["exchange"]["name"] not in methods.ALONE:
        with np.load(results / cell["path"] / "filters.npz") as arrays:
            assert arrays["exchanges"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "size", "adapt_stem"),
    sorted({(c["student"], c["data"]["image_size"] or 32, c["adapt_stem"]) for path in CONFIGS for c in cells(path)}),
)
def test_one_step_of_every_model(name, size, adapt_stem):
    """Every gradient is finite and the first layer moves. Not every layer: timm starts some at zero, which hold back others."""
    torch.manual_seed(0)
    network = models.create(name, num_classes=10, image_size=size, adapt_stem=adapt_stem)
    first = next(network.parameters())
    before = first.clone()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(network(torch.randn(2, 3, size, size)), torch.tensor([0, 1])).backward()
    optimiser.step()
    assert all(value.grad.isfinite().all() for value in network.parameters())
    assert not torch.equal(first, before)


@pytest.mark.parametrize("name", kinds())
def test_one_step_of_every_cell(name, images, tmp_path):
    cell = kinds()[name]
    learn(cell, images(cell["data"]["image_size"]), tmp_path)
