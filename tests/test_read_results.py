"""The results table and the filters table: ours beside the published numbers."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import R56, R110, cell_of, fake_benchmark, fake_cell, row_of

from dgd.read import statistics
from dgd.read.cells import collect
from dgd.read.filter_sets import filters_table
from dgd.read.papers import Conditions, load, read_papers
from dgd.read.results import results_table
from dgd.read.table import Table, latex, markdown, write

FILES = [Path(__file__).parent.parent / "papers" / f"{name}.yaml" for name in ("dgd", "filter-grafting")]
NORMALISED = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}  # as published
WITH_CONDITIONS = read_papers(FILES)
PAPERS = WITH_CONDITIONS.assign(conditions=[Conditions()] * len(WITH_CONDITIONS))  # the made-up cells meet nobody's


def results(folder, papers=PAPERS, report="first") -> pd.DataFrame:
    """Return the numbers of the results table of a folder."""
    return results_table(collect(folder), papers, report).frame


@pytest.fixture
def benchmark(tmp_path):
    return fake_benchmark(tmp_path / "fake")


def test_results_rows_and_their_order(benchmark):
    table = results(benchmark)
    assert table[["student", "teacher", "method", "role"]].to_numpy().tolist() == [
        [R110, "", "baseline", "teacher"],
        [R56, "", "baseline", "student"],
        [R56, R110, "kd", "student"],
        [R56, "", "grafting", "student"],
        [R56, R110, "dgd", "student"],
    ]


def test_results_numbers_are_those_of_the_statistics(benchmark):
    table = results(benchmark)
    kd = row_of(table, method="kd")
    ours, base = [72.0, 72.1, 72.2], [70.0, 70.1, 70.2]
    assert kd[["mean", "sd", "n", "low", "high"]].tolist() == pytest.approx(list(statistics.mean_interval(ours)))
    gain = statistics.difference(ours, base)
    assert kd[["gain", "gain_low", "gain_high", "gain_p"]].tolist() == pytest.approx(list(gain))
    assert (kd["best_on_test"], kd["validation_selected"]) == pytest.approx((72.6, 71.85))
    raw = table["gain_p"].dropna()
    assert table["gain_p_holm"].dropna().tolist() == pytest.approx(statistics.holm(raw).tolist())
    assert len(raw) == 3
    # The paper's number is of each run's best epoch, and what it is held against too.
    low, high = statistics.prediction_interval([value + 0.5 for value in ours])
    assert (kd["predict_low"], kd["predict_high"]) == pytest.approx((low, high))
    held = statistics.difference([value + 0.5 for value in ours], [value + 0.5 for value in base])
    assert kd[["held_gain", "held_low", "held_high"]].tolist() == pytest.approx(list(held[:3]))
    assert kd["paper_reported"] == "best on test"
    assert kd["paper_within"] == ("yes" if low <= 73.42 <= high else "no") == "no"


def test_the_first_network_is_reported_and_the_group_beside_it(benchmark):
    grafting = row_of(results(benchmark), method="grafting")
    assert grafting["mean"] == pytest.approx(69.9)
    assert grafting["mean_of_networks"] == pytest.approx((69.9 + 50) / 2)


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
        "best": (73.0, "best by validation", "best validation top-1 accuracy at the last epoch"),
    }
    for report, (mean, how, words) in expected.items():
        whole = results_table(cells, PAPERS, report)
        table = whole.frame
        row = row_of(table, method="grafting")
        assert (row["mean"], row["gain"], row["n"], row["report"]) == (mean, mean - 71, 3, how)
        assert row["best_on_test"] == mean + 0.5
        assert row["validation_selected"] == mean - 0.25
        assert row["mean_of_networks"] == 74
        assert row["status"] == "3 of 4: 1 diverged"
        assert row_of(table, method="baseline")["report"] == "first"
        assert words in markdown(whole)
    pd.testing.assert_frame_equal(results_table(cells, PAPERS).frame, results_table(cells, PAPERS, "first").frame)
    by_test = results_table(cells.assign(validation_last=math.nan), PAPERS, "best")
    row = row_of(by_test.frame, method="grafting")
    assert (row["mean"], row["report"]) == (75, "best by test")
    assert "a choice made on the test split itself" in markdown(by_test)
    with pytest.raises(ValueError, match="report must be one of first, mean, best, not 'last'"):
        results_table(cells, PAPERS, "last")


def test_the_minimum_detectable_effect_is_that_of_the_pooled_spread(benchmark):
    whole = results_table(collect(benchmark), PAPERS)
    table = whole.frame
    kd = row_of(table, method="kd")
    assert kd["minimum_detectable_effect"] == pytest.approx(statistics.minimum_detectable_effect(0.1, 3))
    dgd = row_of(table, method="dgd")  # sd of two seeds 0.1 apart beside three
    pooled = math.sqrt((0.1**2 / 2 + 2 * 0.1**2) / 3)
    assert dgd["minimum_detectable_effect"] == pytest.approx(statistics.minimum_detectable_effect(pooled, (2, 3)))
    assert table.loc[table["method"] == "baseline", "minimum_detectable_effect"].isna().all()
    text = markdown(whole)
    assert "minimum detectable effect" in text.splitlines()[0]
    assert f"| {kd['minimum_detectable_effect']:.2f} " in text
    assert "80 % of cases" in text


def part(ours, theirs, typical=math.nan) -> tuple[float, float, float]:
    """Return gain, standard error and degrees of freedom of paired differences, moderated by a typical variance."""
    differences = [a - b for a, b in zip(ours, theirs)]
    variance, freedom = statistics.moderated(np.var(differences, ddof=1), len(differences), typical)
    return np.mean(differences), math.sqrt(variance / len(differences)), freedom


def test_gains_are_pooled_over_settings(tmp_path):
    other = "cifar_resnet32"
    fake_cell(tmp_path, cell_of(student=R110), [74.0])
    for seed in range(3):
        for student, dataset, gain in ((R56, "cifar100", 2.0), (other, "cifar100", 1.0), (R56, "cifar10", 0.0)):
            fake_cell(tmp_path, cell_of("baseline", seed, student, dataset=dataset), [70.0 + 0.1 * seed])
            if dataset == "cifar100" or seed == 0:  # on CIFAR-10 one seed: no spread
                cell = cell_of("kd", seed, student, R110, dataset)
                fake_cell(tmp_path, cell, [70.0 + gain - 0.1 * seed])
        fake_cell(tmp_path, cell_of("grafting", seed), [71.0])
        for teacher in (R110, "cifar_resnet20"):  # two teachers, one student, one baseline: one setting
            fake_cell(tmp_path, cell_of("dgd", seed, teacher=teacher, model=f"{R56}-by-{teacher}"), [72.0])
    cells = collect(tmp_path)
    whole = results_table(cells, PAPERS)
    table = whole.frame
    base, first, second = [70.0, 70.1, 70.2], [72.0, 71.9, 71.8], [71.0, 70.9, 70.8]
    # Of ResNet-56, three methods differ from the baseline: kd, grafting, and dgd, of two teachers that make no difference here.
    typical = statistics.typical_variance([[2.0, 1.8, 1.6], [1.0, 0.9, 0.8], [2.0, 1.9, 1.8]])
    expected = statistics.pooled_gain([part(first, base, typical), part(second, base)])
    assert expected.gain == pytest.approx(1.3)
    rows = table[table["method"] == "kd"]
    assert len(rows) == 3
    for row in rows[["pooled_gain", "pooled_low", "pooled_high", "pooled_settings"]].to_numpy():
        assert row == pytest.approx(list(expected))
    assert table.loc[table["method"] != "kd", "pooled_settings"].isna().all()
    text = markdown(whole)
    assert f"kd +1.30 [{expected.low:+.2f}, {expected.high:+.2f}] over 2 settings." in text
    assert "Satterthwaite" in text
    assert "Satterthwaite" not in markdown(results_table(cells[cells["student"] != other], PAPERS))


def test_two_seeds_are_pooled_and_one_is_not(tmp_path):
    for seed in range(2):
        for student, gain in ((R56, 2.0), ("cifar_resnet32", 1.0)):
            fake_cell(tmp_path, cell_of("baseline", seed, student), [70.0 + seed])
            fake_cell(tmp_path, cell_of("kd", seed, student, R110), [70.0 + gain - seed])
            if student == R56 or seed == 0:
                fake_cell(tmp_path, cell_of("grafting", seed, student), [71.0 + seed])
    table = results(tmp_path)
    kd = table[table["method"] == "kd"]
    expected = statistics.pooled_gain([part([72.0, 71.0], [70.0, 71.0]), part([71.0, 70.0], [70.0, 71.0])])
    assert kd["pooled_settings"].tolist() == [2, 2]
    assert kd["pooled_gain"].tolist() == pytest.approx([0.5, 0.5]) == [expected.gain] * 2
    assert kd["pooled_low"].tolist() == pytest.approx([expected.low] * 2)
    # One of grafting's two settings has one seed: what is left is one setting, of which nothing is averaged.
    assert table.loc[table["method"] == "grafting", "pooled_settings"].isna().all()


def test_what_did_not_finish_is_said_and_not_counted(benchmark):
    dgd = row_of(results(benchmark), method="dgd")
    assert (dgd["n"], dgd["status"]) == (2, "2 of 3: 1 diverged")
    assert dgd["mean"] == pytest.approx(72.55)


def test_table_8_is_the_paper_column_and_the_others_stand_beside(benchmark):
    table = results(benchmark)
    grafting = row_of(table, method="grafting")
    assert (grafting["paper"], grafting["paper_source"]) == ("72.00 ± 0.03 (n=5)", "dgd, Table 8")
    assert grafting["paper_others"] == (
        "72.60 (dgd, Table 7); 73.09 (filter-grafting, L1 against entropy); "
        "grafting-dlr 72.83 (filter-grafting, README dlr); "
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
    table = results(tmp_path)
    four = row_of(table, method="dgd-1t4s")
    assert (four["paper_mean"], four["paper_source"]) == (75.45, "dgd, Table 10")
    assert four["paper_baseline"] == "72.40 ± 0.32 (n=5) (dgd, Table 8)"  # Table 10 has no baseline of its own
    two = row_of(table, method="dgd")
    assert two["paper_mean"] == 75.55
    assert two["paper_others"] == "75.18 ± 0.12 (dgd, Table 10); 75.24 (dgd, Figure accuracy curve)"


def test_another_teacher_is_another_cell(tmp_path):
    fake_cell(tmp_path, cell_of("kd", teacher="cifar_resnet20"))
    row = row_of(results(tmp_path), method="kd")
    assert row["paper"] == ""
    assert math.isnan(row["paper_gain"])


def test_a_student_of_two_teachers_has_a_row_for_each(tmp_path):
    for teacher in (R110, "cifar_resnet20"):
        fake_cell(tmp_path, cell_of(student=teacher))
        fake_cell(tmp_path, cell_of("kd", teacher=teacher, model=f"{R56}-by-{teacher}"))
    fake_cell(tmp_path, cell_of())
    table = results(tmp_path)
    assert len(table) == 5
    assert table["gain"].notna().sum() == 2


def test_verdicts(benchmark):
    table = results(benchmark)
    assert row_of(table, method="kd")["verdict"] == "reproduced"  # about +2.0 where +1.55 was published
    grafting = row_of(table, method="grafting")
    assert grafting["welch_verdict"] == statistics.verdict((-0.427, 0.027), 0.13) == "not reproduced"
    assert (grafting["verdict"], grafting["gain_analysis"]) == ("inconclusive", "blocked")  # by differences of 0, 0.2 and 0.4
    assert "| inconclusive (Welch: not reproduced) |" in markdown(results_table(collect(benchmark), PAPERS))
    assert set(table.loc[table["method"] == "baseline", "verdict"]) == {""}
    unpublished = results(benchmark, read_papers([]))
    assert row_of(unpublished, method="kd")["verdict"] == "direction only"
    assert row_of(unpublished, method="kd")["paper"] == ""


def test_a_published_gain_is_held_against_what_is_as_published_only(tmp_path):
    recipe = {"epochs": 200, "precision": "fp32", "normalise": NORMALISED}

    def table(name, teacher=None, data=None, **changes):
        def cell(*args, **more):
            return cell_of(*args, recipe=recipe | changes, data=data, **more)

        fake_cell(tmp_path / name, cell_of(student=R110, recipe=recipe | (teacher or {})), [74.0])
        for seed in range(3):
            for method, top1, by in (("baseline", 70.0, None), ("kd", 72.0, R110)):
                fake_cell(tmp_path / name, cell(method, seed, teacher=by), [top1 + 0.1 * seed])
        return results_table(collect(tmp_path / name), WITH_CONDITIONS)

    whole = table("published")
    kd = row_of(whole.frame, method="kd")
    assert (kd["scale"], kd["verdict"], kd["paper_within"]) == ("as published", "reproduced", "no")
    assert kd["paper_gain"] == pytest.approx(73.42 - 71.87)
    assert "would not be plausible as one more run of ours" in markdown(whole)
    held = "held against the gain of our best epochs, which counts for the verdict: cifar_resnet56 ← cifar_resnet110 kd"
    assert f"{held} (cifar100) +2.00 [" in markdown(whole)
    assert whole.text.loc[2, ["departs in", "precision"]].tolist() == ["as published", "fp32"]
    others = {
        "short": ({"epochs": 20}, "20 of 200 epochs"),
        "few": ({"data": {"train_images": 5000}}, "5,000 training images"),
        "decay": ({"weight_decay": 1e-4}, "weight decay 0.0001"),
        "cosine": ({"schedule": "cosine"}, "schedule cosine"),
        "rounded": ({"precision": "bf16"}, "precision bf16 (immaterial up to 16 epochs: results/fast-path)"),
        "split": ({"data": {"validation_images": 1000}}, "1,000 images held out for validation"),
        "taught": ({"teacher": {"epochs": 100}}, "teacher: 100 of 200 epochs"),
    }
    for name, (changes, scale) in others.items():
        found = table(name, **changes)
        kd = row_of(found.frame, method="kd")
        assert (kd["scale"], kd["verdict"], kd["paper_within"]) == (scale, "direction only", "")
        assert math.isnan(kd["paper_gain"])
        assert f"Not as published ({scale})" in markdown(found)
        assert found.text.loc[2, "departs in"] == scale
        assert kd["paper"] == "73.42 ± 0.29 (n=5)"


def test_a_departure_says_whose_it_is(tmp_path):
    """A baseline that was trained otherwise is not the method's own departure."""
    recipe = {"epochs": 200, "precision": "fp32", "normalise": NORMALISED}
    fake_cell(tmp_path, cell_of(student=R110, recipe=recipe | {"lr": 0.02}))
    fake_cell(tmp_path, cell_of(recipe=recipe | {"batch_size": 64, "lr": 0.05}))
    fake_cell(tmp_path, cell_of("kd", teacher=R110, recipe=recipe | {"lr": 0.05}))
    kd = row_of(results(tmp_path, WITH_CONDITIONS), method="kd")
    assert kd["scale"] == "lr 0.05, baseline: batch 64, teacher: lr 0.02"


def test_one_seed_is_inconclusive(tmp_path):
    fake_cell(tmp_path, cell_of())
    fake_cell(tmp_path, cell_of("grafting"), [80.0], validation=False)
    table = results_table(collect(tmp_path), PAPERS)
    row = row_of(table.frame, method="grafting")
    assert (row["gain"], row["verdict"], row["n"]) == (8.0, "inconclusive", 1)
    assert math.isnan(row["sd"])
    assert math.isnan(row["validation_selected"])
    assert "80.00 (n=1) " in markdown(table)


def test_seeds_of_different_recipes_are_not_averaged(tmp_path):
    fake_cell(tmp_path, cell_of(seed=0))
    fake_cell(tmp_path, cell_of(seed=1, recipe={"epochs": 200}))
    with pytest.raises(ValueError, match="cifar100 cifar_resnet56 baseline: seeds differ in epochs"):
        results(tmp_path)


def test_tables_can_be_made_from_the_csv(benchmark, tmp_path):
    cells = collect(benchmark)
    cells.to_csv(tmp_path / "cells.csv", index=False)
    again = pd.read_csv(tmp_path / "cells.csv")
    for table in (results_table, filters_table):
        pd.testing.assert_frame_equal(table(again, PAPERS).frame, table(cells, PAPERS).frame)
        assert markdown(table(again, PAPERS)) == markdown(table(cells, PAPERS))


def test_filters_table_stands_beside_tables_7_and_9(benchmark):
    whole = filters_table(collect(benchmark), PAPERS)
    table = whole.frame
    assert len(table) == 5 * 2  # teacher, baseline, kd, grafting, dgd at two thresholds
    kd = row_of(table, method="kd", threshold=0.1)
    assert (kd["paper_mean_l1_valid"], kd["paper_mean_l1_invalid"]) == (26.914, 0.0)
    dgd = row_of(table, method="dgd", threshold=1.0)
    assert (dgd["paper_mean_l1_valid"], dgd["paper_source"], dgd["n"]) == (18.119, "dgd, Table 9", 2)
    baseline = row_of(table, method="baseline", threshold=1.0, student=R56)
    assert (baseline["paper_valid_count"], baseline["paper_invalid_count"]) == (1961, 71)
    assert (baseline["invalid_ratio"], baseline["baseline_invalid"]) == (0.5, 2)
    assert math.isnan(row_of(table, student=R110, threshold=1.0)["paper_mean_l1_valid"])
    text = markdown(whole)
    assert "12.126 / 0.075 (1961 / 71)" in text
    assert "by position" in text


def test_a_published_number_of_some_layers_stands_under_the_filters_table(tmp_path):
    student = "cifar_mobilenetv2"
    fake_cell(tmp_path, cell_of(student=student))
    whole = filters_table(collect(tmp_path), PAPERS)
    assert whole.frame["paper_invalid_count"].isna().all()
    note = "Published for cifar100, cifar_mobilenetv2, baseline at threshold 1, counting conv3 filters only: invalid count 104"
    assert f"{note} (dgd, Figure filter L1). Ours: as published." in whole.footnotes


def test_an_empty_benchmark_and_one_without_results_have_tables(tmp_path):
    for table in (results_table, filters_table):
        assert table(collect(tmp_path), PAPERS).frame.empty
        markdown(table(collect(tmp_path), PAPERS))
    frame = collect(tmp_path, [cell_of(seed=0), cell_of("kd", 0, teacher=R110)])
    table = results_table(frame, PAPERS)
    assert (table.frame["n"] == 0).all()
    assert table.frame["status"].tolist() == ["0 of 1: 1 missing"] * 2
    markdown(table)
    markdown(filters_table(frame, PAPERS))


def test_a_folder_of_images_is_the_data_set_of_its_name(tmp_path):
    fake_cell(tmp_path, cell_of(dataset="imagefolder:/data/imagenet", student="resnet18"), [69.0])
    assert results(tmp_path)["paper_mean"].tolist() == [69.15]


def test_of_a_metric_where_lower_is_better_a_gain_is_what_is_lower(tmp_path):
    """Nothing in the readers knows regression: the table's signs, formats and words come from the metric."""
    for seed in range(3):
        fake_cell(tmp_path, cell_of("baseline", seed, task="regression"), [5.0 + 0.1 * seed])
        fake_cell(tmp_path, cell_of("grafting", seed, task="regression"), [4.0 + 0.1 * seed, 4.5])
    whole = results_table(collect(tmp_path), PAPERS)
    row = row_of(whole.frame, method="grafting")
    expected = statistics.difference([5.0, 5.1, 5.2], [4.0, 4.1, 4.2])
    assert row[["gain", "gain_low", "gain_high", "gain_p"]].tolist() == pytest.approx(list(expected))
    assert (row["verdict"], row["metric"], row["paper"]) == ("direction only", "rmse", "")
    text = markdown(whole)
    assert "| 4.100 ± 0.100 (n=3) [3.852, 4.348] " in text
    assert "Root mean square error on the test split, of the first network of the group" in text
    assert "the minimum over epochs" in text
    assert "percent" not in text
    best = row_of(results_table(collect(tmp_path), PAPERS, "best").frame, method="grafting")
    assert best["mean"] == pytest.approx(4.1)


def test_write(benchmark, tmp_path):
    table = results_table(collect(benchmark), PAPERS)
    csv, md, tex = write(table, tmp_path / "tables" / "results")
    assert [path.name for path in (csv, md, tex)] == ["results.csv", "results.md", "results.tex"]
    numbers = pd.read_csv(csv)
    assert numbers["mean"].tolist() == pytest.approx(table.frame["mean"].tolist())
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


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_every_table_compiles(tmp_path):
    signs = "% $ & # _ { } ~ ^ \\ < > ± ← → × ≤ ≥ – − … é"
    odd = pd.DataFrame({"a & b": ["[1]", "*", signs], "x_y": ["", "[0, 1]", "$"]}, dtype=str)
    tables = [odd, odd[:0], pd.DataFrame()]
    paths = sorted(Path("results").glob("*/tables/*.md"))
    for path in paths:  # as they are written now, from what they say
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in path.read_text().splitlines() if line.startswith("|")]
        header, *rows = (
            [cell.strip().replace("\\|", "|") for cell in row] for row in rows if not row[0].startswith((":-", "--"))
        )
        tables.append(pd.DataFrame(rows, columns=header))
    made = [latex(Table(table, table, ("A note with 100 % and {.",))) for table in tables]
    body = "\n\\newpage\\noindent\n".join(made)
    page = r"\documentclass{article}\usepackage{booktabs}\usepackage[paperwidth=500cm]{geometry}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{page}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert len(paths) > 50


def test_write_again_writes_the_same_bytes(benchmark, tmp_path):
    table = results_table(collect(benchmark), PAPERS)
    first = [path.read_bytes() for path in write(table, tmp_path / "a")]
    assert [path.read_bytes() for path in write(table, tmp_path / "a")] == first


def test_papers_may_be_paths_or_documents(benchmark):
    cells = collect(benchmark)
    expected = markdown(results_table(cells, WITH_CONDITIONS))
    assert markdown(results_table(cells, FILES)) == markdown(results_table(cells, map(load, FILES))) == expected


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
