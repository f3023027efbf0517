"""A regression goes through the whole workflow, from the data to tables and figures, by the same code as a classification."""

import json

import numpy as np
import pandas as pd
import pytest
from test_workflow import repo, run

from dgd import cli, data

__all__ = ["repo"]
CONFIG = ("--configfile", "config/test/rotation.yaml")


def test_digits_are_turned_by_the_angle_that_is_their_label(tmp_path):
    """Turned back by it, an image looks like the upright digit again; turned on, it does not."""
    from scipy.ndimage import rotate

    data.prepare("digits", tmp_path / "upright")
    data.prepare("digits-rotation", tmp_path / "turned")
    upright, turned = (data.load(tmp_path / name) for name in ("upright", "turned"))
    images, before = (d.tensors["test_images"][:200, 0].numpy().astype(float) for d in (turned, upright))
    angles = np.degrees(turned.tensors["test_labels"][:200].numpy())
    assert np.abs(angles).max() <= 60
    assert np.abs(angles).max() > 50

    def apart(sign: int) -> float:
        back = [rotate(image, sign * angle, reshape=False, order=1) for image, angle in zip(images, angles)]
        return float(np.abs(np.stack(back) - before).mean())

    assert apart(-1) < 0.5 * apart(1)


def train_by_the_command_line(repo, monkeypatch):
    """Train and prune the cells in this process, which has imported torch already: Snakemake then finds them fresh."""
    monkeypatch.chdir(repo)
    assert cli.main(["train", CONFIG[1]]) == 0
    for metrics in sorted(repo.glob("results/rotation/*/*/*/*/metrics.json")):
        assert cli.main(["prune", str(metrics.parent), "--shares", "0.2"]) == 0


@pytest.mark.parametrize("trained_by", ["dgd-bench", pytest.param("snakemake", marks=pytest.mark.slow)])
def test_a_regression_goes_through_the_workflow(repo, trained_by, monkeypatch):
    if trained_by == "dgd-bench":
        train_by_the_command_line(repo, monkeypatch)
    output = run(repo, "snakemake", "--cores", "2", *CONFIG)
    assert ("training" in output) == (trained_by == "snakemake")
    folder = repo / "results" / "rotation"
    cells = pd.read_csv(folder / "cells.csv")
    students = cells[cells["student"] == "cifar_resnet8"]
    assert set(cells["metric"]) == {"rmse"}
    assert set(students["method"]) == {"baseline", "grafting"}
    assert (cells["status"] == "finished").all()
    # Guessing the mean angle has an error of 0.6 radians; four epochs find something, here more and there less.
    assert students["last"].mean() < 0.5
    first = students[(students["method"] == "grafting") & (students["network"] == 0)].iloc[0]
    metrics = json.loads((folder / first["folder"] / "metrics.json").read_text())
    assert metrics["rmse"]["last"] == pytest.approx(first["last"])
    history = pd.read_csv(folder / first["folder"] / "history.csv")
    assert metrics["rmse"]["best_on_test"] == pytest.approx(history["test_rmse_0"].min())
    with np.load(folder / first["folder"] / "predictions.npz") as arrays:
        error = np.sqrt(np.square(arrays["predictions"][0] - arrays["labels"]).mean())
    assert error == pytest.approx(first["last"], rel=1e-5)

    results = pd.read_csv(folder / "tables" / "results.csv")
    means = students[students["network"] == 0].groupby("method")["last"].mean()
    gains = results[results["student"] == "cifar_resnet8"].set_index("method")["gain"]
    # A gain is an improvement: of an error, what it fell by.
    assert gains["grafting"] == pytest.approx(means["baseline"] - means["grafting"], abs=1e-6)
    text = (folder / "tables" / "results.md").read_text()
    assert "root mean square error" in text.lower()
    for name in ("results", "methods", "filters", "density", "claims", "controls"):
        found = (folder / "tables" / f"{name}.md").read_text().lower()
        assert "top-1" not in found or name == "claims", name  # what the papers claim is about top-1
    figures = {path.name.partition("-")[0] for path in (folder / "figures").glob("*.svg")}
    assert {"curves", "filters", "pruning"} <= figures
    assert "root mean square error" in (folder / "figures" / "curves-digits-rotation-cifar_resnet8.svg").read_text()
    curve = repo / "results" / "rotation" / first["folder"] / "pruning.csv"
    curve.unlink()
    again = run(repo, "snakemake", "-n", *CONFIG)
    assert f"pruning rotation/{first['folder']}" in again
    assert "training" not in again
    assert "rmse" in (folder / "report.html").read_text().lower() or "root mean square" in (folder / "report.html").read_text()


def test_a_term_for_classes_is_refused_for_numbers(repo):
    config = repo / "config" / "test" / "rotation.yaml"
    config.write_text(
        config.read_text()
        .replace("{student: cifar_resnet8}", "{student: cifar_resnet8, teacher: cifar_resnet20}")
        .replace("methods: [baseline, grafting]", "methods: [baseline, kd]")
    )
    from test_workflow import start

    process = start(repo, "snakemake", "-n", *CONFIG, networks=True)
    assert "kd" in (said := process.communicate()[0])
    assert "regression" in said
    assert process.returncode != 0
