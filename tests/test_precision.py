"""`precision: auto`: a rule over a table, resolved where a cell is made, the same with and without torch."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from dgd import cli, config, identity, models, precision
from dgd.cell import Cell
from dgd.data.preparation import prepare
from dgd.models import depthwise
from dgd.read.papers import checked_conditions
from dgd.train import train_cell
from tests.helpers import ROOT, cells_of

OURS = ("cifar_resnet20", "cifar_mobilenetv2", "crd_mobilenetv2_half", "crd_shufflenetv1", "crd_shufflenetv2", "gan_generator")
THEIRS = ("mobilenetv3_small_100", "mobilenetv2_100", "efficientnet_b0", "convnext_atto", "resnet18", "ratio_mlp3")
MIXED = {
    "benchmark": "mixed",
    "seeds": [0],
    "datasets": ["digits"],
    "pairs": [
        {"student": "mobilenetv3_small_050", "teacher": "cifar_resnet8"},
        {"student": "cifar_resnet8", "teacher": "mobilenetv3_small_050"},
    ],
    "methods": ["baseline", "kd"],
    "recipe": {"epochs": 1, "batch_size": 20, "device": "cpu"},
}


@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_the_table_is_what_the_networks_are(name):
    assert depthwise.strided_rows(name) == (precision.table().get(name) or (0.0, depthwise.strided_rows(name)[1]))


@pytest.mark.slow
def test_the_whole_table_is_what_the_networks_are():
    assert depthwise.table(models.registered()) == precision.TABLE.read_text()


def test_rows_are_counted_by_hand():
    """Of `cifar_mobilenetv2` on 32x32 images: blocks with a stride make 16, 8 and 4 rows of 144, 192 and 576 channels."""
    values = []
    network = models.create("cifar_mobilenetv2", num_classes=100, image_size=32).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda _module, _inputs, output: values.append(output.numel()))
    network(torch.zeros(1, 3, 32, 32))
    rows = 3 * (16 * 144 + 8 * 192 + 4 * 576)
    assert depthwise.strided_rows("cifar_mobilenetv2")[0] == pytest.approx(1000 * rows / sum(values), abs=0.05)


def test_an_adapted_stem_halves_the_rows():
    assert precision.rows("mobilenetv2_100") == precision.table()["mobilenetv2_100"][0] / 2
    assert precision.rows("cifar_mobilenetv2") == precision.table()["cifar_mobilenetv2"][0]


def test_the_rule_is_on_the_right_side_of_what_was_measured():
    """On 32x32 images `auto` is what was the faster one; on larger ones it is never slower than the plain arithmetic."""
    rows = json.loads((ROOT / "speed" / "results" / "amd-epyc-1-thread.json").read_text())["arithmetic"]
    chosen = {row["model"]: precision.auto(row["model"]) for row in rows}
    assert len(chosen) > 10
    assert set(chosen.values()) == {"bf16", "fp32"}
    for row in rows:
        speed = {name: row["speedup"][f"{name}, channels last"]["median"] for name in ("fp32", "bf16")}
        if row["image_size"] == 32:
            assert chosen[row["model"]] == max(speed, key=speed.get), row
        assert speed[chosen[row["model"]]] > 1, row


def test_a_network_that_the_table_does_not_have_takes_bf16():
    assert precision.auto("of_a_plugin") == "bf16"


def test_a_cell_has_the_precision_of_its_student():
    found = {(cell.student, cell.method): cell.recipe.precision for cell in cells_of(MIXED)}
    assert found == {
        ("mobilenetv3_small_050", "baseline"): "fp32",
        ("mobilenetv3_small_050", "kd"): "fp32",
        ("cifar_resnet8", "baseline"): "bf16",
        ("cifar_resnet8", "kd"): "bf16",
    }


def test_what_is_asked_for_stands():
    given = {"recipe": MIXED["recipe"] | {"precision": "bf16"}, "methods": ["baseline", {"k": {"base": "kd", "recipe": {}}}]}
    given["methods"][1]["k"]["recipe"] = {"precision": "tf32"}
    found = {(cell.method, cell.recipe.precision) for cell in cells_of(MIXED | given)}
    assert found == {("baseline", "bf16"), ("k", "tf32")}
    given = {"recipe": MIXED["recipe"] | {"precision": "fp32"}, "methods": ["baseline", {"k": {"base": "kd", "recipe": {}}}]}
    given["methods"][1]["k"]["recipe"] = {"precision": "auto"}
    found = {(cell.student, cell.method): cell.recipe.precision for cell in cells_of(MIXED | given)}
    assert found["cifar_resnet8", "k"] == "bf16"
    assert {value for (_, method), value in found.items() if method == "baseline"} == {"fp32"}


def test_no_cell_holds_auto():
    """Neither its config.yaml nor its identity do; an asked-for precision and the same by the rule are one cell."""
    (cell, *_) = cells_of(MIXED)
    assert Cell.from_plain(cell.plain()) == cell
    assert "auto" not in (cell.plain()["recipe"]["precision"], identity.fields(cell)["recipe.precision"])
    asked = cells_of(MIXED | {"recipe": MIXED["recipe"] | {"precision": cell.recipe.precision}})[0]
    assert identity.of_cell(asked).hash == identity.of_cell(cell).hash
    assert Cell.from_plain(cell.plain() | {"recipe": {"precision": "auto"}}).recipe.precision == cell.recipe.precision


def test_committed_cells_are_what_they_were():
    found = 0
    for path in ROOT.glob("results/*/*/*/*/seed*/provenance.json"):
        recorded = json.loads(path.read_text()).get("identity")
        if recorded:
            found += 1
            assert identity.field_differences(recorded["fields"], identity.fields(identity.cell_of(path.parent))) == [], path
    assert found > 100
    for name in ("zoo-small", "ddnn"):
        benchmark = config.load(name, folders=False)
        assert benchmark.recipe.precision == "auto"
        assert {cell.recipe.precision for cell in config.cells(benchmark)} == {"bf16"}


def test_a_plan_needs_no_torch(tmp_path):
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(MIXED))
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None\n"
        f"from dgd import config; cells = config.cells(config.load({str(tmp_path / 'mixed.yaml')!r}))\n"
        "print([cell.recipe.precision for cell in cells])"
    )
    run = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", code], env={"DGD_NETWORKS": "no", "PATH": ""}, **run)
    assert done.stdout.strip() == str([cell.recipe.precision for cell in cells_of(MIXED)]), done.stderr


def test_the_list_of_cells_says_it(tmp_path, capsys):
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(MIXED))
    assert cli.main(["list", "cells", str(tmp_path / "mixed.yaml")]) == 0
    said = dict(map(str.split, capsys.readouterr().out.splitlines()))
    assert said == {cell.path: cell.recipe.precision for cell in cells_of(MIXED)}


def test_no_number_was_published_under_auto():
    with pytest.raises(ValueError, match=r"^here\.precision is 'auto'; .*bf16, fp32, tf32"):
        checked_conditions({"precision": "auto"}, "here")


def test_a_cell_trains_in_it_and_says_so(tmp_path):
    """On 8x8 images, on which bf16 once read memory that nobody wrote in networks of this kind: twice, with the same bytes."""
    prepare("digits", tmp_path / "data", train_images=40)
    cell = cells_of(MIXED | {"pairs": [{"student": "mobilenetv3_small_050"}], "methods": ["baseline"]})[0]
    for root in ("one", "two"):
        train_cell(cell, results=tmp_path / root, data=tmp_path / "data")
    one, two = (tmp_path / root / cell.path for root in ("one", "two"))
    assert yaml.safe_load((one / "config.yaml").read_text())["recipe"]["precision"] == "fp32"
    for name in ("history.csv", "predictions.npz", "filters.npz"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
