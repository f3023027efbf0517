"""Which cells share a process, and commands that train such bundles: with a time to stop, and a capture that fails."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dgd import bundles, cli, running
from dgd.cell import Cell, Normalise
from dgd.train import memory
from pipeline import train as script
from pipeline.jobs import mem_mb
from tests.helpers import ROOT, cells_of, digits_cells, files_but_timings

GIB = 1024


def of(cells: Iterable[Cell], together=None, takes=GIB, device=16 * GIB) -> list[list[str]]:
    """The bundles of cells that take so many MiB each, by method and seed."""
    found = bundles.bundles(cells, together, memory=lambda cell: takes, device=lambda: device)
    assert sorted(cell.path for bundle in found for cell in bundle) == sorted(cell.path for cell in cells)
    return [[f"{cell.student[-2:]}-{cell.method}{cell.seed}" for cell in bundle] for bundle in found]


def cells(methods=("baseline", "kd"), seeds=(0, 1, 2), **recipe) -> list[Cell]:
    return digits_cells(methods, recipe={"device": "cuda", **recipe}, seeds=list(seeds))


def test_cells_are_trained_n_at_a_time_and_never_beside_a_teacher():
    own = cells()
    alone = [["20-baseline0"], *([f"t8-{method}{seed}"] for method in ("baseline", "kd") for seed in (0, 1, 2))]
    assert of(own, 1) == alone
    assert of(own, 3) == [
        ["20-baseline0", "t8-baseline0", "t8-baseline1"],
        ["t8-baseline2", "t8-kd0", "t8-kd1"],
        ["t8-kd2"],
    ]
    assert of(own, 50) == [["20-baseline0", *(f"t8-baseline{k}" for k in range(3))], [f"t8-kd{k}" for k in range(3)]]
    # A teacher that is there is none that they wait for.
    assert of(own[1:], 50) == [[name for (name,) in alone[1:]]]


def test_a_chain_of_teachers_is_a_chain_of_bundles():
    one, two, three = cells(["baseline"])
    chain = [one, replace(two, teachers=(one.path,)), replace(three, teachers=(two.path, one.path))]
    assert of(chain, 4) == [["t8-baseline0"], ["t8-baseline1"], ["t8-baseline2"]]
    made = replace(two, generated=None, makers=(one.path,))
    assert of([one, made], 4) == [["t8-baseline0"], ["t8-baseline1"]]


@pytest.mark.parametrize(("key", "value"), [("precision", "fp32"), ("threads", 2), ("deterministic", False), ("device", "cpu")])
def test_what_holds_for_a_process_is_one_in_a_bundle(key, value):
    one, two, three = cells(["baseline"])
    other = replace(two, recipe=replace(two.recipe, **{key: value}))
    assert of([one, other, three], 4) == [["t8-baseline0", "t8-baseline2"], ["t8-baseline1"]]


def test_a_cell_of_several_processes_is_alone():
    one, two, three = cells(["baseline"])
    spread = replace(two, recipe=replace(two.recipe, ranks_per_network=2))
    assert of([one, spread, three], 4) == [["t8-baseline0", "t8-baseline2"], ["t8-baseline1"]]


def test_a_gpu_takes_what_its_memory_holds_and_eight_at_most():
    own = cells(["baseline"], range(20))
    assert list(map(len, of(own, takes=1))) == [8, 8, 4]
    assert list(map(len, of(own, takes=5 * GIB))) == [3] * 6 + [2]
    assert list(map(len, of(own, takes=40 * GIB))) == [1] * 20
    on_cpu = [replace(cell, recipe=replace(cell.recipe, device="cpu")) for cell in own]
    assert list(map(len, of(on_cpu, takes=1))) == [1] * 20
    small, large = own[:2]
    found = bundles.bundles(
        [large, small, *own[2:5]], None, memory=lambda cell: 14 * GIB if cell is large else GIB, device=lambda: 16 * GIB
    )
    assert list(map(len, found)) == [2, 3]


@pytest.mark.parametrize(
    ("listed", "sizes", "expected"),
    [
        ("GPU 0: X (UUID: GPU-0a)", "81559", 81559),
        ("GPU 0: X (UUID: GPU-0a)\\nGPU 1: Y (UUID: GPU-1b)", "81559\\n40960", 40960),
        ("GPU 0: X (UUID: GPU-0a)\\n  MIG 1g.10gb     Device  0: (UUID: MIG-1)", "81559", 10 * GIB),
        ("GPU 0: X (UUID: GPU-0a)", "[N/A]", bundles.UNKNOWN),
        (None, None, bundles.UNKNOWN),
    ],
)
def test_the_memory_of_a_device_is_that_of_the_smallest(listed, sizes, expected, tmp_path, monkeypatch):
    if listed:
        (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\n[ "$1" = -L ] && printf "{listed}" || printf "{sizes}"\n')
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bundles.device_memory() == expected


def test_the_memory_of_a_bundle_counts_its_process_once():
    own = cells(["baseline"])
    each = [mem_mb(cell) for cell in own]
    process = memory.shared(cuda=True) * memory.MIB // 10**6
    assert mem_mb(*own) == sum(each) - 2 * process
    assert max(each) < mem_mb(*own) < 2 * each[0]
    assert bundles.device_need(own[0]) == memory.estimate(own[0], cuda=True)["device"]
    assert bundles.device_need(replace(own[0], student="vgg11_bn")) == bundles.UNKNOWN_CELL


# ---------------------------------------------------------------------------------------------------- dgd-bench train


@pytest.fixture
def benchmark(tmp_path) -> Path:
    path = tmp_path / "t.yaml"
    given = {
        "benchmark": "t",
        "seeds": [0],
        "datasets": ["digits"],
        "data": {"dir": str(tmp_path / "data"), "train_images": 40},
        "pairs": [{"student": "cifar_resnet8", "teacher": "cifar_resnet20"}],
        "methods": ["baseline", "dgd"],
        "recipe": {"epochs": 2, "batch_size": 20, "device": "cpu"},
    }
    path.write_text(yaml.safe_dump(given))
    return path


def train(benchmark: Path, results: str, *options: str) -> int:
    return cli.main(["train", str(benchmark), *options, "--results", str(benchmark.parent / results)])


def left(folder: Path) -> dict[str, tuple]:
    """What the cells below a root of results have in common with the same cells elsewhere."""
    return {str(path.parent.relative_to(folder)): files_but_timings(path.parent) for path in folder.rglob("metrics.json")}


def together(folder: Path) -> list[int]:
    return sorted(json.loads(path.read_text())["timings"]["together"] for path in folder.rglob("metrics.json"))


def test_side_by_side_or_stopped_three_times_they_leave_the_same_bytes(benchmark, capsys):
    """Two bundles of two epochs, and an epoch each time."""
    root = benchmark.parent
    assert train(benchmark, "alone") == 0
    assert together(root / "alone") == [1, 1, 1]
    assert train(benchmark, "beside", "--together", "2") == 0
    assert together(root / "beside") == [1, 2, 2]
    benchmark.write_text(benchmark.read_text() + "together: 2\nstop_after: 1.0e-9\n")  # the same by the config
    capsys.readouterr()
    for stop, points in (("3 of 3", 2), ("1 of 3", 0), ("1 of 3", 1)):
        assert train(benchmark, "stopped") == running.TRY_AGAIN == 75
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dgd-bench: ")]
        assert line.startswith(f"dgd-bench: {stop} cells are left after 1e-09 s, the next is t/digits/cifar_resnet")
        assert line.endswith("; the same command goes on")
        assert len(list((root / "stopped").rglob("resume.pt"))) == points
    assert train(benchmark, "stopped") == 0
    assert left(root / "alone") == left(root / "beside") == left(root / "stopped")
    assert len(left(root / "alone")) == 3
    assert not list(root.rglob("resume.pt"))


def test_a_cell_that_cannot_be_trained_leaves_the_others_alone(benchmark, capsys):
    given = yaml.safe_load(benchmark.read_text()) | {"seeds": [0], "methods": ["baseline"]}
    benchmark.write_text(yaml.safe_dump(given | {"pairs": [{"student": name} for name in ("vgg11_bn", "cifar_resnet8")]}))
    assert train(benchmark, "results", "--together", "1") == 1
    assert "baseline/seed0: not applicable: model 'vgg11_bn' does not work on 1x8x8 images" in capsys.readouterr().err
    ends = sorted((benchmark.parent / "results").rglob("metrics.json"))
    assert [json.loads(path.read_text())["status"] for path in ends] == ["finished", "not applicable"]


def test_what_no_bundle_is_made_by_is_refused(benchmark, capsys):
    assert train(benchmark, "results", "--together", "0") == 2
    assert train(benchmark, "results", "--stop-after", "-1") == 2
    assert train(benchmark, "results", "--stop-after", "5", "--again") == 1
    assert "--again trains anew what is there, so it cannot go on after --stop-after" in capsys.readouterr().err
    assert not (benchmark.parent / "results").exists()


def test_a_job_takes_over_trains_and_writes_down_what_fails(benchmark, capsys, monkeypatch):
    """`pipeline.train`, with three cells: one is another benchmark's too, one has constants that its images do not take."""
    monkeypatch.chdir(benchmark.parent)
    names = "cifar_resnet8", "cifar_resnet20", "cifar_resnet14"
    given = yaml.safe_load(benchmark.read_text())
    given |= {"methods": ["baseline"], "pairs": [{"student": name} for name in names]}
    assert train(benchmark, "results", "*/cifar_resnet8/baseline/*") == 0
    own = cells_of(given | {"benchmark": "u"})
    own[1] = replace(own[1], recipe=replace(own[1].recipe, normalise=Normalise((0.5,) * 3, (0.5,) * 3)))
    folders = [running.prepared(cell, "results") for cell in own]
    told = [word for cell, folder in zip(own, folders) for word in ("--cell", json.dumps(cell.plain()), "--data", str(folder))]
    Path("log").touch()
    command = [*told, "--results", "results", "--failed", "failed", "--log", "log"]
    with pytest.raises(SystemExit) as end:
        script.main([*command, "--stop-after", "0"])
    assert end.value.code == 75
    assert not Path("failed").exists()
    captured = capsys.readouterr()
    assert "u/digits/cifar_resnet8/baseline/seed0: taken over from results/t/" in captured.out
    assert "1 of 3 cells are left after 0 s; the same command goes on" in captured.err
    script.main(command)
    (line,) = Path("failed").read_text().splitlines()
    assert line.startswith(
        "u/digits/cifar_resnet20/baseline/seed0: ValueError: recipe.normalise.mean has 3 numbers, and images"
    )
    captured = capsys.readouterr()
    assert "u/digits/cifar_resnet8/baseline/seed0: already there" in captured.err
    assert f"{line.split(': ')[0]}: FAILED: ValueError" in captured.out
    assert re.search(r"u/digits/cifar_resnet14/baseline/seed0: \d+\.\d\d % in \d+ s", captured.out)
    assert all((Path("results") / cell.path / "train.log").samefile("log") for cell in own)
    with pytest.raises(SystemExit) as end:
        script.main([*told, "--results", "results"])
    assert end.value.code == 1
    # What is stale is deleted before it is made again, as Snakemake does for a job of one cell.
    (Path("results") / own[2].path / "history.csv").unlink()
    with pytest.raises(SystemExit):
        script.main([*command, "--stop-after", "0"])
    assert not (Path("results") / own[2].path / "metrics.json").exists()


FAILS = """
import sys
from dgd import cli
from dgd.train import graphs
from dgd.train.outcomes import CannotCapture

class Fails(graphs.Launcher):
    def __call__(self, size):
        self.ran = getattr(self, "ran", 0) + 1
        if self.ran > 3:  # in the second epoch, when the other cell has a resume point too
            raise CannotCapture(self.how, "operation not permitted")
        super().__call__(size)

def launcher(step, group, loader, *others):
    why = graphs.obstacle(group, loader)
    path = group.cell.path
    return graphs.Launcher(step, graphs.eager(why)) if why or not path.endswith("dgd/seed0") else Fails(step, path)

graphs.launcher = launcher
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_capture_that_fails_starts_the_command_again_without_it(benchmark):
    """As on a GPU, where the process is lost with the capture: a real new process goes on by the resume points."""
    root = benchmark.parent
    (root / "fails.py").write_text(FAILS)
    benchmark.write_text(benchmark.read_text().replace("seeds:\n- 0", "seeds:\n- 0\n- 1"))
    pattern = "*/dgd/*"
    assert train(benchmark, "alone", pattern) == 0
    command = [sys.executable, str(root / "fails.py"), "train", str(benchmark), pattern, "--results", str(root / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, "--together", "2"], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    dgd = "t/digits/cifar_resnet8/dgd/seed0"
    (line,) = [line for line in ended.stderr.splitlines() if "starting again" in line]
    assert line.startswith(f"{dgd}: its step cannot be captured as a CUDA graph: operation not permitted; starting again")
    assert left(root / "results") == left(root / "alone")
    how = json.loads((root / "results" / dgd / "metrics.json").read_text())["timings"]["steps"]
    assert how == "eager, because operation not permitted"
