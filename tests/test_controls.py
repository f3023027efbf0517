"""What is left of a gain after each control. Every number of the fixtures is made up."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgd import cli, controls
from dgd.statistics import Difference, difference, holm, smallest_difference
from dgd.tables import COLUMNS
from pipeline import tabulate

STUDENT, TEACHER = "cifar_resnet32", "cifar_resnet56"
NOISE = (-0.2, -0.1, 0.0, 0.1, 0.2)


def rows(method, top1, *, seeds=5, networks=1, epochs=200, teacher=None, status="finished", second=None, **more) -> list[dict]:
    """A method's rows of cells.csv: `top1` plus `NOISE`; `second` is the accuracy of the other networks."""
    found = []
    for seed in range(seeds):
        for network in range(networks if status == "finished" else 1):
            value = (top1 if network == 0 else second) + NOISE[seed]
            cell = {"dataset": "cifar100", "model": STUDENT, "student": STUDENT, "teacher": teacher, "method": method}
            cell |= {"seed": seed, "network": network, "status": status, "folder": f"cifar100/{STUDENT}/{method}/seed{seed}"}
            cell |= {"networks": networks, "teachers": int(bool(teacher)), "epochs": epochs}
            if status == "finished":
                cell |= {"top1_last": value, "top1_best_on_test": value + 0.5, "ensemble_top1": math.nan}
                cell |= {key: number + NOISE[seed] for key, number in more.items()}
            found.append(cell)
    return found


def table(*groups, held, report="first") -> pd.DataFrame:
    columns = list(dict.fromkeys((*COLUMNS, "ensemble_top1", "validation_top1_last")))
    cells = pd.DataFrame([row for group in groups for row in group], columns=columns)
    return controls.controls_table(cells, held, report)


BASE = rows("baseline", 70.0)
GRAFTING = rows("grafting", 72.0, networks=2, second=71.0)


def test_a_row_is_welchs_difference_beside_the_gain_over_the_baseline():
    row = table(BASE, GRAFTING, rows("half", 71.0), held={"grafting": ["half"]}).iloc[0]
    ours, theirs = [72 + noise for noise in NOISE], [71 + noise for noise in NOISE]
    expected = difference(ours, theirs)
    assert (row["gain"], row["low"], row["high"], row["p"]) == pytest.approx(tuple(expected))
    assert row["baseline_gain"] == pytest.approx(2.0)
    assert row["share_left"] == pytest.approx(0.5)
    assert row["smallest_seen"] == pytest.approx(smallest_difference(float(np.std(NOISE, ddof=1)), 5))
    assert (row["mean"], row["control_mean"], row["n"], row["control_n"]) == (pytest.approx(72), pytest.approx(71), 5, 5)
    assert row["what"] == "left"


@pytest.mark.parametrize(
    ("gain", "over_baseline", "expected"),
    [
        ((1.0, 0.2, 1.8), (2.0, 1.0, 3.0), "left"),
        ((0.1, -0.5, 0.7), (2.0, 1.0, 3.0), "explained"),
        ((0.0, 0.0, 0.0), (2.0, 1.0, 3.0), "explained"),
        ((0.1, -2.5, 2.7), (2.0, 1.0, 3.0), "inconclusive"),  # as much as the whole gain fits too
        ((0.1, -1.8, 2.0), (2.0, 1.0, 3.0), "inconclusive"),
        ((-1.0, -1.5, -0.5), (2.0, 1.0, 3.0), "reversed"),
        ((1.0, 0.2, 1.8), (0.4, -0.1, 0.9), "inconclusive"),  # no gain over the baseline to explain
        ((-1.0, -1.5, -0.5), (0.4, 0.0, 0.8), "inconclusive"),
        ((1.0, math.nan, math.nan), (2.0, 1.0, 3.0), "inconclusive"),
        ((1.0, 0.2, 1.8), (2.0, math.nan, math.nan), "inconclusive"),
    ],
)
def test_the_word(gain, over_baseline, expected):
    assert controls.word(Difference(*gain, 0.5), Difference(*over_baseline, 0.5)) == expected


@pytest.mark.parametrize("line", [line for line in controls.__doc__.splitlines() if line.startswith("| 5 ")])
def test_how_often_each_word_is_said(line):
    """The module's table, on fewer draws: three standard errors of a share of 600 are at most 6.1 points."""
    seeds, gain, explains, *expected = (part.strip() for part in line.strip("|").split("|"))
    gain, share = float(gain.split()[0]), {"nothing": 0.0, "half": 0.5, "all": 1.0}[explains]
    draw = np.random.default_rng(0)
    words = []
    for _ in range(600):
        method, control, base = (draw.normal(mean, 1, int(seeds)) for mean in (gain, gain * share, 0))
        words.append(controls.word(difference(method, control), difference(method, base)))
    found = [100 * words.count(word) / len(words) for word in controls.WORDS[:4]]
    assert found == pytest.approx([float(value) for value in expected], abs=6.2)


def test_readings():
    both = rows("independent", 70.0, networks=2, second=71.0, ensemble_top1=71.8, validation_top1_last=50.0)
    for row in both:
        row["validation_top1_last"] -= row["network"]  # the first one is better on validation images
    held = ["independent", "independent@last", "independent@mean", "independent@best", "independent@ensemble"]
    found = table(BASE, GRAFTING, both, held={"grafting": held})
    assert found["control_mean"].tolist() == pytest.approx([70.0, 70.0, 70.5, 70.0, 71.8])
    for row in both:
        row["validation_top1_last"] = math.nan
    found = table(BASE, GRAFTING, both, held={"grafting": held})
    assert found["control_mean"].tolist() == pytest.approx([70.0, 70.0, 70.5, 71.0, 71.8])  # by test accuracy
    assert found["mean"].tolist() == pytest.approx([72.0] * 5)
    assert found["compute"].tolist() == found["control_compute"].tolist() == [2.0] * 5


def test_both_sides_are_read_at_their_best_epoch_or_neither():
    late = rows("late", 71.0)
    for row in late:
        row["top1_best_on_test"] += 5
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
    found = table(
        BASE, GRAFTING, missing, failed, held={"grafting": ["later", "wild", "nowhere", "baseline@ensemble"], "later": ["wild"]}
    )
    assert found["what"].tolist() == ["not run"] * 5
    assert found["gain"].isna().all()
    assert found["p_holm"].isna().all()
    assert found["baseline_gain"].tolist()[:4] == pytest.approx([2.0] * 4)
    assert "not run" in controls.markdown(found)
    alone = table(rows("baseline", 70.0, seeds=1), rows("grafting", 72.0, seeds=1), held={"grafting": ["baseline"]}).iloc[0]
    assert (alone["gain"], alone["what"]) == (pytest.approx(2.0), "inconclusive")


def test_the_tuned_baseline_is_the_best_rate_by_validation_or_else_by_test():
    def rates(**validation):
        return [
            rows("baseline", 70.0, validation_top1_last=validation.get("own", math.nan)),
            rows("baseline-lr0.05", 71.0, validation_top1_last=validation.get("half", math.nan)),
            rows("baseline-lr0.02", 71.5, validation_top1_last=validation.get("fifth", math.nan)),
        ]

    held = {"grafting": ["baseline-lr0.05", "baseline-lr0.02", "half", "baseline-lr0.05@best-on-test"]}
    half = rows("half", 71.0)
    by_test = table(*rates(), GRAFTING, half, held=held)
    assert by_test["control"].tolist()[2:4] == ["tuned baseline: baseline-lr0.02", "half"]
    tuned = by_test.iloc[2]
    assert (tuned["tuned_from"], tuned["tuned_by"], tuned["control_mean"]) == ("3 of 3", "test", pytest.approx(71.5))
    assert "tuned baseline: baseline-lr0.02 (best of 3 of 3 rates, by test)" in controls.markdown(by_test)
    by_validation = table(*rates(own=60.0, half=62.0, fifth=61.0), GRAFTING, half, held=held).iloc[2]
    assert (by_validation["control"], by_validation["tuned_by"]) == ("tuned baseline: baseline-lr0.05", "validation")
    partly = table(*rates(own=60.0, half=62.0), GRAFTING, half, held=held).iloc[2]
    assert (partly["control"], partly["tuned_by"]) == ("tuned baseline: baseline-lr0.02", "test")
    own = table(rows("baseline", 75.0), *rates()[1:], GRAFTING, half, held=held).iloc[2]
    assert own["control"] == "tuned baseline: baseline"
    some = table(BASE, GRAFTING, rows("baseline-lr0.05", 71.0), half, held=held)
    assert some["tuned_from"][2] == "2 of 3"
    assert some["what"].tolist()[1] == "not run"
    none = table(GRAFTING, half, held=held)
    assert (none["control"][2], none["what"][2], none["tuned_from"][2]) == ("tuned baseline", "not run", "0 of 3")


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
    found = table(BASE, longer, taught, smooth, held={"dgd": ["baseline-2x", "kd-smoothing"]})
    assert found["compute"].tolist() == [2.0, 2.0]
    assert found["control_compute"].tolist() == [2.0, 1.0]
    assert controls.to_text(found)["compute"].tolist() == ["2 + teacher / 2", "2 + teacher / 1 + teacher"]


def test_a_control_has_the_methods_teacher_or_none():
    other = rows("kd-smoothing", 60.0, teacher="cifar_resnet110")
    mine = rows("kd-smoothing", 71.0, teacher=TEACHER)
    found = table(BASE, other, mine, rows("kd", 72.0, teacher=TEACHER), held={"kd": ["kd-smoothing"]})
    assert found["control_mean"].tolist() == pytest.approx([71.0])


def test_without_controls_the_table_says_so(tmp_path):
    empty = table(BASE, GRAFTING, held={})
    assert empty.empty
    paths = controls.write(empty, tmp_path / "controls")
    assert "names no controls" in (tmp_path / "controls.md").read_text()
    assert all(path.stat().st_size for path in paths)


def test_the_workflow_writes_it(tmp_path):
    pd.DataFrame([*BASE, *GRAFTING, *rows("half", 71.0)], columns=[*COLUMNS]).to_csv(tmp_path / "cells.csv", index=False)
    arguments = ["--cells", tmp_path / "cells.csv", "--out", tmp_path / "tables", "--controls", '{"grafting": ["half"]}']
    tabulate.main([str(argument) for argument in arguments])
    assert pd.read_csv(tmp_path / "tables" / "controls.csv")["what"].tolist() == ["left"]


def test_it_is_read_without_torch():
    code = "import sys, dgd.controls; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"DGD_NETWORKS": "no"}).returncode == 0


def test_the_table_is_written_and_printed(tmp_path, capsys):
    found = table(BASE, GRAFTING, rows("half", 71.0), held={"grafting": ["half", "baseline@best-on-test"]})
    for path in controls.write(found, tmp_path / "controls"):
        assert "half" in path.read_text()
    text = " ".join((tmp_path / "controls.md").read_text().split())
    assert "| cifar100 | cifar_resnet32 | grafting | half | +2.00 [+1.77, +2.23] | +1.00 [+0.77, +1.23] | left | 50 % |" in text
    assert pd.read_csv(tmp_path / "controls.csv")["what"].tolist() == ["left", "left"]
    config = Path(__file__).parents[1] / "config" / "controls.yaml"
    assert cli.main(["controls", str(tmp_path / "results"), "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert out.count("not run") >= 100
    assert "baseline-net1" in out
