"""Rejection sampling and the teacher's filter, held to values of the authors' functions."""

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from dgd.data import selection
from dgd.data.selection import EmptySelection, Filter, Rejection

GOLDEN = json.loads((Path(__file__).parent / "golden" / "cgan-kd.json").read_text())


def fill(shape, t):
    """Return the input that the golden values' rule names."""
    k = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.sin(0.7 * k + 0.1 * t).reshape(shape)


def rejection():
    """Return the golden case as a `Rejection`, whose images are their own numbers."""
    golden = GOLDEN["rejection"]
    ratios = [golden["burn_in_ratios"], *golden["batches_of_5"]]
    uniforms = iter(golden["uniforms"])
    calls, number = count(), count()

    def draw(n):
        call = next(calls)
        return torch.tensor([-1] * n if call == 0 else [next(number) for _ in range(n)])

    found = count()
    return Rejection(draw, lambda images: np.array(ratios[next(found)]), lambda n: np.array(next(uniforms)), 6, 5)


@pytest.mark.parametrize("wanted", [3, 6, 9])
def test_rejection_accepts_what_the_authors_code_accepts(wanted):
    golden, sampler = GOLDEN["rejection"], rejection()
    assert sampler.maximum == 1.5
    assert sampler(wanted).tolist() == golden[f"accepted_for_nfake_{wanted}"]
    assert sampler.drawn == 5 * golden[f"batches_drawn_for_nfake_{wanted}"]


def test_every_decision_and_maximum():
    golden, maximum = GOLDEN["rejection"], 1.5
    for ratios, uniforms, decisions, after in zip(
        *(golden[k] for k in ("batches_of_5", "uniforms", "decisions", "running_max"))
    ):
        passed, maximum = selection.accept(np.array(ratios), np.array(uniforms), maximum)
        assert passed.tolist() == decisions
        assert maximum == after


def test_rejection_that_cannot_end_says_so():
    zeros, ones = lambda n: np.zeros(len(n)), lambda n: np.ones(n)
    with pytest.raises(EmptySelection, match="ratios are all 0.*train the ratio network"):
        Rejection(torch.arange, zeros, ones, 4, 4)(2)
    with pytest.raises(EmptySelection, match="not finite"):
        Rejection(torch.arange, lambda x: np.full(len(x), np.nan), ones, 4, 4)(2)
    rare = Rejection(
        torch.arange, lambda x: np.where(np.arange(len(x)) == 0, 1.0, 0.0) if len(x) == 8 else zeros(x), ones, 8, 4
    )
    with pytest.raises(EmptySelection, match="rejection accepts 0 of 100 images.*subsample"):
        rare(2)


@pytest.mark.parametrize("rho", [0.9, 0.7])
def test_the_class_filter_keeps_what_the_authors_code_keeps(rho):
    golden = GOLDEN[f"filter_class_rho{rho}"]
    logits = [2 * fill((20, 4), 50), 2 * fill((20, 4), 51)]
    losses = [torch.nn.functional.cross_entropy(z, torch.ones(20, dtype=torch.long), reduction="none").numpy() for z in logits]
    assert losses[0] == pytest.approx(golden["losses"], abs=1e-8)
    cutoff = selection.cut_off(losses[0], rho)
    assert cutoff == pytest.approx(golden["cutoff"], abs=1e-8)
    kept = selection.below(losses[0], cutoff)
    assert kept.tolist() == golden["kept_index"]
    assert logits[0][kept].argmax(1).tolist() == golden["labels_adjusted"]
    again = selection.below(losses[1], cutoff)
    assert again.tolist() == golden["second_batch_kept_index"]
    assert logits[1][again].argmax(1).tolist() == golden["second_batch_labels"]


def test_a_filter_draws_until_it_has_enough_and_says_when_it_cannot():
    draws = count()
    made = Filter(lambda n: torch.arange(n) + 0 * next(draws), lambda x: x.numpy() / len(x), 0.5, 10)
    assert made.cutoff == pytest.approx(0.45)
    assert made(6).tolist() == [0, 1, 0, 1, 0, 1]
    assert (made.drawn, made.kept) == (9, 6)
    with pytest.raises(EmptySelection, match=r"keeps 0 of 100 images \(cut-off 1\); raise filter"):
        Filter(torch.arange, lambda x: np.ones(len(x)), 0.9, 4)(2)
    assert selection.below(np.array(GOLDEN["filter_ties"]["losses"]), 1.0).tolist() == GOLDEN["filter_ties"]["rho0.9_kept"]
    assert selection.below(np.array([1, 2, 3]), selection.cut_off(np.array([1, 2, 3]), 1.0)).tolist() == [0, 1]


def test_the_filter_of_numbers_keeps_what_the_authors_code_keeps():
    golden = GOLDEN["filter_regression_steering"]
    targets = np.array(golden["targets"])
    raw = torch.linspace(0, 1, 12, dtype=torch.float64) + 0.1 * fill(12, 60)
    predictions = raw.clamp(0, 1).numpy() * (97.92 + 88.13) - 88.13
    kept, cutoff = selection.filter_values(predictions, targets, 0.7)
    assert cutoff == pytest.approx(golden["cutoff_q0.7"], abs=1e-7)
    assert kept.tolist() == golden["kept_index"]
    assert predictions[kept] == pytest.approx(golden["new_labels"], abs=1e-7)

    golden = GOLDEN["filter_regression_utkface"]
    targets = np.array(golden["targets"])
    ages = np.floor((torch.from_numpy(targets) / 60 + 0.1 * fill(12, 60)).clamp(0, 1).numpy() * 60)
    kept, cutoff = selection.filter_values(ages, targets, 0.7)
    assert (cutoff, kept.tolist(), ages[kept].tolist()) == (5.0, golden["kept_index"], golden["new_labels"])
    with pytest.raises(EmptySelection, match="keeps none of 3 images"):
        selection.filter_values(np.ones(3), np.zeros(3), 0.7)
