"""The report's page, of committed results: nothing is lost on it, links lead somewhere, and it holds all that it needs."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from reported import DIVERGED, LOST, MISSING, RESULTS, benchmark_with_holes, parse

from dgd.read import report, table
from dgd.read.report import answer, charts, cost, found, rows, sections

TOGETHER = ("controls-small", "cgan-kd-angle", "ddnn")
"""Benchmarks with controls and claims, a regression with generated images, and sub-nets: 144 cells."""
COMMITTED = sorted(path.parent.name for path in RESULTS.glob("*/frozen.yaml"))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    return parse(report.write([RESULTS / name for name in TOGETHER], out)), out


@pytest.fixture(scope="module")
def with_holes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("holes")
    return parse(report.write([benchmark_with_holes(folder)], folder / "report.html")), folder


def check_page(page, names):
    """Check what holds of each page: it is whole, needs nothing else, and its headings and links are right."""
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:]))
    ids, links = set(page.ids), set(page.links)
    assert len(page.ids) == len(ids)
    assert links
    for link in links:
        assert link.startswith("#"), link
        assert link[1:] in ids, link
        assert not link.startswith("#cell/") or link.removeprefix("#cell/") in page.data["cells"]
    for tag, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:"), attributes
        assert tag != "link"
        assert tag != "img" or attributes["alt"]
    for name in names:
        cells = pd.read_csv(RESULTS / name / "cells.csv")
        for folder in cells["folder"].unique():
            assert f"#cell/{name}/{folder}" in links
            assert page.data["cells"][f"{name}/{folder}"]["command"]
        check_numbers(page, name)


def check_numbers(page, name):
    """Check that every number of the results table is on the page, in its row, with a link to its cells."""
    frame = pd.read_csv(RESULTS / name / "tables" / "results.csv")
    text = table.read(RESULTS / name / "tables" / "results").text
    paths = {link.removeprefix("#cell/") for link in page.links if link.startswith("#cell/")}
    for place, row in frame.iterrows():
        values = page.data["rows"][f"row/{name}/results/{place}"]
        for column, value in row.dropna().items():
            assert values[column] == (value if isinstance(value, str) else pytest.approx(value)), (name, place, column)
        assert text.iloc[place]["ours, last epoch"] in page.text
        assert text.iloc[place]["gain"] in page.text
        assert int(row["n"]) == sum(
            page.data["cells"][path]["status"].startswith("finished")
            for path in paths
            if re.fullmatch(path_of(name, row), path)
        )


def path_of(name, row) -> str:
    return f"{name}/{row['dataset']}/{row['student']}(-by-.*)?/{re.escape(row['method'])}/seed[0-9]+"


def test_a_page_on_several_benchmarks_is_whole(together):
    page, out = together
    check_page(page, TOGETHER)
    assert out.stat().st_size < 4_000_000
    assert "3 benchmarks side by side" in page.text
    for name in TOGETHER:
        assert f"#b/{name}" in page.links
    # A regression's gains fall by an error; sub-nets and generated images have tables; a claim stands with its verdict.
    assert "in root mean square error" in page.text
    assert "b/ddnn/subnets" in page.ids
    assert "b/cgan-kd-angle/generated" in page.ids
    assert any(attributes.get("src", "").startswith("data:image/svg+xml") for _, attributes in page.tags)
    assert "Two networks that graft each other give a more accurate network than training one alone." in page.text


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITTED)
def test_the_page_of_each_committed_benchmark_is_whole(name, tmp_path):
    out = report.write([RESULTS / name], tmp_path / "report.html")
    check_page(parse(out), [name])
    assert out.stat().st_size < 3_000_000


@pytest.mark.slow
def test_a_page_of_200_cells_stays_small(tmp_path):
    names = ("controls-small", "zoo-small", "decay-small")
    out = report.write([RESULTS / name for name in names], tmp_path / "report.html")
    check_page(parse(out), names)
    assert out.stat().st_size < 5_000_000


def test_claims_that_have_no_cell_are_folded_away(together):
    page, _ = together
    fold = page.text.index("claims have no cell in this benchmark")
    assert page.text.index("Two networks that graft each other") < fold
    measured = [link for link in page.links if link.startswith("#row/controls-small/claims/")]
    assert measured
    assert not [link for link in page.links if "/unrun/" in link]
    assert page.tags.index(("details", {"class": "fold"})) < page.tags.index(("table", table_of("controls-small/unrun")))


def table_of(name):
    return {"id": f"t/{name}", "class": "data"}


def test_the_answer_says_what_the_tables_say():
    benchmark = found.read(RESULTS / "controls-small")
    said = " ".join(answer.answers(benchmark))
    frame = benchmark.tables["results"].frame
    gain = frame[frame["gain_low"] > 0]
    assert f"{len(gain)} of {frame['gain_low'].notna().sum()} gain" in said
    best = frame.loc[frame["gain"].idxmax()]
    assert f"{best['method']} {best['gain']:+.2f} [{best['gain_low']:+.2f}, {best['gain_high']:+.2f}]" in said
    words = benchmark.tables["controls"].frame["what"].value_counts()
    assert f"gain left in {words['left']}, explained in {words['explained']}" in said
    assert "76 of 76 finished; no hole, none stale" in said
    cores, gpus = cost.hours(benchmark)
    cells = pd.read_csv(RESULTS / "controls-small" / "cells.csv").drop_duplicates("folder")
    assert cores == pytest.approx(cells["seconds"].sum() / 3600)  # a thread each
    assert gpus == 0
    assert "no GPU" in said


def test_holes_are_shown_as_such(with_holes):
    page, _ = with_holes
    assert "11 of 13 finished; " in page.text
    assert "1 diverged, 1 missing" in page.text or "1 missing, 1 diverged" in page.text
    assert {"b/cifar10-small/holes", f"hole/{DIVERGED}", f"hole/{MISSING}"} <= set(page.ids)
    cell = page.data["cells"][DIVERGED]
    assert (cell["status"].split(",")[0], cell["error"], cell["values"]) == ("diverged", LOST, [])
    assert cell["log"].endswith(LOST)
    assert page.data["cells"][MISSING]["status"] == "missing"
    assert page.data["cells"][MISSING]["config"]
    assert LOST in page.text, "the error is text, and no element"
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 5


def test_a_page_of_thousands_of_cells_leaves_their_details_out_and_says_so(with_holes, monkeypatch):
    _, folder = with_holes
    monkeypatch.setattr(report, "DETAILED", 10)
    page = parse(report.write([folder / "results" / "cifar10-small"], folder / "many.html"))
    assert page.data["cells"] == page.data["rows"] == {}
    assert "leaves out the details of its 13 cells" in page.text
    assert f"hole/{DIVERGED}" in page.ids
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert not [link for link in page.links if link.startswith("#cell/")]


def test_a_chart_with_nothing_to_show_is_left_out():
    quiet, loud = (found.read(RESULTS / name) for name in ("controls-small", "decay-small"))
    drawn = {b.name: [chart.id for group in sections._filters(b).charts for chart in group.charts] for b in (quiet, loud)}
    assert not [name for name in drawn["controls-small"] if "invalid" in name]
    assert [name for name in drawn["decay-small"] if "invalid" in name]
    assert [name for name in drawn["controls-small"] if name.endswith("/kept")]
    benchmark = found.read(RESULTS / "fast-path")  # no baseline of the student
    assert list(sections._forests(benchmark)) == []
    assert "No gain can be told" in " ".join(answer.answers(benchmark))


def test_benchmarks_stand_side_by_side():
    benchmarks = [found.read(RESULTS / name) for name in ("controls-small", "decay-small", "cgan-kd-angle")]
    section = sections.side_by_side(benchmarks)
    (group,) = section.charts
    assert {chart.title for chart in group.charts} == {"kd", "grafting", "dgd", "baseline-2x"}  # an error is not beside points
    overview, gains = section.tables
    assert [row.texts[0] for row in overview.rows] == ["controls-small", "decay-small", "cgan-kd-angle"]
    (row,) = [row for row in gains.rows if row.texts[0] == "grafting"]
    for benchmark in benchmarks[:2]:
        text = benchmark.tables["results"].text
        assert text.loc[text["method"] == "grafting", "gain"].item() in row.texts
    assert "" in row.texts


def test_published_gains_stand_beside_ours_and_say_under_which_conditions():
    theirs = answer.published(found.read(RESULTS / "controls-small"))
    of_grafting = theirs[theirs["method"] == "grafting"]
    assert {0.89, 0.13, 1.39} <= set(of_grafting["value"].round(2))
    assert set(theirs["kind"]) == {"under other conditions"}


def test_lines_are_means_over_seeds_at_the_points_that_all_have():
    seeds = [pd.Series([1.0, 2.0, 3.0], index=[0, 1, 2]), pd.Series([3.0, 5.0], index=[0, 1])]
    made = charts.over_seeds({"a": seeds, "none": []})
    assert made.to_dict("list") == {
        "method": ["a", "a"],
        **{"x": [0, 1], "mean": [2.0, 3.5], "low": [1.0, 2.0], "high": [3.0, 5.0], "n": [2, 2]},
    }
    long = charts.over_seeds({"a": [pd.Series(np.arange(5000.0))]})
    assert (len(long), long["x"].iloc[0], long["x"].iloc[-1]) == (charts.MOST, 0, 4999)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("60.39 ± 0.77 (n=5) [59.4, 61.4]", 60.39),
        ("+1.04 [-1.43, +3.50]", 1.04),
        ("-0.64 [-2.66, +1.38]", -0.64),
        ("<0.001", 0.001),
        ("1,155", 1155.0),
        ("2 / 1", 2.0),
        ("35 %", 35.0),
        ("–", ""),
        ("", ""),
        ("2x-baseline", ""),
    ],
)
def test_texts_sort_by_the_number_that_they_begin_with(text, key):
    assert rows.sort_key(text) == key


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    made = table.Table(
        pd.DataFrame({"a": [1.5, np.nan], "b": ["x", "y"]}),
        pd.DataFrame({"a": ["1.50", ""], "c": ["one | two", "-"]}),
        ("A note.", "- Another."),
    )
    table.write(made, tmp_path / "t")
    again = table.read(tmp_path / "t")
    pd.testing.assert_frame_equal(again.frame, made.frame, check_dtype=False)
    assert again.text.to_dict("list") == {"a": ["1.50", ""], "c": ["one | two", "-"]}
    assert again.footnotes == made.footnotes
    (tmp_path / "t.md").write_text("| a |\n| b | c |\n")
    with pytest.raises(ValueError, match=r"t\.md: no table"):
        table.read(tmp_path / "t")
    with pytest.raises(ValueError, match=r"u\.csv: no such file"):
        table.read(tmp_path / "u")


def test_what_is_wrong_with_a_folder_is_said_in_a_line(tmp_path):
    with pytest.raises(ValueError, match="no folder of results"):
        report.write([], tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"none/benchmark\.yaml: no such file; run the workflow"):
        report.write([tmp_path / "none"], tmp_path / "report.html")
    with pytest.raises(ValueError, match="two folders are of the benchmark ccl"):
        report.write([RESULTS / "ccl", RESULTS / "ccl"], tmp_path / "report.html")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("benchmark.yaml", "cells.csv"):
        shutil.copy(RESULTS / "ccl" / name, other)
    (other / "tables").mkdir()
    shutil.copy(RESULTS / "ccl" / "tables" / "results.csv", other / "tables")
    with pytest.raises(ValueError, match="benchmark is ccl, and the folder is called other"):
        report.write([other], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
