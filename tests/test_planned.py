"""Which published numbers a benchmark stands for, before anything is trained."""

import json
from pathlib import Path

import pytest

from dgd import cli, config
from dgd.read.departures import PUBLISHED
from dgd.read.planned import published_rows, summary
from pipeline import reference
from tests.helpers import ROOT, cells_of

LISTED = [path for path in sorted((ROOT / "config").glob("*.yaml")) if reference.PUBLISHED_START in path.read_text()]
QUICK = ("imagenet", "cifar10")
PAPER = ROOT / "papers" / "dgd.yaml"
BENCHMARK = {
    **{"benchmark": "t", "seeds": [0, 1], "datasets": ["cifar100"], "papers": ["dgd"]},
    **{"pairs": [{"student": "cifar_resnet32", "teacher": "cifar_resnet56"}], "methods": ["baseline", "kd", "dgd"]},
    "recipe": {"precision": "fp32", "normalise": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}},
}


def departs(**recipe):
    """Return what Table 8's numbers of a benchmark depart in, by the row of methods."""
    rows = published_rows(cells_of(BENCHMARK | {"recipe": BENCHMARK["recipe"] | recipe}), [PAPER])
    table = rows[(rows["table"] == "Table 8") & (rows["metric"] == "top1")]
    return dict(zip(table["method"], table["departs in"]))


def test_a_benchmark_is_as_published_or_says_in_what_it_departs():
    assert departs() == {"baseline": PUBLISHED, "kd": PUBLISHED, "dgd": PUBLISHED}
    assert set(departs(lr=0.05).values()) == {"lr 0.05"}
    assert set(departs(precision="bf16").values()) == {"precision bf16 (immaterial up to 16 epochs: results/fast-path)"}
    own = departs(normalise=None)
    assert set(own.values()) == {"images normalised by the mean and deviation of the data set itself"}
    assert set(departs(augment={"mode": "reflect"}).values()) == {"augmentation: 4 pixels of reflection, flips"}


def test_each_number_is_there_once_whatever_the_seeds():
    rows = published_rows(cells_of(BENCHMARK), [PAPER])
    assert rows["id"].is_unique
    teacher = rows[(rows["student"] == "cifar_resnet56") & (rows["metric"] == "top1")]
    assert set(teacher["method"]) == {"baseline"}  # the teacher is a cell, and published too
    assert summary(rows.iloc[:0]) == ["nothing was published of these cells"]
    lines = summary(rows)
    assert lines[0].startswith("as published: dgd, Table 8: baseline, kd, dgd (")
    assert all(len(line) <= 138 for line in lines)


def test_the_command_lists_them(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["list", "published", "config/imagenet.yaml"]) == 0
    out = capsys.readouterr().out
    assert "as published: filter-grafting, ImageNet: baseline, grafting-difflr (12)" in out
    assert "departs in schedule cosine: filter-grafting, ImageNet: baseline-cosine" in out
    assert cli.main(["list", "published", "config/imagenet.yaml", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert next(row for row in rows if row["id"] == "fg-imagenet-resnet50-baseline-top1")["value"] == "75.92"


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in LISTED]
)
def test_headers_say_what_the_command_says(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert reference.render_published(Path("config") / path.name) in path.read_text(), "run `python -m pipeline.reference`"


def test_the_benchmarks_of_full_length_say_it():
    assert {"zoo", "cifar100", "filter-grafting", "imagenet", "cifar10", "crd-benchmark"} <= {path.stem for path in LISTED}


@pytest.mark.parametrize("path", LISTED, ids=lambda path: path.stem)
def test_a_benchmark_of_full_length_is_float32(path):
    assert {cell.recipe.precision for cell in config.cells(config.load(path, folders=False))} == {"fp32"}
