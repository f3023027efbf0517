"""Filter-level evidence and pruning: numbers worked out by hand, and filters taken away by hand."""

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from dgd import cli, data, evidence, filters, identity, models, pruning, tables, training
from dgd.config import cells
from dgd.evidence import Traces, density_table, density_text, effective, read_pruning, read_traces, sets_over_epochs
from dgd.models.folding import followers

ROOT = Path(__file__).parents[1]

# ------------------------------------------------------------------------------------------------------------- evidence


def test_traces_are_read(tmp_path):
    path = tmp_path / "filters.npz"
    arrays = {
        "l1/0/a": np.ones(3, np.float32),
        "epochs": np.array([1, 3]),
        "trace/l1/0": np.arange(6, dtype=np.float32).reshape(2, 3),
        "trace/entropy/0": np.ones((2, 1), np.float32),
        "trace/l1/1": np.zeros((2, 3), np.float32),
        "trace/entropy/1": np.zeros((2, 1), np.float32),
    }
    np.savez_compressed(path, **arrays)
    alone = read_traces(path)
    assert alone.l1.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (alone.epochs.tolist(), alone.exchanges.tolist(), alone.share.shape) == ([1, 3], [], (0, 1))
    assert read_traces(path, network=1).l1.max() == 0
    assert read_traces(path, network=2) is None
    np.savez_compressed(path, **arrays, exchanges=np.array([0, 2]), **{"trace/share/0": np.array([[0.3], [np.nan]])})
    np.testing.assert_equal(read_traces(path).share, [[0.3], [np.nan]])
    np.savez_compressed(path, **arrays, exchanges=np.array([0]), **{"trace/share/0": np.array([[0.3], [np.nan]])})
    with pytest.raises(ValueError, match="traces of 2 epochs and 1 exchanges do not fit"):
        read_traces(path)


def test_cells_without_traces_have_none(tmp_path):
    np.savez_compressed(tmp_path / "old.npz", **{"l1/0/a": np.ones(3), "entropy/0": np.ones(1)})
    assert read_traces(tmp_path / "old.npz") is None
    np.savez_compressed(tmp_path / "vit.npz", **{"epochs": np.array([1]), "trace/l1/0": np.zeros((1, 0))})
    assert read_traces(tmp_path / "vit.npz") is None
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="bad.npz.*train it again"):
        read_traces(tmp_path / "bad.npz")


def test_invalid_ratios_count_the_threshold_itself():
    found = evidence.invalid_ratios(np.array([0, 0.1, 1, 5]), np.array([0, 0.05, 0.1, 1, 10]))
    assert found.tolist() == [0.25, 0.25, 0.5, 0.75, 1]


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


def test_overlap_is_a_share_of_the_rows_positions():
    l1 = np.array([[0.5, 0.5, 2, 2], [0.5, 2, 2, 2], [2, 2, 2, 2]])
    nan = np.nan
    np.testing.assert_equal(evidence.overlap(l1, 1.0), [[1, 0.5, 0], [1, 1, 0], [nan, nan, nan]])


def curve(tops, removed=(0, 100, 200, 300), random=None, filters=1000):
    removed = np.array(removed)
    columns = (removed / filters, removed, filters - removed, 10 * (filters - removed), tops, random or tops)
    return pd.DataFrame(dict(zip(evidence.PRUNING, columns)))


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
    common = {"dataset": "cifar10", "teacher": None, "network": 0, "parameters": 2e6, "conv_filters": 1000}
    return pd.DataFrame(
        [
            common
            | {"student": student, "method": method, "seed": seed, "top1_last": top1, "folder": f"{method}{seed}"}
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
    table = density_table(cells, tmp_path).set_index("method")
    row = table.loc["baseline"]
    assert (row["n"], row["pruned"], row["top1"], row["top1_per_million_parameters"]) == (2, 2, 71.0, 35.5)
    assert row["effective_share"] == pytest.approx(0.85)
    assert row["effective_share_sd"] == pytest.approx(0.1 / np.sqrt(2))
    assert (row["effective_filters"], row["effective_parameters"]) == (850, 8500)
    assert row["top1_per_1000_effective_filters"] == pytest.approx((70 / 0.8 + 72 / 0.9) / 2)
    assert row["removed_random_top1"] == pytest.approx((30 + 2) / 2)
    text = density_text(table.reset_index()).set_index("method")
    assert text.loc["baseline", "effective share of filters"] == "0.850 ± 0.071 (n=2)"
    assert text.loc["kd", "top-1 per million parameters"] == "30.00"
    assert text.loc["kd", "effective share of filters"] == "not run"
    assert set(text.loc["dgd"].iloc[2:]) == {"not run"}
    assert not (text == "").any().any()
    written = tables.write(table.reset_index(), tmp_path / "density", text.reset_index(), evidence.DENSITY_NOTES)
    assert "- Effective filters: those left" in written[1].read_text()
    assert len(pd.read_csv(written[0])) == 3


def test_a_damaged_pruning_curve_says_what_to_do(tmp_path):
    path = tmp_path / "pruning.csv"
    assert read_pruning(path) is None
    pd.DataFrame(columns=list(evidence.PRUNING)).to_csv(path, index=False)
    assert read_pruning(path) is None
    curve([70.0, 69.0, 68.0, 67.0]).drop(columns="top1").to_csv(path, index=False)
    with pytest.raises(ValueError, match="no column 'top1'; delete it and run `dgd-bench prune`"):
        read_pruning(path)
    curve([70.0, 69.0, 68.0, 67.0]).iloc[1:].to_csv(path, index=False)
    with pytest.raises(ValueError, match="no row with 0 filters removed"):
        read_pruning(path)
    curve([70.0, 69.0, 68.0, 67.0]).iloc[::-1].to_csv(path, index=False)
    assert read_pruning(path, 70.4)["removed"].tolist() == [0, 100, 200, 300]
    with pytest.raises(ValueError, match="metrics.json says 71.00 %: it is of other weights"):
        read_pruning(path, 71.0)


def test_the_read_side_needs_no_torch():
    code = "import sys, dgd.figures, dgd.evidence; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"DGD_NETWORKS": "no"}, check=True)


def test_committed_curves_make_nothing_train(tmp_path):
    """A fresh clone has results without weights and data, of whatever age git gave them."""
    for part in ("Snakefile", "pipeline", "dgd", "papers", "profiles", "envs"):
        copy_of = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy_of(ROOT / part, tmp_path / part)
    config = yaml.safe_load((ROOT / "config/test/tiny.yaml").read_text()) | {"pruning": [0.5]}
    (tmp_path / "pruned.yaml").write_text(yaml.safe_dump(config))
    results = tmp_path / "results"
    files = [results / cell["path"] / name for cell in cells(config) for name in identity.OUTPUTS if "safetensors" not in name]
    curves = [results / cell["path"] / "pruning.csv" for cell in cells(config)]
    tiny = results / "tiny"
    names = ("results", "methods", "filters", "density", "claims", "controls")
    made = [tiny / "cells.csv", *(tiny / f"tables/{name}.{kind}" for name in names for kind in ("md", "csv", "tex"))]
    made += [tiny / "figures/.snakemake_timestamp", tiny / "report.html"]
    for age, group in enumerate((made, files, curves)):
        for path in group:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (2e9 - age, 2e9 - age))
    os.utime(tiny / "figures", (2e9, 2e9))

    def plan() -> str:
        env = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE_")}
        env |= {"XDG_CACHE_HOME": str(tmp_path / ".cache"), "OMP_NUM_THREADS": "1"}
        command = [Path(sys.executable).parent / "snakemake", "-n", "--configfile", "pruned.yaml"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "Nothing to be done" in plan()
    curves[0].unlink()
    assert f"pruning {cells(config)[0]['path']}" in plan()
