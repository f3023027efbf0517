"""Two committed cells beside each other."""

import re

import numpy as np
import pytest
from scipy.stats import binom

from dgd import cli
from dgd.read.comparison import compare
from tests.helpers import ROOT

ROW = ROOT / "results/zoo-small/cifar10/cifar_resnet8"
ANGLE = ROOT / "results/cgan-kd-angle/digits-angle/cifar_resnet8"


def test_fields_results_images_and_curves(capsys):
    one, other = ROW / "baseline/seed0", ROW / "kd/seed0"
    assert cli.main(["compare", str(one), str(other)]) == 0
    text = capsys.readouterr().out
    fields, results, images, curves = text.strip().split("\n\n")
    assert {line.split()[0] for line in fields.splitlines()[2:]} == {
        *("cell", "networks", "teacher", "objective.kd.weight", "objective.kd.tau", "objective.kd.teachers")
    } - {"networks"}
    with np.load(one / "predictions.npz") as a, np.load(other / "predictions.npz") as b:
        labels = a["labels"]
        first, second = a["predictions"][0] == labels, b["predictions"][0] == labels
    only, others = (first & ~second).sum(), (~first & second).sum()
    assert f"of {len(labels)} test images: both right {(first & second).sum()}, only one {only}, only other {others}," in images
    p = min(1.0, 2 * binom.cdf(min(only, others), only + others, 0.5))
    assert float(re.search(r"p = (\S+)", images)[1]) == pytest.approx(p, rel=1e-2)
    low, high = map(float, re.search(r"\[(\S+), (\S+)\] points", images).groups())
    gain = 100 * (second.mean() - first.mean())
    assert low < gain < high
    last = next(line for line in results.splitlines() if line.startswith("last epoch"))
    assert float(last.split()[-1]) == pytest.approx(gain, abs=0.011)
    assert curves.splitlines()[-1].split()[1:] == last.split()[2:4]


def test_a_cell_beside_itself_has_no_difference():
    text = str(compare(ROW / "kd/seed0", ROW / "kd/seed0"))
    assert len(text.split("\n\n")[0].splitlines()) == 3
    assert "only one 0, only other 0" in text
    assert "p = 1\n" in text


def test_numbers_are_compared_by_their_results():
    text = str(compare(ANGLE / "baseline/seed0", ANGLE / "baseline/seed1"))
    assert "predictions: only those of classes are compared image by image" in text


def test_what_cannot_be_compared_says_why(tmp_path):
    with pytest.raises(ValueError, match="no finished cell in it; give the folder of a trained cell"):
        compare(tmp_path, ROW / "kd/seed0")
    with pytest.raises(ValueError, match="have other tasks, classification and regression; compare cells of one"):
        compare(ANGLE / "baseline/seed0", ROW / "kd/seed0")
