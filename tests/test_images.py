"""Test images as a random factor beside the seeds: against simulation, and what the footnotes say of the committed cells."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from dgd.read.cells import predicting, read_collected
from dgd.read.comparisons import CONDITIONAL
from dgd.read.images import factor, factors
from tests.helpers import ROOT


def test_the_factor_is_that_of_drawn_images():
    """Seeds and images drawn anew: the variance of the gain is that of the seeds' interval times the factor squared."""
    generator = np.random.default_rng(0)
    gains, seen = [], []
    for _ in range(1500):
        hard = generator.normal(0.5, 1, 400)  # how likely an image is right, in each row by another amount
        rows = [hard + generator.normal(0, 0.6, 400) for _ in range(2)]
        skill = generator.normal(0, 0.05, (2, 4, 1))
        right = np.array(rows)[:, None] + skill + generator.normal(0, 0.5, (2, 4, 400)) > 0
        difference = 100 * (right[0].mean(1) - right[1].mean(1))
        gains.append(difference.mean())
        variance = difference.var(ddof=1)
        seen.append((variance / 4, factor(right[0], right[1], variance) ** 2 * variance / 4))
    alone, both = np.mean(seen, axis=0)
    assert both == pytest.approx(np.var(gains), rel=0.12)
    assert alone < 0.8 * np.var(gains)


def test_without_a_difference_between_images_there_is_none_to_draw():
    generator = np.random.default_rng(1)
    own, other = generator.random((2, 5, 4000)) < 0.8
    assert factor(own, other, 1.0) < 1.05
    assert factor(np.ones((3, 10), bool), np.zeros((3, 10), bool), 1.0) == 1.0  # right in each, wrong in each


def test_the_footnote_has_what_the_committed_predictions_say():
    large, small = [], []
    for path in sorted((ROOT / "results").glob("*/cells.csv")):
        cells = predicting(read_collected(path))
        if (cells["metric"] == "top1").any():
            found = 100 * (factors(cells, path.parent) - 1)
            (large if cells["dataset"].str.startswith("cifar").all() else small).append(found)
    large, small = pd.concat(large), pd.concat(small)
    assert len(large) > 50
    expected = [large.median(), large.max(), small.median(), small.max()]
    said = re.search(r"by (\d+) % in the median and (\d+) % at most, .*? by (\d+) % and (\d+) %", CONDITIONAL)
    assert [int(value) for value in said.groups()] == [math.floor(value + 0.5) for value in expected]
    page = " ".join((ROOT / "docs" / "reading-tables.md").read_text().split())
    large, small = f"by {said[1]} % in the median and {said[2]} % at most", f"by {said[3]} % and {said[4]} %"
    assert f"{large}, those of 1,000 or fewer {small}" in page
