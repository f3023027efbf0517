"""Too little memory, processes that die, file systems without locks, numbers that are none: one line, and the others go on."""

import json
import os
import re
import resource
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dgd import cli, running
from dgd.read.cells import collect
from dgd.read.results import results_table
from dgd.train import Order, step, train_cell, train_side_by_side
from tests.faults.commands import benchmark, dgd_bench, results
from tests.helpers import files_but_timings, make_teacher, method_cell, start_process

# ----------------------------------------------------------------------------------------------------------- memory


def train_with(room: int, words: list[str]) -> None:
    """Run `dgd-bench` in a process that may take so many bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + room
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    raise SystemExit(cli.main(words))


@pytest.mark.parametrize("room", [300, *(pytest.param(mib, marks=pytest.mark.faults) for mib in (200, 500))])
def test_too_little_memory_ends_one_cell_and_says_what_to_lower(tmp_path, room):
    """A batch of all digits takes far more than one of 20; near what a step takes torch's own kernels may crash instead."""
    large = {"large": {"base": "baseline", "recipe": {"batch_size": 1100}}}
    keys = {"pairs": [{"student": "cifar_resnet110"}], "methods": [large, "baseline"]}
    data = {"dir": str(tmp_path / "data"), "train_images": 1150}
    path = benchmark(tmp_path, {"epochs": 1}, data=data, **keys)
    running.prepared(running.benchmark_cells(path)[0])
    words = ["train", str(path), "--results", str(tmp_path / "results")]
    process = start_process(train_with, room * 2**20, words, output=tmp_path / "printed")
    process.join(300)
    assert process.exitcode == 1
    lines = [line for line in re.split("[\r\n]+", (tmp_path / "printed").read_text()) if line and "epoch" not in line]
    cells = {name: tmp_path / "results/t/digits/cifar_resnet110" / name / "seed0" for name in ("large", "baseline")}
    said = r"failed: t/digits/cifar_resnet110/{0}/seed0: not enough memory; lower recipe.batch_size or together \(.+\)"
    done = [name for name, folder in cells.items() if (folder / "metrics.json").is_file()]
    failed = [name for name in cells if name not in done]
    assert (done, failed) == (["baseline"], ["large"]), lines
    for name in failed:
        assert sum(bool(re.fullmatch(rf"{cells[name]}: {said.format(name)}", line)) for line in lines) == 1, lines
    assert len(lines) == len(failed), lines
    assert not [path for folder in cells.values() for path in folder.glob(".*")]


# ------------------------------------------------------------------------------------------------------------- locks

NO_LOCKS = """
#include <errno.h>
int flock(int file, int what) { errno = NUMBER; return -1; }
"""


@pytest.mark.faults
@pytest.mark.parametrize("number", ["ENOTSUP", "ENOLCK", "ENOSYS"])
def test_without_locks_it_is_said_once_and_the_results_are_the_same(tmp_path, number):
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    (tmp_path / "no.c").write_text(NO_LOCKS.replace("NUMBER", number))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "no.so"), str(tmp_path / "no.c")], check=True)
    path = benchmark(tmp_path, {"epochs": 2})
    found = {}
    for name, variables in (("with", {}), ("without", {"LD_PRELOAD": str(tmp_path / "no.so")})):
        root = tmp_path / name
        command = dgd_bench("train", path, "--results", root, printed=tmp_path / "printed", variables=variables)
        command.run()
        lines = [line for line in command.lines() if "no locks on this file system" in line]
        assert len(lines) == len(variables), lines
        found[name] = results(root)
        assert not list(root.rglob(".*"))
    assert found["with"] == found["without"]


# ------------------------------------------------------------------------------------------------- numbers that are none


def spoil(where: str, at: int, learn=step.losses):
    """Return `step.losses` that makes a number of one step NaN: of the loss, a weight, or a teacher's output."""
    steps = iter(range(10**6))

    def losses(group, turn, *args):
        now = next(steps) == at
        if now and where == "weight":
            with torch.no_grad():
                next(group.members[0].network.parameters()).view(-1)[0] = torch.nan
        teachers = group.teachers
        if now and where == "teacher":
            group.teachers = [lambda inputs, one=one: _no_number(one(inputs)) for one in teachers]
        try:
            for k, loss in learn(group, turn, *args):
                if now and where == "loss":
                    args[-1][k][0] += torch.nan
                yield k, loss * torch.nan if now and where == "loss" else loss
        finally:
            group.teachers = teachers

    return losses


def _no_number(output):
    return replace(output, logits=output.logits * torch.nan)


FAST = {("loss", 0), ("weight", 4), ("teacher", 8)}
PLACES = [(where, at) for where in ("loss", "weight", "teacher") for at in (0, 4, 8)]


@pytest.mark.parametrize(
    ("where", "at"), [pytest.param(*one, marks=() if one in FAST else pytest.mark.faults) for one in PLACES]
)
def test_a_number_that_is_none_ends_its_cell_in_its_epoch_and_the_table_says_so(few_digits, tmp_path, monkeypatch, where, at):
    """In the first, a middle and the last of nine steps; another cell beside it is trained."""
    cell = replace(method_cell("kd"), teachers=("teacher",))
    other = replace(cell, seed=1)
    make_teacher(cell, few_digits, tmp_path / "teacher")
    with monkeypatch.context() as patch:
        patch.setattr(step, "losses", spoil(where, at))
        (outcome,) = train_side_by_side([Order(cell, few_digits, tmp_path / cell.path)], results=tmp_path)
    assert str(outcome).startswith(f"the loss of network 0 is not finite in epoch {at // 3} at learning rate ")
    metrics = json.loads((tmp_path / cell.path / "metrics.json").read_text())
    assert (metrics["status"], metrics["error"]) == ("diverged", str(outcome))
    train_cell(other, results=tmp_path, data=few_digits)
    frame = collect(tmp_path / cell.benchmark, [cell, other])
    assert "1 of 2: 1 diverged" in results_table(frame, []).text.to_string()


def test_one_that_is_no_number_leaves_its_neighbour_alone(few_digits, tmp_path, monkeypatch):
    """They take turns, an epoch each: the fourth step is the first of the neighbour's."""
    own = [method_cell("baseline"), replace(method_cell("baseline"), seed=1)]
    train_cell(own[1], results=tmp_path / "alone", data=few_digits)
    monkeypatch.setattr(step, "losses", spoil("loss", 0))
    orders = [Order(cell, few_digits, tmp_path / cell.path) for cell in own]
    diverged, finished = train_side_by_side(orders, results=tmp_path)
    assert diverged.status == "diverged"
    assert finished["status"] == "finished"
    assert files_but_timings(tmp_path / own[1].path) == files_but_timings(tmp_path / "alone" / own[1].path)
