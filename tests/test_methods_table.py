"""The table of methods, alone and with grafting. Numbers of the fixtures are made up; those expected are worked out by hand."""

import math

import pandas as pd
import pytest
from made_up import cell_of

from dgd.read import statistics
from dgd.read.cells import COLUMNS, conditions
from dgd.read.methods import COLUMNS as METHOD_COLUMNS
from dgd.read.methods import methods_table
from dgd.read.table import Table, markdown, write
from pipeline import tabulate

STUDENT, TEACHER = "cifar_resnet8", "cifar_resnet20"


def rows(
    method, *top1, networks=1, teacher=None, student=STUDENT, speed=(200.0, 200.0, 200.0), epochs=12, **more
) -> list[dict]:
    """A method's rows of cells.csv: one accuracy a seed, or a list of the group's; None where the cell diverged."""
    found = []
    for seed, values in enumerate(top1):
        values = values if isinstance(values, list) else [values] * networks
        for network, value in enumerate(values if values[0] is not None else [None]):
            cell = conditions(cell_of()) | {
                "benchmark": "fake",
                "metric": "top1",
                "dataset": "cifar10",
                "model": student,
                "student": student,
                "teacher": teacher,
            }
            cell |= {"method": method, "seed": seed, "network": network, "networks": networks, "epochs": epochs}
            cell |= {
                "teachers": int(bool(teacher)),
                "status": "diverged" if value is None else "finished",
                "folder": f"{student}/{method}/{seed}",
            }
            if value is not None:
                cell |= {"last": value, "images_per_second": speed[seed % 3]} | more
            found.append(cell)
    return found


def cells(*groups) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group], columns=list(COLUMNS))


def whole(*groups, report="first") -> Table:
    return methods_table(cells(*groups), report)


def table(*groups, report="first") -> pd.DataFrame:
    return whole(*groups, report=report).frame


def row_of(frame, method, **wanted) -> pd.Series:
    for field, value in {"method": method, **wanted}.items():
        frame = frame[frame[field] == value]
    assert len(frame) == 1, f"{len(frame)} rows"
    return frame.iloc[0]


BASE = rows("baseline", 70.0, 71.0, 72.0, speed=(100.0, 200.0, 400.0))
GRAFTING = rows("grafting", [71.0, 50.0], [72.0, 50.0], [73.0, 50.0], networks=2)
KD = rows("kd", 73.0, 74.0, 75.0, teacher=TEACHER, speed=(50.0, 100.0, 100.0))
DGD = rows("dgd", [73.5, 60.0], [74.5, 60.0], [75.5, 60.0], networks=2, teacher=TEACHER, speed=(100.0, 100.0, 100.0))
FOUR = (BASE, GRAFTING, KD, DGD)


def test_a_row_by_hand():
    kd = row_of(table(*FOUR), "kd")
    # t of 2 and of 4 degrees of freedom is 4.30265 and 2.77645; both spreads are 1, so Welch's freedom is 4.
    assert kd[["mean", "sd", "n"]].tolist() == pytest.approx([74, 1, 3])
    assert kd[["low", "high"]].tolist() == pytest.approx([74 - 4.30265 / math.sqrt(3), 74 + 4.30265 / math.sqrt(3)], abs=1e-4)
    half = 2.77645 * math.sqrt(2 / 3)
    assert kd[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([3, 3 - half, 3 + half], abs=1e-4)
    t = 3 / math.sqrt(2 / 3)
    inside = 3 / 4 * t / math.sqrt(1 + t**2 / 4) * (1 - t**2 / (12 + 3 * t**2))  # Student's distribution with 4 degrees
    assert kd["gain_p"] == pytest.approx(1 - inside)
    assert kd[["grafted", "grafted_seeds", "grafted_networks"]].tolist() == ["dgd", "3 of 3", 2]
    assert kd[["grafted_mean", "grafted_sd", "grafted_n"]].tolist() == pytest.approx([74.5, 1, 3])
    grafting = ["grafted_gain", "grafted_gain_low", "grafted_gain_high"]
    assert kd[grafting].tolist() == pytest.approx([0.5, 0.5 - half, 0.5 + half], abs=1e-4)


def test_a_combination_stands_in_its_methods_row():
    found = table(
        *FOUR, rows("crd-1k", 72.0, 73.0, teacher=TEACHER), rows("crd-1k+graft", 74.0, 75.0, networks=2, teacher=TEACHER)
    )
    assert found[["method", "grafted"]].to_numpy().tolist() == [
        ["baseline", "grafting"],
        ["kd", "dgd"],
        ["crd-1k", "crd-1k+graft"],
    ]
    assert row_of(found, "crd-1k")["grafted_gain"] == pytest.approx(2.0)
    base = row_of(found, "baseline")
    assert base["grafted_gain"] == pytest.approx(1.0)  # grafting over the baseline
    assert math.isnan(base["gain"])
    # Of the group, the first network; the second one's 50 is in the mean of a group alone.
    assert base["grafted_mean"] == pytest.approx(72.0)


def test_what_has_no_partner_is_not_lost():
    alone = table(BASE, DGD, rows("baseline-2x", 75.0, epochs=24))
    assert alone["method"].tolist() == ["baseline", "dgd", "baseline-2x"]
    assert alone["grafted"].tolist() == ["", "", ""]
    dgd = row_of(alone, "dgd")
    assert dgd["gain"] == pytest.approx(3.5)
    assert dgd[["grafted_n", "grafted_gain"]].isna().all()


def test_holm_is_over_both_gains_of_the_whole_table():
    found = table(*FOUR)
    raw = [math.nan, row_of(found, "baseline")["grafted_gain_p"], *row_of(found, "kd")[["gain_p", "grafted_gain_p"]]]
    corrected = found[["gain_p_holm", "grafted_gain_p_holm"]].to_numpy().ravel().tolist()
    assert corrected == pytest.approx(statistics.holm(raw).tolist(), nan_ok=True)
    # Three gains: the smallest p three times, the next twice, the last as it is, but none below one before it.
    smallest, middle, largest = sorted(p for p in raw if not math.isnan(p))
    assert sorted(corrected[1:]) == pytest.approx([3 * smallest, 2 * middle, max(2 * middle, largest)])
    assert row_of(found, "kd")["gain_p_holm"] == pytest.approx(3 * smallest)


def test_cost_is_the_median_of_seconds_over_the_baselines():
    # Seconds an image of the training part: baseline 12/100, 12/200, 12/400; grafting 2 x 12 / 200; kd 12/50, 12/100, 12/100.
    found = table(*FOUR, rows("baseline-2x", 74.0, 74.0, 74.0, epochs=24))
    assert row_of(found, "baseline")[["cost", "grafted_cost"]].tolist() == pytest.approx([1.0, 0.12 / 0.06])
    assert row_of(found, "kd")[["cost", "grafted_cost"]].tolist() == pytest.approx([0.12 / 0.06, 0.24 / 0.06])
    assert row_of(found, "baseline-2x")["cost"] == pytest.approx(2.0)
    # Images: networks x epochs.
    assert found["images"].tolist() == pytest.approx([1, 1, 2])
    assert found["grafted_images"].tolist()[:2] == pytest.approx([2, 2])
    assert math.isnan(found["grafted_images"][2])
    unmeasured = rows("kd", 73.0, 74.0, speed=(math.nan, math.nan, math.nan))
    assert math.isnan(row_of(table(BASE, unmeasured), "kd")["cost"])


def test_a_group_also_has_its_mean_its_best_and_its_ensemble():
    dml = rows("dml", [72.0, 74.0], [73.0, 71.0], networks=2, ensemble=76.0)
    found = row_of(table(BASE, dml), "dml")
    assert found[["mean", "group_mean", "group_best", "ensemble"]].tolist() == pytest.approx([72.5, 72.5, 73.5, 76.0])
    assert found["group_best_by"] == "best by test"
    for row in dml:  # on validation images the first network is the better one of both groups
        row["validation_last"] = 60.0 - row["network"]
    seen = table(BASE, dml)
    assert row_of(seen, "dml")[["group_best", "group_best_by"]].tolist() == [72.5, "best by validation"]
    assert row_of(seen, "baseline")[["group_mean", "group_best", "ensemble"]].isna().all()
    text = markdown(whole(BASE, dml[:2], rows("x", [1.0, 2.0], networks=2)))
    assert "by test accuracy itself, which inflates it" in text
    text = markdown(whole(BASE, dml))
    assert "by validation accuracy" in text
    assert "inflates" not in text
    assert "Group:" not in markdown(whole(BASE))


def test_what_a_config_reports_is_the_headline():
    dml = rows("dml", [72.0, 74.0], [73.0, 75.0], networks=2)
    found = [row_of(table(BASE, dml, report=report), "dml") for report in ("first", "mean", "best")]
    assert [row["mean"] for row in found] == pytest.approx([72.5, 73.5, 74.5])
    assert [row["gain"] for row in found] == pytest.approx([1.5, 2.5, 3.5])
    assert "the mean over the networks" in markdown(whole(BASE, dml, report="mean"))
    with pytest.raises(ValueError, match="report must be one of"):
        table(BASE, report="last")


def test_without_a_baseline_there_is_no_gain_and_no_cost():
    kd = row_of(table(KD, DGD), "kd")
    assert kd[["gain", "gain_low", "gain_p_holm", "cost", "images", "grafted_cost"]].isna().all()
    assert kd["grafted_gain"] == pytest.approx(0.5)
    text = whole(KD, DGD).text.iloc[0]
    assert (text["gain"], text["cost"], text["images"]) == ("", "– / –", "– / –")


def test_holes_are_said_and_not_counted():
    wild = rows("sp", 72.0, None, 74.0, teacher=TEACHER)
    missing = rows("sp+graft", None, None, networks=2, teacher=TEACHER)
    for row in missing:
        row["status"] = "missing"
    found = whole(BASE, wild, missing)
    sp = row_of(found.frame, "sp")
    assert sp[["seeds", "n", "mean", "grafted_seeds", "grafted_n"]].tolist() == [
        "2 of 3: 1 diverged",
        2,
        73.0,
        "0 of 2: 2 missing",
        0,
    ]
    text = found.text.iloc[1]
    assert text["last epoch"] == "73.0 ± 1.4 (2 of 3: 1 diverged) [60.3, 85.7]"
    assert (text["with grafting"], text["grafting's gain"]) == ("– (0 of 2: 2 missing)", "")
    one = whole(BASE, rows("sp", 72.0)).text
    assert one["last epoch"][1] == "72.0 (1)"
    assert one["gain"][1] == "+1.0"


def test_status_and_deviations_are_those_of_the_cells():
    plain = rows("at", 72.0, 73.0, method_status="deviates", deviations="squared; from the deepest")
    both = rows("at+graft", 72.0, 73.0, networks=2, method_status="deviates", deviations="squared; from the deepest")
    other = rows("ffsd+graft", 72.0, networks=3, method_status="deviates", deviations="and more")
    groups = (
        BASE,
        plain,
        both,
        rows("ffsd", 72.0, networks=3, method_status="proxy", deviations="one"),
        other,
        rows("kr", None),
    )
    found = table(*groups)
    assert row_of(found, "at")[["status", "deviations"]].tolist() == ["deviates", "squared; from the deepest"]
    assert row_of(found, "ffsd")[["status", "deviations"]].tolist() == ["proxy", "one; with grafting: and more"]
    assert row_of(found, "kr")[["status", "deviations"]].tolist() == ["", ""]  # nothing finished
    assert "| squared; from the deepest" in markdown(whole(*groups))


def test_a_pair_is_compared_within_itself():
    """Two students, one of them also a teacher; one student with two teachers and one baseline."""
    large = rows("baseline", 80.0, 82.0, student=TEACHER)
    other = rows("kd", 60.0, 61.0, teacher="cifar_resnet110")
    both = whole(large, *FOUR, other)
    found = both.frame
    assert found[["student", "teacher", "method", "role"]].to_numpy().tolist() == [
        [TEACHER, "", "baseline", "teacher"],
        [STUDENT, "", "baseline", "student"],
        [STUDENT, TEACHER, "kd", "student"],
        [STUDENT, "cifar_resnet110", "kd", "student"],
    ]
    assert row_of(found, "kd", teacher="cifar_resnet110")["grafted"] == ""  # dgd had the other teacher
    assert row_of(found, "kd", teacher="cifar_resnet110")["gain"] == pytest.approx(60.5 - 71)
    assert row_of(found, "baseline", student=TEACHER)["cost"] == 1.0
    text = both.text["student ← teacher"].tolist()
    assert text == [f"{TEACHER} (teacher)", STUDENT, f"{STUDENT} ← {TEACHER}", f"{STUDENT} ← cifar_resnet110"]


def test_it_is_written_in_three_forms(tmp_path):
    csv, md, tex = write(whole(*FOUR), tmp_path / "methods")
    text = " ".join(md.read_text().split())
    row = "kd | | 1 + teacher | 74.0 ± 1.0 (3) [71.5, 76.5] | +3.0 [+0.7, +5.3] | 0.064 | |"
    assert f"| cifar10 | cifar_resnet8 ← cifar_resnet20 | {row} 74.5 ± 1.0 (3) [72.0, 77.0] | +0.5 [-1.8, +2.8] |" in text
    assert "| 2.00 / 4.00 | 1 / 2 |" in text
    for word in ("last epoch", "t-interval", "No interval is corrected", "Holm", "shared machine", "reconstruction", "+graft"):
        assert word in text
    numbers = pd.read_csv(csv)
    assert tuple(numbers.columns) == METHOD_COLUMNS
    assert numbers["mean"].tolist() == [71.0, 74.0]
    assert pd.api.types.is_numeric_dtype(numbers["grafted_gain_low"])
    body = "".join(line for line in tex.read_text().splitlines() if not line.startswith("%"))
    assert r"74.0 $\pm$ 1.0 (3)" in body
    assert body.isascii()


def test_it_can_be_made_from_any_csv(tmp_path):
    cells(*FOUR).to_csv(tmp_path / "cells.csv", index=False)
    again = pd.read_csv(tmp_path / "cells.csv")
    assert markdown(methods_table(again)) == markdown(whole(*FOUR))
    assert methods_table(again.iloc[:0]).frame.empty
    write(methods_table(again.iloc[:0]), tmp_path / "empty")


def test_of_a_metric_where_lower_is_better_a_gain_is_what_is_lower():
    base = [row | {"metric": "rmse"} for row in BASE]
    better = [row | {"metric": "rmse"} for row in rows("dml", [66.0, 64.0], [67.0, 65.0], [68.0, 66.0], networks=2)]
    found = whole(base, better)
    dml = row_of(found.frame, "dml")
    assert (dml["gain"], dml["group_best"], dml["group_mean"]) == pytest.approx((71 - 67, 65, 66))
    assert found.text.iloc[1]["last epoch"] == "67.000 ± 1.000 (3) [64.516, 69.484]"
    assert "Last epoch: root mean square error on the test split, of the first network" in found.footnotes[0]
    assert "by test error itself" in markdown(found)


def test_the_workflow_writes_it(tmp_path):
    cells(*FOUR).to_csv(tmp_path / "cells.csv", index=False)
    tabulate.main(["--cells", str(tmp_path / "cells.csv"), "--out", str(tmp_path / "tables")])
    assert pd.read_csv(tmp_path / "tables" / "methods.csv")["method"].tolist() == ["baseline", "kd"]
    assert {path.name for path in (tmp_path / "tables").glob("methods.*")} == {"methods.csv", "methods.md", "methods.tex"}
