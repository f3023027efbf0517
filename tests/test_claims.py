"""Claims held against cells, and put together. Every number of the small frames is made up."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from claimed import PAPER, R56, R110, ROWS, frame, judge, paper, published

from dgd import methods
from dgd.read import claims
from dgd.read.claims import text
from dgd.read.claims.judge import COLUMNS, TEXT, Scale, typed
from dgd.read.comparisons import Comparison, Setting
from dgd.read.departures import Departure
from dgd.read.statistics import difference, mean_interval, verdict

# ------------------------------------------------------------------------------------------------------- evaluating


@pytest.mark.parametrize(
    ("grafting", "expected"),
    [
        ([91.0, 91.1, 91.2], "reproduced"),
        ([90.4, 90.5, 90.6], "direction only"),
        ([90.1, 90.0, 90.2], "not reproduced"),
        ([88.0, 91.0, 93.0], "inconclusive"),
        ([91.0], "inconclusive"),
    ],
)
def test_verdicts_as_published(tmp_path, grafting, expected):
    baseline = [90.0, 90.1, 90.2]
    (row,) = judge(paper(tmp_path), frame(("baseline", baseline), ("grafting", grafting))).to_dict("records")
    gain = difference(grafting, baseline)
    assert (row["verdict"], row["scale"], row["counts"]) == (expected, "as published", "yes")
    assert row["welch_verdict"] == verdict((gain.low, gain.high), 1.0)
    assert row["verdict"] == verdict((row["low"], row["high"]), 1.0)
    assert row["difference"] == pytest.approx(gain.difference)
    assert row["published"] == pytest.approx(1.0)
    assert (row["n"], row["over_n"]) == (len(grafting), 3)
    assert (row["seeds"], row["over_seeds"]) == (" ".join(map(str, range(len(grafting)))), "0 1 2")
    assert row["folders"].split()[0] == f"cifar10/{R56}/grafting/seed0"
    assert row["overall"] == f"{expected} (1 of 1 settings run)"


def test_a_row_holds_what_was_claimed_measured_and_judged(tmp_path):
    path = paper(tmp_path)
    document = yaml.safe_load(path.read_text())
    document["claims"][0]["note"] = "By the text."
    path.write_text(yaml.safe_dump(document))
    ours, theirs = [91.0, 91.1, 91.3], [90.0, 90.1]  # by the same in both seeds that they share: Welch's
    cells = frame(("baseline", theirs), ("grafting", ours))
    table = judge(path, cells)
    assert tuple(table) == COLUMNS
    (row,) = table.to_dict("records")
    words = {
        **{"paper": "p", "claim": "gain", "sentence": "Grafting helps.", "source": "T", "reproduced_if": "it does"},
        **{
            "note": "By the text.",
            "overall": "reproduced (1 of 1 settings run)",
            "welch_overall": "reproduced (1 of 1 settings run)",
            "metric": "top-1 accuracy at the last epoch, %",
        },
        **{"better": "higher", "method": "grafting", "over": "baseline", "dataset": "cifar10", "student": R56, "teacher": ""},
        **{"benchmark": "b", "row": "grafting", "over_row": "baseline", "scale": "as published", "published_ids": "graft base"},
        **{
            "analysis": "welch",
            "verdict": "reproduced",
            "welch_verdict": "reproduced",
            "counts": "yes",
            "remark": "",
            "seeds": "0 1 2",
            "over_seeds": "0 1",
        },
        **{"folders": " ".join(f"cifar10/{R56}/grafting/seed{seed}" for seed in range(3)), "form": ".2f"},
        "over_folders": " ".join(f"cifar10/{R56}/baseline/seed{seed}" for seed in range(2)),
    }
    assert {name: row[name] for name in TEXT} == words
    gain, side, other = difference(ours, theirs), mean_interval(ours), mean_interval(theirs)
    numbers = {
        **{"mean": side.mean, "sd": side.sd, "n": 3, "over_mean": other.mean, "over_sd": other.sd, "over_n": 2},
        **{"difference": gain.difference, "low": gain.low, "high": gain.high, "p": gain.p, "p_holm": gain.p, "published": 1},
        **{"welch_low": gain.low, "welch_high": gain.high, "welch_p": gain.p},
    }
    assert {name: row[name] for name in COLUMNS if name not in TEXT} == pytest.approx(numbers)
    missing, there = judge(path, cells.assign(student="cifar_resnet8")).to_dict("records")
    assert {name for name in TEXT if not missing[name]} == {
        *("teacher", "benchmark", "row", "over_row", "scale", "analysis", "counts", "remark"),
        *("seeds", "over_seeds", "folders", "over_folders"),
    }
    assert (missing["student"], missing["published_ids"], missing["published"]) == (R56, "graft base", 1)
    assert (missing["n"], missing["over_n"]) == (0, 0)
    assert math.isnan(missing["mean"])
    assert (there["student"], there["published_ids"], there["n"], there["seeds"]) == ("cifar_resnet8", "", 3, "0 1 2")
    table.to_csv(tmp_path / "claims.csv", index=False)
    pd.testing.assert_frame_equal(typed(pd.read_csv(tmp_path / "claims.csv")), table)
    one = table.assign(seeds=["0", *[""] * (len(table) - 1)])  # a column of which pandas makes floats
    one.to_csv(tmp_path / "claims.csv", index=False)
    assert list(typed(pd.read_csv(tmp_path / "claims.csv"))["seeds"]) == list(one["seeds"])


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({"epochs": 20, "step_epochs": 6}, "reduced: 20 of 200 epochs, step epochs 6"),
        ({"epochs": 300}, "other recipe: 300 epochs"),
        ({"train_images": 5000}, "reduced: 5,000 training images"),
        ({"validation_images": 500}, "reduced: 500 images held out for validation"),
        ({"lr": 0.05, "batch_size": 64}, "other recipe: batch 64, lr 0.05"),
        ({"precision": "bf16"}, "other recipe: precision bf16"),
        ({"schedule": "cosine"}, "other recipe: schedule cosine"),
        ({"lr": None}, "other recipe: lr not recorded"),
        ({"student": "cifar_resnet8"}, "other setting: not a published setting"),
        ({"dataset": "digits", "epochs": 5, "step_epochs": 60}, "reduced: 5 of 200 epochs; not a published setting"),
    ],
)
def test_a_published_size_is_only_claimed_for_the_published_setting(tmp_path, changes, scale):
    """Whatever differs: the row is judged by its direction, and the published setting reads 'not run'."""
    better, worse = [95.0, 95.1, 95.2], [85.0, 85.1, 85.2]
    for values, expected in ((better, "direction only"), (worse, "not reproduced"), ([80.0, 90.0, 99.0], "inconclusive")):
        table = judge(paper(tmp_path), frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", values), **changes))
        assert table["verdict"].tolist() == ["not run", expected]
        assert table["scale"].tolist() == ["", scale]
        assert table["published"].notna().tolist() == [True, False]
        assert set(table["overall"]) == {f"not run as published; at other scales: 1 {expected}"}
        assert table["counts"].tolist() == ["", ""]


def test_a_label_decides_nothing(tmp_path):
    """A cell is a method's by what it is made of: another weight or number of networks is another method, whatever its name."""
    baseline = ("baseline", [90.0, 90.1, 90.2])
    better = [91.0, 91.1, 91.2]
    other = methods.resolve({"mine": {"base": "grafting", "exchange": {"a": 0.2}}})[1]
    more = methods.resolve({"mine": {"base": "grafting", "networks": 3}})[1]
    for of in (other, more, ROWS["pair"]):
        assert judge(paper(tmp_path), frame(baseline, ("grafting", better, {"of": of})))["verdict"].tolist() == ["not run"]
    found = judge(paper(tmp_path), frame(baseline, ("mine", better, {"of": ROWS["grafting"]})))
    assert found["verdict"].tolist() == ["reproduced"]
    assert (found.loc[0, "method"], found.loc[0, "row"]) == ("grafting", "mine")
    assert text.row_text(found.loc[0])["compared"].startswith("grafting (here mine) over baseline: top-1")


def test_both_sides_have_one_recipe(tmp_path):
    """A tuned baseline is not what the claim compares with, and a pair that shares another recipe is a row of its own."""
    slow = methods.resolve({"slow": {"base": "baseline", "recipe": {"lr": 0.05}}})[1]
    cells = frame(("baseline", [90.0, 90.1]), ("slow", [89.0, 89.1], {"of": slow}), ("grafting", [91.0, 91.1]))
    assert judge(paper(tmp_path), cells)["over_row"].tolist() == ["baseline"]
    both = methods.resolve({"slow-grafting": {"base": "grafting", "recipe": {"lr": 0.05}}})[1]
    found = judge(paper(tmp_path), pd.concat([cells, frame(("slow-grafting", [93.0, 93.1], {"of": both}))]))
    assert found[["row", "over_row"]].to_numpy().tolist() == [["grafting", "baseline"], ["slow-grafting", "slow"]]
    assert found["scale"].tolist() == ["as published", "other recipe: lr 0.05"]


def test_sets_of_filters_are_compared_by_the_baseline_that_fixed_them(tmp_path):
    """cells.csv takes them over as many filters as `baseline` has: two rows of another recipe are not measured by it."""
    document = copy.deepcopy(PAPER)
    for row in document["results"][:2]:
        row |= {"metric": "mean_l1_valid", "threshold": 0.1}
    document["claims"][0]["compares"] |= {"metric": "mean_l1_valid", "threshold": 0.1}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    of = {
        name: methods.resolve({name: {"base": base, "recipe": {"weight_decay": 0.004}}})[1]
        for name, base in (("more", "baseline"), ("more-grafting", "grafting"))
    }
    groups = [(name, [1.0, 1.1], {"of": row, "mean_l1_valid_rank_0.1": 5.0}) for name, row in of.items()]
    cells = frame(*groups, ("grafting", [1.0, 1.1], {"mean_l1_valid_rank_0.1": 4.0}))
    assert judge(tmp_path / "p.yaml", cells)["row"].tolist() == ["more-grafting"]  # nothing says what counted them
    base = frame(("baseline", [1.0, 1.1], {"mean_l1_valid_rank_0.1": 2.0}))
    found = judge(tmp_path / "p.yaml", pd.concat([cells, base]))
    assert found[["row", "over_row", "difference"]].to_numpy().tolist() == [["grafting", "baseline", 2.0]]


def test_a_method_that_overrides_the_recipe_is_held_against_the_plain_baseline(tmp_path):
    document = copy.deepcopy(PAPER)
    document["methods"].append({"grafting-dlr": {"base": "grafting", "recipe": {"schedule": "dlr"}}})
    document["results"].append(published("dlr", "grafting", 92.0) | {"method": "grafting-dlr"})
    document["claims"][0]["compares"] |= {"method": "grafting-dlr"}
    document["claims"][0]["compares"]["where"][0]["published"] = ["dlr", "base"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    of = {
        "dlr": methods.resolve({"dlr": {"base": "grafting", "recipe": {"schedule": "dlr"}}})[1],
        "cosine": methods.resolve({"cosine": {"base": "baseline", "recipe": {"schedule": "cosine"}}})[1],
    }
    groups = [(name, [92.0, 92.1], {"of": row}) for name, row in of.items()]
    cells = frame(("baseline", [90.0, 90.1]), ("grafting", [91.0, 91.1]), *groups)
    found = judge(tmp_path / "p.yaml", cells)
    assert found[["row", "over_row", "scale"]].to_numpy().tolist() == [["dlr", "baseline", "as published"]]
    found = judge(tmp_path / "p.yaml", cells[cells["method"] != "baseline"])
    assert found[["over_row", "scale"]].to_numpy().tolist() == [["", ""], ["cosine", "other recipe: schedule cosine"]]


def test_a_number_of_another_network_or_source_is_not_the_published_one(tmp_path):
    cells = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [91.0, 91.1, 91.2]))
    document = copy.deepcopy(PAPER) | {"networks": {R56: "crd_resnet56"}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    table = judge(tmp_path / "p.yaml", cells)
    assert table["scale"].tolist() == ["", f"other recipe: network {R56}, published with crd_resnet56"]
    theirs = judge(tmp_path / "p.yaml", cells.assign(student="crd_resnet56"))
    assert theirs["verdict"].tolist() == ["reproduced"]
    for side in (0, 1):  # the baseline's row, the method's row
        document = copy.deepcopy(PAPER)
        document["results"][side]["copied_from"] = "another paper"
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
        table = judge(tmp_path / "p.yaml", cells)
        assert table["scale"].tolist() == ["", "other recipe: the published number is that of another paper"]


def test_where_the_paper_names_no_data_set_its_recipe_is_compared_all_the_same(tmp_path):
    document = copy.deepcopy(PAPER)
    for row in document["results"][:2]:
        row["dataset"] = None
    document["claims"][0]["compares"]["where"][0]["dataset"] = None
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    table = judge(tmp_path / "p.yaml", frame(("baseline", [90.0, 90.1]), ("grafting", [91.0, 91.1]), lr=0.05))
    assert table["scale"].tolist() == ["", "other setting: lr 0.05; the paper names no data set"]
    assert table["dataset"].tolist() == ["not given", "cifar10"]


def test_cells_of_another_task_are_not_compared(tmp_path):
    cells = frame(("baseline", [90.0, 90.1]), ("grafting", [91.0, 91.1])).assign(metric="rmse")
    assert judge(paper(tmp_path), cells)["verdict"].tolist() == ["not run"]


def test_a_teacher_that_was_trained_less_is_no_published_setting(tmp_path):
    path = paper(tmp_path, method="dgd", over="kd", published=["dgd", "kd"], teacher=R110)
    teacher = {"student": R110, "model": R110}
    cells = [("kd", [92.0, 92.1]), ("dgd", [93.0, 93.1])]
    assert judge(path, frame(*cells, ("baseline", [94.0], teacher)))["scale"].tolist() == ["as published"]
    table = judge(path, frame(*cells, ("baseline", [94.0], teacher | {"epochs": 10, "step_epochs": 3})))
    assert table["scale"].tolist() == ["", "reduced: teacher: 10 of 200 epochs, teacher: step epochs 3"]
    table = judge(path, frame(*cells, ("baseline", [94.0], teacher | {"lr": 0.05}), student="cifar_resnet8"))
    assert table["scale"].tolist() == ["", "other setting: teacher: lr 0.05; not a published setting"]
    assert table[["student", "teacher"]].to_numpy().tolist() == [[R56, R110], ["cifar_resnet8", R110]]
    table = judge(path, frame(("kd", [92.0]), ("dgd", [93.0], {"teacher": "cifar_resnet20"})))
    assert table["verdict"].tolist() == ["not run"]  # two teachers are not compared with each other
    table = judge(path, frame(*cells, ("baseline", [94.0], teacher)).replace({"teacher": {R110: "cifar_resnet20"}}))
    assert table["teacher"].tolist() == [R110, "cifar_resnet20"]


def test_without_cells_a_claim_reads_not_run(tmp_path):
    empty = frame()
    for benchmarks in ([], [empty], [frame(("grafting", [91.0, 91.1]))], [frame(("baseline", [90.0]), ("grafting", []))]):
        (row,) = judge(paper(tmp_path), *benchmarks).to_dict("records")
        assert (row["verdict"], row["overall"], row["n"]) == ("not run", "not run", 0)
        assert row["published"] == pytest.approx(1.0)
    unfinished = frame(("baseline", [90.0]), ("grafting", [math.nan], {"status": "diverged"}))
    assert judge(paper(tmp_path), unfinished)["verdict"].tolist() == ["not run"]


def test_the_better_direction_may_be_down(tmp_path):
    path = paper(tmp_path, metric="invalid_ratio", threshold=0.1, better="lower", published=["graft-ratio", "base-ratio"])
    ratio = "invalid_ratio_0.1"
    cells = pd.concat([frame(("baseline", [90.0], {ratio: 0.5 + n / 100})) for n in (0, 1, 2)]).assign(seed=[0, 1, 2])
    for values, expected in (
        ([0.2, 0.21, 0.22], "reproduced"),
        ([0.4, 0.41, 0.42], "direction only"),
        ([0.6, 0.61], "not reproduced"),
    ):
        more = pd.concat([frame(("grafting", [90.0], {ratio: value})) for value in values]).assign(seed=range(len(values)))
        (row,) = judge(path, pd.concat([cells, more])).to_dict("records")
        assert row["verdict"] == expected
        assert row["difference"] == pytest.approx(np.mean(values) - 0.51)
        assert row["published"] == pytest.approx(-0.3)
        elsewhere = judge(path, pd.concat([cells, more]).assign(student="cifar_resnet8"))
        direction = "not reproduced" if expected == "not reproduced" else "direction only"
        assert elsewhere["verdict"].tolist() == ["not run", direction]


def test_less_training_than_any_that_was_published_is_reduced():
    for epochs, scale in ((150, "reduced: 150 epochs"), (250, "reduced: 250 epochs"), (350, "other recipe: 350 epochs")):
        assert str(Scale((Departure("epochs", epochs, (200, 300)),), setting=True)) == scale


def test_an_epoch_stands_for_the_same_share_of_a_shorter_training(tmp_path):
    path = paper(tmp_path, metric="top1_at_epoch", epoch=9, published=["graft-9", "base-9"])
    for epochs, epoch in ((200, 9), (40, 1), (10, 0)):
        cells = frame(("baseline", [0.0, 0.0]), ("grafting", [0.0, 0.0]), epochs=epochs)
        for folder, method, seed in zip(cells["folder"], cells["method"], cells["seed"]):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            lines = [f"{e},{20 + e / 10 + (9.5 if method == 'grafting' else 0) + seed / 10}" for e in range(epochs)]
            (tmp_path / folder / "history.csv").write_text("\n".join(["epoch,test_top1_0", *lines, ""]))
        row = judge(path, (cells, tmp_path)).to_dict("records")[-1]
        assert row["over_mean"] == pytest.approx(20.05 + epoch / 10)
        assert row["difference"] == pytest.approx(9.5)
        assert row["verdict"] == "direction only"  # of the published 10 at full length, of any at another
        assert (f"epoch {epoch} stands for 9" in row["scale"]) == (epochs != 200)
    (tmp_path / cells["folder"][0] / "history.csv").write_text("epoch,test_top1_0\n0,\n1,30.0\n")
    row = judge(path, (cells, tmp_path)).to_dict("records")[-1]
    assert (row["over_n"], row["remark"]) == (1, "1 of 2 cells of baseline without a value: no top-1 accuracy of that epoch")
    (tmp_path / cells["folder"][3] / "history.csv").write_text("epoch,test_top1_0\n0,\n1,30.0\n")
    row = judge(path, (cells, tmp_path)).to_dict("records")[-1]
    missing = "1 of 2 cells of {} without a value: no top-1 accuracy of that epoch"
    assert row["remark"] == "; ".join(missing.format(method) for method in ("grafting", "baseline"))
    (tmp_path / cells["folder"][0] / "history.csv").write_text("epoch,loss\n0,1.0\n")
    with pytest.raises(ValueError, match="history.csv: .*train it again"):
        judge(path, (cells, tmp_path))


def test_named_layers_are_read_from_the_cells(tmp_path):
    path = paper(tmp_path, metric="median_l1", layers="conv2", published=["graft-conv2", "base-conv2"])
    cells = frame(("baseline", [0.0, 0.0]), ("grafting", [0.0, 0.0]))
    for folder, method, seed in zip(cells["folder"], cells["method"], cells["seed"]):
        (tmp_path / folder).mkdir(parents=True)
        l1 = np.array([1.0, 2.0, 9.0], np.float32) + 3 * (method == "grafting") + seed / 8
        arrays = {"l1/0/a.conv1.weight": l1 * 100, "l1/0/a.conv2.weight": l1, "l1/1/a.conv2.weight": l1 * 7}
        np.savez(tmp_path / folder / "filters.npz", **arrays, **{"entropy/0": np.array([1.0, 2.0 + seed / 8])})
    (row,) = judge(path, (cells, tmp_path)).to_dict("records")
    assert (row["over_mean"], row["mean"]) == (2.0625, 5.0625)
    document = yaml.safe_load(path.read_text())
    for row in document["results"][-2:]:
        row["metric"] = "entropy_sum"
    document["claims"][0]["compares"] |= {"metric": "entropy_sum"}
    path.write_text(yaml.safe_dump(document))
    (row,) = judge(path, (cells, tmp_path)).to_dict("records")
    assert (row["over_mean"], row["mean"], row["verdict"]) == (2.0625, 2.0625, "inconclusive")
    assert (row["analysis"], row["difference"]) == ("same", 0)  # equal in every seed: nothing is compared
    document["claims"][0]["compares"] |= {"layers": "conv9"}
    document["results"] = [row | {"counts": "conv9"} for row in document["results"]]
    path.write_text(yaml.safe_dump(document))
    assert judge(path, (cells, tmp_path))["verdict"].tolist() == ["not run"]  # nothing here has such a layer
    for method in ("baseline", "grafting"):  # nor where only one of the two has it, or the next student has both
        rest = cells[cells["method"] == method]
        for folder in rest["folder"]:
            with np.load(tmp_path / folder / "filters.npz") as arrays:
                new = {name.replace("conv2", "conv9"): array for name, array in arrays.items()}
            np.savez(tmp_path / folder / "filters.npz", **new)
        expected = "not run" if method == "baseline" else "inconclusive"
        assert judge(path, (cells, tmp_path))["verdict"].tolist() == [expected]
    bare = cells.assign(student="cifar_resnet8", folder="bare/" + cells["folder"])
    for folder in bare["folder"]:
        (tmp_path / folder).mkdir(parents=True)
        np.savez(tmp_path / folder / "filters.npz", **{"l1/0/a.weight": np.ones(3), "entropy/0": np.ones(1)})
    found = judge(path, (pd.concat([bare, cells]), tmp_path))
    assert found[["student", "verdict"]].to_numpy().tolist() == [[R56, "inconclusive"]]
    (row,) = judge(path, cells).to_dict("records")  # and without the cells' files there is nothing to tell it from
    assert (row["verdict"], row["n"]) == ("inconclusive", 0)


def test_an_ensemble_is_a_reading_of_a_group(tmp_path):
    path = paper(tmp_path, over="pair@ensemble", published=["graft", "both"])
    cells = frame(("grafting", [91.0, 91.1, 91.2]), ("pair", [80.0, 80.1, 80.2], {"ensemble": 90.5}))
    (row,) = judge(path, cells).to_dict("records")
    assert (row["over_mean"], row["verdict"], row["over"]) == (90.5, "reproduced", "pair@ensemble")
    (row,) = judge(path, cells.assign(ensemble=None)).to_dict("records")
    assert (row["verdict"], row["remark"]) == ("inconclusive", "3 of 3 cells of pair without a value: no ensemble recorded")


def test_of_two_benchmarks_the_one_with_more_seeds_counts(tmp_path):
    few = frame(("baseline", [90.0, 90.1]), ("grafting", [91.0, 91.1]), benchmark="few")
    many = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [90.1, 90.0, 90.2]), benchmark="many")
    table = judge(paper(tmp_path), few, many)
    assert table["benchmark"].tolist() == ["few", "many"]
    assert table["counts"].tolist() == ["", "yes"]
    assert set(table["overall"]) == {"not reproduced (1 of 1 settings run)"}
    assert judge(paper(tmp_path), many, few)["counts"].tolist() == ["yes", ""]
    same = judge(paper(tmp_path), few, few.assign(benchmark="as many"))
    assert same["counts"].tolist() == ["yes", ""]  # of equally many the first


def test_each_setting_is_held_to_its_own_published_numbers(tmp_path):
    document = copy.deepcopy(PAPER)
    for row in document["results"][:2]:
        more = row | {"id": f"{row['id']}-110", "model": R110, "value": row["value"] + 4 * (row["method"] == "grafting")}
        document["results"].append(more)
    where = document["claims"][0]["compares"]["where"]
    where.append({"dataset": "cifar10", "student": R110, "published": ["graft-110", "base-110"]})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    cells = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [91.0, 91.1, 91.2]))
    table = judge(tmp_path / "p.yaml", cells, cells.assign(student=R110, benchmark="c"))
    columns = ["student", "published", "published_ids", "verdict"]
    assert table[columns].to_numpy().tolist() == [
        [R56, 1.0, "graft base", "reproduced"],
        [R110, 5.0, "graft-110 base-110", "direction only"],
    ]
    assert set(table["overall"]) == {"direction only (2 of 2 settings run)"}
    table = judge(tmp_path / "p.yaml", cells.assign(student=R110))
    assert table[["student", "verdict"]].to_numpy().tolist() == [[R56, "not run"], [R110, "direction only"]]
    assert set(table["overall"]) == {"inconclusive (1 of 2 settings run)"}


def test_what_was_run_and_what_was_seen_elsewhere_stand_side_by_side(tmp_path):
    baseline, better, wide = (
        ("baseline", [90.0, 90.1, 90.2]),
        ("grafting", [91.0, 91.1, 91.2]),
        ("grafting", [88.0, 91.0, 93.0]),
    )
    elsewhere = [frame(baseline, values, benchmark="c", student=f"cifar_{n}") for n, values in enumerate((wide, better, wide))]
    table = judge(paper(tmp_path), frame(baseline, better), *elsewhere)
    said = "at other scales: 1 direction only, 2 inconclusive"
    assert set(table["overall"]) == {f"reproduced (1 of 1 settings run); {said}"}
    assert set(judge(paper(tmp_path), *elsewhere)["overall"]) == {f"not run as published; {said}"}


def test_a_claim_may_speak_of_some_students_only(tmp_path):
    cells = frame(("baseline", [90.0]), ("grafting", [91.0]), student="cifar_resnet8")
    assert len(judge(paper(tmp_path), cells)) == 2
    assert len(judge(paper(tmp_path, only={"student": "leaky"}), cells)) == 1
    assert len(judge(paper(tmp_path, only={"student": "resnet8", "dataset": "cifar10"}), cells)) == 2
    assert len(judge(paper(tmp_path, only={"dataset": "cifar100"}), cells)) == 1
    more = pd.concat([cells, cells.assign(student="leaky_resnet8"), cells.assign(student="cifar_resnet20")])
    found = judge(paper(tmp_path, only={"student": "leaky"}), more)
    assert found["student"].tolist() == [R56, "leaky_resnet8"]
    assert judge(paper(tmp_path, only={"student": "leaky"}), cells.assign(student=R56))["verdict"].tolist() == ["inconclusive"]


def test_holm_counts_the_distinct_comparisons_of_a_benchmark(tmp_path):
    cells = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [90.3, 90.4, 90.5]))
    apart = judge(paper(tmp_path), cells, cells.assign(student="cifar_resnet8", benchmark="c"))
    assert apart["p_holm"].tolist() == pytest.approx(apart["p"].tolist())  # each benchmark is a family of its own
    table = judge(paper(tmp_path), pd.concat([cells, cells.assign(student="cifar_resnet8")]))
    assert table["p_holm"].tolist() == pytest.approx([2 * p for p in table["p"]])
    document = yaml.safe_load((tmp_path / "p.yaml").read_text())
    document["claims"].append(document["claims"][0] | {"id": "again", "claim": "Grafting helps, again."})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    twice = judge(tmp_path / "p.yaml", cells)  # two claims of one comparison
    assert twice["p_holm"].tolist() == pytest.approx(twice["p"].tolist())


# ---------------------------------------------------------------------------------------------------------- overall


def compared(ours: list[float], theirs: list[float] = (90.0, 90.1, 90.2), claimed: float = 1.0):
    """A method over another one, and what is claimed."""
    samples = [dict(enumerate(values)) for values in (ours, theirs)]
    return Setting(("b", "d", "s"), {}).of(*samples), claimed


SURE, LESS = compared([91.0, 91.1, 91.2]), compared([90.4, 90.5, 90.6])
NO, OPEN = compared([90.1, 90.0, 90.2]), compared([88.0, 91.0, 93.0])


@pytest.mark.parametrize(
    ("settings", "published_settings", "expected"),
    [
        ([], 3, "not run"),
        ([SURE, SURE], 2, "reproduced"),
        ([SURE, SURE], 3, "inconclusive"),  # one setting was not run
        ([SURE, LESS], 2, "direction only"),
        ([SURE, NO], 2, "not reproduced"),
        ([SURE, OPEN], 2, "inconclusive"),
        ([NO], 3, "not reproduced"),  # one failure is enough, whatever is still to run
    ],
)
def test_overall(settings, published_settings, expected):
    assert claims.overall(settings, published_settings) == expected


def test_one_failure_among_many_must_stand_a_wider_interval():
    """At 95 % it is 'not reproduced'; as the worst of eight it is not, by either analysis."""
    one, _ = compared([90.1, 90.0, 90.2])
    for by in (Comparison.at, Comparison.welch_at):
        edge = one, by(one, 0.95).high + 0.01
        assert claims.overall([edge], 1, by) == "not reproduced"
        assert claims.overall([edge, *[SURE] * 7], 8, by) == "inconclusive"


def test_a_number_of_best_epochs_is_held_against_our_best_epochs(tmp_path):
    path = paper(tmp_path)
    document = yaml.safe_load(path.read_text())
    document["conditions"]["cifar10"]["reported"] = "best on test"
    path.write_text(yaml.safe_dump(document))
    best = {"best_on_test": 91.5}
    cells = frame(("baseline", [90.0, 90.1]), ("grafting", [89.0, 89.1], best))
    cells.loc[cells["method"] == "baseline", "best_on_test"] = [90.5, 90.7]
    cells.loc[cells["method"] == "grafting", "best_on_test"] = [91.5, 91.6]
    (row,) = judge(path, cells).to_dict("records")
    assert (row["mean"], row["over_mean"]) == pytest.approx((91.55, 90.6))
    assert (row["scale"], row["remark"]) == ("as published", "of each run's best epoch on the test set, as published")
    # Each side is of the epoch that its own number is of.
    document["results"][0]["reported"] = "last"
    path.write_text(yaml.safe_dump(document))
    (row,) = judge(path, cells).to_dict("records")
    assert (row["mean"], row["over_mean"]) == pytest.approx((91.55, 90.05))
    assert row["remark"].startswith("the method of each run's best epoch")
    # At another scale no size is claimed, and ours is the last epoch.
    other = judge(path, cells.assign(lr=0.05))
    assert other["mean"].dropna().tolist() == pytest.approx([89.05])
    assert set(other["remark"]) == {""}


def test_a_teacher_of_its_best_epoch_is_a_departure(tmp_path):
    path = paper(tmp_path, method="dgd", over="kd", teacher=R110, published=["dgd", "kd"])
    document = yaml.safe_load(path.read_text())
    document["teachers"] = {"cifar10": {"reported": "best on test"}}
    path.write_text(yaml.safe_dump(document))
    teacher = {"student": R110, "model": R110}
    table = judge(path, frame(("kd", [92.0, 92.1]), ("dgd", [93.0, 93.2]), ("baseline", [94.0], teacher)))
    assert table["scale"].tolist() == ["", "other recipe: teacher: last epoch, published with the best on test"]
