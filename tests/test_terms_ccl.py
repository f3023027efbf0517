"""Compositional contrastive learning: values, gradients and steps of the authors' own functions, and what they leave open."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dgd.objectives import Batch, Objective, Output, Setting
from dgd.objectives.ccl import Composition, CompositionalContrastive, both_ways, contrast, half_jeffreys, losses

GOLDEN = json.loads((Path(__file__).parent / "golden-ccl.json").read_text())["ccl"]
EVERY = torch.ones(8, dtype=torch.bool)
LABELS = torch.arange(8) % 4
CLOSE = {"rel": 2e-8, "abs": 1e-9}  # the file is rounded


def fill(number: int, *shape: int, fan_in: int = 1) -> torch.Tensor:
    size = torch.Size(shape).numel()
    return (torch.sin(0.7 * torch.arange(size, dtype=torch.float64) + 0.1 * number) / fan_in**0.5).reshape(shape)


def filled(layer: nn.Linear, weight: int) -> None:
    layer.double()
    with torch.no_grad():
        layer.weight.copy_(fill(weight, *layer.weight.shape, fan_in=layer.in_features))
        layer.bias.copy_(fill(weight + 1, *layer.bias.shape, fan_in=layer.in_features))


def composition(first: int) -> Composition:
    made = Composition(16, 4)
    filled(made.mlp, first)
    filled(made.fc, first + 2)
    return made


V, A, I = (fill(number, 8, 16) for number in range(3))  # noqa: E741


def classifier() -> nn.Linear:
    made = nn.Linear(16, 4)
    filled(made, 3)
    return made


@pytest.mark.parametrize("tau", [0.5, 0.1])
def test_the_contrast_is_the_authors(tau):
    golden = GOLDEN[f"nce_tau{tau}"]
    inputs = {"v": V.clone().requires_grad_(), "a": A.clone().requires_grad_(), "i": I}
    for pair in ("v,a", "a,v", "v,i", "v,v"):
        one, other = pair.split(",")
        assert contrast(inputs[one], inputs[other], LABELS, tau, EVERY).item() == pytest.approx(golden[pair], **CLOSE)
    contrast(inputs["v"], inputs["a"], LABELS, tau, EVERY).backward()
    assert inputs["v"].grad.norm().item() == pytest.approx(golden["gradnorm first arg of v,a"], **CLOSE)
    assert inputs["a"].grad.norm().item() == pytest.approx(golden["gradnorm second arg of v,a"], **CLOSE)


def test_the_composition_is_the_authors():
    golden, module = GOLDEN["composition"], composition(5)
    feature, logits = module(A, V)
    assert feature.norm().item() == pytest.approx(golden["feature_norm"], **CLOSE)
    assert feature[0, :4].tolist() == pytest.approx(golden["feature_row0_first4"], **CLOSE)
    assert logits[0].tolist() == pytest.approx(golden["logits_row0"], **CLOSE)
    assert classifier()(V)[0].tolist() == pytest.approx(golden["video_logits_row0"], **CLOSE)
    assert torch.equal(Composition(16, 4, residual=False)(A.float(), V.float())[0], A.float())


def test_the_divergence_is_the_authors_and_no_jensen_shannon():
    golden = GOLDEN["jsd_weight0.5"]
    own, theirs = classifier()(V).detach().requires_grad_(), composition(5)(A, V)[1].detach().requires_grad_()
    found = half_jeffreys(own, theirs, EVERY)
    found.backward()
    assert found.item() == pytest.approx(golden["value"], **CLOSE)
    assert own.grad.norm().item() == pytest.approx(golden["gradnorm_video_logits"], **CLOSE)
    assert theirs.grad.norm().item() == pytest.approx(golden["gradnorm_comp_logits"], **CLOSE)
    p, q = torch.tensor([[60.0, 0, 0, 0]]), torch.tensor([[0.0, 60, 0, 0]])
    # Jensen-Shannon's is at most log 2.
    assert half_jeffreys(p.double(), q.double(), EVERY[:1]).item() == pytest.approx(GOLDEN["jsd_saturated"]["value_weight0.5"])
    far = half_jeffreys(1e4 * p, 1e4 * q, EVERY[:1])
    assert far.isfinite()


def test_both_losses_are_the_authors():
    for name, feature, first, tau in (("audio_terms_tau0.5", A, 5, 0.5), ("image_terms_tau0.1", I, 9, 0.1)):
        golden, module, logits = GOLDEN[name], composition(first), classifier()(V)
        kind = "a" if feature is A else "i"
        composed = module(feature, V)[0]
        assert both_ways(V, composed, LABELS, tau, EVERY).item() == pytest.approx(golden[f"C(v,{kind}v)"], **CLOSE)
        assert both_ways(V, feature, LABELS, tau, EVERY).item() == pytest.approx(golden[f"C(v,{kind})"], **CLOSE)
        network, own = losses(V, logits, feature, LABELS, module, tau, EVERY)
        assert network.item() + F.cross_entropy(logits, LABELS).item() == pytest.approx(golden["L_video"], **CLOSE)
        assert own.item() == pytest.approx(golden["L_composition"], **CLOSE)


def trained(name: str) -> dict[str, float]:
    """The norms that the authors' epoch functions give: of parameters and last gradients after some steps of SGD."""
    _, kinds, *rest = name.split("_")
    features, modules, head = {"a": A.clone(), "i": I}, {"a": composition(5), "i": composition(9)}, classifier()
    if "masked" in rest:
        features["a"][[2, 5]] = 0
    own = nn.Parameter(V.clone())
    optimiser = torch.optim.SGD(
        [own, *head.parameters(), *(p for module in modules.values() for p in module.parameters())],
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
    )
    for _ in range(int(rest[-1].removeprefix("steps"))):
        optimiser.zero_grad()
        logits = head(own)
        total = F.cross_entropy(logits, LABELS)
        for kind in kinds:
            tau, kept = {"a": 0.5, "i": 0.1}[kind], features[kind].sum(1) != 0
            network, module = losses(own, logits, features[kind], LABELS, modules[kind], tau, kept)
            total = total + (0.5 if len(kinds) > 1 else 1) * network + module
        total.backward()
        optimiser.step()
    parts = {"video.feat": own, "video.fc.weight": head.weight, "video.fc.bias": head.bias}
    for kind, word in (("a", "comp_audio"), ("i", "comp_image")):
        parts |= {f"{word}.{key}": value for key, value in modules[kind].named_parameters()}
    found = {f"param {key}": value.norm().item() for key, value in parts.items()}
    return found | {f"grad {key}": value.grad.norm().item() for key, value in parts.items() if value.grad is not None}


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("train_") and "steps" in name])
def test_gradients_go_where_the_authors_send_them_and_steps_are_theirs(name):
    """The network's by its own loss only, the composition modules' by both: in no other way are the norms these."""
    golden = GOLDEN[name]
    found = trained(name)
    assert {key for key in golden if key.startswith("grad ")} == {key for key in found if key.startswith("grad ")}
    for key, value in golden.items():
        assert found[key] == pytest.approx(value, **CLOSE), key


def term(teachers: int = 1, width: int = 16, **options) -> tuple[CompositionalContrastive, Batch]:
    """A term and its batch of eight examples; the teachers' features are A and I in turn."""
    torch.manual_seed(0)
    theirs = [Output(logits=torch.zeros(8, 4), pooled=feature.float()) for feature in (A, I)[:teachers]]
    own = Output(logits=classifier()(V).float().detach(), pooled=V.float()[:, :width].contiguous())
    batch = Batch({}, LABELS, torch.arange(8), own, theirs)
    made = CompositionalContrastive(**options)
    made.setup(batch, Setting(network=0, networks=1, labels=LABELS))
    return made, batch


def test_the_term_is_the_sum_of_both_losses_over_its_teachers():
    for teachers, factor in ((1, 1.0), (2, 0.5)):
        made, batch = term(teachers)
        wanted = 0.0
        for teacher, module in zip(batch.teachers, made.compositions):
            network, own = losses(batch.own.pooled, batch.own.logits, teacher.pooled, LABELS, module, 0.5, EVERY)
            wanted += factor * network + own
        assert made(batch).item() == pytest.approx(wanted.item())
    assert term(2, together=1.0)[0](batch).item() > wanted.item()


@pytest.mark.parametrize("options", [{}, {"compose": False}, {"shuffle": True}, {"unpaired": 0.5}])
def test_a_batch_of_one_class_or_without_partners_has_a_finite_loss_and_gradient(options):
    made, batch = term(**options)
    batch.own.pooled.requires_grad_()
    batch.labels = torch.zeros(8, dtype=torch.int64)
    loss = made(batch)
    loss.backward()
    assert loss.item() > 0
    assert batch.own.pooled.grad.isfinite().all()
    batch.own.pooled.grad = None
    batch.teachers[0].pooled.zero_()
    loss = made(batch)
    loss.backward()
    assert loss.item() == 0
    assert not batch.own.pooled.grad.any()


def test_an_example_without_a_partner_changes_nothing():
    """Neither as a row nor as a column: the loss of six is that of eight of which two have none."""
    made, batch = term()
    batch.teachers[0].pooled[[2, 5]] = 0
    found = made(batch).item()
    rest = torch.tensor([0, 1, 3, 4, 6, 7])
    own = Output(logits=batch.own.logits[rest], pooled=batch.own.pooled[rest])
    teacher = Output(logits=torch.zeros(6, 4), pooled=batch.teachers[0].pooled[rest])
    assert made(Batch({}, LABELS[rest], rest, own, [teacher])).item() == pytest.approx(found)


def test_the_unpaired_share_is_fixed_and_is_of_the_training_split():
    made, batch = term(unpaired=0.25)
    assert made.paired.sum() == 6
    whole = term()[0]
    whole.load_state_dict(made.state_dict() | {"paired": EVERY})
    assert made(batch).item() != whole(batch).item()
    assert "paired" in made.state_dict()


def test_shuffling_moves_the_partners_and_draws_anew():
    made, batch = term(shuffle=True)
    assert len({made(batch).item() for _ in range(5)}) > 1
    plain, batch = term()
    assert len({plain(batch).item() for _ in range(2)}) == 1


def test_a_feature_of_another_width_learns_through_a_layer_of_the_networks():
    made, batch = term(width=5)
    batch.own.pooled.requires_grad_()
    made(batch).backward()
    assert made.projections[0].weight.grad.abs().sum() > 0
    assert batch.own.pooled.grad.abs().sum() > 0
    grouped = {id(parameter) for group in made.groups() for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in made.compositions.parameters()}
    assert not made.groups()[0]["scheduled"]


@pytest.mark.parametrize(("option", "value"), [("tau", 0.0), ("unpaired", 1.0), ("unpaired", -0.1)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"ccl: {option} is {value}; it must be"):
        Objective({"ccl": {option: value}})
