"""Knowledge density: numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from dgd.metrics import METRICS
from dgd.read.density import density_table, effective
from dgd.read.files import PRUNING
from dgd.read.table import write


def curve(values, removed=(0, 100, 200, 300), random=None, filters=1000, name="top1"):
    removed = np.array(removed)
    columns = (removed / filters, removed, filters - removed, 10 * (filters - removed), values, random or values)
    return pd.DataFrame(dict(zip((*PRUNING, name, f"{name}_random"), columns, strict=True)))


@pytest.mark.parametrize(
    ("tops", "left"),
    [
        ([70.0, 69.9, 69.0, 60.0], 800),  # exactly one point is not too much
        ([70.0, 68.0, 69.9, 60.0], 1000),  # what recovers later does not count
        ([70.0, 71.0, 72.0, 73.0], 700),
        ([70.1, 69.1, 60.0, 60.0], 900),  # 70.1 - 69.1 is above 1 in floating point
    ],
)
def test_effective_filters_are_left_at_the_last_row_that_costs_a_point(tops, left):
    assert effective(curve(tops))["filters_left"] == left


def frame(*rows):
    """cells.csv of cifar10 cells: (student, method, seed, top1)."""
    common = {"dataset": "cifar10", "teacher": None, "network": 0, "parameters": 2e6, "conv_filters": 1000, "metric": "top1"}
    return pd.DataFrame(
        [
            common
            | {"student": student, "method": method, "seed": seed, "last": top1, "folder": f"{method}{seed}"}
            | {"status": "finished" if top1 else "diverged"}
            for student, method, seed, top1 in rows
        ]
    )


def test_density_by_hand(tmp_path):
    cells = frame(("s", "baseline", 0, 70.0), ("s", "baseline", 1, 72.0), ("s", "kd", 0, 60.0), ("s", "dgd", 0, None))
    for name, found in {
        "baseline0": curve([70.0, 69.5, 69.0, 50.0], random=[70.0, 60.0, 40.0, 30.0]),  # 800 are left
        "baseline1": curve([72.0, 71.5, 60.0, 50.0], random=[72.0, 70.0, 40.0, 30.0]),  # 900 are left
    }.items():
        (tmp_path / name).mkdir()
        found.to_csv(tmp_path / name / "pruning.csv", index=False)
    whole = density_table(cells, tmp_path)
    table = whole.frame.set_index("method")
    row = table.loc["baseline"]
    assert (row["n"], row["pruned"], row["last"], row["per_million_parameters"]) == (2, 2, 71.0, 35.5)
    assert row["effective_share"] == pytest.approx(0.85)
    assert row["effective_share_sd"] == pytest.approx(0.1 / np.sqrt(2))
    assert (row["effective_filters"], row["effective_parameters"]) == (850, 8500)
    assert row["per_1000_effective_filters"] == pytest.approx((70 / 0.8 + 72 / 0.9) / 2)
    assert row["lost_with_random"] == pytest.approx((30 + 2) / 2)
    text = whole.text.set_index("method")
    assert text.loc["baseline", "effective share of filters"] == "0.850 ± 0.071 (n=2)"
    assert text.loc["kd", "top-1 per million parameters"] == "30.00"
    assert text.loc["kd", "effective share of filters"] == "not run"
    assert set(text.loc["dgd"].iloc[2:]) == {"not run"}
    assert not (text == "").any().any()
    written = write(whole, tmp_path / "density")
    assert "- Effective filters: those left" in written[1].read_text()
    assert len(pd.read_csv(written[0])) == 3


def test_of_a_metric_where_lower_is_better_what_grows_is_lost(tmp_path):
    rmse = METRICS["regression"]
    assert effective(curve([5.0, 4.0, 6.0, 6.1], name="rmse"), rmse)["filters_left"] == 800
    cells = frame(("s", "baseline", 0, 5.0)).assign(metric="rmse")
    (tmp_path / "baseline0").mkdir()
    found = curve([5.0, 5.5, 6.5, 9.0], random=[5.0, 7.5, 9.0, 9.0], name="rmse")
    found.to_csv(tmp_path / "baseline0" / "pruning.csv", index=False)
    whole = density_table(cells, tmp_path)
    (row,) = whole.frame.to_dict("records")
    assert (row["effective_filters"], row["lost_with_random"]) == (900, 2.5)
    assert np.isnan(row["per_million_parameters"])
    assert np.isnan(row["per_1000_effective_filters"])
    assert whole.text["root mean square error"].tolist() == ["5.000 (n=1)"]
    assert "costs at most 1 on the test split" in whole.footnotes[1]
