"""Figures: they are drawn, say what they show, and come out with the same bytes. Every number here is made up."""

import json
import os
import warnings
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from made_up import cell_of
from matplotlib.text import Text

from dgd.metrics import METRICS
from dgd.read.figures import from_cells, style
from dgd.read.figures.curves import curves
from dgd.read.figures.entropy import entropy_sums
from dgd.read.figures.lines import TOLD_APART
from dgd.read.figures.norms import filter_norms, invalid_ratios, shares_invalid
from dgd.read.figures.overlaps import overlap, overlaps
from dgd.read.figures.panels import ACROSS
from dgd.read.figures.pruned import pruning
from dgd.read.figures.sets import sets_by_epoch, sets_over_epochs
from dgd.read.figures.shares import kept_shares
from dgd.read.files import PRUNING, Traces
from dgd.read.statistics import mean_interval

TOP1, RMSE = METRICS["classification"], METRICS["regression"]

METHODS = ("dgd", "baseline", "my-method", "grafting", "kd")


def history(level=70.0, epochs=30, seed=0):
    """Return a made-up history.csv."""
    epoch = np.arange(epochs)
    noise = np.random.default_rng(seed).normal(0, 0.6, epochs)
    return pd.DataFrame({"epoch": epoch, "test_top1_0": level * (1 - 0.7 * np.exp(-epoch / 6)) + noise})


def norms(scale=1.0, seed=0, dead=0):
    """Return made-up L1 norms, (400,), the first `dead` of them zero."""
    l1 = scale * np.random.default_rng(seed).lognormal(1, 0.8, 400)
    l1[:dead] = 0
    return l1.astype(np.float32)


def traces(exchanges=20, dead=20, seed=0):
    """Return made-up traces of 400 filters in 2 layers, recorded after 3 epochs."""
    l1 = np.stack([norms(scale, seed, dead) for scale in (1.0, 1.5, 2.0)])
    share = 0.5 + 0.4 / np.pi * np.arctan(np.random.default_rng(seed).normal(0, 2, (exchanges, 2)))
    return Traces(np.array([9, 19, 29]), l1, np.full((3, 2), 1.5), np.arange(exchanges), share)


def prunings(seed=0):
    """Return a made-up pruning.csv of 400 filters."""
    removed = np.array([0, 40, 120, 280])
    top1 = 70 - 60 * (removed / 400) ** 2 + seed
    names = (*PRUNING, "top1", "top1_random")
    return pd.DataFrame(dict(zip(names, (removed / 400, removed, 400 - removed, 9000 - removed, top1, top1 - removed / 10))))


def fake_cell(
    folder,
    method,
    seed,
    student="cifar_resnet8",
    model=None,
    status="finished",
    dataset="digits",
    full=False,
    networks=1,
    task="classification",
):
    """Write what the figures read of a cell, and return its folder; what it is made of counts for nothing but its task."""
    metric = METRICS[task].name
    path = folder / dataset / (model or student) / method / f"seed{seed}"
    path.mkdir(parents=True)
    names = dict(benchmark="fake", dataset=dataset, model=model or student, student=student, teacher=None)
    value = {metric: 70.0 + seed, "epoch": 0}
    about = {"count": 400, "invalid_ratio": {}, "mean_l1": 1.0, "entropy_sum": 3.0 + seed if full else None}
    network = {"last": value, "best_on_test": value, "validation_selected": None, "filters": about}
    metrics = {"status": status, "cell": names | {"method": method, "seed": seed}, "error": "none"}
    metrics |= {"parameters": 9000, "conv_filters": 400, "networks": [network] * networks, "timings": {"seconds": 1.0}}
    history(seed=seed).rename(columns={"test_top1_0": f"test_{metric}_0"}).to_csv(path / "history.csv", index=False)
    l1 = norms(seed=seed)
    arrays = {"l1/0/a": l1[:100], "l1/0/b": l1[100:], "l1/1/a": l1[:7]}
    if full:
        trace = traces(seed=seed)
        arrays = {"l1/0/layers.0.conv3.weight": trace.l1[-1, :100], "l1/0/b": trace.l1[-1, 100:], "epochs": trace.epochs}
        arrays |= {"trace/l1/0": trace.l1, "trace/entropy/0": trace.entropy}
        if networks > 1:
            arrays |= {"exchanges": trace.exchanges, "trace/share/0": trace.share}
        names = {"top1": metric, "top1_random": f"{metric}_random"}
        prunings(seed).rename(columns=names).to_csv(path / "pruning.csv", index=False)
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "config.yaml").write_text(yaml.safe_dump(cell_of(seed=seed, student=student, task=task).plain()))
    np.savez(path / "filters.npz", **arrays)


def labels(svg):
    """Return the strings of an SVG, which matplotlib keeps as comments beside their outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(svg, parser)
    return [node.text.strip() for node in tree.iter() if node.tag is ElementTree.Comment]


def write(figure, stem):
    """Write a figure and return the strings of its SVG."""
    return labels(style.save(figure, stem)[0])


def test_curves_show_every_method_in_order(tmp_path):
    histories = {method: [history(60 + 3 * i, seed=seed) for seed in range(3)] for i, method in enumerate(METHODS)}
    svg, pdf, png = style.save(curves(histories, TOP1, "digits, cifar_resnet8"), tmp_path / "curves")
    assert (svg.name, pdf.name, png.name) == ("curves.svg", "curves.pdf", "curves.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = labels(svg)
    assert "epoch" in text
    assert "test top-1 accuracy (%)" in text
    assert "digits, cifar_resnet8" in text
    shown = [label.removesuffix(" (n=3)") for label in text if label.endswith(" (n=3)")]
    assert shown == ["baseline", "kd", "grafting", "dgd", "my-method"]


def test_filter_norms_mark_the_thresholds(tmp_path):
    text = write(filter_norms({"baseline": [norms(dead=40), norms(seed=1)], "kd": [norms(2)]}, "digits"), tmp_path / "f")
    assert "threshold 0.1" in text
    assert "threshold 1" in text
    assert "L1 norm of a filter" in text
    assert "norms below 0.0001 are drawn at it" in text
    assert "kd (n=1)" in text
    whole = write(filter_norms({"baseline": [norms()]}, "digits"), tmp_path / "g")
    assert not any(label.startswith("norms below") for label in whole)


def accuracy_curves(histories, title):
    return curves(histories, TOP1, title)


def accuracy_pruning(pruned, title):
    return pruning(pruned, TOP1, title)


@pytest.mark.parametrize("draw", [accuracy_curves, filter_norms, invalid_ratios])
def test_many_methods_have_panels_of_their_own(tmp_path, draw):
    def drawn(count):
        make = history if draw is accuracy_curves else norms
        many = {"baseline": [make()], **{f"method-{i}": [make(seed=i), make(seed=i + 1)] for i in range(1, count)}}
        figure = draw(many, "many")
        text = write(figure, tmp_path / f"{count}")
        assert text.count("baseline (n=1)") == 1
        assert [label for label in text if label.startswith("method-")] == [f"method-{i} (n=2)" for i in range(1, count)]
        return sum(axes.get_visible() for axes in figure.axes), text

    assert drawn(TOLD_APART)[0] == (2 if draw is accuracy_curves else 1)  # their ends are enlarged
    axes, text = drawn(TOLD_APART + 1)
    assert axes == 1  # panels are copies of it
    below = {
        accuracy_curves: "epoch",
        filter_norms: "conv filters, sorted by norm (%)",
        invalid_ratios: "threshold of the L1 norm",
    }
    assert text.count(below[draw]) == ACROSS  # once a column
    assert text.count("threshold 1") == (draw is filter_norms)  # said once


DATA = {
    accuracy_curves: [{"dgd": [history(), history(seed=1)]}],
    filter_norms: [{"dgd": [norms(), norms(seed=1)]}],
    invalid_ratios: [{"dgd": [norms(), norms(seed=1)]}],
    overlaps: [{"baseline": {0: norms(dead=5)}, "dgd": {0: norms(dead=9), 1: norms()}}],
    entropy_sums: [{"dgd": [3.0, 4.0], "kd": [2.0]}, {"dgd": 2, "kd": 1}, 2],
    sets_by_epoch: [{1.0: {"dgd": [sets_over_epochs(traces(), norms(dead=20), 1.0)]}}],
    kept_shares: [{"dgd": [traces(), traces(seed=1)]}],
    accuracy_pruning: [{"dgd": [prunings(), prunings(1)]}],
}


@pytest.mark.parametrize("draw", DATA)
def test_the_same_data_give_the_same_bytes(tmp_path, draw, monkeypatch):
    first = [path.read_bytes() for path in style.save(draw(*DATA[draw], "title"), tmp_path / "a")]
    before = dict(matplotlib.rcParams)
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9)  # a user's own style must not show
    monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", "86400")
    assert [path.read_bytes() for path in style.save(draw(*DATA[draw], "title"), tmp_path / "b")] == first
    monkeypatch.undo()
    assert dict(matplotlib.rcParams) == before
    assert sorted(os.listdir(tmp_path)) == ["a.pdf", "a.png", "a.svg", "b.pdf", "b.png", "b.svg"]
    assert b"<dc:date>" not in first[0]


def test_odd_histories_are_drawn(tmp_path):
    gaps = history()
    gaps.loc[gaps["epoch"] % 5 != 4, "test_top1_0"] = np.nan  # evaluated every 5 epochs
    drawn = curves({"baseline": [gaps, gaps], "kd": [history(epochs=1)], "dgd": []}, TOP1, "odd")
    assert "dgd (n=0)" not in write(drawn, tmp_path / "a")
    assert list(line(drawn.axes[0], "baseline (n=2)")) == [4, 9, 14, 19, 24, 29]
    assert "kd (n=1)" in write(curves({"kd": [history(epochs=1)]}, TOP1, "one epoch"), tmp_path / "b")


def test_a_metric_without_a_unit_is_drawn_by_its_own_column():
    frame = pd.DataFrame({"epoch": [0, 1], "test_rmse_0": [0.5, 0.25]})
    (axes,) = curves({"kd": [frame]}, RMSE, "turned digits").axes
    assert axes.get_ylabel() == "test root mean square error"
    assert line(axes, "kd (n=1)") == {0: 0.5, 1: 0.25}
    curve = prunings().rename(columns={"top1": "rmse", "top1_random": "rmse_random"})
    smallest, random = pruning({"kd": [curve]}, RMSE, "turned digits").axes
    assert smallest.get_ylabel() == "test root mean square error"
    assert line(random, "kd (n=1)")[0] == 70


def test_all_filters_dead_is_drawn(tmp_path):
    text = write(filter_norms({"baseline": [np.zeros(5)]}, "dead"), tmp_path / "a")
    assert "norms below 0.0001 are drawn at it" in text


def test_errors_name_the_method():
    with pytest.raises(ValueError, match="'kd' has no column 'test_top1_0'"):
        curves({"kd": [pd.DataFrame({"epoch": [0]})]}, TOP1, "t")
    with pytest.raises(ValueError, match="'kd' differ in their number of filters"):
        filter_norms({"kd": [np.ones(3), np.ones(4)]}, "t")
    for draw in (accuracy_curves, filter_norms):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw({"kd": []}, "t")


def test_from_cells_draws_each_model(tmp_path):
    folder = tmp_path / "fake"
    for seed in range(2):
        fake_cell(folder, "baseline", seed)
        fake_cell(folder, "dgd", seed)
    fake_cell(folder, "kd", 0, status="diverged")
    fake_cell(folder, "baseline", 0, student="cifar_resnet20")
    written = from_cells(folder, tmp_path / "figures")
    assert sorted(path.name for path in written) == [
        "curves-digits-cifar_resnet20.svg",
        "curves-digits-cifar_resnet8.svg",
        "filters-digits-cifar_resnet20.svg",
        "filters-digits-cifar_resnet8.svg",
        "invalid-digits-cifar_resnet20.svg",
        "invalid-digits-cifar_resnet8.svg",
        "overlap-digits-cifar_resnet8.svg",
    ]
    assert len(written) == 7
    text = labels(tmp_path / "figures" / "curves-digits-cifar_resnet8.svg")
    assert {"baseline (n=2)", "dgd (n=2)"} <= set(text)
    assert not any(label.startswith("kd") for label in text)


def test_a_student_of_two_teachers_has_two_figures(tmp_path):
    folder = tmp_path / "fake"
    fake_cell(folder, "baseline", 0)
    for teacher in ("cifar_resnet20", "cifar_resnet56"):
        fake_cell(folder, "kd", 0, model=f"cifar_resnet8-by-{teacher}")
    written = from_cells(folder, tmp_path / "figures")
    assert [path.stem for path in written if path.match("curves*.svg")] == [
        "curves-digits-cifar_resnet8-by-cifar_resnet20",
        "curves-digits-cifar_resnet8-by-cifar_resnet56",
    ]
    assert {"baseline (n=1)", "kd (n=1)"} <= set(labels(written[0]))
    both = from_cells(folder, tmp_path / "again", processes=2)
    assert [path.read_bytes() for path in both] == [path.read_bytes() for path in written]


def test_from_cells_of_nothing(tmp_path):
    assert from_cells(tmp_path, tmp_path / "figures") == []


def test_cells_of_an_older_config_are_not_drawn(tmp_path):
    folder = tmp_path / "fake"
    for method in ("baseline", "kd"):
        fake_cell(folder, method, 0)
    from_cells(folder, tmp_path / "figures", only={"digits/cifar_resnet8/baseline/seed0"})
    drawn = labels(tmp_path / "figures" / "curves-digits-cifar_resnet8.svg")
    assert "baseline (n=1)" in drawn
    assert not any(label.startswith("kd") for label in drawn)


def test_everything_that_cells_left_is_drawn(tmp_path):
    folder = tmp_path / "fake"
    for seed in range(2):
        fake_cell(folder, "baseline", seed, full=True)
        fake_cell(folder, "grafting-4", seed, full=True, networks=4)
    drawn = {path.stem: path for path in from_cells(folder, tmp_path / "figures")}
    kinds = ("curves", "entropy", "filters", "filters-conv3", "invalid", "overlap", "pruning", "sets", "shares")
    assert set(drawn) == {f"{kind}-digits-cifar_resnet8" for kind in kinds}
    assert "grafting-4 (4 networks)" in labels(drawn["entropy-digits-cifar_resnet8"])
    # Only the method that exchanges has shares to show.
    text = labels(drawn["shares-digits-cifar_resnet8"])
    assert "grafting-4 (n=2)" in text
    assert not any(label.startswith("baseline") for label in text)
    assert drawn["shares-digits-cifar_resnet8"].stat().st_size < 100_000  # a map is one image


def test_a_regression_is_drawn_by_its_own_metric(tmp_path):
    for seed in range(2):
        fake_cell(tmp_path / "fake", "baseline", seed, full=True, task="regression")
    drawn = {path.stem: labels(path) for path in from_cells(tmp_path / "fake", tmp_path / "figures")}
    for kind in ("curves", "pruning"):
        assert "test root mean square error" in drawn[f"{kind}-digits-cifar_resnet8"]
        assert "baseline (n=2)" in drawn[f"{kind}-digits-cifar_resnet8"]


def test_a_pruning_curve_of_other_weights_is_refused(tmp_path):
    fake_cell(tmp_path, "baseline", 0, full=True)
    prunings(seed=5).to_csv(tmp_path / "digits/cifar_resnet8/baseline/seed0/pruning.csv", index=False)
    with pytest.raises(ValueError, match=r"pruning.csv: the whole network has 75.00 % and metrics.json says 70.00 %"):
        from_cells(tmp_path, tmp_path / "figures")


def line(axes, label):
    """Return the points of a named line."""
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return dict(zip(np.round(found.get_xdata(), 6).tolist(), found.get_ydata().tolist()))


def test_invalid_ratios_count_the_threshold_itself():
    found = shares_invalid(np.array([0, 0.1, 1, 5]), np.array([0, 0.05, 0.1, 1, 10]))
    assert found.tolist() == [0.25, 0.25, 0.5, 0.75, 1]


def test_invalid_ratios_are_means_over_seeds():
    seeds = [np.array([0, 0.05, 3, 20]), np.array([0, 20, 30, 40])]
    drawn = line(invalid_ratios({"kd": seeds}, "title").axes[0], "kd (n=2)")
    assert drawn[0.0001] == 0.25
    assert drawn[0.1] == pytest.approx(0.375)
    assert drawn[10] == pytest.approx(0.5)


def test_overlap_is_a_share_of_the_rows_positions():
    l1 = np.array([[0.5, 0.5, 2, 2], [0.5, 2, 2, 2], [2, 2, 2, 2]])
    nan = np.nan
    np.testing.assert_equal(overlap(l1, 1.0), [[1, 0.5, 0], [1, 1, 0], [nan, nan, nan]])


def test_overlaps_are_means_over_the_seeds_that_both_methods_have():
    """Threshold 1: seed 0 shares one of two positions, seed 1 none; seed 2 has no kd. Threshold 0.1: nothing is invalid."""
    norms = {
        "baseline": {0: np.array([0.5, 0.5, 2, 2]), 1: np.array([0.5, 2, 2, 2]), 2: np.array([0.5, 0.5, 0.5, 2])},
        "kd": {0: np.array([0.5, 2, 2, 2]), 1: np.array([2, 2, 2, 0.5])},
    }
    first, second = overlaps(norms, "title").axes
    numbers = {text.xy: text.get_text() for text in first.texts}
    # Keys are (column, row): half of the baseline's are kd's in seed 0, all of kd's are the baseline's; none in seed 1.
    assert numbers == {(1, 0): "0.25", (0, 1): "0.50", (0, 0): "(50.0%)", (1, 1): "(25.0%)"}
    assert {text.get_text() for text in second.texts} == {"n/a", "(0.0%)"}
    many = {f"m{i}": {0: np.ones(3)} for i in range(9)}
    assert not overlaps(many, "title").axes[0].texts
    with pytest.raises(ValueError, match="the methods differ in their number of filters"):
        overlaps({"kd": {0: np.ones(3)}, "dgd": {0: np.ones(4)}}, "title")


def test_entropy_sums_have_an_interval():
    (drawn,) = entropy_sums({"kd": [10.0, 12.0], "dgd": [9.0]}, {"kd": 1, "dgd": 1}, 5, "title").axes
    # t(0.975, 1 degree) = 12.706, sd / sqrt(2) = 1
    assert [text.get_text() for text in drawn.texts] == [" 11.00 [-1.71, 23.71] (n=2)", " 9.00 (n=1)"]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["kd", "dgd"]
    assert "at most 11.5" in drawn.get_xlabel()
    (bar,) = drawn.get_lines()  # one seed has no interval
    interval = mean_interval([10.0, 12.0])
    assert bar.get_xdata().tolist() == [interval.low, interval.high]
    assert bar.get_xdata() == pytest.approx([-1.706, 23.706], abs=1e-3)
    assert bar.get_ydata().tolist() == [0, 0]
    assert [(patch.get_width(), patch.get_y() + patch.get_height() / 2) for patch in drawn.patches] == [(11.0, 0), (9.0, 1)]


def test_a_band_runs_from_the_lowest_seed_to_the_highest():
    seeds = [pd.DataFrame({"epoch": [0, 1], "test_top1_0": top1}) for top1 in ([10.0, 40.0], [20.0, 30.0], [12.0, 50.0])]
    (axes,) = curves({"kd": seeds}, TOP1, "title").axes
    assert line(axes, "kd (n=3)") == {0: 14.0, 1: 40.0}
    (band,) = axes.collections
    edges = {x: sorted({y for at, y in band.get_paths()[0].vertices if at == x}) for x in (0, 1)}
    assert edges == {0: [10.0, 20.0], 1: [30.0, 50.0]}


def test_norms_below_the_floor_are_drawn_at_it():
    (axes,) = filter_norms({"kd": [np.array([3.0, 0.0, 1.0, 2.0])]}, "title").axes
    assert line(axes, "kd (n=1)") == {25: 1e-4, 50: 1.0, 75: 2.0, 100: 3.0}


def test_sets_are_those_of_the_finished_baseline():
    """Baseline 0.5, 2, 0.2, 3 at threshold 1: two invalid filters, at positions 0 and 2."""
    trace = Traces(np.array([4, 9]), np.array([[4, 1, 2, 3], [1, 5, 8, 2]], np.float32), np.ones((2, 1)), np.zeros(0), None)
    found = sets_over_epochs(trace, np.array([0.5, 2, 0.2, 3]), 1.0)
    assert found.index.tolist() == [4, 9]
    assert found["mean_l1_invalid_rank"].tolist() == [1.5, 1.5]
    assert found["mean_l1_valid_rank"].tolist() == [3.5, 6.5]
    assert found["mean_l1_invalid_position"].tolist() == [3.0, 4.5]
    assert found["mean_l1_valid_position"].tolist() == [2.0, 3.5]
    none = sets_over_epochs(trace, np.array([2.0, 2, 2, 2]), 1.0)
    assert none["mean_l1_invalid_rank"].isna().all()
    assert none["mean_l1_valid_rank"].tolist() == [2.5, 4.0]


def test_sets_by_epoch_are_means_over_seeds():
    def frame(invalid):
        names = ("valid_rank", "invalid_rank", "valid_position", "invalid_position")
        index = pd.Index([9, 19], name="epoch")
        means = {name: invalid if name.startswith("invalid") else 5.0 for name in names}
        return pd.DataFrame({f"mean_l1_{name}": [2 * mean, mean] for name, mean in means.items()}, index=index)

    sets = {1.0: {"kd": [frame(1.0), frame(3.0), frame(np.nan)]}, 0.1: {"kd": [frame(np.nan)]}}
    panels = sets_by_epoch(sets, "title").axes
    assert len(panels) == 4  # by rank and by position; nothing is invalid at 0.1
    assert [panel.get_title(loc="left") for panel in panels[1::2]] == [
        "invalid, threshold 1, by rank",
        "invalid, threshold 1, by position",
    ]
    assert line(panels[1], "kd (n=2)") == {9: 4.0, 19: 2.0}
    valid, invalid = sets_by_epoch({1.0: {"kd": [frame(np.nan)]}}, "title").axes
    assert line(valid, "kd (n=1)") == {9: 10.0, 19: 5.0}
    assert [text.get_text() for text in invalid.texts] == ["n/a"]


def test_kept_shares_are_means_over_seeds():
    def trace(epochs, *share):
        return Traces(np.zeros(0), np.zeros((0, 3)), np.zeros((0, 2)), np.array(epochs), np.array(share))

    two = [trace([0, 4], [0.3, np.nan], [0.5, np.nan]), trace([0, 4, 8], [0.5, np.nan], [0.7, np.nan], [0.9, 0.9])]
    late = [trace([4, 6], [0.6, 0.7], [0.2, 0.3])]
    alone = Traces(np.zeros(0), np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0, int), np.zeros((0, 2)))
    drawn = kept_shares({"grafting": two, "late": late, "baseline": [alone]}, "title").axes[0]
    image = drawn.get_images()[0]
    # Down: two layers of each method; across: epochs 0, 4 and 6. Epoch 8 is in one seed only.
    wanted = [[0.4, 0.6, -1], [-1, -1, -1], [-1, 0.6, 0.2], [-1, 0.7, 0.3]]
    np.testing.assert_allclose(image.get_array().filled(-1), wanted)
    assert image.get_clim() == pytest.approx((0.2, 0.8))
    assert [label.get_text() for label in drawn.get_xticklabels()] == ["0", "4", "6"]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["grafting (n=2)", "late (n=1)"]


def test_pruning_stands_beside_its_control():
    smallest, random = pruning({"kd": [prunings(0), prunings(2)]}, TOP1, "title").axes
    assert line(smallest, "kd (n=2)") == pytest.approx({0: 71.0, 10: 70.4, 30: 65.6, 70: 41.6})
    assert line(random, "kd (n=2)")[30] == pytest.approx(65.6 - 12)


def test_methods_differ_without_colour_and_look_the_same_in_every_figure():
    many = {f"m{i}": [prunings()] for i in range(24)} | {name: [prunings()] for name in style.FIRST}
    lines = pruning(many, TOP1, "title").axes[0].get_lines()
    # matplotlib keeps a line's dashes, in points, to itself
    looks = {line.get_label(): (str(line._dash_pattern), line.get_marker(), line.get_color()) for line in lines}
    assert len({look[:2] for look in looks.values()}) == 28
    (alone,) = curves({"m0": [], "m1": [history()]}, TOP1, "title").axes[0].get_lines()
    assert alone.get_color() == looks["m1 (n=1)"][2]


def test_what_hides_at_the_end_of_an_axis_is_enlarged(tmp_path):
    near = {"baseline": [history(70), history(70.2, seed=1)], "kd": [history(71.5, seed=2)]}
    (_, enlarged) = curves(near, TOP1, "near").axes
    assert enlarged.get_xlim() == (21.75, 29)
    low, high = enlarged.get_ylim()
    assert 60 < low < 70 < high < 75
    assert len(curves({"baseline": [history(70)], "kd": [history(40)]}, TOP1, "far").axes) == 1
    assert len(curves({"baseline": [history(70)]}, TOP1, "one").axes) == 1
    longer = {"baseline": [history(70)], "baseline-2x": [history(70.4, epochs=60)]}  # of which nothing ends at epoch 29
    assert curves(longer, TOP1, "longer").axes[1].get_xlim() == (21.75, 59)
    # Of an error the low end is the good one.
    errors = {name: [100 - frame for frame in frames] for name, frames in near.items()}
    errors = {
        name: [frame.assign(epoch=range(30)).rename(columns={"test_top1_0": "test_rmse_0"}) for frame in frames]
        for name, frames in errors.items()
    }
    assert len(curves(errors | {"bad": [errors["kd"][0].assign(test_rmse_0=95.0)]}, RMSE, "errors").axes) == 2


def test_many_that_end_alike_show_their_ends(tmp_path):
    many = {f"method-{i}": [history(70 + i / 10, seed=i)] for i in range(TOLD_APART)} | {"collapsed": [history(20)]}
    figure = curves(many, TOP1, "many")
    assert figure.axes[0].get_ylim()[0] > 60
    text = write(figure, tmp_path / "a")
    assert [label for label in text if label.startswith("ends at")] == [f"ends at {history(20)['test_top1_0'].iloc[-1]:.3g}"]
    assert any("the others are cut off" in label for label in text)


def test_a_pdf_has_the_size_of_the_figure(tmp_path):
    _, pdf, _ = style.save(curves({"dgd": [history(epochs=5)]}, TOP1, "t"), tmp_path / "a")
    assert b"/MediaBox [ 0 0 432 288 ]" in pdf.read_bytes()


@pytest.mark.parametrize("letters", ["数据集", "日本語", "한국어"])
def test_letters_that_the_first_font_lacks_are_drawn_or_named(tmp_path, letters, caplog):
    figure = curves({letters: [history()]}, TOP1, letters)
    families, missing = style._fonts(frozenset(letters))
    style.save(figure, tmp_path / "a")
    if missing:
        assert "no font of this machine has" in caplog.text
        assert set(missing) <= set(letters)
    else:
        assert caplog.text == ""
        (title,) = [text for text in figure.findobj(Text) if text.get_text() == letters]
        assert title.get_fontfamily() == ["DejaVu Sans", *families]


def test_a_letter_that_no_font_has_is_named(tmp_path, caplog):
    write(curves({"dgd": [history()]}, TOP1, "digits \U00105555"), tmp_path / "a")
    assert "no font" not in caplog.text  # not printable: nobody would see it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(curves({"dgd": [history()]}, TOP1, "digits \U00013000"), tmp_path / "b")
    assert "no font of this machine has \U00013000; install one" in caplog.text
