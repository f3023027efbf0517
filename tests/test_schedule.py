"""Learning rates over time, and the epochs after which networks exchange weights."""

from dataclasses import replace

import pytest
import torch

from dgd.cell import Recipe
from dgd.cell import exchange as filled_exchange
from dgd.train.schedule import Rates, exchange_due, learning_rates


def test_learning_rates():
    recipe = Recipe()
    slr = learning_rates(recipe, 2)
    assert slr(0) == slr(59.99) == [0.1, 0.1]
    assert slr(60) == pytest.approx([0.01, 0.01])
    assert slr(199) == pytest.approx([1e-4, 1e-4])
    benchmark = learning_rates(replace(recipe, milestones=(150, 180, 210)), 1)
    assert [benchmark(time)[0] for time in (0, 149.99, 150, 180, 239)] == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4])
    # Starts by number of networks, as read off a run of the released code.
    starts = {
        1: [0.1],
        2: [0.05, 0.1],
        3: [0.025, 0.075, 0.1],
        4: [0.0146, 0.05, 0.0854, 0.1],
        6: [0.0067, 0.025, 0.05, 0.075, 0.0933, 0.1],
    }
    for n, expected in starts.items():
        for schedule in ("dlr", "difflr"):
            assert learning_rates(replace(recipe, schedule=schedule), n)(0) == pytest.approx(expected, abs=5e-5)
    dlr = learning_rates(replace(recipe, schedule="dlr"), 2)
    assert dlr(100) == pytest.approx([0.025, 0.05])
    assert dlr(200) == pytest.approx([0, 0])
    assert learning_rates(replace(recipe, schedule="difflr"), 2)(60) == pytest.approx([0.005, 0.01])


def test_cosine_is_torchs_per_step():
    recipe = Recipe(schedule="dlr", epochs=3)
    at, steps = learning_rates(recipe, 1), 7
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3 * steps)
    for t in range(3 * steps):
        assert at(t / steps)[0] == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-9)
        optimiser.step()
        theirs.step()


def test_cosine_is_one_rate_for_all():
    at = learning_rates(Recipe(schedule="cosine", epochs=10), 2)
    assert at(0) == [0.1, 0.1]
    assert at(5) == pytest.approx([0.05, 0.05])
    assert at(9.999)[0] < 1e-6


def test_when_networks_exchange():
    def epochs(**options):
        own = filled_exchange({"name": "graft", **options})
        return [epoch for epoch in range(6) if any(exchange_due(own, 6, epoch, phase) for phase in ("before", "after"))]

    assert epochs() == [0, 1, 2, 3, 4]  # nothing would see an exchange after the last evaluation
    assert epochs(every=2) == [1, 3]
    assert epochs(every=2, evaluate="after") == [1, 3, 5]
    assert epochs(**{"from": 3, "until": 4}) == [2, 3]


def test_an_exchange_is_due_once_an_epoch_and_in_its_own_phase():
    def due(phase, **options):
        return [epoch for epoch in range(6) if exchange_due(filled_exchange({"name": "graft", **options}), 6, epoch, phase)]

    # `evaluate: before`, the default, means that the exchange is after it.
    assert (due("before"), due("after")) == ([], [0, 1, 2, 3, 4])
    assert (due("before", evaluate="after"), due("after", evaluate="after")) == ([0, 1, 2, 3, 4, 5], [])
    assert due("before", evaluate="after", until=4) == [0, 1, 2, 3]
    assert not any(exchange_due(None, 6, epoch, phase) for epoch in range(6) for phase in ("before", "after"))


def test_a_group_with_a_rate_of_its_own_follows_in_proportion_or_stays():
    parameters = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(3)]
    optimiser = torch.optim.SGD(
        [parameters[0], parameters[1] | {"start": 0.4, "scheduled": True}, parameters[2] | {"start": 0.4, "scheduled": False}],
        lr=0.2,
    )
    rates = Rates([[optimiser]], 0.1, torch.device("cpu"))
    for _ in range(2):  # the second epoch in the first one's tensors
        rates.plan([[0.05], [0.1]])
        for step, rate, own in ((0, 0.05, 0.2), (1, 0.1, 0.4)):
            rates.set(torch.tensor([step]))
            assert [float(group["lr"]) for group in optimiser.param_groups] == pytest.approx([rate, own, 0.4])
