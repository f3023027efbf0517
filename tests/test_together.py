"""Cells side by side in one process: each leaves what it leaves alone, and what ends one of them leaves the others alone."""

import math
import time
from dataclasses import replace

import pytest

from dgd.train import Order, OutOfTime, train_cell, train_side_by_side
from dgd.train.outcomes import Diverged
from tests.helpers import files_but_timings, make_teacher, method_cell


def cells(few_digits, root):
    """Seeds of one method, methods of one pair, and one that a teacher's baseline could be."""
    own = [replace(method_cell(name), teachers=()) for name in ("baseline", "grafting")]
    own += [replace(own[1], seed=1), method_cell("dgd"), method_cell("crd"), method_cell("ffsd"), method_cell("repr")]
    own = [replace(cell, teachers=("teacher",) * len(cell.teachers)) for cell in own]
    make_teacher(own[3], few_digits, root / "teacher")
    return own


def test_each_leaves_the_bytes_that_it_leaves_alone(few_digits, tmp_path):
    own = cells(few_digits, tmp_path)
    for k, cell in enumerate(own):
        train_cell(cell, results=tmp_path, data=few_digits, out=tmp_path / "alone" / str(k))
    orders = [Order(cell, few_digits, tmp_path / "together" / str(k)) for k, cell in enumerate(own)]
    found = train_side_by_side(orders, results=tmp_path)
    assert [metrics["status"] for metrics in found] == ["finished"] * len(own)
    assert {metrics["timings"]["together"] for metrics in found} == {len(own)}
    for k in range(len(own)):
        assert files_but_timings(tmp_path / "together" / str(k)) == files_but_timings(tmp_path / "alone" / str(k))


def test_one_that_diverges_or_fails_leaves_the_others_alone(few_digits, tmp_path):
    fine = method_cell("baseline")
    wild = replace(fine, seed=1, recipe=replace(fine.recipe, lr=1e6))
    broken = replace(fine, seed=2, teachers=("nobody",))
    orders = [Order(cell, few_digits, tmp_path / cell.path) for cell in (wild, broken, fine)]
    diverged, failed, finished = train_side_by_side(orders, results=tmp_path)
    assert isinstance(diverged, Diverged)
    assert finished["status"] == "finished"
    assert "nobody/metrics.json: no such file" in str(failed)
    train_cell(fine, results=tmp_path, data=few_digits, out=tmp_path / "alone")
    assert files_but_timings(tmp_path / fine.path) == files_but_timings(tmp_path / "alone")
    assert '"diverged"' in (tmp_path / wild.path / "metrics.json").read_text()
    assert not (tmp_path / broken.path / "metrics.json").exists()


def test_time_that_is_over_ends_all_after_an_epoch_and_they_go_on(few_digits, tmp_path):
    own = [replace(method_cell("grafting", epochs=4), seed=seed) for seed in (0, 1)]
    for cell in own:
        train_cell(cell, results=tmp_path / "whole", data=few_digits)
    orders = [Order(cell, few_digits, tmp_path / cell.path) for cell in own]
    parts = 0
    while any(isinstance(one, OutOfTime) for one in train_side_by_side(orders, results=tmp_path, until=time.monotonic())):
        parts += 1
        assert all((tmp_path / cell.path / "resume.pt").is_file() for cell in own)
        assert not any((tmp_path / cell.path / "metrics.json").exists() for cell in own)
    assert parts == 3
    for cell in own:
        assert files_but_timings(tmp_path / cell.path) == files_but_timings(tmp_path / "whole" / cell.path)


def test_an_epoch_that_ends_in_time_is_trained(few_digits, tmp_path):
    train_cell(method_cell("baseline"), results=tmp_path, data=few_digits, until=time.monotonic() + 600)
    train_cell(method_cell("baseline"), results=tmp_path / "for ever", data=few_digits, until=math.inf)
    with pytest.raises(OutOfTime, match=r"stopped after epoch 1 of 3; it goes on from there"):
        train_cell(method_cell("baseline", epochs=3), results=tmp_path / "short", data=few_digits, until=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"precision": "fp32"}}, "one recipe.precision; these have bf16, fp32"),
        ({"recipe": {"threads": 2}}, "one recipe.threads; these have 1, 2"),
        ({"recipe": {"ranks_per_network": 2}}, "has several processes; such a cell is trained alone"),
        ({}, "two cells side by side have one folder"),
    ],
)
def test_cells_that_cannot_share_a_process_are_refused(few_digits, tmp_path, change, message):
    one = method_cell("baseline", precision="bf16")
    other = replace(one, seed=1 if change else 0, recipe=replace(one.recipe, **change.get("recipe", {})))
    orders = [Order(cell, few_digits, tmp_path / cell.path) for cell in (one, other)]
    with pytest.raises(ValueError, match=message):
        train_side_by_side(orders, results=tmp_path)
    assert not any(tmp_path.iterdir())
