"""Departures that data have shown to be immaterial: the numbers are those of committed tables, and a rule says what follows."""

import math

import pandas as pd
import pytest
import yaml
from claimed import frame, judge, paper

from dgd import shipped
from dgd.read import immaterial
from dgd.read.departures import departures, render, size_counts, with_evidence
from dgd.read.results import results_table
from dgd.read.statistics import difference
from tests.helpers import ROOT

ENTRY = yaml.safe_load(shipped.EVIDENCE.read_text())["immaterial"][0]


@pytest.mark.parametrize("one", immaterial.known(), ids=lambda one: f"{one.key} {one.ours}")
def test_the_numbers_are_those_of_the_committed_tables(one):
    folder = ROOT / "results" / one.benchmark
    assert (folder / "frozen.yaml").is_file()
    cells = pd.read_csv(folder / "cells.csv")
    assert set(cells["dataset"]) == {one.dataset}
    assert set(cells["metric"]) == {one.metric}
    sides = [cells[(cells["method"] == name) & (cells["status"] == "finished")] for name in (one.row, one.over)]
    assert [set(side[one.key]) for side in sides] == [{one.ours}, {one.theirs}]
    assert [(len(side), *set(side["epochs"])) for side in sides] == [(one.n, one.epochs)] * 2
    found = difference(*(side["last"] for side in sides))
    assert tuple(round(value, 2) for value in found[:3]) == (one.difference, one.low, one.high)
    table = pd.read_csv(folder / "tables" / "results.csv").set_index("method")["mean"]
    assert round(table[one.row] - table[one.over], 2) == one.difference


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"high": 0.6}, r"immaterial\[0\]: the interval \[-0.31, 0.6\] of \+0.08 does not lie within the margin of 0.5"),
        ({"low": -0.51}, "does not lie within the margin"),
        ({"difference": 0.47}, "does not lie within the margin"),
        ({"n": 3}, r"immaterial\[0\].n is 3; it must be at least 5"),
        ({"margin": 0}, "margin is 0; it must be above 0"),
        ({"colour": 1}, r"immaterial\[0\].colour: unknown key"),
    ],
)
def test_evidence_is_checked(tmp_path, change, message):
    path = tmp_path / "immaterial.yaml"
    path.write_text(yaml.safe_dump({"immaterial": [ENTRY | change]}))
    with pytest.raises(ValueError, match=message):
        immaterial.read(path)


@pytest.mark.parametrize(
    ("cell", "text", "counts"),
    [
        ({}, "precision bf16 (immaterial: results/fast-path)", True),
        ({"epochs": 200}, "precision bf16 (immaterial up to 16 epochs: results/fast-path)", False),
        ({"dataset": "cifar10"}, "precision bf16", False),
        ({"metric": "rmse"}, "precision bf16", False),
        ({"precision": "tf32"}, "precision tf32", False),
        ({"lr": 0.05}, "lr 0.05, precision bf16 (immaterial: results/fast-path)", False),
        ({"precision": "fp32"}, "as published", True),
    ],
)
def test_what_a_departure_was_shown_for(cell, text, counts):
    row = {"dataset": "cifar100", "metric": "top1", "epochs": 16, "precision": "bf16", "lr": 0.1} | cell
    found = with_evidence(departures(row, {"lr": (0.1,), "precision": ("fp32",)}), row)
    assert render(found) == text
    assert size_counts(found, 1.5) == size_counts(found, -1.5) == counts
    assert size_counts(found, 0.9) == (not found)  # less than twice the margin


def test_a_published_size_is_held_against_what_departs_immaterially(tmp_path, monkeypatch):
    """By evidence that there is not: of 200 epochs of CIFAR-10."""
    made_up = immaterial.Evidence(**{**ENTRY, "dataset": "cifar10", "epochs": 200, "margin": 0.5})
    monkeypatch.setattr(immaterial, "known", lambda: (made_up,))
    path = paper(tmp_path)
    cells = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [91.0, 91.2, 91.3]), precision="bf16")
    (row,) = judge(path, cells).to_dict("records")
    assert row["scale"] == "as published but for: precision bf16 (immaterial: results/fast-path)"
    assert (row["verdict"], row["counts"], row["published"]) == ("reproduced", "yes", 1.0)
    found = results_table(cells.assign(standing=""), [path])
    shown = found.frame.set_index("method").loc["grafting"]
    assert (shown["verdict"], shown["paper_gain"]) == ("reproduced", 1.0)
    assert shown["scale"] == "precision bf16 (immaterial: results/fast-path)"
    assert any(note.startswith("Departs in nothing but what was shown to be immaterial") for note in found.footnotes)
    # Half as large a published gain is no more than what the arithmetic may change.
    document = yaml.safe_load(path.read_text())
    document["results"][1]["value"] = 90.5
    path.write_text(yaml.safe_dump(document))
    other = judge(path, cells)
    assert other["scale"].tolist() == ["", "other recipe: precision bf16 (immaterial: results/fast-path)"]
    assert math.isnan(results_table(cells, [path]).frame.set_index("method").loc["grafting", "paper_gain"])
