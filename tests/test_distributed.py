"""One cell over several processes: the same bytes as in one, also after a process was killed, and nobody waits for ever."""

import json
import os
import shutil
import socket
import time
from dataclasses import replace

import pandas as pd
import pytest

from dgd.cell import Cell
from dgd.train import NoResult, checkpoint, step, train_cell
from dgd.train.record import RESUME
from tests.helpers import digits_cells, start_process

FILES = ("model.safetensors", "history.csv", "predictions.npz", "filters.npz")


def train_all(jobs, results, digits):
    """Train cells one after another, each with a port of its own, in one of the processes that they are spread over."""
    for cell, port in jobs:
        os.environ["MASTER_PORT"] = str(port)
        try:
            train_cell(cell, results=results, data=digits)
        except NoResult as error:
            print("outcome:", error)


def train_slowly(jobs, results, digits):
    """Train cells, but wait in each step for ever once there is a file `slow`."""
    learn = step.losses

    def wait(*args, **options):
        if (results / "slow").exists():
            time.sleep(3600)
        return learn(*args, **options)

    step.losses = wait
    train_all(jobs, results, digits)


def cells(methods, student="cifar_resnet8", **recipe) -> dict[str, Cell]:
    recipe = {"schedule": "difflr", "precision": "fp32", **recipe}
    found = digits_cells(methods, student, recipe=recipe, adapt_stem=student.startswith("test_"))
    return {cell.method: cell for cell in found if cell.student == student}


def spread(cell, ranks=1) -> Cell:
    """The cell, with so many processes for each of its networks."""
    return replace(cell, recipe=replace(cell.recipe, ranks_per_network=ranks))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(processes, cells, results, digits, function=train_all):
    """Some cells, one after the other, in that many processes, as torchrun starts them: it would end the others itself."""
    jobs = [(spread(cell, processes // cell.networks).plain(), free_port()) for cell in cells]
    shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(processes)}
    outputs = [results / f"printed-{processes}-{k}" for k in range(processes)]
    return [
        (start_process(function, jobs, results, digits, output=output, RANK=str(k), LOCAL_RANK=str(k), **shared), output)
        for k, output in enumerate(outputs)
    ]


def ended(process, output, seconds) -> str:
    """Wait for a process, and return what it printed."""
    process.join(seconds)
    assert process.exitcode is not None, f"after {seconds} s: {output.read_text()}"
    return output.read_text()


def finish(running):
    outputs = [ended(*one, 200) for one in running]
    assert [process.exitcode for process, _ in running] == [0] * len(running), "\n".join(outputs)
    return outputs


EXACT = ("grafting", "four", "options", "noise", "surgery", "explained", "drop path", "sub-nets")
CLOSE = ("one network of two processes", "two networks of two processes each")


@pytest.fixture(scope="module")
def wanted() -> dict[str, Cell]:
    options = {"momentum": "graft", "batch_norm": "reestimate", "evaluate": "after"}
    rows = [
        {"four": {"base": "grafting", "networks": 4}},
        {"options": {"base": "grafting", "exchange": options, "recipe": {"weight_average": "ema", "filters_every": 2}}},
        {"noise": {"base": "grafting", "exchange": {"name": "noise", "gamma": 5.0}}},
        {"surgery": {"base": "independent", "exchange": {"name": "repr", "normal": 1, "pruned": 1, "cycles": 1}}},
        {"explained": {"base": "self-explanation+graft"}},
        {"diverging": {"base": "grafting", "recipe": {"lr": 1.0e30}}},
    ]
    # Without batch norm, whose statistics are each process's own, as everywhere in data parallel training.
    alone = cells(["baseline"], "test_vit", epochs=2, batch_size=17, lr=0.01)["baseline"]
    both = cells(["grafting"], "test_convnext", batch_size=17, lr=0.01)["grafting"]
    nested = {"sub-nets": {"base": "ddnn+graft", "exchange": options, "recipe": {"weight_average": "ema"}}}
    more = {"drop path": cells(["grafting"], "test_efficientnet")["grafting"], **cells([nested], "cifar_resnet20")}
    return cells(["grafting", *rows]) | more | dict(zip(CLOSE, (alone, both), strict=True))


@pytest.fixture(scope="module")
def alone(wanted, digits, tmp_path_factory):
    """Return the results of the cells, each trained in one process."""
    results = tmp_path_factory.mktemp("alone")
    for name in (*EXACT, *CLOSE):
        train_cell(wanted[name], results=results, data=digits)
    return results


@pytest.fixture(scope="module")
def spread_out(wanted, digits, tmp_path_factory):
    """Return the results of the cells, each trained by two or four processes, and what those printed."""
    results = tmp_path_factory.mktemp("spread")
    four = ("four", CLOSE[1])
    printed = []
    for processes, names in ((4, four), (2, [name for name in wanted if name not in four])):
        printed += finish(start(processes, [wanted[name] for name in names], results, digits))
    return results, printed


def same(cell, *roots):
    a, b = (root / cell.path for root in roots)
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (a, b))
    assert one | {"timings": None} == other | {"timings": None}


@pytest.mark.parametrize("name", EXACT)
def test_a_process_a_network_gives_the_bytes_of_one_process(wanted, alone, spread_out, name):
    same(wanted[name], alone, spread_out[0])


def test_a_divergence_of_one_network_is_the_outcome_of_all(wanted, spread_out):
    results, printed = spread_out
    assert sum("outcome: the loss of network 0 is not finite" in output for output in printed) == 2
    metrics = json.loads((results / wanted["diverging"].path / "metrics.json").read_text())
    assert metrics["status"] == "diverged"


@pytest.mark.parametrize("name", CLOSE)
def test_processes_that_share_batches_compute_the_gradient_of_the_whole_batch(wanted, alone, spread_out, name):
    """Equal but for the order of summation."""
    folders = [root / wanted[name].path for root in (alone, spread_out[0])]
    one, many = (pd.read_csv(folder / "history.csv") for folder in folders)
    pd.testing.assert_frame_equal(one, many, rtol=1e-3)
    one, many = (checkpoint.load_weights(folder / "model.safetensors") for folder in folders)
    assert max(float((one[key] - many[key]).abs().max()) for key in one) < 1e-3


def test_the_teacher_is_read_by_all(digits, tmp_path):
    """With terms that read features, own modules, and keep a bank of the training images."""
    terms = {"ce": 1.0, "kd": 1.0, "fitnet": 1.0, "crd": {"weight": 0.8, "negatives": 16}}
    cell = cells([{"m": {"base": "dgd", "objective": terms}}])["m"]
    (teacher,) = digits_cells(["baseline"], "cifar_resnet20", recipe={"epochs": 1})
    train_cell(teacher, results=tmp_path / "one", data=digits)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    train_cell(cell, results=tmp_path / "one", data=digits)
    finish(start(2, [cell], tmp_path / "two", digits))
    same(cell, tmp_path / "one", tmp_path / "two")


def test_a_killed_process_ends_the_others_and_the_cell_goes_on(digits, tmp_path):
    """Also in the middle of an epoch: that takes longer here than anybody may wait."""
    cell = cells(["grafting"], epochs=4)["grafting"]
    folder = tmp_path / "killed" / cell.path
    running = start(2, [cell], tmp_path / "killed", digits, train_slowly)
    deadline = time.monotonic() + 120
    while not (folder / RESUME).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    (tmp_path / "killed" / "slow").touch()
    time.sleep(0.5)
    running[1][0].kill()
    output = ended(*running[0], 60)
    assert running[0][0].exitcode == 1
    assert "rank 1 is gone" in output
    assert not (folder / "metrics.json").exists()
    (tmp_path / "killed" / "slow").unlink()
    finish(start(2, [cell], tmp_path / "killed", digits))
    train_cell(cell, results=tmp_path / "whole", data=digits)
    same(cell, tmp_path / "whole", tmp_path / "killed")


def test_the_config_says_how_many_processes_there_are(digits, tmp_path):
    cell = cells(["grafting"])["grafting"]
    outputs = [ended(*one, 100) for one in start(3, [cell], tmp_path, digits)]
    assert "asks for 2 processes and this is one of 3: start it with torchrun --nproc-per-node=2" in outputs[0]
