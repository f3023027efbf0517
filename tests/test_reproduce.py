"""`dgd-bench reproduce`: a cell is trained again, and the level at which it is the same is said; what each level promises."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dgd import cli, identity, reproduce, running, seals
from dgd.files import file_hash, write_json
from dgd.train import train_cell
from tests.helpers import digits_cells, files_but_timings, method_cell, start_process, unseal

BENCHMARK = """
benchmark: t
seeds: [0]
datasets: [digits]
data: {{dir: {folder}/data, train_images: 80}}
pairs: [{{student: cifar_resnet8, teacher: cifar_resnet20}}]
methods: [kd, grafting]
recipe: {{epochs: 1, batch_size: 20, device: cpu, precision: fp32}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the root of the results of a kd cell, whose teacher comes without weights, and of a grafting cell."""
    root = tmp_path_factory.mktemp("reproduce")
    (root / "t.yaml").write_text(BENCHMARK.format(folder=root))
    assert cli.main(["train", str(root / "t.yaml"), "--results", str(root / "results")]) == 0
    (root / "results/t/digits/cifar_resnet20/baseline/seed0/model.safetensors").unlink()  # as committed cells are
    return root / "results"


@pytest.fixture
def results(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


KD, GRAFTING = ("t/digits/cifar_resnet8/kd/seed0", "t/digits/cifar_resnet8/grafting/seed0")


def run(capsys, *words) -> tuple[int, list[str]]:
    capsys.readouterr()
    status = cli.main(["reproduce", *map(str, words)])
    captured = capsys.readouterr()
    return status, (captured.out or captured.err).splitlines()


def seal_again(folder, change) -> None:
    """Change a cell's record, and seal it again."""
    record = json.loads((folder / seals.RECORD).read_text())
    change(record)
    hashes = {name: file_hash(folder / name) for name in identity.OUTPUTS if name != seals.RECORD}
    write_json(folder / seals.RECORD, seals.sealed(record, hashes))


def test_on_the_machine_that_trained_it_a_cell_has_the_same_bytes(capsys, trained):
    cell = trained / KD
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert run(capsys, cell) == (
        0,
        [
            f"{cell}: level A, equal bytes is promised: nothing differs from what trained it",
            f"{cell}: equal bytes: history, predictions, filters, and all measured metrics",
        ],
    )
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_side_by_side_and_over_processes_it_has_the_same_bytes(capsys, trained, tmp_path):
    status, (first, second) = run(capsys, trained / GRAFTING, "--together", 2, "--keep", tmp_path / "kept")
    assert status == 0
    assert first.endswith("level B, equal bytes is promised: cells side by side were 1 and are 2")
    assert ": equal bytes: " in second
    assert (tmp_path / "kept" / GRAFTING / "model.safetensors").is_file()
    assert json.loads((tmp_path / "kept" / GRAFTING / "metrics.json").read_text())["timings"]["together"] == 2
    status, (line,) = run(capsys, trained / GRAFTING, "--keep", tmp_path / "kept")
    assert (status, line) == (1, f"dgd-bench: {tmp_path / 'kept' / GRAFTING}: already there; give another folder by --keep")


@pytest.mark.slow
def test_a_cell_of_two_processes_is_trained_by_two_again_or_by_one(capsys, results):
    cell = running.order(results / GRAFTING / "config.yaml").wanted[0]
    spread = replace(cell, recipe=replace(cell.recipe, ranks_per_network=1))
    shutil.rmtree(results / GRAFTING)
    running.train(running.Order([spread], {spread.path: spread}), results)
    assert json.loads((results / GRAFTING / "config.yaml").read_text().split("ranks_per_network: ")[1][0]) == 1
    status, (first, second) = run(capsys, results / GRAFTING)
    assert (status, "level A" in first, ": equal bytes: " in second) == (0, True, True)
    status, (first, second) = run(capsys, results / GRAFTING, "--ranks", 0)
    assert first.endswith("level B, equal bytes is promised: processes for each network were 1 and are 0")
    assert (status, ": equal bytes: " in second) == (0, True)


@pytest.mark.slow
def test_with_other_threads_it_is_equal_within_the_tolerance(capsys, trained):
    status, (first, second) = run(capsys, trained / KD, "--threads", 2)
    assert first.endswith("level B, equal within tolerance is promised: threads were 1 and are 2")
    if ": equal bytes: " not in second:  # as on a processor whose kernels do not divide their sums
        found = re.search(r"equal within tolerance: the largest difference of a loss of the first epoch is (\S+) %", second)
        assert float(found[1]) <= 100 * reproduce.TOLERANCE
        assert "the 95 % interval of the paired difference on 599 test images is [" in second
    assert status == 0


def test_with_other_versions_it_is_statistically_equal(capsys, results):
    """The versions are those of a record that was made with others; its numbers, of a training that began elsewhere."""
    cell = results / GRAFTING
    own = running.order(cell / "config.yaml").wanted[0]
    nudged = replace(own, method="other", recipe=replace(own.recipe, momentum=0.901))
    running.train(running.Order([nudged], {nudged.path: nudged}), results)
    for name in ("history.csv", "predictions.npz", "filters.npz", "metrics.json"):
        (cell / name).write_bytes((results / nudged.path / name).read_bytes())

    def older(record):
        record["packages"]["torch"] = "2.9.0"
        record["machine"]["cpu_capability"] = "AVX2"
        record["identity"]["code"]["dgd/train/step.py"] = "0"

    seal_again(cell, older)
    status, (first, second) = run(capsys, cell)
    said = re.search(r"level C, statistically equal is promised: (.*)$", first)[1]
    assert re.fullmatch(
        r"torch was 2\.9\.0 and is \S+; CPU capability was AVX2 and is \S+; the code of dgd/train/step\.py differs", said
    )
    assert re.search(r": (equal within tolerance|statistically equal): the largest difference of a loss", second), second
    assert status == 0


def test_what_was_changed_is_different(capsys, results):
    cell = results / KD
    history = (cell / "history.csv").read_text()
    (cell / "history.csv").write_text(history.replace("\n", "\n9", 1))
    status, (line,) = run(capsys, cell)
    assert (status, "history.csv was changed or damaged after it was written" in line) == (1, True)
    unseal(cell)
    status, (first, second) = run(capsys, cell)  # a cell of older code is trained again, to see
    assert first.endswith("; not sealed: older code trained it")
    assert re.search(r"level A promises equal bytes$", second)
    (cell / "history.csv").write_text(history)
    metrics = json.loads((cell / "metrics.json").read_text())
    metrics["parameters"] += 1
    write_json(cell / "metrics.json", metrics)
    status, (first, second) = run(capsys, cell)
    assert status == 1
    metrics["networks"][0]["last"]["top1"] += 50
    write_json(cell / "metrics.json", metrics)
    with np.load(cell / "predictions.npz") as found:
        np.savez(cell / "predictions.npz", labels=found["labels"], predictions=found["labels"][None])
    status, (first, second) = run(capsys, cell)
    assert status == 1
    assert re.search(
        r": different: top-1 accuracy was \S+ and is \S+ %; the 95 % interval of the paired difference on 599 test images is "
        r"\[-[\d.]+, -[\d.]+\] points \(fewer than 3 seeds of its row are there\); predictions.npz differs",
        second,
    )
    seal_again(cell, lambda record: record["identity"].update(data="0" * 64))
    status, (first, second) = run(capsys, cell)
    assert re.search(r": different: the data set in \S+/data/prepared/t/digits is not that of its provenance.json", second)


def test_seeds_of_the_row_give_the_interval_where_there_are_three(tmp_path):
    cell = method_cell("baseline")
    for seed, top1 in enumerate((50.0, 52.0, 54.0)):
        last = {"networks": [{"last": {"top1": top1}}], "status": "finished"}
        write_json(tmp_path / f"row/seed{seed}/metrics.json", last)
    was = tmp_path / "row/seed0"
    before = json.loads((was / "metrics.json").read_text())
    for top1, equal in ((60.0, True), (65.0, False)):
        after = {"networks": [{"last": {"top1": top1}}]}
        found, text = reproduce.statistics(was, tmp_path, cell, before, after)
        assert found == equal
        assert text.endswith("the 95 % prediction interval of its row's 3 seeds is [42.06, 61.94]")


def test_the_paired_interval_holds_nothing_where_nothing_differs_in_its_mean():
    """Its coverage, by drawing: two predictions of one accuracy that agree on most images."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(2000):
        kind = draw.choice(4, size=500, p=[0.7, 0.05, 0.05, 0.2])
        low, high = reproduce.paired_interval(np.isin(kind, (0, 1)), np.isin(kind, (0, 2)))
        held += low <= 0 <= high
    assert 0.94 < held / 2000 < 0.97


# ----------------------------------------------------------------------------------------------- what level B promises


def on_one_core(cells, results, digits):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for cell in reversed(cells):
        train_cell(cell, results=results, data=digits)


def test_one_core_and_another_order_give_the_same_bytes(few_digits, tmp_path):
    cells = digits_cells(["grafting"], teacher=None, seeds=[0, 1], recipe={"precision": "bf16", "epochs": 2})
    for cell in cells:
        train_cell(cell, results=tmp_path / "all", data=few_digits)
    process = start_process(on_one_core, cells, tmp_path / "one", few_digits, output=tmp_path / "printed")
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "printed").read_text()
    for cell in cells:
        assert files_but_timings(tmp_path / "one" / cell.path) == files_but_timings(tmp_path / "all" / cell.path)


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("baseline", "fp32"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("baseline", "bf16"), ("grafting", "fp32"), ("grafting", "bf16"))
        ),
    ],
)
def test_two_threads_give_the_losses_of_one_in_the_first_epoch(digits, tmp_path, method, precision):
    cell = method_cell(method, epochs=1, precision=precision)
    for threads in (1, 2):
        again = replace(cell, recipe=replace(cell.recipe, threads=threads))
        train_cell(again, results=tmp_path, data=digits, out=tmp_path / str(threads))
    assert reproduce.first_epoch(tmp_path / "1", tmp_path / "2")[0] <= reproduce.TOLERANCE
    found = [pd.read_csv(tmp_path / name / "history.csv") for name in ("1", "2")]
    assert list(found[0]) == list(found[1])
