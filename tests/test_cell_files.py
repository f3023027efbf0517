"""The files of one cell: written whole and sealed, by one process at a time; filters.npz and pruning.csv are read."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from taught import TEACHER

from dgd import files, identity, seals
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


# ------------------------------------------------------------------------------------------------------------ the seal

CONTENTS = {name: b"content" for name in identity.OUTPUTS if name not in ("metrics.json", "provenance.json", "config.yaml")}


def write(folder: Path, cell=TEACHER, contents=CONTENTS, value=5.0) -> Path:
    """Write a cell's files as a training does."""
    identity.write_cell(folder, cell, contents, {"cell": cell.path, "lr": 0.1}, {"status": "finished", "top1": value})
    return folder


@pytest.mark.parametrize("name", identity.OUTPUTS)
def test_one_flipped_bit_of_any_file_is_noticed(tmp_path, name):
    assert seals.check_seal(write(tmp_path), identity.OUTPUTS)
    path = tmp_path / name
    whole = path.read_bytes()
    for place in range(len(whole)) if name == "provenance.json" else (0, len(whole) // 2, len(whole) - 1):
        if name == "provenance.json" and whole[place : place + 1].isspace():
            continue  # how JSON is laid out is not part of it
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        os.utime(path, ns=(place, place))
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} (was changed or damaged|is not JSON).*train it again$"):
            seals.check_seal(tmp_path, identity.OUTPUTS)
    path.unlink()
    if name != "provenance.json":
        with pytest.raises(ValueError, match=f"{name}: no such file, and provenance.json has its hash"):
            seals.check_seal(tmp_path, identity.OUTPUTS)


def test_a_cell_of_older_code_has_no_seal_and_is_read(tmp_path):
    assert seals.check_seal(tmp_path, identity.OUTPUTS) is False
    (tmp_path / "provenance.json").write_text('{"cell": "a"}')
    assert seals.check_seal(tmp_path, identity.OUTPUTS) is False
    assert seals.seal(tmp_path) is None


def test_a_write_that_is_cut_short_leaves_the_old_cell_or_none(tmp_path, monkeypatch):
    """A folder with parts of two cells is never a result, wherever the process is killed."""
    write_bytes, outcomes = files.write_bytes, []
    for last in range(len(identity.OUTPUTS) + 1):
        folder = write(tmp_path / str(last))
        left = iter(range(last))

        def write_some(path, content, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            write_bytes(path, content)

        monkeypatch.setattr(identity, "write_bytes", write_some)
        try:
            write(folder, contents=dict.fromkeys(CONTENTS, b"other"), value=9.0)
        except KeyboardInterrupt:
            assert not (folder / "metrics.json").exists()
        outcomes.append((folder / "metrics.json").exists())
        monkeypatch.setattr(identity, "write_bytes", write_bytes)
    assert outcomes == [False] * len(identity.OUTPUTS) + [True]
    assert seals.check_seal(folder, identity.OUTPUTS)


def test_what_is_taken_over_is_sealed_again_and_damage_is_not_taken_over(tmp_path):
    source = write(tmp_path / TEACHER.path)
    record = json.loads((source / "provenance.json").read_text()) | {"identity": {"teachers": {}}}
    (source / "provenance.json").write_text(json.dumps(seals.sealed(record, record["seal"]["files"])))
    (source / "metrics.json").write_text('{"status": "finished", "cell": {}}')
    with pytest.raises(ValueError, match="metrics.json was changed"):
        identity.adopt(source, tmp_path / "taken", TEACHER)
    assert not (tmp_path / "taken").exists()
    identity.write_cell(source, TEACHER, CONTENTS, record, {"status": "finished", "cell": {}})
    identity.adopt(source, tmp_path / "taken", TEACHER)
    assert seals.check_seal(tmp_path / "taken", identity.OUTPUTS)


# ------------------------------------------------------------------------------------------------------------ the lock

HOLD = """
import sys
sys.modules["timm"] = None  # importing dgd takes seconds with torch, which files do not need
from dgd import files
with files.locked(sys.argv[1], "trained"):
    print("has it", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_is_told_who_the_first_is_and_a_killed_one_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"has it\n"
        who = (
            rf"^{re.escape(str(tmp_path))} is being trained by process {first.pid} on \S+ since \d{{4}}-.*; wait for it, or end"
        )
        for _ in range(2):
            with pytest.raises(files.Locked, match=who), files.locked(tmp_path):
                pass
        first.kill()
        first.wait()
    assert (tmp_path / files.LOCK).exists()
    own = pytest.raises(files.Locked, match=f"is being written by process {os.getpid()} on")
    with files.locked(tmp_path), own, files.locked(tmp_path):
        pass
    assert not (tmp_path / files.LOCK).exists()


def test_many_processes_have_a_lock_one_after_the_other(tmp_path):
    """The file of the lock is deleted each time: none may hold a lock on a file that is no longer there."""
    code = """
import sys, time
sys.modules["timm"] = None
from pathlib import Path
from dgd import files
folder, got = Path(sys.argv[1]), 0
while got < 30:
    try:
        with files.locked(folder):
            (folder / "mine").touch(exist_ok=False)
            (folder / "mine").unlink()
            got += 1
    except files.Locked:
        time.sleep(0.001)
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_without_locks_it_is_said_once(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(files.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for name in "ab":
        with files.locked(tmp_path / name), files.locked(tmp_path / name):
            pass
        assert list((tmp_path / name).iterdir()) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "no locks on this file system (No locks available): start nothing twice on one folder" in line


def test_what_a_killed_process_left_unfinished_is_removed_and_nothing_else(tmp_path):
    for name in (".metrics.json.abc.tmp", ".history.csv.x_1.tmp", ".pruning.csv.y.tmp", "metrics.json"):
        (tmp_path / name).touch()
    files.remove_unfinished(tmp_path, identity.OUTPUTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pruning.csv.y.tmp", "metrics.json"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    """The disk is full: this process may write no more than so many bytes."""
    code = f"""
import resource, signal, sys
sys.modules["timm"] = None
from dgd import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
files.write_bytes({str(tmp_path / "a")!r}, b"x" * 500)
try:
    files.write_bytes({str(tmp_path / "a")!r}, b"y" * 2000)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"x" * 500
