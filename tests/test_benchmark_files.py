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

from benchmarks import ROOT, copy_workflow, cost
from dgd import checkpoint, config, data, methods, models, training
from dgd.config import ConfigError
from dgd.read.papers import read_papers
from pipeline.cells import names
from pipeline.config import load
from tests.test_zoo import take_statistics

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
COSTED = ("cifar10", "cifar100", "controls", "filter-grafting", "imagenet", "zoo")
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


@pytest.mark.parametrize("name", COSTED)
def test_headers_hold_the_cost_that_was_measured(name):
    path = ROOT / "config" / f"{name}.yaml"
    assert cost.line(path, cost.measured()) in path.read_text(), f"run `python -m benchmarks.cost --write config/{name}.yaml`"


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


# ------------------------------------------------------------------------------------------------------------ cost


def machine(gpu=None, threads=1) -> dict:
    """What `benchmarks.measure` would write: 100 images/s of ResNet-20, 80 in a group of four, 75 with a teacher."""

    def row(networks, speed, teacher=None):
        median = {"ours": {"median": speed}}
        return {"model": "cifar_resnet20", "teacher": teacher, "networks": networks, "images_per_second": median}

    name = f"{gpu or 'A CPU'}, {threads} thread"
    steps = [row(1, 100.0), row(2, 100.0), row(4, 80.0), row(1, 75.0, "cifar_resnet56"), row(2, 75.0, "cifar_resnet56")]
    return {"machine": {"name": name, "gpu": gpu and {"name": gpu}, "threads": threads, "cpu": "A CPU"}, "steps": steps}


def with_methods(found: dict) -> dict:
    """The same with what it would write of methods: kd takes 1.5 steps of baseline, HKD with few negatives 2, and so on."""

    def row(method, networks, multiple, teacher=None, **terms):
        objective = {"ce": {"weight": 1.0}, **terms}
        multiples = {"fp32": {"median": 9.0}, "bf16": {"median": multiple}}
        about = {"method": method, "model": "cifar_resnet20", "teacher": teacher, "networks": networks}
        return about | {"objective": objective, "multiple": multiples}

    taught = {"teacher": "cifar_resnet56"}
    rows = [
        row("baseline", 1, 1.0),
        row("kd", 1, 1.5, **taught, kd={"weight": 1.0, "teachers": "mean"}),
        row("hkd", 1, 4.5, **taught, hkd={"weight": 3.0}),
        row("hkd-512", 1, 2.0, **taught, hkd={"weight": 3.0, "negatives": 512}),
        row("ffsd", 3, 3.6, ffsd={"weight": 1.0}),
        row("dml", 2, 1.9, mutual={"weight": 1.0}),
    ]
    return found | {"methods": rows}


def hours(found=None, student="cifar_resnet20", teacher="cifar_resnet56", **method) -> tuple[float, str]:
    """Hours and their basis of one seed of a method on 3,600 images for 10 epochs."""
    row = priced(found, student, teacher, **method)
    return row["hours"], row["from"]


def priced(found=None, student="cifar_resnet20", teacher="cifar_resnet56", **method) -> dict:
    """The row of one seed of a method on 3,600 images for 10 epochs."""
    base = {"base": "kd" if method.get("teachers") else "baseline", **method}
    benchmark = {
        "benchmark": "c",
        "seeds": [0],
        "datasets": ["cifar100"],
        "data": {"train_images": 3600},
        "pairs": [{"student": student, "teacher": teacher}],
        "methods": [{"m": base}],
        "teacher_seeds": [0, 1, 2],
        "recipe": {"epochs": 10},
    }
    rates = cost.Rates(found or machine())
    (row,) = cost.cost([cell for cell in config.cells(benchmark) if cell["method"] == "m"], rates)
    return row


def test_hours_are_images_times_epochs_times_networks_over_the_measured_rate():
    assert hours() == (pytest.approx(0.1), "measured")
    assert hours(networks=2) == (pytest.approx(0.2), "measured")
    assert hours(networks=3) == (pytest.approx(0.3), "measured")  # by the largest group that is not larger
    assert hours(networks=6) == (pytest.approx(0.1 * 6 / 0.8), "measured")
    assert hours(teachers=1) == (pytest.approx(0.1 / 0.75), "measured")
    assert hours(teachers=3)[0] == pytest.approx(0.1 + 3 * (0.1 / 0.75 - 0.1))
    assert hours(machine(threads=2))[0] == pytest.approx(0.2)  # core-hours
    assert hours(machine("A GPU", threads=2))[0] == pytest.approx(0.1)


def test_a_model_that_was_not_measured_is_scaled_and_said_to_be():
    own, reference = (cost.multiply_adds(f"cifar_resnet{n}", 32, True) for n in (32, 20))
    assert 40.5e6 < reference < 40.6e6  # 40.55 million in the literature's count
    found, basis = hours(student="cifar_resnet32")
    assert found == pytest.approx(0.1 * own / reference)
    assert basis == "scaled: cifar_resnet20 x 1.70"
    assert hours(teacher="cifar_resnet110", teachers=1)[1].startswith("scaled: teacher cifar_resnet56 x 2.")


def test_hours_count_what_a_methods_own_terms_take():
    """A step of baseline is 0.1 hours here, one with a teacher 0.1 / 0.75 by its own measurement."""
    found, taught = with_methods(machine()), 0.1 / 0.75
    for method, wanted, terms in (
        ({"base": "hkd"}, taught + 0.1 * (4.5 - 1.5), "hkd of cifar_resnet20"),
        ({"base": "hkd+graft"}, 2 * (taught + 0.1 * (4.5 - 1.5)), "hkd of cifar_resnet20"),
        ({"base": "ffsd"}, 3 * (0.1 + 0.1 * (3.6 / 3 - 1)), "ffsd of cifar_resnet20"),
        ({"base": "dml"}, 2 * 0.1, "dml of cifar_resnet20"),  # noise made it cheaper than its two networks
        ({"base": "kd"}, taught, ""),
        ({"base": "repr"}, 0.1, ""),
    ):
        row = priced(found, **method)
        assert (row["hours"], row["terms from"]) == (pytest.approx(wanted), terms), method
    row = priced(found, student="cifar_resnet32", base="ffsd")
    factor = cost.multiply_adds("cifar_resnet32", 32, True) / cost.multiply_adds("cifar_resnet20", 32, True)
    assert row["of them for terms"] == pytest.approx(factor * 3 * 0.1 * 0.2)
    assert row["terms from"] == "ffsd of cifar_resnet20 x 1.70"


def test_a_term_with_other_options_is_taken_for_the_nearest_that_was_measured():
    found = with_methods(machine())
    for negatives, nearest in ((256, "hkd-512"), (2048, "hkd-512"), (16384, "hkd"), (4096, "hkd")):
        objective = {"ce": 1.0, "kd": 1.0, "hkd": {"weight": 0.1, "negatives": negatives}}
        row = priced(found, base="hkd", objective=objective)
        assert row["terms from"] == f"{nearest} of cifar_resnet20", negatives


def test_terms_that_were_not_measured_are_said_to_be_left_out():
    for found in (machine(), with_methods(machine())):
        rates = cost.Rates(found)
        row = priced(found, base="review")
        assert row["hours"] == pytest.approx(0.1 / 0.75)
        assert row["terms from"] == cost.NOT_COUNTED
        assert cost.total([row], rates).endswith(" (without the methods' own terms, not measured)")
    assert "terms" not in cost.total([priced(base="kd")], rates)
    rows = [priced(found, base="hkd"), priced(found, base="baseline")]
    share = cost.percent(0.3 / (0.1 / 0.75 + 0.3 + 0.1))
    assert cost.total(rows, rates).endswith(f" ({share} of it for the methods' own terms, as measured with cifar_resnet20)")


def test_costs_are_printed_and_written_into_a_header(tmp_path, capsys):
    path = tmp_path / "quick.yaml"
    path.write_text("# Digits.\n# Cost: old\n#   snakemake\n" + (ROOT / "config/quick.yaml").read_text())
    rates = tmp_path / "machine.json"
    rates.write_text(json.dumps(machine("A GPU")))
    assert cost.main([str(path), "--rates", str(rates)]) == 0
    out = capsys.readouterr().out
    assert "21 cells, " in out
    assert "GPU-hours on A GPU, 1 thread (100 % of it for models that were not measured)" in out
    assert "where this benchmark has fp32" in out
    assert cost.main([str(path), "--rates", str(rates), "--write"]) == 0
    assert cost.main([str(path), "--rates", str(rates), "--write"]) == 0
    head = path.read_text().splitlines()[:4]
    assert head[0] == "# Digits."
    assert re.fullmatch(r"# Cost: 21 cells; [\d.]+ GPU-hours on A GPU, 1 thread \(100 % of it .*\)\.", head[1])
    assert head[2].startswith("#   For another machine: `make benchmark`")
    assert head[3] == "#   snakemake"
    path.write_text("# Digits.\nbenchmark: quick\n")
    assert not cost.write(path, [])
    assert path.read_text() == "# Digits.\nbenchmark: quick\n"


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
