"""What figures show of filters: numbers worked out by hand."""

import os
import subprocess
import sys

import numpy as np

from dgd.read.figures import norms, overlaps, sets
from dgd.read.files import Traces


def test_invalid_ratios_count_the_threshold_itself():
    found = norms.shares_invalid(np.array([0, 0.1, 1, 5]), np.array([0, 0.05, 0.1, 1, 10]))
    assert found.tolist() == [0.25, 0.25, 0.5, 0.75, 1]


def test_sets_are_those_of_the_finished_baseline():
    """Baseline 0.5, 2, 0.2, 3 at threshold 1: two invalid filters, at positions 0 and 2."""
    trace = Traces(np.array([4, 9]), np.array([[4, 1, 2, 3], [1, 5, 8, 2]], np.float32), np.ones((2, 1)), np.zeros(0), None)
    found = sets.sets_over_epochs(trace, np.array([0.5, 2, 0.2, 3]), 1.0)
    assert found.index.tolist() == [4, 9]
    assert found["mean_l1_invalid_rank"].tolist() == [1.5, 1.5]
    assert found["mean_l1_valid_rank"].tolist() == [3.5, 6.5]
    assert found["mean_l1_invalid_position"].tolist() == [3.0, 4.5]
    assert found["mean_l1_valid_position"].tolist() == [2.0, 3.5]
    none = sets.sets_over_epochs(trace, np.array([2.0, 2, 2, 2]), 1.0)
    assert none["mean_l1_invalid_rank"].isna().all()
    assert none["mean_l1_valid_rank"].tolist() == [2.5, 4.0]


def test_overlap_is_a_share_of_the_rows_positions():
    l1 = np.array([[0.5, 0.5, 2, 2], [0.5, 2, 2, 2], [2, 2, 2, 2]])
    nan = np.nan
    np.testing.assert_equal(overlaps.overlap(l1, 1.0), [[1, 0.5, 0], [1, 1, 0], [nan, nan, nan]])


def test_the_read_side_needs_no_torch():
    code = "import sys, dgd.read.figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"DGD_NETWORKS": "no"}, check=True)
