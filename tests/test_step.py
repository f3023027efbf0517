"""A step of a group: its plan, the time that rates and terms see, and what running the other members leaves alone."""

from dataclasses import replace

import pytest
import torch

from dgd import data
from dgd.objectives import Output, Requires
from dgd.train.group import Group
from dgd.train.step import Plan, losses, train_epoch
from tests.helpers import digits_cells, seeds, train_loader

CPU = torch.device("cpu")


def group_of(cell, prepared) -> Group:
    return Group(cell, data.load(prepared), [], CPU)


# ------------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("peers", "turns", "same_batch", "own_stream"),
    [
        ("", [[0], [1], [2]], False, "dropout"),
        ("own", [[0], [1], [2]], False, "terms"),
        ("turns", [[0], [1], [2]], True, "terms"),
        ("together", [[0, 1, 2]], True, "terms"),
    ],
)
def test_a_plan_for_each_order_of_peers(peers, turns, same_batch, own_stream):
    plan = Plan.of(Requires(peers=peers), 3)
    assert [list(turn) for turn in plan.turns] == turns
    assert (plan.same_batch, plan.own_stream) == (same_batch, own_stream)


def test_a_plan_prepares_what_terms_require():
    for input_gradient in (False, True):
        inputs = {"image": torch.zeros(2, 1, 4, 4)}
        Plan.of(Requires(input_gradient=input_gradient), 1).prepare(inputs)
        assert inputs["image"].requires_grad is input_gradient
    assert [Plan.of(Requires(teacher=mode), 1).seed_teachers for mode in ("", "eval", "train")] == [False, False, True]


ORDERS = {"same": "together", "turns": "turns", "own": "own"}


def mutual(batches, prepared, networks=3, **recipe) -> tuple[Group, object]:
    (cell,) = digits_cells(
        [{"m": {"base": "dml", "networks": networks, "objective": {"ce": 1.0, "mutual": {"batches": batches}}}}],
        recipe={"precision": "fp32", "lr": 0.05, **recipe},
    )
    return group_of(cell, prepared), train_loader(cell, prepared)


@pytest.mark.parametrize("batches", ORDERS)
def test_members_see_all_others_and_the_batches_of_their_order(few_digits, batches):
    """What a step gives to each member's objective, in the order in which they learn."""
    group, loader = mutual(batches, few_digits)
    seen = []
    for k, member in enumerate(group.members):
        member.objective.register_forward_pre_hook(lambda _, given, k=k: seen.append((k, *given)))
    train_epoch(group, loader, 0)
    assert [k for k, _ in seen] == [0, 1, 2] * len(loader)
    assert all(sorted(batch.peers) == [j for j in range(3) if j != k] for k, batch in seen)
    assert not any(peer.logits.requires_grad for _, batch in seen for peer in batch.peers.values())
    for step in range(len(loader)):
        first, second, third = (batch.index for _, batch in seen[3 * step : 3 * step + 3])
        assert torch.equal(first, second) is torch.equal(second, third) is (batches != "own")
    # With `together` the outputs are of before the step; in turns the second sees what the first one has become.
    (_, one), (_, two), _ = seen[:3]
    if batches == "same":
        assert torch.equal(two.peers[0].logits, one.own.logits)
    else:
        assert not torch.equal(two.peers[0].logits, one.own.logits)


@pytest.mark.parametrize("batches", ["turns", "own"])
def test_members_that_are_only_read_keep_their_batch_statistics(few_digits, batches):
    """A member's batch norms move in its own turn alone: once for each of its batches."""
    group, loader = mutual(batches, few_digits, lr=1e-9)
    before = [{key: value.clone() for key, value in net.named_buffers()} for net in group.networks]
    group.members.train()
    batch = next(iter(loader.batches()))
    sums = torch.zeros(3, 4)
    turn = group.plan.turns[0]
    for _, loss in losses(group, turn, batch, seeds(group), sums):
        loss.backward()
    own, *others = (dict(net.named_buffers()) for net in group.networks)
    assert not torch.equal(own["bn1.running_mean"], before[0]["bn1.running_mean"])
    for found, old in zip(others, before[1:], strict=True):
        statistics = [key for key in old if key.endswith(("running_mean", "running_var"))]
        assert statistics
        assert all(torch.equal(found[key], old[key]) for key in statistics)
    # Over an epoch they are those of a member that learns alone, since nothing moves its weights here.
    alone, loader = group_of(replace(group.cell, networks=1, objective={"ce": {"weight": 1.0}}), few_digits), loader
    group, _ = mutual(batches, few_digits, lr=1e-9)
    for learns in (group, alone):
        train_epoch(learns, loader, 0)
    one, other = (dict(learns.networks[0].named_buffers()) for learns in (group, alone))
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one if "running" in key)


# ------------------------------------------------------------------------------------------- the time within an epoch


def test_a_rate_is_that_of_its_step(few_digits):
    """A cosine moves within an epoch: each step has the rate of its own time, as torch's schedule by steps has it."""
    (cell,) = digits_cells(["baseline"], recipe={"schedule": "cosine", "epochs": 3})
    group, loader = group_of(cell, few_digits), train_loader(cell, few_digits)
    (optimiser,) = group.optimisers[0]
    rates, plain = [], torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cell.recipe.lr)
    optimiser.register_step_pre_hook(lambda optimiser, *_: rates.append(float(optimiser.param_groups[0]["lr"])))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(plain, 3 * len(loader))
    expected = []
    for epoch in range(3):
        train_epoch(group, loader, epoch)
        for _ in range(len(loader)):
            expected.append(plain.param_groups[0]["lr"])
            plain.step()
            schedule.step()
    assert len(loader) == 3
    assert rates == pytest.approx(expected, abs=1e-9)
    assert len(set(rates)) == 9


def test_terms_know_the_epoch(few_digits):
    group, loader = mutual("own", few_digits)
    told = []
    for k, member in enumerate(group.members):
        member.objective.terms["mutual"].ramp = lambda epoch, k=k: told.append((k, epoch)) or epoch / 4
    for epoch in (0, 2):
        train_epoch(group, loader, epoch)
        assert [float(member.objective.terms["mutual"].factor) for member in group.members] == [epoch / 4] * 3
    assert told == [(k, epoch) for epoch in (0, 2) for k in range(3)]


def test_an_output_without_gradient_has_the_same_numbers():
    stage = torch.randn(2, 3, 4, 4, requires_grad=True)
    logits, pooled = torch.randn(2, 5, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    value = torch.randn(2, requires_grad=True)
    output = Output(logits, [stage], [2 * stage], pooled, heads={"half": Output(value=value)})
    plain = output.detach()
    tensors = [plain.logits, *plain.stages, *plain.before, plain.pooled, plain.heads["half"].answer]
    assert not any(tensor.requires_grad for tensor in tensors)
    for one, other in zip(tensors, [logits, stage, 2 * stage, pooled, value], strict=True):
        assert torch.equal(one, other)
    assert plain.answer is plain.logits
    assert output.logits.requires_grad
