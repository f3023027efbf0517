"""One script that uses a GPU for so many seconds: what it keeps is enough to go on with, and it says what it could not do."""

import os
import re
import tarfile
import time

import pytest
import torch
import yaml

from dgd import identity, running
from dgd.train import Order, OutOfTime, train_side_by_side
from speed import on_a_gpu
from tests.helpers import files_but_timings, prepare_digits


@pytest.fixture
def benchmark(tmp_path):
    """The file of a benchmark of three cells, a teacher, a network alone and one that learns from the teacher."""
    path = tmp_path / "part.yaml"
    content = {
        "benchmark": "part",
        "seeds": [0],
        "datasets": ["digits"],
        "data": {"train_images": 40, "dir": str(tmp_path / "data")},
        "pairs": [{"student": "cifar_resnet8", "teacher": "cifar_resnet20"}],
        "methods": ["baseline", "kd"],
        "recipe": {"epochs": 2, "batch_size": 20, "device": "cpu", "precision": "fp32", "evaluate_every": 2},
    }
    path.write_text(yaml.safe_dump(content))
    prepare_digits(tmp_path / "data" / "prepared" / "part" / "digits", 50, train_images=40)
    return path


def test_a_second_part_gives_the_bytes_of_one_long_run(benchmark, tmp_path, capfd):
    whole, first, second, home = (tmp_path / name for name in ("whole", "first", "second", "home"))
    assert running.train(running.order(benchmark), whole / "results")
    cells = running.benchmark_cells(benchmark)
    orders = [Order(cell, identity.prepared_folder(cell), first / "results" / cell.path) for cell in cells[:2]]
    for outcome in train_side_by_side(orders, results=first / "results", until=time.monotonic()):
        assert isinstance(outcome, OutOfTime)
    on_a_gpu.pack(on_a_gpu.units(cells, first), first, tmp_path / "packed", files=8, size=2**20)
    parts = sorted((tmp_path / "packed").iterdir())
    assert len(parts) > 1
    assert max(path.stat().st_size for path in parts) == 2**20
    capfd.readouterr()
    options = ["--root", str(second), "--out", str(tmp_path / "out"), "--together", "2"]
    assert on_a_gpu.main(["600", str(benchmark), "--resume", *map(str, parts), *options]) == 0
    out, err = capfd.readouterr()
    assert f"dgd-bench train {benchmark} --results {second / 'results'}" in out
    for cell in cells[:2]:
        assert f"{cell.path}: epoch 2/2" in err  # they did not begin again
        assert f"{cell.path}: epoch 1/2" not in err
    assert on_a_gpu.main(["--unpack", *map(str, (tmp_path / "out").iterdir()), "--root", str(home)]) == 0
    for cell in cells:
        expected = files_but_timings(whole / "results" / cell.path)
        assert files_but_timings(second / "results" / cell.path) == expected
        assert files_but_timings(home / "results" / cell.path) == expected


def test_what_is_left_to_do_decides_what_is_kept_first(benchmark, tmp_path):
    teacher, alone, taught = cells = running.benchmark_cells(benchmark)
    order = running.order(benchmark, alone.path)
    assert running.train(running.Order([teacher, alone], order.known), tmp_path / "results")
    point = tmp_path / "results" / taught.path / "resume.pt"
    point.parent.mkdir(parents=True)
    point.write_bytes(b"epochs")
    (tmp_path / "speed" / "results").mkdir(parents=True)
    (tmp_path / "speed" / "results" / "gpu.json").write_text('{"gpu": {}}')
    (tmp_path / "speed" / "results" / "cpu.json").write_text('{"steps": {}}')
    found = {unit.what: [path.name for path in unit.files] for unit in on_a_gpu.units(cells, tmp_path)}
    small = [name for name in identity.OUTPUTS if name != "model.safetensors"]
    assert list(found.items()) == [
        (f"the resume point of {taught.path}", ["resume.pt"]),
        ("speed/results/gpu.json", ["gpu.json"]),
        (teacher.path, list(identity.OUTPUTS)),  # with its weights, because a cell is left that learns from it
        (alone.path, small),
        (f"the weights of {alone.path}", ["model.safetensors"]),
    ]


def things(folder, **sizes):
    """Units of one file each, of so many random bytes."""
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(os.urandom(size))
        yield on_a_gpu.Unit(name, [folder / name])


def test_what_does_not_fit_is_left_out_and_said(tmp_path, capsys):
    wanted = things(tmp_path / "here", first=30_000, large=90_000, last=5_000, none_left=40_000)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{on_a_gpu.PART}007").write_bytes(b"of an earlier run")
    on_a_gpu.pack(wanted, tmp_path / "here", tmp_path / "out", files=4, size=15_000)
    parts = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in parts] == [f"on_a_gpu.tar.{k:03}" for k in range(len(parts))]
    assert len(parts) <= 4
    assert all(path.stat().st_size <= 15_000 for path in parts)
    assert "4 files of 0.0143051 MiB are full: large (0.1 MiB), none_left (0.0 MiB)" in capsys.readouterr().out
    on_a_gpu.unpack(parts[::-1], tmp_path / "there")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["first", "last"]
    for path in (tmp_path / "there").iterdir():
        assert path.read_bytes() == (tmp_path / "here" / path.name).read_bytes()
    with pytest.raises(ValueError, match=r"give all the files on_a_gpu.tar.\* of one part, and no others"):
        on_a_gpu.unpack(parts[1:], tmp_path / "there")


def test_a_file_outside_of_the_root_is_refused(tmp_path, capsys):
    path = tmp_path / "on_a_gpu.tar.000"
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "../outside")
    assert on_a_gpu.main(["--unpack", str(path), "--root", str(tmp_path / "root")]) == 1
    assert "../outside is no file below a root" in capsys.readouterr().err
    assert not (tmp_path / "outside").exists()


def test_a_data_set_that_is_not_there_is_said_before_anything_runs(benchmark, tmp_path, capsys):
    content = yaml.safe_load(benchmark.read_text())
    content["datasets"] = ["cifar100"]
    (tmp_path / "data" / "cifar-100-python").mkdir(parents=True)
    benchmark.write_text(yaml.safe_dump(content))
    assert on_a_gpu.main(["600", str(benchmark), "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert len(found.err.splitlines()) == 1
    assert f"on_a_gpu: missing: {tmp_path / 'data' / 'cifar-100-python' / 'train'}" in found.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are tests to run")
def test_without_a_gpu_it_says_that_no_test_and_no_row_can_run(tmp_path, capsys):
    assert on_a_gpu.main(["60", "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"tests: no CUDA device, so none of the tests marked cuda can run \([1-9]\d* files have such tests\)", out)
    assert "speed: no CUDA device, so there is no row to measure" in out
    assert "packed 0 things" in out


def test_no_time_is_said_and_a_process_that_takes_too_long_is_ended(tmp_path, capsys):
    clock = on_a_gpu.Clock(10, time.monotonic() - 9.5)  # a tenth is kept
    assert on_a_gpu.train(tmp_path / "some.yaml", tmp_path, clock, None) == running.TRY_AGAIN
    assert on_a_gpu.measure(tmp_path, clock, 0.5, quick=True) == 0
    out = capsys.readouterr().out
    assert "some.yaml: no time was left for its cells" in out
    assert "speed: no time for a row of the table" in out
    start = time.monotonic()
    assert on_a_gpu._call(["timeit", "-n1", "-r1", "import time; time.sleep(60)"], 0.5) == (None, "")
    assert time.monotonic() - start < 30
    status, printed = on_a_gpu._call(["no_such_module"], 30)
    assert status == 1
    assert "no_such_module" in printed
