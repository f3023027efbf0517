"""Figures: they are drawn, say what they show, and come out with the same bytes. Every number here is made up."""

import json
import os
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest

from dgd.figures import curves, filter_norms, from_cells

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


def fake_cell(folder, method, seed, student="cifar_resnet8", model=None, status="finished", dataset="digits"):
    path = folder / dataset / (model or student) / method / f"seed{seed}"
    path.mkdir(parents=True)
    names = dict(benchmark="fake", dataset=dataset, model=model or student, student=student, teacher=None)
    (path / "metrics.json").write_text(json.dumps({"status": status, "cell": names | {"method": method, "seed": seed}}))
    history(seed=seed).to_csv(path / "history.csv", index=False)
    l1 = norms(seed=seed)
    np.savez(path / "filters.npz", **{"l1/0/a": l1[:100], "l1/0/b": l1[100:], "l1/1/a": l1[:7]})


def labels(svg):
    """Return the strings of an SVG, which matplotlib keeps as comments beside their outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(svg, parser)
    return [node.text.strip() for node in tree.iter() if node.tag is ElementTree.Comment]


def test_curves_show_every_method_in_order(tmp_path):
    histories = {method: [history(60 + 3 * i, seed=seed) for seed in range(3)] for i, method in enumerate(METHODS)}
    svg, png = curves(histories, tmp_path / "curves", "digits, cifar_resnet8")
    assert (svg.name, png.name) == ("curves.svg", "curves.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = labels(svg)
    assert "epoch" in text
    assert "test top-1 accuracy (%)" in text
    assert "digits, cifar_resnet8" in text
    shown = [label.removesuffix(" (n=3)") for label in text if label.endswith(" (n=3)")]
    assert shown == ["baseline", "kd", "grafting", "dgd", "my-method"]


def test_filter_norms_mark_the_thresholds(tmp_path):
    svg, _ = filter_norms({"baseline": [norms(dead=40), norms(seed=1)], "kd": [norms(2)]}, tmp_path / "f", "digits")
    text = labels(svg)
    assert "threshold 0.1" in text
    assert "threshold 1" in text
    assert "L1 norm of a filter" in text
    assert "norms below 0.0001 are drawn at it" in text
    assert "kd (n=1)" in text
    whole, _ = filter_norms({"baseline": [norms()]}, tmp_path / "g", "digits")
    assert not any(label.startswith("norms below") for label in labels(whole))


@pytest.mark.parametrize("draw", [curves, filter_norms])
def test_the_same_data_give_the_same_bytes(tmp_path, draw, monkeypatch):
    data = {"dgd": [history(), history(seed=1)]} if draw is curves else {"dgd": [norms(), norms(seed=1)]}
    first = [path.read_bytes() for path in draw(data, tmp_path / "a", "title")]
    before = dict(matplotlib.rcParams)
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9)  # a user's own style must not show
    monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", "86400")
    assert [path.read_bytes() for path in draw(data, tmp_path / "b", "title")] == first
    monkeypatch.undo()
    assert dict(matplotlib.rcParams) == before
    assert sorted(os.listdir(tmp_path)) == ["a.png", "a.svg", "b.png", "b.svg"]
    assert b"<dc:date>" not in first[0]


def test_odd_histories_are_drawn(tmp_path):
    gaps = history()
    gaps.loc[gaps["epoch"] % 5 != 4, "test_top1_0"] = np.nan  # evaluated every 5 epochs
    svg, _ = curves({"baseline": [gaps, gaps], "kd": [history(epochs=1)], "dgd": []}, tmp_path / "a", "odd")
    assert "dgd (n=0)" not in labels(svg)
    curves({"kd": [history(epochs=1)]}, tmp_path / "b", "one epoch")


def test_all_filters_dead_is_drawn(tmp_path):
    filter_norms({"baseline": [np.zeros(5)]}, tmp_path / "a", "dead")


def test_errors_name_the_method(tmp_path):
    with pytest.raises(ValueError, match="'kd' has no column 'test_top1_0'"):
        curves({"kd": [pd.DataFrame({"epoch": [0]})]}, tmp_path / "a", "t")
    with pytest.raises(ValueError, match="'kd' differ in their number of filters"):
        filter_norms({"kd": [np.ones(3), np.ones(4)]}, tmp_path / "a", "t")
    for draw in (curves, filter_norms):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw({"kd": []}, tmp_path / "a", "t")
    assert not list(tmp_path.iterdir())


def test_from_cells_draws_each_model(tmp_path):
    folder = tmp_path / "fake"
    for seed in range(2):
        fake_cell(folder, "baseline", seed)
        fake_cell(folder, "dgd", seed)
    fake_cell(folder, "kd", 0, status="diverged")
    fake_cell(folder, "baseline", 0, student="cifar_resnet20")
    written = from_cells(folder, tmp_path / "figures")
    assert sorted(path.name for path in written if path.suffix == ".svg") == [
        "curves-digits-cifar_resnet20.svg",
        "curves-digits-cifar_resnet8.svg",
        "filters-digits-cifar_resnet20.svg",
        "filters-digits-cifar_resnet8.svg",
    ]
    assert len(written) == 8
    text = labels(tmp_path / "figures" / "curves-digits-cifar_resnet8.svg")
    assert {"baseline (n=2)", "dgd (n=2)"} <= set(text)
    assert not any(label.startswith("kd") for label in text)


def test_a_student_of_two_teachers_has_two_figures(tmp_path):
    folder = tmp_path / "fake"
    fake_cell(folder, "baseline", 0)
    for teacher in ("cifar_resnet20", "cifar_resnet56"):
        fake_cell(folder, "kd", 0, model=f"cifar_resnet8-by-{teacher}")
    written = from_cells(folder, tmp_path / "figures")
    assert [path.stem for path in written if path.stem.startswith("curves") and path.suffix == ".svg"] == [
        "curves-digits-cifar_resnet8-by-cifar_resnet20",
        "curves-digits-cifar_resnet8-by-cifar_resnet56",
    ]
    assert {"baseline (n=1)", "kd (n=1)"} <= set(labels(written[0]))


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
