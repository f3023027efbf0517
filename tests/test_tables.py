"""Collecting cells and setting them beside published numbers. Every number of the fixtures is made up."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgd import statistics
from dgd.tables import (
    COLUMNS,
    RECIPE,
    collect,
    departures,
    filter_sets,
    filters_table,
    markdown,
    read_filters,
    read_papers,
    replace_file,
    reported,
    results_table,
    write,
)

FILES = [Path(__file__).parent.parent / "papers" / f"{name}.yaml" for name in ("dgd", "filter-grafting")]
WITH_RECIPE = read_papers(FILES)
PAPERS = WITH_RECIPE.assign(recipe=[{}] * len(WITH_RECIPE))  # the made-up cells were trained by nobody's recipe
R56, R110 = "cifar_resnet56", "cifar_resnet110"
NETWORKS = {"grafting": (2, 0), "kd": (1, 1), "dgd": (2, 1), "dgd-1t4s": (4, 1)}


def cell_of(method="baseline", seed=0, student=R56, teacher=None, dataset="cifar100", model=None):
    """Return the `cell` entry of metrics.json."""
    networks, teachers = NETWORKS.get(method, (1, 0))
    return {
        "benchmark": "fake",
        "dataset": dataset,
        "model": model or student,
        "method": method,
        "seed": seed,
        "student": student,
        "teacher": teacher,
        "teachers": teachers,
        "networks": networks,
        "epochs": 3,
        "protocol": "paper",
    }


def fake_cell(folder, cell, top1=(72.0, 60.0), norms=None, status="finished", validation=True):
    """Write a made-up cell: `top1` by network at the last epoch, `norms` the L1 norms of two layers by network.

    `validation` may be the networks' validation top-1 at the last epoch.
    """
    path = Path(folder) / cell["dataset"].replace(":/data/", "-") / cell["model"] / cell["method"] / f"seed{cell['seed']}"
    path.mkdir(parents=True)
    metrics = {"status": status, "cell": cell}
    if status != "finished":
        metrics["error"] = "loss is not finite at epoch 1"
    else:
        networks, arrays = [], {}
        for i in range(cell["networks"]):
            l1 = np.asarray((norms or {}).get(i, [0.05, 0.5, 2.0, 3.0]), dtype=np.float32)
            arrays |= {f"l1/{i}/conv1.weight": l1[:1], f"l1/{i}/conv2.weight": l1[1:], f"entropy/{i}": np.ones(2)}
            accuracy = top1[min(i, len(top1) - 1)]
            last = validation[i] if isinstance(validation, list) else accuracy - 1 if validation else None
            networks.append(
                {
                    "last": {"top1": accuracy, "validation_top1": last, "loss": 1.0, "epoch": 2},
                    "best_on_test": {"top1": accuracy + 0.5, "epoch": 1},
                    "validation_selected": {"top1": accuracy - 0.25, "epoch": 0} if validation else None,
                    "filters": {
                        "count": len(l1),
                        "invalid_ratio": {t: float((l1 <= float(t)).mean()) for t in ("1", "0.1", "0.01", "0.001")},
                        "mean_l1": float(l1.mean()),
                        "entropy_sum": 2.0,
                    },
                }
            )
        timings = {"seconds": 9.0, "images_per_second": 100.0, "peak_memory_mib": 50.0, "epochs_run": 3}
        metrics |= {"parameters": 858868, "conv_filters": 4, "networks": networks, "timings": timings}
        np.savez(path / "filters.npz", **arrays)
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


@pytest.fixture
def benchmark(tmp_path):
    """Three seeds of the paper's four methods for ResNet-56 <- ResNet-110, and the teacher; one dgd cell diverged."""
    folder = tmp_path / "fake"
    fake_cell(folder, cell_of(student=R110), [74.0])
    for seed in range(3):
        fake_cell(folder, cell_of("baseline", seed), [70.0 + 0.1 * seed])
        fake_cell(folder, cell_of("kd", seed, teacher=R110), [72.0 + 0.1 * seed])
        fake_cell(folder, cell_of("grafting", seed), [70.0 - 0.1 * seed, 50.0])
        status = "diverged" if seed == 2 else "finished"
        fake_cell(folder, cell_of("dgd", seed, teacher=R110), [72.5 + 0.1 * seed, 60.0], status=status)
    return folder


def row_of(frame, **wanted):
    for field, value in wanted.items():
        frame = frame[frame[field] == value]
    assert len(frame) == 1, f"{len(frame)} rows fit {wanted}"
    return frame.iloc[0]


# ------------------------------------------------------------------------------------------------------- collecting


def test_collect_is_tidy(benchmark):
    cells = collect(benchmark)
    assert tuple(cells.columns) == COLUMNS
    # 1 teacher, 3 baseline, 3 kd, 3 x 2 grafting, 2 x 2 dgd and one row for the diverged one
    assert len(cells) == 1 + 3 + 3 + 6 + 4 + 1
    row = row_of(cells, method="grafting", seed=1, network=1)
    assert (row["top1_last"], row["top1_best_on_test"], row["epoch_best_on_test"]) == (50.0, 50.5, 1)
    assert (row["top1_validation_selected"], row["epoch_validation_selected"]) == (49.75, 0)
    assert row["validation_top1_last"] == 49.0
    assert (row["parameters"], row["conv_filters"], row["seconds"]) == (858868, 4, 9.0)
    assert row["folder"] == "cifar100/cifar_resnet56/grafting/seed1"
    assert (row["networks"], row["teachers"], row["epochs"], row["protocol"]) == (2, 0, 3, "paper")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_norms_are_read_as_numpy_reads_them(tmp_path, save):
    """The reader of many small arrays does not go through `np.load`."""
    arrays = {
        f"l1/{i}/layer{n}.conv.weight": np.arange(n, dtype=kind) for i, kind in enumerate(("<f4", ">f8")) for n in (1, 0, 33)
    }
    save(tmp_path / "filters.npz", **arrays, **{"entropy/0": np.ones((2, 2))})
    norms = read_filters(tmp_path / "filters.npz")
    found = {f"l1/{network}/{layer}": array for network, layers in norms.items() for layer, array in layers.items()}
    assert list(found) == list(arrays)
    for key, array in np.load(tmp_path / "filters.npz").items():
        if key in found:
            np.testing.assert_array_equal(found[key], array, strict=True)
    save(tmp_path / "wrong.npz", **{"l1/0/conv.weight": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"wrong.npz: an array of shape \(2, 2\)"):
        read_filters(tmp_path / "wrong.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "filters.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"half.npz: .*train it again"):
        read_filters(tmp_path / "half.npz")


def test_collect_carries_what_did_not_finish(benchmark):
    row = row_of(collect(benchmark), method="dgd", seed=2)
    assert (row["status"], row["network"]) == ("diverged", 0)
    assert math.isnan(row["top1_last"])


def test_collect_knows_holes_and_leaves_out_strangers(benchmark):
    expected = [cell_of(seed=seed) for seed in (0, 7)] + [cell_of("kd", 0, teacher=R110)]
    cells = collect(benchmark, expected)
    assert cells["status"].tolist() == ["finished", "missing", "finished"]
    assert cells["seed"].tolist() == [0, 7, 0]
    assert cells["folder"].tolist()[1] == ""
    assert pd.isna(cells["top1_last"][1])


def test_collect_takes_the_cells_of_a_config(tmp_path):
    from dgd.config import cells, load

    config = load(Path(__file__).parent.parent / "config" / "quick.yaml")
    frame = collect(tmp_path, cells(config))
    assert len(frame) == len(cells(config))
    assert set(frame["status"]) == {"missing"}
    assert frame["epochs"].notna().all()
    table = results_table(frame, PAPERS)
    assert (table["n"] == 0).all()
    assert table["status"].str.match(r"0 of \d+: \d+ missing").all()
    markdown(table)
    markdown(filters_table(frame, PAPERS))


def test_collect_of_nothing(tmp_path):
    assert collect(tmp_path).empty
    assert results_table(collect(tmp_path), PAPERS).empty
    assert filters_table(collect(tmp_path), PAPERS).empty


def test_an_image_folder_is_named_without_its_path(tmp_path):
    fake_cell(tmp_path, cell_of(dataset="imagefolder:/data/imagenet", student="resnet18"), [69.0])
    cells = collect(tmp_path, [cell_of(dataset="imagefolder:/data/imagenet", student="resnet18")])
    assert cells["dataset"].tolist() == ["imagefolder-imagenet"]
    assert results_table(cells, PAPERS)["paper_mean"].tolist() == [69.15]


def test_damage_is_named(tmp_path):
    path = fake_cell(tmp_path, cell_of()) / "metrics.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"seed0/metrics\.json is not JSON"):
        collect(tmp_path)
    metrics = json.loads(whole)
    del metrics["cell"]["student"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"metrics\.json: missing cell\.student"):
        collect(tmp_path)
    metrics = json.loads(whole)
    del metrics["networks"][0]["best_on_test"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match="finished, but without 'best_on_test'"):
        collect(tmp_path)
    path.write_text(whole.replace('"top1": 72.0', '"top1": NaN'))
    with pytest.raises(ValueError, match=r"last\.top1 is not a number"):
        collect(tmp_path)


# ---------------------------------------------------------------------------------------------------------- filters


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


def test_filters_table_stands_beside_tables_7_and_9(benchmark):
    table = filters_table(collect(benchmark), PAPERS)
    assert len(table) == 5 * 2  # teacher, baseline, kd, grafting, dgd at two thresholds
    kd = row_of(table, method="kd", threshold=0.1)
    assert (kd["paper_mean_l1_valid"], kd["paper_mean_l1_invalid"]) == (26.914, 0.0)
    dgd = row_of(table, method="dgd", threshold=1.0)
    assert (dgd["paper_mean_l1_valid"], dgd["paper_source"], dgd["n"]) == (18.119, "dgd, Table 9", 2)
    baseline = row_of(table, method="baseline", threshold=1.0, student=R56)
    assert (baseline["paper_valid_count"], baseline["paper_invalid_count"]) == (1961, 71)
    assert (baseline["invalid_ratio"], baseline["baseline_invalid"]) == (0.5, 2)
    assert math.isnan(row_of(table, student=R110, threshold=1.0)["paper_mean_l1_valid"])
    text = markdown(table)
    assert "12.126 / 0.075 (1961 / 71)" in text
    assert "by position" in text


# ---------------------------------------------------------------------------------------------------------- results


def test_results_rows_and_their_order(benchmark):
    table = results_table(collect(benchmark), PAPERS)
    assert table[["student", "teacher", "method", "role"]].to_numpy().tolist() == [
        [R110, "", "baseline", "teacher"],
        [R56, "", "baseline", "student"],
        [R56, R110, "kd", "student"],
        [R56, "", "grafting", "student"],
        [R56, R110, "dgd", "student"],
    ]


def test_results_numbers_are_those_of_the_statistics(benchmark):
    table = results_table(collect(benchmark), PAPERS)
    kd = row_of(table, method="kd")
    ours, base = [72.0, 72.1, 72.2], [70.0, 70.1, 70.2]
    assert kd[["mean", "sd", "n", "low", "high"]].tolist() == pytest.approx(list(statistics.mean_interval(ours)))
    gain = statistics.difference(ours, base)
    assert kd[["gain", "gain_low", "gain_high", "gain_p"]].tolist() == pytest.approx(list(gain))
    assert (kd["best_on_test"], kd["validation_selected"]) == pytest.approx((72.6, 71.85))
    raw = table["gain_p"].dropna()
    assert table["gain_p_holm"].dropna().tolist() == pytest.approx(statistics.holm(raw).tolist())
    assert len(raw) == 3
    low, high = statistics.prediction_interval(ours)
    assert (kd["predict_low"], kd["predict_high"]) == pytest.approx((low, high))
    assert kd["paper_within"] == ("yes" if low <= 73.42 <= high else "no") == "no"


def test_the_first_network_is_reported_and_the_group_beside_it(benchmark):
    grafting = row_of(results_table(collect(benchmark), PAPERS), method="grafting")
    assert grafting["mean"] == pytest.approx(69.9)
    assert grafting["top1_last_mean_of_networks"] == pytest.approx((69.9 + 50) / 2)


def test_the_mean_or_the_best_network_can_be_reported(tmp_path):
    for seed in range(3):
        fake_cell(tmp_path, cell_of("baseline", seed), [70.0 + seed])
        # The test split ranks network 0 first, the validation split network 1.
        fake_cell(tmp_path, cell_of("grafting", seed), [74.0 + seed, 72.0 + seed], validation=[60.0, 61.0])
    fake_cell(tmp_path, cell_of("grafting", 3), status="diverged")
    cells = collect(tmp_path)
    expected = {
        "first": (75.0, "first", "of the first network of the group"),
        "mean": (74.0, "mean", "the mean over the networks of the group"),
        "best": (73.0, "best by validation", "highest validation top-1 at the last epoch"),
    }
    for report, (mean, how, words) in expected.items():
        table = results_table(cells, PAPERS, report)
        row = row_of(table, method="grafting")
        assert (row["mean"], row["gain"], row["n"], row["report"]) == (mean, mean - 71, 3, how)
        assert row["best_on_test"] == mean + 0.5
        assert row["validation_selected"] == mean - 0.25
        assert row["top1_last_mean_of_networks"] == 74
        assert row["status"] == "3 of 4: 1 diverged"
        assert row_of(table, method="baseline")["report"] == "first"
        assert words in markdown(table)
    pd.testing.assert_frame_equal(results_table(cells, PAPERS), results_table(cells, PAPERS, "first"))
    by_test = results_table(cells.drop(columns="validation_top1_last"), PAPERS, "best")  # collected by older code
    row = row_of(by_test, method="grafting")
    assert (row["mean"], row["report"]) == (75, "best by test")
    assert "a choice made on the test split itself" in markdown(by_test)
    with pytest.raises(ValueError, match="report must be one of first, mean, best, not 'last'"):
        results_table(cells, PAPERS, "last")


def test_best_is_by_test_unless_every_network_has_a_validation(tmp_path):
    fake_cell(tmp_path, cell_of("grafting", 0), [70.0, 71.0], validation=[62.0, 61.0])
    fake_cell(tmp_path, cell_of("grafting", 1), [74.0, 74.0], validation=False)
    cells = collect(tmp_path)
    best, how = reported(cells, "best")
    assert (best["top1_last"].tolist(), best["network"].tolist(), how) == ([71.0, 74.0], [1, 0], "best by test")
    best, how = reported(cells[cells["seed"] == 0], "best")
    assert (best["top1_last"].tolist(), how) == ([70.0], "best by validation")
    assert reported(cells[cells["network"] == 0], "best")[1] == "first"  # there is nothing to choose from


def test_the_smallest_difference_is_that_of_the_pooled_spread(benchmark):
    table = results_table(collect(benchmark), PAPERS)
    kd = row_of(table, method="kd")
    assert kd["smallest_difference"] == pytest.approx(statistics.smallest_difference(0.1, 3))
    dgd = row_of(table, method="dgd")  # sd of two seeds 0.1 apart beside three
    pooled = math.sqrt((0.1**2 / 2 + 2 * 0.1**2) / 3)
    assert dgd["smallest_difference"] == pytest.approx(statistics.smallest_difference(pooled, (2, 3)))
    assert table.loc[table["method"] == "baseline", "smallest_difference"].isna().all()
    text = markdown(table)
    assert "could have seen" in text.splitlines()[0]
    assert f"| {kd['smallest_difference']:.2f} " in text
    assert "80 % of cases" in text


def test_gains_are_pooled_over_settings(tmp_path):
    other = "cifar_resnet32"
    fake_cell(tmp_path, cell_of(student=R110), [74.0])
    for seed in range(3):
        for student, dataset, gain in ((R56, "cifar100", 2.0), (other, "cifar100", 1.0), (R56, "cifar10", 0.0)):
            fake_cell(tmp_path, cell_of("baseline", seed, student, dataset=dataset), [70.0 + 0.1 * seed])
            if dataset == "cifar100" or seed == 0:  # on CIFAR-10 one seed: nothing to resample
                cell = cell_of("kd", seed, student, R110, dataset)
                fake_cell(tmp_path, cell, [70.0 + gain - 0.1 * seed])
        fake_cell(tmp_path, cell_of("grafting", seed), [71.0])
        for teacher in (R110, "cifar_resnet20"):  # two teachers, one student, one baseline: one setting
            fake_cell(tmp_path, cell_of("dgd", seed, teacher=teacher, model=f"{R56}-by-{teacher}"), [72.0])
    cells = collect(tmp_path)
    table = results_table(cells, PAPERS)
    base, first, second = [70.0, 70.1, 70.2], [72.0, 71.9, 71.8], [71.0, 70.9, 70.8]
    expected = statistics.stratified_bootstrap([(first, base), (second, base)])
    assert expected.gain == pytest.approx(1.3)
    rows = table[table["method"] == "kd"]
    assert len(rows) == 3
    for row in rows[["pooled_gain", "pooled_low", "pooled_high", "pooled_settings"]].to_numpy():
        assert row == pytest.approx(list(expected))
    assert table.loc[table["method"] != "kd", "pooled_settings"].isna().all()
    text = markdown(table)
    assert f"kd +1.30 [{expected.low:+.2f}, {expected.high:+.2f}] over 2 settings." in text
    assert "stratified bootstrap" in text
    assert "stratified bootstrap" not in markdown(results_table(cells[cells["student"] != other], PAPERS))


def test_what_did_not_finish_is_said_and_not_counted(benchmark):
    dgd = row_of(results_table(collect(benchmark), PAPERS), method="dgd")
    assert (dgd["n"], dgd["status"]) == (2, "2 of 3: 1 diverged")
    assert dgd["mean"] == pytest.approx(72.55)


def test_table_8_is_the_paper_column_and_the_others_stand_beside(benchmark):
    table = results_table(collect(benchmark), PAPERS)
    grafting = row_of(table, method="grafting")
    assert (grafting["paper"], grafting["paper_source"]) == ("72.00 ± 0.03 (n=5)", "dgd, Table 8")
    assert grafting["paper_others"] == (
        "72.60 (dgd, Table 7); 73.09 (filter-grafting, L1 against entropy); "
        "grafting-l1 72.73 (filter-grafting, L1 against entropy); grafting-dlr 72.83 (filter-grafting, README dlr); "
        "grafting-dlr 72.83 (filter-grafting, comparison with other methods)"
    )
    assert grafting["paper_gain"] == pytest.approx(72.00 - 71.87)
    assert grafting["paper_baseline"] == "71.87 ± 0.42 (n=5) (dgd, Table 8)"
    assert row_of(table, method="dgd")["paper_gain"] == pytest.approx(74.28 - 71.87)
    assert row_of(table, student=R110)["paper_mean"] == 73.21  # only the other paper has it


def test_counts_tell_variants_apart(tmp_path):
    student = "cifar_mobilenetv2"
    for method in ("baseline", "dgd", "dgd-1t4s"):
        fake_cell(tmp_path, cell_of(method, student=student, teacher=R110 if method != "baseline" else None))
    table = results_table(collect(tmp_path), PAPERS)
    four = row_of(table, method="dgd-1t4s")
    assert (four["paper_mean"], four["paper_source"]) == (75.45, "dgd, Table 10")
    assert four["paper_baseline"] == "72.40 ± 0.32 (n=5) (dgd, Table 8)"  # Table 10 has no baseline of its own
    two = row_of(table, method="dgd")
    assert two["paper_mean"] == 75.55
    assert two["paper_others"] == "75.18 ± 0.12 (dgd, Table 10); 75.24 (dgd, Figure accuracy curve)"


def test_another_teacher_is_another_cell(tmp_path):
    fake_cell(tmp_path, cell_of("kd", teacher="cifar_resnet20"))
    row = row_of(results_table(collect(tmp_path), PAPERS), method="kd")
    assert row["paper"] == ""
    assert math.isnan(row["paper_gain"])


def test_a_student_of_two_teachers_has_a_row_for_each(tmp_path):
    for teacher in (R110, "cifar_resnet20"):
        fake_cell(tmp_path, cell_of(student=teacher))
        fake_cell(tmp_path, cell_of("kd", teacher=teacher, model=f"{R56}-by-{teacher}"))
    fake_cell(tmp_path, cell_of())
    table = results_table(collect(tmp_path), PAPERS)
    assert len(table) == 5
    assert table["gain"].notna().sum() == 2


def test_verdicts(benchmark):
    table = results_table(collect(benchmark), PAPERS)
    assert row_of(table, method="kd")["verdict"] == "reproduced"  # about +2.0 where +1.55 was published
    assert row_of(table, method="grafting")["verdict"] == statistics.verdict((-0.427, 0.027), 0.13) == "not reproduced"
    assert set(table.loc[table["method"] == "baseline", "verdict"]) == {""}
    unpublished = results_table(collect(benchmark), read_papers([]))
    assert row_of(unpublished, method="kd")["verdict"] == "direction only"
    assert row_of(unpublished, method="kd")["paper"] == ""


def test_a_published_gain_is_held_against_what_was_trained_as_published_only(tmp_path):
    recipe = {"epochs": 200, "batch_size": 128, "lr": 0.1, "schedule": "slr", "step_epochs": 60, "gamma": 0.1}
    recipe |= {"weight_decay": 5e-4, "momentum": 0.9, "weight_average": "none", "train_images": None}

    def table(name, validation=None, teacher=None, **changes):
        fake_cell(tmp_path / name, cell_of(student=R110) | recipe | (teacher or {}), [74.0], validation=None)
        for seed in range(3):
            for method, top1, by in (("baseline", 70.0, None), ("kd", 72.0, R110)):
                cell = cell_of(method, seed, teacher=by) | recipe | changes
                fake_cell(tmp_path / name, cell, [top1 + 0.1 * seed], validation=validation)
        return results_table(collect(tmp_path / name), WITH_RECIPE)

    whole = table("published")
    kd = row_of(whole, method="kd")
    assert (kd["scale"], kd["verdict"], kd["paper_within"]) == ("as published", "reproduced", "no")
    assert kd["paper_gain"] == pytest.approx(73.42 - 71.87)
    assert "would not be plausible as one more run of ours" in markdown(whole)
    others = {
        "short": ({"epochs": 20}, "20 of 200 epochs"),
        "few": ({"train_images": 5000}, "5,000 images"),
        "decay": ({"weight_decay": 1e-4}, "weight decay 0.0001"),
        "cosine": ({"schedule": "cosine"}, "schedule cosine"),
        "older": ({"lr": None}, "recipe not recorded"),
        "split": ({"validation": True}, "some kept for validation"),
        "taught": ({"teacher": {"epochs": 100}}, "teacher: 100 of 200 epochs"),
    }
    for name, (changes, scale) in others.items():
        found = table(name, **changes)
        kd = row_of(found, method="kd")
        assert (kd["scale"], kd["verdict"], kd["paper_within"]) == (scale, "direction only", "")
        assert math.isnan(kd["paper_gain"])
        assert f"Not trained as published ({scale})" in markdown(found)
        assert kd["paper"] == "73.42 ± 0.29 (n=5)"


TRAINED = dict(zip(RECIPE, (128, 0.1, "slr", 60, None, 0.1, 5e-4, 0.9, False, "none", None)), epochs=200, method="kd")


@pytest.mark.parametrize(
    ("cell", "recipe", "expected"),
    [
        # Milestones of both are one whole.
        ({"milestones": "150/180/210"}, {"milestones": [150, 180, 210]}, []),
        ({"milestones": [150, 180, 210]}, {"milestones": [150, 180, 210]}, []),
        ({"milestones": "150/180"}, {"milestones": [150, 180, 210]}, ["milestones 150/180"]),
        ({"milestones": "150"}, {"milestones": [150, 180, 210]}, ["milestones 150"]),
        ({"milestones": 150.0}, {"milestones": [150]}, []),  # what pandas makes of a column of one epoch each
        # Of two kinds: at the same epochs or not.
        ({"milestones": "60/120/180"}, {"step_epochs": 60}, []),
        ({"milestones": "60/120"}, {"step_epochs": 60}, ["milestones 60/120"]),
        ({"milestones": "60/120/180", "step_epochs": 30}, {"step_epochs": 60}, []),  # its step does not count
        ({}, {"milestones": [60, 120, 180]}, []),
        ({"milestones": math.nan, "step_epochs": 50}, {"milestones": [150, 180]}, ["milestones 50/100/150"]),
        ({"step_epochs": 300}, {"milestones": [150, 180]}, ["milestones none"]),
        ({"step_epochs": None}, {"milestones": [150, 180]}, ["recipe not recorded"]),
        ({"step_epochs": None, "milestones": "150/180"}, {"milestones": [150, 180]}, []),
        ({"step_epochs": 30}, {"step_epochs": 60}, ["step epochs 30"]),
        ({"schedule": "cosine"}, {"milestones": [150, 180], "schedule": "cosine"}, []),  # has no steps
        ({"milestones": "150/180"}, {}, []),  # nothing to compare it with
        # Nesterov's momentum: who does not say had none.
        ({}, {"nesterov": False}, []),
        ({"nesterov": True}, {"nesterov": True}, []),
        ({"nesterov": True}, {"nesterov": False}, ["with Nesterov momentum"]),
        ({}, {"nesterov": True}, ["without Nesterov momentum"]),
        ({"nesterov": math.nan}, {"nesterov": False}, []),
        ({"nesterov": math.nan}, {"nesterov": True}, ["without Nesterov momentum"]),
        ({"nesterov": True}, {}, []),
    ],
)
def test_when_the_rate_drops_and_which_momentum(cell, recipe, expected):
    assert departures(TRAINED | cell, {"epochs": 200, "schedule": "slr"} | recipe) == expected


def test_what_came_later_is_not_missed_in_older_cells():
    recipe = {"epochs": 200, "schedule": "slr", "step_epochs": 60, "lr": 0.1, "nesterov": False}
    older = {key: value for key, value in TRAINED.items() if key not in ("milestones", "nesterov")}
    assert departures(older, recipe) == []
    assert departures(older | {"lr": math.nan}, recipe) == ["recipe not recorded"]


def test_milestones_and_momentum_of_a_cell_are_collected(tmp_path):
    fake_cell(tmp_path, cell_of(seed=0) | {"milestones": [150, 180, 210], "nesterov": True, "step_epochs": 60})
    fake_cell(tmp_path, cell_of(seed=1) | {"milestones": [], "nesterov": False, "step_epochs": 60})
    fake_cell(tmp_path, cell_of(seed=2))
    collect(tmp_path).to_csv(tmp_path / "cells.csv", index=False)
    cells = pd.read_csv(tmp_path / "cells.csv")
    assert cells["milestones"].fillna("").tolist() == ["150/180/210", "", ""]
    assert cells["nesterov"].fillna("").tolist() == [True, False, ""]
    recipe = {"epochs": 3, "milestones": [150, 180, 210], "nesterov": True}
    assert departures(cells.iloc[0].to_dict(), recipe | {"epochs": 3}) == ["some kept for validation"]
    # An expected cell without a result has its recipe from the config.
    wanted = cell_of("kd", teacher=R110) | {"teachers": ["x"], "recipe": {"milestones": [5, 7], "nesterov": False, "epochs": 9}}
    (row,) = collect(tmp_path, [wanted | {"data": {"train_images": None}}]).to_dict("records")
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


def test_cells_of_an_older_version_make_the_same_tables(benchmark):
    cells = collect(benchmark)
    older = cells.drop(columns=["milestones", "nesterov", "method_status", "deviations"])
    for table in (results_table, filters_table):
        pd.testing.assert_frame_equal(table(older, WITH_RECIPE), table(cells, WITH_RECIPE))


def test_a_departure_says_whose_it_is(tmp_path):
    """A baseline that was trained otherwise is not the method's own departure."""
    recipe = {key: value for key, value in TRAINED.items() if key != "method"}
    fake_cell(tmp_path, cell_of(student=R110) | recipe | {"lr": 0.02}, validation=False)
    fake_cell(tmp_path, cell_of() | recipe | {"batch_size": 64, "lr": 0.05}, validation=False)
    fake_cell(tmp_path, cell_of("kd", teacher=R110) | recipe | {"lr": 0.05}, validation=False)
    kd = row_of(results_table(collect(tmp_path), WITH_RECIPE), method="kd")
    assert kd["scale"] == "lr 0.05, baseline: batch 64, teacher: lr 0.02"


def test_the_schedule_that_a_method_is_published_with():
    recipe = WITH_RECIPE[WITH_RECIPE["dataset"] == "cifar100"].iloc[0]["recipe"]
    cell = TRAINED | {"schedule": "dlr", "method": "grafting-dlr"}
    assert departures(cell, recipe) == []
    assert departures(cell | {"step_epochs": 30}, recipe) == []  # a cosine has no steps
    assert departures(cell | {"schedule": "slr"}, recipe) == ["schedule slr"]
    assert departures(cell | {"method": "grafting"}, recipe) == ["schedule dlr"]
    assert departures(cell | {"method": "grafting-dlr-4", "epochs": 300}, recipe) == ["300 epochs"]


def test_one_seed_is_inconclusive(tmp_path):
    fake_cell(tmp_path, cell_of())
    fake_cell(tmp_path, cell_of("grafting"), [80.0], validation=False)
    table = results_table(collect(tmp_path), PAPERS)
    row = row_of(table, method="grafting")
    assert (row["gain"], row["verdict"], row["n"]) == (8.0, "inconclusive", 1)
    assert math.isnan(row["sd"])
    assert math.isnan(row["validation_selected"])
    assert "80.00 (n=1) " in markdown(table)


def test_seeds_of_different_recipes_are_not_averaged(tmp_path):
    fake_cell(tmp_path, cell_of(seed=0))
    fake_cell(tmp_path, cell_of(seed=1) | {"epochs": 200})
    with pytest.raises(ValueError, match="cifar100 cifar_resnet56 baseline: seeds differ in epochs"):
        results_table(collect(tmp_path), PAPERS)


def test_tables_can_be_made_from_the_csv(benchmark, tmp_path):
    cells = collect(benchmark)
    cells.to_csv(tmp_path / "cells.csv", index=False)
    again = pd.read_csv(tmp_path / "cells.csv")
    for table in (results_table, filters_table):
        pd.testing.assert_frame_equal(table(again, PAPERS), table(cells, PAPERS))
        assert markdown(table(again, PAPERS)) == markdown(table(cells, PAPERS))


# ---------------------------------------------------------------------------------------------------------- writing


def test_write(benchmark, tmp_path):
    table = results_table(collect(benchmark), PAPERS)
    csv, md, tex = write(table, tmp_path / "tables" / "results")
    assert [path.name for path in (csv, md, tex)] == ["results.csv", "results.md", "results.tex"]
    numbers = pd.read_csv(csv)
    assert numbers["mean"].tolist() == pytest.approx(table["mean"].tolist())
    assert pd.api.types.is_numeric_dtype(numbers["gain_low"])
    text = md.read_text()
    assert "| 72.10 ± 0.10 (n=3) [71.9, 72.3] " in text
    assert "| +2.00 [+1.77, +2.23] " in text
    assert "cifar_resnet56 ← cifar_resnet110" in text
    assert "cifar_resnet110 (teacher)" in text
    assert "2 of 3: 1 diverged" in text
    for word in ("last epoch", "95 % t-interval", "Holm", "inconclusive", "first network", "protocol paper, 3 epochs"):
        assert word in text.split("\n\n", 1)[1]
    latex = tex.read_text()
    body = "".join(line for line in latex.splitlines() if not line.startswith("%"))
    assert r"cifar\_resnet56 $\leftarrow$ cifar\_resnet110" in body
    assert r"72.10 $\pm$ 0.10" in body
    assert r"\toprule" in body
    assert body.isascii()
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["results.csv", "results.md", "results.tex"]


def test_write_again_writes_the_same_bytes_also_from_the_csv(benchmark, tmp_path):
    table = results_table(collect(benchmark), PAPERS)
    first = [path.read_bytes() for path in write(table, tmp_path / "a")]
    assert [path.read_bytes() for path in write(table, tmp_path / "a")] == first
    again = write(pd.read_csv(tmp_path / "a.csv"), tmp_path / "b")
    assert again[1].read_bytes() == first[1]


def test_any_frame_can_be_written(tmp_path):
    _, md, tex = write(pd.DataFrame({"a": ["x|y_z", None], "b": [1.5, None]}), tmp_path / "c")
    assert "x\\|y_z" in md.read_text()
    assert "x|y\\_z" in tex.read_text()
    assert "nan" not in (md.read_text() + tex.read_text()).lower()


def test_papers_may_be_paths_or_documents(benchmark):
    import yaml

    cells = collect(benchmark)
    documents = [yaml.safe_load(path.read_text()) for path in FILES]
    expected = markdown(results_table(cells, WITH_RECIPE))
    assert markdown(results_table(cells, FILES)) == markdown(results_table(cells, documents)) == expected


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    replace_file(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_needs_no_torch():
    # The environment of the reading rules has neither torch nor timm; importing dgd loads both where they are.
    code = "import sys; sys.modules['timm'] = None; import dgd.tables, dgd.read.figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_workflow_can_report_another_network(benchmark, tmp_path):
    from pipeline.tabulate import main

    collect(benchmark).to_csv(tmp_path / "cells.csv", index=False)
    arguments = ["--cells", str(tmp_path / "cells.csv"), "--papers", *map(str, FILES), "--out"]
    main([*arguments, str(tmp_path / "first")])
    main([*arguments, str(tmp_path / "mean"), "--report", "mean"])
    first, mean = (pd.read_csv(tmp_path / name / "results.csv") for name in ("first", "mean"))
    grafting = [row_of(table, method="grafting") for table in (first, mean)]
    assert [row["mean"] for row in grafting] == pytest.approx([69.9, (69.9 + 50) / 2])
    assert [row["report"] for row in grafting] == ["first", "mean"]
