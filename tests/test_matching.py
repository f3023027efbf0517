"""Which published numbers a cell stands beside: typed fields decide, and no name."""

from pathlib import Path

import pytest
from made_up import R56, R110, cell_of

from dgd.cell import Normalise, exchange
from dgd.read.cells import collect
from dgd.read.departures import departures, render
from dgd.read.matching import Published, composition, is_baseline
from dgd.read.papers import read_papers

ROOT = Path(__file__).parents[1]
PAPERS = {path.stem: read_papers([path]) for path in sorted((ROOT / "papers").glob("*.yaml"))}
DGD = Published(PAPERS["dgd"])
GRAFTING = Published(PAPERS["filter-grafting"])


def row(tmp_path, *args, **more) -> dict:
    """Return the row of cells.csv of a cell without a result."""
    return collect(tmp_path, [cell_of(*args, **more)]).to_dict("records")[0]


def ids(found: tuple) -> tuple[list[str], list[str]]:
    return tuple([one["id"] for one in rows] for rows in found)


def test_a_label_decides_nothing(tmp_path):
    """`kd-2` with other weights stood beside the paper's KD, since `-2` was stripped; and a KD of another name did not."""
    same = row(tmp_path, "kd", teacher=R110)
    assert ids(DGD.of(same, "top1"))[0][0] == "dgd-t8-c100-r56-kd"
    assert ids(DGD.of(same | {"method": "mine-2"}, "top1")) == ids(DGD.of(same, "top1"))
    other = row(tmp_path, "kd", teacher=R110, objective={"ce": 0.1, "kd": {"weight": 2, "tau": 8}})
    assert DGD.of(other, "top1") == ([], [])
    assert DGD.of(other | {"method": "kd-2"}, "top1") == ([], [])


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ({"objective": {"kd": {"weight": 1, "tau": 2}, "ce": 1.0}}, True),  # what a default is may be written out
        ({"objective": {"ce": {"weight": 1.0, "smoothing": 0.0}, "kd": {"weight": 1.0, "teachers": "sum"}}}, True),
        ({"objective": {"ce": 1.0, "kd": {"weight": 1.0, "tau": 4.0}}}, False),
        ({"objective": {"ce": 1.0, "kd": 0.9}}, False),
        ({"objective": {"ce": 1.0, "kd": 1.0, "at": 1.0}}, False),
        ({"exchange": exchange({"name": "graft", "protocol": "reference-code"})}, True),  # either protocol stands
        ({"exchange": exchange({"name": "graft", "digits": 3})}, True),
        ({"exchange": exchange({"name": "graft", "a": 0.5})}, False),
        ({"exchange": exchange({"name": "graft", "every": 2})}, False),
        ({"exchange": exchange({"name": "swap"})}, False),
        ({"exchange": None}, False),
        ({"networks": 3}, False),
        ({"student": "cifar_resnet32"}, False),
        ({"teacher": "cifar_resnet32"}, False),
        ({"dataset": "cifar10"}, False),
        ({"teachers": ("b/d/m/baseline/seed0", "b/d/m/baseline/seed1")}, False),
        ({"benchmark": "another", "seed": 7, "protocol": "reference-code"}, True),
    ],
)
def test_what_decides(tmp_path, change, stands):
    own, variants = ids(DGD.of(row(tmp_path, "dgd", **({"teacher": R110} | change)), "top1"))
    assert ("dgd-t8-c100-r56-dgd" in own) == stands
    assert "dgd-t8-c100-r56-dgd" not in variants


def test_a_schedule_prefers_its_own_row(tmp_path):
    """grafting and grafting-dlr differ in the recipe alone: each stands for the cells that have its schedule."""
    slr, dlr = (row(tmp_path, "grafting", recipe={"epochs": 200, "schedule": name}) for name in ("slr", "dlr"))
    found, variants = GRAFTING.of(slr, "top1")
    assert {one["method"] for one in found} == {"grafting"}
    assert {one["method"] for one in variants} == {"grafting-dlr"}
    found, variants = GRAFTING.of(dlr, "top1")
    assert {one["method"] for one in found} == {"grafting-dlr"}
    assert {one["method"] for one in variants} == {"grafting"}
    assert [one["key"] for one in map(vars, departures(dlr, found[0]["conditions"].own))] == ["precision", "normalise"]
    # Another schedule stands beside the plain row, and departs from it.
    found, _ = GRAFTING.of(row(tmp_path, "grafting", recipe={"schedule": "cosine"}), "top1")
    assert {one["method"] for one in found} == {"grafting"}
    # Of a network that was published with different rates only, the number is another recipe's.
    found, variants = GRAFTING.of(row(tmp_path, "grafting", student="cifar_wrn28_10"), "top1")
    assert (found, {one["method"] for one in variants}) == ([], {"grafting-dlr"})


def test_a_published_baseline_is_known_by_what_it_is():
    plain = {one["id"] for one in GRAFTING.rows if is_baseline(one)}
    assert plain == {one["id"] for one in GRAFTING.rows if one["method"] == "baseline"}
    curve = next(one for one in DGD.rows if one["table"] == "Table 10")
    assert DGD.baseline(curve)["id"] == "dgd-t8-c100-mbv2-baseline"  # its own table has none


def test_the_distillation_literatures_networks_are_others(tmp_path):
    crd = Published(PAPERS["crd-benchmark"])
    recipe = {"epochs": 240, "lr": 0.05, "batch_size": 64, "milestones": (150, 180, 210), "precision": "fp32"}
    recipe["normalise"] = Normalise((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    names = {"student": "cifar_resnet20", "teacher": R56}
    ours = row(tmp_path, "kd-crd", recipe=recipe, **names)
    (best,), _ = crd.of(ours, "top1")
    assert best["id"] == "crd-c100-r20-by-r56-kd-crd"
    found = departures(ours, best["conditions"].own)
    assert render(found) == "network cifar_resnet20, published with crd_resnet20"
    # Once the library has their networks, a cell of these is as published.
    theirs = row(tmp_path, "kd-crd", recipe=recipe, student="crd_resnet20", teacher="crd_resnet56")
    (best,), _ = crd.of(theirs, "top1")
    assert departures(theirs, best["conditions"].own) == ()
    assert best["conditions"].teacher["network"] == ("crd_resnet56",)


def test_no_published_number_is_of_another_network_by_mistake():
    """Section 1 of what was checked: all but the grafting papers have shortcuts of 1x1 convolutions."""
    for name, papers in PAPERS.items():
        own = {"dgd", "filter-grafting"}
        assert {row.model_here == row.model for row in papers.itertuples()} == {name in own}, name
        values = [row.conditions.own.get("precision") for row in papers.itertuples() if row.conditions.baseline]
        assert set(values) == {("fp32",)}


def test_numbers_of_other_papers_say_whose_they_are(tmp_path):
    (best,), _ = GRAFTING.of(row(tmp_path, "dml", student="cifar_resnet32"), "top1")
    assert best["id"] == "fg-others-c100-r32-dml"
    assert render(departures({"epochs": 200}, {"copied_from": best["conditions"].own["copied_from"]})) == (
        "the published number is that of the DML paper"
    )


def test_compositions_compare_what_is_a_condition():
    assert composition({"ce": 1}, None) == composition({"ce": {"weight": 1.0, "smoothing": 0.0}}, None)
    assert composition({"ce": 1, "kd": 1}, None) == composition({"kd": {"tau": 2.0}, "ce": 1}, None)
    assert composition({"ce": 1}, {"name": "noise"}) != composition({"ce": 1}, {"name": "internal"})
    assert composition({"ce": 1}, {"name": "noise", "gamma": 0.1}) == composition({"ce": 1}, exchange({"name": "noise"}))
