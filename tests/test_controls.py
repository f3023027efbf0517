"""What is left of a gain after each control. Every number of the fixtures is made up."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import cell_of

from dgd import cli
from dgd.read import controls
from dgd.read.cells import COLUMNS, conditions
from dgd.read.statistics import Difference, difference, holm, minimum_detectable_effect
from dgd.read.table import Table, markdown, write
from pipeline import tabulate

STUDENT, TEACHER = "cifar_resnet32", "cifar_resnet56"
NOISE = (-0.2, -0.1, 0.0, 0.1, 0.2)


def rows(
    method, top1, *, seeds=5, networks=1, epochs=200, teacher=None, status="finished", second=None, recipe=None, **more
) -> list[dict]:
    """A method's rows of cells.csv: `top1` plus `NOISE`; `second` is the accuracy of the other networks."""
    made_of = conditions(cell_of(recipe={"epochs": epochs} | (recipe or {}))) | {"metric": "top1"}
    found = []
    for seed in range(seeds):
        for network in range(networks if status == "finished" else 1):
            value = (top1 if network == 0 else second) + NOISE[seed]
            cell = {
                "benchmark": "fake",
                "dataset": "cifar100",
                "model": STUDENT,
                "student": STUDENT,
                "teacher": teacher,
                "method": method,
            }
            cell |= {"seed": seed, "network": network, "status": status, "folder": f"cifar100/{STUDENT}/{method}/seed{seed}"}
            cell |= {"networks": networks, "teachers": int(bool(teacher))} | made_of
            if status == "finished":
                cell |= {"last": value, "best_on_test": value + 0.5, "ensemble": math.nan}
                cell |= {key: number + NOISE[seed] for key, number in more.items()}
            found.append(cell)
    return found


def whole(*groups, held, report="first") -> Table:
    cells = pd.DataFrame([row for group in groups for row in group], columns=list(COLUMNS))
    return controls.controls_table(cells, held, report)


def table(*groups, held, report="first") -> pd.DataFrame:
    return whole(*groups, held=held, report=report).frame


BASE = rows("baseline", 70.0)
GRAFTING = rows("grafting", 72.0, networks=2, second=71.0)


def test_a_row_is_welchs_difference_beside_the_gain_over_the_baseline():
    row = table(BASE, GRAFTING, rows("half", 71.0), held={"grafting": ["half"]}).iloc[0]
    ours, theirs = [72 + noise for noise in NOISE], [71 + noise for noise in NOISE]
    expected = difference(ours, theirs)
    assert (row["gain"], row["low"], row["high"], row["p"]) == pytest.approx(tuple(expected))
    assert row["baseline_gain"] == pytest.approx(2.0)
    assert row["share_left"] == pytest.approx(0.5)
    assert row["minimum_detectable_effect"] == pytest.approx(minimum_detectable_effect(float(np.std(NOISE, ddof=1)), 5))
    assert (row["mean"], row["control_mean"], row["n"], row["control_n"]) == (pytest.approx(72), pytest.approx(71), 5, 5)
    assert row["what"] == "left"


@pytest.mark.parametrize(
    ("gain", "over_baseline", "explained", "expected"),
    [
        ((1.0, 0.2, 1.8), (2.0, 1.0, 3.0), (1.0, 0.1, 1.9), "left"),
        ((0.1, -0.5, 0.7), (2.0, 1.0, 3.0), (1.9, 0.9, 2.9), "explained"),
        ((0.0, 0.0, 0.0), (2.0, 1.0, 3.0), (2.0, 1.0, 3.0), "explained"),
        ((0.1, -0.5, 0.7), (2.0, 1.0, 3.0), (1.9, 0.0, 3.8), "inconclusive"),  # the control shows no gain itself
        ((0.1, -1.8, 2.0), (2.0, 1.0, 3.0), (1.9, -0.1, 3.9), "inconclusive"),
        ((-1.0, -1.5, -0.5), (2.0, 1.0, 3.0), (3.0, 2.0, 4.0), "reversed"),
        ((1.0, 0.2, 1.8), (0.4, -0.1, 0.9), (-0.6, -1.0, -0.2), "inconclusive"),  # no gain over the baseline to explain
        ((-1.0, -1.5, -0.5), (0.4, 0.0, 0.8), (1.4, 1.0, 1.8), "inconclusive"),
        ((1.0, math.nan, math.nan), (2.0, 1.0, 3.0), (1.0, 0.5, 1.5), "inconclusive"),
        ((1.0, 0.2, 1.8), (2.0, math.nan, math.nan), (1.0, 0.5, 1.5), "inconclusive"),
        ((0.1, -0.5, 0.7), (2.0, 1.0, 3.0), (1.9, math.nan, math.nan), "inconclusive"),
    ],
)
def test_the_word(gain, over_baseline, explained, expected):
    assert controls.word(*(Difference(*one, 0.5) for one in (gain, over_baseline, explained))) == expected


def test_what_a_control_explains_is_its_own_gain_or_how_much_smaller_the_gain_is_at_best_epochs():
    noisy = rows("half", 71.0)
    for row, noise in zip(noisy, (0.3, -0.2, 0.1, 0.0, -0.2)):
        row["last"] += noise
    late = rows("baseline", 70.0)
    for row, noise in zip(late, (0.1, 0.0, -0.1, 0.0, 0.0)):
        row["best_on_test"] += 1 + noise
    found = table(late, GRAFTING, noisy, held={"grafting": ["half", "baseline@best-on-test"]})
    base = {seed: 70 + noise for seed, noise in enumerate(NOISE)}
    half = {row["seed"]: row["last"] for row in noisy}
    assert found["explained"].tolist() == pytest.approx([np.mean([half[k] - base[k] for k in range(5)]), 1.0])
    assert found["gain"][1] == pytest.approx(1.0)  # 2.0 at the last epoch, 1.0 where both are read at their best
    assert found["explained_low"][1] < 1 < found["explained_high"][1]


def test_readings():
    both = rows("independent", 70.0, networks=2, second=71.0, ensemble=71.8, validation_last=50.0)
    for row in both:
        row["validation_last"] -= row["network"]  # the first one is better on validation images
    held = ["independent", "independent@last", "independent@mean", "independent@best", "independent@ensemble"]
    found = table(BASE, GRAFTING, both, held={"grafting": held})
    assert found["control_mean"].tolist() == pytest.approx([70.0, 70.0, 70.5, 70.0, 71.8])
    for row in both:
        row["validation_last"] = math.nan
    found = table(BASE, GRAFTING, both, held={"grafting": held})
    assert found["control_mean"].tolist() == pytest.approx([70.0, 70.0, 70.5, 71.0, 71.8])  # by test accuracy
    assert found["mean"].tolist() == pytest.approx([72.0] * 5)
    assert found["compute"].tolist() == found["control_compute"].tolist() == [2.0] * 5


def test_both_sides_are_read_at_their_best_epoch_or_neither():
    late = rows("late", 71.0)
    for row in late:
        row["best_on_test"] += 5
    found = table(BASE, GRAFTING, late, held={"grafting": ["late", "late@best-on-test"]})
    assert found["gain"].tolist() == pytest.approx([1.0, 72.5 - 76.5])
    assert found["baseline_gain"].tolist() == pytest.approx([2.0, 2.0])
    assert found["what"].tolist() == ["left", "reversed"]


def test_what_a_config_reports_is_read():
    held = {"grafting": ["baseline"]}
    assert table(BASE, GRAFTING, held=held, report="mean")["gain"].tolist() == pytest.approx([1.5])
    assert table(BASE, rows("grafting", 72.0, networks=2, second=73.0), held=held, report="best")["gain"][0] == pytest.approx(
        3.0
    )


def test_what_was_not_run_says_so():
    missing = rows("later", 0.0, status="missing")
    failed = rows("wild", 0.0, status="diverged")
    held = {"grafting": ["later", "wild", "nowhere", "baseline@ensemble"], "later": ["wild"]}
    all_of_it = whole(BASE, GRAFTING, missing, failed, held=held)
    found = all_of_it.frame
    assert found["what"].tolist() == ["not run"] * 5
    assert found["gain"].isna().all()
    assert found["p_holm"].isna().all()
    assert found["baseline_gain"].tolist()[:4] == pytest.approx([2.0] * 4)
    assert "not run" in markdown(all_of_it)
    alone = table(rows("baseline", 70.0, seeds=1), rows("grafting", 72.0, seeds=1), held={"grafting": ["baseline"]}).iloc[0]
    assert (alone["gain"], alone["what"]) == (pytest.approx(2.0), "inconclusive")


def test_the_tuned_baseline_is_the_best_rate_by_validation_or_else_by_test():
    half_rate, fifth_of_it = {"lr": 0.05}, {"lr": 0.02}

    def rates(**validation):
        return [
            rows("baseline", 70.0, validation_last=validation.get("own", math.nan)),
            rows("gentle", 71.0, validation_last=validation.get("half", math.nan), recipe=half_rate),
            rows("gentler", 71.5, validation_last=validation.get("fifth", math.nan), recipe=fifth_of_it),
        ]

    held = {"grafting": ["gentle", "gentler", "half", "gentle@best-on-test"]}
    half = rows("half", 71.0)
    text = whole(*rates(), GRAFTING, half, held=held)
    by_test = text.frame
    assert by_test["control"].tolist()[2:4] == ["tuned baseline: gentler", "half"]
    tuned = by_test.iloc[2]
    assert (tuned["tuned_from"], tuned["tuned_by"], tuned["control_mean"]) == ("3 of 3", "test", pytest.approx(71.5))
    assert "tuned baseline: gentler (best of 3 of 3 rates, by test)" in markdown(text)
    by_validation = table(*rates(own=60.0, half=62.0, fifth=61.0), GRAFTING, half, held=held).iloc[2]
    assert (by_validation["control"], by_validation["tuned_by"]) == ("tuned baseline: gentle", "validation")
    partly = table(*rates(own=60.0, half=62.0), GRAFTING, half, held=held).iloc[2]
    assert (partly["control"], partly["tuned_by"]) == ("tuned baseline: gentler", "test")
    own = table(rows("baseline", 75.0), *rates()[1:], GRAFTING, half, held=held).iloc[2]
    assert own["control"] == "tuned baseline: baseline"
    missing = [rows(name, 0.0, status="missing", recipe=rate) for name, rate in (("baseline", {}), ("gentle", half_rate))]
    gone = rows("gentler", 0.0, status="missing", recipe=fifth_of_it)
    some = table(BASE, GRAFTING, rows("gentle", 71.0, recipe=half_rate), gone, half, held=held)
    assert some["tuned_from"][2] == "2 of 3"
    assert some["what"].tolist()[1] == "not run"
    none = table(*missing, gone, GRAFTING, half, held=held)
    assert (none["control"][2], none["what"][2], none["tuned_from"][2]) == ("tuned baseline", "not run", "0 of 3")


def test_a_name_makes_no_rate_of_a_row():
    """What tunes the baseline's learning rate is known by its recipe: all but the rate is the baseline's."""
    held = {"grafting": ["baseline-lr0.05"]}
    for recipe in ({}, {"lr": 0.05, "schedule": "cosine"}, {"lr": 0.05, "epochs": 400}, {"weight_decay": 1e-4}):
        found = table(BASE, GRAFTING, rows("baseline-lr0.05", 71.0, recipe=recipe), held=held)
        assert found["control"].tolist() == ["baseline-lr0.05"]
    found = table(BASE, GRAFTING, rows("any", 71.0, recipe={"lr": 0.05}), held={"grafting": ["any"]})
    assert found["control"].tolist() == ["any", "tuned baseline: any"]


def test_of_a_metric_where_lower_is_better_a_control_explains_what_it_lowers():
    groups = [[row | {"metric": "rmse"} for row in group] for group in (BASE, rows("grafting", 68.0), rows("half", 69.0))]
    found = whole(*groups, held={"grafting": ["half"]})
    (row,) = found.frame.to_dict("records")
    assert (row["baseline_gain"], row["gain"], row["share_left"]) == pytest.approx((2.0, 1.0, 0.5))
    assert row["what"] == "left"
    assert found.text["gain over control"][0] == "+1.000 [+0.769, +1.231]"
    assert "Gains in units of root mean square error on the test split" in found.footnotes[0]
    slow, fast = ([row | {"metric": "rmse"} for row in rows(*one)] for one in (("a", 71.0), ("b", 69.0)))
    slow, fast = ([row | {"lr": rate} for row in group] for rate, group in ((0.2, slow), (0.05, fast)))
    tuned = table(*groups, slow, fast, held={"grafting": ["a", "b"]})
    assert tuned["control"].tolist()[-1] == "tuned baseline: b"


def test_holm_is_over_the_whole_table():
    found = table(
        BASE, GRAFTING, rows("kd", 73.0), rows("a", 71.9), rows("b", 71.8), held={"grafting": ["a", "b"], "kd": ["a", "b"]}
    )
    assert found["p_holm"].tolist() == pytest.approx(holm(found["p"]).tolist())
    assert (found["p_holm"] >= found["p"]).all()


def test_compute_counts_networks_epochs_and_names_teachers():
    longer = rows("baseline-2x", 71.0, epochs=400)
    taught = rows("dgd", 73.0, networks=2, second=73.0, teacher=TEACHER)
    smooth = rows("kd-smoothing", 71.0, teacher=TEACHER)
    found = whole(BASE, longer, taught, smooth, held={"dgd": ["baseline-2x", "kd-smoothing"]})
    assert found.frame["compute"].tolist() == [2.0, 2.0]
    assert found.frame["control_compute"].tolist() == [2.0, 1.0]
    assert found.text["compute"].tolist() == ["2 + teacher / 2", "2 + teacher / 1 + teacher"]


def test_a_control_has_the_methods_teacher_or_none():
    other = rows("kd-smoothing", 60.0, teacher="cifar_resnet110")
    mine = rows("kd-smoothing", 71.0, teacher=TEACHER)
    found = table(BASE, other, mine, rows("kd", 72.0, teacher=TEACHER), held={"kd": ["kd-smoothing"]})
    assert found["control_mean"].tolist() == pytest.approx([71.0])


def test_without_controls_the_table_says_so(tmp_path):
    empty = whole(BASE, GRAFTING, held={})
    assert empty.frame.empty
    paths = write(empty, tmp_path / "controls")
    assert "names no controls" in (tmp_path / "controls.md").read_text()
    assert all(path.stat().st_size for path in paths)


def test_the_workflow_writes_it(tmp_path):
    pd.DataFrame([*BASE, *GRAFTING, *rows("half", 71.0)], columns=[*COLUMNS]).to_csv(tmp_path / "cells.csv", index=False)
    arguments = ["--cells", tmp_path / "cells.csv", "--out", tmp_path / "tables", "--controls", '{"grafting": ["half"]}']
    tabulate.main([str(argument) for argument in arguments])
    assert pd.read_csv(tmp_path / "tables" / "controls.csv")["what"].tolist() == ["left"]


def test_the_table_is_written_and_printed(tmp_path, capsys):
    found = whole(BASE, GRAFTING, rows("half", 71.0), held={"grafting": ["half", "baseline@best-on-test"]})
    for path in write(found, tmp_path / "controls"):
        assert "half" in path.read_text()
    text = " ".join((tmp_path / "controls.md").read_text().split())
    assert "| cifar100 | cifar_resnet32 | grafting | half | +2.00 [+1.77, +2.23] | +1.00 [+0.77, +1.23] | left | 50 % |" in text
    assert pd.read_csv(tmp_path / "controls.csv")["what"].tolist() == ["left", "left"]
    folder = str(Path(__file__).parents[1] / "results" / "controls-small")  # benchmark.yaml in it names the controls
    assert cli.main(["controls", folder]) == 0
    asked = capsys.readouterr().out
    assert cli.main(["controls", folder, "--config", "controls-small"]) == 0
    assert capsys.readouterr().out == asked
    assert cli.main(["controls", folder, "--json"]) == 0
    assert {row["what"] for row in json.loads(capsys.readouterr().out)["rows"]} <= set(controls.WORDS)
    assert cli.main(["controls", folder, "--config", "controls"]) == 0
    out = capsys.readouterr().out
    assert out.count("not run") >= 100
    assert "baseline-net1" in out
