"""Disks that are full or cannot be written: one line that names the file, nothing half-written, and the same bytes later."""

import json
import resource

import pytest

from dgd import cli, config
from tests.faults import disks
from tests.faults.commands import benchmark, results

PAGE = 4096


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def train(path, root) -> dict:
    return {"main": "dgd.cli", "argv": ["train", str(path), "--results", str(root)]}


def check_said(step: dict, disk) -> None:
    """One line, which names a file of the disk and says what is wrong with it."""
    assert step["status"] == 1, step
    (line,) = step["said"]
    assert str(disk) in line, line
    assert "No space left on device" in line or "Read-only file system" in line, line


def test_a_file_that_is_too_large_is_named(tmp_path, capsys):
    """No file may have more bytes than this: first the resume point, then the weights have not."""
    path, root = benchmark(tmp_path, methods=["baseline"], pairs=[{"student": "cifar_resnet8"}]), tmp_path / "results"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    command = ["train", str(path), "--results", str(root)]
    assert cli.main(["train", str(path), "--results", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    for most, name in ((200_000, "resume.pt"), (1_000, "resume.pt")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            assert cli.main(command) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line and "epoch" not in line]
        where = root / "t/digits/cifar_resnet8/baseline/seed0" / name
        assert lines == [f"dgd-bench: [Errno 27] cannot be written: File too large: '{where}'"]
        assert list(where.parent.iterdir()) == []
    assert cli.main(command) == 0
    assert results(root) == results(tmp_path / "whole")


@pytest.mark.faults
@pytest.mark.timeout(0)
def test_a_training_on_a_full_disk_goes_on_when_there_is_room(tmp_path, disk):
    """At sizes in steps, from no page to more than all files take together."""
    path, root = benchmark(tmp_path, recipe={"epochs": 2}), disk / "results"
    (whole,) = [step for step in disks.run(disk, [train(path, root), {"hash": str(root)}]) if "status" not in step]
    sizes = [*range(0, 6 * PAGE, PAGE), *range(8 * PAGE, 4_400_000, 110 * PAGE)]
    steps = []
    for size in sizes:
        again = [{"spare": size}, train(path, root), {"size": 64}, train(path, root), {"hash": str(root)}]
        steps += [*again, {"remove": str(root)}]
    found, refused = disks.run(disk, steps), 0
    for size, (first, then, hashes) in zip(sizes, zip(*[iter(found)] * 3), strict=True):
        if first["status"]:
            refused += 1
            check_said(first, disk)
            assert not [name for name in first["files"] if name.endswith((".tmp", ".lock"))], (size, first)
        assert then["status"] == 0, (size, then)
        assert hashes == whole, size
    assert 12 < refused < len(sizes), "there is not room for all, and the largest has room for all"
    print(f"\n{len(sizes)} sizes from 0 to {sizes[-1]:,} bytes, {refused} of them too small")


@pytest.mark.faults
@pytest.mark.timeout(0)
def test_what_reads_cells_on_a_full_disk_names_the_file_and_comes_again(tmp_path, disk):
    path, root = benchmark(tmp_path, recipe={"epochs": 2}, papers=["dgd"]), disk / "results"
    resolved, cells = tmp_path / "resolved.json", str(root / "t" / "cells.csv")
    resolved.write_text(json.dumps(config.load(path).plain()))
    cell = root / "t/digits/cifar_resnet8/dgd/seed0"
    data = tmp_path / "data/prepared/t/digits"
    scripts = {
        "pipeline.collect": ["--config", str(resolved), "--out", cells],
        "pipeline.prune": ["--folder", str(cell), "--data", str(data), "--shares", "0.2", "0.5"],
        "pipeline.tabulate": ["--cells", cells, "--papers", "papers/dgd.yaml", "--out", str(root / "t" / "tables")],
        "pipeline.plot": ["--folder", str(root / "t"), "--out", str(root / "t" / "figures")],
        "pipeline.report": ["--folder", str(root / "t"), "--out", str(root / "t" / "report.html")],
        "dgd.cli": ["freeze", str(root / "t")],
    }
    steps = [train(path, root)]
    sizes = (0, PAGE, 3 * PAGE, 20 * PAGE)
    for name, argv in scripts.items():
        one = {"main": name, "argv": argv}
        for size in sizes:
            steps += [{"spare": size}, one]
        steps += [{"size": 64}, one, {"hash": str(root)}, one, {"hash": str(root)}]
    first, *found = disks.run(disk, steps)
    assert first["status"] == 0
    refused = 0
    for name in scripts:
        *full, done, hashes, again, others = found[: len(sizes) + 4]
        del found[: len(sizes) + 4]
        for step in full:
            if step["status"]:
                refused += 1
                check_said(step, disk)
            assert not [file for file in step["files"] if file.endswith(".tmp")], (name, step)
        assert full[0]["status"] == 1, name
        assert (done["status"], again["status"]) == (0, 0), (name, done, again)
        assert hashes == others, name
    print(f"\n{len(scripts)} scripts, {refused} of {len(scripts) * len(sizes)} sizes too small")


@pytest.mark.faults
def test_folders_that_cannot_be_written_are_named(tmp_path, disk):
    """Results, data, and one cell of a benchmark."""
    path, root = benchmark(tmp_path, recipe={"epochs": 1}), disk / "results"
    on_disk = benchmark(tmp_path / "other", recipe={"epochs": 1}, data={"dir": str(disk / "data")})
    steps = [train(path, root), {"readonly": 1}]
    steps += [{"main": "dgd.cli", "argv": ["train", str(path), "--results", str(root), "--again"]}]
    steps += [train(path, disk / "new"), train(on_disk, tmp_path / "r")]
    steps += [
        {"main": "dgd.cli", "argv": words}
        for words in (["freeze", str(root / "t")], ["prune", str(root / "t/digits/cifar_resnet8/dgd/seed0")])
    ]
    steps += [
        {"main": "dgd.cli", "argv": words}
        for words in (["status", str(path), "--results", str(root)], ["table", str(root / "t")])
    ]
    first, *found = disks.run(disk, steps)
    assert first["status"] == 0
    for step in found[:-2]:
        check_said(step, disk)
    assert [step["status"] for step in found[-2:]] == [0, 0], "what only reads needs to write nothing"
