"""Claims as data: read, held against cells, put together, shown. Every number of the small frames is made up."""

import copy
import io
import json
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dgd import cli, methods
from dgd.cell import Cell, Data, Recipe, exchange
from dgd.read import claims
from dgd.read.cells import COLUMNS, collect, conditions
from dgd.read.claims import text
from dgd.read.claims.schema import KINDS
from dgd.read.matching import composition
from dgd.read.papers import paper_methods, read_papers
from dgd.read.results import results_table
from dgd.read.statistics import difference, verdict
from dgd.read.table import markdown, write

ROOT = Path(__file__).parents[1]
PAPERS = [ROOT / "papers" / f"{name}.yaml" for name in ("dgd", "filter-grafting")]
ROWS = {name: methods.resolve(name)[1] for name in ("baseline", "kd", "grafting", "dgd")}
ROWS["pair"] = methods.resolve({"pair": {"base": "baseline", "networks": 2}})[1]
R56, R110 = "cifar_resnet56", "cifar_resnet110"


def published(id, method, value, metric="top1", teacher=None, **more):
    of = ROWS["pair" if method == "ensemble" else method]
    networks, teachers = of["networks"], of["teachers"]
    row = {"id": id, "table": "T", "dataset": "cifar10", "model": R56, "method": method, "networks": networks}
    row |= {"teachers": teachers, "metric": metric, "value": value, "source": "T"} | more
    return row | ({"teacher": teacher} if teacher else {})


PAPER = {
    "paper": "p",
    "headline": ["T"],
    "methods": ["baseline", "kd", "grafting", "dgd", {"pair": {"base": "baseline", "networks": 2}}],
    "networks": {},
    "conditions": {
        "cifar10": {
            **{"epochs": 200, "lr": 0.1, "batch_size": [128, 256], "schedule": "slr", "step_epochs": 60},
            **{"precision": "fp32", "train_images": None, "validation_images": 0},
        }
    },
    "results": [
        published("base", "baseline", 90.0),
        published("graft", "grafting", 91.0),
        published("base-ratio", "baseline", 0.5, "invalid_ratio", threshold=0.1),
        published("graft-ratio", "grafting", 0.2, "invalid_ratio", threshold=0.1),
        published("base-9", "baseline", 40.0, "top1_at_epoch", epoch=9),
        published("graft-9", "grafting", 50.0, "top1_at_epoch", epoch=9),
        published("kd", "kd", 92.0, teacher=R110),
        published("dgd", "dgd", 93.0, teacher=R110),
        published("both", "ensemble", 90.5),
        published("base-conv2", "baseline", 1.0, "median_l1"),
        published("graft-conv2", "grafting", 2.0, "median_l1"),
    ],
    "claims": [
        {
            "id": "gain",
            "claim": "Grafting helps.",
            "source": "T",
            "compares": {
                "metric": "top1",
                "method": "grafting",
                "over": "baseline",
                "better": "higher",
                "where": [{"dataset": "cifar10", "student": R56, "published": ["graft", "base"]}],
            },
            "reproduced_if": "it does",
        }
    ],
}


def paper(tmp_path, **compares):
    """Write a paper with one claim, its `compares` changed; the keys of its one setting can be given too.

    The published rows count the layers that the claim measures.
    """
    document = copy.deepcopy(PAPER)
    own = document["claims"][0]["compares"]
    if "layers" in compares:
        document["results"] = [row | {"counts": compares["layers"]} for row in document["results"]]
    for key, value in compares.items():
        target = own["where"][0] if key in ("dataset", "student", "teacher", "published") else own
        target[key] = value
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def made(method, row, **changes):
    """Return the columns of cells.csv about what a cell is made of, for a row of methods and changed keys of recipe or data."""
    recipe = {"precision": "fp32", **row["recipe"]} | {key: changes[key] for key in changes if hasattr(Recipe(), key)}
    data = {key: changes[key] for key in changes if hasattr(Data(), key)}
    cell = Cell(
        **{"benchmark": "b", "dataset": "cifar10", "model": R56, "method": method, "seed": 0, "student": R56},
        **{"networks": row["networks"], "objective": methods.written_out(row["objective"])},
        **{"exchange": exchange(row["exchange"]), "recipe": Recipe(**recipe), "data": Data(**data)},
    )
    return conditions(cell) | {"networks": row["networks"], "teachers": row["teachers"], "metric": "top1"}


def frame(*groups, benchmark="b", **common):
    """Cells as in cells.csv: each group is (method, values of top-1, changes)."""
    rows = []
    for method, values, *more in groups:
        changes = common | (more[0] if more else {})
        of = changes.get("of", ROWS.get(method))
        for seed, value in enumerate(values):
            row = {"benchmark": benchmark, "dataset": "cifar10", "model": R56, "student": R56, "method": method, "seed": seed}
            row |= {"network": 0, "status": "finished", "teacher": R110 if of["teachers"] else None, "protocol": "paper"}
            row |= made(method, of, **{key: changes[key] for key in changes if changes[key] is not None})
            row |= {"last": value} | {key: changes[key] for key in changes if key in COLUMNS}
            row["folder"] = f"{row['dataset']}/{row['student']}/{method}/seed{seed}"
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def judge(path, *benchmarks):
    return claims.evaluate(claims.read([path]), [b if isinstance(b, tuple) else (b, None) for b in benchmarks])


# ------------------------------------------------------------------------------------------------------- evaluating


@pytest.mark.parametrize(
    ("grafting", "expected"),
    [
        ([91.0, 91.1, 91.2], "reproduced"),
        ([90.4, 90.5, 90.6], "direction only"),
        ([90.0, 90.1, 90.2], "not reproduced"),
        ([88.0, 91.0, 93.0], "inconclusive"),
        ([91.0], "inconclusive"),
    ],
)
def test_verdicts_as_published(tmp_path, grafting, expected):
    baseline = [90.0, 90.1, 90.2]
    (row,) = judge(paper(tmp_path), frame(("baseline", baseline), ("grafting", grafting))).to_dict("records")
    gain = difference(grafting, baseline)
    assert (row["verdict"], row["scale"], row["counts"]) == (expected, "as published", "yes")
    assert row["verdict"] == verdict((gain.low, gain.high), 1.0)
    assert row["difference"] == pytest.approx(gain.difference)
    assert row["published"] == pytest.approx(1.0)
    assert (row["n"], row["over_n"]) == (len(grafting), 3)
    assert (row["seeds"], row["over_seeds"]) == (" ".join(map(str, range(len(grafting)))), "0 1 2")
    assert row["folders"].split()[0] == f"cifar10/{R56}/grafting/seed0"
    assert row["overall"] == f"{expected} (1 of 1 settings run)"


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
    document = copy.deepcopy(PAPER)
    document["results"][0]["copied_from"] = "another paper"
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    table = judge(tmp_path / "p.yaml", cells)
    assert table["scale"].tolist() == ["", "other recipe: the published number is that of another paper"]


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
    table = judge(path, frame(("kd", [92.0]), ("dgd", [93.0], {"teacher": "cifar_resnet20"})))
    assert table["verdict"].tolist() == ["not run"]  # two teachers are not compared with each other


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


def test_an_epoch_stands_for_the_same_share_of_a_shorter_training(tmp_path):
    path = paper(tmp_path, metric="top1_at_epoch", epoch=9, published=["graft-9", "base-9"])
    for epochs, epoch in ((200, 9), (40, 1), (10, 0)):
        cells = frame(("baseline", [0.0, 0.0]), ("grafting", [0.0, 0.0]), epochs=epochs)
        for folder, method, seed in zip(cells["folder"], cells["method"], cells["seed"]):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            lines = [f"{e},{20 + e + (9.5 if method == 'grafting' else 0) + seed / 10}" for e in range(epochs)]
            (tmp_path / folder / "history.csv").write_text("\n".join(["epoch,test_top1_0", *lines, ""]))
        row = judge(path, (cells, tmp_path)).to_dict("records")[-1]
        assert row["over_mean"] == pytest.approx(20.05 + epoch)
        assert row["difference"] == pytest.approx(9.5)
        assert row["verdict"] == "direction only"  # of the published 10 at full length, of any at another
        assert (f"epoch {epoch} stands for 9" in row["scale"]) == (epochs != 200)
    (tmp_path / cells["folder"][0] / "history.csv").write_text("epoch,test_top1_0\n0,\n1,30.0\n")
    row = judge(path, (cells, tmp_path)).to_dict("records")[-1]
    assert (row["over_n"], row["remark"]) == (1, "1 of 2 cells of baseline without a value: no top-1 accuracy of that epoch")
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
        np.savez(tmp_path / folder / "filters.npz", **arrays, **{"entropy/0": np.array([1.0, 2.0])})
    (row,) = judge(path, (cells, tmp_path)).to_dict("records")
    assert (row["over_mean"], row["mean"]) == (2.0625, 5.0625)
    document = yaml.safe_load(path.read_text())
    for row in document["results"][-2:]:
        row["metric"] = "entropy_sum"
    document["claims"][0]["compares"] |= {"metric": "entropy_sum"}
    path.write_text(yaml.safe_dump(document))
    (row,) = judge(path, (cells, tmp_path)).to_dict("records")
    assert (row["over_mean"], row["mean"], row["verdict"]) == (2.0, 2.0, "not reproduced")
    document["claims"][0]["compares"] |= {"layers": "conv9"}
    document["results"] = [row | {"counts": "conv9"} for row in document["results"]]
    path.write_text(yaml.safe_dump(document))
    assert judge(path, (cells, tmp_path))["verdict"].tolist() == ["not run"]  # nothing here has such a layer
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
    many = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [90.0, 90.1, 90.2]), benchmark="many")
    table = judge(paper(tmp_path), few, many)
    assert table["benchmark"].tolist() == ["few", "many"]
    assert table["counts"].tolist() == ["", "yes"]
    assert set(table["overall"]) == {"not reproduced (1 of 1 settings run)"}


def test_a_claim_may_speak_of_some_students_only(tmp_path):
    cells = frame(("baseline", [90.0]), ("grafting", [91.0]), student="cifar_resnet8")
    assert len(judge(paper(tmp_path), cells)) == 2
    assert len(judge(paper(tmp_path, only={"student": "leaky"}), cells)) == 1
    assert len(judge(paper(tmp_path, only={"student": "resnet8", "dataset": "cifar"}), cells)) == 2
    assert judge(paper(tmp_path, only={"student": "leaky"}), cells.assign(student=R56))["verdict"].tolist() == ["inconclusive"]


def test_holm_counts_the_rows_that_were_tested(tmp_path):
    cells = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [90.3, 90.4, 90.5]))
    table = judge(paper(tmp_path), cells, cells.assign(student="cifar_resnet8", benchmark="c"))
    assert table["p_holm"].tolist() == pytest.approx([2 * p for p in table["p"]])


# ---------------------------------------------------------------------------------------------------------- overall

SURE = ([91.0, 91.1, 91.2], [90.0, 90.1, 90.2], 1.0)
LESS = ([90.4, 90.5, 90.6], [90.0, 90.1, 90.2], 1.0)
NONE = ([90.0, 90.1, 90.2], [90.0, 90.1, 90.2], 1.0)
OPEN = ([88.0, 91.0, 93.0], [90.0, 90.1, 90.2], 1.0)


@pytest.mark.parametrize(
    ("settings", "published_settings", "expected"),
    [
        ([], 3, "not run"),
        ([SURE, SURE], 2, "reproduced"),
        ([SURE, SURE], 3, "inconclusive"),  # one setting was not run
        ([SURE, LESS], 2, "direction only"),
        ([SURE, NONE], 2, "not reproduced"),
        ([SURE, OPEN], 2, "inconclusive"),
        ([NONE], 3, "not reproduced"),  # one failure is enough, whatever is still to run
    ],
)
def test_overall(settings, published_settings, expected):
    assert claims.overall(settings, published_settings) == expected


def test_one_failure_among_many_must_stand_a_wider_interval():
    """At 95 % it is 'not reproduced'; as the worst of eight it is not."""
    values = [90.0, 90.3, 90.6]
    edge = (values, values, difference(values, values).high + 0.01)
    assert claims.overall([edge], 1) == "not reproduced"
    assert claims.overall([edge, *[SURE] * 7], 8) == "inconclusive"


RATES = {  # (settings, true gains): reproduced, not reproduced in %, as in the docstring
    (3, "0"): (0, 90),
    (3, "2 s"): (45, 2),
    (3, "2 s, and 0 in one"): (1, 53),
    (8, "2 s"): (12, 2),
}


@pytest.mark.parametrize("case", RATES)
def test_error_rates_are_those_of_the_docstring(case):
    count, name = case
    true = {"0": [0.0] * count, "2 s": [2.0] * count}.get(name, [2.0] * (count - 1) + [0.0])
    generator, draws = np.random.default_rng(1), 400
    found = []
    for _ in range(draws):
        settings = [(generator.normal(t, 1, 5).tolist(), generator.normal(0, 1, 5).tolist(), 2.0) for t in true]
        found.append(claims.overall(settings, count))
    reproduced, not_reproduced = RATES[case]
    line = re.search(rf"\| {count} +\| {re.escape(name)} +\|([^\n]+)\|", claims.overall.__doc__)[1].split("|")
    assert (int(line[0]), int(line[2])) == RATES[case]
    for word, rate in (("reproduced", reproduced), ("not reproduced", not_reproduced)):
        error = 100 * math.sqrt(max(rate, 2) / 100 * (1 - rate / 100) / draws)
        assert abs(100 * found.count(word) / draws - rate) <= 3.5 * error + 0.5, word


# ---------------------------------------------------------------------------------------------------------- reading


def broken(tmp_path, change):
    document = copy.deepcopy(PAPER)
    change(document["claims"][0], document["claims"][0]["compares"], document["claims"][0]["compares"]["where"][0])
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda claim, *_: claim.pop("reproduced_if"), "reproduced_if: missing"),
        (lambda claim, *_: claim.update(colour=1), "colour: unknown key; known: id, claim,"),
        (lambda claim, *_: claim.update(claim=3), "claim: must be str, got 3"),
        (lambda claim, *_: claim.update(source="U"), "source: 'U' is no table of `headline`; there are T"),
        (lambda _, compares, __: compares.update(metric="top2"), r"where\[1\]: metric: unknown metric 'top2'; known: top1,"),
        (lambda _, compares, __: compares.update(better="up"), "better: must be one of higher, lower, got 'up'"),
        (lambda _, compares, __: compares.pop("over"), "over: missing, here and beside `where`"),
        (lambda _, compares, __: compares.update(where=[]), "compares.where: empty"),
        (
            lambda _, compares, __: compares.update(only={"method": "x"}),
            "compares.only: method: unknown key; known: dataset, student",
        ),
        (lambda _, compares, __: compares.update(metric="invalid_ratio"), "threshold: missing; invalid_ratio needs it"),
        (lambda _, compares, __: compares.update(threshold=1), "threshold: top1 has none"),
        (lambda _, compares, __: compares.update(metric="mean_l1_valid", threshold=0.5), "is known at 1, 0.1, got 0.5"),
        (lambda _, compares, __: compares.update(metric="top1_at_epoch", epoch=200), "epoch: must be in 0 ... "),
        (lambda _, compares, __: compares.update(over="baseline@best"), "'baseline@best' is no reading"),
        (lambda _, compares, __: compares.update(over="grafing"), "over: 'grafing' is not in methods; did you mean grafting?"),
        (lambda _, compares, __: compares.update(metric="mean_l1"), "has metric 'top1', and the claim 'mean_l1'"),
        (lambda *all: all[2].update(published=["graft", "nowhere"]), "published: no row of `results` has the id 'nowhere'"),
        (lambda *all: all[2].update(published=["graft"]), "published: must be two ids"),
        (lambda *all: all[2].pop("published"), "published: missing"),
        (lambda *all: all[2].update(published=["base", "graft"]), "base has method 'baseline', and the claim 'grafting'"),
        (lambda *all: all[2].update(published=["graft-ratio", "base"]), "graft-ratio has metric 'invalid_ratio'"),
        (lambda *all: all[2].update(student="x"), f"graft has model '{R56}', and the claim 'x'"),
        (lambda *all: all[2].update(dataset="cifar100"), "graft has dataset 'cifar10', and the claim 'cifar100'"),
        (lambda *all: all[1].update(better="lower"), "graft less base is \\+1, and the claim says lower"),
    ],
)
def test_mistakes_name_file_claim_and_key(tmp_path, change, message):
    path = broken(tmp_path, change)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: claim 'gain': .*{message}"):
        claims.read([path])


def test_more_mistakes(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(PAPER | {"claims": PAPER["claims"] * 2}))
    with pytest.raises(ValueError, match="claim 'gain': id: already used in .*p.yaml"):
        claims.read([path])
    path.write_text(yaml.safe_dump(PAPER | {"claims": ["x"]}))
    with pytest.raises(ValueError, match="p.yaml: claims: 'x'"):
        claims.read([path])
    path.write_text(yaml.safe_dump(PAPER | {"conditions": {"cifar10": {"epochs": "many"}}}))
    with pytest.raises(ValueError, match="p.yaml: .*conditions.cifar10.epochs is 'many'; it must be a whole number"):
        claims.read([path])
    path.write_text(yaml.safe_dump(PAPER | {"results": [{"id": "a"}]}))
    with pytest.raises(ValueError, match="p.yaml: .*missing fields"):
        claims.read([path])
    path.write_text(yaml.safe_dump({key: value for key, value in PAPER.items() if key != "claims"}))
    assert claims.read([path]) == []


# ------------------------------------------------------------------------------------------------- the papers' files

TOPICS = {
    "dgd": {
        "Table 7": ("mean_l1_valid", "mean_l1_invalid", "top1"),
        "Table 8": ("top1",),
        "Table 9": ("mean_l1_valid", "mean_l1_invalid", "top1"),
        "Table 10": ("top1",),
        "Figure accuracy curve": ("top1_at_epoch", "top1"),
        "Figure filter L1": ("mean_l1", "median_l1", "max_l1", "invalid_count"),
    },
    "filter-grafting": {
        "scion source": ("top1",),
        "L1 against entropy": ("top1",),
        "README dlr": ("top1",),
        "comparison with other methods": ("top1",),
        "number of networks": ("top1",),
        "ImageNet": ("top1", "top5"),
        "re-identification": ("map", "rank1"),
        "README invalid filters": ("invalid_count",),
        "Figure l1_threshold": ("invalid_ratio",),
        "Figure entropy_compare": ("entropy_sum",),
        "README A and c": ("top1",),
        "README leaky ReLU": ("top1",),
        "README VGG": ("top1",),
    },
}


@pytest.fixture(scope="module")
def real():
    return claims.read(PAPERS)


def test_every_table_of_the_papers_has_its_claims(real):
    found: dict = {}
    for claim in real:
        metrics = {setting.measure.kind for setting in claim.settings}
        found.setdefault(claim.paper, {}).setdefault(claim.source, set()).update(metrics)
    assert found == {name: {table: set(metrics) for table, metrics in of.items()} for name, of in TOPICS.items()}
    assert all(claim.claim.endswith(".") and claim.claim.isascii() for claim in real)


def test_table_8_is_claimed_for_all_its_pairs(real):
    of = {claim.id: claim for claim in real}
    for a, b in (("grafting", "baseline"), ("kd", "baseline"), ("dgd", "kd"), ("dgd", "grafting"), ("dgd", "baseline")):
        claim = of[f"dgd-t8-{a}-over-{b}"]
        assert [setting.student for setting in claim.settings] == ["cifar_resnet32", R56, "cifar_mobilenetv2"]
        assert {(setting.side.reading.method, setting.other.reading.method) for setting in claim.settings} == {(a, b)}
    gains = [round(setting.gain, 2) for setting in of["dgd-t8-dgd-over-kd"].settings]
    assert gains == [0.38, 0.86, 0.57]  # 72.69 - 72.31, 74.28 - 73.42, 75.55 - 74.98


def test_no_cell_of_the_claims_is_without_its_benchmark(real):
    """What a benchmark can measure at all is in some config: a cell of the side's objective, exchange, counts and recipe."""
    from dgd.config import cells
    from pipeline.config import load

    there: dict = {}
    for path in (ROOT / "config").glob("*.yaml"):
        for cell in cells(load(path, folders=False)):
            composed = composition(cell["objective"], cell["exchange"])
            key = cell["slug"].removeprefix("imagefolder-"), cell["student"], composed, cell["networks"], len(cell["teachers"])
            there.setdefault(key, []).append(cell["recipe"])
    others = {"dml", "repr"}  # other papers' methods
    for claim in real:
        for setting in claim.settings:
            names = {setting.side.reading.method, setting.other.reading.method}
            if not KINDS[setting.measure.kind].measured or names & others:
                continue
            for side in (setting.side, setting.other):
                dataset = setting.dataset or "cifar10"
                found = there.get((dataset, setting.student, side.composition, side.networks, side.teachers), [])
                agree = [all(recipe[key] in allowed for key, allowed in side.overrides.items()) for recipe in found]
                assert any(agree), f"{claim.id}: {side.reading} of {setting.student}"


def cells_of_every_setting(real):
    """Two cells a side for each published setting, all columns filled, as a benchmark would leave them."""
    draw = random.Random(0)
    rows: dict = {}
    documents = {path.stem: yaml.safe_load(path.read_text()) for path in PAPERS}
    compositions = {
        (name, label): {"objective": row.objective, "exchange": row.exchange, "recipe": row.recipe}
        | {"networks": row.networks, "teachers": row.teachers}
        for name, document in documents.items()
        for label, row in paper_methods(document, name).items()
    }
    for claim in real:
        for setting in claim.settings:
            for side, measured in zip((setting.side, setting.other), setting.conditions):
                wanted = {key: allowed[0] for key, allowed in measured.own.items() if hasattr(Recipe(), key)}
                label = side.reading.method
                of = made(label, compositions[claim.paper, label], **wanted)
                for seed in (0, 1):
                    teacher = setting.teacher if side.teachers else None
                    where = {"dataset": setting.dataset or "cifar10", "model": setting.student, "student": setting.student}
                    row = where | {"benchmark": "all", "teacher": teacher, "method": label, "seed": seed, "network": 0} | of
                    row |= {"status": "finished"}
                    row |= {
                        name: draw.uniform(1, 2) for name in COLUMNS if name.startswith(("mean_l1", "invalid_r", "ensemble"))
                    }
                    row |= {"last": draw.uniform(70, 80), "entropy_sum": 40.0, "conv_filters": 4}
                    row["folder"] = f"{row['dataset']}/{setting.student}/{label}-{teacher}/seed{seed}"
                    rows[row["folder"]] = row
    return pd.DataFrame(rows.values(), columns=list(COLUMNS))


def test_every_claim_evaluates(real, tmp_path):
    cells = cells_of_every_setting(real)
    for folder, epochs in zip(cells["folder"], cells["epochs"]):
        (tmp_path / folder).mkdir(parents=True)
        lines = [f"{epoch},{30 + epoch / 10}" for epoch in range(epochs)]
        (tmp_path / folder / "history.csv").write_text("\n".join(["epoch,test_top1_0", *lines]))
        arrays = {
            f"l1/0/{name}.weight": np.array([0.05, 3.0], np.float32) for name in ("conv1", "layers.0.conv3", "shortcut.0")
        }
        np.savez(tmp_path / folder / "filters.npz", **arrays, **{"entropy/0": np.ones(3)})
    table = claims.evaluate(real, [(cells, tmp_path)])
    counted = table[table["counts"] == "yes"]
    published_settings = {claim.id: len(claim.settings) for claim in real}
    unmeasured = {c.id for c in real if all(not KINDS[s.measure.kind].measured for s in c.settings)}
    assert unmeasured == {"fg-imagenet-top5", "fg-reid-map", "fg-reid-rank1", "fg-reid-four"}
    never = unmeasured | {"fg-invalid-count"}  # whose data set is not known
    copied = {c.id: sum("copied_from" in of.own for s in c.settings for of in s.conditions) for c in real}
    assert {id for id, n in copied.items() if n} == {"fg-over-dml", "fg-over-repr"}
    wanted = {id: n - copied[id] for id, n in published_settings.items() if id not in never and n > copied[id]}
    assert counted["claim"].value_counts().to_dict() == wanted
    assert counted[["difference", "low", "high", "published"]].notna().all().all()
    assert set(table[table["claim"].isin(never - {"fg-invalid-count"})]["overall"]) == {"not run"}
    unknown = table[(table["claim"] == "fg-invalid-count") & (table["verdict"] != "not run")]
    assert unknown["scale"].str.contains("the paper names no data set").all()
    assert len(unknown)
    assert not (table["verdict"] == "").any()
    conv = table[(table["claim"] == "fg-invalid-ratio") & (table["counts"] == "yes")]
    assert conv["mean"].tolist() == [0.5, 0.5, 0.0, 0.0]  # 1, 0.1, 0.01, 0.001


def test_no_real_claim_is_met_by_nothing(real):
    table = claims.evaluate(real, [])
    assert set(table["verdict"]) == set(table["overall"]) == {"not run"}
    assert len(table) == sum(len(claim.settings) for claim in real)
    assert (claims.table(table).text["verdict"] == "not run").all()


# ----------------------------------------------------------------------------------------------------------- showing


def test_written_and_read_again(tmp_path):
    table = judge(paper(tmp_path), frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [91.0, 91.1, 91.2])))
    csv, md, tex = write(claims.table(table), tmp_path / "tables" / "claims")
    page = md.read_text()
    assert "| gain: Grafting helps. " in page
    assert "| 91.10 ± 0.10 over 90.10 ± 0.10 | +1.00 [+0.77, +1.23] | +1.00 " in page
    assert "| reproduced " in page
    for word in ("as published", "Welch", "settings run", "direction only"):
        assert word in page
    body = "".join(line for line in tex.read_text().splitlines() if not line.startswith("%"))
    assert body.isascii()
    again = claims.typed(pd.read_csv(csv))
    assert markdown(claims.table(again)) == page
    write(claims.table(judge(paper(tmp_path))), tmp_path / "none")
    assert "| not run " in (tmp_path / "none.md").read_text()
    assert "nan" not in (tmp_path / "none.md").read_text()


def test_of_very_many_rows_a_reader_sees_those_that_count(tmp_path, monkeypatch):
    cells = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [91.0, 91.1, 91.2]))
    table = judge(paper(tmp_path), cells, cells.assign(student="cifar_resnet8", benchmark="c"))
    assert len(claims.table(table).text) == len(claims.shown(table)) == 2
    monkeypatch.setattr(text, "LISTED", 1)
    assert claims.table(table).text["verdict"].tolist() == ["reproduced"]
    assert claims.table(table).footnotes[0].startswith("1 rows that no claim's verdict rests on")
    elsewhere = judge(paper(tmp_path), *[cells.assign(student=name) for name in ("cifar_resnet8", "cifar_resnet20")])
    (row,) = claims.table(elsewhere).text.to_dict("records")
    assert (row["verdict"], row["all settings"]) == ("not run", "not run as published; at other scales: 2 direction only")


def test_the_command_lists_what_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["claims", "results/cifar10-small", "--paper", "dgd"]) == 0
    out = capsys.readouterr().out
    assert "dgd-t8-dgd-over-kd (dgd, Table 8): not run as published; at other scales: 1 " in out
    assert "reduced: 30 of 200 epochs, lr 0.05, batch 64, step epochs 9, precision bf16, 5,000 training images" in out
    assert "reproduced if in each of the 3 settings" in out
    assert "dgd-conv3-mean (dgd, Figure filter L1): not run\n" in out
    assert "fg-" not in out
    assert re.search(r"\n28 claims, \d+ with cells\n$", out)
    assert "reproduced" not in {line.rsplit(": ")[-1] for line in out.splitlines() if "seeds" in line}
    assert cli.main(["claims", "results/cifar10-small", "--csv"]) == 0
    rows = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert tuple(rows.columns) == claims.COLUMNS
    assert set(rows["paper"]) == {"dgd", "filter-grafting"}
    with pytest.raises(SystemExit, match="--paper x: no file papers/x.yaml"):
        cli.main(["claims", "--paper", "x"])
    with pytest.raises(SystemExit, match="nowhere: no such folder"):
        cli.main(["claims", "nowhere"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="papers: no papers"):
        cli.main(["claims"])


def test_the_report_shows_each_claim_with_links_to_its_cells(tmp_path):
    from pipeline import report, tabulate
    from pipeline.config import load

    folder = tmp_path / "cifar10-small"
    config = load(ROOT / "config" / "cifar10-small.yaml")
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copytree(ROOT / "results" / "cifar10-small", folder, ignore=shutil.ignore_patterns("tables", "report.html"))
    tabulate.main(["--cells", str(folder / "cells.csv"), "--papers", *map(str, PAPERS[:1]), "--out", str(folder / "tables")])
    report.main(["--config", str(tmp_path / "config.json"), "--out", str(folder / "report.html")])
    page = (folder / "report.html").read_text()
    assert '<h3 id="claim-dgd-t8-dgd-over-kd">Grafting and distillation together' in page
    assert "<b>not run as published; at other scales: 1 " in page
    links = re.findall(r'href="#(cell-[^"]+)"', page)
    assert "cell-cifar10-small/cifar10/cifar_resnet20/dgd/seed0" in links
    assert set(links) <= set(re.findall(r'id="(cell-[^"]+)"', page))
    rest = page.split("Claims without a cell in this benchmark", 1)[1].split("</table>", 1)[0]
    assert "dgd-conv3-mean" in rest
    assert rest.count("<td>not run</td>") == rest.count("<tr>") > 0
    assert len({*re.findall("dgd-[a-z0-9-]+", page)} & {claim.id for claim in claims.read(PAPERS[:1])}) == 28


def test_claims_need_no_torch():
    code = "import sys; sys.modules['timm'] = None; import dgd.read.claims; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_committed_cells_are_judged_as_the_results_table_judges_them():
    cells = collect(ROOT / "results" / "cifar10-small")
    table = results_table(cells, read_papers(PAPERS[:1])).frame
    rows = claims.evaluate(claims.read(PAPERS[:1]), [(cells, ROOT / "results" / "cifar10-small")])
    for method in ("kd", "grafting", "dgd"):
        (ours,) = rows[(rows["claim"] == f"dgd-t8-{method}-over-baseline") & (rows["verdict"] != "not run")].to_dict("records")
        theirs = table[table["method"] == method].iloc[0]
        assert ours["difference"] == pytest.approx(theirs["gain"])
        assert (ours["low"], ours["high"]) == pytest.approx((theirs["gain_low"], theirs["gain_high"]))
        assert ours["verdict"] == theirs["verdict"]
