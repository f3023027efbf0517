"""Collecting cells, and reducing groups of networks to what is reported of them."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import R110, cell_of, fake_benchmark, fake_cell, row_of

from dgd.read.cells import COLUMNS, CONDITIONS, collect, refuse_twice, reported
from dgd.read.thresholds import filter_sets


@pytest.fixture
def benchmark(tmp_path):
    return fake_benchmark(tmp_path / "fake")


def test_collect_is_tidy(benchmark):
    cells = collect(benchmark)
    assert tuple(cells.columns) == COLUMNS
    # 1 teacher, 3 baseline, 3 kd, 3 x 2 grafting, 2 x 2 dgd and one row for the diverged one
    assert len(cells) == 1 + 3 + 3 + 6 + 4 + 1
    row = row_of(cells, method="grafting", seed=1, network=1)
    assert (row["last"], row["best_on_test"], row["epoch_best_on_test"]) == (50.0, 50.5, 1)
    assert (row["validation_selected"], row["epoch_validation_selected"]) == (49.75, 0)
    assert row["validation_last"] == 49.0
    assert (row["parameters"], row["conv_filters"], row["seconds"]) == (858868, 4, 9.0)
    assert row["folder"] == "cifar100/cifar_resnet56/grafting/seed1"
    assert (row["networks"], row["teachers"], row["epochs"], row["protocol"]) == (2, 0, 3, "paper")


def test_every_condition_has_one_column(benchmark):
    """The columns are made from the definitions of a cell's keys; a condition that is added there has one at once."""
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert {"objective", "exchange", "precision", "lr", "milestones", "train_images", "validation_images"} <= set(CONDITIONS)
    row = row_of(collect(benchmark), method="grafting", seed=0, network=0)
    assert json.loads(row["objective"]) == {"ce": {"weight": 1.0}}
    exchanged = json.loads(row["exchange"])
    assert (exchanged["name"], exchanged["a"], exchanged["from"], exchanged["layers"]) == ("graft", 0.4, 1, "dimension")
    assert (row["precision"], row["lr"], row["validation_images"], row["metric"]) == ("bf16", 0.1, 0, "top1")
    assert pd.isna(row["train_images"])


def test_what_an_older_config_lacks_has_its_default(tmp_path):
    path = fake_cell(tmp_path, cell_of(recipe={"precision": "fp32"})) / "config.yaml"
    older = "".join(line for line in path.read_text().splitlines(True) if "nesterov" not in line and "milestones" not in line)
    path.write_text(older.replace("task: classification\n", ""))
    row = collect(tmp_path).iloc[0]
    assert (row["nesterov"], row["milestones"], row["precision"], row["metric"]) == (False, None, "fp32", "top1")
    path.unlink()
    with pytest.raises(ValueError, match=r"config\.yaml: no such file; delete the cell's folder and train it again"):
        collect(tmp_path)
    path.write_text(older.replace("fp32", "fp8"))
    with pytest.raises(ValueError, match=r"config\.yaml: recipe\.precision is 'fp8'; it must be one of"):
        collect(tmp_path)
    path.write_text(older.replace("seed: 0", "seed: 1"))
    with pytest.raises(
        ValueError, match=r"config\.yaml is that of the cell fake/cifar100/cifar_resnet56/baseline/seed1; a copy"
    ):
        collect(tmp_path)
    path.write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"config\.yaml: .*train it again"):
        collect(tmp_path)


def test_the_metric_of_a_cell_is_that_of_its_task(tmp_path):
    fake_cell(tmp_path, cell_of("grafting", task="regression"), [3.5, 2.5], validation=[2.0, 4.0])
    cells = collect(tmp_path)
    assert cells["metric"].tolist() == ["rmse", "rmse"]
    assert cells["last"].tolist() == [3.5, 2.5]
    assert cells["best_on_test"].tolist() == [4.0, 3.0]
    assert reported(cells, "best")[0]["last"].tolist() == [3.5]  # by validation, where lower is better
    assert reported(cells.assign(validation_last=None), "best")[0]["last"].tolist() == [2.5]


def test_collect_carries_what_did_not_finish(benchmark):
    row = row_of(collect(benchmark), method="dgd", seed=2)
    assert (row["status"], row["network"]) == ("diverged", 0)
    assert math.isnan(row["last"])


def test_collect_knows_holes_and_leaves_out_strangers(benchmark):
    expected = [cell_of(seed=seed) for seed in (0, 7)] + [cell_of("kd", 0, teacher=R110)]
    cells = collect(benchmark, expected)
    assert cells["status"].tolist() == ["finished", "missing", "finished"]
    assert cells["seed"].tolist() == [0, 7, 0]
    assert cells["folder"].tolist()[1] == ""
    assert pd.isna(cells["last"][1])


def test_collect_takes_the_cells_of_a_config(tmp_path):
    from dgd.config import cells, load

    config = load(Path(__file__).parent.parent / "config" / "quick.yaml")
    frame = collect(tmp_path, cells(config))
    assert len(frame) == len(cells(config))
    assert set(frame["status"]) == {"missing"}
    assert frame["epochs"].notna().all()


def test_collect_of_nothing(tmp_path):
    assert collect(tmp_path).empty


def test_an_image_folder_is_named_without_its_path(tmp_path):
    fake_cell(tmp_path, cell_of(dataset="imagefolder:/data/imagenet", student="resnet18"), [69.0])
    cells = collect(tmp_path, [cell_of(dataset="imagefolder:/data/imagenet", student="resnet18")])
    assert cells["dataset"].tolist() == ["imagefolder-imagenet"]


def test_damage_is_named(tmp_path):
    path = fake_cell(tmp_path, cell_of()) / "metrics.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"seed0/metrics\.json is not JSON"):
        collect(tmp_path)
    metrics = json.loads(whole)
    del metrics["cell"]["student"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"metrics\.json: cell\.student is missing"):
        collect(tmp_path)
    metrics = json.loads(whole)
    del metrics["networks"][0]["best_on_test"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"networks\[0\]\.best_on_test is missing"):
        collect(tmp_path)
    path.write_text(whole.replace('"top1": 72.0', '"top1": NaN'))
    with pytest.raises(ValueError, match=r"is not JSON \(NaN is no number of JSON\)"):
        collect(tmp_path)


def test_a_copy_counts_as_no_second_cell(tmp_path):
    """Under whatever name it lies, and whichever of its files says another seed or benchmark."""
    cell = fake_cell(tmp_path, cell_of())
    (cell / "history.csv").write_text("epoch,loss_0\n0,1.5\n")
    (cell / "provenance.json").write_text(json.dumps({"cell": cell_of().path}))
    assert len(collect(tmp_path)) == len(collect(tmp_path, [cell_of()])) == 1
    copy = cell.parent / "seed0.bak"
    for asked in (None, [cell_of()]):
        shutil.copytree(cell, copy)
        with pytest.raises(
            ValueError, match=r"seed0\.bak/metrics\.json is that of the cell fake/.*/seed0; a copy counts as no"
        ):
            collect(tmp_path, asked)
        shutil.rmtree(copy)
    copy = cell.parent / "seed1"
    shutil.copytree(cell, copy)
    for name, text, message in (
        ("metrics.json", '"seed": 0', r"seed1/metrics\.json is that of the cell fake/.*/seed0"),
        ("provenance.json", "seed0", r"seed1/provenance\.json is that of the cell fake/.*/seed0"),
        ("history.csv", "0,1.5", r"seed1/history\.csv is that of .*/seed0 too, which has another seed"),
        ("config.yaml", "seed: 0", r"seed1/config\.yaml is that of the cell fake/.*/seed0"),
    ):
        with pytest.raises(ValueError, match=message):
            collect(tmp_path)
        (copy / name).write_text((copy / name).read_text().replace(text, text.replace("0", "1")))
    assert collect(tmp_path)["seed"].tolist() == [0, 1]


def test_a_cell_of_another_benchmark_is_refused(tmp_path):
    fake_cell(tmp_path, cell_of())
    other = fake_cell(tmp_path, cell_of(seed=1))
    for name in ("metrics.json", "config.yaml"):
        text = (other / name).read_text()
        (other / name).write_text(
            text.replace('"benchmark": "fake"', '"benchmark": "x"').replace("benchmark: fake", "benchmark: x")
        )
        with pytest.raises(ValueError, match=rf"seed1/{name} is that of the cell x/cifar100/cifar_resnet56/baseline/seed1"):
            collect(tmp_path)
        (other / name).write_text(text)
    twice = [(collect(tmp_path), folder) for folder in ("results/fake", "results/fake.bak")]
    with pytest.raises(ValueError, match=r"fake\.bak: the cell fake/cifar100/.*/seed0 is in results/fake too; give one"):
        refuse_twice(twice)
    refuse_twice(twice[:1])


@pytest.mark.parametrize("value", [1000, -5])
def test_a_result_that_cannot_be_is_refused(tmp_path, value):
    fake_cell(tmp_path, cell_of("grafting"), [70.0, value])
    with pytest.raises(
        ValueError, match=rf"networks\[1\]\.last\.top1 is {value}; it must be at least 0 and at most 100: the file was changed"
    ):
        collect(tmp_path)


def test_milestones_and_momentum_of_a_cell_are_collected(tmp_path):
    fake_cell(tmp_path, cell_of(seed=0, recipe={"milestones": (150, 180, 210), "nesterov": True}))
    fake_cell(tmp_path, cell_of(seed=1))
    collect(tmp_path).to_csv(tmp_path / "cells.csv", index=False)
    cells = pd.read_csv(tmp_path / "cells.csv")
    assert cells["milestones"].fillna("").tolist() == ["150/180/210", ""]
    assert cells["nesterov"].tolist() == [True, False]
    # An expected cell without a result has its recipe from the config.
    wanted = cell_of("kd", teacher=R110, recipe={"milestones": (5, 7), "epochs": 9})
    (row,) = collect(tmp_path, [wanted]).to_dict("records")
    assert (row["milestones"], row["nesterov"], row["epochs"], row["status"]) == ("5/7", False, 9, "missing")


def test_how_a_method_stands_to_its_sources_is_collected(tmp_path):
    path = fake_cell(tmp_path, cell_of("grafting", 0)) / "metrics.json"
    about = {"status": "deviates", "deviations": ["Pairs from the deepest.", "one map; not two"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": about}))
    path = fake_cell(tmp_path, cell_of("grafting", 1)) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": {"status": "faithful", "deviations": []}}))
    fake_cell(tmp_path, cell_of("grafting", 2))
    fake_cell(tmp_path, cell_of("grafting", 3), status="diverged")
    first = collect(tmp_path).query("network == 0").fillna("")
    assert first["method_status"].tolist() == ["deviates", "faithful", "", ""]
    assert first["deviations"].tolist() == ["Pairs from the deepest; one map; not two", "", "", ""]


def test_best_is_by_test_unless_every_network_has_a_validation(tmp_path):
    fake_cell(tmp_path, cell_of("grafting", 0), [70.0, 71.0], validation=[62.0, 61.0])
    fake_cell(tmp_path, cell_of("grafting", 1), [74.0, 74.0], validation=False)
    cells = collect(tmp_path)
    best, how = reported(cells, "best")
    assert (best["last"].tolist(), best["network"].tolist(), how) == ([71.0, 74.0], [1, 0], "best by test")
    best, how = reported(cells[cells["seed"] == 0], "best")
    assert (best["last"].tolist(), how) == ([70.0], "best by validation")
    assert reported(cells[cells["network"] == 0], "best")[1] == "first"  # there is nothing to choose from


def test_rank_and_position_by_hand():
    l1 = np.array([5.0, 0.0, 4.0, 3.0, 1.0])
    baseline = np.array([0.1, 2.0, 0.05, 2.0, 2.0])  # at or below 0.1: positions 0 and 2
    found = filter_sets(l1, baseline, 0.1)
    assert found == {
        "baseline_valid": 3,
        "baseline_invalid": 2,
        "mean_l1_valid_rank": 4.0,  # 3, 4, 5
        "mean_l1_invalid_rank": 0.5,  # 0, 1
        "mean_l1_valid_position": pytest.approx(4 / 3),  # 0, 3, 1
        "mean_l1_invalid_position": 4.5,  # 5, 4
    }


def test_empty_sets_are_nan():
    none = filter_sets(np.ones(3), np.ones(3), 0.1)
    assert none["baseline_invalid"] == 0
    assert math.isnan(none["mean_l1_invalid_rank"])
    assert math.isnan(none["mean_l1_invalid_position"])
    everything = filter_sets(np.ones(3), np.ones(3), 2)
    assert everything["baseline_valid"] == 0
    assert math.isnan(everything["mean_l1_valid_rank"])
    with pytest.raises(ValueError, match="not the same network"):
        filter_sets(np.ones(3), np.ones(4), 1)


def test_the_baseline_of_the_same_seed_counts(tmp_path):
    fake_cell(tmp_path, cell_of(seed=0), norms={0: [0.05, 0.5, 2.0, 3.0]})
    fake_cell(tmp_path, cell_of(seed=1), norms={0: [2.0, 2.0, 2.0, 2.0]})
    for seed in range(3):
        norms = {0: [9.0, 0.0, 8.0, 7.0], 1: [1.0, 1.0, 1.0, 1.0]}
        fake_cell(tmp_path, cell_of("grafting", seed), norms=norms)
    cells = collect(tmp_path)
    row = row_of(cells, method="grafting", seed=0, network=0)
    assert (row["baseline_invalid_1"], row["baseline_invalid_0.1"]) == (2, 1)
    assert row["invalid_ratio_1"] == 0.25
    assert (row["mean_l1_invalid_rank_1"], row["mean_l1_invalid_position_1"]) == (3.5, 4.5)
    assert (row["mean_l1_invalid_rank_0.1"], row["mean_l1_invalid_position_0.1"]) == (0, 9)
    assert row_of(cells, method="grafting", seed=0, network=1)["mean_l1_valid_rank_1"] == 1
    own = row_of(cells, method="baseline", seed=0)
    assert own["mean_l1_invalid_rank_1"] == own["mean_l1_invalid_position_1"] == pytest.approx(0.275)
    full = row_of(cells, method="grafting", seed=1, network=0)
    assert full["baseline_invalid_1"] == 0
    assert math.isnan(full["mean_l1_invalid_rank_1"])
    alone = row_of(cells, method="grafting", seed=2, network=0)  # no baseline with this seed
    assert math.isnan(alone["baseline_invalid_1"])
    assert alone["invalid_ratio_1"] == 0.25


def test_another_network_as_baseline_is_an_error(tmp_path):
    path = fake_cell(tmp_path, cell_of())
    fake_cell(tmp_path, cell_of("grafting"))
    np.savez(path / "filters.npz", **{"l1/0/other.weight": np.ones(4)})
    with pytest.raises(ValueError, match=r"grafting.*filters\.npz: the conv layers are not those of the baseline"):
        collect(tmp_path)


def test_reading_needs_no_torch():
    # The environment of the reading rules has neither torch nor timm; importing dgd loads both where they are.
    names = "results, filter_sets, methods, controls, density, cells, papers"
    code = f"import sys; sys.modules['timm'] = None; from dgd.read import {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
