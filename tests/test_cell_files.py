"""Reading the files of one cell: filters.npz and pruning.csv."""

import numpy as np
import pandas as pd
import pytest

from dgd.metrics import METRICS
from dgd.read.files import PRUNING, read_filters, read_pruning, read_traces


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_norms_are_read_as_numpy_reads_them(tmp_path, save):
    """The reader of many small arrays does not go through `np.load`."""
    arrays = {
        f"l1/{i}/layer{n}.conv.weight": np.arange(n, dtype=kind) for i, kind in enumerate(("<f4", ">f8")) for n in (1, 0, 33)
    }
    save(tmp_path / "filters.npz", **arrays, **{"entropy/0": np.ones((2, 2))})
    norms = read_filters(tmp_path / "filters.npz")
    found = {f"l1/{network}/{layer}": array for network, layers in norms.items() for layer, array in layers.items()}
    assert list(found) == list(arrays)
    for key, array in np.load(tmp_path / "filters.npz").items():
        if key in found:
            np.testing.assert_array_equal(found[key], array, strict=True)
    save(tmp_path / "wrong.npz", **{"l1/0/conv.weight": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"wrong.npz: an array of shape \(2, 2\)"):
        read_filters(tmp_path / "wrong.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "filters.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"half.npz: .*train it again"):
        read_filters(tmp_path / "half.npz")


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
    assert read_filters(path)[0]["a"].tolist() == [1, 1, 1]
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


def curve(values, removed=(0, 100, 200, 300), filters=1000, name="top1"):
    removed = np.array(removed)
    columns = (removed / filters, removed, filters - removed, 10 * (filters - removed), values, values)
    return pd.DataFrame(dict(zip((*PRUNING, name, f"{name}_random"), columns, strict=True)))


def test_a_damaged_pruning_curve_says_what_to_do(tmp_path):
    path = tmp_path / "pruning.csv"
    assert read_pruning(path) is None
    curve([1.0] * 4).iloc[:0].to_csv(path, index=False)
    assert read_pruning(path) is None
    curve([70.0, 69.0, 68.0, 67.0]).drop(columns="top1").to_csv(path, index=False)
    with pytest.raises(ValueError, match="no column 'top1'; delete it and run `dgd-bench prune`"):
        read_pruning(path)
    curve([70.0, 69.0, 68.0, 67.0]).iloc[1:].to_csv(path, index=False)
    with pytest.raises(ValueError, match="no row with 0 filters removed"):
        read_pruning(path)
    curve([70.0, 69.0, 68.0, 67.0]).iloc[::-1].to_csv(path, index=False)
    assert read_pruning(path, measured=70.4)["removed"].tolist() == [0, 100, 200, 300]
    with pytest.raises(ValueError, match="metrics.json says 71.00 %: it is of other weights"):
        read_pruning(path, measured=71.0)


def test_a_pruning_curve_has_the_metric_of_its_task(tmp_path):
    path, rmse = tmp_path / "pruning.csv", METRICS["regression"]
    curve([5.0, 5.5, 6.0, 9.0], name="rmse").to_csv(path, index=False)
    assert read_pruning(path, rmse, 5.2)["rmse"].tolist() == [5.0, 5.5, 6.0, 9.0]
    with pytest.raises(ValueError, match="the whole network has 5.000 and metrics.json says 6.000: it is of other weights"):
        read_pruning(path, rmse, 6.0)
    with pytest.raises(ValueError, match="no column 'top1'"):
        read_pruning(path)
